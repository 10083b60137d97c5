"""Versions and approved schemas on the bus: what is pinned, who is out of range, and how they find each other again."""

from __future__ import annotations

import asyncio

import pytest

from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.spec.models import Contract
from backend_core.errors import ConflictError
from core_runtime.rules.contracts import Terms
from tests.support.raw_agent import CALL, ERROR, RESULT, eventually, issue_codes, rig

NUMBER = {"type": "integer"}


def provider(version: str = "1.2.0", schema: dict | None = None) -> Terms:
    return Terms({"k": Contract(version, freeze(schema))})


def user(wanted: str) -> Terms:
    return Terms(ranges={"k": wanted})


def test_the_declared_schema_is_checked_when_none_is_registered(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=provider(schema=NUMBER))
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            assert r.registry.get_schema("k") == {"input": NUMBER, "output": None}
            assert (await b.answer(b.call("k", "text")))[2] == "schema"
            asked = b.call("k", 7)
            a.result((await a.until(CALL))[1], 8)
            assert (await b.answer(asked))[4] == 8

    asyncio.run(main())


def test_versions_in_and_out_of_range_and_the_way_back(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            b, _ = await r.agent("b", calls={"k"}, terms=user("^1"))
            a, session = await r.agent("a", provides={"k"}, terms=provider("2.0.0"))
            await a.registered("k")
            refused = await b.answer(b.call("k"))
            assert refused[0] == ERROR
            assert refused[2] == "incompatible"
            assert refused[4] == "'k' is needed in version ^1, but the Pack 'a' states version 2.0.0."
            assert "k" not in b.mirrors
            await eventually(lambda: "interface_incompatible" in issue_codes(r))
            session.abort("ends")
            await eventually(lambda: "interface_incompatible" not in issue_codes(r))
            a2, _ = await r.agent("a", 2, provides={"k"}, terms=provider("1.9.0"))
            await a2.registered("k")
            await b.mirror("k", lambda frame: len(frame[3]) == 1)
            asked = b.call("k")
            a2.result((await a2.until(CALL))[1], "late")
            assert (await b.answer(asked))[:1] == [RESULT]

    asyncio.run(main())


def test_who_states_no_range_takes_any_version(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=provider("7.0.0"))
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k")
            a.result((await a.until(CALL))[1], 1)
            assert (await b.answer(asked))[0] == RESULT

    asyncio.run(main())


def test_one_of_several_providers_is_shown_when_only_it_is_in_range(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=provider("1.0.0"))
            c, _ = await r.agent("c", provides={"k"}, terms=provider("2.0.0"))
            b, _ = await r.agent("b", calls={"k"}, terms=user("^2"))
            r.registry.set_owner("k", "c")
            await a.registered("k")
            await c.registered("k")
            frame = await b.mirror("k", lambda found: bool(found[3]))
            assert [entry["pack"] for entry in frame[3]] == ["c"]

    asyncio.run(main())


def test_a_flow_that_acts_for_a_pack_is_held_to_its_range(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=provider("2.0.0"))
            await r.agent("b", calls={"k"}, terms=user("^1"))
            await a.registered("k")
            with pytest.raises(ConflictError) as caught:
                await r.bus.call("k", caller="b")
            assert caught.value.code == "incompatible"
            call = asyncio.ensure_future(r.bus.call("k"))
            a.result((await a.until(CALL))[1], "the operator may")
            assert await call == "the operator may"

    asyncio.run(main())


def test_being_out_of_range_spends_no_edge_and_tells_strangers_nothing(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=provider("2.0.0"))
            b, _ = await r.agent("b", terms=user("^1"))
            await a.registered("k")
            spent: list[str] = []
            r.grants["b"].may_call = lambda key: spent.append(key) or False  # type: ignore[method-assign]
            assert (await b.answer(b.call("k")))[2] == "denied"
            r.grants["b"].calls = {"k"}
            assert (await b.answer(b.call("k")))[2] == "incompatible"
            assert spent == []

    asyncio.run(main())

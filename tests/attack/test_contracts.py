"""Attacks on contracts: a Pack says one thing at approval and another when it runs, or reaches what it never asked for."""

from __future__ import annotations

import asyncio
import json

import pytest

from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.spec.models import Contract
from backend_core.errors import AuthorError, ConflictError
from core_runtime.rules.approval import State
from core_runtime.rules.contracts import Terms
from tests.support.raw_agent import CALL, ERROR, eventually, issue_codes, reference, rig
from tests.support.trust_home import TrustHome

NARROW = {"type": "object", "properties": {"path": {"enum": ["a", "b"]}}, "additionalProperties": False}
WIDE = {"type": "object"}
PINNED = Terms({"k": Contract("1.0.0", freeze(NARROW), freeze({"type": "string"}))})


@pytest.fixture
def home(tmp_path):
    return TrustHome(tmp_path)


def promise(schema: dict, version: str = "1.0.0") -> dict:
    return {"key": "service.alpha", "version": version, "input": schema}


def test_a_schema_changed_after_approval_is_another_pack(home):
    root = home.approved(provides=[promise(NARROW)])
    shown = home.approvals.review("alpha")
    assert shown.contracts["service.alpha"]["input"] == NARROW
    home.start()
    manifest = root / "backend/components/main/manifest.json"
    manifest.write_text(manifest.read_text().replace('["a", "b"]', '["a", "b", "../secret"]'))
    found = home.scan()
    assert found.state is State.MODIFIED
    assert found.changed_paths == ("backend/components/main/manifest.json",)
    with pytest.raises(ConflictError):
        home.approve(digest=shown.digest)
    (change,) = home.approvals.review("alpha").contract_changes or ()
    assert [tuple(part.values()) for part in change.parts] == [
        ("input", "/properties/path/enum", '["a", "b"]', '["a", "b", "../secret"]')
    ]
    # what the approved copy says has not moved: it is read from the store
    assert home.approvals.review("alpha").contracts["service.alpha"]["input"] != NARROW


def test_an_update_that_widens_a_schema_shows_it_before_the_decision(home, tmp_path):
    home.approved(provides=[promise(NARROW)])
    home.approved("beta", provides=["service.beta"], requires=[{"key": "service.alpha", "version": "^1"}])
    newer = TrustHome(tmp_path / "elsewhere").add(provides=[promise(WIDE, "2.0.0")], version="2.0.0")
    home.approvals.add(newer, actor="tester")
    review = home.approvals.review_update("alpha")
    document = json.loads(json.dumps(review.as_dict()))
    (change,) = document["contract_changes"]
    assert (change["before"], change["after"]) == ("1.0.0", "2.0.0")
    assert {part["pointer"] for part in change["parts"]} == {"/additionalProperties", "/properties"}
    assert document["unsuited"] == {
        "beta": ["'service.alpha' is needed in version ^1, but the Pack 'alpha' states version 2.0.0."]
    }


def test_a_schema_that_the_host_would_not_use_is_refused_at_review(home):
    bomb = {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}
    home.add(provides=[promise(bomb)])
    with pytest.raises(AuthorError) as caught:
        home.approvals.review("alpha")
    assert caught.value.code == "contract_invalid"
    with pytest.raises(AuthorError):
        home.approve()
    home.add(provides=[promise({"$ref": "https://elsewhere.example/schema"})])
    with pytest.raises(AuthorError, match="must stay inside"):
        home.approve()
    many = [{"key": f"service.k{n}", "input": WIDE, "output": WIDE} for n in range(101)]
    home.add(provides=many)
    with pytest.raises(AuthorError, match="202 schemas"):
        home.approve()


@pytest.mark.parametrize(
    "schemas",
    [
        {"input": WIDE, "output": {"type": "string"}},
        {"input": {}, "output": None},
        {"input": {**NARROW, "$comment": "the same, but for this"}},
        {"input": NARROW, "output": {"type": ["string", "null"]}},
        {"input": True},
    ],
)
def test_a_provider_that_registers_another_schema_is_refused_and_told_of(tmp_path, schemas):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=PINNED)
            answer = await a.answer(a.register("k", schemas=schemas))
            assert answer[0] == ERROR
            assert answer[2] == "contract"
            assert r.registry.slot("k") is None
            (issue,) = [issue for issue in r.diagnostics.issues("a") if issue.code == "contract_broken"]
            assert "schema is another" in issue.detail

    asyncio.run(main())


def test_no_other_form_of_registration_gets_around_the_approved_schema(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, terms=PINNED)
            b, _ = await r.agent("b", calls={"k"})
            # data, and callables hidden inside of data
            assert (await a.answer(a.register("k", None, value={"any": "thing"})))[2] == "contract"
            number = a.next_id()
            options = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}
            a.send(32, number, "k", options, None, None, [[0, 9]], {"fn": reference(0)})
            assert (await a.answer(number))[2] == "contract"
            # an override, a ttl, if_absent, and dropping the schemas
            await a.registered("k", 1)
            await a.registered("k", 2, override=True)
            await a.registered("k", 3, ttl_ms=60_000, override=True)
            for entry in r.registry.slot("k").entries:
                assert (entry.input_schema, entry.version) == (NARROW, "1.0.0")
            refused = await b.answer(b.call("k", {"path": "../secret"}))
            assert refused[2] == "schema"
            assert "$.path" in refused[4]
            asked = b.call("k", {"path": "a"})
            a.result((await a.until(CALL))[1], 5)
            assert (await b.answer(asked))[2] == "schema"

    asyncio.run(main())


def test_a_caller_out_of_range_reaches_nothing_by_key_by_number_or_by_looking(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            needs = Terms(ranges={"k": "^1"})
            b, _ = await r.agent("b", calls={"k"}, terms=needs)
            first, session = await r.agent("a", provides={"k"}, terms=PINNED)
            await first.registered("k")
            frame = await b.mirror("k", lambda found: bool(found[3]))
            number = frame[4][0][1]
            asked = b.call(number, {"path": "a"})
            first.result((await first.until(CALL))[1], "in range")
            assert (await b.answer(asked))[4] == "in range"
            # the same Pack comes back in a version that the caller does not take
            session.abort("ends")
            second, _ = await r.agent("a", 2, provides={"k"}, terms=Terms({"k": Contract("2.0.0")}))
            await second.registered("k")
            await b.mirror("k", lambda found: not found[3])
            await eventually(lambda: "interface_incompatible" in issue_codes(r))
            assert (await b.answer(b.call("k", {"path": "a"})))[2] == "incompatible"
            assert (await b.answer(b.call(number, {"path": "a"})))[2] == "dead_reference"

    asyncio.run(main())

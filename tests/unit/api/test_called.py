"""What the operator called is on record: once at once, then counted, without anything that went in or came out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import PackError
from core_runtime.api import called, endpoints_interfaces
from core_runtime.api.called import CALLED, MOST, OTHERS, Called, Enough
from core_runtime.drivers.peer import own_uid
from tests.support.fake_host_api import FakePacks, fake_host, pack_failure
from tests.support.http_faces import Served, ask, settings_in
from tests.support.raw_agent import eventually
from tests.unit.api.test_routes import check, events

JSON = {"Content-Type": "application/json"}
ACTOR = f"operator:uid:{own_uid()}"


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> FakePacks:
    fake = FakePacks()
    monkeypatch.setattr(endpoints_interfaces, "packs", fake)
    return fake


def fail(_args: Any) -> None:
    raise pack_failure()


async def call(served: Served, key: str, args: Any) -> int:
    body = json.dumps({"args": args}).encode()
    return (await ask(served, "POST", f"/api/interfaces/{key}/call", body, **JSON))[0]


def recording(test: Callable[[Called, list[dict[str, Any]]], Any], tmp_path: Path, window_s: float = 3600.0) -> None:
    async def main() -> None:
        host = fake_host(settings_in(tmp_path))
        record = Called(host, window_s=window_s)
        try:
            await test(record, host.audit.records)
        finally:
            await record.close()

    asyncio.run(main())


def outcomes(records: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    return sorted((one["key"], one["outcome"], one["count"]) for one in records)


def test_calls_over_http_are_on_record_with_who_which_and_how_they_came_out(tmp_path: Path, packs: FakePacks) -> None:
    packs.keys.update({"service.hello": lambda _args: "the-answer", "service.broken": fail})

    async def test(served: Served) -> None:
        records = served.api.host.audit.records
        for _ in range(3):
            assert await call(served, "service.hello", "the-argument") == 200
        assert await call(served, "service.broken", "the-argument") == 502
        assert await call(served, "no.such", "the-argument") == 404
        await events(served, "/api/interfaces/service.broken/call", b'{"args": "the-argument"}')
        await eventually(lambda: len(records) == 3)
        assert outcomes(records) == [("no.such", "missing", 1), ("service.broken", "error/ValueError", 1), ("service.hello", "ok", 1)]
        await served.api.called.close()
        assert outcomes(records[3:]) == [("service.broken", "error/ValueError", 1), ("service.hello", "ok", 2)]
        assert {(one["event"], one["actor"], one["sync"]) for one in records} == {(CALLED, ACTOR, False)}
        assert {one.get("pack_id") for one in records if one["key"] == "service.hello"} == {"p"}
        text = json.dumps(records)
        assert [word for word in ("the-argument", "the-answer", "boom") if word in text] == []

    check(tmp_path, test)


def test_a_body_that_is_refused_is_no_call(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        assert (await ask(served, "POST", "/api/interfaces/service.hello/call", b"{", **JSON))[0] == 400
        await served.api.called.close()
        assert served.api.host.audit.records == []

    check(tmp_path, test)


def test_who_takes_the_result_and_goes_has_cancelled_nothing(tmp_path: Path, packs: FakePacks) -> None:
    packs.keys["service.hello"] = lambda _args: 7

    async def test(served: Served) -> None:
        answers = endpoints_interfaces.answers(served.api, "service.hello", endpoints_interfaces.Invoke(), ACTOR)
        async with contextlib.aclosing(answers) as found:
            assert await anext(found) == ("result", 7)
        await served.api.called.close()
        assert outcomes(served.api.host.audit.records) == [("service.hello", "ok", 1)]

    check(tmp_path, test)


def test_a_stream_is_on_record_when_it_ended_or_its_reader_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def items(*_args: Any, **_more: Any) -> AsyncIterator[int]:
        async def count() -> AsyncIterator[int]:
            for number in range(3):
                yield number

        return count()

    async def test(served: Served) -> None:
        monkeypatch.setattr(endpoints_interfaces.packs, "call", items)
        records = served.api.host.audit.records
        for key, stop in (("a.whole", 9), ("a.left", 1)):
            answers = endpoints_interfaces.answers(served.api, key, endpoints_interfaces.Invoke(), ACTOR)
            async with contextlib.aclosing(answers) as found:
                async for _kind, value in found:
                    assert not records or records[-1]["key"] != key
                    if value == stop:
                        break
        await served.api.called.close()
        assert outcomes(records) == [("a.left", "cancelled", 1), ("a.whole", "ok", 1)]

    check(tmp_path, test)


def test_what_follows_within_a_window_is_one_record_at_its_end(tmp_path: Path) -> None:
    async def test(record: Called, records: list[dict[str, Any]]) -> None:
        for outcome in ("ok", "error/A", "error/B", "ok", "error/C", "ok"):
            record.ended("me", "a.key", outcome)
        await eventually(lambda: len(records) == 4)
        assert outcomes(records) == [("a.key", "error/A", 1), ("a.key", "error/C", 2), ("a.key", "ok", 1), ("a.key", "ok", 2)]
        await eventually(lambda: not record._counted)
        record.ended("me", "a.key", "ok")
        await eventually(lambda: len(records) == 5)
        assert records[-1]["count"] == 1, "after a quiet window a call is on record at once again"

    recording(test, tmp_path, window_s=0.2)


def test_a_flood_of_calls_keys_and_types_of_failures_is_a_bounded_number_of_records(tmp_path: Path) -> None:
    async def test(record: Called, records: list[dict[str, Any]]) -> None:
        for number in range(20_000):
            record.ended("me", f"key.{number}", "ok" if number % 2 else f"error/{number}{'x' * 1000}")
        await record.close()
        assert len(records) <= 2 * (MOST + 2)
        assert sum(one["count"] for one in records) == 20_000, "and each call is counted"
        assert {one["count"] for one in records if one["key"] != OTHERS} == {1}
        assert {"pack_id" in one for one in records if one["key"] == OTHERS} == {False}, "many Packs may be behind it"
        assert max(len(one["outcome"]) for one in records) == called.OUTCOME_CHARS

    recording(test, tmp_path)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PackError("x", code="timeout"), "timeout"), (asyncio.CancelledError(), "cancelled"), (Enough(), "cut"),
        (RuntimeError("secret"), "internal"),
        *((PackError("a Pack says", code=word), f"error/{word}") for word in ("ok", "cancelled", "cut", "stopping", "internal")),
    ],
)  # fmt: skip
def test_whatever_ends_a_call_passes_by_and_is_its_outcome(tmp_path: Path, error: BaseException, outcome: str) -> None:
    async def test(record: Called, records: list[dict[str, Any]]) -> None:
        with pytest.raises(type(error)), record.by("me", "a.key"):
            raise error
        await record.close()
        assert outcomes(records) == [("a.key", outcome, 1)]

    recording(test, tmp_path)


def test_a_call_that_ends_with_the_host_was_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def endless(*_args: Any, **_more: Any) -> AsyncIterator[int]:
        async def count() -> AsyncIterator[int]:
            while True:
                yield 1
                await asyncio.sleep(0.01)

        return count()

    async def test(served: Served) -> None:
        monkeypatch.setattr(endpoints_interfaces.packs, "call", endless)
        reading = asyncio.ensure_future(events(served, "/api/interfaces/a.stream/call", b"{}"))
        await eventually(lambda: served.api.streams._running)
        served.api.streams.closing.set()
        await reading
        await eventually(lambda: served.api.host.audit.records)
        assert outcomes(served.api.host.audit.records) == [("a.stream", "stopping", 1)]

    check(tmp_path, test)

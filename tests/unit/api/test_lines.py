"""A body of lines is the argument of a call as a stream: over the real sockets and gate, with a host in memory behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import RumiError
from core_runtime.api import endpoints_interfaces
from core_runtime.rules.identity import BODY_LIMIT_BYTES
from tests.support.fake_host_api import FakePacks, pack_failure
from tests.support.http_faces import Served, ask, connect, read_answer
from tests.unit.api.test_routes import check, request, until

LINES = {"Content-Type": "application/x-ndjson"}
CHUNKED = "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n"


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> FakePacks:
    fake = FakePacks()
    monkeypatch.setattr(endpoints_interfaces, "packs", fake)

    async def listed(items: AsyncIterator[Any]) -> list[Any]:
        return [item async for item in items]

    async def doubled(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for item in items:
            yield item * 2

    async def first(items: AsyncIterator[Any]) -> Any:
        return await anext(items)

    async def fails(items: AsyncIterator[Any]) -> Any:
        await anext(items)
        raise pack_failure()

    fake.keys.update(list=listed, double=doubled, first=first, fails=fails)
    return fake


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def called(served: Served, key: str, body: bytes, query: str = "") -> tuple[int, Any]:
    status, answer = await ask(served, "POST", f"/api/interfaces/{key}/call{query}", body, **LINES)
    return status, answer["data"]["result"] if answer["success"] else answer["code"]


def test_each_line_is_an_item(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        assert await called(served, "list", b'1\n{"a": [2]}\r\n\n"x"') == (200, [1, {"a": [2]}, "x"])
        assert await called(served, "list", b"") == (200, [])
        assert await called(served, "list", b"\n \n") == (200, [])
        assert await called(served, "list", b"1\n" * 5000, "?timeout=7") == (200, [1] * 5000)
        assert packs.asked[-1][3] == 7
        assert await called(served, "double", b"1\n2\n") == (200, [2, 4])
        body = b"".join(json.dumps("x" * 60_000).encode() + b"\n" for _ in range(50))  # longer than any other body may be
        assert (await called(served, "list", body))[1] == ["x" * 60_000] * 50

    check(tmp_path, test)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"1\n{\n3\n", (400, "body_invalid")),
        (b"1\n2\nnot json", (400, "body_invalid")),
        (b'1\n{"a":1,"a":2}\n', (400, "body_invalid")),
        (b"1\n" + b"[" * 500 + b"\n", (400, "body_invalid")),
        (b'1\n"' + b"x" * BODY_LIMIT_BYTES + b'"\n2\n', (413, "too_large")),
        (b'"' + b"x" * BODY_LIMIT_BYTES, (413, "too_large")),
    ],
)  # fmt: skip
def test_a_line_that_is_none_is_the_clients_fault_whatever_comes_of_the_call(tmp_path, packs, body, expected) -> None:
    async def forgiving(items: AsyncIterator[Any]) -> Any:
        try:
            return [item async for item in items]
        except RumiError:
            return "never mind"

    packs.keys["forgiving"] = forgiving

    async def test(served: Served) -> None:
        assert await called(served, "list", body) == expected
        assert await called(served, "forgiving", body) == expected
        assert served.api.host.diagnostics.issues() == []

    check(tmp_path, test)


def test_a_failure_of_the_call_is_that(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        assert await called(served, "fails", b"1\n2\n") == (502, "error/ValueError")
        assert await called(served, "nobody", b"1\n2\n") == (404, "missing")

    check(tmp_path, test)


def test_who_takes_nothing_more_is_sent_nothing_more(tmp_path: Path, packs: FakePacks) -> None:
    seen = asyncio.Event()

    async def never(items: AsyncIterator[Any]) -> Any:
        await anext(items)
        await seen.wait()

    packs.keys["never"] = never

    async def test(served: Served) -> None:
        _, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/never/call", CHUNKED))
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 256:
                writer.write(chunk(b'"' + b"x" * 65_000 + b'"\n'))
                async with asyncio.timeout(1):
                    await writer.drain()
                sent += 1
        assert sent < 200, "the client was not held back"
        seen.set()
        writer.transport.abort()

    check(tmp_path, test)


def test_an_answer_does_not_wait_for_the_end_of_the_body(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/first/call", CHUNKED) + chunk(b"7\n8\n"))
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["data"]) == (200, {"result": 7})
        writer.close()

    check(tmp_path, test)


def test_items_go_in_and_out_by_turns(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/double/call", CHUNKED + "Accept: text/event-stream\r\n"))
        for number in (1, 20, 300):
            writer.write(chunk(b"%d\n" % number))
            assert b"event: item" in await reader.readuntil(b"data: %d\n\n" % (2 * number))
        writer.write(b"0\r\n\r\n")
        await reader.readuntil(b'event: end\ndata: {"items":3}\n\n')
        writer.close()

        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/double/call", CHUNKED + "Accept: text/event-stream\r\n"))
        writer.write(chunk(b"1\n") + chunk(b"{\n"))
        await reader.readuntil(b"event: error\n")
        assert json.loads((await reader.readline())[6:])["code"] == "body_invalid"
        writer.close()

    check(tmp_path, test)


@pytest.mark.parametrize("more", ["", "Accept: text/event-stream\r\n"])
def test_a_client_that_leaves_cancels_the_call_that_waits_for_its_lines(tmp_path: Path, packs: FakePacks, more: str) -> None:
    async def test(served: Served) -> None:
        _, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/list/call", CHUNKED + more) + chunk(b"1\n"))
        await until(lambda: packs.asked)
        writer.close()
        await asyncio.wait_for(packs.cancelled.wait(), 5)
        await until(lambda: len(served.faces._state.connections) == 0)
        assert served.api.host.diagnostics.issues() == []

    check(tmp_path, test)


def test_other_routes_take_no_lines(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        for path in ("/api/packs/scan", "/api/interfaces/list", "/api/interfaces/a/b/call", "/api/flows/f/run"):
            status, answer = await ask(served, "POST", path, b"1\n", **LINES)
            assert (status, answer["code"]) == (415, "content_type"), path
        status, answer = await ask(served, "POST", "/api/interfaces/list/call", b"1\n", **LINES, Origin="http://elsewhere.example")
        assert (status, answer["code"]) == (403, "cross_site")

    check(tmp_path, test)

"""Every route over the real sockets and gate, with a host in memory behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from core_runtime.api import endpoints_interfaces, endpoints_machine, endpoints_packs, openapi
from core_runtime.api.app import VERSION, build_api, endpoints
from core_runtime.api.context import Api, Phase
from core_runtime.api.envelope import refusal
from core_runtime.pack_api_server import PackApiServer
from core_runtime.rules.approval import State
from tests.support.fake_host_api import FakePacks, Stream, fake_host, pack_failure
from tests.support.http_faces import Recorder, Served, ask, connect, exchange, read_answer, run, settings_in

JSON = {"Content-Type": "application/json"}
EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> FakePacks:
    fake = FakePacks()
    for module in (endpoints_packs, endpoints_machine, endpoints_interfaces):
        monkeypatch.setattr(module, "packs", fake)
    return fake


@contextlib.asynccontextmanager
async def api_at(home: Path) -> AsyncIterator[Served]:
    settings = settings_in(home)
    faces = PackApiServer(settings)
    faces.bind()
    api = Api(fake_host(settings), settings, faces.web_port)
    served = Served(settings, api, faces, Recorder(), Recorder())
    try:
        await faces.serve(api, build_api(api), served.web, lambda scope, refuse: refusal(refuse))
        yield served
    finally:
        await served.close()
        assert not settings.run_dir.exists()


def check(home: Path, test: Any) -> None:
    async def served() -> None:
        async with api_at(home) as api:
            await test(api)

    run(served())


async def data(served: Served, path: str, method: str = "GET", body: Any = None) -> Any:
    raw = None if body is None else json.dumps(body).encode()
    status, answer = await ask(served, method, path, raw, **(JSON if raw else {}))
    assert (status, answer["success"], answer["error"]) == (200, True, None), answer
    return answer["data"]


async def refused(served: Served, path: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str]:
    status, answer = await ask(served, method, path, body, **(JSON if body is not None else {}))
    assert (answer["success"], answer["data"]) == (False, None)
    assert isinstance(answer["error"], str)
    assert isinstance(answer["hint"], str)
    assert isinstance(answer["fields"], dict)
    return status, answer["code"]


def test_packs_in_the_shapes_of_the_specification(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("a")
    packs.add("b", State.RUNNING, approval={"version": "1.0.0"})
    packs.add("broken", State.ERROR, metadata=None, cause="bad_json")

    async def test(served: Served) -> None:
        listed = await data(served, "/api/packs")
        assert [(p["pack_id"], p["status"]) for p in listed] == [("a", "pending"), ("b", "running"), ("broken", "error")]
        assert await data(served, "/api/packs/pending") == ["a"]
        status = await data(served, "/api/packs/b/status")
        assert (status["pack_id"], status["status"], status["approval"]) == ("b", "running", {"version": "1.0.0"})
        scanned = await data(served, "/api/packs/scan", "POST")
        assert (scanned["scanned"], len(scanned["packs"])) == (3, 3)
        assert (await data(served, "/api/packs/p/review"))["isolation"]["level"] == "standard"
        assert (await data(served, "/api/packs/a/logs?lines=1"))["lines"][0]["text"] == "line of a"

    check(tmp_path, test)


def test_pending_reads_the_folder_first(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("late", State.INSTALLED)
    packs.scans_find, packs.known = packs.known, {}

    async def test(served: Served) -> None:
        assert await data(served, "/api/packs/pending") == ["late"]

    check(tmp_path, test)


def test_decisions_carry_the_actor_and_the_digest(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("a")

    async def test(served: Served) -> None:
        approved = await data(served, "/api/packs/a/approve", "POST")
        assert (approved["status"], approved["approval"]) == ("running", {"digest": "sha256:00"})
        await data(served, "/api/packs/a/approve", "POST", {"digest": "sha256:ab", "permissions": []})
        _, first, second = packs.asked[0], packs.asked[0][2], packs.asked[1][2]
        assert first["digest"] is None
        assert first["actor"].startswith("operator:uid:")
        assert (second["digest"], second["permissions"]) == ("sha256:ab", [])
        assert (await data(served, "/api/packs/a/reject", "POST", {"reason": "no"}))["status"] == "blocked"
        assert (await data(served, "/api/packs/a", "DELETE"))["removed"] is True

    check(tmp_path, test)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/packs/x/status"), ("GET", "/api/packs/x/review"), ("GET", "/api/packs/x/logs"), ("POST", "/api/packs/x/approve"), ("POST", "/api/packs/x/reject"), ("DELETE", "/api/packs/x"), ("POST", "/api/containers/x/start"),
     ("POST", "/api/containers/x/stop"), ("DELETE", "/api/containers/x"), ("POST", "/api/privileges/x/grant/notify"), ("POST", "/api/privileges/x/execute/notify"), ("DELETE", "/api/privileges/x/grant/notify")],
)
def test_unknown_and_impossible_ids(tmp_path: Path, packs: FakePacks, method: str, path: str) -> None:
    async def test(served: Served) -> None:
        assert (await refused(served, path, method))[0] == 404
        for odd in ("X", "-a", "a.b", "a" * 65, "a%20b"):
            assert await refused(served, path.replace("/x", f"/{odd}", 1), method) == (400, "pack_id_invalid")

    check(tmp_path, test)


def test_containers_and_docker(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("p", State.APPROVED)
    packs.add("new")

    async def test(served: Served) -> None:
        status = await data(served, "/api/docker/status")
        assert (status["available"], status["required"], status["problem"]) == (False, False, None)
        assert status["isolation"] == {"driver": "embedded", "level": "standard", "source": "measured", "findings": ["no user namespace"]}
        assert [d["reason"] for d in status["drivers"]] == ["no engine answers", None]
        [container] = await data(served, "/api/containers")
        assert (container["id"], container["state"], container["level"], container["pid"]) == ("embedded-p-1", "running", "standard", 42)
        assert container["large_values"] == {"way": "chunks", "detail": "p is a test's"}
        assert (await data(served, "/api/containers/p/start", "POST"))["status"] == "running"
        assert await refused(served, "/api/containers/new/start", "POST") == (403, "not_approved")
        assert (await data(served, "/api/containers/p", "DELETE"))["removed"] == ["embedded-p-1"]
        assert ("stop", "p") in packs.asked
        served.api.host.lost_driver = served.api.host.statuses[0]
        assert (await data(served, "/api/docker/status"))["problem"] == "What isolates Packs does not answer any more"
        served.api.host.isolation = served.api.host.lost_driver = None
        status = await data(served, "/api/docker/status")
        assert (status["required"], status["problem"]) == (True, "Docker is required but not available")

    check(tmp_path, test)


def test_privileges(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("p", State.RUNNING)

    async def test(served: Served) -> None:
        assert await refused(served, "/api/privileges/p/execute/notify", "POST") == (403, "not_granted")
        await data(served, "/api/privileges/p/grant/notify", "POST")
        assert (await data(served, "/api/privileges"))[0]["granted_to"] == ["p"]
        assert (await data(served, "/api/privileges/p/execute/notify", "POST", {"params": {"a": 1}}))["result"] == {"did": {"a": 1}}
        await data(served, "/api/privileges/p/grant/notify", "DELETE")
        assert await refused(served, "/api/privileges/p/execute/notify", "POST") == (403, "not_granted")
        assert (await refused(served, "/api/privileges/p/grant/-rf", "POST"))[0] == 400

    check(tmp_path, test)


def test_calls(tmp_path: Path, packs: FakePacks) -> None:
    packs.keys["service.hello"] = lambda args: {"message": f"Hello, {args.get('name', 'World')}!"}

    async def test(served: Served) -> None:
        assert await data(served, "/api/interfaces/service.hello/call", "POST", {"args": {"name": "Bob"}}) == {"result": {"message": "Hello, Bob!"}}
        assert await data(served, "/api/interfaces/service.hello/call", "POST") == {"result": {"message": "Hello, World!"}}
        await data(served, "/api/interfaces/service.hello/call", "POST", {"args": {}, "timeout": 2})
        assert packs.asked[-1] == ("call", "service.hello", {}, 2)
        assert packs.idempotency_key is None
        await data(served, "/api/interfaces/service.hello/call", "POST", {"args": {}, "idempotency_key": "order-7"})
        assert packs.idempotency_key == "order-7"
        await events(served, "/api/interfaces/service.hello/call", b'{"args": {}, "idempotency_key": "order-8"}')
        assert packs.idempotency_key == "order-8"
        for wrong in (b'""', b'"%b"' % (b"x" * 257), b"7"):
            body = b'{"idempotency_key": %b}' % wrong
            assert await refused(served, "/api/interfaces/service.hello/call", "POST", body) == (400, "body_invalid")
        assert await refused(served, "/api/interfaces/no.such/call", "POST") == (404, "missing")
        assert await refused(served, "/api/interfaces/-x/call", "POST") == (400, "key_invalid")
        assert [entry["key"] for entry in await data(served, "/api/interfaces")] == ["service.hello"]
        assert (await data(served, "/api/interfaces/service.hello"))["owner"] == "p"
        assert (await refused(served, "/api/interfaces/no.such"))[0] == 404

    check(tmp_path, test)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"args": 1, "args": 2}', b'{"arg": 1}', b'{"timeout": "1"}', b'{"timeout": 0}', b'{"timeout": 1e9}', b'{"args": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"args": "\\ud800"}'])
def test_bodies_that_are_not_understood(tmp_path: Path, packs: FakePacks, body: bytes) -> None:
    async def test(served: Served) -> None:
        assert await refused(served, "/api/interfaces/k/call", "POST", body) == (400, "body_invalid")
        assert packs.asked == []

    check(tmp_path, test)


@pytest.mark.parametrize(
    ("value", "where"),
    [(math.nan, "result"), ({"a": [1, math.inf]}, "result.a[1]"), ({1: 2}, "1"), ({"f": print}, "result.f"), ("\ud800", "surrogate"), ({"s": {1, 2}}, "set"), ({None: 1}, "None")],
)
def test_results_that_json_can_not_carry_are_named(tmp_path: Path, packs: FakePacks, value: Any, where: str) -> None:
    packs.keys["k"] = lambda args: value

    async def test(served: Served) -> None:
        status, answer = await ask(served, "POST", "/api/interfaces/k/call")
        assert (status, answer["code"]) == (502, "result_not_json")
        assert where in answer["error"]

    check(tmp_path, test)


def test_results_keep_their_value(tmp_path: Path, packs: FakePacks) -> None:
    value = {"b": b"\x00\xff", "big": 2**70, "list": (1, 2.5, None, True), "日本": "語 \x00 \u202e"}
    packs.keys["k"] = lambda args: value

    async def test(served: Served) -> None:
        result = (await data(served, "/api/interfaces/k/call", "POST"))["result"]
        assert result == {"b": {"$base64": "AP8="}, "big": 2**70, "list": [1, 2.5, None, True], "日本": "語 \x00 \u202e"}

    check(tmp_path, test)


def test_a_packs_failure_is_typed(tmp_path: Path, packs: FakePacks) -> None:
    def fail(args: Any) -> Any:
        raise pack_failure()

    packs.keys["k"] = fail

    async def test(served: Served) -> None:
        status, answer = await ask(served, "POST", "/api/interfaces/k/call")
        assert (status, answer["code"], answer["pack_id"], answer["retryable"]) == (502, "error/ValueError", "p", True)
        assert answer["error"] == "The handler raised: 'boom'"

    check(tmp_path, test)


def test_a_fault_of_the_host_shows_a_reference_and_nothing_else(tmp_path: Path, packs: FakePacks) -> None:
    def bug(args: Any) -> Any:
        raise KeyError("internal secret")

    packs.keys["k"] = bug

    async def test(served: Served) -> None:
        status, answer = await ask(served, "POST", "/api/interfaces/k/call")
        assert (status, answer["code"]) == (500, "internal")
        assert "secret" not in json.dumps(answer)
        [issue] = served.api.host.diagnostics.issues()
        assert (issue.subject, issue.evidence["phase"]) == ("api:callInterface", "api")
        assert served.api.host.diagnostics.events()[-1]["step_id"] == answer["fields"]["reference"]
        assert (await ask(served))[0] == 200

    check(tmp_path, test)


def test_streams_as_one_answer_and_as_events(tmp_path: Path, packs: FakePacks) -> None:
    streams: list[Stream] = []

    def stream(args: Any) -> Stream:
        streams.append(Stream([1, {"b": b"x"}], pack_failure() if args.get("fail") else None))
        return streams[-1]

    packs.keys["s"], packs.keys["v"] = stream, lambda args: "one"

    async def test(served: Served) -> None:
        assert (await data(served, "/api/interfaces/s/call", "POST"))["result"] == [1, {"b": {"$base64": "eA=="}}]
        assert streams[-1].closed.is_set()
        assert await events(served, "/api/interfaces/s/call") == [("item", 1), ("item", {"b": {"$base64": "eA=="}}), ("end", {"items": 2})]
        assert await events(served, "/api/interfaces/v/call") == [("result", "one"), ("end", {"items": 1})]
        seen = await events(served, "/api/interfaces/s/call", b'{"args":{"fail":true}}')
        assert [name for name, _ in seen] == ["item", "item", "error"]
        assert (seen[-1][1]["code"], seen[-1][1]["success"]) == ("error/ValueError", False)
        assert all(s.closed.is_set() for s in streams)
        assert [name for name, _ in await events(served, "/api/interfaces/none/call")] == ["error"]

    check(tmp_path, test)


def test_a_too_long_stream_asks_for_events(tmp_path: Path, packs: FakePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints_interfaces, "COLLECTED_ITEMS", 3)
    stream = Stream([1, 2, 3, 4], endless=True)
    packs.keys["s"] = lambda args: stream

    async def test(served: Served) -> None:
        assert await refused(served, "/api/interfaces/s/call", "POST") == (413, "stream_too_long")
        assert stream.closed.is_set()

    check(tmp_path, test)


def test_a_client_that_leaves_cancels_its_call_and_its_stream(tmp_path: Path, packs: FakePacks) -> None:
    stream = Stream([1], endless=True)
    packs.keys["s"], packs.keys["slow"] = lambda args: stream, lambda args: asyncio.sleep(60)

    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/slow/call"))
        await until(lambda: packs.asked)
        writer.close()
        await asyncio.wait_for(packs.cancelled.wait(), 5)

        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/s/call", "Accept: text/event-stream\r\n"))
        await reader.readuntil(b"data: 1\n\n")
        writer.close()
        await asyncio.wait_for(stream.closed.wait(), 5)

    check(tmp_path, test)


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault_of_the_host(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        _, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/k/call", "Content-Type: application/json\r\nContent-Length: 100\r\n") + b"{")
        assert (await ask(served))[0] == 200
        writer.close()
        await until(lambda: len(served.faces._state.connections) == 0)
        assert (await ask(served))[0] == 200
        assert served.api.host.diagnostics.issues() == []
        assert packs.asked == []

    check(tmp_path, test)


def test_stopping_ends_streams_at_once(tmp_path: Path, packs: FakePacks) -> None:
    stream = Stream([1], endless=True)
    packs.keys["s"] = lambda args: stream

    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/s/call", "Accept: text/event-stream\r\n"))
        await reader.readuntil(b"data: 1\n\n")
        began = asyncio.get_running_loop().time()
        await served.faces.close(served.api)
        assert asyncio.get_running_loop().time() - began < 2
        assert stream.closed.is_set()
        assert (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()

    check(tmp_path, test)


def test_streams_are_counted(tmp_path: Path, packs: FakePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core_runtime.api.sse.STREAM_LIMIT", 1)

    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "GET", "/api/events"))
        await reader.readuntil(b"event: open")
        assert await refused(served, "/api/events") == (503, "too_many_streams")
        writer.close()

    check(tmp_path, test)


def test_events_live_and_replayed(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        bus = served.api.host.events
        assert bus.list_subscribers() == {}
        reader, writer = await connect(served)
        writer.write(request(served, "GET", "/api/events"))
        await reader.readuntil(b"event: open")
        for payload in ({"n": 1}, {"n": 2}, {"n": math.nan}):
            bus.publish("pack.started", payload)
        first = await reader.readuntil(b'"n":1}}\n\n')
        event_id = first.split(b"id: ")[1].split(b"\n")[0].decode()
        await reader.readuntil(b'"omitted":"result_not_json"}\n\n')
        writer.close()

        reader, writer = await connect(served)
        writer.write(request(served, "GET", "/api/events", f"Last-Event-ID: {event_id}\r\n"))
        replay = await reader.readuntil(b'"omitted":"result_not_json"}\n\n')
        assert b'"n":2}' in replay
        assert b'"n":1}' not in replay
        writer.close()

    check(tmp_path, test)


def test_about_the_host_itself(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        assert (await data(served, "/api/health"))["phase"] == "starting"
        served.api.phase = Phase.READY
        assert (await data(served, "/api/health"))["phase"] == "ready"
        served.api.host.diagnostics.issue("x", "error", "s", "Title")
        assert (await data(served, "/api/issues"))[0]["code"] == "x"
        assert (await data(served, "/api/diagnostics"))["event_count"] == 0
        assert (await data(served, "/api/audit?lines=5"))[0]["event"] == "approve"
        assert (await refused(served, "/api/audit?lines=0")) == (400, "query_invalid")
        assert (await refused(served, "/api/audit?lines=1&lines=2")) == (400, "query_invalid")

    check(tmp_path, test)


def test_unknown_routes_and_methods_have_the_envelope(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        assert await refused(served, "/") == (404, "route_unknown")
        assert await refused(served, "/api/packs/") == (404, "route_unknown")
        assert await refused(served, "/api/packs", "PUT") == (405, "method_not_allowed")
        assert await refused(served, "/api/packs", "OPTIONS") == (405, "method_not_allowed")
        status, headers, body = await exchange(served, request(served, "TRACE", "/api/packs"))
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        assert json.loads(body)["success"] is False
        assert await refused(served, "/api/events", "POST") == (405, "method_not_allowed")
        reader, writer = await connect(served)
        writer.write(request(served, "HEAD", "/api/packs") + request(served, "GET", "/api/nothing"))
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert (await read_answer(reader))[0] == 404
        writer.close()

    check(tmp_path, test)


def test_a_body_of_unknown_length_is_bounded_while_it_arrives(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/k/call", "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n"))
        chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
        for _ in range(17):
            writer.write(chunk)
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["code"]) == (413, "too_large")
        assert packs.asked == []
        writer.close()

    check(tmp_path, test)


def test_a_slow_body_is_ended_and_delays_nobody(tmp_path: Path, packs: FakePacks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core_runtime.api.call.BODY_LIMIT_S", 0.3)

    async def test(served: Served) -> None:
        reader, writer = await connect(served)
        writer.write(request(served, "POST", "/api/interfaces/k/call", "Content-Type: application/json\r\nContent-Length: 100\r\n") + b"{")
        assert (await ask(served))[0] == 200
        status, _, body = await read_answer(reader)
        assert (status, json.loads(body)["code"]) == (408, "body_too_slow")
        writer.close()

    check(tmp_path, test)


def test_the_description_is_valid_and_names_every_route(tmp_path: Path, packs: FakePacks) -> None:
    async def test(served: Served) -> None:
        _, _, body = await exchange(served, request(served, "GET", "/api/openapi.json"))
        document = json.loads(body)
        assert document == openapi.document(endpoints(), version=VERSION, api_port=served.settings.api_port)
        listed = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
        assert listed == {(e.method, e.path) for e in endpoints()}
        names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
        assert len(names) == len(set(names))
        for schema in document["components"]["schemas"].values():
            jsonschema.Draft202012Validator.check_schema(schema)
        resolve_all(document, document)

    check(tmp_path, test)


def test_answers_match_their_description(tmp_path: Path, packs: FakePacks) -> None:
    packs.add("p")
    document = openapi.document(endpoints(), version=VERSION, api_port=1)

    async def test(served: Served) -> None:
        for endpoint in endpoints():
            if endpoint.method != "GET" or endpoint.only_events:
                continue
            path = endpoint.path.replace("{id}", "p").replace("{key}", "none")
            status, answer = await ask(served, "GET", path)
            described = document["paths"][endpoint.path]["get"]["responses"][str(status)]
            if "$ref" in described:
                described = document["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
            schema = {**described["content"]["application/json"]["schema"], "components": document["components"]}
            jsonschema.Draft202012Validator(schema).validate(answer)

    check(tmp_path, test)


def resolve_all(node: Any, document: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            found = document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
        for value in node.values():
            resolve_all(value, document)
    elif isinstance(node, list):
        for value in node:
            resolve_all(value, document)


def request(served: Served, method: str, path: str, more: str = "") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: {served.host}\r\n{more}\r\n".encode()


async def until(condition: Any, limit_s: float = 5.0) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while not condition():
        assert loop.time() < deadline
        await asyncio.sleep(0.005)


async def events(served: Served, path: str, body: bytes = b"{}") -> list[tuple[str, Any]]:
    """All events of a stream that ends."""
    reader, writer = await connect(served)
    more = f"Accept: text/event-stream\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    writer.write(request(served, "POST", path, more) + body)
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-type: text/event-stream" in head
    text = b""
    while size := int((await reader.readline()).strip(), 16):
        text += await reader.readexactly(size)
        await reader.readline()
    writer.close()
    seen = []
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            seen.append((fields["event"], json.loads(fields["data"])))
    return seen

"""The conversations of ``tests/vectors/host.json``: what agents send, what the real bus answers, frame by frame.

A step is one of

* ``["alpha", frame]``: the Pack sends it; ``["alpha", HOST]``: the next frame that the host sends to that Pack;
* ``["open", "alpha", {grant}]``: it connects and is welcomed (``contracts``, ``ranges``: as its manifest has them); ``["beside", …]``: as its next generation, beside the one that serves,
  under a name of its own (``alpha.2``); ``["take over", "alpha.2"]``; ``["close", "alpha"]``; ``["revoke", "alpha", {grant}]``;
* ``["call", key, args, timeout_s]``: the operator calls; ``["outcome", {"value": …}]`` or ``{"error": type}``: what came of it;
* ``["do", "alpha", "ping" | "phase" | "shutdown"]``: what supervision asks of an agent;
* ``["alpha", File]``, ``["alpha", READY]``: it sends that on the second socket; ``["alpha", HOST_FILE]``: the host's next
  message there; ``["ended", "alpha"]``: the host has closed the connection.

``python -m tests.support.host_conversations`` records what the host says.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from typing import Any

import msgpack

from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.spec.models import Contract
from backend_core.errors import DeniedError, RumiError
from core_runtime.bus.channels import Channel
from core_runtime.rules.contracts import Terms
from core_runtime.rules.frames import BusLimits
from tests.support import vectors
from tests.support.conversations import REF, File, in_chunks
from tests.support.file_agent import FileAgent, memory
from tests.support.raw_agent import MIRROR, WAIT_S, Grant, RawAgent, Rig, rig

HOST = "host"
HOST_FILE = "a file of the host's"
READY = File(0, b"")
"""The first message of an agent on the second socket, which has no file and says 1 in place of a size."""
# fmt: off
OPTIONS = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}
COMPONENT = {"full_id": "alpha:service:one", "type": "service", "id": "one", "pack_id": "alpha", "dir": "backend/components/one"}
NUMBER = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
DEEP: Any = 1
for _ in range(70):
    DEEP = [DEEP]
HELLO = [16, 0, {"protocols": [1], "agent": "raw", "python": "3", "codec": "c", "probe": {"uid": 0}}]
UNKNOWN = msgpack.ExtType(9, b"")
"""A body that no reader takes."""


LONG, LONG_BODY = in_chunks(3, b"x" * 5000)
TOO_LONG, TOO_LONG_BODY = in_chunks(4, b"x" * 9000)


STORED = [File(number, msgpack.packb(b"s" * size)) for number, size in ((1, 2000), (2, 9000), (3, 2000))]


def register(number: int, key: str, ref: int | None = 1, value: Any = None, **more: Any) -> list[Any]:
    schemas = more.pop("schemas", None)
    options = {**OPTIONS, **more}
    return [32, number, key, options, None, schemas, [] if ref is None else [[0, ref]], value if ref is None else REF]


def call(number: int, key: Any, args: Any = None, refs: Any = (), *, parent: int = 0, deadline_ms: int = 0) -> list[Any]:
    return [1, number, key, deadline_ms, parent, 0, None, list(refs), args]


PAIR = [["open", "alpha", {"provides": ["k"]}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST], ["open", "beta", {"calls": ["k"]}], ["beta", HOST]]
"""alpha provides ``k``, beta may call it and is shown it."""

CONVERSATIONS: dict[str, tuple[str, list[list[Any]]]] = {
    "life": ("Welcome, a phase, a ping, a line of the log, the orderly end.", [
        ["open", "alpha", {}], ["do", "alpha", "phase"], ["alpha", HOST], ["alpha", [23, 0, 20, "stdout", "ready"]],
        ["alpha", [19, 1, {"ok": True, "error": None, "registered": [], "duration_us": 1, "asynchronous": False}]],
        ["do", "alpha", "ping"], ["alpha", HOST], ["alpha", [22, 2, {"threads": 1, "stuck": 0, "calls": 0}]],
        ["do", "alpha", "shutdown"], ["alpha", HOST], ["close", "alpha"],
    ]),
    "registry": ("Callables and data are registered, shown, and taken back; what is undeclared, unfit or too much (here: beyond 3) is refused.", [
        ["open", "alpha", {"provides": ["k", "data"]}],
        ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(2, "k", 2, if_absent=True)], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(3, "data", None, {"x": 1})], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(4, "other", 5)], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(5, "k", 3, schemas={"input": {"type": "nonsense"}, "output": None})], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(6, "data", None, DEEP)], ["alpha", HOST],
        ["alpha", register(7, "data", None, 1, ttl_ms="soon")], ["alpha", HOST],
        ["alpha", register(8, "k", 4)], ["alpha", HOST], ["alpha", HOST], ["alpha", register(9, "k", 6)], ["alpha", HOST], ["alpha", HOST],
        ["alpha", [33, 10, [1, 99]]], ["alpha", HOST], ["alpha", HOST], ["alpha", HOST],
    ]),
    "call": ("A Pack calls a Pack: values, a typed error, and each refusal on the way.", [
        *PAIR,
        ["beta", call(1, "k", {"n": 1})], ["alpha", HOST], ["alpha", [2, 1, 0, [], {"n": 2}]], ["beta", HOST],
        ["beta", call(2, "k")], ["alpha", HOST], ["alpha", [3, 2, "billing/declined", "no cover", "", False, ""]], ["beta", HOST],
        ["beta", call(3, "nobody.is.granted")], ["beta", HOST],
        ["beta", call(4, 99)], ["beta", HOST],
        ["beta", call(5, "k", REF, [[1, 99]])], ["beta", HOST],
        ["revoke", "beta", {}], ["beta", call(6, "k")], ["beta", HOST],
        ["call", "k", {"of": "the operator"}, 5], ["alpha", HOST], ["alpha", [2, 3, 0, [], "done"]], ["outcome", {"value": "done"}],
        ["call", "k", None, 5], ["alpha", HOST], ["alpha", [2, 4, 0, [], UNKNOWN]], ["outcome", {"error": "value.malformed"}],
    ]),
    "missing": ("A key that is granted and not provided.", [
        ["open", "beta", {"calls": ["k"]}], ["beta", call(1, "k")], ["beta", HOST],
    ]),
    "deadline_and_cancel": ("A call that takes too long, one that its caller gives up, and a late answer that nobody hears.", [
        *PAIR,
        ["beta", call(1, "k", None, deadline_ms=30)], ["alpha", HOST], ["alpha", HOST], ["beta", HOST], ["alpha", [2, 1, 0, [], "late"]],
        ["beta", call(2, "k")], ["alpha", HOST], ["beta", [4, 2]], ["alpha", HOST], ["beta", HOST],
        ["alpha", [3, 2, "cancelled", "", "", False, ""]],
    ]),
    "stream": ("A stream goes through with credit, one is left early, one ends with an error.", [
        *PAIR,
        ["beta", call(1, "k")], ["alpha", HOST], ["alpha", [2, 1, 1, [], None]], ["beta", HOST], ["alpha", [5, 1, [], "one"]], ["beta", HOST],
        ["beta", [7, 1, 1]], ["alpha", HOST], ["alpha", [5, 1, [], "two"]], ["beta", HOST], ["alpha", [6, 1, None]], ["beta", HOST],
        ["beta", call(2, "k")], ["alpha", HOST], ["alpha", [2, 2, 1, [], None]], ["beta", HOST], ["beta", [4, 2]], ["alpha", HOST], ["beta", HOST],
        ["alpha", [6, 2, ["cancelled", "", "", False, ""]]],
        ["beta", call(3, "k")], ["alpha", HOST], ["alpha", [2, 3, 1, [], None]], ["beta", HOST],
        ["alpha", [6, 3, ["meter/broken", "cut", "", False, ""]]], ["beta", HOST],
    ]),
    "batches": ("Items that go together: as they came to who takes them so, one by one to who does not, with a schema too; beyond the credit they end the connection.", [
        ["open", "alpha", {"provides": ["k", "typed"]}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k", "typed"], "batches": True}], ["beta", HOST], ["open", "gamma", {"calls": ["k"]}], ["gamma", HOST],
        ["beta", call(1, "k")], ["alpha", HOST], ["alpha", [2, 1, 1, [], None]], ["beta", HOST], ["alpha", [5, 1, [], "one"]], ["beta", HOST],
        ["alpha", [9, 1, [], ["two", {"n": 3}]]], ["beta", HOST], ["beta", [7, 1, 3]], ["alpha", HOST], ["alpha", [6, 1, None]], ["beta", HOST],
        ["gamma", call(1, "k")], ["alpha", HOST], ["alpha", [2, 2, 1, [], None]], ["gamma", HOST],
        ["alpha", [9, 2, [], ["one", {"n": 2}]]], ["gamma", HOST], ["gamma", HOST], ["alpha", [6, 2, None]], ["gamma", HOST],
        ["alpha", register(2, "typed", 2, schemas={"input": None, "output": NUMBER})], ["alpha", HOST], ["alpha", HOST], ["beta", HOST],
        ["beta", call(3, "typed")], ["alpha", HOST], ["alpha", [2, 3, 1, [], None]], ["beta", HOST],
        ["alpha", [9, 3, [], [{"n": 1}, {"n": "two"}, {"n": 3}]]], ["beta", HOST], ["beta", HOST], ["alpha", HOST], ["alpha", [6, 3, None]],
        ["beta", call(2, "k")], ["alpha", HOST], ["alpha", [2, 4, 1, [], None]], ["beta", HOST],
        ["alpha", [9, 4, [], [0] * 17]], ["beta", HOST], ["beta", HOST],
    ]),
    "arguments": ("A stream in the arguments is read by number, once; one ends when the call is answered, one when its caller goes away.", [
        ["open", "alpha", {"provides": ["k"], "sources": True}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"]}], ["beta", HOST],
        ["beta", call(1, "k", {"items": REF}, [[2, 7]])], ["alpha", HOST], ["alpha", call(2, 1)], ["beta", HOST],
        ["beta", [2, 1, 1, [], None]], ["alpha", HOST], ["beta", [5, 1, [], "one"]], ["alpha", HOST], ["alpha", [7, 2, 1]], ["beta", HOST],
        ["alpha", call(3, 1)], ["alpha", HOST], ["beta", [6, 1, None]], ["alpha", HOST],
        ["alpha", [2, 1, 0, [], "read"]], ["beta", HOST], ["beta", HOST],
        ["beta", call(2, "k", {"items": REF}, [[2, 8]])], ["alpha", HOST], ["alpha", call(4, 2)], ["beta", HOST], ["beta", [2, 2, 1, [], None]], ["alpha", HOST],
        ["alpha", [2, 2, 0, [], "enough"]], ["alpha", HOST], ["beta", HOST], ["beta", HOST], ["beta", HOST],
        ["beta", [6, 2, ["cancelled", "", "", False, ""]]], ["alpha", call(5, 2)], ["alpha", HOST],
        ["beta", call(3, "k", {"items": REF}, [[2, 9]])], ["alpha", HOST], ["alpha", call(6, 3)], ["beta", HOST], ["beta", [2, 3, 1, [], None]], ["alpha", HOST],
        ["close", "beta"], ["alpha", HOST], ["alpha", HOST], ["alpha", [3, 3, "cancelled", "", "", False, ""]],
    ]),
    "arguments_unread": ("A stream for a Pack that reads none, and more of them than a call may have (here: 1): the caller gets its numbers back.", [
        *PAIR, ["beta", call(1, "k", {"items": REF}, [[2, 7]])], ["beta", HOST], ["beta", HOST],
        ["open", "gamma", {"provides": ["j"], "sources": True}], ["gamma", register(1, "j")], ["gamma", HOST], ["gamma", HOST],
        ["revoke", "beta", {"calls": ["j"]}],
        ["beta", call(2, "j", None, [[2, 8], [2, 9]])], ["beta", HOST], ["beta", HOST],
    ]),
    "reenter": ("A chain that comes back names the call that waits for it.", [
        ["open", "alpha", {"provides": ["k"], "calls": ["j"]}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"provides": ["j"], "calls": ["k"]}], ["beta", HOST], ["beta", register(1, "j")], ["beta", HOST], ["beta", HOST], ["alpha", HOST],
        ["call", "k", "down", 5], ["alpha", HOST], ["alpha", call(2, "j", "over", parent=1)], ["beta", HOST],
        ["beta", call(2, "k", "back", parent=1)], ["alpha", HOST], ["alpha", [2, 2, 0, [], 1]], ["beta", HOST],
        ["beta", [2, 1, 0, [], 2]], ["alpha", HOST], ["alpha", [2, 1, 0, [], 3]], ["outcome", {"value": 3}],
    ]),
    "depth": ("A chain that is nested deeper than the host allows (here: 1).", [
        ["open", "alpha", {"provides": ["k"], "calls": ["k"]}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["call", "k", None, 5], ["alpha", HOST], ["alpha", call(2, "k", None, parent=1)], ["alpha", HOST],
        ["alpha", call(3, "k", None, parent=2)], ["alpha", HOST],
    ]),
    "limit": ("More calls in flight than the host allows (here: 4, of which a Pack that is alone gets half).", [
        *PAIR, ["beta", call(1, "k")], ["alpha", HOST], ["beta", call(2, "k")], ["alpha", HOST], ["beta", call(3, "k")], ["beta", HOST],
    ]),
    "too_large": ("A value that fits the frame of its sender and no longer that of its receiver (here: 4,096 bytes).", [
        *PAIR, ["beta", call(1, "k", b"x" * 4060)], ["beta", HOST],
    ]),
    "chunks": ("A value longer than a frame (here: 4,096 bytes) goes over in chunks, and comes back; one is too long for the receiver (here: 8,192).", [
        ["open", "alpha", {"provides": ["k"], "chunks": True}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"], "chunks": True}], ["beta", HOST],
        *[["beta", piece] for piece in LONG], ["beta", call(1, "k", LONG_BODY)], *[["alpha", HOST]] * 4,
        *[["alpha", piece] for piece in LONG], ["alpha", [2, 1, 0, [], LONG_BODY]], *[["beta", HOST]] * 4,
        *[["beta", piece] for piece in TOO_LONG], ["beta", call(2, "k", TOO_LONG_BODY)], ["beta", HOST],
    ]),
    "memory_files": (
        "A value beyond `from_bytes` (here: 1,000) goes in a memory file and comes back in one; one is too long (here: 8,192); one did not come, which ends the connection.", [
        ["open", "alpha", {"provides": ["k"], "memory": True}], ["alpha", READY], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"], "memory": True}], ["beta", READY], ["beta", HOST],
        ["beta", STORED[0]], ["beta", call(1, "k", STORED[0].body())], ["alpha", HOST], ["alpha", HOST_FILE],
        ["alpha", STORED[0]], ["alpha", [2, 1, 0, [], STORED[0].body()]], ["beta", HOST], ["beta", HOST_FILE],
        ["beta", STORED[1]], ["beta", call(2, "k", STORED[1].body())], ["beta", HOST],
        ["beta", call(3, "k", STORED[2].body())], ["ended", "beta"],
    ]),
    "memory_files_to_one_side": ("What one Pack sends in a memory file, another that takes none gets in chunks.", [
        ["open", "alpha", {"provides": ["k"], "chunks": True}], ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"], "memory": True}], ["beta", READY], ["beta", HOST],
        ["beta", STORED[0]], ["beta", call(1, "k", STORED[0].body())], ["alpha", HOST], ["alpha", HOST], ["alpha", HOST],
        ["alpha", [2, 1, 0, [], "got it"]], ["beta", HOST],
    ]),
    "schema": ("Arguments and a result that do not fit the schemas of the interface.", [
        ["open", "alpha", {"provides": ["k"]}], ["alpha", register(1, "k", schemas={"input": NUMBER, "output": NUMBER})], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"]}], ["beta", HOST],
        ["beta", call(1, "k", {"n": "one"})], ["beta", HOST],
        ["beta", call(2, "k", {"n": 1})], ["alpha", HOST], ["alpha", [2, 1, 0, [], {"n": 2}]], ["beta", HOST],
        ["beta", call(3, "k", {"n": 1})], ["alpha", HOST], ["alpha", [2, 2, 0, [], {}]], ["beta", HOST],
    ]),
    "contract": ("What is registered is not what the manifest declares; what is there is not in the range that a Pack needs.", [
        ["open", "alpha", {"provides": ["k"], "contracts": {"k": {"version": "2.0.0", "input": NUMBER}}}],
        ["alpha", register(1, "k", schemas={"input": {"type": "object"}, "output": None})], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(2, "k", 2)], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"], "ranges": {"k": ">=1,<2"}}], ["beta", call(1, "k", {"n": 1})], ["beta", HOST],
        ["open", "gamma", {"calls": ["k"], "ranges": {"k": "^2"}}], ["gamma", HOST],
        ["gamma", call(1, "k", {"n": "one"})], ["gamma", HOST],
    ]),
    "references": ("A callable goes over, is called by number, comes home, and is released on both sides.", [
        *PAIR,
        ["beta", call(1, "k", {"back": REF}, [[0, 7]])], ["alpha", HOST],
        ["alpha", call(2, 1, "hello", parent=1)], ["beta", HOST], ["beta", [2, 1, 0, [], "heard"]], ["alpha", HOST],
        ["alpha", [2, 1, 0, [[1, 1]], REF]], ["beta", HOST], ["alpha", [37, 0, [1]]], ["beta", HOST],
    ]),
    "unavailable": ("The provider dies while it serves.", [
        *PAIR, ["beta", call(1, "k")], ["alpha", HOST], ["close", "alpha"], ["beta", HOST], ["beta", HOST],
    ]),
    "superseded": ("A newer generation takes over; the older one registers and subscribes nothing more.", [
        ["open", "alpha", {"provides": ["k"], "subscribe": ["t"]}], ["beside", "alpha", {}], ["take over", "alpha.2"],
        ["alpha", register(1, "k")], ["alpha", HOST], ["alpha", HOST], ["alpha", [48, 2, "t"]], ["alpha", HOST],
    ]),
    "events": ("Subscribing, publishing, hearing, and no longer hearing; what is not granted is refused.", [
        ["open", "alpha", {"subscribe": ["topic.*"]}], ["open", "beta", {"publish": ["topic.a"]}],
        ["alpha", [48, 1, "topic.*"]], ["alpha", HOST], ["alpha", [48, 2, "secret.*"]], ["alpha", HOST],
        ["beta", [50, 1, "topic.a", [], {"n": 1}]], ["alpha", HOST], ["beta", HOST],
        ["beta", [50, 2, "secret.a", [], None]], ["beta", HOST],
        ["alpha", [49, 3, 1]], ["alpha", HOST], ["beta", [50, 3, "topic.a", [], None]], ["beta", HOST],
    ]),
    "events_with_options": ("A subscription that says how it wants its events, one with options that are not usable.", [
        ["open", "alpha", {"subscribe": ["topic.*"]}],
        ["alpha", [48, 1, "topic.*", {"queue": 4, "policy": "latest", "since": "oldest"}]], ["alpha", HOST],
        ["alpha", [48, 2, "topic.*", {"queue": 0}]], ["alpha", HOST],
    ]),
    "requests": ("An operation that is served, one that is refused, and one that nobody knows.", [
        ["open", "alpha", {}],
        ["alpha", [64, 1, "userdata.read", 0, [], {"path": "packs/alpha/a"}]], ["alpha", HOST],
        ["alpha", [64, 2, "userdata.read", 0, [], {"path": "packs/beta/a"}]], ["alpha", HOST],
        ["alpha", [64, 3, "userdata.read", 0, [], UNKNOWN]], ["alpha", HOST],
    ]),
    "source": ("The source text of a key that a Pack may see, of one that it may not, and of the first when the right is gone.", [
        ["open", "alpha", {"provides": ["k", "hidden"]}], ["alpha", register(1, "k", source="def k(): ...")], ["alpha", HOST], ["alpha", HOST],
        ["alpha", register(2, "hidden", 2, source="def hidden(): ...")], ["alpha", HOST], ["alpha", HOST],
        ["open", "beta", {"calls": ["k"]}], ["beta", HOST],
        ["beta", [64, 1, "registry.source", 0, [], {"key": "k"}]], ["beta", HOST], ["beta", [64, 2, "registry.source", 0, [], {"key": "hidden"}]], ["beta", HOST],
        ["beta", [64, 3, "registry.source", 0, [], {"key": 5}]], ["beta", HOST],
        ["revoke", "beta", {}], ["beta", [64, 4, "registry.source", 0, [], {"key": "k"}]], ["beta", HOST],
        ["alpha", [64, 3, "registry.source", 0, [], {"key": "hidden"}]], ["alpha", HOST],
    ]),
    "channel": ("A request that opens a channel: bytes both ways, each direction with an end of its own.", [
        ["open", "alpha", {}], ["alpha", [64, 1, "network.connect", 0, [], {"host": "example.org", "port": 443}]], ["alpha", HOST],
        ["alpha", [5, 1, [], b"ping"]], ["alpha", HOST], ["alpha", [7, 1, 1]], ["alpha", [6, 1, None]], ["alpha", HOST],
    ]),
    "http_fetch": ("A request that the host makes itself: the head first, then the body; a host that is not fetched.", [
        ["open", "alpha", {}],
        ["alpha", [64, 1, "http.fetch", 0, [], {"method": "GET", "url": "http://example.org/", "headers": [], "length": 0, "plain": True}]],
        ["alpha", HOST], ["alpha", HOST], ["alpha", HOST], ["alpha", HOST], ["alpha", [6, 1, None]],
        ["alpha", [64, 2, "http.fetch", 0, [], {"method": "GET", "url": "http://elsewhere/", "headers": [], "length": 0, "plain": True}]], ["alpha", HOST],
    ]),
}
LIMITS = {"depth": {"depth": 1}, "limit": {"in_flight": 4}, "too_large": {"frame_bytes": 4096}, "chunks": {"frame_bytes": 4096, "value_bytes": 8192}, "memory_files": {"frame_bytes": 4096, "value_bytes": 8192, "file_bytes": 1000}, "memory_files_to_one_side": {"frame_bytes": 2048, "value_bytes": 8192, "file_bytes": 1000}, "registry": {"registrations": 3}, "arguments_unread": {"sources": 1}}
# fmt: on
ANY: dict[int, list[list[Any]]] = {
    1: [[3], [7, 0]],
    3: [[3], [4], [6]],
    6: [[2, 1], [2, 2], [2, 4]],
    17: [[2, "limits"]],
    20: [[2]],
    51: [[3, "id"], [3, "time"]],
}
"""What differs from run to run, or is worded for people."""


class _Filer(FileAgent):
    """An agent with a second socket that says nothing by itself."""

    says_ready = False

    def raw(self, data: bytes) -> None:
        if self.writer is None:  # HELLO, before what comes is read
            self.sock.sendall(data)
        else:
            super().raw(data)


class Stage:
    """The real bus with the Packs of one conversation."""

    def __init__(self, r: Rig) -> None:
        self._rig = r
        self._agents: dict[str, RawAgent] = {}
        self._generations: dict[str, int] = {}
        self._tasks: list[asyncio.Future[Any]] = []
        self._asked: asyncio.Future[Any] | None = None

    async def send(self, name: str, data: bytes) -> None:
        """Bytes of a Pack."""
        self._agents[name].raw(data)
        await self._agents[name].writer.drain()

    async def receive(self, name: str) -> list[Any]:
        """The next frame for a Pack."""
        return await self._agents[name].read()

    async def send_file(self, name: str, message: bytes, data: bytes | None) -> None:
        """A message of a Pack on the second socket."""
        self._filer(name).put(message, *([] if data is None else [memory(data)]))

    async def receive_file(self, name: str) -> tuple[bytes, bytes]:
        """The host's next message there, and what is in its file."""
        number, size, fd = self._filer(name).taken()
        try:
            return number.to_bytes(4, "little") + size.to_bytes(4, "little"), os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def _filer(self, name: str) -> _Filer:
        agent = self._agents[name]
        assert isinstance(agent, _Filer)
        return agent

    async def act(self, step: list[Any]) -> Any:
        """Any step but a frame; what came of it, for ``outcome``."""
        what, *rest = step
        return await getattr(self, "_" + what.replace(" ", "_"))(*rest)

    async def end(self) -> None:
        """Nothing of the conversation goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _open(self, name: str, grant: dict[str, Any], *, beside: bool = False) -> list[Any]:
        r = self._rig
        generation = self._generations[name] = self._generations.get(name, 0) + 1
        if not beside:
            r.grants[name] = granted(grant)
        place = f"{r.folder}/{name}-{generation}"
        endpoint = await r.bus.open(
            name, generation, lambda: r.grants[name], socket_path=place, beside=beside, terms=agreed(grant)
        )
        connected = asyncio.ensure_future(endpoint.connected(WAIT_S))
        agent = await (_Filer if grant.get("memory") else RawAgent).connect(place)
        agent.raw(vectors.encode(hello(grant)))
        session = await connected
        r.agents.append(agent)
        self._agents[f"{name}.{generation}" if beside else name] = agent
        await session.welcome({})
        return await agent.read()

    async def _beside(self, name: str, grant: dict[str, Any]) -> list[Any]:
        return await self._open(name, grant, beside=True)

    async def _take_over(self, name: str) -> None:
        pack_id, _, generation = name.partition(".")
        found = [s for s in self._rig.bus.router.sessions if (s.pack_id, s.generation) == (pack_id, int(generation))]
        found[0].take_over()

    async def _close(self, name: str) -> None:
        await self._agents.pop(name).close()

    async def _ended(self, name: str) -> None:
        await self._agents[name].ended()

    async def _revoke(self, name: str, grant: dict[str, Any]) -> None:
        self._rig.grants[name] = granted(grant)

    async def _call(self, key: str, args: Any, timeout_s: float) -> None:
        self._asked = asyncio.ensure_future(self._rig.bus.call(key, args, timeout_s=timeout_s))
        self._tasks.append(self._asked)

    async def _outcome(self, _expected: Any = None) -> dict[str, Any]:
        assert self._asked is not None
        try:
            return {"value": await self._asked}
        except RumiError as exc:
            return {"error": exc.code}

    async def _do(self, name: str, what: str) -> None:
        session = self._rig.bus.sessions[name]
        context = {"phase": "setup", "ts": 1.5, "mounts": {}, "register": None}
        begun = {
            "ping": lambda: session.ping(WAIT_S),
            "phase": lambda: session.run_phase(COMPONENT, "setup.py", context, WAIT_S),
            "shutdown": lambda: session.shutdown(WAIT_S),
        }[what]
        self._tasks.append(asyncio.ensure_future(begun()))
        await asyncio.sleep(0)


def hello(grant: dict[str, Any]) -> list[Any]:
    """HELLO of an agent that takes what a step says it takes."""
    takes = {what: True for what in ("batches", "chunks", "sources", "memory") if grant.get(what)}
    return [*HELLO[:2], {**HELLO[2], **takes}]


def granted(grant: dict[str, Any]) -> Grant:
    """A grant as a step writes it."""
    return Grant(
        calls=set(grant.get("calls", ())), provides=set(grant.get("provides", ())),
        publish=tuple(grant.get("publish", ())), subscribe=tuple(grant.get("subscribe", ())),
    )  # fmt: skip


def agreed(grant: dict[str, Any]) -> Terms:
    """What its approved manifest says, as a step writes it."""
    contracts = {
        key: Contract(one.get("version", ""), freeze(one.get("input")), freeze(one.get("output")))
        for key, one in grant.get("contracts", {}).items()
    }
    return Terms(contracts, grant.get("ranges", {}))


async def requests(_session: Any, _operation: str, args: Any) -> Any:
    """Who serves REQUEST on this stage: files of alpha are there, others are refused."""
    if not args["path"].startswith("packs/alpha/"):
        raise DeniedError("not yours")
    return b"\x00\xff"


async def connect(channel: Channel, _operation: str, _args: Any) -> None:
    """A channel whose other end sends back what it gets."""
    channel.open()
    while data := await channel.read():
        await channel.write(data)
    channel.end()


async def fetch(channel: Channel, _operation: str, args: Any) -> None:
    """A fetch of one page; of another host: none."""
    if "example.org" not in args["url"]:
        raise DeniedError("Not fetched by the host", code="not_fetched")
    channel.open()
    await channel.write({"status": 200, "reason": "OK", "headers": [["content-length", "4"]]})
    await channel.write(b"page")
    channel.end()
    await channel.read()


async def run(name: str, steps: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Hold a conversation: what was said, as entries of the file. ``steps``: the recorded ones, else those above."""
    said: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="rumi-") as folder:
        async with rig(folder, limits=BusLimits(**LIMITS.get(name, {})), requests=requests) as r:
            r.bus.channels.update({"network.connect": connect, "http.fetch": fetch})
            stage = Stage(r)
            said += [await _one(stage, step) for step in steps or _planned(name)]
            await stage.end()
    return said


def _planned(name: str) -> list[dict[str, Any]]:
    planned: list[dict[str, Any]] = []
    for step in CONVERSATIONS[name][1]:
        if step[0] not in {"alpha", "beta", "gamma"}:
            planned.append({"step": step})
        elif step[1] is HOST:
            planned.append({"pack": step[0], "from": "host"})
        elif step[1] is HOST_FILE:
            planned.append({"pack": step[0], "from": "host", "message": ""})
        elif step[1] is READY:
            planned.append({"pack": step[0], "from": "agent", "message": "0000000001000000"})
        elif isinstance(step[1], File):
            planned.append({"pack": step[0], **vectors.message_entry("agent", step[1].mark(), step[1].data)})
        else:
            planned.append({"pack": step[0], "from": "agent", "hex": vectors.encode(step[1]).hex()})
    return planned


async def _one(stage: Stage, step: dict[str, Any]) -> dict[str, Any]:
    if "step" in step:
        came = await stage.act([*step["step"]])
        if step["step"][0] in {"open", "beside"}:
            name, *grant = step["step"][1:]
            return {"step": step["step"], "frames": [_entry(name, "agent", hello(*grant)), _entry(name, "host", came)]}
        return {"step": ["outcome", came] if step["step"][0] == "outcome" else step["step"]}
    if "message" in step:
        if step["from"] == "host":
            return {"pack": step["pack"], **vectors.message_entry("host", *await stage.receive_file(step["pack"]))}
        await stage.send_file(step["pack"], bytes.fromhex(step["message"]), bytes.fromhex(step["file"]) if "file" in step else None)
        return step
    if step["from"] == "agent":
        data = bytes.fromhex(step["hex"])
        await stage.send(step["pack"], data)
        return _entry(step["pack"], "agent", msgpack.unpackb(data[4:], strict_map_key=False))
    return _entry(step["pack"], "host", await stage.receive(step["pack"]))


def _entry(name: str, origin: str, fields: list[Any]) -> dict[str, Any]:
    paths = [path for path in ANY.get(fields[0], []) if len(path) == 1 or fields[2] is not None] if origin == "host" else []
    if origin == "host" and fields[0] == MIRROR:
        paths = [[3, at, "ts"] for at in range(len(fields[3]))]
    value = vectors.masked(vectors.to_json(fields), paths)
    entry = {
        "pack": name, "from": origin, "kind": vectors.KINDS[fields[0]], "value": value,
        "hex": vectors.encode(vectors.from_json(value)).hex(),
    }  # fmt: skip
    return entry | ({"any": paths} if paths else {})


def main() -> None:
    """Write the file."""
    document = [
        {"name": name, "about": about, "steps": asyncio.run(run(name))} for name, (about, _) in CONVERSATIONS.items()
    ]
    text = "[\n" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in document) + "\n]\n"
    (vectors.VECTORS / "host.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

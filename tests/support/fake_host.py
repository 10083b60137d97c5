"""A small blocking host for tests of the agent: real processes, real sockets, the protocol of docs/reference/protocol.md.

It shares no line with the host's own bus, so that a mistake in one is not repeated by the other. One thread reads each
connection; what a test asks for is answered in the test's own thread, with a bounded deadline. It trusts everybody:
there are no rights, schemas or limits here.

    with FakeHost() as host:
        pack = host.start({"backend/components/one/setup.py": SOURCE}, tmp_path)
        pack.phase("one")
        assert host.call("service.hello", {"name": "Bob"}) == {"message": "Hello, Bob!"}
"""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgpack

AGENT = Path(__file__).parents[2] / "docker" / "core" / "runtime" / "container_agent.py"
WAIT_S = 20.0
LIMITS = {
    "frame_bytes": 1024 * 1024,
    "in_flight": 1024,
    "depth": 32,
    "deadline_ms": 30_000,
    "stream_credit": 16,
    "threads": 48,
}


class BusError(Exception):
    """An ERROR frame, or the error of a STREAM_END."""

    def __init__(self, type_: str, title: str, detail: str, retryable: bool, trace: str) -> None:
        super().__init__(f"{type_}: {title}: {detail}")
        self.type, self.title, self.detail, self.retryable, self.trace = type_, title, detail, retryable, trace


@dataclass
class Call:
    """A call of the host's own, or one that it routes from ``source``."""

    peer: Peer
    id: int
    source: Peer | None = None
    source_id: int = 0
    parent: Call | None = None
    depth: int = 0
    answers: queue.SimpleQueue[list[Any]] = field(default_factory=queue.SimpleQueue)
    streaming: bool = False

    def frame(self, timeout_s: float = WAIT_S) -> list[Any]:
        """The next frame that belongs to this call."""
        return self.answers.get(timeout=timeout_s)

    def result(self, timeout_s: float = WAIT_S) -> Any:
        """The value; BusError where there is none."""
        answer = self.frame(timeout_s)
        if answer[0] == 3:
            raise BusError(*answer[2:])
        assert answer[0] == 2, answer
        self.streaming = bool(answer[2] & 1)
        return self.peer.open_refs(answer[3], answer[4])

    def items(self, *, credit: bool = True) -> Iterator[Any]:
        """The items of a stream, with credit given back one by one."""
        while True:
            answer = self.frame()
            if answer[0] == 6:
                if answer[2] is not None:
                    raise BusError(*answer[2])
                return
            assert answer[0] in {5, 9}, answer
            for item in answer[3] if answer[0] == 9 else [self.peer.open_refs(answer[2], answer[3])]:
                if credit:
                    self.peer.send(7, self.id, 1)
                yield item

    def cancel(self) -> None:
        self.peer.send(4, self.id)


@dataclass
class Entry:
    """One registration."""

    number: int
    key: str
    peer: Peer
    refs: list[Any]
    body: Any
    meta: Any
    schemas: Any
    options: dict[str, Any]
    ts: float

    @property
    def callable(self) -> bool:
        return isinstance(self.body, msgpack.ExtType) and self.body.code == 1


class Peer:
    """One agent and its connection."""

    def __init__(self, host: FakeHost, pack_id: str, root: Path, command: list[str], **popen: Any) -> None:
        self.host = host
        self.pack_id = pack_id
        self.root = root
        self.hello: dict[str, Any] = {}
        self.frames: list[list[Any]] = []
        self.logs: list[tuple[int, str, str]] = []
        self.calls: dict[int, Call] = {}
        self.served: dict[int, Call] = {}  # the agent's own CALL id → the routed call
        self.handles: dict[int, Any] = {}  # number told to this agent → (peer, number there) or a host function
        self.released: list[int] = []
        self.answers: dict[int, queue.SimpleQueue[list[Any]]] = {}
        self.closed = threading.Event()
        self._numbers = 0
        self._lock = threading.Lock()
        self._write = threading.Lock()
        ours, theirs = socket.socketpair()
        self.sock = ours
        if command[-1] == "--fd":
            command = [*command, str(theirs.fileno())]
            popen["pass_fds"] = [theirs.fileno()]
        else:
            popen["stdin"] = popen["stdout"] = theirs
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, **popen)
        theirs.close()
        self._buffer = b""
        self.hello = self.read()[2]
        self._reader: threading.Thread | None = None

    # --- frames

    def read(self) -> list[Any]:
        """One frame, straight from the socket; EOFError at its end."""
        while True:
            if len(self._buffer) >= 4:
                size = int.from_bytes(self._buffer[:4], "little")
                if len(self._buffer) >= 4 + size:
                    data, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
                    frame: list[Any] = msgpack.unpackb(data, strict_map_key=False)
                    self.frames.append(frame)
                    return frame
            try:
                part = self.sock.recv(65_536)
            except OSError:
                part = b""
            if not part:
                raise EOFError
            self._buffer += part

    def send(self, *fields: Any) -> None:
        self.send_bytes(msgpack.packb(list(fields)))

    def send_bytes(self, data: bytes) -> None:
        """One frame's bytes, with the length before them."""
        with self._write:
            self.sock.sendall(len(data).to_bytes(4, "little") + data)

    def next_id(self) -> int:
        with self._lock:
            self._numbers += 1
            return self._numbers

    # --- life

    def welcome(self, **limits: int) -> None:
        settings = {
            "protocol": 1,
            "pack_id": self.pack_id,
            "generation": 1,
            "limits": {**LIMITS, **limits},
            "paths": {"pack": str(self.root)},
            "lock": {},
        }
        self.send(17, 0, settings)
        self.host.mirror_all(self)
        self._reader = threading.Thread(target=self._serve, daemon=True)
        self._reader.start()

    def _serve(self) -> None:
        try:
            while True:
                self.host.on_frame(self, self.read())
        except (EOFError, OSError):
            self.closed.set()
            self.host.lost(self)

    def ask(self, kind: int, *fields: Any, timeout_s: float = WAIT_S) -> list[Any]:
        """Send a frame of the life cycle and wait for its answer."""
        number = self.next_id()
        box = self.answers[number] = queue.SimpleQueue()
        self.send(kind, number, *fields)
        return box.get(timeout=timeout_s)

    def phase(
        self, component: str, file: str = "setup.py", *, register: str | None = None, **context: Any
    ) -> dict[str, Any]:
        """RUN_PHASE of ``backend/components/<component>/<file>`` (or of any folder with a slash in its name)."""
        folder = component if "/" in component else f"backend/components/{component}"
        described = {
            "full_id": f"{self.pack_id}:service:{component}",
            "type": "service",
            "id": component,
            "pack_id": self.pack_id,
            "dir": folder,
        }
        settings = {"phase": "setup", "ts": 1.5, "mounts": {"data.user": "user"}, "register": register, **context}
        outcome: dict[str, Any] = self.ask(18, described, file, settings)[2]
        return outcome

    def good_phase(self, component: str, file: str = "setup.py", **context: Any) -> dict[str, Any]:
        outcome = self.phase(component, file, **context)
        assert outcome["ok"], outcome
        return outcome

    def ping(self) -> dict[str, Any]:
        state: dict[str, Any] = self.ask(21)[2]
        return state

    def stop(self, grace_ms: int = 2_000) -> int:
        self.send(20, 0, grace_ms)
        return self.process.wait(WAIT_S)

    def close(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait(WAIT_S)
        if self.process.stderr is not None:
            self.process.stderr.close()

    # --- calls of the host's own

    def start_call(
        self, ref: int, args: Any, *, deadline_ms: int = 0, idempotency: str | None = None, context: Any = None,
        depth: int = 0, refs: Any = (), raw_body: bytes | None = None, wanted: bool = True,
    ) -> Call:  # fmt: skip
        call = Call(self, self.next_id() if wanted else 0, depth=depth)
        if wanted:
            self.calls[call.id] = call
        head = [1, call.id, ref, deadline_ms, 0, depth, 0, context or ["", "kernel", [], None], idempotency, list(refs)]
        if raw_body is None:
            self.send(*head, args)
        else:
            self.send_bytes(b"\x9b" + b"".join(msgpack.packb(part) for part in head) + raw_body)
        return call

    def give(self, fn: Callable[[Any], Any]) -> int:
        """A number by which the agent can call a function of the host's."""
        number = self.next_id() + 10_000
        self.handles[number] = fn
        return number

    def open_refs(self, refs: list[Any], value: Any) -> Any:
        """A body as a test sees it: references become blocking callables."""
        if isinstance(value, msgpack.ExtType) and value.code == 1:
            space, number = refs[msgpack.unpackb(value.data)]
            assert space == 0, "a callable of the host came home"
            return lambda args=None: self.start_call(number, args).result()
        if isinstance(value, list):
            return [self.open_refs(refs, item) for item in value]
        if isinstance(value, dict):
            return {key: self.open_refs(refs, item) for key, item in value.items()}
        return value

    def wait_for_log(self, wanted: Callable[[tuple[int, str, str]], bool]) -> tuple[int, str, str]:
        found = wait_until(lambda: next((log for log in list(self.logs) if wanted(log)), None), "a log line")
        return found[0], found[1], found[2]


def wait_until(look: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> Any:
    """Look again and again until something is there; the deadline is only met by a failing test."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.005)
    raise AssertionError(f"{what} did not come within {timeout_s:g} s")


class FakeHost:
    """Registry, topics, files and routes between agents."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []
        self.entries: list[Entry] = []
        self.functions: dict[str, Callable[[Any], Any]] = {}
        self.subscriptions: dict[int, tuple[Peer, str]] = {}
        self.subscribe_options: list[dict[str, Any] | None] = []
        self.past: list[Any] = []
        self.files: dict[str, bytes] = {}
        self.granted: set[str] = set()
        self.requests: list[tuple[str, Any]] = []
        self.denied_keys: set[str] = set()
        self.silent_keys: set[str] = set()
        self.deepest = 0
        self._numbers = 0
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for peer in self.peers:
            peer.close()

    def start(
        self, files: Mapping[str, str], root: Path, *, pack_id: str = "alpha", python: str = sys.executable,
        agent: Path = AGENT, how: str = "--fd", limits: Mapping[str, int] | None = None,
    ) -> Peer:  # fmt: skip
        """Write a Pack below ``root`` and start an agent for it, up to WELCOME."""
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        peer = Peer(self, pack_id, root, [python, "-I", "-S", str(agent), how])
        with self._lock:  # no MIRROR of somebody else's may come before WELCOME
            peer.welcome(**(limits or {}))
            self.peers.append(peer)
        return peer

    def number(self) -> int:
        with self._lock:
            self._numbers += 1
            return self._numbers

    # --- calls

    def entry(self, key: str) -> Entry:
        with self._lock:
            return [entry for entry in self.entries if entry.key == key][-1]

    def start_call(self, key: str, args: Any = None, **options: Any) -> Call:
        entry = self.entry(key)
        return entry.peer.start_call(entry.refs[0][1], args, **options)

    def call(self, key: str, args: Any = None, **options: Any) -> Any:
        return self.start_call(key, args, **options).result()

    # --- frames from agents

    def on_frame(self, peer: Peer, frame: list[Any]) -> None:
        kind, number = frame[0], frame[1]
        if kind in {2, 3, 5, 6, 9}:
            self._answer(peer, frame)
        elif kind in {19, 22}:
            peer.answers.pop(number).put(frame)
        elif kind == 23:
            peer.logs.append((frame[2], frame[3], frame[4]))
        elif kind == 37:
            self._release(peer, frame[2])
        else:
            handlers: dict[int, Callable[..., None]] = {
                1: self._call, 4: self._cancel, 7: self._credit, 32: self._register, 33: self._unregister,
                48: self._subscribe, 49: self._unsubscribe, 50: self._publish, 64: self._request,
            }  # fmt: skip
            handlers[kind](peer, *frame[1:])

    def _answer(self, peer: Peer, frame: list[Any]) -> None:
        call = peer.calls.get(frame[1])
        if call is None:
            return
        if frame[0] in {3, 6} or (frame[0] == 2 and not frame[2] & 1):
            peer.calls.pop(frame[1])
        if call.source is None:
            call.answers.put(frame)
            return
        moved = list(frame)
        moved[1] = call.source_id
        if frame[0] in {2, 5}:
            moved[-2] = self.translate(peer, call.source, frame[-2])
        call.source.send(*moved)

    def translate(self, source: Peer, target: Peer, refs: list[Any]) -> list[Any]:
        """References as ``target`` may use them."""
        out = []
        for space, number in refs:
            if space == 1:
                owner, there = source.handles[number]
                assert owner is target, "a reference is not for third Packs"
                out.append([1, there])
            else:
                mine = self.number() + 20_000
                target.handles[mine] = (source, number)
                out.append([0, mine])
        return out

    def _call(
        self,
        peer: Peer,
        number: int,
        key: Any,
        deadline_ms: int,
        parent: int,
        _flags: int,
        idempotency: Any,
        refs: Any,
        body: Any,
    ) -> None:
        if key in self.silent_keys:
            return
        above = peer.calls.get(parent)
        target = peer.handles.get(key) if isinstance(key, int) else self.functions.get(key)
        if callable(target):
            threading.Thread(target=self._host_function, args=(peer, number, target, body), daemon=True).start()
            return
        if target is None and isinstance(key, str):
            with self._lock:
                found = [entry for entry in self.entries if entry.key == key]
            target = (found[-1].peer, found[-1].refs[0][1]) if found else None
        if target is None:
            why = "dead_reference" if isinstance(key, int) else "missing"
            peer.send(3, number, why, f"{key} is not there", "", False, "")
            return
        provider, ref = target
        depth = above.depth + 1 if above else 1
        self.deepest = max(self.deepest, depth)
        call = Call(provider, provider.next_id(), peer, number, above, depth)
        provider.calls[call.id] = call
        peer.served[number] = call
        reenter, up = 0, call.parent
        while up is not None and not reenter:
            if up.source is provider:
                reenter = up.source_id
            up = up.parent
        context: list[Any] = ["", peer.pack_id, [], None]
        moved = self.translate(peer, provider, refs)
        provider.send(1, call.id, ref, deadline_ms, 0, depth, reenter, context, idempotency, moved, body)

    def _host_function(self, peer: Peer, number: int, fn: Callable[[Any], Any], body: Any) -> None:
        try:
            peer.send(2, number, 0, [], fn(body))
        except BusError as exc:
            peer.send(3, number, exc.type, exc.title, exc.detail, exc.retryable, exc.trace)

    def _cancel(self, peer: Peer, number: int) -> None:
        call = peer.served.get(number)
        if call is not None:
            call.cancel()

    def _credit(self, peer: Peer, number: int, count: int) -> None:
        call = peer.served.get(number)
        if call is not None:
            call.peer.send(7, call.id, count)

    def _release(self, peer: Peer, numbers: list[int]) -> None:
        for number in numbers:
            peer.released.append(number)
            owner = peer.handles.pop(number, None)
            if isinstance(owner, tuple):
                owner[0].send(37, 0, [owner[1]])

    # --- registry

    def _register(
        self, peer: Peer, number: int, key: str, options: Any, meta: Any, schemas: Any, refs: Any, body: Any
    ) -> None:
        if key in self.denied_keys:
            peer.send(3, number, "denied", f"{key} is not declared", "", False, "")
            return
        with self._lock:
            if options["if_absent"] and any(entry.key == key for entry in self.entries):
                peer.send(2, number, 0, [], False)
                return
            entry = Entry(self.number(), key, peer, refs, body, meta, schemas, options, time.time())
            self.entries.append(entry)
        if options["ttl_ms"]:
            timer = threading.Timer(options["ttl_ms"] / 1000, self._drop, (peer, [entry.number]))
            timer.daemon = True
            timer.start()
        peer.send(2, number, 0, [], entry.number)
        self.mirror(key)

    def _drop(self, peer: Peer, numbers: list[int]) -> int:
        with self._lock:
            gone = [entry for entry in self.entries if entry.number in numbers and entry.peer is peer]
            for entry in gone:
                self.entries.remove(entry)
        for key in {entry.key for entry in gone}:
            self.mirror(key)
        return len(gone)

    def _unregister(self, peer: Peer, number: int, numbers: list[int]) -> None:
        peer.send(2, number, 0, [], self._drop(peer, numbers))

    def lost(self, peer: Peer) -> None:
        self._drop(peer, [entry.number for entry in self.entries])

    def mirror(self, key: str) -> None:
        with self._lock:
            for peer in self.peers:
                if not peer.closed.is_set():
                    self._mirror_to(peer, key)

    def mirror_all(self, peer: Peer) -> None:
        for key in sorted({entry.key for entry in self.entries}):
            self._mirror_to(peer, key)

    def _mirror_to(self, peer: Peer, key: str) -> None:
        with self._lock:
            entries = [entry for entry in self.entries if entry.key == key]
            overriding = [entry for entry in entries if entry.options["override"]]
            refs: list[Any] = []
            bodies = []
            for entry in overriding[-1:] or entries:
                moved = (
                    [[1, number] for _, number in entry.refs]
                    if entry.peer is peer
                    else self.translate(entry.peer, peer, entry.refs)
                )
                bodies.append(_shifted(entry.body, len(refs)))
                refs += moved
            infos = [
                {
                    "owner": True, "pack": entry.peer.pack_id, "ts": entry.ts, "meta": entry.meta or {},
                    "callable": entry.callable, "input": (entry.schemas or {}).get("input"),
                    "output": (entry.schemas or {}).get("output"), "mine": entry.peer is peer,
                    "registration": entry.number,
                }
                for entry in overriding[-1:] or entries
            ]  # fmt: skip
            try:
                peer.send(34, 0, key, infos, refs, bodies)
            except OSError:
                return

    # --- events and requests

    def _subscribe(self, peer: Peer, number: int, topic: str, options: dict[str, Any] | None = None) -> None:
        """With ``since``: answered as the host does, and ``past`` is told at once."""
        subscription = self.number()
        self.subscriptions[subscription] = (peer, topic)
        self.subscribe_options.append(options)
        if options is None or "since" not in options:
            peer.send(2, number, 0, [], subscription)
            return
        peer.send(2, number, 0, [], {"subscription": subscription, "complete": bool(self.past)})
        for body in self.past:
            event = {"specversion": "1.0", "id": "p", "source": "kernel", "type": topic, "time": "2026-01-01T00:00:00Z"}
            peer.send(51, 0, subscription, event, [], body)

    def _unsubscribe(self, peer: Peer, number: int, subscription: int) -> None:
        peer.send(2, number, 0, [], self.subscriptions.pop(subscription, None) is not None)

    def publish(self, topic: str, body: Any, source: str = "kernel") -> int:
        count = 0
        for subscription, (peer, wanted) in list(self.subscriptions.items()):
            if wanted in {topic, "*"}:
                event = {"id": str(self.number()), "source": source, "type": topic, "time": "2026-01-01T00:00:00Z"}
                peer.send(51, 0, subscription, event, [], body)
                count += 1
        return count

    def _publish(self, peer: Peer, number: int, subject: Any, _refs: Any, body: Any) -> None:
        topic = subject if isinstance(subject, str) else subject[0]
        count = self.publish(topic, body, peer.pack_id)
        if number:
            peer.send(2, number, 0, [], count)

    def _request(self, peer: Peer, number: int, operation: str, _parent: int, _refs: Any, body: Any) -> None:
        self.requests.append((operation, body))
        try:
            result = self._requested(operation, body)
        except BusError as exc:
            peer.send(3, number, exc.type, exc.title, exc.detail, exc.retryable, exc.trace)
            return
        if number:
            peer.send(2, number, 0, [], result)

    def _requested(self, operation: str, body: Any) -> Any:
        path = body.get("path", "") if isinstance(body, dict) else ""
        if operation == "userdata.read":
            if path not in self.files:
                raise BusError("error/FileNotFoundError", f"{path} does not exist", "", False, "")
            return self.files[path]
        if operation == "userdata.write":
            self.files[path] = body["data"]
            return len(body["data"])
        if operation == "userdata.list":
            return sorted(name for name in self.files if name.startswith(body["prefix"]))
        if operation == "userdata.exists":
            return path in self.files
        if operation == "userdata.stat":
            return {"size": len(self.files[path])}
        if operation == "userdata.delete":
            return self.files.pop(path, None) is not None
        if operation in {"permission.has", "permission.request"}:
            return body["type"] in self.granted
        if operation in {"journal.record", "diagnostics.record"}:
            return True
        raise BusError("error/Unknown", operation, "", False, "")


def _shifted(value: Any, by: int) -> Any:
    """A body whose reference indexes count from ``by``: several bodies share one frame's references."""
    if isinstance(value, msgpack.ExtType) and value.code == 1:
        return msgpack.ExtType(1, msgpack.packb(msgpack.unpackb(value.data) + by))
    if isinstance(value, list):
        return [_shifted(item, by) for item in value]
    if isinstance(value, dict):
        return {key: _shifted(item, by) for key, item in value.items()}
    return value

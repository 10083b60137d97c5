"""What is fuzzed: functions that take bytes and return; anything but a documented refusal escapes and is a finding.

Invariants that each target checks by itself:
  * whatever the bytes, there is an answer: a value, a frame, or the one refusal of that parser;
  * what one reader accepts, its counterpart reads alike (the agent's two codecs; frames cut anywhere or not at all);
  * a session that meets a fault of the host's own, instead of a ``FrameError``, fails the run.

Not here: how inputs are made (``guided``), what they may cost (``cost``).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec import Raw
from msgspec.msgpack import Ext

from core_runtime.drivers.link import Link
from core_runtime.drivers.turns import Turn
from core_runtime.rules import frames, values
from core_runtime.rules.frames import BusLimits, FrameError
from core_runtime.rules.values import ValueProblem
from tests.support import vectors
from tests.support.raw_agent import Grant, RawAgent, Rig

Target = Callable[[bytes], None]
NODES = 20_000


class Finding(AssertionError):  # noqa: N818 - what it is called
    """A target saw what must not be."""


def agent_module() -> Any:
    """The agent's file, as a module."""
    if "fuzzed_agent" not in sys.modules:
        spec = importlib.util.spec_from_file_location("fuzzed_agent", vectors.AGENT)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules["fuzzed_agent"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules["fuzzed_agent"]


def host_frame(data: bytes) -> None:
    """One frame for the host, and each body in it by every walk that the host makes over one."""
    try:
        frame = frames.parse(data)
    except FrameError:
        return
    if not 0 <= frame.id < 2**32:
        raise Finding(f"id {frame.id}")
    for name in frame.__struct_fields__:
        part = getattr(frame, name)
        if isinstance(part, Raw):
            host_value(bytes(memoryview(part)))


def host_value(data: bytes) -> None:
    """One body: counted, decoded with and without references, packed again."""
    _or_none(lambda: values.check_nodes(data, NODES))
    plain = _or_none(lambda: [values.unpack(data, max_nodes=NODES)])
    with_refs = _or_none(lambda: [values.unpack(data, Reference, max_nodes=NODES)])
    closed = _or_none(lambda: [values.unpack(data, values.no_references, max_nodes=NODES)])
    if plain is not None:
        # what was decoded must be a whole value to the walk over its heads too
        _or_none(lambda: values.check_nodes(data, len(data) + 1), must=True)
    if closed and not with_refs:
        raise Finding("what holds no reference is refused when references are allowed")
    if plain is not None:
        values.footprint(plain[0], 1 << 20)
    if closed is not None:
        again = _or_none(lambda: values.pack(closed[0]))
        if again is not None and not _same(values.unpack(again, values.no_references), closed[0]):
            raise Finding("a value that was packed again is another")


class Reference:
    """Stands for a callable."""

    def __init__(self, index: int) -> None:
        if index > 1000:
            raise ValueProblem("value.malformed", "a reference to nothing")


def _or_none(work: Callable[[], Any], *, must: bool = False) -> Any:
    try:
        return work()
    except ValueProblem as exc:
        if must:
            raise Finding(f"decoded, and refused by the walk over its heads: {exc}") from exc
        if not exc.type.startswith("value."):
            raise Finding(exc.type) from exc
        return None


def _same(one: Any, other: Any) -> bool:
    """Equal, and not a number being the same number is equal too."""
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return [*map(repr, one)] == [*map(repr, other)] and all(map(_same, one.values(), other.values()))
    return isinstance(one, Ext) or (type(one) is type(other) and bool(one == other))


# --- the agent's copy


@dataclass
class Feed:
    """The agent's end of a connection: bytes in pieces, then nothing more."""

    pieces: list[bytes]
    sent: bytearray = field(default_factory=bytearray)

    def wait(self, _until: float | None) -> bool:
        return bool(self.pieces)

    def recv_into(self, view: Any) -> int:
        if not len(view):
            raise Finding("no room to read into")
        piece = self.pieces.pop(0)
        count = min(len(piece), len(view))
        view[:count] = piece[:count]
        if count < len(piece):
            self.pieces.insert(0, piece[count:])
        return count

    def send(self, data: bytes) -> None:
        self.sent += data

    def bound(self, _seconds: int) -> None:
        """Nothing waits here."""


def _agents(pieces: list[bytes]) -> Iterator[Any]:
    module = agent_module()
    import msgpack._cmsgpack  # the C extension, as the agent loads it

    for codec in (module.FastCodec(msgpack._cmsgpack), module.PureCodec()):
        yield module.Agent(Feed(list(pieces)), codec)


def agent_frame(data: bytes) -> None:
    """One frame for an agent and its body, by both codecs; they agree on what is a frame and what it says."""
    seen = [_read_frame(agent, data) for agent in _agents([])]
    if seen[0] != seen[1]:
        raise Finding(f"the C codec reads {seen[0]!r:.300}, the other {seen[1]!r:.300}")


def _read_frame(agent: Any, data: bytes) -> Any:
    module = agent_module()
    try:
        fields = agent.parse(memoryview(data))
    except module.ProtocolError:
        return "no frame"
    said = []
    for part in fields:
        if type(part) is module.Raw:
            try:
                said.append(repr(agent.decode(part)))
            except module.RemoteError:
                said.append("refused")  # for which of several faults, depends on where a reader begins
        else:
            said.append(repr(part))
    return [text.replace("ExtType", "") for text in said] if "0x" not in "".join(said) else len(said)


def agent_stream(data: bytes) -> None:
    """A stream of frames: however it is cut, an agent reads the same frames of it. The first byte says how it is cut."""
    if not data:
        return
    step, stream = data[0] + 1, data[1:]
    whole: list[Any] = []
    cut: list[Any] = []
    for agent, into in zip(_agents([stream]), (whole, cut), strict=True):
        agent.link.pieces = [stream][: bool(stream)] if into is whole else [stream[at : at + step] for at in range(0, len(stream), step)]
        agent.frame_bytes = 4096
        _drain(agent, into)
    if whole != cut:
        raise Finding(f"{len(whole)} frames in one piece, {len(cut)} in pieces of {step}")


def _drain(agent: Any, into: list[Any]) -> None:
    module = agent_module()
    try:
        while (fields := agent.read(0.0)) is not None:
            into.append([repr(part) for part in fields if type(part) in {int, str, bool, type(None)}])
    except module.ProtocolError:
        into.append("no frame")


# --- the host's end of a connection


class Collector:
    """A peer of a link that only keeps what comes."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.reason = ""

    def on_frame(self, frame: memoryview) -> None:
        if not frame or len(frame) > FRAME_BYTES:
            raise Finding(f"a frame of {len(frame)} bytes")
        self.frames.append(bytes(frame))

    def on_lost(self, reason: str) -> None:
        self.reason = reason

    def on_long(self, frame: Any) -> bool:
        del frame
        return False

    def on_room(self) -> None:
        """Nothing was written."""


FRAME_BYTES = 4096


def host_stream(data: bytes) -> None:
    """A stream of frames: however it is cut, the host's link hands on the same frames. The first byte says how it is cut."""
    if not data:
        return
    step, stream = data[0] + 1, data[1:]
    whole, cut = (_linked(stream, size) for size in (len(stream) or 1, step))
    if whole != cut:
        raise Finding(f"{len(whole)} frames in one piece, {len(cut)} in pieces of {step}")


def _linked(stream: bytes, step: int) -> list[bytes]:
    loop = asyncio.new_event_loop()
    try:
        collector = Collector()
        link = Link(collector, BusLimits(frame_bytes=FRAME_BYTES), loop, Turn())
        at = 0
        while at < len(stream) and not link.closed:
            room = link.get_buffer(-1)
            count = min(step, len(stream) - at, len(room))
            room[:count] = stream[at : at + count]
            at += count
            link.buffer_updated(count)
            held = -1
            while not link.closed and len(collector.frames) != held:
                held = len(collector.frames)
                link.buffer_updated(0)  # others had their turn
        return collector.frames
    finally:
        loop.close()


class Sessions:
    """A real bus with two Packs: one whose frames are fuzzed, one that must not notice."""

    limits = BusLimits(registrations=64, references=256, in_flight=32)
    agents = RawAgent

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._problems: list[str] = []
        self._loop.set_exception_handler(lambda _loop, context: self._problems.append(str(context)))
        self._folder = tempfile.TemporaryDirectory(prefix="rumi-")
        self._generation = 0
        self._run(self._open())

    def close(self) -> None:
        """Everything ends."""
        self._run(self._end())
        self._loop.close()
        self._folder.cleanup()

    def __call__(self, data: bytes) -> None:
        """Frames with their lengths, as one Pack sends them; they are handled in turn, to the end or the first refusal."""
        self._run(self._feed(data))
        if self._problems:
            raise Finding(self._problems.pop())
        bad = [issue for issue in self._rig.diagnostics.issues() if issue.code == "unexpected_error"]
        if bad:
            raise Finding(f"{bad[0].title}: {bad[0].detail}")

    def _run(self, work: Any) -> None:
        self._loop.run_until_complete(work)

    async def _open(self) -> None:
        self._rig = Rig(self._folder.name, limits=self.limits, requests=_serve)
        self._rig.kind = self.agents
        await self._rig.bus.start()
        self._good, _ = await self._rig.agent("beta", provides={"j"}, calls={"k"})
        await self._good.registered("j")
        await self._fresh()

    async def _fresh(self) -> None:
        self._generation += 1
        agent, self._session = await self._rig.agent(
            "alpha", self._generation, provides={"k", "data"}, calls={"j", "k"}, publish=("topic.*",), subscribe=("topic.*",)
        )
        self._agent = agent
        await agent.registered("k")
        self._asked = asyncio.ensure_future(self._rig.bus.call("k", "x", timeout_s=60))

    async def _feed(self, data: bytes) -> None:
        at = 0
        session = self._session
        refused = False
        while at + 4 <= len(data) and not session.dead:
            size = int.from_bytes(data[at : at + 4], "little")
            frame = data[at + 4 : at + 4 + size]
            if not 0 < size == len(frame) <= session.limits.frame_bytes:
                break
            at += 4 + size
            try:
                session.on_frame(memoryview(frame))
            except FrameError:
                refused = True
                break
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await self._after(refused=refused)

    async def _after(self, *, refused: bool) -> None:
        session = self._session
        for agent in (self._good, self._agent):
            agent.reader._buffer.clear()  # type: ignore[attr-defined]  # nobody reads it
        if refused or session.dead or session.congested or len(session.incoming) > 4:
            self._asked.cancel()
            with contextlib.suppress(BaseException):
                await self._asked
            session.abort("next")
            await asyncio.wait([session.closed], timeout=5)
            if not session.dead or session.incoming or session.outgoing or session.references.held:
                raise Finding("a session that ended still holds something")
            await self._agent.close()
            self._rig.agents.remove(self._agent)
            await self._fresh()

    async def _end(self) -> None:
        self._asked.cancel()
        for agent in self._rig.agents:
            await agent.close()
        await self._rig.bus.close()


async def _serve(_session: Any, operation: str, args: Any) -> Any:
    return [operation, args]


def seeds(name: str) -> list[bytes]:
    """What a target begins with: the frames of ``tests/vectors``, and what earlier runs kept."""
    kept = Path(__file__).parent / "corpus" / f"{name}.hex"
    found = [bytes.fromhex(line) for line in kept.read_text().split()] if kept.exists() else []
    if name.endswith("files"):
        from tests.fuzz import files  # as in ``target``

        return [*found, *files.seeds(name)]
    conversations = [*vectors.load("transcripts"), *vectors.load("host")]
    said = {sender: [bytes.fromhex(f["hex"]) for c in conversations for f in vectors.frames_of(c) if f["from"] == sender] for sender in ("agent", "host")}
    sender = "agent" if name.startswith("host") or name == "session" else "host"
    if name == "host_value":
        return [*found, *(bytes.fromhex(entry["hex"]) for entry in vectors.load("values"))]
    if name.endswith("_frame"):
        return [*found, *(data[4:] for data in dict.fromkeys(said[sender]))]
    streams = [b"".join(bytes.fromhex(f["hex"]) for f in vectors.frames_of(c) if f["from"] == sender) for c in conversations]
    prefix = b"" if name == "session" else b"\x02"
    return [*found, *(prefix + data for data in [*dict.fromkeys(said[sender]), *streams] if data)]


TARGETS: dict[str, Target] = {
    "host_frame": host_frame, "host_value": host_value, "host_stream": host_stream, "agent_frame": agent_frame, "agent_stream": agent_stream,
}  # fmt: skip
NAMES = (*TARGETS, "session", "files", "agent_files")


@contextlib.contextmanager
def target(name: str) -> Iterator[Target]:
    """A target that is ready."""
    from tests.fuzz import files  # it builds on this module

    if name in TARGETS or name == "agent_files":
        yield TARGETS.get(name, files.agent_files)
        return
    sessions = Sessions() if name == "session" else files.FileSessions()
    try:
        yield sessions
    finally:
        sessions.close()


__all__ = ["NAMES", "Finding", "Grant", "Target", "seeds", "target"]

"""Frames of the bus: kinds, typed headers, limits, and the checks that decide whether a frame is a frame. Pure.

The format is ``docs/reference/protocol.md``. A frame is parsed once, here, into a struct; its ``body`` stays raw
MessagePack that aliases the buffer it was read into: forward it before the next read, or decode it at once.

Invariants:
  * Whatever bytes come in, ``parse`` returns a struct or raises ``FrameError``; it never allocates more than a small
    multiple of the frame's own length (sizes announced by a header are believed only as far as bytes follow).
  * Fields without a fixed shape (metadata, schemas, probes) are raw too: they are decoded through the node cap of
    ``rules.values``, never by the frame parser.

Not here: values and references (``values``), splitting a byte stream into frames (``drivers.link``), meaning (``bus``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import force_setattr

CALL: Final = 1
RESULT: Final = 2
ERROR: Final = 3
CANCEL: Final = 4
STREAM_ITEM: Final = 5
STREAM_END: Final = 6
STREAM_CREDIT: Final = 7
CHUNK: Final = 8
STREAM_BATCH: Final = 9
HELLO: Final = 16
WELCOME: Final = 17
RUN_PHASE: Final = 18
PHASE_DONE: Final = 19
SHUTDOWN: Final = 20
PING: Final = 21
PONG: Final = 22
LOG: Final = 23
REGISTER: Final = 32
UNREGISTER: Final = 33
MIRROR: Final = 34
RELEASE: Final = 37
SUBSCRIBE: Final = 48
UNSUBSCRIBE: Final = 49
PUBLISH: Final = 50
EVENT: Final = 51
REQUEST: Final = 64

PROTOCOL_VERSION: Final = 1
FLAG_STREAM: Final = 1
"""Bit 0 of RESULT's flags: the value is a stream."""
FLAG_CLOSER: Final = 2
"""Bit 1 of RESULT's flags: the stream began with the window that the CALL asked for."""
WINDOW_SHIFT: Final = 8
"""From this bit on, flags of a host's CALL are how many items of a stream it wants under way at first; 0: the usual."""

EXT_STORED: Final = 3
"""Extension type of a whole body that lies in a memory file: fixext 8, number and size, u32 little endian."""
EXT_CHUNKED: Final = 4
"""Extension type of a whole body that came in CHUNK frames before: fixext 8, number and size, u32 little endian."""

OWN, HELD, SOURCE = 0, 1, 2
"""Spaces of a reference, as its *sender* sees them: a callable of its own, one that the receiver owns, or (in CALL) a
stream of its own, to be read once while the call runs.
"""

TITLE_CHARS, DETAIL_CHARS, TRACE_CHARS, LOG_CHARS = 500, 2_000, 8_000, 8_000
REFS_PER_FRAME = NUMBERS_PER_FRAME = 1_024
"""A frame is the least that is done in one turn: what it may name bounds how long others wait for theirs."""
KEY_CHARS = 256
ITEMS_PER_BATCH: Final = 64
"""Likewise: each may have to be checked, and sent on, by itself."""
LARGEST_BYTES: Final = 64 * 1024 * 1024 + 4096
"""Of one value: 64 MiB, and what stands around them."""

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Key = Annotated[str, Meta(min_length=1, max_length=KEY_CHARS)]
Idempotency = Annotated[str, Meta(max_length=256)] | None
Reference = tuple[Annotated[int, Meta(ge=0, le=1)], U32]
Refs = Annotated[list[Reference], Meta(max_length=REFS_PER_FRAME)]
CallRefs = Annotated[list[tuple[Annotated[int, Meta(ge=0, le=2)], U32]], Meta(max_length=REFS_PER_FRAME)]
ErrorFields = tuple[str, str, str, bool, str]


class FrameError(ValueError):
    """The bytes are no frame of the protocol: the connection they came from ends."""


class _Bare(Struct, array_like=True, gc=False):
    """A frame that brings no references."""

    refs: ClassVar[tuple[()]] = ()


class CallFrame(Struct, tag=CALL, array_like=True, forbid_unknown_fields=True, gc=False):
    """CALL, agent → host."""

    id: U32
    key: Key | U32
    deadline_ms: U32
    parent: U32
    flags: U32
    idempotency: Idempotency
    refs: CallRefs
    body: Raw


class ResultFrame(Struct, tag=RESULT, array_like=True, forbid_unknown_fields=True, gc=False):
    """RESULT."""

    id: U32
    flags: U32
    refs: Refs
    body: Raw


class ErrorFrame(_Bare, tag=ERROR, array_like=True, forbid_unknown_fields=True, gc=False):
    """ERROR."""

    id: U32
    type_: str
    title: str
    detail: str
    retryable: bool
    trace: str


class CancelFrame(_Bare, tag=CANCEL, array_like=True, forbid_unknown_fields=True, gc=False):
    """CANCEL."""

    id: U32


class ItemFrame(Struct, tag=STREAM_ITEM, array_like=True, forbid_unknown_fields=True, gc=False):
    """STREAM_ITEM."""

    id: U32
    refs: Refs
    body: Raw


class BatchFrame(Struct, tag=STREAM_BATCH, array_like=True, forbid_unknown_fields=True, gc=False):
    """STREAM_BATCH: ``body`` is an array of items, none of which refers to anything."""

    id: U32
    refs: Annotated[list[Reference], Meta(max_length=0)]
    body: Raw

    def items(self) -> list[Raw]:
        """Each item by itself; they alias the frame. Raises ``FrameError`` where there are none, or too many."""
        try:
            found = _decode_array(self.body)
        except msgspec.DecodeError:
            raise FrameError("a batch is an array of items") from None
        if not 0 < len(found) <= ITEMS_PER_BATCH:
            raise FrameError(f"a batch of {len(found)} items (1 to {ITEMS_PER_BATCH} are allowed)")
        return found


class EndFrame(_Bare, tag=STREAM_END, array_like=True, forbid_unknown_fields=True, gc=False):
    """STREAM_END."""

    id: U32
    error: ErrorFields | None


class CreditFrame(_Bare, tag=STREAM_CREDIT, array_like=True, forbid_unknown_fields=True, gc=False):
    """STREAM_CREDIT."""

    id: U32
    n: U32


class ChunkFrame(_Bare, tag=CHUNK, array_like=True, forbid_unknown_fields=True, gc=False):
    """CHUNK: ``piece`` aliases the buffer that was read into."""

    id: U32
    piece: memoryview


class HelloFrame(_Bare, tag=HELLO, array_like=True, forbid_unknown_fields=True, gc=False):
    """HELLO: ``hello`` is the raw map."""

    id: U32
    hello: Raw


class PhaseDoneFrame(_Bare, tag=PHASE_DONE, array_like=True, forbid_unknown_fields=True, gc=False):
    """PHASE_DONE: ``outcome`` is the raw map."""

    id: U32
    outcome: Raw


class PongFrame(_Bare, tag=PONG, array_like=True, forbid_unknown_fields=True, gc=False):
    """PONG: ``state`` is the raw map."""

    id: U32
    state: Raw


class LogFrame(_Bare, tag=LOG, array_like=True, forbid_unknown_fields=True, gc=False):
    """LOG."""

    id: U32
    level: U32
    source: Annotated[str, Meta(max_length=200)]
    text: str


class RegisterFrame(Struct, tag=REGISTER, array_like=True, forbid_unknown_fields=True, gc=False):
    """REGISTER: ``options``, ``meta`` and ``schemas`` are raw."""

    id: U32
    key: Key
    options: Raw
    meta: Raw
    schemas: Raw
    refs: Refs
    body: Raw


class UnregisterFrame(_Bare, tag=UNREGISTER, array_like=True, forbid_unknown_fields=True, gc=False):
    """UNREGISTER."""

    id: U32
    registrations: Annotated[list[U32], Meta(max_length=NUMBERS_PER_FRAME)]


class ReleaseFrame(_Bare, tag=RELEASE, array_like=True, forbid_unknown_fields=True, gc=False):
    """RELEASE."""

    id: U32
    numbers: Annotated[list[U32], Meta(max_length=NUMBERS_PER_FRAME)]


class SubscribeFrame(_Bare, tag=SUBSCRIBE, array_like=True, forbid_unknown_fields=True, gc=False):
    """SUBSCRIBE: ``options`` is the raw map; an agent may leave it out."""

    id: U32
    topic: Key
    options: Raw = Raw(b"\x80")


class UnsubscribeFrame(_Bare, tag=UNSUBSCRIBE, array_like=True, forbid_unknown_fields=True, gc=False):
    """UNSUBSCRIBE."""

    id: U32
    subscription: U32


class PublishFrame(Struct, tag=PUBLISH, array_like=True, forbid_unknown_fields=True, gc=False):
    """PUBLISH: the topic, alone or with the id of the host's CALL that the agent is serving.

    A list and no tuple: msgspec 0.22 mixes up the lengths of a bounded text and of a tuple beside it, and crashes.
    """

    id: U32
    subject: Key | list[Key | U32]

    def named(self) -> tuple[str, int]:
        """Topic, and the call or 0. Raises ``FrameError``."""
        if isinstance(self.subject, str):
            return self.subject, 0
        match self.subject:
            case [str() as topic, int() as parent]:
                return topic, parent
        raise FrameError("PUBLISH names a topic, or a topic and a call")
    refs: Refs
    body: Raw


class RequestFrame(Struct, tag=REQUEST, array_like=True, forbid_unknown_fields=True, gc=False):
    """REQUEST."""

    id: U32
    operation: Annotated[str, Meta(max_length=64)]
    parent: U32
    refs: Refs
    body: Raw


AgentFrame = (
    CallFrame
    | ResultFrame
    | ErrorFrame
    | CancelFrame
    | ItemFrame
    | BatchFrame
    | EndFrame
    | CreditFrame
    | ChunkFrame
    | HelloFrame
    | PhaseDoneFrame
    | PongFrame
    | LogFrame
    | RegisterFrame
    | UnregisterFrame
    | ReleaseFrame
    | SubscribeFrame
    | UnsubscribeFrame
    | PublishFrame
    | RequestFrame
)
"""Everything that an agent may send."""

_decode: Callable[[memoryview | bytes], AgentFrame] = msgspec.msgpack.Decoder(AgentFrame).decode
_decode_array: Callable[[Raw], list[Raw]] = msgspec.msgpack.Decoder(list[Raw]).decode
_encode_into = msgspec.msgpack.Encoder().encode_into
_set_length = struct.Struct("<I").pack_into


class BusLimits(Struct, frozen=True):
    """Limits of one connection; those in ``told`` are told to the agent in WELCOME.

    What is longer than ``file_bytes`` (at most ``frame_bytes``) goes in a memory file where that way is open, else in a
    frame or in chunks. ``in_flight_bytes`` is what the arguments of the calls that a Pack was given and has not
    answered may take.
    ``backlog_bytes`` is what a Pack may leave unread before new calls to it are refused, ``backlog_hard_bytes``
    before it is cut off. ``batch_bytes`` is what the items of one frame may take together: with its head it fits the
    buffer that an agent reads into. ``sources`` is how many streams the arguments of a call may hold. ``orphans``
    bounds the calls in flight that name no parent (shedding a parent buys little), ``abandoned`` the cancelled calls
    that a Pack has not answered. ``registry_bytes`` is what all registrations may take together; ``register_burst`` and
    ``register_per_s`` are units of work (``registrations`` says what costs how many). ``value_bytes`` is what the
    unfinished large values of a Pack may take, ``values`` how many there may be, ``values_bytes`` what those of all
    Packs take together. Of ``requests`` in flight, ``requests_at_once`` are being served and the rest wait with at
    most ``request_bytes`` of arguments: the threads that serve them belong to everybody.
    """

    frame_bytes: int = 1024 * 1024
    file_bytes: int = 256 * 1024
    in_flight: int = 1_024
    calls_per_s: int = 20_000
    in_flight_bytes: int = LARGEST_BYTES
    depth: int = 32
    deadline_ms: int = 30_000
    stream_credit: int = 16
    batch_bytes: int = 15 * 1024
    sources: int = 16
    threads: int = 48
    orphans: int = 512
    abandoned: int = 256
    references: int = 65_536
    registrations: int = 1_024
    subscriptions: int = 256
    requests: int = 128
    requests_at_once: int = 4
    request_bytes: int = 8 * 1024 * 1024
    channels: int = 256
    registry_bytes: int = 8 * 1024 * 1024
    value_bytes: int = LARGEST_BYTES
    values: int = 16
    values_bytes: int = 256 * 1024 * 1024
    register_burst: int = 2_000
    register_per_s: int = 200
    backlog_bytes: int = 8 * 1024 * 1024
    backlog_hard_bytes: int = 32 * 1024 * 1024
    log_bytes_per_s: int = 64 * 1024
    decode_nodes: int = 131_072
    credit_ahead: int = 4_096
    max_deadline_ms: int = 24 * 3600 * 1000
    strays: int = 64

    def __post_init__(self) -> None:
        """Nothing that is longer than a frame goes in one."""
        if self.file_bytes > self.frame_bytes:
            force_setattr(self, "file_bytes", self.frame_bytes)

    def told(self) -> dict[str, int]:
        """What WELCOME carries."""
        return {
            "frame_bytes": self.frame_bytes,
            "in_flight": self.in_flight,
            "depth": self.depth,
            "deadline_ms": self.deadline_ms,
            "stream_credit": self.stream_credit,
            "batch_bytes": self.batch_bytes,
            "sources": self.sources,
            "threads": self.threads,
            "registry_bytes": self.registry_bytes,
            "value_bytes": self.value_bytes,
            "values": self.values,
        }


def parse(frame: memoryview | bytes) -> AgentFrame:
    """Parse one frame from an agent, without its length prefix. Raises ``FrameError``, nothing else."""
    try:
        return _decode(frame)
    except RecursionError:
        raise FrameError("a value is nested too deep to be framed") from None
    except (msgspec.DecodeError, UnicodeDecodeError, MemoryError, OverflowError) as exc:
        raise FrameError(str(exc)[:300]) from exc


def append(out: bytearray, frame: tuple[Any, ...], limit_bytes: int) -> int:
    """Append ``frame`` with its length prefix to ``out``; returns the frame's length.

    A longer one than ``limit_bytes`` leaves ``out`` as it was and raises ``FrameError``.
    """
    start = len(out)
    out += b"\0\0\0\0"
    try:
        _encode_into(frame, out, -1)
    except BaseException:
        del out[start:]
        raise
    size = len(out) - start - 4
    if size > limit_bytes:
        del out[start:]
        raise FrameError(f"a frame of {size} bytes exceeds the limit of {limit_bytes}")
    _set_length(out, start, size)
    return size

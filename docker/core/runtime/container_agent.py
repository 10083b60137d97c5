"""The agent: the one process of ours inside a sandbox. It speaks the bus protocol, loads the Pack, runs its callables.

One file, because it is copied alone into a read-only runtime folder; Python 3.9 syntax, because it runs on whatever
Python the sandbox has; no import that is not needed, because a Pack's start is counted in milliseconds. The only thing
it takes from outside the standard library is msgpack's C extension, when that lies beside it; without it the same
format is spoken by the codec below, slowly, and HELLO says so.

Invariants:
  * The socket is the Pack's identity and the host's word is law. Nothing in here protects the host: a Pack may change
    everything in this process. The agent keeps an honest Pack working and a confused one diagnosable.
  * HELLO, with what the agent sees of its sandbox, is sent before a byte of the Pack is read; descriptors 0, 1, 2 are
    not the bus by then, so neither ``print`` nor a crashing library can damage the stream.
  * Exactly one thread holds the *lead*: the right to read the socket and to touch the read buffer. A thread that runs a
    handler while it holds the lead keeps it in a one-element list, the token; whoever pops that element owns the lead.
  * Every CALL with an id is answered exactly once.
  * Nothing that a garbage collection may run (``__del__``) takes a lock or writes to the socket.

How it waits. Packs with plain handlers only: the leader reads and runs the handler itself; a ticker thread hands the
lead to another thread when a handler is still running after two milliseconds. A handler that waits for the bus reads it
itself, if it holds the lead. Packs with ``async def`` handlers: an event loop whose ``select`` is the reader; their
plain handlers go to threads. A call that descends from one of our own waiting calls runs on the stack that waits.

Not here: the host's end of the protocol, and any decision about rights: those are the host's alone.
"""

from __future__ import annotations

import posix
import sys
from _collections import deque  # type: ignore[import-not-found]  # `collections` costs a millisecond
from _contextvars import Context, ContextVar
from _struct import Struct
from _thread import _count as count_threads
from _thread import allocate_lock, get_ident, start_new_thread
from errno import EMFILE, ENFILE
from itertools import count as count_from
from time import monotonic, sleep, time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, Callable, NoReturn

VERSION = "1.0"
PROTOCOL = 1

(CALL, RESULT, ERROR, CANCEL, STREAM_ITEM, STREAM_END, STREAM_CREDIT, CHUNK, STREAM_BATCH) = range(1, 10)
(HELLO, WELCOME, RUN_PHASE, PHASE_DONE, SHUTDOWN, PING, PONG, LOG) = range(16, 24)
REGISTER, UNREGISTER, MIRROR, RELEASE = 32, 33, 34, 37
SUBSCRIBE, UNSUBSCRIBE, PUBLISH, EVENT = 48, 49, 50, 51
REQUEST = 64
EARLY_EVENTS = 4_096
"""Events kept for subscriptions whose number is not known yet."""
WITH_BODY = frozenset({CALL, RESULT, STREAM_ITEM, STREAM_BATCH, MIRROR, EVENT})
IN_CHUNKS = frozenset({CALL, RESULT, STREAM_ITEM, REQUEST})
"""Kinds whose body may come in CHUNK frames before them."""
IN_FILES = frozenset({CALL, RESULT})
"""Kinds whose body may come in a memory file."""

EXT_REFERENCE, EXT_DATE = 1, 2
CHUNKED = b"\xd7\x04"
"""The head of a body that came in chunks: fixext 8 of type 4, then number and size."""
STORED = b"\xd7\x03"
"""The head of a body that lies in a memory file: fixext 8 of type 3, then number and size."""
F_ADD_SEALS, SEALS = 1033, 15
NEVER = 1 << 62
NEVER_S = float("inf")
OWN, HELD, SOURCE = 0, 1, 2
SPACES = frozenset({OWN, HELD})
CALL_SPACES = frozenset({OWN, HELD, SOURCE})
FLAG_STREAM = 1
FLAG_CLOSER = 2
WINDOW_SHIFT = 8

FRAME_BYTES = 1024 * 1024
MAX_DEPTH = 64
TITLE_CHARS, DETAIL_CHARS, TRACE_CHARS, LOG_CHARS = 500, 2_000, 8_000, 8_000
KEY_CHARS = 256
CAUSES = 8
READ_BYTES = 16 * 1024
NODES = 131_072  # values of one body where most are containers
FEW_NODES = 500
CONTAINER_BYTES = bytes([*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF])
CONTAINER_TABLE = bytes(byte in CONTAINER_BYTES for byte in range(256))
# head → (bytes of the number behind it, bytes beside what that counts, values for each; 0: it counts bytes)
WIDTHS = {
    0xC4: (1, 0, 0), 0xC5: (2, 0, 0), 0xC6: (4, 0, 0), 0xC7: (1, 1, 0), 0xC8: (2, 1, 0), 0xC9: (4, 1, 0),
    0xD9: (1, 0, 0), 0xDA: (2, 0, 0), 0xDB: (4, 0, 0), 0xDC: (2, 0, 1), 0xDD: (4, 0, 1), 0xDE: (2, 0, 2),
    0xDF: (4, 0, 2),
}  # fmt: skip
NAMED = 1_024  # references, or numbers given back, of one frame
EAGER_BYTES = 4_096
"""Frames up to this length are decoded at once; the bodies of longer ones when they are used, so that queued calls
hold bytes and not the objects that a hostile body may unfold into."""
EXPORTS = 65_536
TICK_S = 0.002
LONG_TURN_S, SHORT_TURN_S = 0.002, 0.0002
"""How long a thread may keep the interpreter from others that want it."""
RESTLESS_TICKS = 16
"""How long the ticker goes on after the last call. Each sign of life that the host asks an idle Pack for wakes it."""
SETTLING = 4
"""After how many of its first bursts of work the memory that was needed for them only goes back to the system."""
ARENAS = -8
"""``mallopt``'s M_ARENA_MAX."""
SHARED = -1
"""A slot that is one of those that all callers share; others are a depth, and OWN_SLOT less a depth."""
OWN_SLOT = -2
LENDERS = 16
"""So many callers may have a slot from one call for the next, each in the place of who has had one for longest."""
HOSTS = frozenset({"", "kernel"})
"""Callers that are no Pack."""
LOOP_PATIENCE = 50
"""Ticks after which the lead is taken from an event loop that does not return to its select."""
IDLE_S = 10.0
READ_S = 1.0
"""For how long one read waits while somebody has a deadline."""
SLACK_S = 2.0
"""What a local deadline leaves to the host, whose own answer says more than ours."""
OUT_FRAMES = 32
WIDE_ITEMS = 256
"""So many items a producer may be ahead of a reader that has taken as many, all short, and goes on as fast."""
FAST_S = 0.001
"""In which such a reader takes half of what may be under way."""
QUICK_S = 0.0001
"""An item that was made within this is quick: to send it by itself would take as long."""
QUICK_ITEMS = 8
"""So many quick ones, one after the other, and those that follow go together."""
BATCH_ITEMS = 64

EXIT_OK, EXIT_USAGE, EXIT_LOST, EXIT_PROTOCOL = 0, 2, 3, 4

PIECE_BYTES = 60 * 1024
"""Of a body that is sent in chunks; with its header it fits the buffer that the host reads into."""
U32 = Struct("<I")
FRAME_START = Struct("<IH")
"""A frame's length, and the first two bytes of its array: how many fields, and the kind."""
FREQUENT = frozenset({CALL << 8 | 0x9B, RESULT << 8 | 0x95, STREAM_ITEM << 8 | 0x94, STREAM_BATCH << 8 | 0x94})
"""How the arrays begin that come most often; refs and body are the last two fields of each."""
NUMBER_SIZE = Struct("<II")
I32 = Struct("@i")
TIMEVAL = Struct("@ll")
PLAIN = frozenset({dict, list, str, int, float, bool, type(None), bytes, tuple})
PACKED = PLAIN - {bytes}
"""What is nearly always a short answer; bytes may be long, and then go out unpacked."""
LEAVES = frozenset({str, int, float, bool, type(None), bytes})
HERE = frozenset({bytes, bytearray, memoryview})

new = object.__new__

CURRENT: ContextVar[Any] = ContextVar("rumi_current", default=None)
set_current = CURRENT.set


# ---- errors, importable by Pack code as ``from rumi import RemoteError``
# ruff: noqa: N818, FBT001, FBT002 - the names and positional flags are what Pack code uses; compat.md fixes most of them


class RemoteError(Exception):
    """Something on the other side of the bus failed.

    ``type`` is the error's type on the bus (``missing``, ``timeout``, ``error/ValueError``), ``title`` one line,
    ``detail`` more, ``retryable`` whether trying again may help, ``trace`` the other Pack's traceback, if any.
    """

    def __init__(
        self,
        type: str,  # noqa: A002
        title: str = "",
        detail: str = "",
        retryable: bool = False,
        trace: str = "",
    ) -> None:
        super().__init__(type, title, detail)
        self.type = type
        self.title = title
        self.detail = detail
        self.retryable = retryable
        self.trace = trace

    def __str__(self) -> str:
        head = f"[{self.type}] {self.title}" if self.title else f"[{self.type}]"
        return f"{head}: {self.detail}" if self.detail and self.detail != self.title else head


class MissingInterface(RemoteError, LookupError):
    """Nobody provides the key, or its provider is down."""


class Unavailable(RemoteError):
    """The provider ended while it served the call."""


class CallTimeout(RemoteError, TimeoutError):
    """No answer within the deadline."""


class CallCancelled(RemoteError):
    """The call, or the one it was made for, was cancelled."""


class Denied(RemoteError, PermissionError):
    """This Pack has no right to do that."""


class LimitReached(RemoteError):
    """Too many, too large or too deep."""


class SchemaError(RemoteError, ValueError):
    """The arguments or the result don't match the interface's schema."""


class DeadReference(RemoteError, LookupError):
    """The callable is gone: its Pack released it, or was started anew."""


class ShuttingDown(RemoteError):
    """The other side accepts no more calls."""


class ValueRefused(RemoteError, ValueError):
    """A value can't cross the bus; the detail names the path to it."""


ERRORS: dict[str, type[RemoteError]] = {
    "missing": MissingInterface,
    "unavailable": Unavailable,
    "timeout": CallTimeout,
    "cancelled": CallCancelled,
    "denied": Denied,
    "secret_taken": Denied,
    "limit": LimitReached,
    "depth": LimitReached,
    "schema": SchemaError,
    "dead_reference": DeadReference,
    "shutting_down": ShuttingDown,
}


def remote_error(fields: Any) -> RemoteError:
    """The exception for ``[type, title, detail, retryable, trace]``."""
    kind, title, detail, retryable, trace = fields
    chosen = ERRORS.get(kind) or (ValueRefused if kind.startswith("value.") else RemoteError)
    return chosen(kind, title, detail, bool(retryable), trace)


def describe(exc: BaseException, roots: tuple[str, ...]) -> list[Any]:
    """``[type, title, detail, retryable, trace]`` of an exception that Pack code raised."""
    name = type(exc).__name__
    if isinstance(exc, Refusal):
        return [exc.type, exc.title[:TITLE_CHARS], exc.detail[:DETAIL_CHARS], exc.retryable, ""]
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001 - a Pack's __str__ may do anything; the error must still arrive
        text = "(its text can't be read)"
    text = clean(text[: DETAIL_CHARS * 2])
    kind = getattr(exc, "type", None)
    if not (isinstance(kind, str) and len(kind) <= 200 and is_error_type(kind)):
        kind = "error/" + clean(name[:100])
    title = exc.title if isinstance(exc, RemoteError) else (f"{name}: {text}" if text else name)
    retryable = getattr(exc, "retryable", False) is True
    return [kind, title[:TITLE_CHARS], text[:DETAIL_CHARS], retryable, trace_of(exc, roots)]


def out_of_files(exc: BaseException | None) -> bool:
    """Whether an exception, or one that it came from, says that no further file can be opened."""
    try:
        for _ in range(CAUSES):
            if isinstance(exc, OSError) and exc.errno in (EMFILE, ENFILE):
                return True
            exc = exc and (exc.__cause__ or exc.__context__)
    except Exception:  # noqa: BLE001 - a Pack's class may do anything here; the error must still arrive
        return False
    return False


def check_name(what: str, name: Any) -> None:
    """Refuse what the host would end the connection for: an author's mistake is worth a sentence of its own."""
    if not isinstance(name, str):
        raise TypeError(f"{what} is a text, got {type(name).__name__}")
    if not 1 <= len(name) <= KEY_CHARS:
        raise ValueError(f"{what} has 1 to {KEY_CHARS} characters, got {len(name)}: {name!r:.80}")


class Refusal(RemoteError):
    """An answer that the agent itself gives to the host: its type goes out as it is."""


def is_error_type(text: str) -> bool:
    """Whether ``text`` matches ``^[a-z][a-z0-9_.-]*/[A-Za-z0-9_./-]+$``."""
    head, slash, tail = text.partition("/")
    if not (slash and head and tail and text.isascii() and "a" <= head[0] <= "z"):
        return False
    lower = head.replace("_", "").replace(".", "").replace("-", "")
    rest = tail.replace("_", "").replace(".", "").replace("/", "").replace("-", "")
    return (not lower or (lower.isalnum() and lower == lower.lower())) and (not rest or rest.isalnum())


def clean(text: str) -> str:
    """``text`` without lone surrogates, which no codec would carry."""
    return text.encode("utf-8", "replace").decode("utf-8")


def trace_of(exc: BaseException | None, roots: tuple[str, ...]) -> str:
    """Traceback of ``exc`` and up to three causes, cut to the Pack's own frames."""
    parts: list[str] = []
    for _ in range(4):
        if exc is None:
            break
        lines = []
        at = exc.__traceback__
        while at is not None:
            code = at.tb_frame.f_code
            if code.co_filename.startswith(roots):
                lines.append(f'  File "{code.co_filename}", line {at.tb_lineno}, in {code.co_name}\n')
                source = source_line(code.co_filename, at.tb_lineno)
                if source:
                    lines.append(f"    {source}\n")
            at = at.tb_next
        if len(lines) > 40:
            lines = [*lines[:20], f"  ... {len(lines) - 40} lines left out\n", *lines[-20:]]
        if lines:
            parts.append("".join(lines) + type(exc).__name__)
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    return clean("\ncaused by\n".join(parts))[:TRACE_CHARS]


def source_line(path: str, number: int) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib costs milliseconds
            for index, line in enumerate(file, 1):
                if index == number:
                    return line.strip()[:200]
    except OSError:
        return ""
    return ""


class ProtocolError(Exception):
    """The host's bytes are no frame of the protocol: the connection ends."""


# ---- values: MessagePack in pure Python, equal to what the C extension does with the agent's options


class ExtType:
    """An extension value on its way out, for the codec below."""

    __slots__ = ("code", "data")

    def __init__(self, code: int, data: bytes) -> None:
        self.code = code
        self.data = data


_U16, _U32, _U64, _I8, _I16, _I32, _I64, _F64, _F32 = (
    Struct(f) for f in (">H", ">I", ">Q", ">b", ">h", ">i", ">q", ">d", ">f")
)
NESTING = 511
"""Where the C extension gives up as well; senders stop at MAX_DEPTH already."""


def pure_pack(value: Any, default: Callable[[Any], Any] | None = None) -> bytes:
    """MessagePack of ``value``; what it can't carry goes through ``default`` once.

    Raises TypeError, ValueError (a surrogate, too deep) or OverflowError.
    """
    out = bytearray()
    _pack(value, out, default, NESTING)
    return bytes(out)


def _pack(value: Any, out: bytearray, default: Callable[[Any], Any] | None, left: int) -> None:
    if left < 0:
        raise ValueError("recursion limit exceeded.")
    if value is None:
        out.append(0xC0)
    elif value is True:
        out.append(0xC3)
    elif value is False:
        out.append(0xC2)
    elif isinstance(value, int):
        _pack_int(value, out)
    elif isinstance(value, float):
        out.append(0xCB)
        out += _F64.pack(value)
    elif isinstance(value, str):
        data = value.encode("utf-8")
        _head(len(data), out, (0xA0, 32), 0xD9, 0xDA, 0xDB)
        out += data
    elif isinstance(value, (bytes, bytearray, memoryview)):
        data = bytes(value)
        _head(len(data), out, None, 0xC4, 0xC5, 0xC6)
        out += data
    elif isinstance(value, (list, tuple)):
        _head(len(value), out, (0x90, 16), None, 0xDC, 0xDD)
        for item in value:
            _pack(item, out, default, left - 1)
    elif isinstance(value, dict):
        _head(len(value), out, (0x80, 16), None, 0xDE, 0xDF)
        for key, item in value.items():
            _pack(key, out, default, left - 1)
            _pack(item, out, default, left - 1)
    elif isinstance(value, ExtType):
        _pack_ext(value.code, value.data, out)
    elif _is_aware(value):
        _pack_ext(-1, _timestamp(value), out)
    elif default is not None:
        _pack(default(value), out, None, left)
    else:
        raise TypeError(f"can not serialize {type(value).__name__!r} object")


def _pack_int(value: int, out: bytearray) -> None:
    if -32 <= value < 128:
        out.append(value & 0xFF)
    elif value >= 0:
        if value < 1 << 8:
            out += bytes((0xCC, value))
        elif value < 1 << 16:
            out += b"\xcd" + _U16.pack(value)
        elif value < 1 << 32:
            out += b"\xce" + _U32.pack(value)
        elif value < 1 << 64:
            out += b"\xcf" + _U64.pack(value)
        else:
            raise OverflowError("Integer value out of range")
    elif value >= -(1 << 7):
        out += b"\xd0" + _I8.pack(value)
    elif value >= -(1 << 15):
        out += b"\xd1" + _I16.pack(value)
    elif value >= -(1 << 31):
        out += b"\xd2" + _I32.pack(value)
    elif value >= -(1 << 63):
        out += b"\xd3" + _I64.pack(value)
    else:
        raise OverflowError("Integer value out of range")


def _head(size: int, out: bytearray, fix: tuple[int, int] | None, code8: int | None, code16: int, code32: int) -> None:
    if fix is not None and size < fix[1]:
        out.append(fix[0] | size)
    elif code8 is not None and size < 1 << 8:
        out += bytes((code8, size))
    elif size < 1 << 16:
        out.append(code16)
        out += _U16.pack(size)
    else:
        out.append(code32)
        out += _U32.pack(size)


def _pack_ext(code: int, data: bytes, out: bytearray) -> None:
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(len(data))
    if fixed is not None:
        out.append(fixed)
    else:
        _head(len(data), out, None, 0xC7, 0xC8, 0xC9)
    out.append(code & 0xFF)
    out += data


def _is_aware(value: Any) -> bool:
    module = date_module()
    return module is not None and isinstance(value, module.datetime) and value.tzinfo is not None


def _timestamp(value: Any) -> bytes:
    """MessagePack's timestamp: 32, 64 or 96 bits, the shortest that holds it."""
    from datetime import datetime, timedelta, timezone

    since = value - datetime(1970, 1, 1, tzinfo=timezone.utc)
    seconds, micros = divmod(since // timedelta(microseconds=1), 1_000_000)
    nanos = micros * 1_000
    if 0 <= seconds < 1 << 34:
        packed = nanos << 34 | seconds
        return _U32.pack(packed) if packed < 1 << 32 else _U64.pack(packed)
    return _U32.pack(nanos) + _I64.pack(seconds)


class PureReader:
    """Decodes one MessagePack text. Sizes that the text announces are believed only as far as bytes follow."""

    __slots__ = ("at", "data", "hook")

    def __init__(self, data: bytes, hook: Callable[[int, bytes], Any]) -> None:
        self.data = data
        self.at = 0
        self.hook = hook

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise ValueError("Unpack failed: incomplete input")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, form: Struct) -> Any:
        return form.unpack(self.take(form.size))[0]

    def array_head(self) -> int:
        code = self.take(1)[0]
        if 0x90 <= code < 0xA0:
            return code & 0x0F
        if code == 0xDC:
            return int(self.number(_U16))
        if code == 0xDD:
            return int(self.number(_U32))
        raise ValueError("an array is expected")

    def value(self, left: int = NESTING) -> Any:
        if left < 0:
            raise ValueError("nested too deep")
        code = self.take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 256
        if code < 0x90:
            return self.mapping(code & 0x0F, left)
        if code < 0xA0:
            return self.array(code & 0x0F, left)
        if code < 0xC0:
            return self.take(code & 0x1F).decode("utf-8")
        simple = _SIMPLE.get(code)
        if simple is not None:
            return simple[0]
        form = _NUMBERS.get(code)
        if form is not None:
            return self.number(form)
        kind, form = _SIZED.get(code, ("", _U16))
        if kind == "str":
            return self.take(self.number(form)).decode("utf-8")
        if kind == "bin":
            return self.take(self.number(form))
        if kind == "array":
            return self.array(self.number(form), left)
        if kind == "map":
            return self.mapping(self.number(form), left)
        if kind == "ext":
            return self.extension(self.number(form))
        if 0xD4 <= code <= 0xD8:
            return self.extension(1 << (code - 0xD4))
        raise ValueError("Unpack failed: unknown format")

    def array(self, size: int, left: int) -> list[Any]:
        if size > len(self.data) - self.at:
            raise ValueError("Unpack failed: incomplete input")
        return [self.value(left - 1) for _ in range(size)]

    def mapping(self, size: int, left: int) -> dict[Any, Any]:
        if size * 2 > len(self.data) - self.at:
            raise ValueError("Unpack failed: incomplete input")
        out = {}
        for _ in range(size):
            key = self.value(left - 1)
            out[key] = self.value(left - 1)
        return out

    def extension(self, size: int) -> Any:
        code = _I8.unpack(self.take(1))[0]
        data = self.take(size)
        return read_timestamp(data) if code == -1 else self.hook(code, data)


_SIMPLE: dict[int, tuple[Any]] = {0xC0: (None,), 0xC2: (False,), 0xC3: (True,)}
_NUMBERS = {
    0xCA: _F32, 0xCB: _F64, 0xCC: Struct(">B"), 0xCD: _U16, 0xCE: _U32, 0xCF: _U64, 0xD0: _I8, 0xD1: _I16, 0xD2: _I32,
    0xD3: _I64,
}  # fmt: skip
_SIZED = {
    0xC4: ("bin", Struct(">B")), 0xC5: ("bin", _U16), 0xC6: ("bin", _U32), 0xC7: ("ext", Struct(">B")),
    0xC8: ("ext", _U16), 0xC9: ("ext", _U32), 0xD9: ("str", Struct(">B")), 0xDA: ("str", _U16), 0xDB: ("str", _U32),
    0xDC: ("array", _U16), 0xDD: ("array", _U32), 0xDE: ("map", _U16), 0xDF: ("map", _U32),
}  # fmt: skip


def read_timestamp(data: bytes) -> Any:
    from datetime import datetime, timedelta, timezone

    if len(data) == 4:
        seconds, nanos = _U32.unpack(data)[0], 0
    elif len(data) == 8:
        (packed,) = _U64.unpack(data)
        seconds, nanos = packed & 0x3_FFFF_FFFF, packed >> 34
    elif len(data) == 12:
        nanos, seconds = _U32.unpack(data[:4])[0], _I64.unpack(data[4:])[0]
    else:
        raise ValueError("a timestamp has 4, 8 or 12 bytes")
    if nanos > 999_999_999:
        raise ValueError("a timestamp has less than a thousand million nanoseconds")
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    return epoch + timedelta(seconds=seconds, microseconds=nanos // 1_000)


class PureCodec:
    """The codec in Python: the announced slow mode."""

    name = "pure"
    ext_type: Any = ExtType

    def __init__(self) -> None:
        self.pool: list[Any] = [self]

    def new_packer(self) -> Any:
        """Something with ``pack``, where the pool has none left."""
        return self

    def pack(self, value: Any) -> bytes:
        return pure_pack(value)

    def pack_with(self, value: Any, default: Callable[[Any], Any]) -> bytes:
        return pure_pack(value, default)

    def unpackb(self, data: Any, *, ext_hook: Callable[[int, bytes], Any], **_options: Any) -> Any:
        """As the C extension's function of this name, with the options that the agent gives it."""
        return self.unpack(data, ext_hook)

    def unpack(self, data: Any, hook: Callable[[int, bytes], Any]) -> Any:
        """The one value in ``data``. Raises any of ValueError, TypeError, OverflowError, RecursionError."""
        reader = PureReader(bytes(data), hook)
        value = reader.value()
        if reader.at != len(reader.data):
            raise ValueError("unpack(b) received extra data.")
        return value

    def split(self, data: bytes, hook: Callable[[int, bytes], Any]) -> tuple[list[Any], int]:
        """All fields of a frame but the last, and where the last begins."""
        reader = PureReader(data, hook)
        return [reader.value() for _ in range(reader.array_head() - 1)], reader.at


class FastCodec:
    """msgpack's C extension."""

    name = "c"

    def __init__(self, module: Any) -> None:
        self.packer = module.Packer
        self.unpacker = module.Unpacker
        self.unpackb = module.unpackb
        self.ext_type = ExtType
        # A packer keeps a buffer and must not be entered twice: a dict subclass may run Python code in the middle.
        self.pool: list[Any] = [self.new_packer()]

    def new_packer(self) -> Any:
        """Something with ``pack``, where the pool has none left."""
        return self.packer(datetime=True)

    def pack(self, value: Any) -> bytes:
        try:
            packer = self.pool.pop()
        except IndexError:
            packer = self.new_packer()
        data: bytes = packer.pack(value)
        if len(data) <= FRAME_BYTES:  # its buffer stays as large as what it packed
            self.pool.append(packer)  # not after an exception: that packer is not trusted again
        return data

    def pack_with(self, value: Any, default: Callable[[Any], Any]) -> bytes:
        return bytes(self.packer(datetime=True, default=default).pack(value))

    def unpack(self, data: Any, hook: Callable[[int, bytes], Any]) -> Any:
        return self.unpackb(data, ext_hook=hook, strict_map_key=False, timestamp=3)

    def split(self, data: bytes, hook: Callable[[int, bytes], Any]) -> tuple[list[Any], int]:
        reader = self.unpacker(ext_hook=hook, strict_map_key=False, timestamp=3, max_buffer_size=len(data))
        reader.feed(data)
        return [reader.unpack() for _ in range(reader.read_array_header() - 1)], reader.tell()


def load_codec() -> Any:
    """The C extension from the runtime folder, else the codec above. A Pack's own ``msgpack`` stays its own."""
    folder = (__file__.rpartition("/")[0] or ".") + "/msgpack"
    try:
        names = posix.listdir(folder)
    except OSError:
        return PureCodec()
    if not any(name.startswith("_cmsgpack.") for name in names):
        return PureCodec()
    mine = {"msgpack", "msgpack.exceptions", "msgpack.ext", "msgpack._cmsgpack", "datetime"}
    before = {name: sys.modules[name] for name in mine if name in sys.modules}
    try:
        return FastCodec(extension_alone(folder))
    except ImportError:
        return PureCodec()
    finally:
        for name in mine:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def extension_alone(folder: str) -> Any:
    """The C extension of msgpack without the Python around it, which would be two fifths of what an agent imports.

    It asks its package for two classes (``ExtType`` is ours, ``Timestamp`` is never made: ``timestamp=3``) and
    ``datetime`` for its C interface, which lies in ``_datetime``. The caller puts ``sys.modules`` right afterwards.
    """
    kind = type(sys)
    package: Any = kind("msgpack")
    package.__path__ = [folder]
    package.ext = kind("msgpack.ext")
    package.ext.ExtType = ExtType
    package.ext.Timestamp = type("Timestamp", (), {})
    import _datetime  # type: ignore[import-not-found]

    sys.modules.pop("msgpack._cmsgpack", None)
    sys.modules.update({"msgpack": package, "msgpack.ext": package.ext, "datetime": _datetime})
    from msgpack import _cmsgpack

    return _cmsgpack


def no_extensions(code: int, data: bytes) -> Any:
    """Extension hook for frames without references: a reference here sends the frame to the slow path."""
    if code == EXT_DATE:
        return read_date(data)
    raise ValueError(f"extension {code} is not expected here")


def check_nodes(data: Any) -> None:
    """Refuse a body of very many containers before they are made: a megabyte of empty maps would take 72 in memory.

    The host does the same with what it decodes; what it only forwards costs who reads it. A few values that take it all
    are seen at once; else the bytes that may be heads of containers are counted, and only text or bytes full of them
    need the whole walk.
    """
    if few_nodes(data, FEW_NODES):
        return
    heads = 0
    for start in range(0, len(data), PIECE_BYTES):
        piece = bytes(data[start : start + PIECE_BYTES])
        heads += len(piece) - len(piece.translate(None, CONTAINER_BYTES))
    if heads > NODES and not few_nodes(data, NODES):
        raise ValueRefused("value.too_large", "a value is too large to be read", f"more than {NODES} values in it")


def few_nodes(data: Any, most: int) -> bool:
    """Whether a body has no more than ``most`` values, containers or not."""
    at, size, left, seen = 0, len(data), 1, 0
    while left and at < size:
        code = data[at]
        at += 1
        left -= 1
        seen += 1
        if seen + left > most:
            return False
        if 0x80 <= code < 0x90:
            left += 2 * (code & 15)
        elif 0x90 <= code < 0xA0:
            left += code & 15
        elif 0xA0 <= code < 0xC0:
            at += code & 31
        elif code in WIDTHS:
            wide, extra, per = WIDTHS[code]
            number = int.from_bytes(data[at : at + wide], "big")
            at += wide + extra + (number if per == 0 else 0)
            left += number * per
        elif 0xCA <= code < 0xD4:
            at += (4, 8, 1, 2, 4, 8, 1, 2, 4, 8)[code - 0xCA]
        elif 0xD4 <= code < 0xD9:
            at += 1 + (1 << (code - 0xD4))
    return True


def are_refs(refs: Any, spaces: frozenset[int]) -> bool:
    """Whether this is ``[[space, number], ...]``."""
    if type(refs) is not list:
        return False
    for ref in refs:
        if type(ref) is not list or len(ref) != 2:
            return False
        space, number = ref
        if type(space) is not int or space not in spaces or type(number) is not int or number < 0:
            return False
    return True


def read_date(data: bytes) -> Any:
    from datetime import date

    return date.fromisoformat(data.decode("ascii"))


class Raw:
    """A body not yet decoded, with the references that it may point to.

    It holds them as long as it lives: what nobody takes out of it is given back with it, whatever became of its frame.
    """

    __slots__ = ("agent", "data", "refs")

    def __init__(self, data: Any, refs: list[Any], agent: Agent) -> None:
        self.data = data
        self.refs = refs
        self.agent = agent
        for space, number in refs:
            if space != HELD:
                with agent.mutex:
                    agent.holds[number] = agent.holds.get(number, 0) + 1

    def __del__(self) -> None:
        for space, number in self.refs:
            if space != HELD:
                self.agent.released.append(number)


def refuse_value(value: Any, streams: bool = False) -> ValueRefused:
    """Find what in ``value`` the bus can't carry; called after a codec refused it, so speed does not matter.

    ``streams``: iterators may stand in it.
    """
    problem = _problem(value, "$", 0, set(), streams)
    kind, text = problem or ("value.unsupported", "a value that can't be encoded")
    return ValueRefused(kind, "the value can't cross the bus", text[:DETAIL_CHARS])


def _problem(value: Any, path: str, depth: int, above: set[int], streams: bool) -> tuple[str, str] | None:
    where = f" at {clean(path[:300])}"
    if value is None or isinstance(value, (bool, float, bytes, bytearray, memoryview)):
        return None
    if isinstance(value, int):
        return None if -(1 << 63) <= value < 1 << 64 else ("value.too_large", f"an integer beyond 64 bits{where}")
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return "value.unsupported", f"text with a lone surrogate{where}"
        return None
    if isinstance(value, (dict, list, tuple)):
        if id(value) in above:
            return "value.unsupported", f"a value that contains itself{where}"
        if depth >= MAX_DEPTH:
            return "value.too_deep", f"nesting deeper than {MAX_DEPTH}{where}"
        above.add(id(value))
        found = _problem_inside(value, path, depth, above, streams)
        above.discard(id(value))
        return found
    if callable(value) or is_date(value) or _is_aware(value) or (streams and is_stream(value)):
        return None
    hint = "; give it a time zone" if type(value).__name__ == "datetime" else ""
    return "value.unsupported", f"a value of type {clean(type(value).__name__[:100])!r}{where}{hint}"


def _problem_inside(value: Any, path: str, depth: int, above: set[int], streams: bool) -> tuple[str, str] | None:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in pairs:
        step = f".{key[:80]}" if isinstance(key, str) else f"[{key!r:.80}]"
        if isinstance(value, dict):
            found = _problem(key, f"{path} (key {key!r:.80})", depth + 1, above, False)
            if found:
                return found
        found = _problem(item, path + step, depth + 1, above, streams)
        if found:
            return found
    return None


def is_stream(value: Any) -> bool:
    """Whether this gives item after item: an iterator, plain or asynchronous."""
    kind = type(value)
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__")


def is_date(value: Any) -> bool:
    module = date_module()
    return module is not None and isinstance(value, module.date) and not isinstance(value, module.datetime)


def date_module() -> Any:
    """Whichever module made the dates of this process; None while nothing could have made one."""
    return sys.modules.get("datetime") or sys.modules.get("_datetime")


def too_deep(value: Any, left: int) -> bool:
    if left <= 0:
        return True
    for item in value.values() if isinstance(value, dict) else value:
        if type(item) not in LEAVES and isinstance(item, (dict, list, tuple)) and too_deep(item, left - 1):
            return True
    return False


def array_length(data: Any) -> int:
    """How many values an array holds that is packed there; 0 for anything else."""
    head = data[0] if len(data) else 0
    if head in {0xDC, 0xDD}:
        return int.from_bytes(data[1 : 3 if head == 0xDC else 5], "big")
    return head - 0x90 if 0x90 <= head < 0xA0 else 0


def is_too_deep(value: Any) -> bool:
    return type(value) not in LEAVES and isinstance(value, (dict, list, tuple)) and too_deep(value, MAX_DEPTH)


def check_depth(value: Any) -> None:
    """Refuse what is nested too deep."""
    if is_too_deep(value):
        raise refuse_value(value)


# ---- what the sandbox looks like from inside

CANARIES = (
    "/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
    "/run/crio/crio.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/var/lib/docker", "/dev/mem",
    "/dev/kmem", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/sda", "/dev/vda", "/dev/nvme0n1",
)  # fmt: skip
"""Paths that no sandbox has: engine sockets, buses and devices of a host. Folders of people are looked into below."""


def read_text(path: str, limit_bytes: int = 1 << 20) -> str:
    try:
        fd = posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while limit_bytes > 0:
            part = posix.read(fd, min(limit_bytes, 65_536))
            if not part:
                break
            parts.append(part)
            limit_bytes -= len(part)
        return b"".join(parts).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        posix.close(fd)


def probe(landlock: int) -> dict[str, Any]:
    """What HELLO reports, from the kernel; what can't be read is empty and counts against the sandbox."""
    status = {}
    for line in read_text("/proc/self/status").splitlines():
        name, _, value = line.partition(":")
        status[name] = value.split()
    try:
        pids = sum(1 for name in posix.listdir("/proc") if name.isdigit())
    except OSError:
        pids = 0
    version = sys.version_info
    return {
        "uid": posix.geteuid(),
        "gid": posix.getegid(),
        "groups": posix.getgroups(),
        "cap_eff": "".join(status.get("CapEff", [])),
        "cap_bnd": "".join(status.get("CapBnd", [])),
        "no_new_privs": status.get("NoNewPrivs") == ["1"],
        "seccomp": int((status.get("Seccomp") or ["0"])[0]),
        "pid_count": pids,
        "interfaces": interfaces(),
        "writable": writable_mounts(),
        "env_names": sorted(clean(name.decode("utf-8", "replace"))[:200] for name in posix.environ)[:256],
        "canaries": canaries(),
        "landlock": landlock,
        "rlimits": rlimits(),
        "python": f"{version[0]}.{version[1]}.{version[2]}",
        "kernel": " ".join(posix.uname()[2:4]),
    }


def interfaces() -> list[str]:
    lines = read_text("/proc/net/dev").splitlines()[2:]
    if lines:
        return [line.partition(":")[0].strip() for line in lines]
    import _socket

    try:
        return [name for _, name in _socket.if_nameindex()]
    except OSError:
        return []


def writable_mounts() -> list[str]:
    """Mount points of files and folders that are mounted read-write and that this user may write to."""
    found = []
    for line in read_text("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(" "), right.split(" ")
        if len(fields) < 6 or len(tail) < 3:
            continue
        if "ro" in fields[5].split(",") or "ro" in tail[2].split(",") or tail[0] in {"proc", "devpts", "mqueue"}:
            continue
        point = fields[4].replace(r"\040", " ").replace(r"\011", "\t").replace(r"\012", "\n").replace(r"\134", "\\")
        try:
            plain = posix.stat(point).st_mode & 0o170000 in {0o040000, 0o100000}
            if plain and posix.access(point, 2):
                found.append(clean(point))
        except OSError:
            continue
    return found[:64]


def canaries() -> list[str]:
    found = []
    for path in CANARIES:
        try:
            posix.stat(path)
        except OSError:
            continue
        found.append(path)
    for folder in ("/home", "/root"):
        try:
            names = posix.listdir(folder)
        except OSError:
            continue
        found += [clean(f"{folder}/{name}") for name in names[:8]]
    return found


def rlimits() -> dict[str, list[Any]]:
    """``{"open files": [soft, hard]}`` with the kernel's own names; None = unlimited."""
    out = {}
    for line in read_text("/proc/self/limits").splitlines()[1:]:
        if line.startswith("Max "):
            values = line[26:].split()[:2]
            out[line[4:26].strip()] = [int(v) if v.isdigit() else None for v in values]
    return out


def apply_landlock() -> int:
    """Confine this process, and all that it will start; the ABI applied, 0 where the kernel or Python can't.

    Reading is allowed everywhere (the mounts decide what is there), executing everywhere but in places that can be
    written, writing below /tmp and /dev/shm only. Must run while there is one thread: it binds the calling one.
    """
    call = c_function("syscall")
    if call is None:
        return 0
    create, add, restrict = 444, 445, 446
    abi = call(create, None, 0, 1)
    if abi < 1:
        return 0
    execute, write, read_file, read_dir, truncate = 1, 1 << 1, 1 << 2, 1 << 3, 1 << 14
    handled = (1 << 13) - 1
    if abi >= 2:
        handled |= 1 << 13
    if abi >= 3:
        handled |= truncate
    ioctl = 1 << 15 if abi >= 5 else 0
    handled |= ioctl
    scoped = 3 if abi >= 6 else 0
    size = 24 if abi >= 6 else (16 if abi >= 4 else 8)
    ruleset = call(create, Struct("<QQQ").pack(handled, 0, scoped)[:size], size, 0)
    if ruleset < 0:
        return 0
    try:
        everything = handled & ~execute
        writable = everything & ~ioctl
        rules = [("/", read_file | read_dir), ("/tmp", writable), ("/dev/shm", writable)]  # noqa: S108 - inside
        device = (read_file | write | truncate) & handled
        rules += [(f"/dev/{name}", device) for name in ("null", "zero", "full", "tty")]
        outside = {"tmp", "dev", "proc", "sys", "run", "packages"}  # packages are imported, never executed
        rules += [("/" + name, execute) for name in posix.listdir("/") if name not in outside]
        for path, rights in rules:
            try:
                # what a link points to is below another entry, or below /tmp, which must not become executable by it
                fd = posix.open(path, posix.O_PATH | posix.O_CLOEXEC | posix.O_NOFOLLOW)
            except OSError:
                continue
            call(add, ruleset, 1, Struct("<Qi").pack(rights, fd), 0)
            posix.close(fd)
        no_new_privs = c_function("prctl")
        if no_new_privs is not None:
            no_new_privs(38, 1, 0, 0, 0)
        return abi if call(restrict, ruleset, 0) == 0 else 0
    except OSError:
        return 0
    finally:
        posix.close(ruleset)


def c_function(name: str) -> Callable[..., int] | None:
    """A function of the C library that takes int, bytes and None and gives an int; None where that can't be had.

    ``_ctypes`` is what lies below ``ctypes``, whose own import costs as much as the agent's.
    """
    try:
        import _ctypes

        address = _ctypes.dlsym(_ctypes.dlopen(None, 2), name)  # type: ignore[arg-type]
        function = _ctypes.call_function
    except (ImportError, AttributeError, OSError):
        return None
    return lambda *arguments: int(function(address, arguments))


# ---- the connection


class SocketLink:
    """A connected stream socket."""

    carries_files = True

    def __init__(self, sock: Any) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.recv_into = sock.recv_into
        self.lock = allocate_lock()
        self.bounded = False
        self.second = -1

    def expect_second(self, on: bool) -> None:
        """While ``on``: keep the second socket that comes with what is read."""
        self.recv_into = self.recv_with if on else self.sock.recv_into

    def recv_with(self, view: Any) -> int:
        count, files, _ = receive_files(self.sock, view, 0)
        for fd in files:
            if self.second >= 0:
                posix.close(fd)
            else:
                self.second = fd
        return count

    def wait(self, until: float | None) -> bool:
        """Before a read: whether one is due now. The kernel bounds each read to a second while somebody has a deadline:
        asking it with a system call of its own before each read would cost more than the read.
        """
        if until is not None:
            if monotonic() >= until:
                return False
            if not self.bounded:
                self.bound(1)
        return True

    def bound(self, seconds: int) -> None:
        """Let ``recv_into`` raise BlockingIOError after so long; 0: wait for ever."""
        import _socket

        self.bounded = seconds > 0
        self.sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVTIMEO, TIMEVAL.pack(seconds, 0))

    def send(self, data: bytes) -> None:
        """Write all of ``data``; whole frames of several threads never mix."""
        with self.lock:
            try:
                self.sock.sendall(data)
            except OSError:
                leave(EXIT_LOST)


class PipeLink:
    """Two descriptors: the container's attached stdio."""

    carries_files = False

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.fd = read_fd
        self.write_fd = write_fd
        self.lock = allocate_lock()
        self.bounded = False

    def wait(self, until: float | None) -> bool:
        """Before a read: whether one is due now; waits for it until then."""
        return until is None or readable(self.fd, until - monotonic())

    def bound(self, seconds: int) -> None:
        """Let ``recv_into`` raise BlockingIOError after a second; 0: wait for ever."""
        self.bounded = seconds > 0

    def recv_into(self, view: Any) -> int:
        if self.bounded and not readable(self.fd, READ_S):
            raise BlockingIOError
        return posix.readv(self.fd, [view])

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        with self.lock:
            try:
                while view:
                    view = view[posix.write(self.write_fd, view) :]
            except OSError:
                leave(EXIT_LOST)


def receive_files(sock: Any, view: Any, flags: int) -> tuple[int, list[int], bool]:
    """One read, and the descriptors that came with it; whether some were lost, for want of room."""
    import _socket

    count, carried, told, _ = sock.recvmsg_into([view], _socket.CMSG_SPACE(8), flags | _socket.MSG_CMSG_CLOEXEC)
    files = []
    for level, kind, data in carried:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            files += [I32.unpack_from(data, at)[0] for at in range(0, len(data) - 3, 4)]
    return count, files, bool(told & _socket.MSG_CTRUNC)


class MemoryFiles:
    """The second socket: large bodies in sealed memory files, one message with a descriptor for each."""

    def __init__(self, fd: int, agent: Agent) -> None:
        import _socket

        self.sock = _socket.socket(fileno=fd)
        self.agent = agent
        self.given = 0
        self.makes = True
        try:
            posix.close(posix.memfd_create("value", 1))
        except (AttributeError, OSError):  # no such call, or the sandbox refuses it: what it sends goes in chunks
            self.makes = False
        self.sock.send(NUMBER_SIZE.pack(0, int(self.makes)))

    def store(self, parts: list[Any]) -> Any:
        """A sealed file with these bytes; None where that can't be made now."""
        import fcntl

        try:
            fd = posix.memfd_create("value", 3)  # MFD_CLOEXEC | MFD_ALLOW_SEALING
        except OSError:
            return None
        try:
            size = 0
            for part in parts:
                view = memoryview(part)
                size += len(view)
                while view:
                    view = view[posix.write(fd, view) :]
            fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
        except OSError:
            posix.close(fd)
            return None
        return Stored(fd, size)

    def give(self, stored: Stored) -> bytes:
        """Send a file ahead; what its frame says of it, or nothing where it could not be sent. One at a time."""
        import _socket

        number = self.given % 0xFFFFFFFF + 1
        told = NUMBER_SIZE.pack(number, len(stored))
        carried = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, I32.pack(stored.fd))]
        try:
            self.sock.sendmsg([told], carried, _socket.MSG_DONTWAIT)
        except OSError:
            return b""
        self.given = number
        return STORED + told

    def take(self, mark: bytes) -> Any:
        """The body that ``mark`` names, mapped; nothing where this process has no room for it. The lead is held."""
        import mmap
        from _socket import MSG_DONTWAIT

        number, size = NUMBER_SIZE.unpack_from(mark, 2)
        message = bytearray(16)
        while True:
            try:
                count, files, lost = receive_files(self.sock, message, MSG_DONTWAIT)
            except OSError:
                count, files, lost = 0, [], False
            if not count:
                for fd in files:
                    posix.close(fd)
                raise ProtocolError("a body in a memory file that did not come")
            came, told = NUMBER_SIZE.unpack_from(message)
            if came == number and told == size:
                break
            for fd in files:  # of a frame that did not go out
                posix.close(fd)
        try:
            return mmap.mmap(files[0], size, access=mmap.ACCESS_READ)
        except (IndexError, OSError, ValueError) as exc:
            if lost:
                self.agent.refused["files"] = self.agent.refused.get("files", 0) + 1
            self.agent.log(40, "stderr", f"a large value could not be taken: {exc}")
            return b""
        finally:
            for fd in files:
                posix.close(fd)


class Stored:
    """A body in a memory file that is to be sent. It is opened once: the host hands on none that is open besides."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        return posix.pread(self.fd, min(part.stop, self.size) - part.start, part.start)

    def __del__(self) -> None:
        posix.close(self.fd)


def leave(code: int) -> NoReturn:
    """End the process at once: after the connection is gone nobody could see anything more of it."""
    posix._exit(code)  # noqa: SLF001 - os._exit; `os` itself is not imported for it


def readable(fd: int, timeout_s: float) -> bool:
    """Whether ``fd`` has something to read within ``timeout_s``."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0, timeout_s * 1000)))


# ---- callables


class Export:
    """One of the Pack's callables that the other side may call by ``number``.

    ``call(args, ctx)`` adapts to the number of parameters that the callable takes. ``slow`` > 0: recent runs kept the
    lead for too long, so it starts in another thread at once.
    """

    __slots__ = ("call", "fn", "is_async", "number", "slow")

    def __init__(self, fn: Any, number: int = 0) -> None:
        self.fn = fn
        self.number = number
        self.slow = 0
        self.is_async = is_async(fn)
        count = positional(fn, 2)
        self.call: Any = fn
        if count == 1:
            self.call = lambda args, ctx: fn(args)  # noqa: ARG005
        elif count < 1:
            self.call = lambda args, ctx: fn()  # noqa: ARG005


class Source:
    """An iterator that went out in the arguments of a call: who was called may ask for its items, once.

    It runs beside the handler that waits for the answer: an iterator that does not go on must not keep that from it.
    """

    __slots__ = ("fn", "is_async", "number", "slow")

    def __init__(self, iterator: Any) -> None:
        self.fn = iterator
        self.number = 0
        self.slow = 8
        self.is_async = not hasattr(type(iterator), "__next__")

    def call(self, _args: Any, _ctx: Any) -> Any:
        iterator, self.fn = self.fn, None
        if iterator is None:
            raise Refusal("dead_reference", "a stream is read once")
        return iterator


def unwrap(fn: Any) -> tuple[Any, int]:
    """The function inside ``fn`` (bound methods, partials, callable objects), and how many parameters are taken."""
    taken = 0
    for _ in range(16):
        if hasattr(fn, "__func__"):
            taken += 1
            fn = fn.__func__
        elif hasattr(fn, "func") and hasattr(fn, "args") and hasattr(fn, "keywords"):
            taken += len(fn.args)
            fn = fn.func
        elif isinstance(fn, type):
            fn, taken = getattr(fn, "__init__"), taken + 1  # noqa: B009 - of the class as it is, not as mypy guesses
        elif not hasattr(fn, "__code__") and hasattr(type(fn).__call__, "__code__"):
            taken += 1
            fn = type(fn).__call__
        else:
            break
    return fn, taken


def is_async(fn: Any) -> bool:
    """Whether calling ``fn`` gives a coroutine or an asynchronous generator."""
    if isinstance(fn, type):
        return False
    code = getattr(unwrap(fn)[0], "__code__", None)
    return code is not None and bool(code.co_flags & 0x280)


def positional(fn: Any, unknown: int) -> int:
    """How many positional arguments ``fn`` takes; many for ``*args``."""
    inner, taken = unwrap(fn)
    code = getattr(inner, "__code__", None)
    if code is None:
        return 1 if type(fn).__name__ == "builtin_function_or_method" or isinstance(fn, type) else unknown
    if code.co_flags & 0x04:
        return 64
    return max(0, int(code.co_argcount) - taken)


class CallContext:
    """What a handler gets as ``ctx``: a read-only mapping of the call that it serves."""

    __slots__ = ("_run",)

    def __init__(self, run: Run) -> None:
        self._run = run

    def cancelled(self) -> bool:
        """Whether the caller no longer waits."""
        return self._run.cancelled

    def _as_dict(self) -> dict[str, Any]:
        run = self._run
        trace, caller, chain, flow = run.context
        return {
            "call_id": run.id,
            "caller": caller,
            "asserted_chain": tuple(chain),
            "deadline_s": run.remaining_s(),
            "trace": trace,
            "idempotency_key": run.idempotency,
            "flow": flow,
            "cancelled": self.cancelled,
        }

    def __getitem__(self, key: str) -> Any:
        return self._as_dict()[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self._as_dict().get(key, default)

    def keys(self) -> Any:
        return self._as_dict().keys()

    def values(self) -> Any:
        return self._as_dict().values()

    def items(self) -> Any:
        return self._as_dict().items()

    def __iter__(self) -> Iterator[str]:
        return iter(self._as_dict())

    def __len__(self) -> int:
        return len(self._as_dict())

    def __contains__(self, key: object) -> bool:
        return key in self._as_dict()

    def __repr__(self) -> str:
        return f"<call {self._run.id} from {self._run.context[1]!r}>"


NO_CONTEXT = ("", "", (), None)
NOTHING_NEXT = (True, None)
"""The lead is still held, and there is no run to do with it."""
IN_TASK = -1
"""In the place of a thread's number: a task of the event loop."""
NO_TOKEN: list[int] = []
"""What holds the lead never; nobody puts anything in."""


class Gate:
    """One thread's waiting place. ``open`` is the condition; ``wake`` may come from any thread, any number of times."""

    __slots__ = ("busy", "inbox", "lock", "open")

    def __init__(self) -> None:
        self.open = self.busy = False
        self.inbox: Run | None = None  # one at a time: ``busy`` until it has run
        self.lock: Any = None  # made by who waits, when it must sleep: most read what they wait for themselves

    def nudge(self) -> None:
        lock = self.lock
        if lock is None:
            return  # who makes one looks afterwards at what it was told
        try:
            lock.release()
        except RuntimeError:
            return  # it was nudged already

    def wake(self) -> None:
        self.open = True
        if self.lock is not None:
            self.nudge()

    def make_lock(self) -> None:
        lock = allocate_lock()
        lock.acquire()
        self.lock = lock


class Pending:
    """An outgoing request that waits for its answer: in a thread (``gate``) or in an event loop (``future``)."""

    __slots__ = ("__dict__", "future", "gate", "id", "loop", "reply", "run", "until")
    error: BaseException | None = None
    stream: StreamState | None = None
    channel: Any = None

    def __init__(self, number: int, run: Run | None) -> None:
        self.id = number
        self.run = run
        self.gate: Gate | None = None
        self.future: Any = None
        self.loop: Any = None
        self.until = 0.0  # when a future stops to wait, where the loop is the agent's own
        self.reply: Any = None


class Run:
    """One incoming call, from its frame to its answer."""

    # what every call sets has a place of its own; of the rest most set nothing, and what they do not set is the class's
    __slots__ = (
        "__dict__", "agent", "body", "context", "deadline", "depth", "id", "table_id", "target", "task", "thread",
        "token",
    )  # fmt: skip
    idempotency: str | None = None
    slot: int | None = None
    caller: Caller | None = None  # whose share its slot is of, from when it asks for one
    stack: Gate | None = None  # the waiting stack that this call may run on
    cancelled = False
    detached = False
    gate: Gate | None = None
    parked: Any = None
    granted = 0
    sent = 0

    def __init__(self, agent: Agent, number: int, target: Any, body: Any) -> None:
        self.agent = agent
        self.id = self.table_id = number
        self.target = target
        self.body = body
        self.context: Any = NO_CONTEXT
        self.depth = 0
        self.deadline = 0.0
        self.thread = 0  # which one runs it, or IN_TASK; 0 until it has begun
        self.token: list[int] = NO_TOKEN
        self.task: Any = None

    def remaining_s(self) -> float | None:
        return None if not self.deadline else max(0.0, self.deadline - monotonic())

    def perform(self) -> bytes | None:
        """Run the handler here; the answer's frame, or None when none is due (yet)."""
        self.thread = get_ident()
        within = Context().run
        within(set_current, self)
        try:
            if self.cancelled:
                self.body = None
                return self.refused(cancelled_refusal())
            result = within(self.invoke)
            return within(self.fulfilled if type(result) in PLAIN else self.concluded, result)
        except BaseException as exc:  # noqa: BLE001 - whatever a Pack raises becomes the call's answer
            return within(self.refused, exc)

    def invoke(self) -> Any:
        body, self.body = self.body, None
        if type(body) is Raw:
            body = self.opened(body)
        return self.target.call(body, CallContext(self))

    def opened(self, body: Raw) -> Any:
        try:
            return self.agent.decode(body)
        except RemoteError as exc:
            raise as_refusal(exc) from None

    def concluded(self, result: Any) -> bytes | None:
        """The answer, if any is due now, for what is no plain value."""
        kind = type(result)
        if hasattr(kind, "__next__"):
            if self.stack is not None and self.id:  # who reads it may wait below us on this stack
                self.detached = True
                self.agent.hand_over_stream(self, result)
                return None
            return self.streamed(result) if self.id else None
        if hasattr(kind, "__await__") or hasattr(kind, "__anext__") or hasattr(kind, "__aiter__"):
            self.agent.detach(self, result)
            return None
        return self.fulfilled(result)

    def fulfilled(self, result: Any) -> bytes | None:
        number = self.id
        if not number:
            return None
        agent = self.agent
        try:
            frame: bytes
            if type(result) in PACKED:
                frame = agent.packed([RESULT, number, 0, (), result])
            else:
                frame = agent.frame([RESULT, number, 0], result)
        except RemoteError as exc:
            return self.refused(as_refusal(exc))
        return frame

    def refused(self, exc: BaseException) -> bytes | None:
        if not self.id:
            self.agent.log_failure("call", exc)
            return None
        return self.agent.plain_frame([ERROR, self.id, *self.agent.error_fields(exc)])

    def item_frame(self, item: Any) -> Any:
        try:
            return self.agent.frame([STREAM_ITEM, self.id], item)
        except RemoteError as exc:
            raise as_refusal(exc) from None

    # streams: credit is granted by the thread that reads and spent by the one that produces

    def open_window(self) -> int:
        """The flags of the RESULT: a caller that wants the items closer has taken from what is granted already."""
        flags = FLAG_STREAM | FLAG_CLOSER if self.granted < 0 else FLAG_STREAM
        self.granted += self.agent.stream_credit
        return flags

    def out_of_credit(self) -> bool:
        return self.sent >= self.granted and not self.cancelled

    def streamed(self, iterator: Any) -> bytes | None:
        """Send an iterator's items as far as credit goes; the frame that ends the stream."""
        agent = self.agent
        gate = self.gate = Gate()
        agent.send(agent.frame([RESULT, self.id, self.open_window()], None))
        batch = Batch(self)
        error: list[Any] | None = None
        try:
            while True:
                while self.sent >= self.granted and not self.cancelled:
                    gate.open = False
                    if self.out_of_credit():
                        batch.flush()
                        agent.wait(gate, None)  # a wake may be late, and tell of credit that was spent already
                        batch.go_on()
                if self.cancelled:
                    error = agent.error_fields(cancelled_refusal())
                    break
                try:
                    item = next(iterator)
                except StopIteration:
                    break
                if not batch.take(item):
                    agent.send(self.item_frame(item))
                    batch.go_on()
                self.sent += 1
        except BaseException as exc:  # noqa: BLE001 - it ends this stream and nothing else
            error = agent.error_fields(exc)
        batch.flush()
        close = getattr(iterator, "close", None)
        if close is not None:
            try:
                close()
            except BaseException as exc:  # noqa: BLE001
                agent.log_failure("closing a stream", exc)
        return agent.plain_frame([STREAM_END, self.id, error])

    async def serve(self, result: Any = None) -> None:
        """This call as a task, up to its answer. ``result``: what the handler gave already, else it is called here."""
        agent = self.agent
        set_current(self)
        self.thread = IN_TASK
        frame = None
        try:
            if self.cancelled:
                self.body = None
                if hasattr(type(result), "close"):
                    result.close()
                raise cancelled_refusal()  # noqa: TRY301 - answered below, like every other end
            if result is None:
                body, self.body = self.body, None
                if type(body) is Raw:
                    body = self.opened(body)
                result = self.target.call(body, CallContext(self))
                body = None  # the handler may wait for long, and keep no more of it than it needs
            if type(result) is Coroutine or hasattr(type(result), "__await__"):
                result = await result
            kind = type(result)
            if kind in PACKED and type(self) is Run and self.id:  # as `fulfilled`
                try:
                    frame = agent.packed([RESULT, self.id, 0, (), result])
                except RemoteError as exc:
                    frame = self.refused(as_refusal(exc))
            elif type(self) is PhaseRun:
                frame = self.fulfilled(None)
            elif kind in PLAIN:
                frame = self.fulfilled(result)
            elif hasattr(kind, "__anext__") or hasattr(kind, "__aiter__"):
                frame = await self.streamed_async(result)
            elif hasattr(kind, "__next__"):
                agent.hand_over_stream(self, result)
                return
            else:
                frame = self.fulfilled(result)
        except BaseException as exc:  # noqa: BLE001 - even SystemExit ends this call only
            if not self.id and is_cancelled_error(exc):
                self.cancelled = True
            frame = self.refused(cancelled_refusal() if self.cancelled and is_cancelled_error(exc) else exc)
        agent.mode.conclude(self, frame)

    async def streamed_async(self, source: Any) -> bytes | None:
        agent = self.agent
        if not self.id:
            return None
        agent.mode.write(agent.frame([RESULT, self.id, self.open_window()], None), now=True)
        batch = Batch(self)
        error: list[Any] | None = None
        try:
            async for item in source:
                if not batch.take(item):
                    agent.mode.write(self.item_frame(item), now=True)
                    batch.go_on()
                self.sent += 1
                while self.out_of_credit():
                    batch.flush()
                    self.parked = agent.mode.loop.create_future()
                    if self.out_of_credit():
                        await self.parked
                    batch.go_on()
                if self.cancelled:
                    error = agent.error_fields(cancelled_refusal())
                    break
        except BaseException as exc:  # noqa: BLE001
            was = self.cancelled and is_cancelled_error(exc)
            error = agent.error_fields(cancelled_refusal() if was else exc)
        batch.flush()
        close = getattr(source, "aclose", None)
        if close is not None:
            try:
                await close()
            except BaseException as exc:  # noqa: BLE001
                agent.log_failure("closing a stream", exc)
        return agent.plain_frame([STREAM_END, self.id, error])


async def nothing() -> None:
    """A coroutine, to know their type by."""


unused = nothing()
Coroutine = type(unused)
unused.close()
del unused


def as_refusal(exc: RemoteError) -> Refusal:
    """An error about a value of this call: the caller is told its type as it is."""
    return Refusal(exc.type, exc.title, exc.detail, exc.retryable)


def cancelled_refusal() -> Refusal:
    return Refusal("cancelled", "the caller cancelled the call")


def is_cancelled_error(exc: BaseException) -> bool:
    return type(exc).__name__ == "CancelledError" or isinstance(exc, CallCancelled)


class Batch:
    """The items of one stream that a quick producer made and that go together: to write, to route and to read each by
    itself takes longer than to make it. The first ones go at once, and so does each that took a moment to make.

    What is held goes when the credit is spent, when its thread or its loop waits for something of the bus, at the end
    of the stream, and with the ticker's next look: no item stays for longer, whatever its producer does.
    """

    __slots__ = ("agent", "at", "held", "lock", "most", "number", "packer", "quick", "size")

    def __init__(self, run: Run) -> None:
        self.agent = run.agent
        self.most = run.agent.batch_bytes
        self.number = run.id
        self.held: deque[bytes] = deque()  # packed; put in by the producer, taken out by whoever has the lock
        self.lock = allocate_lock()  # and who has it sends: nothing may overtake what another thread took out
        self.packer: Any = None  # of the producer alone
        self.size = 0
        self.quick = 0
        self.at = 0.0

    def go_on(self) -> None:
        """The producer's time begins here: that it waited, for credit or to write, was not its own doing."""
        self.at = monotonic()

    def take(self, item: Any) -> bool:
        """Keep the next item for a moment; False: it goes by itself, now, and all before it are on their way."""
        now = monotonic()
        quick = self.quick + 1 if now - self.at < QUICK_S else 0
        self.at = now
        if quick >= QUICK_ITEMS and self.most:
            data = self.packed(item)
            if data is not None:
                held = self.held
                size = len(data)
                if held:
                    size += self.size
                    if size > self.most or len(held) >= BATCH_ITEMS:
                        self.flush()
                        self.go_on()
                        size = len(data)
                self.size = size
                held.append(data)
                agent = self.agent
                agent.holding[self] = None
                if agent.ticker_asleep:
                    agent.wake_ticker()
                return True
            quick = 0
        self.quick = quick
        if self.size:
            self.flush()
            self.size = 0
        return False

    def packed(self, item: Any) -> bytes | None:
        """It alone, packed; None where it is long, refers to something, or is to be refused."""
        kind, most = type(item), self.most
        if (kind is bytes or kind is str) and len(item) > most:
            return None
        packer = self.packer
        if packer is None:
            packer = self.packer = self.agent.codec.new_packer()
        try:
            data: bytes = packer.pack(item)
        except (TypeError, ValueError, OverflowError, RecursionError):
            self.packer = None  # it is not trusted again
            return None  # a frame of its own says what is wrong with it, or carries what it refers to
        size = len(data)
        if size > most:
            if size > FRAME_BYTES:
                self.packer = None  # its buffer stays as large as what it packed
            return None
        if size > MAX_DEPTH and kind not in LEAVES and data.translate(CONTAINER_TABLE).count(1) > MAX_DEPTH:
            return None if is_too_deep(item) else data
        return data

    def flush(self, patient: bool = True) -> None:
        """Send what is held; from any thread. Who is not ``patient`` leaves it to the thread that is at it."""
        if not self.lock.acquire(patient):
            return
        try:
            agent, held = self.agent, self.held
            agent.holding.pop(self, None)  # first: what is put in from here on asks for a look of its own
            items = [held.popleft() for _ in range(len(held))]
            if items:
                agent.link.send(agent.batch_frame(self.number, items))
        finally:
            self.lock.release()


class Together:
    """Items that came in one frame and are decoded when the first is taken: until then they are bytes."""

    __slots__ = ("raw",)

    def __init__(self, raw: Raw) -> None:
        self.raw = raw


class StreamState:
    """What arrived of an incoming stream and was not taken yet. Filled by the reader, emptied by one consumer."""

    __slots__ = (
        "agent", "ended", "error", "future", "gate", "granted_at", "grows", "id", "items", "loop", "taken", "total",
        "window",
    )  # fmt: skip

    def __init__(self, agent: Agent, number: int) -> None:
        self.agent = agent
        self.id = number
        self.items: deque[Any] = deque()
        self.ended = False
        self.error: BaseException | None = None
        self.taken = 0
        self.total = 0
        self.window = max(1, agent.stream_credit // 2)
        self.grows = True
        self.granted_at = 0.0
        self.gate: Gate | None = None
        self.future: Any = None
        self.loop: Any = None

    def arrived(self) -> None:
        gate, future = self.gate, self.future
        if gate is not None:
            gate.wake()
        if future is not None:
            self.future = None
            self.agent.resolve(self.loop, future, None)

    def pop(self) -> Any:
        """The next item; its credit goes back in halves of the window, so that the producer never has to stop."""
        item = self.items.popleft()
        if type(item) is Together:
            item = self.first_of(item)
        self.taken += 1
        if type(item) is Raw:
            self.grows = False
        if self.taken >= self.window and not self.ended:
            self.grant()
        return self.agent.decode(item) if type(item) is Raw else item

    def first_of(self, together: Together) -> Any:
        """The first of them; the others are next."""
        count = array_length(together.raw.data)
        try:
            values = self.agent.decode(together.raw)
        except RemoteError:
            self.taken += count  # all of them are gone
            raise
        self.items.extendleft(values[:0:-1])
        return values[0]

    def grant(self) -> None:
        """Half a window has been taken: as much may be made, and more where that took a moment.

        With few items under way, both ends wait for each other's wake-ups. With many, a reader that stops, or long
        items, would leave much that was made and kept for nothing: so the window grows late, and never for these.
        """
        count, self.taken = self.taken, 0
        if self.grows:
            now = monotonic()
            self.total += count
            if self.total >= WIDE_ITEMS and now - self.granted_at < FAST_S:
                wider = min(2 * self.window, WIDE_ITEMS // 2)
                if wider > self.window:
                    count += 2 * (wider - self.window)
                    self.window = wider
                else:
                    self.grows = False
            self.granted_at = now
        self.agent.send(self.agent.plain_frame([STREAM_CREDIT, self.id, count]))


class RemoteStream:
    """The items of a stream from another Pack: iterate with ``for``, or with ``async for`` in a coroutine."""

    __slots__ = ("_state",)

    def __init__(self, state: StreamState) -> None:
        self._state = state

    def __iter__(self) -> RemoteStream:
        return self

    def __next__(self) -> Any:
        state = self._state
        while not state.items:
            if state.ended:
                self._finish(StopIteration)
            gate = state.gate = Gate()
            if not state.items and not state.ended:
                state.agent.wait(gate, None)
            state.gate = None
        return state.pop()

    def __aiter__(self) -> RemoteStream:
        return self

    async def __anext__(self) -> Any:
        state = self._state
        while not state.items:
            if state.ended:
                self._finish(StopAsyncIteration)
            state.loop = state.agent.running_loop()
            future = state.future = state.loop.create_future()
            if state.items or state.ended:
                state.future = None
                continue
            try:
                await future
            except BaseException:
                state.future = None
                self.close()
                raise
        return state.pop()

    def _finish(self, end: type[BaseException]) -> NoReturn:
        error, self._state.error = self._state.error, None
        if error is None:
            raise end
        try:
            raise error
        finally:
            del error  # it would hold this frame, which would hold it, and what the handler has until a collection

    def close(self) -> None:
        """Stop before the end: the producer is told."""
        state = self._state
        if not state.ended:
            state.agent.abandon(state)
        state.items.clear()

    async def aclose(self) -> None:
        self.close()

    def __enter__(self) -> RemoteStream:  # noqa: PYI034 - Self is newer than 3.9
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        state = self._state
        if not state.ended:
            state.agent.abandoned.append(state)  # closed by whoever writes next: nothing may be written from here


class ArgumentStream:
    """A stream in the arguments of a call that is being served: read it once, with ``for`` or ``async for``.

    Nothing of it is made before it is read; it ends with the call.
    """

    __slots__ = ("_agent", "_closed", "_number", "_stream")

    def __init__(self, agent: Agent, number: int) -> None:
        self._agent = agent
        self._number = number
        self._stream: RemoteStream | None = None
        self._closed = False

    def __repr__(self) -> str:
        return "<stream of a caller>"

    def __iter__(self) -> ArgumentStream:
        return self

    def __next__(self) -> Any:
        if self._stream is None:
            if self._closed:
                raise StopIteration
            self._stream = self._opened(self._agent.call(self._number, None, None, None, None))
        return next(self._stream)

    def __aiter__(self) -> ArgumentStream:
        return self

    async def __anext__(self) -> Any:
        if self._stream is None:
            if self._closed:
                raise StopAsyncIteration
            loop = self._agent.running_loop()
            self._stream = self._opened(await self._agent.call_async(loop, self._number, None, None, None, None))
        return await self._stream.__anext__()

    def _opened(self, stream: Any) -> RemoteStream:
        if type(stream) is not RemoteStream:
            raise ValueRefused("value.malformed", "what should be a stream is none")
        return stream

    def close(self) -> None:
        """Read no more: the producer is told."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()

    async def aclose(self) -> None:
        self.close()

    def __enter__(self) -> ArgumentStream:  # noqa: PYI034 - Self is newer than 3.9
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self._agent.released.append(self._number)


class Function:
    """A callable of another Pack (or our own, through the host): ``fn(args, ctx=None, *, timeout_s, idempotency_key)``.

    In plain code it blocks and returns the value; called inside a coroutine it returns an awaitable. Where the other
    side streams, the value is an iterator.
    """

    __slots__ = ("__weakref__", "_agent", "_keep", "_key", "_local", "_number")

    def __init__(
        self,
        agent: Agent,
        key: str | None = None,
        number: int | None = None,
        local: Export | None = None,
        keep: Any = None,
    ) -> None:
        self._agent = agent
        self._key = key
        self._number = number
        self._local = local
        self._keep = keep

    @property
    def __name__(self) -> str:
        return self._key or f"remote_{self._number}"

    def __repr__(self) -> str:
        return f"<callable {self.__name__} on the bus>"

    def __call__(
        self, args: Any = None, ctx: Any = None, *, timeout_s: float | None = None, idempotency_key: str | None = None
    ) -> Any:
        agent = self._agent
        if self._local is not None:
            return self._local.call(args, ctx if ctx is not None else agent.own_context())
        target = self._number if self._key is None else self._key
        mode = agent.mode
        if mode is not None and mode.ident == get_ident():
            if not mode.token:
                agent.yield_lead()
            return PendingCall(agent.call_async(mode.loop, target, args, ctx, timeout_s, idempotency_key))
        if "asyncio" in sys.modules:
            loop = agent.running_loop()
            if loop is not None:
                agent.yield_lead()
                return PendingCall(agent.call_async(loop, target, args, ctx, timeout_s, idempotency_key))
        return agent.call(target, args, ctx, timeout_s, idempotency_key)

    def __del__(self) -> None:
        if self._number is not None and self._key is None:
            self._agent.released.append(self._number)


class PendingCall:
    """What a call inside a coroutine gives: ``await`` it, make a task of it, or iterate a stream with ``async for``."""

    __slots__ = ("_coroutine",)

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    def send(self, value: Any) -> Any:
        return self._coroutine.send(value)

    def throw(self, *exc: Any) -> Any:
        return self._coroutine.throw(*exc)

    def close(self) -> None:
        self._coroutine.close()

    async def __aiter__(self) -> Any:
        async for item in await self._coroutine:
            yield item


# ---- the agent


class Worker:
    """A parked thread."""

    __slots__ = ("job", "lock")

    def __init__(self) -> None:
        self.lock = allocate_lock()
        self.lock.acquire()
        self.job: Any = None


class Caller:
    """One direct caller: how many shared threads its calls hold, which of its own, and what of it waits."""

    __slots__ = ("deepest", "held", "is_host", "own", "queues", "waiting")

    def __init__(self, name: str) -> None:
        self.is_host = name in HOSTS
        self.held = 0
        self.own: set[int] = set()
        self.queues: dict[int, deque[Run]] = {}  # by depth; one that is empty stays
        self.deepest = 0
        self.waiting = 0


class Slots:
    """Which calls may have a thread. A run has its slot from when it may start until its handler, or stream, has ended.

    There are three kinds, and a call takes the first that it may:

    1. *Shared*, ``threads`` of them. A Pack holds no more of them than are free, so one whose calls never end leaves
       half of what it found. The host itself may hold all.
    2. *One for each depth* below the first, for any caller's call of that depth.
    3. *A caller's own*, one for each depth: the first of them always, more while no more are its than are free of
       ``threads // 2``.

    Of those that wait, each caller has its turn, and of one caller the deepest call goes first: it is nearest to its
    end. Nothing waits that may have a slot: each slot that is given back is followed by ``next`` until that has none.

    **Why nothing waits for ever.** A thread that a call holds waits, of what goes over the bus, for what that call
    calls, which is deeper by the host's word. Suppose that every handler ends when what it calls has ended, and that
    something waits for a slot, in whichever Pack; let d be the depth of the deepest. What is deeper than d
    has a thread, a stack that it runs on, or an event loop, and ends; hence so does every call of depth d that has a
    slot. If d > 0, the slot of its depth (the second kind) is taken, else it would have that one, and by a call of
    depth d: it is given back, and after a turn of each caller it is ours. If d = 0, only calls of depth 0 wait, all
    that have slots end, and a shared one goes to whoever holds none, or less than the rest. Either way the deepest gets
    its slot, and so on up. Shares take no part in this: they decide about the first kind and the third. (A plain
    ceiling would stop chains that cross: A waits for B and B for A, each with all threads of the other.)

    **With callers whose calls never end**, of which one can hold half of the first kind, all of the second and half of
    the third, another caller is left with half of what they leave, and with one thread whatever they do: it is always
    served. What such callers can still bring about is that calls of others which cross at more depths than these have
    slots left (six beside one such caller, if the host holds all that is shared) wait for each other until the first
    of their deadlines.

    Not here: the producer of a stream waits, with its thread, for its consumer, which is above it. Who opens more
    streams at once than it has slots, and reads none before the last has begun, waits for itself and for nobody else.
    Nor coroutines, which hold no thread, and calls that run on the stack that waits for them.
    """

    __slots__ = ("callers", "depths", "left", "lenders", "lent", "line", "mutex", "spare")

    def __init__(self, mutex: Any, threads: int) -> None:
        self.mutex = mutex
        self.callers: dict[str, Caller] = {}
        """By name. One that holds nothing stays: this is looked into for each call."""
        self.line: deque[Caller] = deque()
        """Those of whom something waits; whose turn is next comes first."""
        self.depths: set[int] = set()
        self.lent: dict[Caller, bool] = {}
        """Who has a shared slot from its last call for its next, one each: counted as held, free to whoever needs it.

        Only the holder of the lead puts one in, and takes it out for a call; either is one step that no thread
        interrupts. Under the lock ``take_back`` ends them all, before anything is told to wait, and while it does.
        """
        self.lenders: list[Caller] = []
        """Whose slot may be in there."""
        self.left = threads
        self.spare = max(1, threads // 2)

    def admit(self, run: Run) -> Run | None:
        """A run with a slot, nearly always ``run``; None after queueing it."""
        caller = self.callers.get(run.context[1])
        if caller is None:
            name = run.context[1]
            caller = self.callers.setdefault(name, Caller(name))
        run.caller = caller
        with self.mutex:
            left = self.left
            if left > caller.held or (left and caller.is_host):
                self.left = left - 1
                caller.held += 1
                run.slot = SHARED
                return run
        depth = run.depth
        queue = caller.queues.get(depth)
        if queue is None:
            # outside of the lock: an allocation may collect garbage, and a Pack's __del__ may call the bus
            queue = caller.queues.setdefault(depth, deque())
        with self.mutex:
            self.take_back()
            if self.place(run, caller):
                return run
            if not caller.waiting:
                self.line.append(caller)
            caller.waiting += 1
            caller.deepest = max(caller.deepest, depth)
            queue.append(run)
            return self.turn() if self.lent else None  # lent in this very moment, by who saw nobody wait

    def take_back(self) -> None:
        """End what is lent; under the lock."""
        at = len(self.lenders) if self.lent else 0
        while at:
            at -= 1
            caller = self.lenders[at]
            if self.lent.pop(caller, False):
                self.left += 1
                caller.held -= 1

    def place(self, run: Run, caller: Caller) -> bool:
        """Give ``run`` a slot if there is one for it; under the lock."""
        left, depth = self.left, run.depth
        if left > caller.held or (left and caller.is_host):
            self.left = left - 1
            caller.held += 1
            run.slot = SHARED
        elif depth and depth not in self.depths:
            self.depths.add(depth)
            run.slot = depth
        elif depth not in caller.own and (not caller.own or self.spare > len(caller.own)):
            self.spare -= 1
            caller.own.add(depth)
            run.slot = OWN_SLOT - depth
        else:
            return False
        return True

    def give_back(self, run: Run, lend: bool = False) -> Run | None:
        """Free the slot of ``run``, if it has one; a queued run that has one now. More may: ``next``."""
        slot, caller = run.slot, run.caller
        if slot is None or caller is None:
            return None
        with self.mutex:
            if slot == SHARED and lend and not self.line and self.may_lend(caller):
                self.lent[caller] = True
            elif slot == SHARED:
                self.left += 1
                caller.held -= 1
            elif slot >= 0:
                self.depths.discard(slot)
            else:
                self.spare += 1
                caller.own.discard(OWN_SLOT - slot)
            return self.turn() if self.line else None

    def may_lend(self, caller: Caller) -> bool:
        """Whether ``caller`` may have one that is lent; under the lock, and while nobody waits."""
        if caller not in self.lenders:
            if len(self.lenders) >= LENDERS:  # in turn: who calls no more must not keep others from it
                first = self.lenders.pop(0)
                if self.lent.pop(first, False):
                    self.left += 1
                    first.held -= 1
            self.lenders.append(caller)
        return caller not in self.lent

    def next(self) -> Run | None:
        """A queued run that may start now, with its slot."""
        with self.mutex:
            return self.turn()

    def turn(self) -> Run | None:
        """As ``next``; under the lock, so nothing is allocated that a garbage collection looks at."""
        self.take_back()
        line = self.line
        left = len(line)
        while left:
            left -= 1
            caller = line[0]
            line.rotate(-1)
            depth = caller.deepest
            while depth >= 0:
                queue = caller.queues.get(depth)
                if queue and self.place(queue[0], caller):
                    caller.waiting -= 1
                    if not caller.waiting:
                        line.pop()
                    ready: Run = queue.popleft()
                    return ready
                depth -= 1
        return None

    def unqueue(self, run: Run) -> bool:
        """Take a run out that waits; False when it does not (any more)."""
        caller = run.caller
        if caller is None:
            return False
        with self.mutex:
            queue = caller.queues.get(run.depth)
            if not queue or run not in queue:
                return False
            queue.remove(run)
            caller.waiting -= 1
            if not caller.waiting:
                self.line.remove(caller)
            return True

    def queued(self) -> list[Run]:
        """All that wait."""
        queues = [queue for caller in list(self.callers.values()) for queue in list(caller.queues.values())]
        return [run for queue in queues for run in list(queue)]


class Turns:
    """How long a thread may keep the interpreter: long, unless one keeps it that long. Looked at with each tick.

    Threads that wait for other Packs leave it by themselves; taking it from them costs as much again as what they do.
    One that computes leaves it to nobody, and each step of every other call would wait for it.
    """

    __slots__ = ("calm", "left", "set", "span")
    SPAN, LONGEST_SPAN, CALM = 64, 1_024, 512

    def __init__(self, set_interval: Callable[[float], None]) -> None:
        self.set = set_interval
        self.left = 0
        self.span = self.SPAN
        self.calm = 0
        set_interval(LONG_TURN_S)

    def look(self, late_s: float) -> None:
        """The tick came ``late_s`` late: a thread that computes keeps it waiting for a whole turn.

        Turns are short for ``SPAN`` ticks then, and for twice as many each time that one is too long again.
        """
        if self.left:
            self.left -= 1
            if not self.left:
                self.calm = 0
                self.set(LONG_TURN_S)
        elif late_s >= LONG_TURN_S * 0.8:
            self.left = self.span
            self.span = min(2 * self.span, self.LONGEST_SPAN)
            self.set(SHORT_TURN_S)
        else:
            self.calm += 1
            if self.calm == self.CALM:
                self.span = self.SPAN


class Large:
    """A frame with its body before it, in a memory file or in chunks; those are made as they are written."""

    __slots__ = ("agent", "body", "start")

    def __init__(self, agent: Agent, start: bytes, body: Any) -> None:
        self.agent = agent
        self.start = start
        self.body = body

    def __len__(self) -> int:
        return len(self.start) + len(self.body)

    def __iter__(self) -> Iterator[bytes]:
        agent, body = self.agent, self.body
        if type(body) is Stored:
            mark = agent.files.give(body)
            if mark:
                frame = self.start + mark
                yield U32.pack(len(frame)) + frame
                return
        agent.next_large = number = agent.next_large % 0xFFFFFFFF + 1
        size = min(PIECE_BYTES, agent.frame_bytes // 2)
        for at in range(0, len(body), size):
            yield agent.plain_frame([CHUNK, number, bytes(body[at : at + size])])
        frame = self.start + CHUNKED + NUMBER_SIZE.pack(number, len(body))
        yield U32.pack(len(frame)) + frame


class Agent:
    """Connection, tables and threads of one sandbox."""

    def __init__(self, link: Any, codec: Any, pack_root: str = "/pack") -> None:
        self.link = link
        self.codec = codec
        self.packers: list[Any] = codec.pool
        self.unpackb = codec.unpackb
        self.roots: tuple[str, ...] = (pack_root.rstrip("/") + "/",)
        self.pack_root = pack_root
        self.packages = ""
        self.pack_id = ""
        # limits, until WELCOME says otherwise
        self.frame_bytes = FRAME_BYTES
        self.in_flight = 1_024
        self.deadline_s = 30.0
        self.stream_credit = 16
        self.sources = 0
        self.value_bytes = 0
        self.batch_bytes = 0
        # bodies in memory files, from this size on
        self.files: Any = None
        self.file_bytes = NEVER
        self.short_bytes = EAGER_BYTES
        # bodies in chunks: those that come, and one after the other those that go
        self.coming: dict[int, bytearray] = {}
        self.large_lock = allocate_lock()
        self.next_large = 0
        # the read side; only the holder of the lead touches these
        self.buf = bytearray(READ_BYTES)
        self.view = memoryview(self.buf)
        self.head = self.tail = 0
        self.out: list[bytes] = []
        # tables
        self.mutex = allocate_lock()
        self.exports: dict[int, Any] = {}
        self.runs: dict[int, Run] = {}
        self.pending: dict[int, Pending] = {}
        self.holds: dict[int, int] = {}
        self.released: deque[int] = deque()
        self.abandoned: deque[StreamState] = deque()
        self.holding: dict[Batch, None] = {}
        """Streams with items that were made and not sent yet."""
        self.requests = count_from(0)
        self.next_export = 0
        self.mirror: dict[str, list[Entry]] = {}
        self.mirroring = allocate_lock()
        self.observers: dict[int, Observer] = {}
        self.next_observer = 0
        self.subscriptions: dict[int, Subscription] = {}
        self.subscribing = 0
        self.early: deque[tuple[int, Any, Any]] = deque(maxlen=EARLY_EVENTS)
        self.components: dict[str, dict[str, Any]] = {}
        self.aside: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {}
        """Components that are being loaded again: what they had, and their modules."""
        self.channels: dict[int, Any] = {}
        self.network: Any = None
        # threads
        self.idle: list[Worker] = []
        self.share(48)
        self.token: list[int] = []
        self.ticker_asleep = False
        self.ticker_lock = allocate_lock()
        self.ticker_lock.acquire()
        self.draining = False
        self.active = 0
        self.settling = SETTLING
        self.trim: Callable[..., int] = c_function("malloc_trim") or int
        self.mode: Any = None
        self.loop_lock = allocate_lock()
        self.workers = 0
        self.foreign = 0
        self.logs: Any = None
        self.get_running_loop: Any = None
        self.mapping_known = False
        self.refused: dict[str, int] = {}
        """How often a limit that the host can't see from outside was met here, by the limit's name. Told with PONG."""

    def share(self, threads: int) -> None:
        """Begin anew with so many threads that all callers share."""
        self.slots = Slots(self.mutex, threads)

    # -- frames out

    def plain_frame(self, fields: list[Any]) -> bytes:
        """A frame of fields that are all ours or already checked."""
        data: bytes = self.codec.pack(fields)
        return U32.pack(len(data)) + data

    def frame(self, head: list[Any], value: Any) -> Any:
        """``head`` + refs + ``value``: bytes, or a ``Large``. Raises ``ValueRefused`` with the path of what is none."""
        if type(value) is bytes and len(value) > self.file_bytes and head[0] in IN_FILES:
            # bytes alone need no packing: they are written where they go
            first = b"\xc6" + len(value).to_bytes(4, "big")
            return self._in_chunks(head[0], self._start(head), memoryview(value), first)
        return self.packed([*head, (), value])

    def packed(self, fields: list[Any]) -> Any:
        """As ``frame``, for fields with ``()`` and the value at their end, which is not bytes alone."""
        try:
            packer = self.packers.pop()
        except IndexError:
            packer = self.codec.new_packer()
        try:
            data: bytes = packer.pack(fields)
        except (TypeError, ValueError, OverflowError, RecursionError):
            return self._frame_with_refs(fields[:-2], fields[-1])
        size = len(data)
        if size > self.short_bytes:
            return self._long_frame(fields[:-2], fields[-1], data, packer)
        self.packers.append(packer)
        if size > MAX_DEPTH and data.translate(CONTAINER_TABLE).count(1) > MAX_DEPTH:
            check_depth(fields[-1])
        return U32.pack(size) + data

    def batch_frame(self, number: int, items: list[bytes]) -> bytes:
        """The frame of one packed item, or of several. They refer to nothing."""
        if len(items) == 1:
            data = self._start([STREAM_ITEM, number]) + items[0]
        else:
            count = len(items)
            head = bytes([0x90 + count]) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
            data = self._start([STREAM_BATCH, number]) + head + b"".join(items)
        return U32.pack(len(data)) + data

    def _long_frame(self, head: list[Any], value: Any, data: bytes, packer: Any) -> Any:
        size = len(data)
        if size <= FRAME_BYTES:  # the packer's buffer stays as large as what it packed
            self.packers.append(packer)
        check_depth(value)
        if size > self.frame_bytes or (size > self.file_bytes and head[0] in IN_FILES):
            start = self._start(head)
            return self._in_chunks(head[0], start, memoryview(data)[len(start) :])
        return U32.pack(size) + data

    def _start(self, head: list[Any]) -> bytes:
        """A frame without references up to its body."""
        return bytes([0x90 + len(head) + 2]) + b"".join(self.codec.pack(field) for field in head) + b"\x90"

    def _in_chunks(self, kind: int, start: bytes, body: Any, first: bytes = b"") -> Any:
        """A frame whose body (``first``, ``body``) goes before it, or the refusal. ``start``: what is before those."""
        size = len(first) + len(body)
        most = self.value_bytes if kind in IN_CHUNKS else 0
        if size > most or len(start) > self.frame_bytes - 16:
            self.refused["message"] = self.refused.get("message", 0) + 1
            text = f"{size} bytes at $, the limit is {most or self.frame_bytes}; send parts, or a stream"
            raise ValueRefused("value.too_large", "the value can't cross the bus", text)
        stored = self.files.store([first, body]) if size > self.file_bytes and kind in IN_FILES else None
        if stored is not None:
            return Large(self, start, stored)
        return Large(self, start, memoryview(first + bytes(body)) if first else body)

    def _frame_with_refs(self, head: list[Any], value: Any) -> Any:
        refs: list[list[int]] = []
        exported: list[int] = []
        ext_type, pack = self.codec.ext_type, self.codec.pack
        streams = head[0] == CALL and self.sources > 0

        def encode(item: Any) -> Any:
            if len(refs) >= NAMED and not is_date(item):
                detail = f"more than {NAMED} callables in it"
                raise ValueRefused("value.too_large", "the value can't cross the bus", detail)
            if type(item) is Function:
                number = item._number if item._number is not None else getattr(item._keep, "_number", None)  # noqa: SLF001
                if number is not None:
                    refs.append([HELD, number])
                    return ext_type(EXT_REFERENCE, pack(len(refs) - 1))
                if item._local is not None:  # noqa: SLF001
                    item = item._local.fn  # noqa: SLF001
            if is_date(item):
                return ext_type(EXT_DATE, item.isoformat().encode("ascii"))
            if callable(item):
                space, number = OWN, self.export(Export(item)).number
            elif streams and is_stream(item):
                space, number = SOURCE, self.export(Source(item)).number
            else:
                raise TypeError("unsupported")
            exported.append(number)
            refs.append([space, number])
            return ext_type(EXT_REFERENCE, pack(len(refs) - 1))

        try:
            body = self.codec.pack_with(value, encode)
            check_depth(value)
            start = bytes([0x90 + len(head) + 2])
            start += b"".join(pack(field) for field in head) + pack(refs)
            if len(start) + len(body) > self.frame_bytes or (len(body) > self.file_bytes and head[0] in IN_FILES):
                return self._in_chunks(head[0], start, memoryview(body))
            data = start + body
        except ValueRefused:
            self.forget(exported)
            raise
        except (TypeError, ValueError, OverflowError, RecursionError):
            self.forget(exported)
            raise refuse_value(value, streams) from None
        return U32.pack(len(data)) + bytes(data)

    def forget(self, numbers: list[int]) -> None:
        for number in numbers:
            self.exports.pop(number, None)

    def export(self, entry: Any) -> Any:
        """Give an ``Export`` or a ``Source`` a number that the other side may call: a new one each time, since the
        other side releases each.
        """
        if len(self.exports) >= EXPORTS:
            raise LimitReached("limit", "too many callables are held by others", f"at most {EXPORTS} at a time")
        if entry.is_async:
            self.start_loop()
        with self.mutex:
            self.next_export += 1
            entry.number = self.next_export
        self.exports[entry.number] = entry
        return entry

    def send(self, frame: Any) -> None:
        """Write a frame, or one with its body in chunks before it: others go between those."""
        if type(frame) is Large:
            with self.large_lock:
                for piece in frame:
                    self.link.send(piece)
        else:
            self.link.send(frame)

    def send_all(self, frames: list[Any]) -> None:
        """Write several in order, with as few system calls as they need; empties the list."""
        if len(frames) == 1 and type(frames[0]) is bytes:
            self.link.send(frames.pop())
            return
        for frame in frames:
            if type(frame) is Large:
                break
        else:
            data = b"".join(frames)
            frames.clear()
            self.link.send(data)
            return
        taken, frames[:] = frames[:], []
        for frame in taken:
            self.send(frame)

    def on_chunk(self, number: int, piece: bytes) -> None:
        coming = self.coming.get(number)
        if coming is None:
            coming = self.coming[number] = bytearray()
        coming += piece

    def whole(self, mark: bytes) -> Any:
        """The body that came in the chunks that ``mark`` names."""
        number, size = NUMBER_SIZE.unpack_from(mark, 2)
        coming = self.coming.pop(number, None)
        if coming is None or len(coming) != size:
            raise ProtocolError("a body in chunks that did not come")
        return coming

    def error_fields(self, exc: BaseException) -> list[Any]:
        self.noticed(exc)
        return describe(exc, self.roots)

    def noticed(self, exc: BaseException) -> None:
        """Count a failure that means a limit was met."""
        if out_of_files(exc):
            self.refused["files"] = self.refused.get("files", 0) + 1

    def flush(self) -> None:
        """Send what the leader kept back, and the releases that garbage collections left behind."""
        if self.out:
            self.send_all(self.out)
        if self.released or self.abandoned:
            self.flush_gone()

    def flush_gone(self) -> None:
        """Tell the other side what nobody here holds any more; from any thread."""
        try:
            while self.abandoned:
                self.abandon(self.abandoned.popleft())
        except IndexError:
            pass  # another thread took the last one
        gone = []
        with self.mutex:
            while self.released:
                number = self.released.popleft()
                left = self.holds.get(number, 0) - 1
                if left > 0:
                    self.holds[number] = left
                elif left == 0:
                    del self.holds[number]
                    gone.append(number)
        for at in range(0, len(gone), NAMED):
            self.link.send(self.plain_frame([RELEASE, 0, gone[at : at + NAMED]]))

    def flush_held(self) -> None:
        """Send the items that streams hold back; from any thread."""
        for batch in list(self.holding):
            batch.flush(False)

    def abandon(self, state: StreamState) -> None:
        """The consumer of a stream left early."""
        if not state.ended:
            state.ended = True
            if self.pending.pop(state.id, None) is not None:
                self.link.send(self.plain_frame([CANCEL, state.id]))

    # -- frames in; the lead is held

    def read(self, until: float | None = None) -> list[Any] | None:
        """The next frame's fields; None when ``until`` (monotonic) passes before one is complete."""
        fields = self.next_frame(self.head, self.tail) if self.tail else None
        while fields is None:
            if self.out or self.released or self.abandoned:
                self.flush()
            if until is None:
                fields = self.fill()
            elif self.link.wait(until):
                fields = self.fill(False)
            else:
                return None
        return fields

    def fill(self, patient: bool = True) -> list[Any] | None:
        """One read from the connection; the next frame, if it is complete. Its end is the end of the process."""
        tail = self.tail
        try:
            count = self.link.recv_into(self.view[tail:] if tail else self.view)
        except BlockingIOError:
            # nothing came for a second: who has no deadline waits for ever from now on, so that an idle Pack sleeps
            if patient:
                self.link.bound(0)
            return None
        except OSError:
            count = 0
        if not tail and count > 6:
            # nearly every read is one whole short frame that refers to nothing: as `next_frame`, in fewer steps
            size, array = FRAME_START.unpack_from(self.buf)
            if size + 4 == count and size <= self.short_bytes and array in FREQUENT:
                data = self.view[4:count]
                try:
                    fields: list[Any] = self.unpackb(data, ext_hook=no_extensions, strict_map_key=False, timestamp=3)
                except Exception:  # noqa: BLE001 - as there
                    return self.split(bytes(data))
                return fields if fields[-2] == [] else self.split(bytes(data))
        if not count:
            leave(EXIT_LOST)
        return self.next_frame(self.head, tail + count)

    def buffered(self) -> list[Any] | None:
        """The next complete frame in the buffer, if there is one."""
        return self.next_frame(self.head, self.tail) if self.tail else None

    def next_frame(self, start: int, tail: int) -> list[Any] | None:
        """The first frame of what lies there in the buffer, or None after making room for the rest of it."""
        if tail - start > 6:
            size, array = FRAME_START.unpack_from(self.buf, start)
            stop = start + 4 + size
            if stop <= tail and size <= self.short_bytes and array in FREQUENT:
                # whole, short, and refers to nothing, as nearly every frame: as below, in fewer steps
                data = self.view[start + 4 : stop]
                if stop < tail:
                    self.head, self.tail = stop, tail
                elif self.tail:
                    self.head = self.tail = 0
                try:
                    fields: list[Any] = self.unpackb(data, ext_hook=no_extensions, strict_map_key=False, timestamp=3)
                except Exception:  # noqa: BLE001 - whatever it is: split it, and let the body's owner meet the fault
                    return self.split(bytes(data))
                return fields if fields[-2] == [] else self.split(bytes(data))
        self.tail = tail
        have = tail - start
        if have >= 4:
            (size,) = U32.unpack_from(self.buf, start)
            if not 0 < size <= self.frame_bytes:
                raise ProtocolError(f"a frame of {size} bytes; the limit is {self.frame_bytes}")
            stop = start + 4 + size
            if stop <= tail:
                if stop == tail:
                    self.head = self.tail = 0
                else:
                    self.head = stop
                return self.parse(self.view[start + 4 : stop])
            need = size + 4
        else:
            need = READ_BYTES
        if start + need > len(self.buf):
            self.make_room(max(need, READ_BYTES))
        return None

    def make_room(self, need: int) -> None:
        """Move what is unread to the front, of a larger buffer if ``need`` asks for it; large ones are not kept."""
        rest = bytes(self.view[self.head : self.tail])
        if need != len(self.buf):
            self.buf = bytearray(need)
            self.view = memoryview(self.buf)
        self.view[: len(rest)] = rest
        self.head, self.tail = 0, len(rest)

    def parse(self, data: Any) -> list[Any]:
        """Header and body apart: whatever the body is, the header's call is known and fails alone."""
        if len(data) <= EAGER_BYTES:
            try:
                fields = self.unpackb(data, ext_hook=no_extensions, strict_map_key=False, timestamp=3)
            except Exception:  # noqa: BLE001 - whatever it is: split it, and let the body's owner meet the fault
                return self.split(bytes(data))
            if type(fields) is not list or len(fields) < 2 or type(fields[0]) is not int:
                raise ProtocolError("a frame is an array [kind, id, ...]")
            if fields[0] in WITH_BODY and fields[-2] != []:
                return self.split(bytes(data))
            whole: list[Any] = fields
            return whole
        return self.split(bytes(data))

    def split(self, data: bytes) -> list[Any]:
        try:
            fields, at = self.codec.split(data, no_extensions)
            kind = fields[0]
            if kind not in WITH_BODY:
                whole: list[Any] = self.codec.unpack(data, no_extensions)
                return whole
        except Exception as exc:
            raise ProtocolError(f"a header can't be decoded: {exc}") from exc
        refs = fields[-1]
        if not are_refs(refs, CALL_SPACES if kind == CALL else SPACES):
            raise ProtocolError("refs is an array of [space, number]")
        body = data[at:]
        if len(body) == 10 and body[:2] == CHUNKED and kind in IN_CHUNKS:
            body = self.whole(body)
        elif len(body) == 10 and body[:2] == STORED and kind in IN_FILES and self.files is not None:
            body = self.files.take(body)
        fields[-1] = raw = Raw(body, refs, self)  # in the place of refs too: it is told from a plain body at once
        return [*fields, raw]

    def decode(self, raw: Raw) -> Any:
        """Decode a body. Raises ``ValueRefused`` (``value.malformed``)."""
        refs = raw.refs
        made: dict[int, Any] = {}

        def hook(code: int, data: bytes) -> Any:
            if code != EXT_REFERENCE:
                return no_extensions(code, data)
            index = self.codec.unpack(data, no_extensions)
            if type(index) is not int or index < 0:
                raise ValueError("a reference is an index into refs")
            if index not in made:
                made[index] = self.come_in(refs[index])
            return made[index]

        try:
            if len(raw.data) > NODES:
                check_nodes(raw.data)
            value = self.codec.unpack(raw.data, hook)
        except RemoteError:
            raise
        except Exception as exc:  # noqa: BLE001 - a decoder's failures are of many classes, all mean the same
            detail = clean(str(exc))[:DETAIL_CHARS]
            raise ValueRefused("value.malformed", "a value could not be decoded", detail) from None
        finally:
            if type(raw.data) not in HERE:  # a memory file, which counts until it is let go of
                raw.data, mapped = b"", raw.data
                try:
                    mapped.close()
                except BufferError:  # a decoder that failed still looks into it
                    del mapped  # it goes with the error
        return value

    def come_in(self, ref: Any) -> Any:
        space, number = ref
        if space == HELD:
            entry = self.exports.get(number)
            if entry is None:
                raise DeadReference("dead_reference", "a callable that came home is gone", f"number {number}")
            return entry.fn
        with self.mutex:
            self.holds[number] = self.holds.get(number, 0) + 1
        return ArgumentStream(self, number) if space == SOURCE else Function(self, number=number)

    def dispatch(self, fields: list[Any]) -> Run | None:
        """Act on one frame. A run that may start now, in a slot of its own, is the caller's to start."""
        kind = fields[0]
        if kind == CALL:
            return self.on_call(fields)
        if kind == RESULT:
            self.on_result(fields)
            return None
        try:
            handler = self.HANDLERS[kind]
        except KeyError:
            raise ProtocolError(f"kind {kind!r:.40} is unknown") from None
        run: Run | None = handler(self, *fields[1:])
        return run

    def on_call(self, fields: list[Any]) -> Run | None:
        _, number, ref, deadline_ms, flags, depth, reenter, context, idempotency, _refs, body = fields
        target = self.exports.get(ref)
        if target is None or self.draining or len(self.runs) > self.in_flight:
            self.refuse_call(number, target)
            return None
        run = new(Run)  # as its __init__, which would be one more call for each
        run.agent = self
        run.id = run.table_id = number
        run.target = target
        run.body = body
        run.context = context
        run.depth = depth
        run.thread = 0
        run.token = NO_TOKEN
        if idempotency is not None:
            run.idempotency = idempotency
        run.deadline = monotonic() + (deadline_ms / 1000 if deadline_ms else self.deadline_s)
        if flags:
            window = flags >> WINDOW_SHIFT
            run.granted = min(0, window - self.stream_credit) if window else 0
        if number:
            self.runs[number] = run
        if target.is_async:
            mode = self.mode
            if get_ident() == mode.ident and number:  # as `begin`
                run.task = Context().run(mode.task, run.serve(), loop=mode.loop)
            else:
                mode.spawn(run)
            return None
        if reenter and type(target) is Export and self.goes_to_stack(run, reenter):
            return run
        return self.admit(run)

    def refuse_call(self, number: int, target: Export | None) -> None:
        if not number:
            return
        if target is None:
            detail = "it was unregistered or released, or belongs to an earlier start"
            why = Refusal("dead_reference", "this callable is gone", detail)
        elif self.draining:
            why = Refusal("shutting_down", "this Pack is being stopped", "", True)
        else:
            why = Refusal("limit", "too many calls at once", f"{self.in_flight} are in flight", True)
        self.send(self.plain_frame([ERROR, number, *self.error_fields(why)]))

    def goes_to_stack(self, run: Run, reenter: int) -> bool:
        """Whether ``run`` descends from a call whose caller waits in a thread: then it runs there and needs no slot."""
        pending = self.pending.get(reenter)
        gate = pending.gate if pending is not None else None
        if gate is None:
            return False
        with self.mutex:
            if gate.open or gate.busy:
                return False  # one at a time: a second could need what the first waits for
            gate.busy = True
            run.stack = gate
            gate.inbox = run
        gate.nudge()
        return True

    def on_result(self, fields: list[Any]) -> None:
        _, number, flags, _refs, body = fields
        streams = flags & FLAG_STREAM
        pending = self.pending.get(number) if streams else self.pending.pop(number, None)
        if pending is None:
            return
        if streams:
            pending.stream = StreamState(self, number) if pending.channel is None else pending.channel
        pending.reply = body
        gate = pending.gate
        if gate is not None:
            gate.wake()
        elif pending.until and get_ident() == self.mode.ident:  # as `settle`
            future = pending.future
            if not future.done():
                future.set_result(None)
        else:
            self.settle(pending)

    def on_error(
        self, number: int, type_: Any, title: Any, detail: Any, retryable: Any, trace: Any
    ) -> None:
        error = (type_, title, detail, retryable, trace)
        pending = self.pending.pop(number, None)
        if pending is not None:
            if pending.stream is not None:
                self.end_stream(pending.stream, remote_error(error))
            else:
                pending.error = remote_error(error)
                self.settle(pending)

    def settle(self, pending: Pending) -> None:
        if pending.gate is not None:
            pending.gate.wake()
        elif pending.future is not None:
            self.resolve(pending.loop, pending.future, None)
        elif pending.channel is not None:
            pending.channel.answered(pending)

    def resolve(self, loop: Any, future: Any, result: Any) -> None:
        """Complete a future of ``loop`` from whichever thread this is."""

        def complete() -> None:
            if not future.done():
                future.set_result(result)

        if self.running_loop() is loop:
            complete()
            return
        try:
            loop.call_soon_threadsafe(complete)
        except RuntimeError:
            return  # that loop was closed: nobody waits there any more

    def on_cancel(self, number: int) -> None:
        run = self.runs.get(number)
        if run is not None:
            run.cancelled = True
            self.cancel_run(run)

    def cancel_run(self, run: Run) -> None:
        if run.slot is None and self.slots.unqueue(run):
            self.answer_unstarted(run)
            return
        for pending in list(self.pending.values()):
            if pending.run is run:
                self.cancel_pending(pending)
        if run.gate is not None:
            run.gate.wake()
        if run.detached or run.target.is_async:
            self.mode.cancel(run)

    def cancel_pending(self, pending: Pending) -> None:
        """What a cancelled call waits for is cancelled as well, and the wait ends."""
        self.send(self.plain_frame([CANCEL, pending.id]))
        stream = pending.stream
        self.pending.pop(pending.id, None)
        error = CallCancelled("cancelled", "the call that this one was made for was cancelled")
        if stream is not None:
            self.end_stream(stream, error)
        else:
            pending.error = error
            self.settle(pending)

    def answer_unstarted(self, run: Run) -> None:
        self.runs.pop(run.id, None)
        if run.id:
            self.send(self.plain_frame([ERROR, run.id, *self.error_fields(cancelled_refusal())]))
        self.leave_if_drained()

    def on_item(self, number: int, _refs: list[Any], body: Any) -> None:
        pending = self.pending.get(number)
        stream = pending.stream if pending is not None else None
        if stream is not None:
            stream.items.append(body)
            stream.arrived()

    def on_batch(self, number: int, _refs: list[Any], body: Any) -> None:
        pending = self.pending.get(number)
        stream = pending.stream if pending is not None else None
        if stream is not None:
            if type(body) is list and body:
                stream.items.extend(body)
            elif type(body) is Raw and array_length(body.data):
                stream.items.append(Together(body))
            else:
                raise ProtocolError("a batch is an array of items")
            stream.arrived()

    def on_end(self, number: int, error: Any) -> None:
        pending = self.pending.pop(number, None)
        if pending is not None and pending.stream is not None:
            self.end_stream(pending.stream, remote_error(error) if error is not None else None)

    def end_stream(self, stream: StreamState, error: BaseException | None) -> None:
        stream.error = error
        stream.ended = True
        stream.arrived()

    def on_credit(self, number: int, count: int) -> None:
        run = self.runs.get(number)
        if run is None:
            channel = self.channels.get(number)
            if channel is not None:
                channel.credited(count)
            return
        run.granted += count
        gate, parked = run.gate, run.parked
        if gate is not None:
            gate.wake()
        if parked is not None:
            run.parked = None
            self.resolve(self.mode.loop, parked, None)

    def on_phase(self, number: int, component: Any, file: str, context: Any) -> Run | None:
        run = PhaseRun(self, number, Phase(self, component, file, context))
        self.runs[run.table_id] = run
        return self.admit(run)

    def on_shutdown(self, _number: int, grace_ms: int) -> None:
        if not self.draining:
            self.draining = True
            try:
                start_new_thread(self.end_after, (grace_ms / 1000,))
            except RuntimeError:  # no more can be started: calls may end all the same, and the host keeps the time
                self.log(40, "stderr", "no thread can be started that would end this sandbox in time")
            for run in self.slots.queued():
                if self.slots.unqueue(run):
                    self.runs.pop(run.id, None)
                    self.refuse_call(run.id, run.target)
            self.leave_if_drained()

    def end_after(self, grace_s: float) -> None:
        sleep(grace_s)
        leave(EXIT_OK)

    def leave_if_drained(self) -> None:
        """The orderly end: nothing runs any more."""
        if self.draining and not self.runs:
            self.flush()
            if self.mode is not None:
                self.mode.flush()
            finish_python()
            if self.logs is not None:
                self.logs.finish()
            leave(EXIT_OK)

    def on_ping(self, number: int) -> None:
        now = monotonic()
        late = [r for r in list(self.runs.values()) if r.thread and (r.cancelled or (r.deadline and now > r.deadline))]
        state: dict[str, Any] = {"threads": count_threads() + 1, "stuck": len(late), "calls": len(self.runs)}
        if self.refused:
            state["refused"] = self.refused
        self.send(self.plain_frame([PONG, number, state]))

    def on_release(self, _number: int, numbers: list[int]) -> None:
        self.forget(numbers)

    def on_mirror(self, _number: int, key: str, entries: list[Any], _refs: list[Any], body: Any) -> None:
        try:
            values = self.decode(body) if type(body) is Raw else body
        except RemoteError as exc:
            self.log(40, "stderr", f"the values of {key!r} could not be decoded: {exc.detail}")
            return
        made = [Entry(self, key, entry, value) for entry, value in zip(entries, values)]
        self.remirror(key, lambda _known: made)

    def last(self, key: str) -> Entry | None:
        """The entry that ``get`` answers from."""
        for entry in reversed(self.mirror.get(key, ())):
            if entry.owner:
                return entry
        return None

    def remirror(self, key: str, change: Callable[[list[Entry]], list[Entry] | None]) -> None:
        """Put what ``change`` makes of the entries in their place (None: leave them); tell of another ``last``.

        The host's word on what is known already is no news.
        """
        with self.mirroring:
            old = self.last(key)
            made = change(self.mirror.get(key, []))
            if made:
                self.mirror[key] = made
            elif made is not None:
                self.mirror.pop(key, None)
            new = self.last(key)
        if (old and old.registration) != (new and new.registration):
            self.changed(key, old and old.shown(), new and new.shown())

    def changed(self, key: str, old: Any, new: Any) -> None:
        """Tell the observers of ``key``, each in order of events, in threads of their own."""
        for observer in [o for o in list(self.observers.values()) if o.matches(key)]:
            self.start(observer.serial.post((key, old, new)))

    def on_event(self, _number: int, subscription: int, event: Any, _refs: list[Any], body: Any) -> Run | None:
        target = self.subscriptions.get(subscription) or self.subscriber(subscription, event, body)
        if target is None:
            return None
        run = target.serial.post((body, event))
        if run is None or run.target.is_async:
            self.start(run)
            return None
        return self.admit(run)

    def subscriber(self, number: int, event: Any, body: Any) -> Subscription | None:
        """Who subscribed so. An event may be here before the thread that asks has seen the answer: it is kept."""
        with self.mutex:
            target = self.subscriptions.get(number)
            if target is None and self.subscribing:
                self.early.append((number, event, body))
            return target

    def subscribed(self, number: int, subscription: Subscription) -> None:
        """From now on events reach it: first, in order, those that were here before."""
        while True:
            with self.mutex:
                early = [item for item in self.early if item[0] == number]
                if not early:
                    self.subscriptions[number] = subscription
                    return
                others = [item for item in self.early if item[0] != number]
                self.early.clear()
                self.early.extend(others)
            for _number, event, body in early:
                self.start(subscription.serial.post((body, event)))

    def on_welcome(self, *_fields: Any) -> None:
        raise ProtocolError("WELCOME comes once")

    HANDLERS: dict[int, Any] = {  # noqa: RUF012 - a table, never changed
        ERROR: on_error, CANCEL: on_cancel, STREAM_ITEM: on_item, STREAM_BATCH: on_batch, STREAM_END: on_end,
        STREAM_CREDIT: on_credit, CHUNK: on_chunk, RUN_PHASE: on_phase, SHUTDOWN: on_shutdown, PING: on_ping,
        RELEASE: on_release, MIRROR: on_mirror, EVENT: on_event, WELCOME: on_welcome,
    }  # fmt: skip

    # -- slots

    def admit(self, run: Run) -> Run | None:
        """A run that may start now, nearly always this one; None: it waits."""
        ready = self.slots.admit(run)
        return ready if ready is run else self.more(ready)

    def finish(self, run: Run, lend: bool = False) -> Run | None:
        """Bookkeeping after a run; the queued run, if any, that takes over its slot and must be started.

        ``lend``: this thread holds the lead and comes for the next call; the slot may stay with the caller until then.
        """
        if not run.detached:
            self.runs.pop(run.table_id, None)
            if self.draining:
                self.leave_if_drained()
        return self.more(self.slots.give_back(run, lend))

    def more(self, ready: Run | None) -> Run | None:
        """``ready`` as it is; what else may start besides is started."""
        if ready is not None and self.slots.line:
            self.start_more()
        return ready

    def start_more(self) -> None:
        """What else may start now: one that ended can make room for two, of different callers."""
        run = self.slots.next()
        while run is not None:
            try:
                self.employ(run, False)
            except RuntimeError:
                self.turn_down(run)
                self.done(run)
                run = self.slots.give_back(run)
            else:
                run = self.slots.next()

    def done(self, run: Run) -> None:
        self.runs.pop(run.table_id, None)
        if self.draining:
            self.leave_if_drained()

    # -- threads

    def thread(self, run: Run | None, lead: bool) -> None:
        """What every one of our threads does: lead, work, rest."""
        worker = Worker()
        main_thread = self.workers == 0
        with self.mutex:
            self.workers += 1
        try:
            while True:
                while run is not None or lead:
                    if lead:
                        lead, run = False, self.lead(run)
                    elif run is not None:
                        run = self.work(run)
                while not self.rest(worker):
                    if not main_thread:
                        return
                run, lead = worker.job
        except ProtocolError as exc:
            self.log(50, "stderr", f"the connection ends: {exc}")
            leave(EXIT_PROTOCOL)
        except BaseException as exc:  # noqa: BLE001 - a bug of ours: better a restart than a Pack that hangs
            self.log(50, "stderr", "the agent failed: " + trace_all(exc))
            leave(EXIT_PROTOCOL)

    def lead(self, run: Run | None) -> Run | None:
        """Read and serve until the lead is lost; a queued run that this thread still has to do."""
        me = get_ident()
        while True:
            if run is not None:
                owned, run = self.run_inline(run)
                if not owned:
                    return run
                if run is not None:
                    continue
            mode = self.mode
            # what is read is kept in no name: it would live until the next frame
            if mode is None:
                owned, run = self.serve(self.read(), me)  # type: ignore[arg-type]  # without `until` it gives a frame
                if not owned:
                    return run
            elif mode.offer():
                return None
            else:
                run = self.dispatch(self.read())  # type: ignore[arg-type]
                if run is not None and run.stack is None:
                    self.start(run)
                run = None

    def serve(self, fields: list[Any], me: int) -> tuple[bool, Run | None]:
        """Act on one frame while holding the lead: (whether it is still held, a run that this thread does next).

        Nearly every frame is a call of a plain handler that gives a plain value at once. All of that stands in this one
        place, since each step more is paid for by each call: what `on_call`, `admit`, `run_inline`, `perform`,
        `fulfilled` and `finish` do for every other.
        """
        if fields[0] != CALL:
            return True, self.here(self.dispatch(fields))
        _, number, ref, deadline_ms, flags, depth, reenter, context, idempotency, refs, body = fields
        target = self.exports.get(ref)
        slots = self.slots
        lent = slots.lent
        caller = slots.callers.get(context[1])
        if (
            target is None or target.slow or reenter or flags or refs or not number
            or len(self.runs) > self.in_flight or self.draining
            or caller is None or not (caller.is_host or slots.left + len(lent) >= caller.held)
            or not lent.pop(caller, False)
        ):  # fmt: skip
            return True, self.here(self.on_call(fields))
        run = new(Run)
        run.agent = self
        run.id = run.table_id = number
        run.target = target
        run.context = context
        run.depth = depth
        if idempotency is not None:
            run.idempotency = idempotency
        run.deadline = monotonic() + (deadline_ms / 1000 if deadline_ms else self.deadline_s)
        run.thread = me
        self.runs[number] = run
        run.token = self.token = [1]
        if self.ticker_asleep:
            self.wake_ticker()
        within = Context().run
        within(set_current, run)
        try:
            result = within(target.call, body, CallContext(run))
            kind = type(result)
            if kind in PACKED:
                try:
                    answer = within(self.packed, [RESULT, number, 0, (), result])
                except RemoteError as exc:
                    answer = run.refused(as_refusal(exc))
            else:
                answer = within(run.fulfilled if kind in PLAIN else run.concluded, result)
        except BaseException as exc:  # noqa: BLE001 - whatever a Pack raises becomes the call's answer
            answer = within(run.refused, exc)
        try:
            run.token.pop()
        except IndexError:
            target.slow = 8
            if answer is not None:
                self.send(answer)
            run.caller, run.slot = caller, SHARED
            return False, self.finish(run)
        if not self.tail and not self.out and type(answer) is bytes:  # there is nothing that it could go out with
            self.link.send(answer)
        elif answer is not None:
            self.answer(answer)
        if run.detached:
            run.caller, run.slot = caller, SHARED
            return True, self.finish(run)
        self.runs.pop(number, None)
        if self.draining:
            self.leave_if_drained()  # type: ignore[unreachable]  # since it was looked at, above, it may have begun
        lent[caller] = True
        return NOTHING_NEXT if not slots.line else (True, self.more(slots.next()))

    def here(self, run: Run | None) -> Run | None:
        """The run, where it is one for the leader to do; others are started elsewhere."""
        if run is not None and (run.target.slow or run.stack is not None):
            if run.stack is None:
                self.start(run)
            return None
        return run

    def answer(self, frame: Any) -> None:
        """Send the leader's answer; it is kept back while more that came is to be answered."""
        out = self.out
        out.append(frame)
        if not self.tail or len(out) >= OUT_FRAMES or len(frame) > READ_BYTES:
            self.flush()

    def run_inline(self, run: Run) -> tuple[bool, Run | None]:
        """Run a handler while holding the lead: (whether it is still held, a queued run to do next)."""
        run.token = self.token = [1]
        if self.ticker_asleep:
            self.wake_ticker()
        answer = run.perform()
        try:
            run.token.pop()
        except IndexError:
            run.target.slow = 8
            if answer is not None:
                self.send(answer)
            return False, self.finish(run)
        if answer is not None:
            self.answer(answer)
        return True, self.finish(run, lend=True)

    def work(self, run: Run) -> Run | None:
        """Run a handler in this thread, which does not hold the lead."""
        begun = monotonic()
        answer = run.perform()
        if answer is not None:
            self.send(answer)
        if run.target.slow and monotonic() - begun < TICK_S:
            run.target.slow -= 1
        if self.released or self.abandoned:
            self.flush_gone()
        return self.finish(run)

    def start(self, run: Run | None) -> None:
        """Start a run that has been admitted (or is asynchronous) somewhere else."""
        if run is None:
            return
        if run.target.is_async:
            self.mode.spawn(run)
            return
        if run.slot is None and run.stack is None:
            run = self.admit(run)
        while run is not None:
            try:
                self.employ(run, False)
            except RuntimeError:
                self.turn_down(run)
                run = self.finish(run)
            else:
                return

    def turn_down(self, run: Run) -> None:
        """Answer a run for which no thread can be started."""
        answer = run.refused(Refusal("limit", "no more threads can be started", "", True))
        if answer is not None:
            self.send(answer)

    def employ(self, run: Run | None, lead: bool) -> None:
        """Give a parked thread, or a new one, something to do. Raises RuntimeError where no thread can be started."""
        with self.mutex:
            worker = self.idle.pop() if self.idle else None
        if worker is not None:
            worker.job = (run, lead)
            worker.lock.release()
        else:
            start_new_thread(self.thread, (run, lead))

    def rest(self, worker: Worker) -> bool:
        """Park until there is something to do; False: nothing for a while, the thread may end."""
        with self.mutex:
            self.idle.append(worker)
        if worker.lock.acquire(True, IDLE_S):
            return True
        with self.mutex:
            if worker in self.idle:
                self.idle.remove(worker)
                self.workers -= 1
                return False
        return worker.lock.acquire()

    # -- the ticker

    def tick(self) -> None:
        """Every two milliseconds, while calls come: has the run that holds the lead been at it since the last look?"""
        last: list[int] = []
        age = 0
        turns = Turns(sys.setswitchinterval)
        while True:
            due_at = monotonic() + TICK_S
            sleep(TICK_S)
            turns.look(monotonic() - due_at)
            if self.released or self.abandoned:
                self.flush_gone()
            if self.holding and not self.link.lock.locked():
                self.flush_held()
            token = self.token
            if token is not last:
                last, age = token, 0
                continue
            age += 1
            if token:
                try:
                    due = age >= token[0]
                    if due:
                        token.pop()
                except IndexError:
                    continue
                if due:
                    self.pass_lead()
            elif age > RESTLESS_TICKS:
                if self.settling:
                    self.settling -= 1
                    self.trim(0)
                self.ticker_asleep = True
                if self.token is last and not self.holding:
                    self.ticker_lock.acquire()
                self.ticker_asleep = False
                age = 0

    def wake_ticker(self) -> None:
        self.ticker_asleep = False
        try:
            self.ticker_lock.release()
        except RuntimeError:
            return

    def pass_lead(self) -> None:
        """The lead is in our hands and must go on. A thread that can't be started now can be when a handler ends."""
        while True:
            try:
                self.flush()
                self.employ(None, True)
            except RuntimeError:
                sleep(TICK_S)
            else:
                return

    def yield_lead(self) -> None:
        """A handler with an event loop of its own is about to wait: let somebody else read at once."""
        run = CURRENT.get()
        if run is not None and run.thread and run.thread == get_ident() and run.token:
            try:
                run.token.pop()
            except IndexError:
                return
            self.pass_lead()

    # -- waiting

    def wait(self, gate: Gate, until: float | None) -> bool:
        """Block until ``gate`` opens; False when ``until`` (monotonic) passed first. Runs what descends from here."""
        if self.holding:
            self.flush_held()
        me = get_ident()
        holder = CURRENT.get()
        if holder is None or holder.thread != me or not holder.token:
            holder = self.holder(me)
        try:
            patience = holder.token.pop() if holder is not None else 0
        except IndexError:  # it was taken
            patience = 0
        if patience and self.lead_until(gate, until):
            # a fresh list: what the ticker measures is this stretch of Pack code, not the whole handler
            # while this thread holds the lead, nobody else opens the gate or puts anything in; once open, nobody will
            through = gate.open and gate.inbox is None
            holder.token = self.token = [patience]
            if self.ticker_asleep:
                self.wake_ticker()
            if through:
                return True
        while not gate.open:
            run = self.from_inbox(gate) if gate.inbox is not None else None
            if run is not None:
                self.run_on_stack(gate, run)
                continue
            if gate.lock is None:
                gate.make_lock()
                continue  # who opened it in the meantime saw none to release
            if until is None:
                gate.lock.acquire()
                continue
            left = until - monotonic()
            if left > 0:
                gate.lock.acquire(True, min(left, 3600.0))
            else:
                self.close_gate(gate)
                return False
        self.close_gate(gate)
        return True

    def holder(self, me: int) -> Any:
        """Whose token this thread may take, when it is in the middle of no run that has one: the event loop's turn."""
        mode = self.mode
        return mode if mode is not None and mode.ident == me and mode.token else None

    def lead_until(self, gate: Gate, until: float | None) -> bool:
        """Read for everybody while ``gate`` is closed and there is time; False when the lead was lost meanwhile."""
        mode = self.mode
        on_loop = mode is not None and mode.ident == get_ident()
        if on_loop:
            mode.flush()
        while not gate.open:
            fields = self.read(until)
            if fields is None:
                return True
            run = self.dispatch(fields)
            fields = None  # it would live until the next frame
            if run is None:
                continue
            if run.stack is gate:
                self.from_inbox(gate)
                owned, _ = self.run_inline(run)
                gate.busy = False
                if not owned:
                    return False
            elif run.stack is not None:
                continue  # its own waiting thread was told
            elif on_loop or run.target.slow:
                self.start(run)
            else:
                try:
                    self.employ(run, True)
                except RuntimeError:
                    self.start(run)
                    continue
                return False
        return True

    def from_inbox(self, gate: Gate) -> Run | None:
        with self.mutex:
            run, gate.inbox = gate.inbox, None
        return run

    def run_on_stack(self, gate: Gate, run: Run) -> None:
        answer = run.perform()
        gate.busy = False
        if answer is not None:
            self.send(answer)
        self.finish(run)

    def close_gate(self, gate: Gate) -> None:
        """Nothing runs on this stack any more: what arrived for it goes the ordinary way."""
        with self.mutex:
            gate.open = True
            left, gate.inbox = gate.inbox, None
        if left is not None:
            left.stack = None
            self.start(left)

    # -- requests of our own

    def open_pending(self, run: Run | None) -> Pending:
        if len(self.pending) >= self.in_flight:
            raise LimitReached("limit", "too many calls at once", f"{self.in_flight} are in flight", True)
        number = next(self.requests) % 0xFFFFFFFF + 1
        while number in self.pending:
            number = next(self.requests) % 0xFFFFFFFF + 1
        pending = self.pending[number] = Pending(number, run)
        return pending

    def parent_of(self, ctx: Any) -> tuple[int, Run | None]:
        """The call that an outgoing one is made for: the ``ctx`` passed on, else the handler running here."""
        run = ctx._run if type(ctx) is CallContext else CURRENT.get()  # noqa: SLF001
        return (run.id, run) if run is not None and type(run) is Run else (0, run)

    def call(self, target: Any, args: Any, ctx: Any, timeout_s: float | None, idempotency: str | None) -> Any:
        """Call ``target`` (key or number) and block for its value."""
        run = CURRENT.get() if ctx is None or type(ctx) is not CallContext else ctx._run  # noqa: SLF001 - as `parent_of`
        pending = self.open_pending(run)
        deadline_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
        parent = run.id if type(run) is Run else 0
        try:
            if type(args) in PACKED:
                frame = self.packed([CALL, pending.id, target, deadline_ms, parent, 0, idempotency, (), args])
            else:
                frame = self.frame([CALL, pending.id, target, deadline_ms, parent, 0, idempotency], args)
        except BaseException:
            self.pending.pop(pending.id, None)
            raise
        return self.await_answer(pending, frame, timeout_s or self.deadline_s)

    def exchange(self, pending: Pending, head: list[Any], body: Any, timeout_s: float) -> Any:
        """Send ``head`` + refs + ``body`` and wait for the answer."""
        try:
            frame = self.frame(head, body)
        except BaseException:
            self.pending.pop(pending.id, None)
            raise
        return self.await_answer(pending, frame, timeout_s)

    def await_answer(self, pending: Pending, frame: bytes, timeout_s: float) -> Any:
        gate = pending.gate = Gate()
        run = pending.run
        if run is not None and run.cancelled:
            self.pending.pop(pending.id, None)
            raise CallCancelled("cancelled", "the call that this one was made for was cancelled")
        if type(frame) is bytes:
            self.link.send(frame)
        else:
            self.send(frame)
        if not self.wait(gate, monotonic() + timeout_s + SLACK_S):
            self.give_up(pending)
            detail = f"the host was silent for {timeout_s + SLACK_S:g} s"
            raise CallTimeout("timeout", "no answer in time", detail, True)
        reply = pending.reply
        if type(reply) in PACKED and pending.error is None and pending.stream is None:
            return reply
        return self.take(pending)

    def give_up(self, pending: Pending) -> None:
        if self.pending.pop(pending.id, None) is not None:
            self.send(self.plain_frame([CANCEL, pending.id]))

    def take(self, pending: Pending) -> Any:
        if pending.error is not None:
            raise pending.error
        if pending.stream is not None:
            return RemoteStream(pending.stream)
        reply = pending.reply
        return self.decode(reply) if type(reply) is Raw else reply

    async def call_async(
        self, loop: Any, target: Any, args: Any, ctx: Any, timeout_s: float | None, idempotency: str | None
    ) -> Any:
        # written out as in `call`, and as `open_pending`: a method for all would be one call more for each
        run = CURRENT.get() if ctx is None or type(ctx) is not CallContext else ctx._run  # noqa: SLF001 - as `parent_of`
        number = next(self.requests) % 0xFFFFFFFF + 1
        if number in self.pending or len(self.pending) >= self.in_flight:
            pending = self.open_pending(run)
            number = pending.id
        else:
            pending = new(Pending)
            pending.id = number
            pending.run = run
            pending.gate = pending.future = pending.loop = pending.reply = None
            pending.until = 0.0
            self.pending[number] = pending
        deadline_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
        parent = run.id if type(run) is Run else 0
        try:
            if type(args) in PACKED:
                frame = self.packed([CALL, number, target, deadline_ms, parent, 0, idempotency, (), args])
            else:
                frame = self.frame([CALL, number, target, deadline_ms, parent, 0, idempotency], args)
        except BaseException:
            self.pending.pop(number, None)
            raise
        pending.loop = loop
        future = pending.future = loop.create_future()
        mode, timer = self.mode, None
        if mode is not None and mode.loop is loop:
            pending.until = until = monotonic() + (timeout_s or self.deadline_s) + SLACK_S
            if until < mode.due:  # noqa: PLR1730 - `min` would be a call for each call
                mode.due = until
            mode.out.append(frame)
            if len(mode.out) >= OUT_FRAMES:
                mode.flush()
        else:
            timer = loop.call_later((timeout_s or self.deadline_s) + SLACK_S, self.expire, pending)
            self.send(frame)
        try:
            await future
        except BaseException:
            self.give_up(pending)
            pending.reply = None
            raise
        finally:
            if timer is not None:
                timer.cancel()
        reply = pending.reply
        if type(reply) in PACKED and pending.error is None and pending.stream is None:
            return reply
        return self.take(pending)

    def expire(self, pending: Pending) -> None:
        if pending.stream is None and not pending.future.done():
            pending.error = CallTimeout("timeout", "no answer in time", "the host was silent", True)
            self.give_up(pending)
            pending.future.set_result(None)

    def make_gate(self) -> Gate:
        """For waiting in other modules of the runtime."""
        return Gate()

    def ask(self, fields: list[Any], timeout_s: float | None = None) -> Any:
        """A request without a body: ``fields`` without kind's id, which is put second."""
        pending = self.open_pending(CURRENT.get())
        frame = self.plain_frame([fields[0], pending.id, *fields[1:]])
        return self.await_answer(pending, frame, timeout_s or self.deadline_s)

    def ask_with(self, kind: int, fields: list[Any], body: Any, timeout_s: float | None = None) -> Any:
        pending = self.open_pending(CURRENT.get())
        return self.exchange(pending, [kind, pending.id, *fields], body, timeout_s or self.deadline_s)

    def request(self, operation: str, body: Any, timeout_s: float | None = None) -> Any:
        return self.ask_with(REQUEST, [operation, self.parent_of(None)[0]], body, timeout_s)

    def running_loop(self) -> Any:
        """The event loop that runs in this thread, if any."""
        get = self.get_running_loop
        if get is None:
            module = sys.modules.get("asyncio.events")
            get = getattr(module, "_get_running_loop", None)
            if get is None:
                return None
            self.get_running_loop = get
        return get()

    def own_context(self) -> CallContext | None:
        run = CURRENT.get()
        return CallContext(run) if run is not None else None

    # -- asynchronous handlers

    def start_loop(self) -> None:
        """Asynchronous mode, from the first asynchronous callable on; it never ends."""
        if self.mode is not None:
            return
        with self.loop_lock:
            if self.mode is None:
                mode = LoopMode(self)
                start_new_thread(mode.main, ())
                mode.ready.acquire()
                self.mode = mode

    def detach(self, run: Run, awaitable: Any) -> None:
        """A plain handler gave an awaitable: the loop finishes the call, this thread and its slot are free."""
        run.detached = True
        self.start_loop()
        self.mode.spawn(run, awaitable)

    def hand_over_stream(self, run: Run, iterator: Any) -> None:
        """A plain iterator that must not be drained here, since its code may block the loop, or its reader waits below
        it: a thread of its own does it.
        """
        if self.mode is not None:
            self.mode.runs.discard(run)
        rest = Run(self, run.id, IteratorTarget(iterator), None)
        rest.granted = run.granted
        rest.context, rest.deadline, rest.depth, rest.cancelled = run.context, run.deadline, run.depth, run.cancelled
        if run.id:
            self.runs[run.id] = rest
        self.start(rest)

    # -- logs

    def log(self, level: int, source: str, text: str) -> None:
        """LOG frames: split at line ends, within the frame's limit."""
        text = clean(text)
        while text:
            part = text[:LOG_CHARS]
            if len(text) > LOG_CHARS:
                cut = part.rfind("\n")
                part = part[: cut + 1] if cut > 0 else part
            text = text[len(part) :]
            self.send(self.plain_frame([LOG, 0, level, source[:200], part]))

    def log_failure(self, what: str, exc: BaseException) -> None:
        fields = self.error_fields(exc)
        self.log(40, "stderr", f"{what}: {fields[1]}\n{fields[4]}")


def finish_python() -> None:
    """What an orderly end of the interpreter would do for the Pack: exit functions, and what its streams still hold."""
    atexit = sys.modules.get("atexit")
    if atexit is not None:
        atexit._run_exitfuncs()  # noqa: SLF001 - the only way to run them without ending our own threads first
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            continue


def trace_all(exc: BaseException) -> str:
    lines = [f"{type(exc).__name__}: {exc}"]
    at = exc.__traceback__
    while at is not None:
        lines.append(f"{at.tb_frame.f_code.co_name}:{at.tb_lineno}")
        at = at.tb_next
    return " < ".join(lines)[:LOG_CHARS]


class IteratorTarget:
    """A stream that goes on in a thread of its own."""

    is_async = False
    slow = 8

    def __init__(self, iterator: Any) -> None:
        self.iterator = iterator

    def call(self, _args: Any, _ctx: Any) -> Any:
        return self.iterator


class LoopMode:
    """The event loop of a Pack with asynchronous handlers. Its ``select`` reads the bus while it holds the lead."""

    def __init__(self, agent: Agent) -> None:
        import asyncio  # in the caller's thread: an import that fails is the caller's error, not a hanging start

        self.asyncio = asyncio
        self.task = asyncio.Task
        self.agent = agent
        self.token: list[int] = []
        self.out: list[bytes] = []
        self.waiting = False
        self.offered = False
        self.watched = False
        self.others = 0
        """How many descriptors the loop looks at beside the bus; its own way to be woken is one."""
        self.due = NEVER_S
        """Before this nobody on the loop has waited for an answer too long. Not a timer of the loop's: one for each
        call would cost as much as the call.
        """
        self.ident = 0
        self.runs: set[Run] = set()
        self.ready = allocate_lock()
        self.ready.acquire()
        self.loop: Any = None
        self.selector: Any = None
        self.plain: Any = None
        """The selector's class without what looks at the bus."""

    def main(self) -> None:
        import selectors

        mode = self
        plain = selectors.DefaultSelector

        class BusSelector(plain):  # type: ignore[misc,valid-type]
            """A selector that knows one descriptor more than the loop: the bus."""

            def select(self, timeout: float | None = None) -> Any:
                return mode.select(timeout)

            def register(self, *given: Any, **named: Any) -> Any:
                key = super().register(*given, **named)
                mode.others += 1
                return key

            def unregister(self, fileobj: Any) -> Any:
                key = super().unregister(fileobj)
                mode.others -= 1
                return key

        agent = self.agent
        self.ident = get_ident()
        self.selector = BusSelector()
        self.plain = plain
        self.loop = loop_class(self.asyncio, self)(self.selector)
        self.asyncio.set_event_loop(self.loop)
        self.ready.release()
        try:
            self.loop.run_forever()
            agent.log(50, "stderr", "the Pack stopped the event loop that serves its calls")
        except ProtocolError as exc:
            agent.log(50, "stderr", f"the connection ends: {exc}")
        except BaseException as exc:  # noqa: BLE001
            agent.log(50, "stderr", "the agent failed: " + trace_all(exc))
        leave(EXIT_PROTOCOL)

    def select(self, timeout: float | None) -> Any:
        agent = self.agent
        out = self.out
        if len(out) == 1 and type(out[0]) is bytes:  # as `send_all`
            agent.link.send(out.pop())
        elif out:
            agent.send_all(out)
        if agent.holding:
            agent.flush_held()
        near = self.due - monotonic() < READ_S
        if near and self.due <= monotonic():
            self.sweep()
            timeout = 0  # what waited too long goes on
        try:
            self.token.pop()
        except IndexError:
            return self.select_without_lead(timeout)
        if timeout is not None and timeout <= 0:
            # tasks are ready: they come first, but the bus is looked at, or a busy loop would never see a CANCEL
            self.watch(True)
            return self.turn(self.plain.select(self.selector, timeout), agent.buffered())
        if agent.tail:
            fields = agent.buffered()
            if fields is not None:
                self.act(fields)
                return []
        if agent.out or agent.released or agent.abandoned:
            agent.flush()
        # where nothing but a frame can wake the loop, the read itself may block
        if (
            timeout is None and not near and self.others <= 1 and len(agent.idle) == agent.workers
            and count_threads() == agent.foreign + agent.workers
        ):  # fmt: skip
            patient = self.due == NEVER_S
            if not patient and not agent.link.bounded:
                agent.link.bound(1)
            fields = agent.fill(patient)
            if fields is None and not patient and not agent.tail:
                self.sweep()  # nothing came for a while: perhaps nobody waits any more
            self.act(fields)
            return []
        self.watch(True)
        return self.turn(self.plain.select(self.selector, self.bounded(timeout)), None)

    def bounded(self, timeout: float | None) -> float | None:
        """``timeout``, or how long it is until ``due``."""
        if self.due == NEVER_S:
            return timeout
        left = max(0.0, self.due - monotonic())
        return left if timeout is None else min(left, timeout)

    def sweep(self) -> None:
        """End what has waited too long, and see when to look again."""
        now, due = monotonic(), NEVER_S
        for pending in list(self.agent.pending.values()):
            if pending.until and not pending.future.done():
                if pending.until <= now:
                    self.agent.expire(pending)
                else:
                    due = min(due, pending.until)
        self.due = due

    def select_without_lead(self, timeout: float | None) -> Any:
        agent = self.agent
        self.watch(False)
        with agent.mutex:
            self.waiting = True
        events = self.plain.select(self.selector, self.bounded(timeout))
        with agent.mutex:
            self.waiting = False
            owned, self.offered = self.offered, False
        return self.turn(events, agent.buffered()) if owned else events

    def turn(self, events: Any, fields: Any) -> Any:
        """What a look at all descriptors gave: the bus is for this, the others for the loop. ``fields``: as ``act``."""
        agent = self.agent
        others = events
        if self.watched and events:
            others = [event for event in events if event[0].fd != agent.link.fd]
            if len(others) != len(events) and fields is None:  # else what is there comes first, and the next look reads
                fields = agent.fill()
        self.act(fields)
        return others

    def act(self, fields: Any) -> None:
        """Dispatch every complete frame, these first; keep the lead in a token while the loop runs what got ready."""
        agent = self.agent
        if fields is None and agent.tail:
            fields = agent.buffered()
        left = 256
        while fields is not None:
            kind = fields[0]
            if kind == RESULT:
                agent.on_result(fields)
            else:
                run = agent.on_call(fields) if kind == CALL else agent.dispatch(fields)
                if run is not None and run.stack is None:
                    agent.start(run)
            left -= 1
            if not left:
                self.loop.call_soon(int)  # more may be in the buffer: come back without waiting
                break
            fields = agent.next_frame(agent.head, agent.tail) if agent.tail else None
        if agent.out:
            agent.flush()
        self.token = agent.token = [LOOP_PATIENCE]
        if agent.ticker_asleep:
            agent.wake_ticker()

    def watch(self, on: bool) -> None:
        if on is not self.watched:
            if on:
                self.plain.register(self.selector, self.agent.link.fd, 1)
            else:
                self.plain.unregister(self.selector, self.agent.link.fd)
            self.watched = on

    def offer(self) -> bool:
        """Give the lead to the loop, if it waits for something to do; called by the thread that holds it."""
        with self.agent.mutex:
            if not self.waiting or self.offered:
                return False
            self.offered = True
        self.loop.call_soon_threadsafe(int)
        return True

    def flush(self) -> None:
        if self.out:
            self.agent.send_all(self.out)

    def write(self, frame: bytes, now: bool = False) -> None:
        """Send a frame, in the loop's thread at the end of its turn: many answers cost one system call."""
        if get_ident() != self.ident:
            self.agent.send(frame)
            return
        self.out.append(frame)
        if now or len(self.out) >= OUT_FRAMES:
            self.flush()

    def conclude(self, run: Run, frame: bytes | None) -> None:
        """The end of a task, in the loop's thread."""
        agent = self.agent
        if not run.id:
            self.runs.discard(run)
        if frame is not None:
            self.out.append(frame)
            if len(self.out) >= OUT_FRAMES:
                self.flush()
        agent.runs.pop(run.table_id, None)
        if agent.draining:
            agent.leave_if_drained()

    def spawn(self, run: Run, awaitable: Any = None) -> None:
        if get_ident() == self.ident:
            self.begin(run, awaitable)
        else:
            self.loop.call_soon_threadsafe(self.begin, run, awaitable)

    def begin(self, run: Run, awaitable: Any) -> None:
        if not run.id:
            self.runs.add(run)  # the loop itself holds tasks weakly, and the agent no run without an answer
        run.task = Context().run(self.task, run.serve(awaitable), loop=self.loop)

    def cancel(self, run: Run) -> None:
        if get_ident() == self.ident:
            self.cancel_here(run)
        else:
            self.loop.call_soon_threadsafe(self.cancel_here, run)

    def cancel_here(self, run: Run) -> None:
        # a task cancelled before its first step would never run, and never answer: `serve` looks at the flag itself
        if run.thread == IN_TASK:
            run.task.cancel()


def loop_class(asyncio: Any, mode: LoopMode) -> Any:
    """The event loop of the standard library, which takes fewer steps while it has no timers and nobody debugs.

    It steps past two of its methods, by what these look at. Where they look at something else, it is left as it is.
    """
    plain, handle_class = asyncio.SelectorEventLoop, asyncio.Handle

    class BusLoop(plain):  # type: ignore[misc,valid-type]
        def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:
            if self._debug or self._closed or context is None:
                return super().call_soon(callback, *args, context=context)
            handle = new(handle_class)  # as its __init__ where nobody debugs
            handle._context = context  # noqa: SLF001
            handle._loop = self  # noqa: SLF001
            handle._callback = callback  # noqa: SLF001
            handle._args = args  # noqa: SLF001
            handle._cancelled = False  # noqa: SLF001
            handle._repr = handle._source_traceback = None  # noqa: SLF001
            self._ready.append(handle)
            return handle

        def _run_once(self) -> None:
            ready = self._ready
            if self._scheduled or self._debug or self._stopping:
                super()._run_once()
                return
            events = mode.select(0 if ready else None)
            if events:
                self._process_events(events)
            left = len(ready)  # what these add has its turn after the next look at the bus
            while left:
                left -= 1
                handle = ready.popleft()
                if not handle._cancelled:  # noqa: SLF001 - as the loop itself
                    handle._run()  # noqa: SLF001

    looked_at = plain._run_once.__code__.co_names  # noqa: SLF001
    known = {"_ready", "_scheduled", "_debug", "_stopping", "_cancelled", "_run", "_process_events"}
    parts = {"_context", "_loop", "_callback", "_args", "_cancelled", "_repr", "_source_traceback", "__weakref__"}
    return BusLoop if known.issubset(looked_at) and parts == set(handle_class.__slots__) else plain


# ---- what Pack code finds in its context


class Serial:
    """Delivers to one callback in order, one at a time, in whichever thread is free. Both ``target`` and queue."""

    LIMIT = 10_000

    def __init__(self, agent: Agent, fn: Any, parameters: int) -> None:
        self.agent = agent
        self.fn = fn
        self.count = min(parameters, max(0, positional(fn, parameters)))
        self.queue: deque[tuple[Any, ...]] = deque()
        self.busy = False
        self.lost = 0
        self.slow = 0
        self.is_async = is_async(fn)
        if self.is_async:
            agent.start_loop()

    def post(self, item: tuple[Any, ...]) -> Run | None:
        """Queue ``item``; the run that delivers it, when none is at it already."""
        with self.agent.mutex:
            if len(self.queue) >= self.LIMIT:
                self.queue.popleft()
                self.lost += 1
            self.queue.append(item)
            if self.busy:
                return None
            self.busy = True
        return Run(self.agent, 0, self, None)

    def next(self) -> tuple[Any, ...] | None:
        with self.agent.mutex:
            if self.queue:
                item: tuple[Any, ...] = self.queue.popleft()
                return item
            self.busy = False
            return None

    def call(self, _args: Any, _ctx: Any) -> Any:
        return self.drain_async() if self.is_async else self.drain()

    def drain(self) -> None:
        while True:
            item = self.next()
            if item is None:
                return
            try:
                self.deliver(item)
            except BaseException as exc:  # noqa: BLE001 - one failing delivery must not stop the next
                self.agent.log_failure("a callback failed", exc)

    async def drain_async(self) -> None:
        while True:
            item = self.next()
            if item is None:
                return
            try:
                await self.deliver(item)
            except Exception as exc:  # noqa: BLE001
                self.agent.log_failure("a callback failed", exc)

    def deliver(self, item: tuple[Any, ...]) -> Any:
        values = [self.agent.decode(v) if type(v) is Raw else v for v in item]
        return self.fn(*values[: self.count])


class EventSerial(Serial):
    """Events that wait for their handler: at most ``limit``; what a full queue loses is the subscriber's choice."""

    def __init__(self, agent: Agent, fn: Any, limit: int, policy: str) -> None:
        super().__init__(agent, fn, 2)
        self.limit = limit
        self.policy = policy
        self.topics: dict[str, tuple[Any, ...]] = {}

    def post(self, item: tuple[Any, ...]) -> Run | None:
        with self.agent.mutex:
            lost = self.put(item)
            self.lost += lost
            told = lost and (self.lost == 1 or self.lost % 1_000 == 0)
            idle, self.busy = not self.busy, True
        if told:
            text = f"a subscriber is too slow: {self.lost} events were dropped ({self.policy})"
            self.agent.log(30, "log:rumi.events", text)
        return Run(self.agent, 0, self, None) if idle else None

    def put(self, item: tuple[Any, ...]) -> int:
        topic = item[1].get("type")
        latest = self.policy == "latest"
        if latest:
            self.topics.pop(topic, None)
        full = len(self.topics if latest else self.queue) >= self.limit
        if full and self.policy == "drop_newest":
            return 1
        if latest:
            if full:
                del self.topics[next(iter(self.topics))]
            self.topics[topic] = item
        else:
            if full:
                self.queue.popleft()
            self.queue.append(item)
        return int(full)

    def next(self) -> tuple[Any, ...] | None:
        if self.policy != "latest":
            return super().next()
        with self.agent.mutex:
            if self.topics:
                return self.topics.pop(next(iter(self.topics)))
            self.busy = False
            return None


class Observer:
    """One ``observe``."""

    def __init__(self, agent: Agent, pattern: str, callback: Any) -> None:
        self.pattern = pattern
        self.serial = Serial(agent, callback, 3)

    def matches(self, key: str) -> bool:
        return glob_matches(self.pattern, key)


class Subscription:
    """One ``subscribe``."""

    def __init__(self, agent: Agent, topic: str, handler: Any, queue: int | None, policy: str) -> None:
        self.topic = topic
        self.number = 0
        self.complete = True
        self.serial = EventSerial(agent, handler, queue or Serial.LIMIT, policy)


def glob_matches(pattern: str, text: str) -> bool:
    if "*" not in pattern and "?" not in pattern and "[" not in pattern:
        return pattern == text
    from fnmatch import fnmatchcase

    return fnmatchcase(text, pattern)


class Entry:
    """One value under one key, as MIRROR tells it."""

    __slots__ = (
        "_by_key", "_own", "agent", "callable", "input", "key", "meta", "mine", "output", "owner", "pack",
        "registration", "told_source", "ts", "value",
    )  # fmt: skip

    def __init__(self, agent: Agent, key: str, info: Any, value: Any) -> None:
        self.agent = agent
        self.key = key
        self.owner: bool = info["owner"]
        self.pack: str = info["pack"]
        self.ts: float = info["ts"]
        self.meta: dict[str, Any] = info.get("meta") or {}
        self.callable: bool = info["callable"]
        self.input = info.get("input")
        self.output = info.get("output")
        self.mine: bool = info["mine"]
        self.registration: int = info["registration"]
        self.told_source: str | None = info.get("source")
        self.value = value
        self._by_key: Function | None = None
        self._own: Function | None = None

    @property
    def source(self) -> str | None:
        """Looked up when asked: the host's MIRROR of a registration may come before that has returned here."""
        return self.told_source or (SOURCES.get(self.registration) if self.mine else None)

    def shown(self) -> Any:
        """For ``last``: a callable is called by its key, so it survives its provider's restart."""
        if not self.callable:
            return self.value
        if self._by_key is None:
            self._by_key = Function(self.agent, key=self.key, keep=self.value)
        return self._by_key

    def itself(self) -> Any:
        """Exactly this entry."""
        if not (self.callable and self.mine) or type(self.value) is Function:
            return self.value
        if self._own is None:
            self._own = Function(self.agent, local=Export(self.value))
        return self._own

    def as_dict(self) -> dict[str, Any]:
        return {
            "key": self.key, "value": self.itself(), "meta": dict(self.meta), "ts": self.ts, "pack": self.pack,
            "owner": self.owner,
        }  # fmt: skip


SOURCES: dict[int, str] = {}
"""Source texts of this Pack's own registrations; MIRROR does not carry them."""


class InterfaceRegistry:
    """The registry as this Pack may see it. Reads are answered from the mirror, changes by the host."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._registered: list[str] = []
        self._numbers: dict[int, str] = {}
        self._observers: list[int] = []
        self.before: InterfaceRegistry | None = None
        """While a component is loaded again: what it registered before, which still serves."""

    def register(self, key: str, value: Any, meta: Any = None) -> int:
        """Offer ``value`` (a handler ``handler(args, ctx)``, data, or data with callables inside) under ``key``."""
        return int(self._register(key, value, meta))

    def register_if_absent(self, key: str, value: Any, meta: Any = None, ttl: float | None = None) -> bool:
        """Register unless there is one; it expires after ``ttl`` seconds. Whether this one was registered."""
        ttl_ms = None if ttl is None else max(1, int(ttl * 1000))
        return self._register(key, value, meta, if_absent=True, ttl_ms=ttl_ms) is not False

    def register_handler(
        self, key: str, fn: Any, input_schema: Any = None, output_schema: Any = None, meta: Any = None,
        source_code: str | None = None,
    ) -> int:  # fmt: skip
        """Register a handler with JSON Schemas, which the host enforces on each call."""
        if not callable(fn):
            raise TypeError(f"register_handler({key!r}) needs a callable, got {type(fn).__name__}")
        schemas = {"input": input_schema, "output": output_schema}
        return int(self._register(key, fn, meta, schemas=schemas, source=source_code))

    def _register(
        self, key: str, value: Any, meta: Any, *, if_absent: bool = False, ttl_ms: int | None = None,
        override: bool = False, source: str | None = None, schemas: Any = None,
    ) -> Any:  # fmt: skip
        check_name("a key", key)
        value = hook_of(key, value)
        if meta is not None and not isinstance(meta, dict):
            raise TypeError(f"meta is a dict or None, got {type(meta).__name__}")
        agent = self._agent
        if if_absent and self.before is not None:  # what this component left itself is no reason to be content
            mine = self.before._numbers  # noqa: SLF001
            if_absent = any(entry.registration not in mine for entry in agent.mirror.get(key, ()))
        options = {"if_absent": if_absent, "ttl_ms": ttl_ms, "override": override, "source": source}
        if meta:
            agent.frame([0], meta)  # names the path of what can't cross; metadata carries no callables
        if schemas:
            agent.frame([0], schemas)
        number = agent.ask_with(REGISTER, [key, options, meta, schemas], value)
        if number is False:
            return False
        if source is not None:
            SOURCES[number] = source
        self._registered.append(key)
        self._numbers[number] = key
        self._note(key, value, meta, number, schemas or {}, source)
        return number

    def _note(self, key: str, value: Any, meta: Any, number: int, schemas: Any, source: str | None) -> None:
        """Until the host's MIRROR arrives, ``get`` knows what was just registered."""
        agent = self._agent

        def with_it(entries: list[Entry]) -> list[Entry] | None:
            if any(entry.registration == number for entry in entries):
                return None
            info = {
                "owner": not any(e.owner and not e.mine for e in entries), "pack": agent.pack_id, "ts": time(),
                "meta": meta, "callable": callable(value), "mine": True, "registration": number, "source": source,
                **schemas,
            }  # fmt: skip
            return [*entries, Entry(agent, key, info, value)]

        agent.remirror(key, with_it)

    def get(self, key: str, strategy: str = "last") -> Any:
        """The value under ``key``: the owner's ``last`` or ``first``, or ``all`` of them. None or [] when absent."""
        if strategy == "last":
            last = self._agent.last(key)
            return None if last is None else last.shown()
        entries = self._agent.mirror.get(key, ())
        if strategy == "all":
            return [entry.itself() for entry in entries]
        if strategy != "first":
            raise ValueError(f"strategy is 'last', 'first' or 'all', got {strategy!r:.40}")
        owned = [entry for entry in entries if entry.owner]
        if not owned:
            return None
        return owned[0].shown() if len(owned) == 1 else owned[0].itself()

    def get_schema(self, key: str) -> dict[str, Any] | None:
        """``{input, output}`` of what ``last`` answers; None without one."""
        entry = self._agent.last(key)
        if entry is None or (entry.input is None and entry.output is None):
            return None
        return {"input": entry.input, "output": entry.output}

    def get_source(self, key: str) -> str | None:
        """The source text given at registration of what ``last`` answers: what is not known here, the host is asked."""
        entry = self._agent.last(key)
        if entry is None or entry.source is not None:
            return entry.source if entry is not None else None
        source: str | None = self._agent.request("registry.source", {"key": key})
        return source

    def observe(self, pattern: str, callback: Any, immediate: bool = False) -> str:
        """Call ``callback(key, old, new)`` when what ``last`` answers changes for a key that matches; returns an id."""
        agent = self._agent
        observer = Observer(agent, pattern, callback)
        with agent.mutex:
            agent.next_observer += 1
            number = agent.next_observer
        agent.observers[number] = observer
        self._observers.append(number)
        if immediate:
            for key in sorted(agent.mirror):
                if observer.matches(key):
                    if observer.serial.is_async:
                        agent.start(observer.serial.post((key, None, self.get(key))))
                    else:
                        observer.serial.deliver((key, None, self.get(key)))
        return f"obs-{number}"

    def unobserve(self, observer_id: str) -> bool:
        """Stop one observer; False when unknown."""
        number = str(observer_id)[4:] if str(observer_id).startswith("obs-") else ""
        return number.isdigit() and self._agent.observers.pop(int(number), None) is not None

    def unobserve_all(self, pattern: str | None = None) -> int:
        """Stop every observer, or those registered with exactly this key or glob; how many."""
        observers = self._agent.observers
        gone = [n for n, o in list(observers.items()) if pattern is None or o.pattern == pattern]
        return sum(observers.pop(n, None) is not None for n in gone)

    def temporary_override(self, key: str, value: Any, meta: Any = None) -> Override:
        """While the ``with`` block runs, ``key`` answers ``value`` alone."""
        return Override(self, key, value, meta)

    def list(self, prefix: str | None = None, include_meta: bool = False) -> dict[str, Any]:
        """``{key: n}``, or ``{key: {count, last_ts, last_meta}}``, sorted by key."""
        found: dict[str, Any] = {}
        for key, entries in sorted(self._agent.mirror.items()):
            if prefix is None or key.startswith(prefix):
                last = entries[-1]
                found[key] = (
                    {"count": len(entries), "last_ts": last.ts, "last_meta": dict(last.meta)}
                    if include_meta
                    else len(entries)
                )
        return found

    def find(self, predicate: Callable[[str, dict[str, Any]], bool]) -> Any:
        """Keys with an entry for which ``predicate(key, entry)`` holds, sorted."""
        mirror = sorted(self._agent.mirror.items())
        return [key for key, entries in mirror if any(predicate(key, entry.as_dict()) for entry in entries)]

    def unregister(self, key: str, predicate: Callable[[dict[str, Any]], bool] | None = None) -> int:
        """Take back what this Pack registered under ``key`` (where ``predicate(entry)`` holds); how many."""
        entries = self._agent.mirror.get(key, ())
        mine = [e.registration for e in entries if e.mine and (predicate is None or predicate(e.as_dict()))]
        return self._take_back(key, mine) if mine else 0

    def _take_back(self, key: str, numbers: Any) -> int:
        agent = self._agent
        count = int(agent.ask([UNREGISTER, numbers]))
        for number in numbers:
            SOURCES.pop(number, None)
            self._numbers.pop(number, None)
        agent.remirror(key, lambda entries: [e for e in entries if e.registration not in numbers])
        return count

    def end(self) -> None:
        """Take back all that was registered here, and stop its observers."""
        for number in self._observers:
            self._agent.observers.pop(number, None)
        by_key: dict[str, list[int]] = {}
        for number, key in list(self._numbers.items()):
            by_key.setdefault(key, []).append(number)
        for key, numbers in by_key.items():
            self._take_back(key, numbers)


class Override:
    """What ``temporary_override`` gives to ``with`` (and to ``async with``)."""

    def __init__(self, registry: InterfaceRegistry, key: str, value: Any, meta: Any) -> None:
        self._registry = registry
        self._arguments = (key, value, meta)
        self._number: int | None = None

    def __enter__(self) -> Override:  # noqa: PYI034 - Self is newer than 3.9
        key, value, meta = self._arguments
        self._number = self._registry._register(key, value, meta, override=True)  # noqa: SLF001
        return self

    def __exit__(self, *exc: object) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._registry._take_back(self._arguments[0], [number])  # noqa: SLF001

    async def __aenter__(self) -> Override:  # noqa: PYI034
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__()


class EventBus:
    """Topics that this Pack may publish and hear."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._by_id: dict[str, Subscription] = {}

    def subscribe(
        self,
        topic: str,
        handler: Any,
        handler_id: str | None = None,
        *,
        queue: int | None = None,
        policy: str | None = None,
        since: str | None = None,
    ) -> str:
        """Call ``handler(payload)`` or ``handler(payload, event)`` for a topic or glob; an id given again replaces.

        At most ``queue`` events wait for the handler; when more come, ``policy`` says what goes: ``drop_oldest`` (the
        default), ``drop_newest``, or ``latest`` (of each topic only the newest waits). ``since``: first what the host
        has kept after the event of that id (``oldest``: everything), as far as this Pack may hear it; at least once.
        """
        check_name("a topic", topic)
        agent = self._agent
        subscription = Subscription(agent, topic, handler, queue, policy or "drop_oldest")
        given = {"queue": queue, "policy": policy, "since": since}
        options = {name: value for name, value in given.items() if value is not None}
        with agent.mutex:
            agent.subscribing += 1
        try:
            answer = agent.ask([SUBSCRIBE, topic, options] if options else [SUBSCRIBE, topic])
            if isinstance(answer, dict):
                subscription.complete, answer = bool(answer.get("complete")), answer.get("subscription", 0)
            number = subscription.number = int(answer)
            agent.subscribed(number, subscription)
        finally:
            with agent.mutex:
                agent.subscribing -= 1
                if not agent.subscribing:
                    agent.early.clear()
        name = handler_id or f"sub-{number}"
        old = self._by_id.get(name)
        self._by_id[name] = subscription
        if old is not None:
            self._end(old)
        return name

    def publish(self, topic: str, payload: Any = None) -> int:
        """Tell every matching subscriber; how many there are."""
        check_name("a topic", topic)
        parent = self._agent.parent_of(None)[0]
        return int(self._agent.ask_with(PUBLISH, [[topic, parent] if parent else topic], payload))

    def unsubscribe(self, topic: str, handler_id: str) -> bool:
        """Remove one subscriber; False when that id does not listen to ``topic``."""
        subscription = self._by_id.get(handler_id)
        if subscription is None or subscription.topic != topic:
            return False
        del self._by_id[handler_id]
        return self._end(subscription)

    def clear(self, topic: str | None = None) -> int:
        """Remove every subscriber of this component, or those of exactly this topic or glob; how many."""
        gone = [name for name, s in list(self._by_id.items()) if topic is None or s.topic == topic]
        return sum(self.unsubscribe(self._by_id[name].topic, name) for name in gone)

    def is_complete(self, handler_id: str) -> bool:
        """Whether a subscriber with ``since`` was told everything: False when some of it is no longer kept."""
        subscription = self._by_id.get(handler_id)
        return subscription is not None and subscription.complete

    def list_subscribers(self) -> dict[str, list[str]]:
        """Topic or glob → ids, in order of subscription."""
        found: dict[str, list[str]] = {}
        for name, subscription in list(self._by_id.items()):
            found.setdefault(subscription.topic, []).append(name)
        return found

    def _end(self, subscription: Subscription) -> bool:
        self._agent.subscriptions.pop(subscription.number, None)
        return bool(self._agent.ask([UNSUBSCRIBE, subscription.number]))


class Diagnostics:
    """Events of this component, kept here (the newest thousand) and told to the host."""

    STATUSES = ("success", "failed", "skipped", "disabled", "unknown")

    def __init__(self, agent: Agent, ids: dict[str, str], phase: str) -> None:
        self._agent = agent
        self._target = {"kind": "component", "id": ids["component_full_id"]}
        self._phase = phase
        self._started_at = time()
        self._count = 0
        self._events: deque[dict[str, Any]] = deque(maxlen=1_000)

    def record(self, event: Any = None, **fields: Any) -> dict[str, Any]:
        """Append one event; fields may come as a dict, as keywords, or both."""
        given = {**(event if isinstance(event, dict) else {}), **fields}
        target = given.get("target")
        status = given.get("status", "success")
        made = {
            "ts": given.get("ts") or time(),
            "phase": str(given.get("phase") or self._phase),
            "step_id": given.get("step_id"),
            "handler": given.get("handler"),
            "status": status if status in self.STATUSES else "unknown",
            "target": target if isinstance(target, dict) else self._target,
            "error": self._error(given.get("error")),
            "meta": given.get("meta") or {},
        }
        frame = self._agent.frame([REQUEST, 0, "diagnostics.record", 0], made)
        self._events.append(made)
        self._count += 1
        self._agent.send(frame)
        return made

    def record_step(
        self, phase: str, step_id: str | None = None, handler: str | None = None, status: str = "success",
        target: Any = None, error: Any = None, meta: Any = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Append one event of a step."""
        return self.record(
            phase=phase, step_id=step_id, handler=handler, status=status, target=target, error=error, meta=meta
        )

    def _error(self, error: Any) -> Any:
        if isinstance(error, BaseException):
            fields = self._agent.error_fields(error)
            return {"type": type(error).__name__, "message": fields[2], "trace": fields[4]}
        return error if error is None or isinstance(error, dict) else {"type": "error", "message": str(error)}

    def as_dict(self) -> dict[str, Any]:
        """The document of this component's own events."""
        events = list(self._events)
        counts = dict.fromkeys(sorted(self.STATUSES), 0)
        phases: dict[str, dict[str, int]] = {}
        for event in events:
            counts[event["status"]] += 1
            of_phase = phases.setdefault(event["phase"], {})
            of_phase[event["status"]] = of_phase.get(event["status"], 0) + 1
        failures = [event for event in events if event["status"] == "failed"]
        return {
            "started_at": self._started_at,
            "event_count": self._count,
            "events": events,
            "summary": {
                "counts": counts,
                "phase_counts": phases,
                "failed": counts["failed"],
                "disabled": counts["disabled"],
                "last_event_ts": events[-1]["ts"] if events else None,
                "last_failure": failures[-1] if failures else None,
            },
        }


class InstallJournal:
    """Tells the host what this Pack made, so that it can be removed again."""

    def __init__(self, agent: Agent, scope: str) -> None:
        self._agent = agent
        self._scope = scope

    def record(self, created: Any = (), modified: Any = (), **more: Any) -> Any:
        """Record paths, relative to ``user_data/``, that were created or modified."""
        paths = {"created": [str(p) for p in created], "modified": [str(p) for p in modified]}
        return self._agent.request("journal.record", {**more, **paths, "scope": self._scope})


class PermissionManager:
    """What this Pack may do."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def has(self, type: str, **params: Any) -> bool:  # noqa: A002 - the documented name
        """Whether the permission is granted, for these parameters, now."""
        return bool(self._agent.request("permission.has", {"type": type, "params": params}))

    def request(self, type: str, **params: Any) -> Any:  # noqa: A002
        """Ask the operator for a permission. Never blocks for ever: the host answers in time, with what was decided."""
        return self._agent.request("permission.request", {"type": type, "params": params})


class Secrets:
    """Values that the operator entered for this Pack and granted to it by name."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def get(self, name: str) -> str:
        """The value. It is handed over once: asking again raises ``Denied`` of type ``secret_taken``."""
        check_name("a secret", name)
        return str(self._agent.request("secret.get", {"name": name}))


class HostPrivileges:
    """Operations that the host performs for this Pack, where the operator granted them."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def execute(self, privilege: str, **params: Any) -> Any:
        """Perform one, such as ``execute("notify", title="Done")``; its result. ``Denied`` where it is not granted."""
        return self._agent.request("privilege.execute", {"privilege": privilege, "params": params})


class UserdataManager:
    """Files below ``user_data/``, through the host: paths are relative to it, nothing of it is mounted here."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def _ask(self, operation: str, path: Any, **more: Any) -> Any:
        text = path if isinstance(path, str) else str(path)
        return self._agent.request(f"userdata.{operation}", {"path": text, **more})

    def read(self, path: Any) -> bytes:
        return bytes(self._ask("read", path))

    def read_text(self, path: Any, encoding: str = "utf-8") -> str:
        return self.read(path).decode(encoding)

    def read_json(self, path: Any) -> Any:
        import json

        return json.loads(self.read(path))

    def write(self, path: Any, data: Any) -> Any:
        """Replace the file as a whole with ``data`` (bytes)."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"write() takes bytes, got {type(data).__name__}; write_text() takes text")
        return self._ask("write", path, data=bytes(data))

    def write_text(self, path: Any, text: str, encoding: str = "utf-8") -> Any:
        return self.write(path, text.encode(encoding))

    def write_json(self, path: Any, value: Any) -> Any:
        import json

        return self.write(path, json.dumps(value, ensure_ascii=False, indent=2).encode())

    def list(self, prefix: Any = "") -> Any:
        return self._agent.request("userdata.list", {"prefix": str(prefix)})

    def exists(self, path: Any) -> bool:
        return bool(self._ask("exists", path))

    def stat(self, path: Any) -> Any:
        return self._ask("stat", path)

    def delete(self, path: Any) -> Any:
        return self._ask("delete", path)


# ---- components


class PhaseRun(Run):
    """A component's phase: its answer is PHASE_DONE."""

    def __init__(self, agent: Agent, number: int, target: Phase) -> None:
        super().__init__(agent, number, target, None)
        self.table_id = -1 - number  # ids of phases and calls are one space of the host's; the sign keeps CANCEL away
        self.began = monotonic()

    def invoke(self) -> Any:
        return self.target.execute()

    def concluded(self, result: Any) -> bytes | None:
        if hasattr(type(result), "__await__"):
            self.agent.detach(self, result)
            return None
        return self.fulfilled(result)

    def fulfilled(self, _result: Any) -> bytes | None:
        return self.outcome(None)

    def refused(self, exc: BaseException) -> bytes | None:
        return self.outcome(self.agent.error_fields(exc))

    def outcome(self, error: Any) -> bytes:
        if not self.agent.mapping_known and "_collections_abc" in sys.modules:
            sys.modules["_collections_abc"].Mapping.register(CallContext)
            self.agent.mapping_known = True
        outcome = {
            "ok": error is None,
            "error": error,
            "registered": self.target.registered(),
            "duration_us": int((monotonic() - self.began) * 1_000_000),
            "asynchronous": self.agent.mode is not None,
        }
        return self.agent.plain_frame([PHASE_DONE, self.id, outcome])


class Phase:
    """One file of one component, to be loaded and run."""

    is_async = False
    call = None

    def __init__(self, agent: Agent, component: Any, file: str, context: Any) -> None:
        self.agent = agent
        self.component = component
        self.file = file
        self.context = context
        self.slow = 0
        self.first = 0
        self.registry: InterfaceRegistry | None = None

    def registered(self) -> list[str]:
        return self.registry._registered[self.first :] if self.registry is not None else []  # noqa: SLF001

    def execute(self) -> Any:
        if self.context.get("reload"):
            return self.reload(self.context["reload"])
        root = self.agent.pack_root
        folder = inside(root, self.component["dir"])
        path = inside(folder, self.file)
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                source = file.read()
        except OSError as exc:
            why = f"{self.component['dir']}/{self.file}: {exc.strerror}"
            raise Refusal("missing_file", "the component's file can't be read", clean(why)) from None
        context = self.make_context(folder)
        for place in (folder, inside(root, "backend")):
            if place not in sys.path:
                # after the standard library, whose modules the agent's own late imports must find; before what the
                # Pack depends on, so that no package can stand in for a module of the Pack
                own = self.agent.packages
                sys.path.insert(sys.path.index(own) if own and own in sys.path else len(sys.path), place)
        package = component_package("rumi_pack_" + plain_name(self.component["full_id"]), folder)
        module = load_module(package, plain_name(self.file.rpartition(".")[0] or self.file), path, source)
        if self.context.get("register"):
            return self.register_handler(module, context)
        fn = getattr(module, "run", None) or getattr(module, "main", None)
        if fn is None or not callable(fn):
            return None
        return fn(context) if positional(fn, 1) else fn()

    def reload(self, word: Any) -> None:
        """``begin``: the component's files run afresh from now on, beside what they left before, which serves on.

        ``keep`` takes the older one back; ``undo`` the newer one, and puts the modules back. Threads are left alone.
        """
        agent, full_id = self.agent, self.component["full_id"]
        if word == "begin" and full_id in agent.aside:
            self.reload("undo")  # one before this was never ended
        if word != "begin" and full_id not in agent.aside:
            raise Refusal("conflict", "the component is not being loaded again", clean(str(full_id)[:200]))
        package = "rumi_pack_" + plain_name(full_id)
        if word == "keep":
            gone = agent.aside.pop(full_id)[0]
        else:
            newer = agent.components.pop(full_id, None), {
                name: sys.modules.pop(name)
                for name in list(sys.modules)
                if name == package or name.startswith(package + ".")
            }
            if word == "begin":
                agent.aside[full_id] = newer
                return
            gone, (older, modules) = newer[0], agent.aside.pop(full_id)
            sys.modules.update(modules)
            if older is not None:
                agent.components[full_id] = older
        now = agent.components.get(full_id)
        if now is not None:
            now["interface_registry"].before = None
        if gone is not None:
            gone["event_bus"].clear()
            gone["interface_registry"].end()

    def register_handler(self, module: Any, context: dict[str, Any]) -> Any:
        """A custom handler: ``run(args, ctx)``, else ``execute(context, args)``."""
        fn = getattr(module, "run", None)
        if not callable(fn):
            execute = getattr(module, "execute", None)
            if not callable(execute):
                text = f"{self.file} defines neither run(args, ctx) nor execute(context, args)"
                raise AttributeError(text)  # noqa: TRY004 - what is missing is a name of the module
            fn = handler_of(execute, context)
        context["interface_registry"].register(self.context["register"], fn, {"handler_file": self.file})

    def make_context(self, folder: str) -> dict[str, Any]:
        """The context of compat.md. What a component keeps (observers, events) is one object for all its phases."""
        component, agent = self.component, self.agent
        full_id = component["full_id"]
        ids = {
            "component_full_id": full_id,
            "component_type": component["type"],
            "component_id": component["id"],
            "pack_id": component["pack_id"],
        }
        kept = agent.components.get(full_id)
        if kept is None:
            kept = agent.components[full_id] = {
                "interface_registry": InterfaceRegistry(agent),
                "event_bus": EventBus(agent),
                "diagnostics": Diagnostics(agent, ids, self.context.get("phase", "")),
                "install_journal": InstallJournal(agent, full_id),
                "permission_manager": PermissionManager(agent),
                "userdata_manager": UserdataManager(agent),
                "secrets": Secrets(agent),
                "privileges": HostPrivileges(agent),
            }
            aside = agent.aside.get(full_id)
            if aside is not None and aside[0] is not None:
                kept["interface_registry"].before = aside[0]["interface_registry"]
            if agent.network is not None:
                kept["http"] = agent.network.Http(agent)
        kept["diagnostics"]._phase = self.context.get("phase", "")  # noqa: SLF001
        self.registry = kept["interface_registry"]
        self.first = len(self.registry._registered)  # noqa: SLF001
        return {
            "phase": self.context.get("phase"),
            "ts": self.context.get("ts"),
            "ids": ids,
            "paths": {"component_runtime_dir": folder, "mounts": dict(self.context.get("mounts") or {})},
            "_source_component": full_id,
            **kept,
        }


def handler_of(execute: Any, context: dict[str, Any]) -> Any:
    """``execute(context, args)`` as a handler; each call gets a context of its own, with the call under ``ctx``."""
    takes = positional(execute, 2)

    def run(args: Any, ctx: Any) -> Any:
        own = {**context, "ctx": ctx}
        return execute(own, args) if takes > 1 else (execute(own) if takes else execute())

    async def run_async(args: Any, ctx: Any) -> Any:
        return await run(args, ctx)

    async def run_stream(args: Any, ctx: Any) -> Any:
        async for item in run(args, ctx):
            yield item

    code = getattr(unwrap(execute)[0], "__code__", None)
    if code is not None and code.co_flags & 0x200:
        return run_stream
    return run_async if is_async(execute) else run


HOOK_PARAMETERS = {
    "flow.hooks.before_step": ("step", "ctx", "meta"),
    "flow.hooks.after_step": ("step", "ctx", "result", "meta"),
    "flow.error_handler": ("step", "ctx", "error"),
}
"""What hooks of older Packs take, one by one; with fewer parameters they are handlers like any other."""


def hook_of(key: str, fn: Any) -> Any:
    """``fn`` as a handler where it is a hook that takes its arguments one by one, else as it is."""
    names = HOOK_PARAMETERS.get(key, ())
    if not names or not callable(fn) or positional(fn, 0) < 3:
        return fn
    given = names[: positional(fn, 0)]

    def run(args: Any, _ctx: Any) -> Any:
        return fn(*(args.get(name) for name in given))

    async def run_async(args: Any, ctx: Any) -> Any:
        return await run(args, ctx)

    return run_async if is_async(fn) else run


def inside(root: str, relative: str) -> str:
    """``root/relative``; refuses what would leave ``root`` (the host checked it too)."""
    parts = [part for part in relative.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in relative:
        raise Refusal("missing_file", "a component's path leaves its Pack", clean(relative[:200]))
    return "/".join([root.rstrip("/"), *parts])


def plain_name(text: str) -> str:
    return "".join(ch if ch.isalnum() or ch == "_" else "_" for ch in text)


BUILTINS: dict[str, dict[str, Any]] = {}
"""Folder of a component → the builtins that its modules see: those of Python, with its own ``__import__``."""


def component_package(name: str, folder: str) -> Any:
    """The package that holds a component's modules.

    Components of one Pack share a process, and two may each have a ``helper.py``. So what ``import helper`` finds
    depends on who asks: the modules of a component see those beside them, as part of this package.
    """
    package = sys.modules.get(name)
    if package is not None:
        return package
    package = type(sys)(name)
    package.__path__ = [folder]
    sys.modules[name] = package
    standard = sys.modules["builtins"]
    plain: Any = standard.__import__
    known = getattr(sys, "stdlib_module_names", frozenset(sys.builtin_module_names))
    names = set()
    for entry in posix.listdir(folder):
        stem, dot, rest = entry.partition(".")
        if stem.isidentifier() and stem not in known and (not dot or rest == "py" or rest.endswith("so")):
            names.add(stem)

    def import_beside(
        wanted: str,
        globals: Any = None,  # noqa: A002 - the names of the function that it stands in for
        locals: Any = None,  # noqa: A002
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        top = wanted.partition(".")[0]
        if level or top not in names:
            return plain(wanted, globals, locals, fromlist, level)
        found = plain(f"{name}.{wanted}", globals, locals, fromlist, 0)
        return found if fromlist else sys.modules[f"{name}.{top}"]

    BUILTINS[folder] = {**vars(standard), "__import__": import_beside}
    return package


def builtins_for(path: str) -> dict[str, Any] | None:
    """The builtins for a file: those of the component that it lies in."""
    while "/" in path:
        path = path.rpartition("/")[0]
        if path in BUILTINS:
            return BUILTINS[path]
    return None


def load_module(package: Any, stem: str, path: str, source: bytes) -> Any:
    """Run ``source`` as a module of its own, always from the source: a cached bytecode file is never believed."""
    name = f"{package.__name__}.{stem}"
    module = type(sys)(name)
    module.__file__ = path
    module.__package__ = package.__name__
    own = builtins_for(path)
    if own is not None:
        module.__dict__["__builtins__"] = own
    old = sys.modules.get(name)
    sys.modules[name] = module
    try:
        exec(compile(source, path, "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - loading the Pack is the job
    except BaseException:
        if old is None:
            sys.modules.pop(name, None)
        else:
            sys.modules[name] = old
        raise
    return module


def install_hooks(agent: Agent) -> None:
    """What Pack code may import from us (``rumi``), imports below the Pack from source only, the ear on ``logging``."""
    module: Any = type(sys)("rumi")
    module.__doc__ = "Errors of the bus, and the call being served."
    for kind in (
        RemoteError, MissingInterface, Unavailable, CallTimeout, CallCancelled, Denied, LimitReached, SchemaError,
        DeadReference, ShuttingDown, ValueRefused,
    ):  # fmt: skip
        kind.__module__ = "rumi"
        setattr(module, kind.__name__, kind)
    module.current_call = agent.own_context
    sys.modules["rumi"] = module
    sys.dont_write_bytecode = True

    external: Any = sys.modules["_frozen_importlib_external"]

    class SourceOnly(external.SourceFileLoader):  # type: ignore[misc]
        """Without a modification time there is no cache to look into: what runs is the text that was reviewed."""

        def path_stats(self, path: str) -> Any:
            raise OSError(path)

        def exec_module(self, module: Any) -> None:
            own = builtins_for(self.path)
            if own is not None:
                module.__dict__["__builtins__"] = own
            super().exec_module(module)

    def hook(path: str) -> Any:
        if not (path + "/").startswith(agent.roots):
            raise ImportError(path)
        suffixes = sys.modules["_imp"].extension_suffixes()
        return external.FileFinder(path, (external.ExtensionFileLoader, suffixes), (SourceOnly, [".py"]))

    sys.path_hooks.insert(0, hook)
    sys.meta_path[:0] = [LoggingFinder(agent), AsyncioFinder()]


class AsyncioFinder:
    """Waits for the first ``import asyncio``, and lets what that imports and nearly nobody uses wait for its first use.

    That is a quarter of what a sandbox with coroutine handlers costs, OpenSSL among it.
    """

    SELDOM = ("ssl", "inspect", "tokenize", "locale", "textwrap", "asyncio.sslproto")

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if name != "asyncio":
            return None
        sys.meta_path.remove(self)
        external: Any = sys.modules["_frozen_importlib_external"]
        spec = external.PathFinder.find_spec(name)
        plain = spec.loader.exec_module
        for seldom in self.SELDOM:
            later(seldom, spec.submodule_search_locations if "." in seldom else None)

        def exec_module(module: Any) -> None:
            plain(module)
            module.sslproto = sys.modules["asyncio.sslproto"]  # what an import of it would have done

        spec.loader.exec_module = exec_module
        return spec


UNLOADED = frozenset({"__class__", "__file__", "__loader__", "__name__", "__package__", "__path__", "__spec__"})
"""What an import asks a module that is there already, and what is known of one that is not loaded."""
LOADING: set[str] = set()


class Later(type(sys)):  # type: ignore[misc]
    """A module of the standard library that is executed when somebody uses it, and is an ordinary one from then on."""

    def __getattribute__(self, name: str) -> Any:
        if name not in UNLOADED:
            load_now(self)
        return object.__getattribute__(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        load_now(self)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        load_now(self)
        object.__delattr__(self, name)


def later(name: str, path: Any) -> None:
    """Put a module in its place without executing it. ``path``: where its package lies, None at the top."""
    if name in sys.modules:
        return
    bootstrap: Any = sys.modules["_frozen_importlib"]
    spec = sys.modules["_frozen_importlib_external"].PathFinder.find_spec(name, path)
    if spec is not None:
        module = bootstrap.module_from_spec(spec)
        module.__class__ = Later
        sys.modules[name] = module


def load_now(module: Any) -> None:
    """Execute a module that waited. Under the import system's own lock for it, which knows how to end a deadlock."""
    spec = object.__getattribute__(module, "__spec__")
    with sys.modules["_frozen_importlib"]._ModuleLockManager(spec.name):  # noqa: SLF001
        if object.__getattribute__(module, "__class__") is not Later or spec.name in LOADING:
            return
        LOADING.add(spec.name)
        try:
            spec.loader.exec_module(module)
            object.__setattr__(module, "__class__", type(sys))
        finally:
            LOADING.discard(spec.name)


class LoggingFinder:
    """Waits for the first ``import logging``, then sends its records as LOG frames with their levels."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> Any:
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        external: Any = sys.modules["_frozen_importlib_external"]
        spec = external.PathFinder.find_spec(name)
        agent, plain = self.agent, spec.loader.exec_module

        def exec_module(module: Any) -> None:
            plain(module)
            listen_to_logging(agent, module)

        spec.loader.exec_module = exec_module
        return spec


def listen_to_logging(agent: Agent, logging: Any) -> None:
    class BusHandler(logging.Handler):  # type: ignore[misc]
        def emit(self, record: Any) -> None:
            try:
                text = self.format(record)
            except Exception as exc:  # noqa: BLE001 - a record with wrong arguments is the Pack's fault, shown as such
                text = f"a log record could not be formatted: {exc!r:.200}"
            agent.logs.record(int(record.levelno), f"log:{record.name}", text)

    handler = BusHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    original = logging.basicConfig

    def basic_config(**options: Any) -> None:
        """Levels are taken over; a stream or file of the Pack's choice is used beside the bus, not instead of it."""
        level = options.pop("level", None)
        if any(options.get(name) is not None for name in ("filename", "handlers", "stream")):
            root.removeHandler(handler)
            original(**options)
            root.addHandler(handler)
        if level is not None:
            root.setLevel(level)

    logging.basicConfig = basic_config


class Logs:
    """Drains descriptors 1 and 2, always, so that no ``print`` blocks; what exceeds the rate is counted and dropped."""

    RATE_BYTES, BURST_BYTES = 64 * 1024, 256 * 1024

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.readers: dict[int, tuple[int, str]] = {}
        self.rest: dict[int, bytes] = {}
        self.left = float(self.BURST_BYTES)
        self.at = monotonic()
        self.dropped = 0
        self.lock = allocate_lock()
        self.done = allocate_lock()
        self.done.acquire()
        for fd, level, source in ((1, 20, "stdout"), (2, 30, "stderr")):
            reader, writer = posix.pipe()
            posix.dup2(writer, fd)
            posix.close(writer)
            self.readers[reader] = (level, source)

    def main(self) -> None:
        import select

        poll = select.poll()
        for fd in self.readers:
            poll.register(fd, select.POLLIN)
        left = len(self.readers)
        while left:
            for fd, _ in poll.poll():
                try:
                    data = posix.read(fd, 65_536)
                except OSError:
                    data = b""
                if not data:
                    poll.unregister(fd)
                    left -= 1
                self.arrived(fd, data)
        self.done.release()

    def arrived(self, fd: int, data: bytes) -> None:
        """Whole lines go on; a rest waits for its line end, unless it is long or the last."""
        level, source = self.readers[fd]
        text = self.rest.pop(fd, b"") + data
        cut = text.rfind(b"\n") + 1
        if not data or (not cut and len(text) > LOG_CHARS):
            cut = len(text)
        if cut < len(text):
            self.rest[fd] = text[cut:]
        if cut:
            self.record(level, source, text[:cut].decode("utf-8", "replace"))

    def record(self, level: int, source: str, text: str) -> None:
        """One LOG, within the rate."""
        with self.lock:
            now = monotonic()
            self.left = min(float(self.BURST_BYTES), self.left + (now - self.at) * self.RATE_BYTES)
            self.at = now
            if len(text) > self.left:
                self.dropped += len(text)
                return
            self.left -= len(text)
            dropped, self.dropped = self.dropped, 0
        if dropped:
            text = f"{dropped} characters of output were dropped: more than {self.RATE_BYTES} a second\n"
            self.agent.log(30, "stderr", text)
        self.agent.log(level, source, text)

    def finish(self) -> None:
        """Send what is still in the pipes; bounded, since a child of the Pack may hold the other end."""
        null = posix.open("/dev/null", posix.O_RDWR)
        posix.dup2(null, 1)
        posix.dup2(null, 2)
        self.done.acquire(True, 0.2)
        if self.dropped:
            self.agent.log(30, "stderr", f"{self.dropped} characters of output were dropped\n")


def line_buffered() -> None:
    """Python's own streams write whole lines at once: the pipe behind them is read by another thread."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(line_buffering=True)


# ---- start


def open_link(arguments: list[str]) -> Any:
    """The connection named on the command line, on a descriptor above 2."""
    import _socket

    if len(arguments) == 2 and arguments[0] == "--socket":
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        sock.connect(arguments[1])
        return SocketLink(sock)
    if len(arguments) == 2 and arguments[0] == "--fd" and arguments[1].isdigit():
        return SocketLink(_socket.socket(fileno=int(arguments[1])))
    if arguments == ["--stdio"]:
        import fcntl

        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in (0, 1)]
        return PipeLink(*copies)
    posix.write(2, b"usage: container_agent (--socket PATH | --fd NUMBER | --stdio)\n")
    leave(EXIT_USAGE)


def greet(agent: Agent, landlock: int) -> None:
    """HELLO, then wait for WELCOME: until then nothing of the Pack is touched."""
    version = sys.version_info
    hello = {
        "protocols": [PROTOCOL],
        "agent": VERSION,
        "python": f"{version[0]}.{version[1]}.{version[2]}",
        "codec": agent.codec.name,
        "chunks": True,
        "sources": True,
        "batches": True,
        "memory": agent.link.carries_files,
        "probe": probe(landlock),
    }
    agent.send(agent.plain_frame([HELLO, 0, hello]))
    if agent.link.carries_files:
        agent.link.expect_second(True)
    fields: Any = agent.read()
    if agent.link.carries_files:
        agent.link.expect_second(False)
    if len(fields) != 3 or fields[0] != WELCOME or fields[2].get("protocol") != PROTOCOL:
        raise ProtocolError("WELCOME with protocol 1 is expected first")
    settings = fields[2]
    limits = settings["limits"]
    agent.pack_id = settings["pack_id"]
    agent.frame_bytes = int(limits.get("frame_bytes", agent.frame_bytes))
    agent.in_flight = int(limits.get("in_flight", agent.in_flight))
    agent.stream_credit = int(limits.get("stream_credit", agent.stream_credit))
    agent.sources = int(limits.get("sources", 0))
    agent.share(max(1, int(limits.get("threads", 48))))
    agent.value_bytes = int(limits.get("value_bytes", 0))
    agent.batch_bytes = int(limits.get("batch_bytes", 0))
    if agent.link.carries_files and agent.link.second >= 0:
        try:
            agent.files = MemoryFiles(agent.link.second, agent)
        except OSError:
            agent.files = None  # no socket of ours, or nobody reads it: chunks
        else:
            if agent.files.makes:
                agent.file_bytes = int(settings.get("memory", {}).get("from_bytes", agent.frame_bytes))
    agent.short_bytes = min(EAGER_BYTES, agent.frame_bytes, agent.file_bytes)
    agent.deadline_s = int(limits.get("deadline_ms", 30_000)) / 1000
    agent.pack_root = settings.get("paths", {}).get("pack", "/pack").rstrip("/")
    agent.packages = settings.get("paths", {}).get("packages", "").rstrip("/")
    agent.roots = (agent.pack_root + "/",)
    if agent.packages:
        agent.roots += (agent.packages + "/",)
        sys.path.append(agent.packages)
    if settings.get("egress") is not None:
        open_ways_out(agent, settings["egress"])


def open_ways_out(agent: Agent, settings: Any) -> None:
    """Load the module beside this one that serves the ways out; a Pack that declares none pays nothing for it."""
    folder = __file__.rpartition("/")[0] or "."
    sys.path.insert(0, folder)
    try:
        import container_network  # type: ignore[import-not-found]  # beside this file, not on the path
    finally:
        sys.path.remove(folder)
    try:
        container_network.start(agent, settings)
    except OSError as exc:
        agent.log(40, "stderr", f"the proxy inside the sandbox can't be opened: {exc}")
    agent.network = container_network


def main(arguments: list[str] | None = None) -> NoReturn:
    """Connect, confine, greet, serve. Ends the process; it never returns."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        link = open_link(given)
    except OSError as exc:
        posix.write(2, f"the bus can't be reached: {exc}\n".encode())
        leave(EXIT_LOST)
    landlock = apply_landlock()
    limit = c_function("mallopt")
    if limit is not None:
        limit(ARENAS, 1)  # Python's own lock keeps threads apart: an arena each would be pages that nobody else can use
    agent = Agent(link, load_codec())
    # what the agent brought for itself is loaded; a Pack that imports msgpack finds its own, or none
    sys.path[:] = [place for place in sys.path if place != __file__.rpartition("/")[0]]
    try:
        posix.dup2(posix.open("/dev/null", posix.O_RDONLY), 0)
    except OSError:
        posix.close(0)
    agent.logs = Logs(agent)
    line_buffered()
    sys.argv = ["rumi"]
    try:
        greet(agent, landlock)
    except ProtocolError as exc:
        agent.log(50, "stderr", f"the connection ends: {exc}")
        leave(EXIT_PROTOCOL)
    install_hooks(agent)
    # the ticker, the drain and, one day, the event loop; the main thread is a worker that is not counted
    agent.foreign = count_threads() + 2
    start_new_thread(agent.logs.main, ())
    start_new_thread(agent.tick, ())
    agent.thread(None, True)
    leave(EXIT_PROTOCOL)


if __name__ == "__main__":
    main()

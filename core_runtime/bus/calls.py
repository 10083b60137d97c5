"""One call: what the host knows of it, how it is counted, and how its failure travels.

Invariants:
  * A ``Call`` is in its callee's ``incoming`` until the callee answers, and in its caller's ``outgoing`` until the
    caller is answered; a cancelled or timed-out call is *abandoned*: the caller is answered, the callee still owes.
  * Everything here belongs to the event loop's thread.

Not here: deciding where a call goes (``router``), how it ends (``in_flight``), frames (``sessions``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from backend_core.errors import DeniedError, HostError, NotFoundError, PackError, PackTimeout, RumiError, quote
from core_runtime.rules.frames import DETAIL_CHARS, TITLE_CHARS, TRACE_CHARS
from core_runtime.rules.routing import AGENT_WORDS, error_type
from core_runtime.rules.sketch import Sketch

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session
    from core_runtime.bus.streams import HostStream
    from core_runtime.interface_registry import Entry

KERNEL = "kernel"
MAX_TYPES = 16
OTHER_TYPES = "(other types)"


class Failure(Struct, frozen=True):
    """An error as it travels: the five fields of an ERROR frame, bounded."""

    type: str
    title: str
    detail: str = ""
    retryable: bool = False
    trace: str = ""

    @classmethod
    def from_agent(
        cls, type_: str, title: str, detail: str, retryable: bool, trace: str, words: frozenset[str] = AGENT_WORDS  # noqa: FBT001
    ) -> Failure:  # fmt: skip
        """What a sandbox wrote, made fit for programs that match on it, and told from what the host decides.

        ``words``: what its agent may call a failure, as ``error_type`` takes them.
        """
        return cls(error_type(type_, words), title[:TITLE_CHARS], detail[:DETAIL_CHARS], retryable, trace[:TRACE_CHARS])

    def without(self, conceal: Callable[[str], str]) -> Failure:
        """The same with every text concealed; a type that spells what is concealed becomes ``error/hidden``."""
        type_ = self.type if conceal(self.type) == self.type else "error/hidden"
        return Failure(type_, conceal(self.title), conceal(self.detail), self.retryable, conceal(self.trace))

    @classmethod
    def of(cls, exc: BaseException) -> Failure:
        """An exception of the host's own code."""
        if isinstance(exc, RumiError):
            retryable = exc.retryable if isinstance(exc, PackError) else isinstance(exc, HostError)
            return cls(exc.code, exc.title[:TITLE_CHARS], (exc.detail or exc.hint)[:DETAIL_CHARS], retryable)
        return cls(f"error/{type(exc).__name__}"[:100], str(exc)[:TITLE_CHARS] or type(exc).__name__)

    def frame_fields(self) -> tuple[str, str, str, bool, str]:
        """In the order of the wire."""
        return (self.type, self.title, self.detail, self.retryable, self.trace)

    def exception(self, pack_id: str, key: str) -> RumiError:
        """The host's exception for it; what a Pack wrote arrives quoted."""
        fields = {"key": key, "pack_id": pack_id}
        if self.type == "missing":
            return NotFoundError(self.title, code="missing", detail=self.detail, fields=fields, hint=_MISSING_HINT)
        if self.type == "denied":
            return DeniedError(self.title, detail=self.detail, fields=fields)
        return (PackTimeout if self.type == "timeout" else PackError)(
            self._sentence(pack_id or "The host", key),
            code=self.type,
            detail=": ".join(quote(text, DETAIL_CHARS) for text in (self.title, self.detail) if text),
            hint=self._hint(pack_id),
            fields=fields,
            retryable=self.retryable,
            trace=self.trace,
            pack_id=pack_id,
        )

    def _sentence(self, who: str, key: str) -> str:
        """Says of nobody that he answered, where the host's word, or that of his agent, is all there is."""
        if self.type == "timeout":
            return f"{who} did not answer {key} in time"
        own = "/" in self.type
        return f"{who} answered {key} with {self.type}" if own else f"The call of {key} ended with {self.type}"

    def _hint(self, pack_id: str) -> str:
        if self.retryable:
            return "Try again in a moment."
        if self.type == "schema":
            return "`rumi interface show` says what a key takes and gives."  # no key in it: commands are copied
        return f"See the Pack's log: `rumi logs {pack_id}`." if pack_id else "What is wrong: `rumi issue list`."


_MISSING_HINT = "`rumi interface list` shows what is there; start or approve the Pack that provides it."


class CallContext(Struct, frozen=True):
    """Who a host-side call belongs to. ``parent`` makes it part of a call that a Pack made to the host."""

    caller: str = ""
    chain: tuple[str, ...] = ()
    flow: str | None = None
    traceparent: str = ""
    parent: Call | None = None


class EdgeStats:
    """Counts of one edge, caller → key, or of one Pack. Failures by type: ``MAX_TYPES`` of them, the rest together."""

    __slots__ = ("errors", "failures", "last_at", "last_error", "latency")

    def __init__(self) -> None:
        self.errors = 0
        self.last_error = ""
        self.last_at = 0.0
        self.failures: dict[str, int] = {}
        self.latency = Sketch()

    @property
    def calls(self) -> int:
        """How many have finished."""
        return self.latency.count

    def add(self, duration_us: int, failure: str) -> None:
        """Count one finished call."""
        self.latency.add(duration_us)
        if failure:
            self._fail(failure)

    def add_with(self, other: EdgeStats, duration_us: int, failure: str) -> None:
        """Count one finished call here and there: on its edge and for the Pack that answered."""
        self.latency.add_with(other.latency, duration_us)
        if failure:
            self._fail(failure)
            other._fail(failure)

    def _fail(self, failure: str) -> None:
        self.errors += 1
        self.last_error = failure
        self.last_at = time.time()
        kind = failure if failure in self.failures or len(self.failures) < MAX_TYPES else OTHER_TYPES
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        """``{calls, errors, failures, last_error, last_error_at, p50_us, p99_us}``."""
        return {
            "calls": self.calls,
            "errors": self.errors,
            "failures": dict(self.failures),
            "last_error": self.last_error,
            "last_error_at": self.last_at or None,
            "p50_us": self.latency.quantile(0.5),
            "p99_us": self.latency.quantile(0.99),
        }


class Call(msgspec.Struct, eq=False):
    """One call on one hop. ``caller`` and ``callee`` are sessions, None for the host.

    A struct, since one is made for each call: written out, its constructor took as long as routing the frame.
    """

    key: str
    callee: Session | None
    caller: Session | None
    caller_id: int
    caller_name: str
    parent: Call | None
    depth: int
    chain: tuple[str, ...]
    trace_id: str
    flow: str | None
    entry: Entry | None
    number: int = 0
    size_bytes: int = 0
    started: float = msgspec.field(default_factory=time.monotonic)
    budget_s: float = 0.0
    deadline: float = 0.0
    credit: int = 0
    window: int = 0
    """Fewer items of a stream than usual that are wanted under way at first; 0: the usual."""
    streaming: bool = False
    abandoned: bool = False
    done: bool = False
    future: asyncio.Future[Any] | None = None
    stream: HostStream | None = None
    on_credit: Callable[[int], None] | None = None
    task: asyncio.Task[None] | None = None
    children: set[Call] | None = None
    sources: list[int] | None = None
    """Streams in its arguments, by the numbers that its callee knows them by."""
    feeds: Call | None = None
    """The call for which this one reads such a stream."""
    span: int = 0
    remote_span: int = 0
    """Above it where no call is: in another process, or a part of the host."""
    sampled: bool = True

    def progress(self) -> None:
        """An item or credit: a stream's deadline starts anew, and that of a stream which answers the call it feeds."""
        now = time.monotonic()
        self.deadline = now + self.budget_s
        fed = self.feeds
        if fed is not None and fed.streaming:
            fed.deadline = now + fed.budget_s

    def left_ms(self, now: float) -> int:
        """Milliseconds until the deadline, at least 1."""
        return max(1, int((self.deadline - now) * 1000))


class HostContext(Mapping[str, Any]):
    """The ``ctx`` of a host function that a Pack calls; passing it on makes that call the parent."""

    __slots__ = ("_values", "call")

    def __init__(self, call: Call, idempotency: str | None, traceparent: str) -> None:
        self.call = call
        self._values = {
            "call_id": f"{call.trace_id}:{call.caller_id}",
            "caller": call.caller_name,
            "asserted_chain": list(call.chain),
            "deadline_s": max(0.0, call.deadline - time.monotonic()),
            "trace": traceparent,
            "idempotency_key": idempotency,
            "flow": call.flow,
            "cancelled": lambda: call.abandoned,
        }

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

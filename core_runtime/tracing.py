"""Traces: which work belongs together, over HTTP, flows, Packs and back, and the record of it for OTLP.

Context travels whether or not anything is recorded: ``CURRENT`` inside the host, W3C ``traceparent`` at its edges, the
tree of calls on the bus. A ``Tracer`` exists only where an endpoint was configured.

Invariants:
  * Recording is an append to a bounded list; a full one loses the newest spans, which are counted. One thread sends;
    a receiver that is slow, absent or hostile costs nobody else anything.
  * What could not be sent is tried again while there is room, ever less often; an issue says so until it works again.
  * Names are concealed before they leave, arguments and results of calls are in no span.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from core_runtime.diagnostics import Diagnostics, Severity, fail_soft
from core_runtime.drivers import otlp
from core_runtime.rules.otlp import CLIENT, INTERNAL, SERVER, Span, TraceConfig, document, sampled
from core_runtime.rules.routing import SpanContext, span_of

if TYPE_CHECKING:
    from core_runtime.bus.calls import Call

CURRENT: ContextVar[SpanContext | None] = ContextVar("rumi_span", default=None)
BACKOFF_S: Final = 1.0
BACKOFF_CAP_S: Final = 60.0
CLOSE_S: Final = 3.0
NOT_SENT: Final = "traces_not_sent"

Send = Callable[[TraceConfig, bytes], str]


class Tracer:
    """Belongs to one run of the host. ``call`` and ``span`` from any thread."""

    def __init__(
        self, config: TraceConfig, diagnostics: Diagnostics, conceal: Callable[[str], str], send: Send = otlp.send
    ) -> None:
        self._config = config
        self._diagnostics = diagnostics
        self._conceal = conceal
        self._send = send
        self._mutex = threading.Lock()
        self._spans: list[Span] = []
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._epoch_ns = time.time_ns() - time.monotonic_ns()
        self.dropped = 0
        """Spans that found no room."""
        self.sent = 0
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what is left, once, and end. Blocks, for a bounded time."""
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def samples(self, trace_id: str) -> bool:
        """Whether a trace that begins here is recorded."""
        return self._config.ratio >= 1 or sampled(trace_id, self._config.ratio)

    def judged(self, above: SpanContext) -> SpanContext:
        """What comes from outside, with our own choice where the sampler does not follow it."""
        return above if self._config.follow_parent else replace(above, sampled=self.samples(above.trace_id))

    def call(self, call: Call, ended_s: float, failure: str) -> None:
        """A call on the bus has ended (``ended_s`` monotonic)."""
        parent = call.parent.span if call.parent is not None else call.remote_span
        named = [("rpc.system", "rumi"), ("rpc.method", call.key), ("rumi.caller", call.caller_name or "operator")]
        if call.callee is not None:
            named.append(("peer.service", call.callee.pack_id))
        if call.flow is not None:
            named.append(("rumi.flow", call.flow))
        began_ns, ended_ns = (self._epoch_ns + int(moment * 1e9) for moment in (call.started, ended_s))
        span_id = call.span or secrets.randbits(63) | 1
        attributes = tuple(named)
        self._record(Span(call.trace_id, span_id, parent, call.key, CLIENT, began_ns, ended_ns, attributes, failure))

    @contextlib.contextmanager
    def span(self, name: str, kind: int = INTERNAL, **attributes: str) -> Iterator[SpanContext]:
        """The block as a span below the current one; what it does belongs below it."""
        with self.apart(CURRENT.get(), name, kind, **attributes) as here, within(here):
            yield here

    @contextlib.contextmanager
    def apart(
        self, around: SpanContext | None, name: str, kind: int = INTERNAL, **attributes: str
    ) -> Iterator[SpanContext]:
        """The block as a span below ``around``, for one that goes on in several tasks: what belongs below it has to say
        so (``within``).
        """
        if around is None:
            trace_id = f"{secrets.randbits(128) or 1:032x}"
            here = SpanContext(trace_id, secrets.randbits(63) | 1, self.samples(trace_id))
        else:
            here = SpanContext(around.trace_id, secrets.randbits(63) | 1, around.sampled)
        start_ns, error = time.time_ns(), ""
        try:
            yield here
        except (asyncio.CancelledError, GeneratorExit):
            error = "cancelled"
            raise
        except BaseException as exc:
            error = getattr(exc, "code", "") or f"error/{type(exc).__name__}"
            raise
        finally:
            if here.sampled:
                parent = around.span if around is not None else 0
                named = tuple((name.replace("_", "."), value) for name, value in attributes.items())
                self._record(Span(here.trace_id, here.span, parent, name, kind, start_ns, time.time_ns(), named, error))

    def _record(self, span: Span) -> None:
        with self._mutex:
            if len(self._spans) >= self._config.queue:
                self.dropped += 1
                return
            self._spans.append(span)
            full = len(self._spans) >= self._config.batch
        if full and not self._wake.is_set():
            self._wake.set()

    # --- the thread

    def _work(self) -> None:
        failures = 0
        while not self._closing.is_set():
            if failures:
                self._closing.wait(min(BACKOFF_S * 2 ** (failures - 1), BACKOFF_CAP_S))
            else:
                self._wake.wait(self._config.delay_s)
            self._wake.clear()
            failures = 0 if self._flush() else failures + 1
        self._flush()

    def _flush(self) -> bool:
        """Send until nothing is left; False when something was not taken, which stays."""
        while True:
            with self._mutex:
                batch = self._spans[: self._config.batch]
            if not batch:
                return True
            why = "it could not be written"
            with fail_soft(self._diagnostics, "traces", "traces"):
                why = self._send(self._config, document(self._config, [self._concealed(span) for span in batch]))
            if why:
                self._tell(why)
                return False
            with self._mutex:
                del self._spans[: len(batch)]
                self.sent += len(batch)
            self._diagnostics.resolve(NOT_SENT, "traces")

    def _concealed(self, span: Span) -> Span:
        hide = self._conceal
        attributes = tuple((name, hide(value)) for name, value in span.attributes)
        return replace(span, name=hide(span.name), error=hide(span.error), attributes=attributes)

    def _tell(self, why: str) -> None:
        self._diagnostics.issue(
            NOT_SENT, Severity.WARN, "traces", "Traces can't be sent",
            f"{self._config.url}: {why}. {len(self._spans)} spans wait, {self.dropped} were dropped.",
            "Look at the receiver, or unset OTEL_EXPORTER_OTLP_ENDPOINT and start the host again.",
        )  # fmt: skip


@contextlib.contextmanager
def maybe(tracer: Tracer | None, name: str, kind: int = INTERNAL, **attributes: str) -> Iterator[None]:
    """``Tracer.span`` where there is a tracer."""
    if tracer is None:
        yield
        return
    with tracer.span(name, kind, **attributes):
        yield


def entering(
    tracer: Tracer | None, traceparent: str, name: str, **attributes: str
) -> contextlib.AbstractContextManager[None]:
    """The block serves a request that came with this header."""
    if tracer is None:
        return within(span_of(traceparent))
    return _entering(tracer, traceparent, name, attributes)


@contextlib.contextmanager
def _entering(tracer: Tracer, traceparent: str, name: str, attributes: Mapping[str, str]) -> Iterator[None]:
    with serving(tracer, traceparent, name, **attributes) as here, within(here):
        yield


@contextlib.contextmanager
def serving(tracer: Tracer | None, traceparent: str, name: str, **attributes: str) -> Iterator[SpanContext | None]:
    """The same for a block that goes on in several tasks, as an answer that streams does: what is done for the request
    is to be done ``within`` what this gives.
    """
    above = span_of(traceparent)
    if tracer is None:
        yield above
        return
    with tracer.apart(tracer.judged(above) if above is not None else None, name, SERVER, **attributes) as here:
        yield here


class within:  # noqa: N801  used as a statement; a class, since every request passes one
    """The block belongs to ``context``, whatever it was begun in; None: to nothing."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: SpanContext | None) -> None:
        self._context = context

    def __enter__(self) -> None:
        """It begins."""
        self._token = CURRENT.set(self._context)

    def __exit__(self, *_exc: object) -> None:
        """It is over, however."""
        CURRENT.reset(self._token)

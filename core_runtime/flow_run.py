"""One run of a flow under way: performs what the machine asks for, and brings the answers back.

Invariants:
  * Each effect is answered exactly once, in time: calls of Packs by the bus's own deadline, the host's handlers by a
    clock here.
  * A step acts as those who supplied it: each of them must hold the right, and the call is made as one of them.
  * A handler's exception is data from here on: ``RumiError`` by its code, anything else as ``error/<ClassName>`` with
    an Issue, because that is a bug.
  * With a journal, an answer counts once it is written; a run that is answered from its journal asks nobody again.
  * Ending a run ends everything that it started.

Not here: which runs there are and may be (``flow_runs``), order and meaning (``rules.flow``).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from backend_core.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    PackError,
    PackTimeout,
    RequestError,
    RumiError,
    quote,
)
from core_runtime.bus.calls import Call, CallContext
from core_runtime.bus.streams import HostStream
from core_runtime.diagnostics import record_failure
from core_runtime.drivers.run_journal import Recorded
from core_runtime.flow_hooks import FlowHooks
from core_runtime.handlers import interfaces
from core_runtime.handlers.host import Host
from core_runtime.rules.flow import model, tasks
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import Surroundings
from core_runtime.rules.permissions import Deny
from core_runtime.tracing import maybe

KERNEL_ACTOR: Final = "kernel"
FAIR_TURNS: Final = 256
"""Answers in a row that need nobody, before others of the event loop have a turn."""

KernelHandler = Callable[[Host, Mapping[str, Any]], Awaitable[Any] | Any]
Emit = Callable[[Any], Awaitable[None]]
Note = Callable[[model.StepResult, float, float], None]


class Handlers(Protocol):
    """What a run asks its kernel."""

    host: Host
    hooks: FlowHooks

    def kernel_handler(self, name: str) -> KernelHandler | None:
        """The host's own handler ``kernel:<name>``."""

    def has_handler(self, name: str) -> bool:
        """Whether a step could call ``name`` now."""


class Journal(Protocol):
    """Where a run's answers are kept before they count."""

    def answer(self, place: str, value: Any, error: model.FlowError | None, *, stream: str = "") -> None:
        """Tell of one answer. ``RequestError`` for a value that can't be kept."""

    def close(self) -> None:
        """Give back what it holds; idempotent."""


@dataclass(slots=True)
class _Timer:
    handle: asyncio.TimerHandle

    def cancel(self) -> None:
        self.handle.cancel()


@dataclass(slots=True)
class FlowRun:
    """Call ``drive`` once. ``emit`` takes what the run yields; without one it is dropped.

    ``parent``: the Pack's call that began the run; what its steps call belongs to that.
    """

    kernel: Handlers
    plan: Plan
    run_id: str
    values: Any
    note: Note
    surroundings: Surroundings = field(default_factory=lambda: Surroundings(jitter=random.random))
    emit: Emit | None = None
    journal: Journal | None = None
    history: deque[Recorded] = field(default_factory=deque)
    parent: Call | None = None
    _machine: Machine = field(init=False)
    _ready: deque[tuple[int, Any, model.FlowError | None]] = field(default_factory=deque)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    _work: dict[int, asyncio.Future[Any] | _Timer] = field(default_factory=dict)
    _places: dict[int, str] = field(default_factory=dict)
    _waiting: dict[str, tasks.Asking] = field(default_factory=dict)
    _began: dict[str, tuple[float, float]] = field(default_factory=dict)

    async def drive(self) -> model.Outcome:
        """Run to the end. Cancelling this coroutine cancels the run, with its ``finally`` steps."""
        self._machine = Machine(self.plan, run_id=self.run_id, values=self.values, surroundings=self.surroundings)
        cancelled = False
        turns = 0
        try:
            self._perform(self._machine.start())
            self._replay()
            while self._machine.outcome is None:
                try:
                    if not self._ready:
                        self._bell.clear()
                        await self._bell.wait()
                    elif (turns := turns + 1) % FAIR_TURNS == 0:
                        await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if cancelled:
                        raise
                    cancelled = True
                    self._perform(self._machine.cancel())
                    continue
                if self._ready:  # else a construct's block went on, which nobody had to answer
                    self._answer(*self._ready.popleft())
        finally:
            await self._end_work()
        if cancelled:
            raise asyncio.CancelledError
        assert self._machine.outcome is not None
        return self._machine.outcome

    # --- answers

    def _answer(self, token: int, value: Any, error: model.FlowError | None) -> None:
        self._work.pop(token, None)
        place = self._places.pop(token, None)
        if place is None:
            return  # nobody waits for it any more
        if self.journal is not None and place:
            stream = "opened" if isinstance(value, tasks.Opened) else "end" if value is tasks.END else ""
            try:
                self.journal.answer(place, value, error, stream=stream)
            except RequestError as exc:
                error = _known_error(exc, place)
                self.journal.answer(place, None, error)
        self._perform(self._machine.answer(token, value, error))

    def _ring(self, token: int, value: Any = None, error: model.FlowError | None = None) -> None:
        self._ready.append((token, value, error))
        self._bell.set()

    def _replay(self) -> None:
        """Answer from the journal, in its order; then do what nobody has answered yet."""
        while self.history and self._machine.outcome is None:
            recorded = self.history.popleft()
            asked = self._waiting.pop(recorded.place, None)
            if asked is None or asked.token not in self._places:
                raise ConflictError(
                    "This run can't be resumed",
                    code="journal_mismatch",
                    detail=f"Its journal tells of {quote(recorded.place, 120)}, which the flow does not ask for now.",
                    hint="Start the flow anew.",
                )
            del self._places[asked.token]
            value = recorded.value
            if recorded.stream == "opened":
                value = tasks.Opened(_Cut(asked))
            elif recorded.stream == "end":
                value = tasks.END
            elif isinstance(asked, tasks.Next) and isinstance(asked.handle, _Cut):
                asked.handle.skip += 1
            self._perform(self._machine.answer(asked.token, value, recorded.error))
        left, self._waiting = list(self._waiting.values()), {}
        for asked in left:
            if asked.token in self._places:
                self._ask(asked)

    # --- effects

    def _perform(self, effects: Sequence[tasks.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, tasks.Ended):
                self._ended(effect.result)
            elif isinstance(effect, tasks.Began):
                self._began[effect.path] = (time.time(), time.monotonic())
            elif isinstance(effect, tasks.Abandon):
                self._abandon(effect.token)
            elif isinstance(effect, tasks.Close):
                self._close(effect.handle)
            elif self.history:
                self._places[effect.token] = effect.place
                self._waiting[effect.place] = effect
            else:
                self._places[effect.token] = effect.place
                self._ask(effect)

    def _ask(self, effect: tasks.Asking) -> None:
        """Begin what will answer ``effect``."""
        match effect:
            case tasks.Invoke():
                self._invoke(effect)
            case tasks.Sleep():
                self._after(effect.token, effect.delay_s)
            case tasks.Until():
                self._until(effect)
            case tasks.Open():
                self._spawn(effect, self._as_step(effect, self._open(effect)))
            case tasks.Next():
                self._spawn(effect, self._next(effect))
            case tasks.Await():
                self._spawn(effect, self._appearance(effect.handler))
            case tasks.Listen():
                self._spawn(effect, self._event(effect))
            case tasks.Publish():
                self._spawn(effect, self._publish(effect))
            case tasks.Consult():
                self._spawn(effect, self.kernel.hooks.ask(effect, self.run_id))
            case tasks.Produce():
                if self.emit is None:
                    self._ring(effect.token)
                else:
                    self._spawn(effect, self.emit(effect.value))

    def _invoke(self, effect: tasks.Invoke) -> None:
        """The host's own plain handlers answer on the spot; everything else takes a task."""
        name = effect.handler.removeprefix(model.KERNEL_PREFIX)
        if name == effect.handler:
            self._spawn(effect, self._as_step(effect, self._call(effect)))
            return
        handler = self.kernel.kernel_handler(name)
        if handler is None:
            absent = NotFoundError(f"No kernel handler is called {effect.handler!r}", code="missing")
            self._ring(effect.token, None, self._failure(effect, absent))
            return
        try:
            result = handler(self.kernel.host, effect.args if isinstance(effect.args, Mapping) else {})
        except Exception as exc:  # noqa: BLE001  handed to the fail-soft boundary, entered only when needed
            self._ring(effect.token, None, self._failure(effect, exc))
            return
        if result is not None and inspect.isawaitable(result):
            self._spawn(effect, _within(result, effect.timeout_s))
        else:
            self._ring(effect.token, result)

    async def _call(self, effect: tasks.Invoke) -> Any:
        host = self.kernel.host
        caller = await self._acting(effect.acts_as, effect.handler)
        args = effect.args
        if effect.body is not None:
            await self._check_supplier(effect)
            args = {**args, "run": self._body(effect)}
        elif not self.kernel.has_handler(effect.handler):
            raise NotFoundError(f"Nobody provides {effect.handler!r} now", code="missing")
        result = await interfaces.call(
            host, effect.handler, args, effect.timeout_s or None, caller=caller, idempotency_key=self._once(effect),
            context=self._context(caller),
        )  # fmt: skip
        if isinstance(result, AsyncIterator):
            await _closed(result)
            raise RequestError(
                f"{effect.handler} streams",
                code="value",
                detail="Its items have to be taken one by one.",
                hint="Give the step the word stream.",
            )
        return result

    async def _as_step(self, effect: tasks.Invoke | tasks.Open, work: Awaitable[Any]) -> Any:
        with maybe(self.kernel.host.tracer, f"step {effect.path}", rumi_flow=self.plan.flow.id, rumi_step=effect.path):
            return await work

    async def _acting(self, actors: tuple[str, ...], key: str) -> str:
        """Whom a call is made as. Of several each must hold the right; the bus judges the one that is named to it."""
        if not actors:
            return KERNEL_ACTOR
        for pack_id in actors[1:]:
            answer = await asyncio.to_thread(self.kernel.host.permissions.may_call, pack_id, key)
            if isinstance(answer, Deny):
                raise answer.error()
        return actors[0]

    def _context(self, caller: str) -> CallContext | None:
        parent = self.parent
        if parent is None:
            return None
        return CallContext(caller, (*parent.chain, parent.caller_name), self.plan.flow.id, parent=parent)

    async def _check_supplier(self, effect: tasks.Invoke) -> None:
        """Whose construct it is. Where the step names nobody, its owner must be allowed to change that flow."""
        host = self.kernel.host
        entry = host.registry.resolve(effect.handler)
        if entry is None or (effect.pack and entry.pack != effect.pack):
            raise NotFoundError(
                f"{effect.pack or 'Nobody'} supplies no {effect.handler}",
                code="missing",
                detail=f"The construct of that name belongs to {entry.pack or 'the host'}." if entry else "",
            )
        if effect.pack or not entry.pack or entry.pack in effect.acts_as:
            return
        flow_id = effect.args["step"]["flow"]
        if not await asyncio.to_thread(host.permissions.has, entry.pack, "flow.modify", flow=flow_id):
            raise DeniedError(
                f"{entry.pack} may not decide how often steps of {flow_id} run",
                detail=f"It supplies {effect.handler}, and was not granted flow.modify for that flow.",
                hint=f"Name the Pack in the flow ({entry.pack}:…), or grant it the right.",
            )

    def _body(self, effect: tasks.Invoke) -> Callable[..., Awaitable[Any]]:
        """What a construct calls to have the step's block run once, with variables of its choice."""

        async def run(args: Any = None, _ctx: Any = None) -> Any:
            ended: asyncio.Future[tasks.Result] = asyncio.get_running_loop().create_future()
            assert effect.body is not None
            values = args if isinstance(args, Mapping) else {}
            effects = self._machine.run_body(effect.token, effect.body(values), ended.set_result)
            if effects is None:
                raise ConflictError("The step is over", code="step_over", detail=effect.path)
            self._perform(effects)
            self._bell.set()
            result = await ended
            if isinstance(result.raised, tasks.StepFailed):
                raise _as_exception(result.raised.error)
            if result.raised is not None:
                raise ConflictError("The block was ended", code="cancelled", detail=effect.path)
            return result.value

        return run

    async def _open(self, effect: tasks.Open) -> Any:
        if effect.handler.startswith(model.KERNEL_PREFIX):
            raise RequestError("The host's handlers do not stream", code="value", detail=effect.handler)
        if not self.kernel.has_handler(effect.handler):
            raise NotFoundError(f"Nobody provides {effect.handler!r} now", code="missing")
        caller = await self._acting(effect.acts_as, effect.handler)
        result = await interfaces.call(
            self.kernel.host, effect.handler, effect.args, effect.timeout_s or None, caller=caller,
            idempotency_key=self._once(effect), context=self._context(caller),
        )  # fmt: skip
        if isinstance(result, HostStream):
            result.keep_ahead(effect.buffer)
        return tasks.Opened(result) if isinstance(result, AsyncIterator) else result

    async def _next(self, effect: tasks.Next) -> Any:
        try:
            items = await self._resumed(effect.handle) if isinstance(effect.handle, _Cut) else effect.handle
            return await _within(anext(items), effect.idle_s or 0.0)
        except StopAsyncIteration:
            return tasks.END

    async def _resumed(self, cut: _Cut) -> AsyncIterator[Any]:
        if cut.items is None:
            assert isinstance(cut.opened, tasks.Open)
            opened = await self._open(cut.opened)
            if not isinstance(opened, tasks.Opened):
                raise StopAsyncIteration
            items: AsyncIterator[Any] = opened.handle
            for _ in range(cut.skip):
                await anext(items)
            cut.items = items
        return cut.items

    async def _event(self, effect: tasks.Listen) -> Any:
        """The payload of the first event that is wanted; each actor must be allowed to hear it."""
        host = self.kernel.host
        for pack_id in effect.acts_as:
            answer = await asyncio.to_thread(host.permissions.check, pack_id, "event.subscribe", topic=effect.topic)
            if isinstance(answer, Deny):
                raise answer.error()
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Any] = loop.create_future()

        def settle(payload: Any) -> None:
            if not found.done():
                found.set_result(payload)

        def fail(error: RumiError) -> None:
            if not found.done():
                found.set_exception(error)

        def heard(payload: Any) -> None:
            try:
                if effect.accepts(payload):
                    loop.call_soon_threadsafe(settle, payload)
            except tasks.StepFailed as failure:
                loop.call_soon_threadsafe(fail, _as_exception(failure.error))

        number = host.events.subscribe(effect.topic, heard)
        try:
            return await found
        finally:
            host.events.unsubscribe(effect.topic, number)

    async def _publish(self, effect: tasks.Publish) -> None:
        host = self.kernel.host
        for pack_id in effect.acts_as:
            answer = await asyncio.to_thread(host.permissions.check, pack_id, "event.publish", topic=effect.topic)
            if isinstance(answer, Deny):
                raise answer.error()
        source = f"rumi:pack/{effect.acts_as[0]}" if effect.acts_as else "rumi:host"
        host.events.publish(effect.topic, effect.payload, source=source)

    async def _appearance(self, handler: str) -> None:
        """Return once a call of ``handler`` could succeed. A kernel handler that is absent never appears."""
        loop, appeared = asyncio.get_running_loop(), asyncio.Event()

        def noticed(_key: str, _old: Any, _new: Any) -> None:
            loop.call_soon_threadsafe(appeared.set)

        observer = self.kernel.host.registry.observe(handler, noticed)
        try:
            while not self.kernel.has_handler(handler):
                appeared.clear()
                await appeared.wait()
        finally:
            self.kernel.host.registry.unobserve(observer)

    def _until(self, effect: tasks.Until) -> None:
        try:
            delay_s = max(0.0, _instant(effect.instant) - time.time())
        except RumiError as exc:
            self._ring(effect.token, None, self._failure(effect, exc))
        else:
            self._after(effect.token, delay_s)

    def _after(self, token: int, delay_s: float) -> None:
        self._work[token] = _Timer(asyncio.get_running_loop().call_later(delay_s, self._ring, token))

    def _once(self, effect: tasks.Invoke | tasks.Open) -> str | None:
        """Of each supplier its own, so that nobody's step can pass for another's that was done already."""
        supplier = "+".join(effect.acts_as)
        return "/".join(filter(None, (self.run_id, supplier, effect.once))) if effect.once else None

    # --- work

    def _spawn(self, effect: tasks.Asking, work: Awaitable[Any]) -> None:
        self._work[effect.token] = asyncio.ensure_future(self._report(effect, work))

    async def _report(self, effect: tasks.Asking, work: Awaitable[Any]) -> None:
        try:
            value = await work
        except Exception as exc:  # noqa: BLE001  handed to the fail-soft boundary, entered only when needed
            self._ring(effect.token, None, self._failure(effect, exc))
        else:
            self._ring(effect.token, value)

    def _failure(self, effect: tasks.Asking, exc: Exception) -> model.FlowError:
        """The error as data: a ``RumiError`` by its code; a bug is an Issue, too."""
        path, attempt = getattr(effect, "path", ""), getattr(effect, "attempt", 1)
        if isinstance(exc, RumiError):
            return _known_error(exc, path, attempt)
        name = getattr(effect, "handler", "") or effect.place
        record_failure(self.kernel.host.diagnostics, exc, name, self.plan.flow.id, step_id=effect.place)
        return model.FlowError(f"error/{type(exc).__name__}", str(exc)[:500], instance=path, attempt=attempt)

    def _abandon(self, token: int) -> None:
        place = self._places.pop(token, None)
        if place is not None:
            self._waiting.pop(place, None)
        work = self._work.pop(token, None)
        if work is not None:
            work.cancel()

    def _close(self, handle: Any) -> None:
        if handle is not None:
            task = asyncio.ensure_future(_closed(handle))
            self._work[-id(task)] = task
            task.add_done_callback(lambda done: self._work.pop(-id(done), None))

    async def _end_work(self) -> None:
        left = [work for work in self._work.values() if isinstance(work, asyncio.Future)]
        for work in self._work.values():
            work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*left, return_exceptions=True)
        if self.journal is not None:
            self.journal.close()

    def _ended(self, result: model.StepResult) -> None:
        now = time.time(), time.monotonic()
        wall, mono = self._began.pop(result.path, now)
        if not self.history:
            self.note(result, wall, time.monotonic() - mono)


@dataclass(slots=True, eq=False)
class _Cut:
    """A stream that the run was reading when it was killed: opened anew, and read past what was read before."""

    opened: tasks.Asking
    skip: int = 0
    items: AsyncIterator[Any] | None = None


async def _within(work: Awaitable[Any], timeout_s: float) -> Any:
    """The result, or ``PackTimeout`` after ``timeout_s`` (0: no limit of its own)."""
    if not timeout_s:
        return await work
    try:
        async with asyncio.timeout(timeout_s):
            return await work
    except TimeoutError:
        detail = "The step's time was over."
        raise PackTimeout(f"No result within {timeout_s:g} s", detail=detail, retryable=True) from None


async def _closed(stream: Any) -> None:
    stream = stream.items if isinstance(stream, _Cut) else stream
    if hasattr(stream, "aclose"):
        with contextlib.suppress(RumiError):
            await stream.aclose()


def _instant(value: Any) -> float:
    """Seconds since 1970 of a number or of ISO 8601 text (UTC where it names no zone)."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        detail = f"expected seconds since 1970 or ISO 8601, got {quote(value, 60)}"
        raise RequestError("That is no instant", code="value", detail=detail) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _as_exception(error: model.FlowError) -> PackError:
    return PackError(error.title, code=error.type, detail=error.detail, retryable=error.retryable)


def _known_error(exc: RumiError, path: str, attempt: int = 1) -> model.FlowError:
    kind = exc.code
    if isinstance(exc, PackTimeout):
        kind = "timeout"
    elif isinstance(exc, DeniedError):
        kind = "denied"
    return model.FlowError(
        kind,
        exc.title,
        detail=exc.detail,
        instance=path,
        attempt=attempt,
        retryable=exc.retryable if isinstance(exc, PackError) else False,
        cause=exc.hint,
        pack=exc.pack_id if isinstance(exc, PackError) else "",
    )

"""One run of a flow under way: performs what the machine asks for, and brings the answers back.

Invariants:
  * Each effect is answered exactly once, in time: calls of Packs by the bus's own deadline, the host's handlers by a
    clock here.
  * A handler's exception is data from here on: ``RumiError`` by its code, anything else as ``error/<ClassName>`` with
    an Issue, because that is a bug.
  * With a journal, an answer counts once it is written; a run that is answered from its journal asks nobody again.
  * Ending a run ends everything that it started.

Not here: which runs there are and may be (``flow_runs``), as whom a step calls (``flow_calls``), what it waits for
(``flow_waits``), order and meaning (``rules.flow``).
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from msgspec import Struct

from backend_core.errors import ConflictError, NotFoundError, RequestError, RumiError, quote
from core_runtime.bus.calls import Call
from core_runtime.diagnostics import record_failure
from core_runtime.drivers.run_journal import Recorded
from core_runtime.flow_calls import Body, Cut, Handlers, StepCalls, closed, within
from core_runtime.flow_errors import as_exception, known_error
from core_runtime.flow_reports import Under
from core_runtime.flow_waits import appearance, heard, instant, published
from core_runtime.rules.flow import asking, endings, model
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.plan import Plan
from core_runtime.rules.flow.run import Surroundings

FAIR_TURNS: Final = 256
"""Answers in a row that need nobody, before others of the event loop have a turn."""

Emit = Callable[[Any], Awaitable[None]]
Note = Callable[[endings.StepResult, float, float, bool], None]
"""A step's result, when it began (seconds since 1970), how long it took in seconds, whether the journal told it."""


class Journal(Protocol):
    """Where a run's answers are kept before they count."""

    def answer(self, place: str, value: Any, error: endings.FlowError | None, *, stream: str = "") -> None:
        """Tell of one answer. ``RequestError`` for a value that can't be kept."""

    def close(self) -> None:
        """Give back what it holds; idempotent."""


class _Timer(Struct):
    handle: asyncio.TimerHandle

    def cancel(self) -> None:
        self.handle.cancel()


@dataclass(slots=True)
class FlowRun:
    """Call ``drive`` once. ``emit`` takes what the run yields; without one it is dropped.

    ``parent``: the Pack's call that began the run; what its steps call belongs to that. ``under_way``: steps that have
    begun and not ended.
    """

    kernel: Handlers
    plan: Plan
    run_id: str
    values: Any
    note: Note
    surroundings: Surroundings = field(default_factory=lambda: Surroundings(jitter=random.random))  # noqa: S311 - jitter, no secret
    emit: Emit | None = None
    journal: Journal | None = None
    history: deque[Recorded] = field(default_factory=deque)
    parent: Call | None = None
    under_way: dict[tuple[str, str], Under] = field(default_factory=dict)
    _machine: Machine = field(init=False)
    _calls: StepCalls = field(init=False)
    _ready: deque[tuple[int, Any, endings.FlowError | None]] = field(default_factory=deque)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    _work: dict[int, asyncio.Future[Any] | _Timer] = field(default_factory=dict)
    _places: dict[int, str] = field(default_factory=dict)
    _waiting: dict[str, asking.Asking] = field(default_factory=dict)
    _replaying: bool = False

    async def drive(self) -> endings.Outcome:
        """Run to the end. Cancelling this coroutine cancels the run, with its ``finally`` steps."""
        self._machine = Machine(self.plan, run_id=self.run_id, values=self.values, surroundings=self.surroundings)
        self._calls = StepCalls(self.kernel, self.plan.flow.id, self.run_id, self.parent)
        cancelled = False
        turns = 0
        try:
            self._replaying = bool(self.history)
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

    def _answer(self, token: int, value: Any, error: endings.FlowError | None) -> None:
        self._work.pop(token, None)
        place = self._places.pop(token, None)
        if place is None:
            return  # nobody waits for it any more
        if self.journal is not None and place:
            stream = "opened" if isinstance(value, asking.Opened) else "end" if value is asking.END else ""
            try:
                self.journal.answer(place, value, error, stream=stream)
            except RequestError as exc:
                error = known_error(exc, place)
                self.journal.answer(place, None, error)
        self._perform(self._machine.answer(token, value, error))

    def _ring(self, token: int, value: Any = None, error: endings.FlowError | None = None) -> None:
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
                value = asking.Opened(Cut(asked))
            elif recorded.stream == "end":
                value = asking.END
            elif isinstance(asked, asking.Next) and isinstance(asked.handle, Cut):
                asked.handle.skip += 1
            self._perform(self._machine.answer(asked.token, value, recorded.error))
        self._replaying = False
        left, self._waiting = list(self._waiting.values()), {}
        for asked in left:
            if asked.token in self._places:
                self._ask(asked)

    # --- effects

    def _perform(self, effects: Sequence[asking.Effect]) -> None:
        for effect in effects:
            if isinstance(effect, asking.Ended):
                self._ended(effect.result, effect.place)
            elif isinstance(effect, asking.Began):
                began = Under(effect.flow, effect.path, time.time(), time.monotonic())
                self.under_way[effect.place, effect.path] = began
            elif isinstance(effect, asking.Abandon):
                self._abandon(effect.token)
            elif isinstance(effect, asking.Close):
                self._close(effect.handle)
            elif self.history:
                self._places[effect.token] = effect.place
                self._waiting[effect.place] = effect
            else:
                self._places[effect.token] = effect.place
                self._ask(effect)

    def _ask(self, effect: asking.Asking) -> None:
        """Begin what will answer ``effect``."""
        match effect:
            case asking.Invoke():
                self._invoke(effect)
            case asking.Sleep():
                self._after(effect.token, effect.delay_s)
            case asking.Until():
                self._until(effect)
            case asking.Open():
                self._spawn(effect, self._calls.open(effect))
            case asking.Next():
                self._spawn(effect, self._calls.next(effect))
            case asking.Await():
                self._spawn(effect, appearance(self.kernel, effect.handler))
            case asking.Listen():
                self._spawn(effect, heard(self.kernel.host, effect))
            case asking.Publish():
                self._spawn(effect, published(self.kernel.host, effect))
            case asking.Consult():
                self._spawn(effect, self.kernel.hooks.ask(effect, self.run_id))
            case asking.Produce():
                if self.emit is None:
                    self._ring(effect.token)
                else:
                    self._spawn(effect, self.emit(effect.value))

    def _invoke(self, effect: asking.Invoke) -> None:
        """The host's own plain handlers answer on the spot; everything else takes a task."""
        name = effect.handler.removeprefix(model.KERNEL_PREFIX)
        if name == effect.handler:
            self._spawn(effect, self._calls.call(effect, self._body(effect)))
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
            self._spawn(effect, within(result, effect.timeout_s))
        else:
            self._ring(effect.token, result)

    def _body(self, effect: asking.Invoke) -> Body | None:
        """What a construct calls to have the step's block run once, with variables of its choice."""
        block = effect.body
        if block is None:
            return None

        async def run(args: Any = None, _ctx: Any = None) -> Any:
            ended: asyncio.Future[asking.Result] = asyncio.get_running_loop().create_future()
            values = args if isinstance(args, Mapping) else {}
            effects = self._machine.run_body(effect.token, block(values), ended.set_result)
            if effects is None:
                raise ConflictError("The step is over", code="step_over", detail=effect.path)
            self._perform(effects)
            self._bell.set()
            result = await ended
            if isinstance(result.raised, asking.StepFailed):
                raise as_exception(result.raised.error)
            if result.raised is not None:
                raise ConflictError("The block was ended", code="cancelled", detail=effect.path)
            return result.value

        return run

    def _until(self, effect: asking.Until) -> None:
        try:
            delay_s = max(0.0, instant(effect.instant) - time.time())
        except RumiError as exc:
            self._ring(effect.token, None, self._failure(effect, exc))
        else:
            self._after(effect.token, delay_s)

    def _after(self, token: int, delay_s: float) -> None:
        self._work[token] = _Timer(asyncio.get_running_loop().call_later(delay_s, self._ring, token))

    # --- work

    def _spawn(self, effect: asking.Asking, work: Awaitable[Any]) -> None:
        self._work[effect.token] = asyncio.ensure_future(self._report(effect, work))

    async def _report(self, effect: asking.Asking, work: Awaitable[Any]) -> None:
        try:
            value = await work
        except Exception as exc:  # noqa: BLE001  handed to the fail-soft boundary, entered only when needed
            self._ring(effect.token, None, self._failure(effect, exc))
        else:
            self._ring(effect.token, value)

    def _failure(self, effect: asking.Asking, exc: Exception) -> endings.FlowError:
        """The error as data: a ``RumiError`` by its code; a bug is an Issue, too."""
        path, attempt = getattr(effect, "path", ""), getattr(effect, "attempt", 1)
        if isinstance(exc, RumiError):
            return known_error(exc, path, attempt)
        name = getattr(effect, "handler", "") or effect.place
        record_failure(self.kernel.host.diagnostics, exc, name, self.plan.flow.id, step_id=effect.place)
        return endings.FlowError(f"error/{type(exc).__name__}", str(exc)[:500], instance=path, attempt=attempt)

    def _abandon(self, token: int) -> None:
        place = self._places.pop(token, None)
        if place is not None:
            self._waiting.pop(place, None)
        work = self._work.pop(token, None)
        if work is not None:
            work.cancel()

    def _close(self, handle: Any) -> None:
        if handle is not None:
            task = asyncio.ensure_future(closed(handle))
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

    def _ended(self, result: endings.StepResult, place: str) -> None:
        began = self.under_way.pop((place, result.path), None)
        ended = time.monotonic()
        if began is None:
            self.note(result, time.time(), 0.0, self._replaying)
        else:
            self.note(result, began.at_s, ended - began.monotonic_s, self._replaying)

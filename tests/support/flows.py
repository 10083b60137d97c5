"""A playbook for flows: runs a document on the pure machine with a virtual clock, no asyncio, no waiting."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from core_runtime.rules.flow import asking, endings
from core_runtime.rules.flow.hooks import Hook, word_of
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow
from core_runtime.rules.flow.run import Surroundings

EVENT = -1


class Fails(Exception):  # noqa: N818  (read as a verb in transcripts)
    """Raise in a playbook handler to fail its step with an error of this type."""

    def __init__(self, kind: str, *, retryable: bool = False) -> None:
        super().__init__(kind)
        self.error = endings.FlowError(kind, f"failed with {kind}", retryable=retryable)


class Takes:
    """Return from a playbook handler to answer after ``seconds`` of virtual time."""

    def __init__(self, seconds: float, value: Any = None) -> None:
        self.seconds, self.value = seconds, value


class Playbook:
    """Handlers by name; ``calls`` and ``results`` are what happened, ``now`` the virtual time."""

    def __init__(
        self, document: str, handlers: Mapping[str, Callable[[Any], Any]], *, values: Any = None, jitter=0.5,
        flows: Mapping[str, str] | None = None, may_run=lambda _actors, _flow: True, hooks=None,
    ) -> None:  # fmt: skip
        self.machine = Machine(
            plan_flow(parse_flow(yaml.safe_load(document), source="playbook")),
            run_id="run",
            values=values,
            surroundings=Surroundings(
                plan_of=lambda name: plan_flow(parse_flow(yaml.safe_load(flows[name]), source=name))
                if flows and name in flows else None,
                may_run=may_run,
                jitter=lambda: jitter,
                hooks=frozenset(hooks or ()),
            ),
        )  # fmt: skip
        self.events: list[tuple[float, str, Any]] = []
        self.published: list[tuple[str, Any]] = []
        self.produced: list[Any] = []
        self.closed: list[Any] = []
        self.bodies: list[Any] = []
        self.hooks = dict(hooks or {})
        self.consulted: list[tuple[str, str]] = []
        self.delay_s = 0.0
        """Virtual seconds until an event is published or an item taken."""
        self._listening: dict[int, asking.Listen] = {}
        self.handlers = dict(handlers)
        self.calls: list[tuple[str, Any]] = []
        self.results: dict[str, endings.StepResult] = {}
        self.abandoned: list[int] = []
        self.sleeps: list[float] = []
        self.now = 0.0
        self._due: list[tuple[float, int, Any, endings.FlowError | None]] = []
        self._awaiting: dict[int, str] = {}
        self._cancel_at: float | None = None

    def run(self, *, cancel_at: float | None = None, appear: Mapping[float, str] | None = None) -> endings.Outcome:
        """Run to the end, cancelling at a time or letting handlers appear at times."""
        pending = sorted((appear or {}).items())
        self._take(self.machine.start())
        while self.machine.outcome is None:
            next_due = self._due[0][0] if self._due else float("inf")
            if cancel_at is not None and cancel_at <= next_due:
                self.now, cancel_at = cancel_at, None
                self._take(self.machine.cancel())
            elif pending and pending[0][0] <= next_due:
                self.now, name = pending.pop(0)
                self.handlers[name] = lambda args: args
                for token in [token for token, wanted in self._awaiting.items() if wanted == name]:
                    del self._awaiting[token]
                    self._take(self.machine.answer(token))
            else:
                assert self._due, f"the run hangs; waiting for {self._awaiting or self._listening}"
                self.now, token, value, error = heapq.heappop(self._due)
                if token == EVENT:
                    self._deliver(*value)
                elif token not in self.abandoned:
                    self._take(self.machine.answer(token, value, error))
        return self.machine.outcome

    def happens(self, at: float, topic: str, payload: Any) -> Playbook:
        """Publish an event at a time."""
        heapq.heappush(self._due, (at, EVENT, (topic, payload), None))
        return self

    def status(self, path: str) -> str:
        return self.results[path].status.value

    def _take(self, effects: list[asking.Effect]) -> None:
        for effect in effects:
            getattr(self, f"_on_{type(effect).__name__.lower()}")(effect)

    def _later(self, effect: Any, delay_s: float = 0.0) -> None:
        heapq.heappush(self._due, (self.now + delay_s, effect.token, None, None))

    def _on_sleep(self, effect: asking.Sleep) -> None:
        self.sleeps.append(effect.delay_s)
        self._later(effect, effect.delay_s)

    def _on_until(self, effect: asking.Until) -> None:
        self._later(effect, max(0.0, float(effect.instant) - self.now))

    def _on_listen(self, effect: asking.Listen) -> None:
        self._listening[effect.token] = effect

    def _on_await(self, effect: asking.Await) -> None:
        self._awaiting[effect.token] = effect.handler

    def _on_publish(self, effect: asking.Publish) -> None:
        self.published.append((effect.topic, effect.payload))
        self._later(effect, self.delay_s)

    def _on_consult(self, effect: asking.Consult) -> None:
        self.consulted.append((effect.hook.rpartition(".")[2], effect.path))
        said = self.hooks[effect.hook]({"ctx": effect.variables, **effect.told})
        heapq.heappush(self._due, (self.now, effect.token, word_of(Hook(effect.hook), said).value, None))

    def _on_produce(self, effect: asking.Produce) -> None:
        self.produced.append(effect.value)
        self._later(effect, self.delay_s)

    def _on_close(self, effect: asking.Close) -> None:
        self.closed.append(effect.handle)

    def _on_abandon(self, effect: asking.Abandon) -> None:
        self.abandoned.append(effect.token)
        self._awaiting.pop(effect.token, None)
        self._listening.pop(effect.token, None)

    def _on_began(self, _effect: asking.Began) -> None:
        pass

    def _on_ended(self, effect: asking.Ended) -> None:
        self.results[effect.result.path] = effect.result

    def _deliver(self, topic: str, payload: Any) -> None:
        for token, listen in list(self._listening.items()):
            if listen.topic == topic and listen.accepts(payload):
                del self._listening[token]
                self._take(self.machine.answer(token, payload))

    def _on_invoke(self, request: asking.Invoke) -> None:
        value, error, delay = self._asked(request.handler, request.args)
        if request.body is not None and error is None:
            self._construct(request, value)
            return
        if request.timeout_s and delay > request.timeout_s:
            value, delay = None, request.timeout_s
            error = endings.FlowError("timeout", f"No result within {delay:g} s", retryable=True)
        heapq.heappush(self._due, (self.now + delay, request.token, value, error))

    def _construct(self, request: asking.Invoke, rounds: list[Mapping[str, Any]]) -> None:
        """A construct that runs its block once for each of ``rounds``, one after another, and answers their results."""
        results: list[asking.Result] = []

        def ended(result: asking.Result) -> None:
            results.append(result)
            if len(results) == len(rounds) or result.raised is not None:
                error = result.raised.error if isinstance(result.raised, asking.StepFailed) else None
                answer = None if error else [one.value for one in results]
                heapq.heappush(self._due, (self.now, request.token, answer, error))

        assert request.body is not None
        if request.timeout_s:
            late = endings.FlowError("timeout", f"No result within {request.timeout_s:g} s", retryable=True)
            heapq.heappush(self._due, (self.now + request.timeout_s, request.token, None, late))
        for values in rounds:
            effects = self.machine.run_body(request.token, request.body(values), ended)
            if effects is not None:
                self._take(effects)

    def _on_open(self, request: asking.Open) -> None:
        value, error, delay = self._asked(request.handler, request.args)
        opened = asking.Opened(iter(value)) if isinstance(value, list) else value
        heapq.heappush(self._due, (self.now + delay, request.token, opened, error))

    def _on_next(self, request: asking.Next) -> None:
        value, error, delay = next(request.handle, asking.END), None, 0.0
        if isinstance(value, Takes):
            value, delay = value.value, value.seconds
        if isinstance(value, Fails):
            value, error = None, value.error
        if request.idle_s is not None and delay > request.idle_s:
            value, delay, error = None, request.idle_s, endings.FlowError("timeout", "idle", retryable=True)
        heapq.heappush(self._due, (self.now + delay, request.token, value, error))

    def _asked(self, name: str, args: Any) -> tuple[Any, endings.FlowError | None, float]:
        handler = self.handlers.get(name)
        if handler is None:
            return None, endings.FlowError("missing", f"no {name}"), 0.0
        self.calls.append((name, args))
        try:
            value = handler(args)
        except Fails as failure:
            return None, failure.error, 0.0
        return (value.value, None, value.seconds) if isinstance(value, Takes) else (value, None, 0.0)

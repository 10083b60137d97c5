"""A playbook for flows: runs a document on the pure machine with a virtual clock, no asyncio, no waiting."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from core_runtime.rules.flow import model, tasks
from core_runtime.rules.flow.machine import Machine
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow


class Fails(Exception):  # noqa: N818  (read as a verb in transcripts)
    """Raise in a playbook handler to fail its step with an error of this type."""

    def __init__(self, kind: str, *, retryable: bool = False) -> None:
        super().__init__(kind)
        self.error = model.FlowError(kind, f"failed with {kind}", retryable=retryable)


class Takes:
    """Return from a playbook handler to answer after ``seconds`` of virtual time."""

    def __init__(self, seconds: float, value: Any = None) -> None:
        self.seconds, self.value = seconds, value


class Playbook:
    """Handlers by name; ``calls`` and ``results`` are what happened, ``now`` the virtual time."""

    def __init__(
        self, document: str, handlers: Mapping[str, Callable[[Any], Any]], *, values: Any = None, jitter=0.5
    ) -> None:
        self.machine = Machine(
            plan_flow(parse_flow(yaml.safe_load(document), source="playbook")),
            run_id="run",
            values=values,
            jitter=lambda: jitter,
        )
        self.handlers = dict(handlers)
        self.calls: list[tuple[str, Any]] = []
        self.results: dict[str, model.StepResult] = {}
        self.abandoned: list[int] = []
        self.sleeps: list[float] = []
        self.now = 0.0
        self._due: list[tuple[float, int, Any, model.FlowError | None]] = []
        self._awaiting: dict[int, str] = {}
        self._cancel_at: float | None = None

    def run(self, *, cancel_at: float | None = None, appear: Mapping[float, str] | None = None) -> model.Outcome:
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
                assert self._due, f"the run hangs; waiting for {self._awaiting}"
                self.now, token, value, error = heapq.heappop(self._due)
                if token not in self.abandoned:
                    self._take(self.machine.answer(token, value, error))
        return self.machine.outcome

    def status(self, path: str) -> str:
        return self.results[path].status.value

    def _take(self, effects: list[tasks.Effect]) -> None:
        for effect in effects:
            match effect:
                case tasks.Invoke():
                    self._invoke(effect)
                case tasks.Sleep(delay_s, token):
                    self.sleeps.append(delay_s)
                    heapq.heappush(self._due, (self.now + delay_s, token, None, None))
                case tasks.Await(handler, token):
                    self._awaiting[token] = handler
                case tasks.Abandon(token):
                    self.abandoned.append(token)
                    self._awaiting.pop(token, None)
                case tasks.Ended(result):
                    self.results[result.path] = result

    def _invoke(self, request: tasks.Invoke) -> None:
        handler = self.handlers.get(request.handler)
        value, error, delay = None, None, 0.0
        if handler is None:
            error = model.FlowError("missing", f"no {request.handler}")
        else:
            self.calls.append((request.handler, request.args))
            try:
                value = handler(request.args)
            except Fails as failure:
                error = failure.error
            if isinstance(value, Takes):
                value, delay = value.value, value.seconds
        heapq.heappush(self._due, (self.now + delay, request.token, value, error))

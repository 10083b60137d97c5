"""Structured concurrency without a clock: routines that ask for effects, children that end before their parent goes on.

What a routine asks for and is answered with: ``asking``.

Invariants:
  * A child never outlives its Fork: when the Fork ends early, the rest is interrupted and awaited.
  * An interrupted routine may still ask for effects (its cleaning up); it is interrupted once.
  * After the last routine ended, no token is under way.

Not here: what the routines are (``machine``), time, threads, asyncio (the kernel drives it).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, field

from core_runtime.rules.flow.asking import (
    Abandon,
    Effect,
    Fork,
    Interrupt,
    Joined,
    Request,
    Result,
    Routine,
    Sleep,
    StepFailed,
)
from core_runtime.rules.flow.endings import FlowError


class _Task(Struct, eq=False):
    routine: Routine
    group: _Group | None = None
    owned: _Bodies | None = None
    position: int = 0
    token: int = 0
    children: _Group | None = None
    bodies: _Bodies | None = None
    interrupt: Interrupt | None = None
    interrupted: bool = False


class _Bodies(Struct, eq=False):
    """Routines that run while their owner waits for an effect, and the owner's answer if it came before they ended."""

    owner: _Task
    live: dict[int, _Task] = field(default_factory=dict)
    held: tuple[Any, Exception | None] | None = None


class _Group(Struct, eq=False):
    owner: _Task
    wait: int
    limit: int
    waiting: deque[tuple[int, Routine]]
    results: list[Result | None]
    live: dict[int, _Task] = field(default_factory=dict)
    timer: int = 0
    timed_out: bool = False
    closing: bool = False
    succeeded: int = 0

    def decided(self) -> bool:
        """Enough succeeded, or not enough are left to."""
        return self.succeeded >= self.wait or self.succeeded + len(self.live) + len(self.waiting) < self.wait


class Tasks:
    """Runs routines until each of them waits for an effect. ``effects`` collects what the driver has to do."""

    def __init__(self, root: Routine) -> None:
        self.effects: list[Effect] = []
        self.result: Result | None = None
        self._tokens: Iterator[int] = iter(range(1, 2**62))
        self._waiting: dict[int, _Task] = {}
        self._timers: dict[int, _Group] = {}
        self._ready: deque[tuple[_Task, Any, Exception | None]] = deque()
        self._root = _Task(root)
        self._ready.append((self._root, None, None))

    def run(self) -> None:
        """Resume every routine that can go on."""
        while self._ready:
            task, value, error = self._ready.popleft()
            self._resume(task, value, error)

    def answer(self, token: int, value: Any = None, error: FlowError | None = None) -> None:
        """The driver's answer to an effect; one that nobody waits for any more is ignored."""
        if token in self._timers:
            group = self._timers.pop(token)
            group.timer, group.timed_out = 0, True
            self._close(group, "timeout")
        elif token in self._waiting:
            task = self._waiting.pop(token)
            task.token = 0
            self._settle(task, value, StepFailed(error) if error else None)
        self.run()

    def adopt(self, token: int, routine: Routine, ended: Callable[[Result], None]) -> bool:
        """Run ``routine`` while the effect ``token`` is under way; False when nobody waits for that any more.

        ``ended`` is told its result. The effect's answer counts only after its routines have ended.
        """
        owner = self._waiting.get(token)
        if owner is None:
            routine.close()
            return False
        if owner.bodies is None:
            owner.bodies = _Bodies(owner)
        number = next(self._tokens)
        body = _Task(_told(routine, ended), owned=owner.bodies, position=number)
        owner.bodies.live[number] = body
        self._ready.append((body, None, None))
        self.run()
        return True

    def interrupt(self, kind: str = "cancelled") -> None:
        """End the root routine, cleaning up as it says."""
        self._interrupt(self._root, kind)
        self.run()

    def _settle(self, task: _Task, value: Any, error: Exception | None) -> None:
        """Resume a task with its answer, once what it owns has ended."""
        if task.bodies is None or not task.bodies.live:
            self._ready.append((task, value, error))
            return
        task.bodies.held = (value, error)
        for body in list(task.bodies.live.values()):
            self._interrupt(body, "cancelled")

    def _resume(self, task: _Task, value: Any, error: Exception | None) -> None:
        if task.interrupt is not None:
            error, task.interrupt = task.interrupt, None
        try:
            request = task.routine.send(value) if error is None else task.routine.throw(error)
        except StopIteration as stop:
            self._finish(task, Result(stop.value))
        except (StepFailed, Interrupt) as raised:
            self._finish(task, Result(raised=raised))
        else:
            self._request(task, request)

    def _request(self, task: _Task, request: Request) -> None:
        if isinstance(request, Fork):
            self._fork(task, request)
            return
        task.token = request.token = next(self._tokens)
        self._waiting[task.token] = task
        self.effects.append(request)

    def _fork(self, task: _Task, fork: Fork) -> None:
        group = _Group(
            task,
            fork.wait,
            fork.limit or len(fork.routines),
            deque(enumerate(fork.routines)),
            [None] * len(fork.routines),
        )
        task.children = group
        if fork.timeout_s is not None:
            group.timer = next(self._tokens)
            self._timers[group.timer] = group
            self.effects.append(Sleep(fork.timeout_s, f"{fork.place}!timeout", group.timer))
        self._proceed(group)

    def _proceed(self, group: _Group) -> None:
        """Start what may start, or hand the outcome to the owner once nothing is left."""
        if not group.closing and group.decided():
            self._close(group, "cancelled")
        while group.waiting and not group.closing and len(group.live) < group.limit:
            position, routine = group.waiting.popleft()
            child = _Task(routine, group, position=position)
            group.live[position] = child
            self._ready.append((child, None, None))
        if not group.live:
            self._join(group)

    def _join(self, group: _Group) -> None:
        for _, routine in group.waiting:
            routine.close()
        if group.timer:
            self._timers.pop(group.timer, None)
            self.effects.append(Abandon(group.timer))
            group.timer = 0
        owner, owner.children = group.owner, None
        self._ready.append((owner, Joined(tuple(group.results), group.timed_out), None))

    def _close(self, group: _Group, kind: str) -> None:
        group.closing = True
        for child in list(group.live.values()):
            self._interrupt(child, kind)

    def _finish(self, task: _Task, result: Result) -> None:
        if task.owned is not None:
            bodies = task.owned
            del bodies.live[task.position]
            if not bodies.live and bodies.held is not None:
                (value, error), bodies.held = bodies.held, None
                self._ready.append((bodies.owner, value, error))
            return
        if task.group is None:
            self.result = result
            return
        group = task.group
        del group.live[task.position]
        group.results[task.position] = result
        group.succeeded += result.raised is None
        self._proceed(group)

    def _interrupt(self, task: _Task, kind: str) -> None:
        if task.interrupted or (task is self._root and self.result is not None):
            return
        task.interrupted = True
        if task.children is not None:
            task.interrupt = Interrupt(kind)
            self._close(task.children, kind)
        elif task.token:
            self._waiting.pop(task.token)
            self.effects.append(Abandon(task.token))
            task.token = 0
            self._settle(task, None, Interrupt(kind))
        else:
            task.interrupt = Interrupt(kind)


def _told(routine: Routine, ended: Callable[[Result], None]) -> Routine:
    """Let ``ended`` know how the routine ended, whichever way."""
    try:
        value = yield from routine
    except (StepFailed, Interrupt) as raised:
        ended(Result(raised=raised))
        raise
    ended(Result(value))
    return value

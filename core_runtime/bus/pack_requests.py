"""Requests of one Pack to the host (kind 64): bounded, served on tasks of their own, cancelled with the session.

Invariants:
  * At most ``limits.requests_at_once`` of one session are being served, in the order in which they came: the threads
    that serve them belong to everybody. The others wait, bounded in number and in bytes.
  * While something waits here and other Packs are served beside, a place rests after each request before it takes the
    next: threads that always have something to do take the interpreter from the loop that all calls pass through.

Not here: what an operation does (whoever was bound to the bus).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from msgspec import Raw, Struct

from core_runtime.bus.calls import Failure
from core_runtime.bus.large import sending_failed
from core_runtime.diagnostics import Diagnostics, fail_soft
from core_runtime.rules import frames
from core_runtime.rules.frames import FrameError
from core_runtime.rules.sharing import MAX_PLACE_REST_S, REST
from core_runtime.rules.values import ValueProblem, footprint, pack, unpack

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

Serve = Callable[["Session", str, Any], Awaitable[Any]]


class _Asked(Struct, frozen=True):
    number: int
    operation: str
    args: Any
    size_bytes: int


class PackRequests:
    """What one session asked of the host."""

    def __init__(self, session: Session, serve: Serve, diagnostics: Diagnostics) -> None:
        self._session = session
        self._serve_for = serve
        self._diagnostics = diagnostics
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting = 0
        self._waiting: deque[_Asked] = deque()
        self._waiting_bytes = 0

    def take(self, frame: frames.RequestFrame) -> None:
        """REQUEST."""
        limits = self._session.limits
        if len(self._tasks) + len(self._waiting) >= limits.requests:
            self._session.limited("requests", f"{limits.requests} requests of it are in flight.")
            busy = Failure("limit", f"{limits.requests} requests are in flight already", retryable=True)
            self._session.send_error(frame.id, busy)
            return
        size_bytes = len(memoryview(frame.body))
        if self._waiting and self._waiting_bytes + size_bytes > limits.request_bytes:
            self._session.limited("requests", f"Requests of {limits.request_bytes} bytes wait.")
            busy = Failure("limit", f"requests of {limits.request_bytes} bytes wait already", retryable=True)
            self._session.send_error(frame.id, busy)
            return
        try:
            args = unpack(
                frame.body,
                self._session.references.resolver(frame.refs, frame.operation),
                max_nodes=limits.decode_nodes,
            )
        except ValueProblem as exc:
            self._session.send_error(frame.id, Failure(exc.type, str(exc)))
            return
        size_bytes += footprint(args, limits.request_bytes)
        self._waiting.append(_Asked(frame.id, frame.operation, args, size_bytes))
        self._waiting_bytes += size_bytes
        self._next()

    async def _serve(self, number: int, operation: str, args: Any) -> None:
        with fail_soft(self._diagnostics, self._session.pack_id, "request", step_id=operation, quiet=True) as outcome:
            result = await self._serve_for(self._session, operation, args)
            refs: list[tuple[int, int]] = []
            try:
                self._session.send(
                    (frames.RESULT, number, 0, refs, Raw(pack(result, self._session.references.exporter(refs))))
                )
            except ValueProblem as exc:
                self._session.send_error(number, Failure(exc.type, str(exc)))
            except FrameError as exc:
                self._session.send_error(number, sending_failed(exc))
        if outcome.error is not None:
            if getattr(outcome.error, "code", "") == "quota":
                self._session.limited("disk", getattr(outcome.error, "detail", ""))
            self._session.send_error(number, Failure.of(outcome.error))

    def _next(self) -> None:
        session = self._session
        while self._waiting and len(self._tasks) + self._resting < session.limits.requests_at_once:
            asked = self._waiting.popleft()
            self._waiting_bytes -= asked.size_bytes
            task = session.loop.create_task(self._serve(asked.number, asked.operation, asked.args))
            self._tasks.add(task)
            task.add_done_callback(partial(self._served, monotonic()))

    def _served(self, begun: float, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._waiting and self._session.shares:
            self._resting += 1
            self._session.loop.call_later(min(REST * (monotonic() - begun), MAX_PLACE_REST_S), self._rested)
        else:
            self._next()

    def _rested(self) -> None:
        self._resting -= 1
        self._next()

    def cancel(self) -> None:
        """The session is over."""
        self._waiting.clear()
        self._waiting_bytes = 0
        for task in tuple(self._tasks):
            task.cancel()

"""One way out while it is open: what it is, what passed, why it ended.

Invariants:
  * Bytes are counted before they are passed on; a connection that exceeds a budget ends with the chunk that did.
  * A connection that the broker ends (``finish``) reports that reason, whatever its task was waiting for.

Not here: whether it may be opened (``broker``), what is said over it (``tunnel``, ``fetching``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import Context, copy_context
from typing import Any

from msgspec import Struct, field

from backend_core.errors import HostError
from core_runtime.rules.addresses import Address
from core_runtime.rules.budgets import Account, Budgets
from core_runtime.rules.egress import Refused, Target


class Connection(Struct):
    """``kind`` and ``params`` are the use that was granted; ``started`` and ``touched`` are monotonic seconds."""

    number: int
    pack_id: str
    kind: str
    params: Mapping[str, Any]
    target: Target
    budgets: Budgets
    account: Account
    clock: Callable[[], float]
    keep: Callable[[Account, str, Budgets], Awaitable[None]]
    """Has what was counted written down (``accounts``)."""
    started: float = 0.0
    touched: float = 0.0
    address: Address | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    ended_by: Refused | None = None
    task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)
    context: Context = field(default_factory=copy_context)
    """In whose right it was opened."""

    async def passes(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes that are about to pass, and wait for their turn. Raises ``CutError`` when a budget is used up."""
        self.touched = self.clock()
        self.bytes_up += up
        self.bytes_down += down
        self.account.count(self.target.host, up, down, self.touched)
        await self.kept()
        over = self.account.exceeded(self.target.host, self.budgets, self.touched)
        if over is not None:
            raise CutError(over)
        wait_s = self.account.wait_s(up + down, self.budgets, self.touched)
        if wait_s > 0:
            await asyncio.sleep(wait_s)

    async def kept(self) -> None:
        """Wait until what was counted is written down. Raises ``CutError`` where it can't be."""
        try:
            await self.keep(self.account, self.target.host, self.budgets)
        except HostError as exc:
            raise CutError(Refused(exc.code, exc.detail, exc.hint)) from exc

    def overdue(self, now: float) -> Refused | None:
        """Which limit of time has passed, if any."""
        if now - self.touched > self.budgets.idle_s:
            return Refused("idle", f"nothing passed for {self.budgets.idle_s:g} s")
        if now - self.started > self.budgets.total_s:
            return Refused("too_long", f"it was open for {self.budgets.total_s:g} s")
        return None

    def finish(self, why: Refused) -> None:
        """End it from outside."""
        if self.ended_by is None:
            self.ended_by = why
            if self.task is not None:
                self.task.cancel()

    def view(self, now: float) -> dict[str, Any]:
        """For the operator."""
        return {
            "id": self.number,
            "kind": self.kind,
            "target": str(self.target),
            "address": None if self.address is None else str(self.address),
            "bytes_up": self.bytes_up,
            "bytes_down": self.bytes_down,
            "seconds": round(now - self.started, 1),
            "idle_s": round(now - self.touched, 1),
        }


class CutError(Exception):
    """Something that passes over a connection may not."""

    def __init__(self, why: Refused) -> None:
        super().__init__(why.reason)
        self.why = why

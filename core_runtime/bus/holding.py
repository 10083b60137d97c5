"""Calls that wait while a Pack's place is empty for a moment: its older generation was stopped on purpose, and another
one is on its way.

Invariants:
  * A held call has been judged (its edge, its limits) and is subject to its deadline and to CANCEL like any other; it
    goes out once, to whoever answers its key when the hold ends, or fails as if it had come then: its edge and the
    range of versions that its caller takes are looked at again.
  * What is held is bounded, in number and in bytes, and one caller's is no more than is left to the others then.
  * Nothing is held that the Pack itself waits for: calls of its own, and calls made on behalf of one that it makes or
    serves, go on as if there were no hold.

Not here: for how long a Pack is held (``handlers``), how a call is sent (``router``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from msgspec import Raw, Struct

from core_runtime.bus.calls import Call, CallContext, Failure, HostContext
from core_runtime.bus.refusals import refused
from core_runtime.rules.frames import HELD, CallFrame
from core_runtime.rules.routing import allowed_ms

if TYPE_CHECKING:
    from core_runtime.bus.router import Router

MAX_HELD = 1_024
MAX_HELD_BYTES = 16 * 1024 * 1024


class _Waiting(Struct, frozen=True):
    call: Call
    frame: CallFrame


class Hold:
    """One Pack that is held."""

    def __init__(self, pack_id: str, keys: frozenset[str], loop: asyncio.AbstractEventLoop) -> None:
        self.pack_id = pack_id
        self.keys = keys
        self.over: asyncio.Future[None] = loop.create_future()
        self.waiting: list[_Waiting] = []
        self.held_bytes = 0
        self.by: dict[str, list[int]] = {}
        """Caller → calls, bytes."""


class Holds:
    """Those of one bus; belongs to the event loop's thread."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.active: list[Hold] = []

    def begin(self, pack_id: str, loop: asyncio.AbstractEventLoop) -> Hold:
        """From now on calls of what the Pack answers for now wait."""
        registry = self._router.registry
        found = ((key, registry.resolve(key)) for key in registry.keys())  # noqa: SIM118 - no mapping
        hold = Hold(pack_id, frozenset(key for key, e in found if e is not None and e.pack == pack_id), loop)
        self.active.append(hold)
        return hold

    def end(self, hold: Hold) -> None:
        """What waited goes out, in the order in which it came."""
        self.active.remove(hold)
        hold.over.set_result(None)
        for held in hold.waiting:
            self._router.resume(held.call, held.frame)
            _references(held, -1)

    def keep(self, hold: Hold, call: Call, frame: CallFrame) -> None:
        """Let a Pack's call wait. Raises ``Refused`` where too many do."""
        size_bytes = len(memoryview(frame.body))
        own = hold.by.setdefault(call.caller_name, [0, 0])
        calls, taken = own[0] + 1, own[1] + size_bytes
        left, left_bytes = MAX_HELD - len(hold.waiting) - 1, MAX_HELD_BYTES - hold.held_bytes - size_bytes
        if calls > left or taken > left_bytes:
            raise refused("limit", f"{hold.pack_id} changes hands, and too many calls wait for it", retryable=True)
        body = Raw(bytes(memoryview(frame.body)))  # it aliases the read buffer, or is its sender's
        held = _Waiting(
            call, CallFrame(frame.id, frame.key, 0, frame.parent, frame.flags, frame.idempotency, frame.refs, body)
        )
        own[:] = calls, taken
        hold.held_bytes += size_bytes
        hold.waiting.append(held)
        _references(held, +1)
        self._router.calls.local.add(call)

    async def pause(self, key: str, context: CallContext | HostContext | None, timeout_s: float | None) -> float | None:
        """Wait with a call of the host's while its key is held; what is left of ``timeout_s``."""
        hold = self.over(key, *_made_by(context))
        return timeout_s if hold is None else await self.wait(hold, key, context, timeout_s)

    async def wait(
        self, hold: Hold, key: str, context: CallContext | HostContext | None, timeout_s: float | None
    ) -> float:
        """Wait for the end of ``hold``; what is left of ``timeout_s``, or of the default. Raises ``PackTimeout``."""
        caller, parent = _made_by(context)
        limits = self._router.limits
        asked_ms = 0 if timeout_s is None else max(1, int(timeout_s * 1000))
        now = hold.over.get_loop().time()
        left_ms = parent.left_ms(now) if parent is not None and not parent.streaming else None
        budget_s = allowed_ms(asked_ms, limits.deadline_ms, limits.max_deadline_ms, left_ms) / 1000
        done, _ = await asyncio.wait([hold.over], timeout=budget_s)
        if not done:
            failure = Failure("timeout", f"no answer within {budget_s:g} s", f"{key} changed hands", retryable=True)
            self._router.calls.count(caller, key, int(budget_s * 1e6), failure.type)
            raise failure.exception(hold.pack_id, key)
        return max(0.001, budget_s - (hold.over.get_loop().time() - now))

    def over(self, key: str, caller: str, parent: Call | None) -> Hold | None:
        """The hold that a call falls under."""
        for hold in self.active:
            if key in hold.keys and caller != hold.pack_id and not _involves(parent, hold.pack_id):
                return hold
        return None


def _made_by(context: CallContext | HostContext | None) -> tuple[str, Call | None]:
    """Caller and parent of a call of the host's."""
    if isinstance(context, HostContext):
        return "", context.call
    return (context.caller, context.parent) if context is not None else ("", None)


def _involves(call: Call | None, pack_id: str) -> bool:
    """Whether the Pack makes or serves this call, or one that it descends from."""
    while call is not None:
        if call.caller_name == pack_id or (call.callee is not None and call.callee.pack_id == pack_id):
            return True
        call = call.parent
    return False


def _references(held: _Waiting, more: int) -> None:
    """Callables that the caller offers in a held call must not be given back before it goes out."""
    caller = held.call.caller
    assert caller is not None
    for space, number in held.frame.refs:
        if space != HELD:
            (caller.references.keep if more > 0 else caller.references.drop)(number)

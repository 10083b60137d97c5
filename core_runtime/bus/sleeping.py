"""Packs that are stopped because nobody uses them, and started by the first call.

Invariants:
  * What a sleeping Pack answered for stays registered, as a ``Sleeper`` in the place of each callable: others see
    the key as before. Whoever calls one waits, like for a Pack that changes hands (``holding``), within the deadline.
  * Only a Pack that nothing can miss falls asleep: nothing in flight, no connection open, no subscription, and nothing
    registered but callables that stay until they are taken back.

Not here: how long nobody used it, stopping and starting (``handlers.idle``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from core_runtime.bus.holding import Hold
from core_runtime.bus.references import RemoteCallable
from core_runtime.bus.takeover import pairs_of

if TYPE_CHECKING:
    from core_runtime.bus.calls import CallContext, HostContext
    from core_runtime.bus.hub import Bus
    from core_runtime.bus.sessions import Session
    from core_runtime.interface_registry import Entry


class Sleeper:
    """Stands for a callable of a Pack that sleeps."""

    __slots__ = ("_sleep", "key", "pack_id")

    def __init__(self, sleep: Sleep, pack_id: str, key: str) -> None:
        self._sleep = sleep
        self.pack_id = pack_id
        self.key = key

    def wake(self) -> Hold:
        """Have the Pack started; calls of it are held from now on."""
        return self._sleep.wake(self.pack_id)

    def __call__(
        self, args: Any = None, ctx: CallContext | HostContext | None = None, **options: Any
    ) -> Awaitable[Any]:
        """Call what it stands for."""
        return self._sleep.call(self.key, args, ctx, **options)


class Sleep:
    """The sleeping Packs of one bus; belongs to the event loop's thread."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._asleep: dict[str, list[Entry]] = {}
        self._waking: dict[str, Hold] = {}
        self.on_wake: Callable[[str], None] | None = None
        """Told once for each Pack that is to be started."""

    def __contains__(self, pack_id: str) -> bool:
        return pack_id in self._asleep

    def fall(self, pack_id: str) -> bool:
        """Put Sleepers in the place of what the Pack registered; the caller stops it. False when it may not sleep."""
        session = self._bus.sessions.get(pack_id)
        if self.on_wake is None or session is None or not _may_sleep(session):
            return False
        registry = self._bus.registry
        before = list(session.registrations.values())
        drafts = [
            registry.draft(
                entry.key,
                Sleeper(self, pack_id, entry.key),
                meta=entry.meta,
                pack=pack_id,
                generation=entry.generation,
                input_schema=entry.input_schema,
                output_schema=entry.output_schema,
                source=entry.source,
                override=entry.override,
                version=entry.version,
                checkers=entry.checkers,
            )
            for entry in before
        ]
        self._succeed(before, drafts)
        registry.exchange({entry.number for entry in before}, drafts)
        session.retire()
        self._asleep[pack_id] = drafts
        return True

    def wake(self, pack_id: str) -> Hold:
        """Begin to hold its calls and have it started, once."""
        hold = self._waking.get(pack_id)
        if hold is None:
            hold = self._waking[pack_id] = self._bus.router.holds.begin(pack_id, self._bus.loop)
            assert self.on_wake is not None
            self.on_wake(pack_id)
        return hold

    def end(self, pack_id: str) -> None:
        """It runs, or is not to be started by calls any more; what waited goes out. Nothing happens for another."""
        drafts = self._asleep.pop(pack_id, [])
        session = self._bus.sessions.get(pack_id)
        if session is not None:
            self._succeed(drafts, list(session.registrations.values()))
        self._bus.registry.exchange({entry.number for entry in drafts}, ())
        hold = self._waking.pop(pack_id, None)
        if hold is not None:
            self._bus.router.holds.end(hold)

    def call(self, key: str, args: Any, context: CallContext | HostContext | None, **options: Any) -> Awaitable[Any]:
        """For who holds a Sleeper itself."""
        return self._bus.call(key, args, context=context, **options)

    def _succeed(self, before: list[Entry], after: list[Entry]) -> None:
        pairs = pairs_of(before, after)
        for other in self._bus.router.sessions:
            for key, matching in pairs.items():
                other.mirror.succeed(key, matching)


def _may_sleep(session: Session) -> bool:
    entries = session.registrations.values()
    return (
        bool(entries)
        and not session.incoming
        and not session.outgoing
        and not session.connected
        and not session.events.listens
        and all(isinstance(entry.value, RemoteCallable) and entry.expires is None for entry in entries)
    )

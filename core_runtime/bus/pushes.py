"""When Packs are told of what changed in the registry.

Invariants:
  * Every session sees (MIRROR) exactly the keys it may reach, as they are at the end of the turn in which they changed;
    where that takes longer than ``PUSH_S``, others have a turn in between, and a key whose mirrors cost much is told of
    less often (``REST`` times what they cost).
  * An entry with a ttl goes when it is over, whether or not somebody looks.

Not here: what one Pack is told (``mirrors``).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from core_runtime.diagnostics import Diagnostics, fail_soft
from core_runtime.interface_registry import InterfaceRegistry

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

PUSH_S = 0.001
REST = 10


class Pushes:
    """One for a bus. Everything but the change itself belongs to the loop's thread."""

    def __init__(self, registry: InterfaceRegistry, diagnostics: Diagnostics, sessions: Collection[Session]) -> None:
        self._registry = registry
        self._diagnostics = diagnostics
        self._sessions = sessions
        self._dirty: dict[str, None] = {}
        self._resting: dict[str, asyncio.TimerHandle] = {}
        self._late: set[str] = set()
        self._pushing = False
        self._expiry: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to listen for changes, on the running loop."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._registry.listen(self._changed)

    @property
    def told(self) -> bool:
        """Whether everybody knows of every change."""
        return not (self._dirty or self._resting or self._late)

    def close(self) -> None:
        """No timer is left."""
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        for timer in self._resting.values():
            timer.cancel()
        self._resting.clear()

    def _changed(self, key: str) -> None:
        """A key changed, on whatever thread."""
        loop = self._loop
        if loop is None or loop.is_closed():
            return
        if threading.get_ident() == self._thread:
            self._mark(key)
        else:
            loop.call_soon_threadsafe(self._mark, key)

    def _mark(self, key: str) -> None:
        assert self._loop is not None
        self._dirty[key] = None
        if not self._pushing:
            self._pushing = True
            self._loop.call_soon(self._push)

    def _push(self) -> None:
        """Tell of what changed, in order, for ``PUSH_S`` (one key, at least); the rest in the next turn."""
        assert self._loop is not None
        self._pushing = False
        began = now = time.monotonic()
        for key in tuple(self._dirty):
            if now - began >= PUSH_S:
                self._pushing = True
                self._loop.call_soon(self._push)
                break
            del self._dirty[key]
            if key in self._resting:
                # told when its rest is over
                self._late.add(key)
                continue
            for session in tuple(self._sessions):
                with fail_soft(self._diagnostics, session.pack_id, "mirror", step_id=key):
                    session.mirror.push(key)
            before, now = now, time.monotonic()
            if now - before >= PUSH_S:
                self._resting[key] = self._loop.call_later((now - before) * REST, self._rested, key)
        if self._expiry is None:
            self._expire()

    def _rested(self, key: str) -> None:
        del self._resting[key]
        if key in self._late:
            self._late.discard(key)
            self._mark(key)

    def _expire(self) -> None:
        """Entries with a ttl go when it is over, whether or not somebody looks."""
        self._expiry = None
        left = self._registry.expire_due()
        if left is not None and self._loop is not None:
            self._expiry = self._loop.call_later(max(left, 0.001), self._expire)

"""Packs that nobody uses are stopped and started by the first call, if the operator allows it (``--idle-stop``).

Invariants:
  * Nothing is stopped that was used within the time, that works by itself, or that somebody could miss
    (``bus.sleeping``).
  * A Pack asleep is approved and not running. A decision about it, or the operator's start or stop, ends the sleep.

Not here: what callers see meanwhile (``bus.sleeping``), how a Pack starts (``starting``).
"""

from __future__ import annotations

import asyncio
import time

from core_runtime.handlers import starting
from core_runtime.handlers.host import Host

LOOKS = 4
"""So often within the time it is looked whether a Pack was used."""


def watch(host: Host) -> None:
    """From now on, if the operator allows it."""
    if host.settings.idle_stop_s <= 0:
        return
    host.bus.sleep.on_wake = lambda pack_id: _begin_to_wake(host, pack_id)
    host.in_background(_watch(host, host.settings.idle_stop_s), "stopping Packs that nobody uses")


async def _watch(host: Host, idle_s: float) -> None:
    used: dict[str, tuple[tuple[int, int], float]] = {}
    while not host.closing:
        await asyncio.sleep(idle_s / LOOKS)
        now = time.monotonic()
        for pack_id, session in list(host.bus.sessions.items()):
            known, since = used.get(pack_id, (None, now))
            activity = (session.generation, session.activity)
            if known != activity:
                used[pack_id] = (activity, now)
            elif now - since >= idle_s:
                await _put_to_sleep(host, pack_id, activity)


async def _put_to_sleep(host: Host, pack_id: str, activity: tuple[int, int]) -> None:
    async with host.exclusively(pack_id):
        session = host.bus.sessions.get(pack_id)
        if session is None or (session.generation, session.activity) != activity or not host.bus.sleep.fall(pack_id):
            return
        await starting.stop_asleep(host, pack_id)


def _begin_to_wake(host: Host, pack_id: str) -> None:
    task = host.in_background(_wake(host, pack_id), f"start of {pack_id}, which was called")
    task.add_done_callback(lambda _task: host.bus.sleep.end(pack_id))


async def _wake(host: Host, pack_id: str) -> None:
    async with host.exclusively(pack_id):
        if not starting.is_running(host, pack_id):
            await starting.attempt(host, pack_id, host.policy.start_timeout_s)

"""Step "diagnosis": from here on issues are told and kept, and the checks run by themselves.

Invariant: looking costs at most a hundredth of the time, however long the checks take on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

from core_runtime.diagnosis.doctor import Doctor
from core_runtime.diagnosis.record import IssueRecord
from core_runtime.handlers.host import Host
from core_runtime.handlers.starting import DECIDED
from core_runtime.handlers.table import handler
from core_runtime.rules.flow.values import parse_duration_s

SHARE = 100
"""A look that took t seconds is followed by at least this many times t of rest."""
SETTLE_S = 1.0
"""What a decision starts or leaves waiting has shown itself by then."""


@handler("diagnosis.watch")
async def watch_step(host: Host, args: Mapping[str, Any]) -> None:
    """Begin to keep what is reported, look once, and go on looking."""
    every_s = parse_duration_s(args.get("every", "5m"))
    host.issues = IssueRecord(host)
    host.doctor = Doctor(host)
    host.in_background(host.issues.run(), "telling of issues")
    host.in_background(_watch(host, every_s), "looking for what is wrong")


async def _watch(host: Host, every_s: float) -> None:
    """Every so often, and soon after each decision about a Pack: whoever decided looks then."""
    decided = asyncio.Event()
    host.events.subscribe_events(DECIDED, lambda _event: decided.set(), "looking for what is wrong")
    while not host.closing:
        decided.clear()
        begun = time.monotonic()
        await host.doctor.examine()
        rest_s = SHARE * (time.monotonic() - begun)
        await asyncio.sleep(rest_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, every_s - rest_s)):
                await decided.wait()
                await asyncio.sleep(SETTLE_S)

"""The limits of one Pack as the operator sees them: what each is, what is used of it, how often it was met. Pure.

Not here: enforcing them (kernel, bus, user data), counting (drivers), telling of one that was met.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from core_runtime.rules.frames import BusLimits
from core_runtime.rules.sandbox import Limits


class Row(Struct, frozen=True):
    """One limit. ``used`` is ``None`` where this machine can't tell, or where nothing is kept (a rate, a size)."""

    name: str
    limit: float
    unit: str
    beyond: str
    used: float | None = None
    hits: int = 0
    last_hit_at: float | None = None
    raised_by: str = ""
    """Parameter of a ``resources`` permission that raises it; empty = the same for every Pack."""


def rows(
    limits: Limits,
    bus: BusLimits,
    *,
    quota_bytes: int,
    used: Mapping[str, float],
    hits: Mapping[str, tuple[int, float]],
) -> list[Row]:
    """Every limit, on by default.

    Args:
        limits: of the sandbox, as granted.
        bus: of the connection.
        quota_bytes: of the Pack's user data.
        used: by name of the row, what is known.
        hits: by name of the row, how often it was met and when last.
    """
    table = (
        ("memory", limits.memory_bytes, "bytes", "the kernel ends it", "memory_mb"),
        ("cpu", limits.cpus, "processors", "it is slowed down", "cpu"),
        ("processes", limits.pids, "", "no further process or thread starts", "pids"),
        ("files", limits.files, "", "no further file or connection opens", ""),
        ("tmp", limits.tmp_bytes, "bytes", "writing to /tmp fails", "tmp_mb"),
        ("disk", quota_bytes, "bytes", "writing user data is refused", "disk_mb"),
        ("log", bus.log_bytes_per_s, "bytes/s", "further output is dropped", ""),
        ("log_kept", limits.log_bytes_kept, "bytes", "its oldest lines are let go of", ""),
        ("message", bus.value_bytes, "bytes", "the call fails", ""),
        ("rate", bus.calls_per_s, "calls/s", "its further calls are refused", ""),
        ("values", bus.values, "", "further ones are refused", ""),
        ("calls", bus.in_flight, "", "its further calls are refused", ""),
        ("busy", bus.in_flight, "", "further calls to it are refused", ""),
        ("depth", bus.depth, "", "the call is refused", ""),
        ("time", bus.deadline_ms / 1000, "s", "the caller is answered without it", ""),
        ("requests", bus.requests, "", "further requests to the host are refused", ""),
        ("registrations", bus.registrations, "", "further registrations are refused", ""),
    )
    return [
        Row(
            name=name,
            limit=limit,
            unit=unit,
            beyond=beyond,
            used=used.get(name),
            hits=hits.get(name, (0, 0.0))[0],
            last_hit_at=hits[name][1] if name in hits else None,
            raised_by=raised_by,
        )
        for name, limit, unit, beyond, raised_by in table
    ]

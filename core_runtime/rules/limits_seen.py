"""Which limit a Pack met, from what was counted: the words in which the operator reads it, and when counting says so.

Not here: counting (drivers), enforcing (kernel, bus), how often it is told (``handlers.isolation``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

CPU_SHARE: Final = 0.5
"""A Pack that was held back in half of the periods that it used is told of."""
_RAISE: Final = "or let it ask for more ({field} of a resources permission), then approve again."


@dataclass(frozen=True, slots=True)
class Told:
    """``what``: the limit in a word for a sentence; ``hint``: what to do about it."""

    what: str
    hint: str


LIMITS: Final[Mapping[str, Told]] = MappingProxyType({
    "memory": Told("memory", "See what it keeps (rumi logs {pack_id}), " + _RAISE.format(field="memory_mb")),
    "processes": Told("processes and threads", "Look at what it starts, " + _RAISE.format(field="pids")),
    "cpu": Told("processor time", "It is slowed down, nobody else is. Look at what it computes, "
                + _RAISE.format(field="cpu")),
    "tmp": Told("temporary files (/tmp)", "Look at what it leaves there, " + _RAISE.format(field="tmp_mb")),
    "log": Told("log output", "The rest is dropped. Have it log less; rumi logs {pack_id} shows what came through."),
    "calls": Told("calls in flight", "It calls faster than it is answered: have it wait for answers."),
    "busy": Told("calls that wait for it", "Its handlers are slower than its callers, or hang: rumi logs {pack_id}."),
    "requests": Told("requests to the host", "Have it wait for the host's answers before it asks again."),
    "registrations": Told("registrations", "Have it unregister what it replaces, or register a callable."),
})  # fmt: skip
"""By name, which is also the end of the issue's code (``limit_memory``)."""


def exceeded(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, str]:
    """Limits met between two looks at one sandbox's counters (``Sandbox.usage``), each with what was counted."""
    found: dict[str, str] = {}
    killed = _more(before, now, "oom_kills")
    if killed > 0:
        found["memory"] = f"the kernel ended {killed:g} of its processes for their memory"
    refused = _more(before, now, "pids_refused")
    if refused > 0:
        found["processes"] = f"{refused:g} attempts to start a process or thread were refused"
    elif _more(before, now, "pids_full") > 0:
        found["processes"] = f"{now.get('pids', 0.0):g} processes and threads run, and no further one starts"
    periods, throttled = _more(before, now, "cpu_periods"), _more(before, now, "cpu_throttled")
    if throttled > 0 and throttled >= CPU_SHARE * periods:
        found["cpu"] = f"it was held back in {throttled:g} of {periods:g} periods"
    if _more(before, now, "tmp_full") > 0:
        found["tmp"] = f"{round(now.get('tmp_bytes', 0.0))} bytes lie in its /tmp, and nothing more fits"
    return found


def _more(before: Mapping[str, float], now: Mapping[str, float], name: str) -> float:
    return now.get(name, 0.0) - before.get(name, 0.0)

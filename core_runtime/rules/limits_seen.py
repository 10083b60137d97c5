"""Which limit a Pack met, from what was counted: the words in which the operator reads it, and when counting says so.

Not here: counting (drivers), enforcing (kernel, bus), how often it is told (``handlers.isolation``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

_MOST_SAID: Final = 1 << 53
CPU_SHARE: Final = 0.5
"""A Pack that was held back in half of the periods that it used is told of,"""
CPU_LEAST: Final = 10
"""if those were at least so many, a second: a start that is stopped again has used few, and most of them up."""
_RAISE: Final = "or let it ask for more ({field} of a resources permission), then approve again."


class Told(Struct, frozen=True):
    """``what``: the limit in a word for a sentence; ``hint``: what to do about it."""

    what: str
    hint: str


LIMITS: Final[Mapping[str, Told]] = MappingProxyType({
    "memory": Told("memory", "See what it keeps (rumi logs {pack_id}), " + _RAISE.format(field="memory_mb")),
    "processes": Told("processes and threads", "Look at what it starts, " + _RAISE.format(field="pids")),
    "cpu": Told("processor time", "It is slowed down, nobody else is. Look at what it computes, "
                + _RAISE.format(field="cpu")),
    "files": Told("open files and connections", "Have it close what it no longer uses: rumi logs {pack_id}."),
    "disk": Told("user data", "Have it delete what it no longer needs, " + _RAISE.format(field="disk_mb")),
    "tmp": Told("temporary files (/tmp)", "Look at what it leaves there, " + _RAISE.format(field="tmp_mb")),
    "log": Told("log output", "The rest is dropped. Have it log less; rumi logs {pack_id} shows what came through."),
    "message": Told("the size of a message", "Have it send parts, or a stream: rumi logs {pack_id}."),
    "depth": Told("the depth of calls", "Its calls lead to ever more calls, or back to it: rumi logs {pack_id}."),
    "time": Told("the time of a call", "Have it answer sooner or as a stream, or let callers wait longer (timeout_s)."),
    "rate": Told("calls in a second", "Have it call less often, or send more with each call."),
    "calls": Told("calls in flight", "It calls faster than it is answered: have it wait for answers."),
    "busy": Told("calls that wait for it", "Its handlers are slower than its callers, or hang: rumi logs {pack_id}."),
    "requests": Told("requests to the host", "Have it wait for the host's answers before it asks again."),
    "values": Told("values beyond a frame", "Have it send fewer of them at a time, or a stream."),
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
    if throttled >= max(CPU_LEAST, CPU_SHARE * periods):
        found["cpu"] = f"it was held back in {throttled:g} of {periods:g} periods"
    if _more(before, now, "files_refused") > 0:
        found["files"] = f"{_more(before, now, 'files_refused'):g} times no further file or connection could be opened"
    elif _more(before, now, "files_full") > 0:
        found["files"] = f"a process of it holds {now.get('files', 0.0):g}, all or all but one of them"
    too_long = _more(before, now, "message_refused")
    if too_long > 0:
        found["message"] = f"{too_long:g} messages were too long to be sent"
    if _more(before, now, "tmp_full") > 0:
        found["tmp"] = f"{round(now.get('tmp_bytes', 0.0))} bytes lie in its /tmp, and nothing more fits"
    return found


def said(pong: Mapping[str, Any]) -> dict[str, float]:
    """What an agent counted itself, as counters. A Pack can forge it, and then it is told of what it did not meet."""
    refused = pong.get("refused")
    if not isinstance(refused, Mapping):
        return {}
    numbers = ((name, refused.get(name)) for name in ("files", "message"))
    return {f"{name}_refused": float(n) for name, n in numbers if type(n) is int and 0 <= n <= _MOST_SAID}


def _more(before: Mapping[str, float], now: Mapping[str, float], name: str) -> float:
    return now.get(name, 0.0) - before.get(name, 0.0)

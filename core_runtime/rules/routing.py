"""Decisions about a call on its way: depth, deadline, re-entrance, ancestors, credit, edges. Pure.

Invariants:
  * What a callee is told about who stands above it comes from the host's own tree of calls, never from a frame.
  * A child never outlives its parent's deadline; a parent is believed only if the host sent that very call there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Final, Protocol

from msgspec import Struct

ERROR_TYPE: Final = re.compile(
    r"(?:error/[A-Za-z_][A-Za-z0-9_]{0,99}|[a-z][a-z0-9_.-]{0,99}(?:/[A-Za-z0-9_./-]{1,99})?)\Z"
)
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
UNTYPED_ERROR: Final = "error/Exception"
AGENT_WORDS: Final = frozenset({"dead_reference", "limit", "shutting_down"})
"""What an agent itself says of a call, beside ``value.*``. Every other word without a slash is the host's alone."""
PHASE_WORDS: Final = AGENT_WORDS | {"cancelled", "conflict", "missing_file"}
"""What it says of a phase."""
_OWN: Final = "error/"
_OWN_CHARS: Final = 99


class PackRights(Protocol):
    """What the bus asks of a Pack's rights. Asked anew at every use, so that a revocation acts on the next one."""

    def may_call(self, key: str) -> bool:
        """Whether the edge Pack → ``key`` is granted; asked once for each real call, which spends a one-use grant."""

    def may_see(self, key: str) -> bool:
        """Whether ``may_call`` would allow it now. Asking is no use: it spends, counts and records nothing."""

    def may_register(self, key: str) -> bool:
        """Whether the Pack declared ``key`` in ``provides`` and was granted what the key means."""

    def may_publish(self, topic: str) -> bool:
        """Whether the Pack may publish ``topic``."""

    def may_subscribe(self, topic: str) -> bool:
        """Whether the Pack may receive ``topic``; also asked with the glob itself when it subscribes."""

    def since_s(self) -> float:
        """When the decision was made that these rights stand on, in seconds since 1970; what was published before
        was not published to this Pack, and is not replayed to it.
        """


RightsOf = Callable[[], PackRights]


class _NoRights:
    """What a Pack may do whose rights can't be established."""

    def may_call(self, _key: str) -> bool:
        return False

    def may_see(self, _key: str) -> bool:
        return False

    def may_register(self, _key: str) -> bool:
        return False

    def may_publish(self, _topic: str) -> bool:
        return False

    def may_subscribe(self, _topic: str) -> bool:
        return False

    def since_s(self) -> float:
        return float("inf")


NO_RIGHTS = _NoRights()


class Ancestor(Protocol):
    """A call as the tree sees it."""

    @property
    def parent(self) -> Ancestor | None:
        """The call being served by whoever made this one."""

    @property
    def caller(self) -> object | None:
        """Session that made this call; None for the host."""

    @property
    def caller_id(self) -> int:
        """The caller's own id of this call."""


def reenter_id(call: Ancestor | None, callee: object) -> int:
    """The nearest of ``callee``'s own calls from which ``call`` descends (itself included), or 0."""
    while call is not None:
        if call.caller is callee and call.caller_id > 0:
            return call.caller_id
        call = call.parent
    return 0


def allowed_ms(asked_ms: int, default_ms: int, max_ms: int, parent_left_ms: int | None) -> int:
    """Milliseconds that a call gets: what was asked (0: the default), never more than what is left to its parent."""
    ms = min(asked_ms or default_ms, max_ms)
    return ms if parent_left_ms is None else max(1, min(ms, parent_left_ms))


def granted_credit(outstanding: int, asked: int, ahead: int) -> int:
    """How much of ``asked`` is passed on, so that a producer never has more than ``ahead`` items outstanding."""
    return max(0, min(asked, ahead - outstanding))


def error_type(text: str, words: frozenset[str] = AGENT_WORDS) -> str:
    """What a sandbox calls its failure, fit to be matched by programs and shown in tables.

    The general type if it is none; ``error/WORD`` for a word by which the host tells its own decisions (``denied``,
    ``missing``, ``timeout``, ``cancelled``, …), so that no Pack's failure passes for one of them.
    """
    if not ERROR_TYPE.match(text):
        return UNTYPED_ERROR
    return text if "/" in text or text in words or text.startswith("value.") else _OWN + text[:_OWN_CHARS]


def is_glob(pattern: str) -> bool:
    """Whether ``pattern`` stands for more than itself."""
    return any(c in pattern for c in "*?[")


@lru_cache(maxsize=4_096)
def pattern_of(glob: str) -> re.Pattern[str]:
    """A glob compiled: case-sensitive; ``*`` crosses dots. Runs of ``*`` are one, so that matching stays polynomial."""
    return re.compile(translate(re.sub(r"\*+", "*", glob)))


def matches(pattern: str, text: str) -> bool:
    """Whether an exact text or a glob (``pattern_of``) stands for ``text``."""
    if not is_glob(pattern):
        return pattern == text
    return pattern_of(pattern).match(text) is not None


def matching(patterns: Iterable[str], text: str) -> bool:
    """Whether any pattern matches."""
    return any(matches(pattern, text) for pattern in patterns)


class SpanContext(Struct, frozen=True):
    """Where in which trace something happens. ``sampled``: whether the trace is recorded."""

    trace_id: str
    span: int
    sampled: bool = True


def traceparent(trace_id: str, span: int, *, sampled: bool = True) -> str:
    """W3C trace context, version 00."""
    return f"00-{trace_id}-{span:016x}-{'01' if sampled else '00'}"


def span_of(header: str) -> SpanContext | None:
    """What a ``traceparent`` says, of this version or a later one that begins alike; None for anything else."""
    match = _TRACEPARENT.fullmatch(header)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    if match[2] == "0" * 32 or match[3] == "0" * 16:
        return None
    return SpanContext(match[2], int(match[3], 16), bool(int(match[4], 16) & 1))

"""Names of cases that are the same in every process: workers of one run must agree on them."""

from __future__ import annotations

import re

_VARYING = re.compile(r" at 0x[0-9a-f]+|(?<=frozenset\()\{[^}]*\}|(?<=set\()\{[^}]*\}")


def case(value: object) -> str:
    """A short name of a value, without addresses and without the order of sets."""
    if isinstance(value, set | frozenset):
        value = sorted(map(repr, value))
    return _VARYING.sub("", str(value) if isinstance(value, dict) else repr(value))[:50]

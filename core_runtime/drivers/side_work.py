"""Work that the host does beside what it was asked for, and whose failure costs only itself: a line of evidence about
what has happened already, a history, a view, what is thrown away.

Invariant: such a failure is told, with its cause and a next step, and told again when the work succeeds; it is never
dropped. Who hears of it (``diagnostics.Diagnostics.mishap``) makes an issue of it that stands until then.

Never around a decision of trust: what can't be decided is refused.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

from msgspec import Struct

from backend_core.errors import RumiError


class Mishap(Struct, frozen=True):
    """What an issue about failed side work says: ``(code, subject)`` names it, ``hint`` is the next step."""

    code: str
    subject: str
    title: str
    hint: str
    severity: str = "warn"


Report: TypeAlias = Callable[[Mishap, Exception | None], None]
"""Told of each failure, and with ``None`` of each success."""
KINDS: Final = (OSError, sqlite3.Error, RumiError)
"""What a machine does to such work; anything else is a fault of ours and goes on."""


def unheard(_mishap: Mishap, _error: Exception | None) -> None:
    """For parts that stand alone, without a host whose operator could be told."""


@contextmanager
def costs_only_itself(report: Report, mishap: Mishap) -> Iterator[None]:
    """The block is side work: what fails in it by ``KINDS`` is told and goes no further."""
    try:
        yield
    except KINDS as error:
        report(mishap, error)
    else:
        report(mishap, None)

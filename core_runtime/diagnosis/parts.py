"""What a check and a fixup are, and how they are found: every file of ``checks/`` and ``fixups/`` is one.

A check's file holds ``TITLE`` and ``TITLE_JA`` (a few words) and ``look(host)``, plain or ``async``, which yields a
``Found`` for each thing that is wrong. Its code is the file's name, and ``(code, subject)`` names what was found, so a
check yields a subject once. It reads; it changes nothing. A plain ``look`` runs in a thread.

A fixup's file holds both titles, ``AUTOMATIC`` and ``async perform(host, args, actor)``, which returns a sentence that
says what was done, or raises why nothing was. ``AUTOMATIC`` means: it decides nothing for the operator, loses nothing
(what it replaces is kept) and may be performed without naming it. Its ``args`` come from the suggestion that the host
made itself, never from who asks for it.

Not here: when checks run and what becomes of what they find (``diagnosis.doctor``).
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from msgspec import Struct, field

from core_runtime.diagnostics import Severity, Suggestion

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host


class Found(Struct, frozen=True):
    """One thing that is wrong. ``mend`` names the fixup that would put it right, "" when only a person can."""

    subject: str
    title: str
    detail: str = ""
    hint: str = ""
    severity: Severity = Severity.WARN
    evidence: Mapping[str, Any] = field(default_factory=dict)
    mend: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


Look: TypeAlias = "Callable[[Host], Iterable[Found] | AsyncIterable[Found]]"
Perform: TypeAlias = "Callable[[Host, Mapping[str, Any], str], Awaitable[str]]"


class Check(Struct, frozen=True):
    """``look`` of one file. ``on_loop``: it is ``async`` and runs on the event loop, so it must not block."""

    code: str
    title: str
    title_ja: str
    look: Look
    on_loop: bool


class Fixup(Struct, frozen=True):
    """``perform`` of one file."""

    name: str
    title: str
    title_ja: str
    automatic: bool
    perform: Perform


def load_checks() -> Mapping[str, Check]:
    """Every check by its code, in alphabetical order."""
    return MappingProxyType(
        {
            name: Check(name, module.TITLE, module.TITLE_JA, module.look, inspect.isasyncgenfunction(module.look))
            for name, module in _modules("checks")
        }
    )


def load_fixups() -> Mapping[str, Fixup]:
    """Every fixup by its name."""
    return MappingProxyType(
        {
            name: Fixup(name, module.TITLE, module.TITLE_JA, module.AUTOMATIC, module.perform)
            for name, module in _modules("fixups")
        }
    )


def suggestions_of(found: Found, fixups: Mapping[str, Fixup]) -> tuple[Suggestion, ...]:
    """What a face offers for it: the fixup, the command, or both as one."""
    if not found.mend and not found.command:
        return ()
    title = fixups[found.mend].title if found.mend else found.hint
    return (Suggestion(title, found.command, found.mend, found.args),)


def _modules(folder: str) -> list[tuple[str, ModuleType]]:
    package = f"{__name__.rpartition('.')[0]}.{folder}"
    names = sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))
    return [(name, importlib.import_module(f"{package}.{name}")) for name in names]

"""``aliases.json``: other names that the operator gives to interfaces.

Invariant: the file is the operator's alone; nothing that a Pack says adds, changes or removes a name.

Not here: which names may be given and what they mean (``core_runtime.rules.aliases``), changing them
(``core_runtime.handlers.aliases``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from backend_core.ecosystem.operator_file import load_operator_file
from backend_core.ecosystem.spec.models import EMPTY
from backend_core.ecosystem.spec.validate import Kind
from backend_core.files import write_atomic

FILE: Final = "aliases.json"
LAST: Final = "aliases.last.json"
"""Beside it and of the same form, the host's: what was in force last, for a start that can't use the file."""
VERSION: Final = "1.0"


def load_aliases(file: Path) -> Mapping[str, Sequence[str]]:
    """Interface key → its other names, as ``file`` says; none where it does not exist.

    Raises ``HostError`` (``aliases_json_invalid``) when it can't be read or is not of this form.
    """
    document = load_operator_file(file, Kind.ALIASES)
    return EMPTY if document is None else MappingProxyType(dict(document.value["aliases"]))


def save_aliases(file: Path, aliases: Mapping[str, Sequence[str]]) -> None:
    """Write ``aliases`` atomically."""
    document = {"version": VERSION, "aliases": {key: list(names) for key, names in aliases.items()}}
    write_atomic(file, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8"))

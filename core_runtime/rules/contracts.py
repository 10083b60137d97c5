"""Versioned contracts of interface keys: what a Pack promised at approval, what others need of it. Pure.

Invariants:
  * A schema that the approved manifest declares is the schema of whatever is registered for its key: the same one or
    none comes with the registration, and the declared one is what calls are checked against.
  * A Pack that states a range reaches a key only while what answers it is in that range. Without a stated version
    nothing is in a range, except in ``*``.
  * What can't be compared is refused.

Not here: the form of manifests (``backend_core.ecosystem.connectivity``), the order of starts (``resolve``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from backend_core.canonical import canonical_json
from backend_core.ecosystem.frozen import thaw
from backend_core.ecosystem.spec.models import NO_CONTRACTS, Contract, PackMetadata
from backend_core.ecosystem.versions import in_range
from backend_core.errors import quote
from core_runtime.rules.schemas import Checkers, SchemaRefused

MAX_SCHEMAS: Final = 200
"""Schemas that one Pack may declare: each is compiled when it is reviewed."""
MAX_CHANGES: Final = 50
_SHOWN_CHARS: Final = 120
_NO_RANGES: Final[Mapping[str, str]] = MappingProxyType({})


class ContractBroken(ValueError):  # noqa: N818  a refusal, as the glossary calls it
    """What is registered is not what was approved; the text says how."""


class Terms(Struct, frozen=True):
    """What one approved version of a Pack promises and needs."""

    contracts: Mapping[str, Contract] = field(default_factory=lambda: NO_CONTRACTS)
    ranges: Mapping[str, str] = field(default_factory=lambda: _NO_RANGES)

    @classmethod
    def of(cls, metadata: PackMetadata) -> Terms:
        """Of the manifest of a verified copy."""
        return cls(metadata.contracts(), metadata.ranges())

    def version(self, key: str) -> str:
        """The version that is promised of ``key``; "" where none is."""
        contract = self.contracts.get(key)
        return contract.version if contract is not None else ""

    def admits(self, key: str, version: str) -> bool:
        """Whether a provider of ``version`` may be reached under ``key``."""
        return not self.ranges or key not in self.ranges or satisfies(version, self.ranges[key])

    def why_not(self, key: str, version: str, provider: str) -> str:
        """A sentence for what ``admits`` refuses."""
        return f"{quote(key)} is needed in version {self.ranges[key]}, {misfit(key, version, provider)}."

    def pinned(self, key: str, given: Mapping[str, Any], *, callable_: bool) -> tuple[Any, Any]:
        """``(input, output)`` schemas of a registration that came with ``given``. Raises ``ContractBroken``."""
        contract = self.contracts.get(key)
        if contract is None or (contract.input is None and contract.output is None):
            return given.get("input"), given.get("output")
        if not callable_:
            raise ContractBroken("its approved manifest declares a schema of calls, and data was registered")
        return _pinned("input", contract.input, given), _pinned("output", contract.output, given)


NO_TERMS: Final = Terms()


@lru_cache(maxsize=4_096)
def satisfies(version: str, wanted: str) -> bool:
    """Whether a provider that states ``version`` ("" for none) is in the range ``wanted``."""
    if not version:
        return wanted.strip() == "*"
    try:
        return in_range(version, wanted)
    except ValueError:
        return False


def misfit(key: str, version: str, provider: str = "") -> str:
    """Why a provider won't do, as the end of a sentence that named what is wanted."""
    who = f"the Pack {quote(provider)}" if provider else f"what provides {quote(key)}"
    return f"but {who} states version {version}" if version else f"but {who} states no version of it"


def schema_faults(metadata: PackMetadata) -> tuple[str, ...]:
    """Why the host would not use the schemas that a manifest declares; the first few."""
    contracts = metadata.contracts()
    declared = sum(schema is not None for one in contracts.values() for schema in (one.input, one.output))
    if declared > MAX_SCHEMAS:
        return (f"{declared} schemas are declared, at most {MAX_SCHEMAS} are admitted",)
    found = []
    for key, contract in sorted(contracts.items()):
        try:
            Checkers.of(thaw(contract.input), thaw(contract.output))
        except SchemaRefused as exc:
            found.append(f"provides {quote(key)}: {exc}")
    return tuple(found[:5])


class ContractChange(Struct, frozen=True):
    """One key whose contract is another than before. ``parts``: at most a few, ``{part, pointer, before, after}``."""

    key: str
    before: str
    after: str
    parts: tuple[Mapping[str, str], ...]
    more: bool = False


def contract_changes(before: Mapping[str, Contract], after: Mapping[str, Contract]) -> tuple[ContractChange, ...]:
    """What an update promises differently, key by key; values as short canonical JSON, "" where there is none."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key, Contract()), after.get(key, Contract())
        if _told(old) == _told(new):
            continue
        parts: list[Mapping[str, str]] = []
        for name, one, other in (("input", old.input, new.input), ("output", old.output, new.output)):
            for pointer, was, now in _differences(thaw(one), thaw(other), ""):
                if len(parts) > MAX_CHANGES:
                    break
                parts.append({"part": name, "pointer": pointer, "before": was, "after": now})
        more = len(parts) > MAX_CHANGES
        found.append(ContractChange(key, old.version, new.version, tuple(parts[:MAX_CHANGES]), more))
    return tuple(found)


def contract_documents(contracts: Mapping[str, Contract]) -> dict[str, dict[str, Any]]:
    """For the faces: key → ``{version, input, output}``."""
    return {
        key: {"version": one.version, "input": thaw(one.input), "output": thaw(one.output)}
        for key, one in sorted(contracts.items())
    }


def _pinned(name: str, declared: Mapping[str, Any] | None, given: Mapping[str, Any]) -> Any:
    came = given.get(name)
    if declared is None or came is None:
        return came if declared is None else thaw(declared)
    if not _same(declared, came):
        raise ContractBroken(f"its {name} schema is another than the approved manifest declares")
    return thaw(declared)


def _same(declared: Any, came: Any) -> bool:
    try:
        return canonical_json(thaw(declared)) == canonical_json(came)
    except (TypeError, ValueError, RecursionError):
        return False  # what came is no JSON


def _differences(before: Any, after: Any, pointer: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            below = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"
            if name not in after:
                yield below, _short(before[name]), ""
            elif name not in before:
                yield below, "", _short(after[name])
            else:
                yield from _differences(before[name], after[name], below)
    elif _text(before) != _text(after):
        yield pointer, "" if before is None else _short(before), "" if after is None else _short(after)


def _told(contract: Contract) -> tuple[str, str, str]:
    return contract.version, _text(thaw(contract.input)), _text(thaw(contract.output))


def _text(value: Any) -> str:
    """Tells ``true`` from 1, as ``==`` does not."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"

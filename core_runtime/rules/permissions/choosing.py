"""What the operator grants of what a Pack declared: choices, all of them or fewer than before. Pure.

Invariants:
  * Nothing is granted that was not declared. A choice narrows a declaration; it never widens it.
  * A type whose place of enforcement does not exist is refused with a sentence: a promise that nobody keeps is worse
    than none. So is one use of what lasts.

Not here: privileges (``host.*``), which the operator grants one by one through ``host_privilege_manager``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from backend_core.ecosystem.spec.models import PermissionRequest
from backend_core.errors import quote
from core_runtime.rules.egress import covering_domain, domain_fault
from core_runtime.rules.fetch import covers_path
from core_runtime.rules.fetch import path_fault as url_path_fault
from core_runtime.rules.globs import any_matches, glob_fault
from core_runtime.rules.grants import Mode, Permission, freeze
from core_runtime.rules.permission_kinds import KINDS, MAX_ITEMS, TOPIC_SEPARATOR, Kind, is_privilege
from core_runtime.rules.permissions.asking import withheld_reason
from core_runtime.rules.permissions.outcomes import bad_choice, refused
from core_runtime.rules.permissions.using import lasts


class Choice(Struct, frozen=True):
    """What the operator grants of one declared permission. ``params`` None: as declared."""

    type: str
    params: Mapping[str, Any] | None = None
    mode: Mode = Mode.ALWAYS
    until: float | None = None


class Withheld(Struct, frozen=True):
    """A declared permission that is not granted, and the sentence why."""

    type: str
    reason: str


class Decision(Struct, frozen=True):
    """The outcome of choosing: what is granted and what is not."""

    granted: tuple[Permission, ...]
    withheld: tuple[Withheld, ...]


def parse_choices(items: Sequence[Any], *, default_until: float | None = None) -> tuple[Choice, ...]:
    """The operator's list, from JSON: a type's name, or ``{type, <params>, mode, until}``."""
    if len(items) > MAX_ITEMS * 4:
        raise bad_choice("the list", "is too long")
    return tuple(_parse_choice(item, default_until) for item in items)


def _parse_choice(item: Any, default_until: float | None) -> Choice:
    if isinstance(item, Choice):
        return item
    document: Any = {"type": item} if isinstance(item, str) else item
    if not isinstance(document, Mapping) or not isinstance(document.get("type"), str):
        raise bad_choice(quote(item), "is neither a type's name nor an object with a type")
    params = {name: freeze(v) for name, v in document.items() if name not in {"type", "mode", "until", "reason"}}
    until = document.get("until", default_until)
    mode_text = document.get("mode", Mode.ALWAYS if until is None else Mode.UNTIL)
    if mode_text not in set(Mode):
        raise bad_choice(quote(mode_text), f"is no mode; expected one of {', '.join(Mode)}")
    mode = Mode(mode_text)
    timed = isinstance(until, int | float) and not isinstance(until, bool) and math.isfinite(until)
    if (mode is Mode.UNTIL) != timed:
        raise bad_choice(quote(until), "must be a time in seconds exactly when the mode is 'until'")
    return Choice(document["type"], MappingProxyType(params) if params else None, mode, until)


def decide(
    requests: Sequence[PermissionRequest],
    choices: Sequence[Choice] | None,
    *,
    instance: str,
    until: float | None = None,
) -> Decision:
    """What is granted. Without choices: everything declared except what ``withheld_reason`` names.

    Raises:
        DeniedError: a choice was not declared, is wider than declared, or can't be enforced here.
    """
    if choices is None:
        mode = Mode.ALWAYS if until is None else Mode.UNTIL
        choices = _plain(requests, mode, until)
    granted = tuple(_grant(choice, requests, instance) for choice in _each(choices, requests))
    chosen = {permission.type for permission in granted}
    withheld = (Withheld(r.type, withheld_reason(r) or "Not chosen.") for r in requests if r.type not in chosen)
    return Decision(granted, tuple(withheld))


def with_replaced(
    requests: Sequence[PermissionRequest], choices: Sequence[Choice] | None, keys: Sequence[str], until: float | None
) -> Sequence[Choice] | None:
    """``choices`` (None: those of a plain approval), and the ``keys`` of other Packs that it may take over besides."""
    if not keys:
        return choices
    mode = Mode.ALWAYS if until is None else Mode.UNTIL
    given = _plain(requests, mode, until) if choices is None else choices
    return [*given, Choice("interface.replace", freeze({"keys": keys}), mode, until)]


def _plain(requests: Sequence[PermissionRequest], mode: Mode, until: float | None) -> list[Choice]:
    return [Choice(r.type, r.params, mode, until) for r in requests if not withheld_reason(r)]


def _each(choices: Sequence[Choice], requests: Sequence[PermissionRequest]) -> list[Choice]:
    """A type alone means each of its declarations; where those limit their own items, each by itself."""
    found: list[Choice] = []
    for choice in choices:
        kind = KINDS.get(choice.type)
        if choice.params is not None or kind is None or not kind.inherits:
            found.append(choice)
        else:
            same = [replace(choice, params=r.params) for r in requests if r.type == choice.type]
            found += same or [choice]
    return found


def _grant(choice: Choice, requests: Sequence[PermissionRequest], instance: str) -> Permission:
    declared = [request for request in requests if request.type == choice.type]
    if not declared:
        raise refused(choice.type, "it was not declared by the Pack", "permission_undeclared")
    if is_privilege(choice.type):
        raise refused(choice.type, withheld_reason(declared[0]), "permission_unenforceable")
    kind = KINDS[choice.type]
    if kind.missing:
        raise refused(choice.type, kind.missing, "permission_unenforceable")
    _check_mode(choice)
    params = choice.params if choice.params is not None else _merged(declared)
    bounds = [request.params for request in declared]
    if not kind.inherits:
        bounds.append(_union(choice.type, declared).params)
    fitting = [bound for bound in bounds if _covers(_complete(kind, bound, {}), _complete(kind, params, bound))]
    if not fitting:
        raise refused(choice.type, "it is wider than what the Pack declared", "permission_wider")
    params = _complete(kind, params, fitting[0])
    if (kind.required and not params.get(kind.required)) or (kind.either and not any(map(params.get, kind.either))):
        raise refused(choice.type, f"{kind.required or ' or '.join(kind.either)} is missing", "permission_wider")
    bound = instance if choice.mode is Mode.RESTART else ""
    return Permission(choice.type, freeze(params), choice.mode, choice.until, bound)


def _check_mode(choice: Choice) -> None:
    if choice.mode is Mode.ONCE and lasts(choice.type):
        reason = "it is no single act, so nothing would ever use up a grant for one use; grant it until a time"
        raise refused(choice.type, reason, "permission_lasting")


def _complete(kind: Kind | None, params: Mapping[str, Any], bound: Mapping[str, Any]) -> Mapping[str, Any]:
    """``params`` with what it leaves out written out: the limits of ``bound``, else what their absence means."""
    if kind is None or not kind.inherits:
        return params
    limits_something = not kind.either or kind.either[0] in params  # ports of addresses stand in the addresses
    kept = {name: bound[name] for name in kind.inherits if name in bound}
    return {**kind.defaults, **kept, **params} if limits_something else params


def narrow(held: Sequence[Permission], choices: Sequence[Choice], *, spent: Iterable[int]) -> tuple[Permission, ...]:
    """Fewer permissions than are held. A choice without parameters and mode keeps the held permission as it is.

    Raises:
        DeniedError: a choice is wider than every held permission of its type, in parameters or in time.
    """
    usable = unspent(held, spent)
    return tuple(narrowed for choice in choices for narrowed in _narrowed(usable, choice))


def unspent(held: Sequence[Permission], spent: Iterable[int]) -> tuple[Permission, ...]:
    """Without one-use permissions that were used: a new decision must not make them fresh again."""
    used_up = frozenset(spent)
    return tuple(p for index, p in enumerate(held) if p.mode is not Mode.ONCE or index not in used_up)


def _narrowed(held: Sequence[Permission], choice: Choice) -> list[Permission]:
    same = [permission for permission in held if permission.type == choice.type]
    if choice.params is None and choice.mode is Mode.ALWAYS:
        if not same:
            raise refused(choice.type, "the Pack does not hold it", "permission_wider")
        return same
    for permission in same:
        params = permission.params if choice.params is None else choice.params
        params = _complete(KINDS.get(choice.type), params, permission.params)
        if _covers(permission.params, params) and _shorter(choice, permission):
            _check_mode(choice)
            kept = choice.mode is Mode.ALWAYS or choice.mode is permission.mode is Mode.RESTART
            return [
                Permission(
                    choice.type,
                    freeze(params),
                    permission.mode if kept else choice.mode,
                    permission.until if kept else choice.until,
                    permission.instance if kept else "",
                )
            ]
    raise refused(choice.type, "it is wider than what the Pack holds", "permission_wider")


def _shorter(choice: Choice, held: Permission) -> bool:
    """Whether the choice lasts at most as long; without a mode of its own it takes over the held one's."""
    if choice.mode is Mode.ALWAYS:
        return True
    if choice.mode is Mode.ONCE:  # one use has no end: instead of a time or a run of the host it could come later
        return held.mode in {Mode.ALWAYS, Mode.ONCE}
    if choice.mode is Mode.UNTIL and held.mode is Mode.UNTIL:
        return choice.until is not None and held.until is not None and choice.until <= held.until
    return choice.mode is held.mode or (choice.mode is Mode.UNTIL and held.mode is Mode.ALWAYS)


def _merged(declared: Sequence[PermissionRequest]) -> Mapping[str, Any]:
    return _union("", declared).params


def _union(kind: str, declared: Sequence[PermissionRequest]) -> PermissionRequest:
    """Several declarations of one type taken together: lists joined, numbers at their largest."""
    params: dict[str, Any] = {}
    for request in declared:
        for name, value in request.params.items():
            if isinstance(value, str) or not isinstance(value, Sequence):
                params[name] = max(params.get(name, value), value)
            else:
                params[name] = (*params.get(name, ()), *(item for item in value if item not in params.get(name, ())))
    return PermissionRequest(kind, "", MappingProxyType(params))


def _covers(declared: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    return all(name in declared and _covers_value(name, declared[name], value) for name, value in chosen.items())


def _covers_value(name: str, declared: Any, chosen: Any) -> bool:
    if isinstance(declared, int | float):
        return isinstance(chosen, int | float) and not isinstance(chosen, bool) and chosen <= declared
    if isinstance(chosen, str) or not isinstance(chosen, Sequence) or not chosen:
        return False
    return all(isinstance(item, str | int) and _covers_item(name, declared, item) for item in chosen)


def _covers_item(name: str, declared: Sequence[Any], item: str | int) -> bool:
    if item in declared:
        return True
    texts = [str(d) for d in declared]
    if name == "domains" and isinstance(item, str):
        patterns = [text for text in texts if text.startswith("*.")]
        return not domain_fault(item) and bool(covering_domain(patterns, item.removeprefix("*.")))
    if name == "path_prefixes" and isinstance(item, str):
        return not url_path_fault(item) and covers_path(texts, item)
    # a literal path or topic below a declared pattern narrows it; other patterns than the declared can't be judged
    separators = {"paths": "/", "topics": TOPIC_SEPARATOR}
    if not isinstance(item, str) or name not in separators or any(c in "*?" for c in item):
        return False
    literal_fault = glob_fault(item) if name == "paths" else ""
    return not literal_fault and any_matches((str(d) for d in declared), item, separators[name])

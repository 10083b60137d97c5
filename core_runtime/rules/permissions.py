"""Permission types, what each covers, and what the operator may grant of what a Pack declared. Pure.

Invariants:
  * Nothing is allowed that was not declared *and* granted. A choice narrows a declaration; it never widens it.
  * What the operator alone may write (permissions, flows, store, keys, other Packs' folders) is grantable by nobody: a
    declaration that overlaps it is a fault of the Pack.
  * A type whose place of enforcement does not exist is refused with a sentence: a promise that nobody keeps is worse
    than none.

Not here: privileges (``host.*``), which the operator grants one by one through ``host_privilege_manager``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from backend_core.ecosystem.spec.models import PackMetadata, PermissionRequest
from backend_core.errors import DeniedError, RequestError, quote
from core_runtime.rules.egress import (
    Target,
    covering_domain,
    covering_network,
    domain_fault,
    private_addresses,
    target_of,
)
from core_runtime.rules.fetch import covers_path, covers_request, request_of
from core_runtime.rules.fetch import path_fault as url_path_fault
from core_runtime.rules.globs import any_matches, glob_fault, matches
from core_runtime.rules.grants import Grant, Mode, Permission, freeze, is_flow_claim, thaw
from core_runtime.rules.permission_kinds import (
    KINDS,
    MAX_ITEMS,
    TOPIC_SEPARATOR,
    Fault,
    Kind,
    host_key_permission,
    is_privilege,
    path_fault,
    protected_fault,
)

__all__ = ["KINDS", "host_key_permission", "path_fault", "protected_fault"]


@dataclass(frozen=True, slots=True)
class Allow:
    """The action is covered by a granted permission; ``index`` tells which, -1 for what needs none or always holds."""

    index: int = -1


@dataclass(frozen=True, slots=True)
class Deny:
    """The action is not covered. ``reason`` and ``hint`` are sentences for the Pack's author and the operator."""

    reason: str
    hint: str = ""
    code: str = "denied"

    def error(self) -> DeniedError:
        """As an exception, where an operation must stop."""
        return DeniedError("Not permitted", code=self.code, detail=self.reason, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Choice:
    """What the operator grants of one declared permission. ``params`` None: as declared."""

    type: str
    params: Mapping[str, Any] | None = None
    mode: Mode = Mode.ALWAYS
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Withheld:
    """A declared permission that is not granted, and the sentence why."""

    type: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome of choosing: what is granted and what is not."""

    granted: tuple[Permission, ...]
    withheld: tuple[Withheld, ...]


# --- what a Pack asks ------------------------------------------------------------------------------------------------


def requests_of(metadata: PackMetadata) -> tuple[PermissionRequest, ...]:
    """Every permission that the Pack asks for: the declared ones, and its edges from ``requires`` and ``uses``."""
    asked = [request for request in metadata.permissions if request.type != "interface.call"]
    named = {
        key
        for request in metadata.permissions
        if request.type == "interface.call"
        for key in request.params.get("keys", ())
        if isinstance(key, str)
    }
    reason = next((r.reason for r in metadata.permissions if r.type == "interface.call"), "")
    keys = tuple(sorted((named | metadata.requires() | metadata.uses()) - metadata.provides()))
    if keys:
        asked.append(PermissionRequest("interface.call", reason, MappingProxyType({"keys": keys})))
    return tuple(asked)


def request_fault(request: PermissionRequest, pack_id: str) -> Fault:
    """Why a declaration can never be granted (unknown type, bad or forbidden parameter), or ``""``."""
    if is_privilege(request.type):
        return ""
    kind = KINDS.get(request.type)
    if kind is None:
        return f"permission type {quote(request.type)} is unknown"
    for name, value in request.params.items():
        check = kind.params.get(name)
        fault = check(value, pack_id) if check else "is not a parameter of this type"
        if fault:
            return f"{request.type}: {quote(name)} {fault}"
    if kind.required and kind.required not in request.params:
        return f"{request.type}: {quote(kind.required)} is missing"
    if kind.either and not any(name in request.params for name in kind.either):
        return f"{request.type}: one of {', '.join(kind.either)} is missing"
    return ""


def forbidden(metadata: PackMetadata) -> tuple[Fault, ...]:
    """Every fault of the Pack's declarations; one of them is enough to refuse the Pack at scan."""
    found = (request_fault(request, metadata.pack_id) for request in requests_of(metadata))
    return tuple(fault for fault in found if fault)


def withheld_reason(request: PermissionRequest) -> str:
    """Why a plain approval does not grant this declaration, or ``""``."""
    if is_privilege(request.type):
        return "Operations of the host are granted one by one: rumi privilege grant."
    kind = KINDS.get(request.type)
    if kind is None:
        return "This type of permission is unknown."
    if kind.missing:
        return kind.missing
    if kind.sensitive:
        return "A plain approval leaves it out; name it when approving."
    return ""


# --- what the operator grants ----------------------------------------------------------------------------------------


def parse_choices(items: Sequence[Any], *, default_until: float | None = None) -> tuple[Choice, ...]:
    """The operator's list, from JSON: a type's name, or ``{type, <params>, mode, until}``."""
    if len(items) > MAX_ITEMS * 4:
        raise _bad_choice("the list", "is too long")
    return tuple(_parse_choice(item, default_until) for item in items)


def _parse_choice(item: Any, default_until: float | None) -> Choice:
    if isinstance(item, Choice):
        return item
    document: Any = {"type": item} if isinstance(item, str) else item
    if not isinstance(document, Mapping) or not isinstance(document.get("type"), str):
        raise _bad_choice(quote(item), "is neither a type's name nor an object with a type")
    params = {name: freeze(v) for name, v in document.items() if name not in {"type", "mode", "until", "reason"}}
    until = document.get("until", default_until)
    mode_text = document.get("mode", Mode.ALWAYS if until is None else Mode.UNTIL)
    if mode_text not in set(Mode):
        raise _bad_choice(quote(mode_text), f"is no mode; expected one of {', '.join(Mode)}")
    mode = Mode(mode_text)
    timed = isinstance(until, int | float) and not isinstance(until, bool) and math.isfinite(until)
    if (mode is Mode.UNTIL) != timed:
        raise _bad_choice(quote(until), "must be a time in seconds exactly when the mode is 'until'")
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
        raise _refused(choice.type, "it was not declared by the Pack", "permission_undeclared")
    if is_privilege(choice.type):
        raise _refused(choice.type, withheld_reason(declared[0]), "permission_unenforceable")
    kind = KINDS[choice.type]
    if kind.missing:
        raise _refused(choice.type, kind.missing, "permission_unenforceable")
    _check_mode(choice)
    params = choice.params if choice.params is not None else _merged(declared)
    bounds = [request.params for request in declared]
    if not kind.inherits:
        bounds.append(_union(choice.type, declared).params)
    fitting = [bound for bound in bounds if _covers(_complete(kind, bound, {}), _complete(kind, params, bound))]
    if not fitting:
        raise _refused(choice.type, "it is wider than what the Pack declared", "permission_wider")
    params = _complete(kind, params, fitting[0])
    if (kind.required and not params.get(kind.required)) or (kind.either and not any(map(params.get, kind.either))):
        raise _refused(choice.type, f"{kind.required or ' or '.join(kind.either)} is missing", "permission_wider")
    bound = instance if choice.mode is Mode.RESTART else ""
    return Permission(choice.type, freeze(params), choice.mode, choice.until, bound)


def _check_mode(choice: Choice) -> None:
    if choice.mode is Mode.ONCE and _lasts(choice.type):
        reason = "it is no single act, so nothing would ever use up a grant for one use; grant it until a time"
        raise _refused(choice.type, reason, "permission_lasting")


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
            raise _refused(choice.type, "the Pack does not hold it", "permission_wider")
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
    raise _refused(choice.type, "it is wider than what the Pack holds", "permission_wider")


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


# --- what a granted Pack may do --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rights:
    """What the bus asks about one Pack, from the permissions that hold without a limit of use."""

    provides: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    publish: tuple[str, ...] = ()
    subscribe: tuple[str, ...] = ()
    replaces: frozenset[str] = frozenset()

    def may_call(self, key: str) -> bool:
        """Whether the edge to ``key`` is granted; a Pack may call what it provides itself."""
        return key in self.calls or key in self.provides

    def may_register(self, key: str) -> bool:
        """Whether the Pack declared ``key`` and holds what the key means to the host."""
        return key in self.provides

    def may_publish(self, topic: str) -> bool:
        """Whether ``topic`` is covered."""
        return any_matches(self.publish, topic, TOPIC_SEPARATOR)

    def may_subscribe(self, topic: str) -> bool:
        """Whether ``topic``, or a pattern of topics taken as text, is covered."""
        return any_matches(self.subscribe, topic, TOPIC_SEPARATOR)


def rights_of(metadata: PackMetadata | None, grant: Grant) -> Rights:
    """The rights that hold as long as the grant does. ``metadata`` narrows ``provides`` further when given."""
    lasting = [p for p in grant.permissions if p.mode in {Mode.ALWAYS, Mode.RESTART}]

    def gather(kind: str, name: str) -> tuple[str, ...]:
        return tuple(text for p in lasting if p.type == kind for text in p.texts(name))

    kinds = {permission.type for permission in lasting}
    declared = frozenset(key for key in grant.since if not is_flow_claim(key))
    if metadata is not None:
        declared &= metadata.provides()
    provides = (key for key in declared if not (needed := host_key_permission(key)) or needed in kinds)
    return Rights(
        provides=frozenset(provides),
        calls=frozenset(gather("interface.call", "keys")),
        publish=gather("event.publish", "topics"),
        subscribe=gather("event.subscribe", "topics"),
        replaces=frozenset(gather("interface.replace", "keys")),
    )


def resources_of(grant: Grant) -> Mapping[str, Any]:
    """The granted ``resources`` parameters together: ``{memory_mb, cpu, pids, tmp_mb, disk_mb}``, those present."""
    lasting = (p for p in grant.of_type("resources") if p.mode in {Mode.ALWAYS, Mode.RESTART})
    return MappingProxyType({name: value for permission in lasting for name, value in permission.params.items()})


_ITEMS: Final[Mapping[str, tuple[str, ...]]] = {"network": ("domains", "addresses"), "http.fetch": ("hosts",)}
"""Parameters whose items are counted, for the types that ``_TARGETS`` does not name."""

_TARGETS: Final = {
    "userdata.read": "path",
    "userdata.write": "path",
    "interface.call": "key",
    "interface.replace": "key",
    "event.publish": "topic",
    "event.subscribe": "topic",
    "secret": "name",
    "flow.run": "flow",
    "flow.modify": "flow",
}
"""What a single use of each type names; a use that does not name it is covered by nothing."""


def covers_use(permission: Permission, kind: str, params: Mapping[str, Any]) -> bool:
    """Whether a granted permission covers one use: ``path``, ``key``, ``topic`` or ``name`` in ``params``."""
    return bool(covering_item(permission, kind, params))


def covering_item(permission: Permission, kind: str, params: Mapping[str, Any]) -> str:
    """The granted path, key, topic, domain, address or host that covers one use, or ``""``: what uses are counted by.

    ``network`` asks with a parsed ``target``, ``http.fetch`` with ``host``, ``method`` and ``url_path``; a Pack's own
    question with ``domain`` and ``port`` or ``address``, and with ``url`` and ``method``.
    """
    if permission.type == kind and kind in _ITEMS:
        return _covering_egress(permission, params)
    if permission.type != kind or kind not in _TARGETS or _TARGETS[kind] not in params:
        return ""
    target = str(params[_TARGETS[kind]])
    items = permission.texts(f"{_TARGETS[kind]}s")
    if _TARGETS[kind] in {"key", "name"}:
        return target if target in items else ""
    separator = "/" if _TARGETS[kind] == "path" else TOPIC_SEPARATOR
    return next((item for item in items if matches(item, target, separator)), "")


def items_of(permission: Permission) -> tuple[str, ...]:
    """The items of a permission whose single uses are judged and counted; empty for any other type."""
    if _lasts(permission.type):
        return ()
    return tuple(item for name in item_params(permission.type) for item in permission.texts(name))


def item_params(kind: str) -> tuple[str, ...]:
    """The parameters whose items are counted one by one."""
    return _ITEMS.get(kind, (f"{_TARGETS[kind]}s",) if kind in _TARGETS else ())


def _covering_egress(permission: Permission, params: Mapping[str, Any]) -> str:
    if permission.type == "network":
        target = params["target"] if "target" in params else target_of(params)
        ports = tuple(port for port in permission.params.get("ports", ()) if isinstance(port, int))
        domains, addresses = permission.texts("domains"), permission.texts("addresses")
        return covering_network(domains, addresses, ports, target) if isinstance(target, Target) else ""
    use = params if "url_path" in params else request_of(params)
    host, method, path = (str(use.get(name, "")) for name in ("host", "method", "url_path"))
    hosts, prefixes = permission.texts("hosts"), permission.texts("path_prefixes")
    return host if covers_request(hosts, permission.texts("methods"), prefixes, host, method, path) else ""


def fetches(permissions: Iterable[Permission], host: str) -> bool:
    """Whether the host itself is to make the requests to ``host``: no connection of the Pack's own goes there."""
    return any(p.type == "http.fetch" and host in p.texts("hosts") for p in permissions)


def in_force(permission: Permission, *, now: float) -> bool:
    """Whether the permission still holds at ``now``. One-use ones do until they are spent; those of an earlier run
    of the host were ended when the grant was read.
    """
    if permission.mode is Mode.UNTIL:
        return permission.until is not None and now < permission.until
    return permission.mode is not Mode.ONCE or not _lasts(permission.type)


def _lasts(kind: str) -> bool:
    return kind in KINDS and KINDS[kind].lasting


def describe(request: PermissionRequest) -> dict[str, Any]:
    """One declaration for the decision: type, parameters, reason (hostile text: escaped by each face), risk, words."""
    kind = KINDS.get(request.type)
    words = (
        kind.words if kind else {"en": "has the host act on the machine", "ja": "ホストにこのマシン上の操作をさせます"}
    )
    private = private_addresses([str(item) for item in request.params.get("addresses", ())])
    return {
        "type": request.type,
        **thaw(request.params),
        **({"private_addresses": list(private)} if private else {}),
        "reason": request.reason,
        "risk": kind.risk if kind else "high",
        "words": dict(words),
        "grantable": bool(kind and not kind.missing),
        "plain": not withheld_reason(request),
        "note": withheld_reason(request),
    }


def _refused(kind: str, reason: str, code: str) -> DeniedError:
    return DeniedError(
        "Permission not grantable",
        code=code,
        detail=f"{quote(kind)} can't be granted: {reason}",
        hint="Grant what the review lists, or less.",
        fields={"type": kind},
    )


def _bad_choice(what: str, reason: str) -> RequestError:
    return RequestError(
        "The list of permissions is not usable",
        code="permissions_invalid",
        detail=f"{what} {reason}.",
        hint='Give types or objects such as {"type": "userdata.read", "paths": ["shared/notes/**"], "mode": "once"}.',
    )

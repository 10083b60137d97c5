"""What a granted Pack may do: which permission covers one use, which hold, and the rights that last. Pure.

Not here: judging a use with its clock and its count (``permission_manager``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from backend_core.ecosystem.spec.models import PackMetadata
from core_runtime.rules.egress import Target, covering_network, target_of
from core_runtime.rules.fetch import covers_request, request_of
from core_runtime.rules.globs import any_matches, matches
from core_runtime.rules.grants import Grant, Mode, Permission, is_flow_claim
from core_runtime.rules.permission_kinds import KINDS, TOPIC_SEPARATOR, host_key_permission


class Rights(Struct, frozen=True):
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

    # a time that ends later ends what is done with such a key, which is judged at each use
    kinds = {permission.type for permission in grant.permissions if permission.mode is not Mode.ONCE}
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


def resources_of(grant: Grant, *, now: float) -> Mapping[str, Any]:
    """The ``resources`` parameters that are granted at ``now``, together: ``{memory_mb, cpu, pids, tmp_mb, disk_mb}``,
    those present.
    """
    held = (p for p in grant.of_type("resources") if in_force(p, now=now))
    return MappingProxyType({name: value for permission in held for name, value in permission.params.items()})


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
    "addon.apply": "target",
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
    if _TARGETS[kind] in {"key", "name", "target"}:
        return target if target in items else ""
    separator = "/" if _TARGETS[kind] == "path" else TOPIC_SEPARATOR
    return next((item for item in items if matches(item, target, separator)), "")


def items_of(permission: Permission) -> tuple[str, ...]:
    """The items of a permission whose single uses are judged and counted; empty for any other type."""
    if lasts(permission.type):
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
    return permission.mode is not Mode.ONCE or not lasts(permission.type)


def lasts(kind: str) -> bool:
    """Whether a permission of this type holds for a while instead of being used act by act."""
    return kind in KINDS and KINDS[kind].lasting

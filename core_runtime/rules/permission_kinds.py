"""The table of permission types: parameters and their checks, risk, words, and whether somebody enforces them. Pure.

Invariant: what the operator alone may write (permissions, flows, store, keys, other Packs' folders) is grantable by
nobody; ``path_fault`` refuses every pattern that could cover it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from backend_core.errors import quote
from core_runtime.rules.digest import twin_key
from core_runtime.rules.egress import DEFAULT_PORTS, address_fault, domain_fault, host_fault
from core_runtime.rules.fetch import DEFAULT_METHODS, method_fault, secret_fault
from core_runtime.rules.fetch import path_fault as path_fault_of_url
from core_runtime.rules.globs import glob_fault, literal_prefix, matches
from core_runtime.rules.secret import name_fault

MAX_ITEMS = 64
_COMPONENT: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}:[a-z][a-z0-9_]*:[a-z][a-z0-9_-]*")
TOPIC_SEPARATOR = "\0"
"""Topics have no segments: ``*`` covers dots as well, as it does on the event bus."""

Fault = str
ParamCheck = Callable[[Any, str], Fault]


class Kind(Struct, frozen=True):
    """One permission type. ``sensitive``: a plain approval leaves it out. ``missing``: why it can't be granted yet.

    ``either``: one of these parameters at least must be there. ``defaults``: what leaving a parameter out means.
    ``inherits``: parameters that limit the others; a choice without one keeps the declared one, and several
    declarations of the type are never joined, since each limits its own hosts only. ``lasting``: it holds for a while
    instead of being used act by act, so that it can't be granted for one use.
    """

    params: Mapping[str, ParamCheck]
    risk: str
    words: Mapping[str, str]
    required: str = ""
    sensitive: bool = False
    missing: str = ""
    labels: frozenset[str] = frozenset()
    either: tuple[str, ...] = ()
    defaults: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    inherits: tuple[str, ...] = ()
    lasting: bool = False


# --- parameters ------------------------------------------------------------------------------------------------------

PROTECTED_FOLDERS: Final = frozenset(
    "permissions flows runs store secrets run runtime events journal audit logs backups staging keys rollback".split()  # noqa: SIM905
)
"""First folders of ``user_data`` that hold operator input, evidence or keys."""


def _texts(check: Callable[[str, str], Fault]) -> ParamCheck:
    def run(value: Any, pack_id: str) -> Fault:
        if isinstance(value, str) or not isinstance(value, Sequence) or not 1 <= len(value) <= MAX_ITEMS:
            return f"must be a list of 1 to {MAX_ITEMS} texts"
        for item in value:
            if not isinstance(item, str) or not item or len(item) > 256 or not item.isprintable():
                return f"holds {quote(item)}, which is no plain text of 1 to 256 characters"
            fault = check(item, pack_id)
            if fault:
                return f"holds {quote(item)}, which {fault}"
        return ""

    return run


def _plain(_text: str, _pack_id: str) -> Fault:
    return ""


def _number(low: float, high: float) -> ParamCheck:
    def run(value: Any, _pack_id: str) -> Fault:
        numeric = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return "" if numeric and low <= value <= high else f"must be a number from {low:g} to {high:g}"

    return run


def path_fault(glob: str, pack_id: str) -> Fault:
    """Why nobody may grant the paths of ``glob`` (relative to ``user_data``), or ``""``."""
    fault = glob_fault(glob)
    if fault:
        return fault
    prefix = literal_prefix(glob)
    if len(glob.split("/")) < 2:
        return "covers files directly in user_data, which belong to the operator"
    if not prefix:
        return "must name its first folder: a pattern there would cover the operator's own folders"
    return protected_fault(prefix, pack_id)


def protected_fault(parts: Sequence[str], pack_id: str) -> Fault:
    """Why this Pack may touch nothing below these leading folders, or ``""``. Case and Unicode forms don't help."""
    first = twin_key(parts[0])
    if first in PROTECTED_FOLDERS or first.startswith("."):
        return "covers a folder that only the operator may write or read"
    if first == "packs":
        owner = parts[1] if len(parts) > 1 else ""
        if parts[0] != "packs" or owner != pack_id:
            return f"covers other Packs' data (only packs/{pack_id}/ is its own)"
    return ""


def _topic(text: str, _pack_id: str) -> Fault:
    return "is not a topic" if any(c in "[]{}\\ " for c in text) else ""


def _key(text: str, _pack_id: str) -> Fault:
    return "is a pattern; interface keys are named one by one" if any(c in "*?[]" for c in text) else ""


def _component(text: str, _pack_id: str) -> Fault:
    fits = _COMPONENT.fullmatch(text)
    return "" if fits else "is no component of one Pack, pack:type:id; components are named one by one"


def _secret(text: str, _pack_id: str) -> Fault:
    return name_fault(text)


_PATHS: Final[Mapping[str, ParamCheck]] = {"paths": _texts(path_fault)}
_KEYS: Final[Mapping[str, ParamCheck]] = {"keys": _texts(_key)}
_TOPICS: Final[Mapping[str, ParamCheck]] = {"topics": _texts(_topic)}
_FLOWS: Final[Mapping[str, ParamCheck]] = {"flows": _texts(_plain)}

KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        "userdata.read": Kind(
            _PATHS, "medium", {"en": "reads your files", "ja": "あなたのファイルを読みます"},
            required="paths", labels=frozenset({"private-data"}),
        ),
        "userdata.write": Kind(
            _PATHS, "medium", {"en": "creates, changes and deletes your files",
                               "ja": "あなたのファイルを作成・変更・削除します"},
            required="paths",
        ),
        "network": Kind(
            {"domains": _texts(domain_fault), "addresses": _texts(address_fault),
             "ports": lambda value, _: _ports(value)}, "high",
            {"en": "exchanges data with other computers", "ja": "他のコンピューターと通信します"},
            either=("domains", "addresses"), defaults={"ports": DEFAULT_PORTS}, inherits=("ports",),
            labels=frozenset({"untrusted-input", "external-communication"}),
        ),
        "http.fetch": Kind(
            {"hosts": _texts(host_fault), "methods": _texts(method_fault), "path_prefixes": _texts(path_fault_of_url),
             "secrets": _texts(secret_fault)}, "high",
            {"en": "lets the host fetch pages for it", "ja": "ホストを通じて Web から取得します"},
            required="hosts", defaults={"methods": DEFAULT_METHODS, "path_prefixes": ("/",)},
            inherits=("methods", "path_prefixes", "secrets"),
            labels=frozenset({"untrusted-input", "external-communication"}),
        ),
        "http.serve": Kind(
            {"routes": _texts(_plain)}, "high",
            {"en": "answers requests from outside", "ja": "外部からの要求に応答します"},
            required="routes", missing="This host serves no routes of Packs; approve without it.",
            labels=frozenset({"untrusted-input", "external-communication"}),
        ),
        "secret": Kind(
            {"names": _texts(_secret)}, "high",
            {"en": "receives passwords or keys", "ja": "パスワードや鍵を受け取ります"},
            required="names", sensitive=True, labels=frozenset({"private-data"}),
        ),
        "interface.call": Kind(
            _KEYS, "low", {"en": "calls other Packs' interfaces", "ja": "他の Pack の機能を呼び出します"},
            required="keys",
        ),
        "interface.replace": Kind(
            _KEYS, "high",
            {"en": "takes the place of another Pack's interface", "ja": "他の Pack の機能を置き換えます"},
            required="keys", sensitive=True, lasting=True,
        ),
        "addon.apply": Kind(
            {"targets": _texts(_component)}, "high",
            {"en": "changes components of other Packs", "ja": "他の Pack の部品を変更します"},
            required="targets", sensitive=True, lasting=True,
        ),
        "event.publish": Kind(
            _TOPICS, "low", {"en": "publishes events", "ja": "イベントを発行します"}, required="topics",
        ),
        "event.subscribe": Kind(
            _TOPICS, "medium", {"en": "receives events of other Packs", "ja": "他の Pack のイベントを受け取ります"},
            required="topics",
        ),
        "flow.run": Kind(
            _FLOWS, "medium", {"en": "starts flows", "ja": "フローを実行します"}, required="flows",
        ),
        "flow.modify": Kind(
            _FLOWS, "high", {"en": "changes flows", "ja": "フローを変更します"},
            required="flows", sensitive=True, lasting=True,
        ),
        "resources": Kind(
            {"memory_mb": _number(1, 1 << 20), "cpu": _number(0.01, 1024), "pids": _number(1, 65536),
             "tmp_mb": _number(1, 65536), "disk_mb": _number(1, 1 << 20)}, "low",
            {"en": "uses more of the machine than usual", "ja": "通常より多くの計算資源を使います"},
            lasting=True,
        ),
    }
)  # fmt: skip

HOST_KEYS: Final[tuple[tuple[str, str], ...]] = (
    ("flow.hooks.*", "flow.modify"),
    ("flow.error_handler", "flow.modify"),
    ("flow.construct.*", "flow.modify"),
    ("flow.modifier", "flow.modify"),
    ("io.http.*", "http.serve"),
)
"""Keys with a meaning to the host: registering one needs this permission beside the declaration."""

FLOWS_RUN: Final = "flows.run"
HOST_CALLS: Final[Mapping[str, str]] = {FLOWS_RUN: "flow.run"}
"""Keys that the host answers: calling one needs this permission, for whatever parameters, in place of an edge."""


def _ports(value: Any) -> Fault:
    ports = isinstance(value, Sequence) and not isinstance(value, str)
    valid = ports and all(isinstance(p, int) and not isinstance(p, bool) and 0 < p < 65536 for p in value)
    return "" if valid and len(value) <= MAX_ITEMS else "must be a list of port numbers"


def is_privilege(kind: str) -> bool:
    """Whether the type is an operation that the host performs (``host.<privilege>``)."""
    return kind.startswith("host.") and len(kind) > len("host.")


def host_key_permission(key: str) -> str:
    """The permission type that registering ``key`` needs beside its declaration, or ``""``."""
    return next((kind for glob, kind in HOST_KEYS if matches(glob, key, TOPIC_SEPARATOR)), "")

"""What may be asked, what may be granted of it, what a grant covers: the rules of permissions as tables."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from backend_core.ecosystem.spec.models import Connectivity, PackMetadata, PermissionRequest
from backend_core.errors import DeniedError, RequestError
from core_runtime.rules import permissions as rules
from core_runtime.rules.grants import Grant, Mode, Permission, freeze
from core_runtime.rules.permission_kinds import (
    HOST_KEYS,
    KINDS,
    MAX_ITEMS,
    PROTECTED_FOLDERS,
    TOPIC_SEPARATOR,
    host_key_permission,
    is_privilege,
    path_fault,
    protected_fault,
)
from core_runtime.rules.permissions import (
    Allow,
    Choice,
    Deny,
    Rights,
    covering_item,
    covers_use,
    decide,
    describe,
    forbidden,
    in_force,
    items_of,
    narrow,
    parse_choices,
    request_fault,
    requests_of,
    resources_of,
    rights_of,
    unspent,
    with_replaced,
    withheld_reason,
)
from core_runtime.rules.sandbox import DriverKind, Isolation, Level


def request(kind: str, /, reason: str = "because", **params: Any) -> PermissionRequest:
    return PermissionRequest(kind, reason, freeze(params))


def held(
    kind: str, mode: Mode = Mode.ALWAYS, until: float | None = None, instance: str = "", **params: Any
) -> Permission:
    return Permission(kind, freeze(params), mode, until, instance)


def grant(*permissions: Permission, since=("service.alpha",)) -> Grant:
    return Grant(
        "alpha", "local:alpha", "1", "sha256:0", 1, "e", Isolation(DriverKind.EMBEDDED, Level.STANDARD), 0.0, 0.0, "me",
        permissions=permissions, since=dict.fromkeys(since, 1.0),
    )  # fmt: skip


# --- paths that nobody may grant --------------------------------------------------------------------------------------

OPERATOR = "covers a folder that only the operator may write or read"
OTHERS = "covers other Packs' data (only packs/alpha/ is its own)"


@pytest.mark.parametrize("folder", sorted(PROTECTED_FOLDERS))
def test_folders_of_the_operator_are_nobodys(folder):
    for name in (folder, folder.upper(), folder.title()):
        assert path_fault(f"{name}/x", "alpha") == OPERATOR
        assert protected_fault([name], "alpha") == OPERATOR
    assert path_fault(f"{folder}x/y", "alpha") == ""


def test_every_protected_folder_is_in_the_list():
    assert {
        "permissions",
        "flows",
        "store",
        "secrets",
        "run",
        "journal",
        "audit",
        "logs",
        "backups",
        "staging",
        "keys",
    } <= (PROTECTED_FOLDERS)


@pytest.mark.parametrize(
    ("glob", "fault"),
    [
        ("shared/x", ""), ("shared/**", ""), ("packs/alpha/x", ""), ("packs/alpha/**", ""), ("shared/*/x", ""),
        ("x", "covers files directly in user_data, which belong to the operator"),
        ("*", "covers files directly in user_data, which belong to the operator"),
        ("**", "covers files directly in user_data, which belong to the operator"),
        ("*/x", "must name its first folder: a pattern there would cover the operator's own folders"),
        ("**/x", "must name its first folder: a pattern there would cover the operator's own folders"),
        ("s?ared/x", "must name its first folder: a pattern there would cover the operator's own folders"),
        (".hidden/x", OPERATOR), ("permissions/**", OPERATOR),
        ("packs/beta/x", OTHERS), ("packs/*", OTHERS), ("packs/**", OTHERS), ("packs/*/x", OTHERS), ("packs/alpha?/x", OTHERS),
        ("Packs/alpha/x", OTHERS), ("PACKS/beta/x", OTHERS), ("packs/Alpha/x", OTHERS), ("packs/x", OTHERS),
        ("../x", "has an empty, '.' or '..' segment"), ("", "is empty or longer than 256 characters"),
    ],
)  # fmt: skip
def test_which_paths_may_be_granted(glob, fault):
    assert path_fault(glob, "alpha") == fault


def test_the_folder_of_all_packs_is_nobodys():
    assert protected_fault(["packs"], "alpha") == OTHERS
    assert protected_fault(["packs", "alpha"], "alpha") == ""
    assert protected_fault(["packs", "alpha", "x"], "alpha") == ""
    assert protected_fault(["shared"], "alpha") == ""


# --- declarations -----------------------------------------------------------------------------------------------------

LIST = f"must be a list of 1 to {MAX_ITEMS} texts"
PLAIN = "which is no plain text of 1 to 256 characters"
NAMED = {
    "userdata.read": "paths", "userdata.write": "paths", "interface.call": "keys", "interface.replace": "keys",
    "event.publish": "topics", "event.subscribe": "topics", "flow.run": "flows", "flow.modify": "flows",
    "secret": "names", "http.fetch": "hosts", "http.serve": "routes", "addon.apply": "targets",
}  # fmt: skip


def test_the_types_and_what_each_must_name():
    assert set(KINDS) >= {*NAMED, "network", "resources"}
    for kind, name in NAMED.items():
        assert KINDS[kind].required == name
        assert name in KINDS[kind].params
        assert request_fault(request(kind), "alpha") == f"{kind}: '{name}' is missing"
    for kind, known in KINDS.items():
        assert known.risk in {"low", "medium", "high"}, kind
        assert set(known.words) == {"en", "ja"}, kind
        assert all(known.words.values()), kind
    assert not KINDS["resources"].required


@pytest.mark.parametrize(
    ("kind", "risk", "sensitive"),
    [
        ("userdata.read", "medium", False), ("userdata.write", "medium", False), ("network", "high", None),
        ("http.fetch", "high", None), ("http.serve", "high", None), ("secret", "high", True), ("interface.call", "low", False),
        ("interface.replace", "high", True), ("addon.apply", "high", True), ("event.publish", "low", False),
        ("event.subscribe", "medium", False), ("flow.run", "medium", False), ("flow.modify", "high", True),
        ("resources", "low", False),
    ],
)  # fmt: skip
def test_risk_and_what_a_plain_approval_leaves_out(kind, risk, sensitive):
    known = KINDS[kind]
    assert known.risk == risk
    if sensitive is not None:
        assert known.sensitive is sensitive
        assert bool(withheld_reason(request(kind))) is (sensitive or bool(known.missing))


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (request("userdata.read", paths=["shared/**"]), ""),
        (request("userdata.read", paths=["shared/**"] * MAX_ITEMS), ""),
        (request("userdata.read", paths=["a/" + "b" * 254]), ""),
        (request("host.anything", whatever=1), ""),
        (request("no.such", x=1), "permission type 'no.such' is unknown"),
        (request("host."), "permission type 'host.' is unknown"),
        (request("userdata.read", paths=["shared/**"], extra=["x"]), "userdata.read: 'extra' is not a parameter of this type"),
        (request("userdata.read", paths="shared/**"), f"userdata.read: 'paths' {LIST}"),
        (request("userdata.read", paths=[]), f"userdata.read: 'paths' {LIST}"),
        (request("userdata.read", paths=["shared/x"] * (MAX_ITEMS + 1)), f"userdata.read: 'paths' {LIST}"),
        (request("userdata.read", paths=7), f"userdata.read: 'paths' {LIST}"),
        (request("userdata.read", paths=[""]), f"userdata.read: 'paths' holds '', {PLAIN}"),
        (request("userdata.read", paths=[7]), f"userdata.read: 'paths' holds '7', {PLAIN}"),
        (request("userdata.read", paths=["shared/x", "flows/x"]), f"userdata.read: 'paths' holds 'flows/x', which {OPERATOR}"),
        (request("interface.call", keys=["a.b"]), ""),
        (request("interface.call", keys=["a.*"]),
         "interface.call: 'keys' holds 'a.*', which is a pattern; interface keys are named one by one"),
        (request("interface.call", keys=["a?"]),
         "interface.call: 'keys' holds 'a?', which is a pattern; interface keys are named one by one"),
        (request("interface.call", keys=["a[b"]),
         "interface.call: 'keys' holds 'a[b', which is a pattern; interface keys are named one by one"),
        (request("interface.call", keys=["a]b"]),
         "interface.call: 'keys' holds 'a]b', which is a pattern; interface keys are named one by one"),
        (request("event.publish", topics=["news.*"]), ""),
        (request("event.publish", topics=["a b"]), "event.publish: 'topics' holds 'a b', which is not a topic"),
        (request("event.publish", topics=["a{"]), "event.publish: 'topics' holds 'a{', which is not a topic"),
        (request("event.publish", topics=["a}"]), "event.publish: 'topics' holds 'a}', which is not a topic"),
        (request("event.publish", topics=["a["]), "event.publish: 'topics' holds 'a[', which is not a topic"),
        (request("event.publish", topics=["a]"]), "event.publish: 'topics' holds 'a]', which is not a topic"),
        (request("resources"), ""),
        (request("resources", memory_mb=1, cpu=0.01, pids=1, tmp_mb=1, disk_mb=1), ""),
        (request("resources", memory_mb=1 << 20, cpu=1024, pids=65536, tmp_mb=65536, disk_mb=1 << 20), ""),
        (request("resources", memory_mb=0), "resources: 'memory_mb' must be a number from 1 to 1.04858e+06"),
        (request("resources", memory_mb=(1 << 20) + 1), "resources: 'memory_mb' must be a number from 1 to 1.04858e+06"),
        (request("resources", cpu=0.001), "resources: 'cpu' must be a number from 0.01 to 1024"),
        (request("resources", cpu=1025), "resources: 'cpu' must be a number from 0.01 to 1024"),
        (request("resources", cpu=float("nan")), "resources: 'cpu' must be a number from 0.01 to 1024"),
        (request("resources", cpu=float("inf")), "resources: 'cpu' must be a number from 0.01 to 1024"),
        (request("resources", cpu=True), "resources: 'cpu' must be a number from 0.01 to 1024"),
        (request("resources", cpu="1"), "resources: 'cpu' must be a number from 0.01 to 1024"),
        (request("resources", pids=0), "resources: 'pids' must be a number from 1 to 65536"),
        (request("resources", pids=65537), "resources: 'pids' must be a number from 1 to 65536"),
        (request("resources", tmp_mb=0), "resources: 'tmp_mb' must be a number from 1 to 65536"),
        (request("resources", tmp_mb=65537), "resources: 'tmp_mb' must be a number from 1 to 65536"),
        (request("resources", disk_mb=0), "resources: 'disk_mb' must be a number from 1 to 1.04858e+06"),
        (request("resources", disk_mb=(1 << 20) + 1), "resources: 'disk_mb' must be a number from 1 to 1.04858e+06"),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_declarations_that_can_never_be_granted(asked, fault):
    assert request_fault(asked, "alpha") == fault


def test_long_and_invisible_texts_are_no_parameters():
    for item in ("a" * 257, "a\x1bb", "a\u202eb", None, ["x"]):
        for kind, name in NAMED.items():
            assert PLAIN in request_fault(request(kind, **{name: [item]}), "alpha"), (kind, item)


@pytest.mark.parametrize(
    ("ports", "valid"),
    [
        ([1], True), ([65535], True), ([80, 443], True), ([0], False), ([65536], False), ([-1], False), ([True], False),
        (["80"], False), ("80", False), (80, False), ([1.5], False), ([1] * MAX_ITEMS, True), ([1] * (MAX_ITEMS + 1), False),
    ],
)  # fmt: skip
def test_ports_are_a_short_list_of_port_numbers(ports, valid):
    fault = KINDS["network"].params["ports"](ports, "alpha")
    assert fault == ("" if valid else "must be a list of port numbers")


@pytest.mark.parametrize(
    ("kind", "privilege"),
    [
        ("host.notify", True),
        ("host.x.y", True),
        ("host.", False),
        ("host", False),
        ("hosts.x", False),
        ("x.host.y", False),
    ],
)
def test_what_is_a_privilege(kind, privilege):
    assert is_privilege(kind) is privilege
    if privilege:
        assert withheld_reason(request(kind)) == "Operations of the host are granted one by one: rumi privilege grant."


@pytest.mark.parametrize(
    ("key", "needed"),
    [
        ("flow.hooks.before", "flow.modify"), ("flow.hooks.", "flow.modify"), ("flow.hooks.a.b", "flow.modify"),
        ("flow.hooks", ""), ("flow.error_handler", "flow.modify"), ("flow.error_handler.x", ""), ("flow.modifier", "flow.modify"),
        ("flow.construct.x", "flow.modify"), ("io.http.get", "http.serve"), ("io.http", ""), ("service.alpha", ""),
        ("my.flow.hooks.x", ""),
    ],
)  # fmt: skip
def test_keys_that_mean_something_to_the_host(key, needed):
    assert host_key_permission(key) == needed
    assert TOPIC_SEPARATOR == "\0"
    assert len(HOST_KEYS) >= 5


def test_a_description_carries_everything_for_the_decision():
    asked = request("interface.replace", "I must", keys=["a"])
    assert describe(asked) == {
        "type": "interface.replace", "keys": ["a"], "reason": "I must", "risk": "high", "grantable": True, "plain": False,
        "words": dict(KINDS["interface.replace"].words), "note": "A plain approval leaves it out; name it when approving.",
    }  # fmt: skip
    assert describe(request("event.publish", topics=["a"]))["plain"] is True
    assert describe(request("event.publish", topics=["a"]))["note"] == ""
    unknown = describe(request("host.notify"))
    assert (unknown["risk"], unknown["grantable"], unknown["plain"]) == ("high", False, False)
    assert unknown["words"] == {"en": "has the host act on the machine", "ja": "ホストにこのマシン上の操作をさせます"}
    assert withheld_reason(request("no.such")) == "This type of permission is unknown."


def metadata(*permissions: PermissionRequest, provides=(), requires=(), uses=()) -> PackMetadata:
    edges = Connectivity(provides=tuple(provides), requires=tuple(requires), uses=tuple(uses))
    return PackMetadata("alpha", "local:alpha", "1", "uuid", connectivity=edges, permissions=permissions)


def test_edges_come_from_everything_that_names_them():
    asked = requests_of(
        metadata(
            request("event.publish", topics=["t"]),
            request("interface.call", "I call", keys=["named", 7, "own"]),
            request("interface.call", "again", keys=["other"]),
            request("interface.call", "without"),
            provides=["own"],
            requires=["needed", "own"],
            uses=["used"],
        )
    )
    assert asked == (
        request("event.publish", topics=["t"]),
        request("interface.call", "I call", keys=["named", "needed", "other", "used"]),
    )
    assert requests_of(metadata(uses=["b"], requires=["a"])) == (request("interface.call", "", keys=["a", "b"]),)
    assert requests_of(metadata(request("x", "not of the edges"), uses=["b"]))[1].reason == ""
    assert requests_of(metadata(provides=["own"], requires=["own"])) == ()


def test_forbidden_names_every_fault():
    bad = metadata(
        request("userdata.read", paths=["flows/x"]), request("no.such"), request("event.publish", topics=["a"])
    )
    assert forbidden(bad) == (
        f"userdata.read: 'paths' holds 'flows/x', which {OPERATOR}",
        "permission type 'no.such' is unknown",
    )
    assert forbidden(metadata()) == ()


def test_rights_are_narrowed_by_what_the_running_version_declares():
    granted = grant(since=("service.alpha", "service.old"))
    assert rights_of(metadata(provides=["service.alpha", "service.new"]), granted).provides == {"service.alpha"}


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_operators_list_is_read_as_types_and_objects():
    given = Choice("x", None, Mode.ONCE)
    assert parse_choices([given, "a", {"type": "b"}]) == (given, Choice("a"), Choice("b"))
    assert parse_choices([{"type": "b", "paths": ["x"], "mode": "once", "reason": "ignored"}]) == (
        Choice("b", MappingProxyType({"paths": ("x",)}), Mode.ONCE),
    )
    assert parse_choices([{"type": "b", "until": 5}]) == (Choice("b", None, Mode.UNTIL, 5),)
    assert parse_choices([{"type": "b", "mode": "until", "until": 5.5}]) == (Choice("b", None, Mode.UNTIL, 5.5),)
    assert parse_choices(["b"], default_until=7.0) == (Choice("b", None, Mode.UNTIL, 7.0),)
    assert parse_choices([{"type": "b", "until": 5}], default_until=7.0) == (Choice("b", None, Mode.UNTIL, 5),)
    assert len(parse_choices(["b"] * (MAX_ITEMS * 4))) == MAX_ITEMS * 4


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["b"] * (MAX_ITEMS * 4 + 1), "the list is too long."),
        ([7], "'7' is neither a type's name nor an object with a type."),
        ([{}], "is neither a type's name nor an object with a type."),
        ([{"type": 7}], "is neither a type's name nor an object with a type."),
        ([["x"]], "is neither a type's name nor an object with a type."),
        ([{"type": "b", "mode": "later"}], "'later' is no mode; expected one of always, once, restart, until."),
        ([{"type": "b", "mode": "until"}], "must be a time in seconds exactly when the mode is 'until'."),
        ([{"type": "b", "mode": "once", "until": 5}], "must be a time in seconds exactly when the mode is 'until'."),
        ([{"type": "b", "mode": "always", "until": 5}], "must be a time in seconds exactly when the mode is 'until'."),
        ([{"type": "b", "until": "5"}], "must be a time in seconds exactly when the mode is 'until'."),
        ([{"type": "b", "until": True}], "must be a time in seconds exactly when the mode is 'until'."),
        ([{"type": "b", "until": float("nan")}], "must be a time in seconds exactly when the mode is 'until'."),
        ([{"type": "b", "until": float("inf")}], "must be a time in seconds exactly when the mode is 'until'."),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_list_that_can_not_be_read_is_a_bad_request(items, said):
    with pytest.raises(RequestError) as refused:
        parse_choices(items)
    assert refused.value.code == "permissions_invalid"
    assert refused.value.detail.endswith(said)


DECLARED = (
    request("userdata.read", paths=["shared/notes/**", "shared/a.txt"]),
    request("userdata.read", paths=["shared/more/*"]),
    request("event.publish", topics=["news.*", "news.*.late"]),
    request("interface.call", keys=["a", "b"]),
    request("interface.replace", keys=["c"]),
    request("resources", memory_mb=512, cpu=2),
    request("resources", memory_mb=256, pids=64),
    request("host.notify"),
)


def chosen(*choices: Any, until: float | None = None):
    return decide(DECLARED, parse_choices(choices) if choices else None, instance="run-1", until=until)


def test_without_choices_everything_plain_is_granted_and_the_rest_said():
    decision = chosen()
    assert [p.type for p in decision.granted] == [
        "userdata.read", "userdata.read", "event.publish", "interface.call", "resources", "resources",
    ]  # fmt: skip
    assert {(p.mode, p.until, p.instance) for p in decision.granted} == {(Mode.ALWAYS, None, "")}
    assert {w.type: w.reason for w in decision.withheld} == {
        "interface.replace": "A plain approval leaves it out; name it when approving.",
        "host.notify": "Operations of the host are granted one by one: rumi privilege grant.",
    }
    assert {(p.mode, p.until) for p in chosen(until=9.0).granted} == {(Mode.UNTIL, 9.0)}


def test_with_choices_only_those_are_granted():
    decision = chosen("event.publish")
    assert decision.granted == (held("event.publish", topics=["news.*", "news.*.late"]),)
    assert {w.type: w.reason for w in decision.withheld}["interface.call"] == "Not chosen."
    assert "event.publish" not in {w.type for w in decision.withheld}
    assert decide(DECLARED, [], instance="").granted == ()


@pytest.mark.parametrize(
    ("choice", "params"),
    [
        ("userdata.read", {"paths": ("shared/notes/**", "shared/a.txt", "shared/more/*")}),
        ("resources", {"memory_mb": 512, "cpu": 2, "pids": 64}),
        ({"type": "userdata.read", "paths": ["shared/notes/**"]}, {"paths": ("shared/notes/**",)}),
        ({"type": "userdata.read", "paths": ["shared/notes/x/y"]}, {"paths": ("shared/notes/x/y",)}),
        (
            {"type": "userdata.read", "paths": ["shared/a.txt", "shared/more/b"]},
            {"paths": ("shared/a.txt", "shared/more/b")},
        ),
        ({"type": "event.publish", "topics": ["news.today"]}, {"topics": ("news.today",)}),
        ({"type": "interface.call", "keys": ["b"]}, {"keys": ("b",)}),
        ({"type": "resources", "memory_mb": 512}, {"memory_mb": 512}),
        ({"type": "resources", "memory_mb": 1.5, "pids": 64}, {"memory_mb": 1.5, "pids": 64}),
    ],
    ids=str,
)
def test_a_choice_may_narrow_what_is_declared(choice, params):
    [permission] = chosen(choice).granted
    assert dict(permission.params) == params


WIDER, UNDECLARED, UNENFORCEABLE = "permission_wider", "permission_undeclared", "permission_unenforceable"


@pytest.mark.parametrize(
    ("choice", "code"),
    [
        ("event.subscribe", UNDECLARED), ("no.such", UNDECLARED), ("host.notify", UNENFORCEABLE),
        ({"type": "userdata.read", "paths": ["shared/**"]}, WIDER),
        ({"type": "userdata.read", "paths": ["shared/b.txt"]}, WIDER),
        ({"type": "userdata.read", "paths": ["shared/notes/*"]}, WIDER),
        ({"type": "userdata.read", "paths": ["shared/notes/?"]}, WIDER),
        ({"type": "userdata.read", "paths": ["shared/notes/../x"]}, WIDER),
        ({"type": "userdata.read", "paths": ["shared/notes/a", "flows/x"]}, WIDER),
        ({"type": "userdata.read", "paths": "shared/a.txt"}, WIDER),
        ({"type": "userdata.read", "paths": []}, WIDER),
        ({"type": "userdata.read", "paths": [1.5]}, WIDER),
        ({"type": "userdata.read", "keys": ["a"]}, WIDER),
        ({"type": "event.publish", "topics": ["olds.today"]}, WIDER),
        ({"type": "interface.call", "keys": ["c"]}, WIDER),
        ({"type": "interface.call", "keys": ["a", "c"]}, WIDER),
        ({"type": "interface.call", "keys": "ab"}, WIDER),
        ({"type": "interface.call", "keys": 5}, WIDER),
        ({"type": "resources", "memory_mb": 513}, WIDER),
        ({"type": "resources", "memory_mb": True}, WIDER),
        ({"type": "resources", "memory_mb": "1"}, WIDER),
        ({"type": "resources", "disk_mb": 1}, WIDER),
    ],
    ids=str,
)  # fmt: skip
def test_a_choice_never_widens(choice, code):
    with pytest.raises(DeniedError) as refused:
        chosen(choice)
    assert refused.value.code == code
    assert dict(refused.value.fields) == {"type": choice if isinstance(choice, str) else choice["type"]}


def test_an_empty_declaration_grants_nothing_that_needs_a_name():
    with pytest.raises(DeniedError) as refused:
        decide([request("userdata.read")], parse_choices(["userdata.read"]), instance="")
    assert refused.value.code == WIDER
    assert refused.value.detail == "'userdata.read' can't be granted: paths is missing"


def test_a_union_never_takes_more_than_one_declaration_of_a_number():
    assert chosen({"type": "resources", "memory_mb": 512, "pids": 64, "cpu": 2}).granted[0].params["memory_mb"] == 512
    declared = [request("resources", cpu=1), request("resources", cpu=3), request("resources", cpu=2)]
    [permission] = decide(declared, parse_choices(["resources"]), instance="").granted
    assert dict(permission.params) == {"cpu": 3}
    paths = [request("userdata.read", paths=["s/a", "s/b"]), request("userdata.read", paths=["s/b", "s/c"])]
    [permission] = decide(paths, parse_choices(["userdata.read"]), instance="").granted
    assert permission.params["paths"] == ("s/a", "s/b", "s/c")
    [permission] = decide(
        paths, parse_choices([{"type": "userdata.read", "paths": ["s/a", "s/c"]}]), instance=""
    ).granted
    assert permission.params["paths"] == ("s/a", "s/c")


def test_refusals_name_the_type_and_the_reason():
    for choice, detail in (
        ("event.subscribe", "'event.subscribe' can't be granted: it was not declared by the Pack"),
        (
            {"type": "interface.call", "keys": ["z"]},
            "'interface.call' can't be granted: it is wider than what the Pack declared",
        ),
    ):
        with pytest.raises(DeniedError) as refused:
            chosen(choice)
        assert refused.value.detail == detail
    for choice, detail in (
        ("userdata.write", "'userdata.write' can't be granted: the Pack does not hold it"),
        (
            {"type": "interface.call", "keys": ["z"]},
            "'interface.call' can't be granted: it is wider than what the Pack holds",
        ),
    ):
        with pytest.raises(DeniedError) as refused:
            narrow(HELD, parse_choices([choice]), spent=())
        assert refused.value.detail == detail


def test_until_restart_is_bound_to_the_run_of_the_host():
    [permission] = chosen({"type": "interface.call", "mode": "restart"}).granted
    assert (permission.mode, permission.instance) == (Mode.RESTART, "run-1")
    for mode in ("once", "always"):
        [permission] = chosen({"type": "interface.call", "mode": mode}).granted
        assert (permission.mode.value, permission.instance) == (mode, "")


# --- taking away ------------------------------------------------------------------------------------------------------

CALLS = held("interface.call", keys=("a", "b"))
ONCE = held("interface.call", Mode.ONCE, keys=("c",))
TIMED = held("userdata.read", Mode.UNTIL, 50.0, paths=("shared/**",))
SESSION = held("event.publish", Mode.RESTART, None, "run-1", topics=("x",))
HELD = (CALLS, ONCE, TIMED, SESSION)


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ("interface.call", [CALLS, ONCE]),
        ("userdata.read", [TIMED]),
        ("event.publish", [SESSION]),
        ({"type": "interface.call", "keys": ["a"]}, [held("interface.call", keys=("a",))]),
        ({"type": "interface.call", "keys": ["c"]}, [ONCE]),
        ({"type": "interface.call", "keys": ["a"], "mode": "once"}, [held("interface.call", Mode.ONCE, keys=("a",))]),
        ({"type": "interface.call", "keys": ["c"], "mode": "once"}, [ONCE]),
        ({"type": "interface.call", "keys": ["a"], "until": 9}, [held("interface.call", Mode.UNTIL, 9, keys=("a",))]),
        (
            {"type": "userdata.read", "paths": ["shared/x"]},
            [held("userdata.read", Mode.UNTIL, 50.0, paths=("shared/x",))],
        ),
        ({"type": "userdata.read", "until": 50.0}, [TIMED]),
        ({"type": "userdata.read", "until": 49}, [held("userdata.read", Mode.UNTIL, 49, paths=("shared/**",))]),
        ({"type": "event.publish", "mode": "restart"}, [SESSION]),
    ],
    ids=str,
)
def test_less_of_what_is_held(choice, left):
    assert list(narrow(HELD, parse_choices([choice]), spent=())) == left


@pytest.mark.parametrize(
    "choice",
    [
        "userdata.write",
        {"type": "interface.call", "keys": ["d"]},
        {"type": "interface.call", "keys": ["a", "c"]},
        {"type": "interface.call", "keys": ["a"], "mode": "restart"},
        {"type": "interface.call", "keys": ["c"], "until": 9},
        {"type": "userdata.read", "until": 50.5},
        {"type": "userdata.read", "mode": "once"},
        {"type": "userdata.read", "mode": "restart"},
        {"type": "event.publish", "mode": "once"},
        {"type": "event.publish", "until": 5},
    ],
    ids=str,
)
def test_nothing_that_is_not_held_and_nothing_that_lasts_longer(choice):
    with pytest.raises(DeniedError) as refused:
        narrow(HELD, parse_choices([choice]), spent=())
    assert refused.value.code == WIDER


def test_what_is_used_up_can_not_be_kept():
    assert unspent(HELD, [1]) == (CALLS, TIMED, SESSION)
    assert unspent(HELD, [0, 2, 3]) == HELD
    assert narrow(HELD, parse_choices(["interface.call"]), spent=[1]) == (CALLS,)
    with pytest.raises(DeniedError):
        narrow((ONCE,), parse_choices(["interface.call"]), spent=[0])


# --- using ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permission", "kind", "params", "item"),
    [
        (held("userdata.read", paths=["shared/**", "x/*"]), "userdata.read", {"path": "shared/a/b"}, "shared/**"),
        (held("userdata.read", paths=["shared/**", "x/*"]), "userdata.read", {"path": "x/b"}, "x/*"),
        (held("userdata.read", paths=["x/*"]), "userdata.read", {"path": "x/b/c"}, ""),
        (held("userdata.read", paths=["x/*"]), "userdata.write", {"path": "x/b"}, ""),
        (held("userdata.read", paths=["x/*"]), "userdata.read", {"key": "x/b"}, ""),
        (held("userdata.write", paths=["x/*"]), "userdata.write", {"path": "x/b"}, "x/*"),
        (held("interface.call", keys=["a*"]), "interface.call", {"key": "ab"}, ""),
        (held("interface.call", keys=["a", "b"]), "interface.call", {"key": "b"}, "b"),
        (held("interface.replace", keys=["a"]), "interface.replace", {"key": "a"}, "a"),
        (held("event.publish", topics=["n.*"]), "event.publish", {"topic": "n.a.b"}, "n.*"),
        (held("event.publish", topics=["n.*"]), "event.publish", {"topic": "n/a"}, ""),
        (held("event.publish", topics=["n/*"]), "event.publish", {"topic": "n/a/b"}, "n/*"),
        (held("event.subscribe", topics=["n.*"]), "event.subscribe", {"topic": "n.a"}, "n.*"),
        (held("resources", cpu=1), "resources", {}, ""),
        (held("resources", paths=["x"]), "resources", {"path": "x"}, ""),
        (held("userdata.read"), "userdata.read", {"path": "x"}, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_one_use_is_covered_by(permission, kind, params, item):
    assert covering_item(permission, kind, params) == item
    assert covers_use(permission, kind, params) is bool(item)


def test_items_whose_uses_are_counted():
    assert items_of(held("userdata.read", paths=["a", "b"])) == ("a", "b")
    assert items_of(held("interface.call", keys=["k"])) == ("k",)
    assert items_of(held("event.subscribe", topics=["t"])) == ("t",)
    assert items_of(held("resources", cpu=1)) == ()


def test_a_timed_permission_ends_at_its_time():
    timed = held("x", Mode.UNTIL, 50.0)
    assert in_force(timed, now=49.9)
    assert not in_force(timed, now=50.0)
    assert not in_force(held("x", Mode.UNTIL, None), now=0.0)
    for mode in (Mode.ALWAYS, Mode.ONCE, Mode.RESTART):
        assert in_force(held("x", mode), now=1e12)


def test_rights_are_what_lasts():
    rights = rights_of(
        None,
        grant(
            held("interface.call", keys=["a", "b"]), held("interface.call", Mode.ONCE, keys=["once"]),
            held("interface.call", Mode.UNTIL, 5.0, keys=["timed"]), held("interface.call", Mode.RESTART, keys=["session"]),
            held("event.publish", topics=["n.*"]), held("event.subscribe", topics=["m.*"]),
            held("interface.replace", keys=["c"]),
            since=("service.alpha", "flow.modifier", "io.http.get"),
        ),
    )  # fmt: skip
    assert rights == Rights(
        frozenset({"service.alpha"}), frozenset({"a", "b", "session"}), ("n.*",), ("m.*",), frozenset({"c"})
    )
    assert rights.may_call("a")
    assert rights.may_call("service.alpha")
    assert not rights.may_call("once")
    assert rights.may_register("service.alpha")
    assert not rights.may_register("a")
    assert not rights.may_register("flow.modifier")
    assert (rights.may_publish("n.x.y"), rights.may_publish("m.x"), rights.may_publish("n/x")) == (True, False, False)
    assert (rights.may_subscribe("m.x"), rights.may_subscribe("n.x"), rights.may_subscribe("m.*")) == (
        True,
        False,
        True,
    )
    wide = Rights(publish=("*",), subscribe=("*",))
    assert wide.may_publish("a/b.c")
    assert wide.may_subscribe("a/b.c")
    assert Rights() == rights_of(None, grant(since=()))


def test_keys_of_the_host_need_their_permission_beside_the_declaration():
    wanted = ("flow.modifier", "io.http.get")
    assert rights_of(None, grant(held("flow.modify", flows=["*"]), since=wanted)).provides == {"flow.modifier"}
    assert rights_of(None, grant(held("http.serve", routes=["/"]), since=wanted)).provides == {"io.http.get"}
    assert rights_of(None, grant(held("flow.modify", Mode.ONCE, flows=["*"]), since=wanted)).provides == frozenset()


def test_granted_resources_are_taken_together():
    found = resources_of(
        grant(
            held("resources", memory_mb=512), held("resources", Mode.RESTART, cpu=2), held("resources", Mode.ONCE, pids=9),
            held("interface.call", keys=["a"]),
        ), now=0.0
    )  # fmt: skip
    assert dict(found) == {"memory_mb": 512, "cpu": 2}


def test_resources_for_a_time_hold_until_then():
    timed = grant(held("resources", Mode.UNTIL, 100.0, memory_mb=512))
    assert dict(resources_of(timed, now=99.9)) == {"memory_mb": 512}
    assert dict(resources_of(timed, now=100.0)) == {}


def test_a_key_of_the_host_may_be_registered_by_a_right_for_a_time():
    timed = held("flow.modify", Mode.UNTIL, 100.0, flows=["*"])
    assert rights_of(None, grant(timed, since=("flow.modifier",))).provides == {"flow.modifier"}


def test_answers_carry_their_code():
    assert Allow().index == -1
    denied = Deny("because", "do this", "some_code")
    error = denied.error()
    assert (error.code, error.detail, error.hint) == ("some_code", "because", "do this")
    assert (Deny("x").code, Deny("x").hint) == ("denied", "")
    assert {"KINDS", "host_key_permission", "path_fault", "protected_fault"} < set(rules.__all__)
    assert all(hasattr(rules, name) for name in rules.__all__)


REPLACING = Choice("interface.replace", freeze({"keys": ("a.b",)}))
ASKED = (request("userdata.read", paths=("shared/**",)), request("secret", names=("token",)), request("interface.replace", keys=("a.b", "c.d")))


def test_keys_to_take_over_come_beside_what_was_chosen():
    assert with_replaced(ASKED, None, (), None) is None
    chosen = [Choice("secret", freeze({"names": ("token",)}))]
    assert with_replaced(ASKED, chosen, (), 5.0) is chosen
    assert with_replaced(ASKED, chosen, ("a.b",), None) == [*chosen, REPLACING]
    assert with_replaced(ASKED, [], ("a.b",), None) == [REPLACING]


@pytest.mark.parametrize(("until", "mode"), [(None, Mode.ALWAYS), (50.0, Mode.UNTIL)])
def test_keys_to_take_over_come_beside_what_is_plain_for_as_long(until, mode):
    plain = Choice("userdata.read", ASKED[0].params, mode, until)
    replacing = Choice("interface.replace", freeze({"keys": ("a.b",)}), mode, until)
    assert with_replaced(ASKED, None, ("a.b",), until) == [plain, replacing]
    granted = decide(ASKED, [plain, replacing], instance="i").granted
    assert [(p.type, p.mode, p.until) for p in granted] == [("userdata.read", mode, until), ("interface.replace", mode, until)]


@pytest.mark.parametrize("kind", ["interface.replace", "flow.modify", "resources"])
def test_what_lasts_has_no_single_use(kind):
    params = {"interface.replace": {"keys": ("a.b",)}, "flow.modify": {"flows": ("x",)}, "resources": {"pids": 2}}[kind]
    with pytest.raises(DeniedError) as refused:
        decide([request(kind, **params)], [Choice(kind, mode=Mode.ONCE)], instance="i")
    assert (refused.value.code, refused.value.fields) == ("permission_lasting", {"type": kind})
    assert refused.value.detail.startswith(f"'{kind}' can't be granted: it is no single act")
    with pytest.raises(DeniedError):
        narrow([held(kind, **params)], [Choice(kind, mode=Mode.ONCE)], spent=())
    assert not in_force(held(kind, Mode.ONCE, **params), now=0.0)
    assert items_of(held(kind, **params)) == ()
    for mode in (Mode.RESTART, Mode.UNTIL):
        decide([request(kind, **params)], [Choice(kind, mode=mode, until=1.0 if mode is Mode.UNTIL else None)], instance="i")


@pytest.mark.parametrize(
    ("kind", "field"),
    [
        ("userdata.read", "path"), ("userdata.write", "path"), ("interface.call", "key"), ("interface.replace", "key"),
        ("event.publish", "topic"), ("event.subscribe", "topic"), ("secret", "name"), ("flow.run", "flow"),
        ("flow.modify", "flow"), ("addon.apply", "target"),
    ],
)  # fmt: skip
def test_a_use_names_what_it_is_about_and_nothing_else_stands_for_it(kind, field):
    held = Permission(kind, freeze({f"{field}s": ["a"]}))
    assert rules.covering_item(held, kind, {field: "a"}) == "a"
    assert rules.covering_item(held, kind, {field: "b"}) == ""
    for other in {"path", "key", "topic", "name", "flow", "target", f"{field}s"} - {field}:
        assert rules.covering_item(held, kind, {other: "a"}) == ""

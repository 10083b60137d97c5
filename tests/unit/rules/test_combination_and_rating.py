"""Which permissions together let data out, over which path, and what that and everything else costs in the rating."""

from __future__ import annotations

from types import MappingProxyType

import pytest

from backend_core.ecosystem.spec.models import PermissionRequest
from core_runtime.rules.combination import (
    EXTERNAL,
    PRIVATE,
    PRIVILEGE_LABELS,
    UNTRUSTED,
    Combination,
    PackNode,
    combination,
    labels_of,
    with_supplier,
)
from core_runtime.rules.findings import Finding
from core_runtime.rules.grants import Grant, Permission
from core_runtime.rules.permissions import KINDS
from core_runtime.rules.rating import rate
from core_runtime.rules.sandbox import DriverKind, Isolation, Level


def node(pack_id, *labels, provides=(), calls=()):
    return PackNode(pack_id, frozenset(provides), frozenset(calls), frozenset(labels))


def request(kind, reason="because", **params):
    return PermissionRequest(kind, reason, MappingProxyType(params))


def test_the_words_of_the_labels():
    assert (PRIVATE, UNTRUSTED, EXTERNAL) == ("private-data", "untrusted-input", "external-communication")
    for kind in KINDS.values():
        assert kind.labels <= {PRIVATE, UNTRUSTED, EXTERNAL}
    assert all(labels == {EXTERNAL} for labels in PRIVILEGE_LABELS.values())
    assert {"host.file.export", "host.open_url"} <= set(PRIVILEGE_LABELS)


@pytest.mark.parametrize(
    ("types", "labels"),
    [
        ([], set()),
        (["userdata.read"], {PRIVATE}),
        (["host.open_url"], {EXTERNAL}),
        (["host.file.export"], {EXTERNAL}),
        (["host.notify"], set()),
        (["never.heard.of"], set()),
        (["userdata.read", "host.open_url"], {PRIVATE, EXTERNAL}),
    ],
)
def test_labels_of_permissions(types, labels):
    assert labels_of(types) == labels


@pytest.mark.parametrize(
    ("subject", "others", "found"),
    [
        # one label alone, or two without a way out, or without private data: no risk
        (node("a", PRIVATE), [], None),
        (node("a", EXTERNAL), [], None),
        (node("a", PRIVATE, UNTRUSTED), [], None),
        (node("a", EXTERNAL, UNTRUSTED), [], None),
        # all in one Pack
        (node("a", PRIVATE, EXTERNAL), [], {PRIVATE: ("a",), EXTERNAL: ("a",)}),
        # over an edge in either direction
        (node("a", PRIVATE, calls=["k"]), [node("b", EXTERNAL, provides=["k"])], {PRIVATE: ("a",), EXTERNAL: ("a", "b")}),
        (node("a", PRIVATE, provides=["k"]), [node("b", EXTERNAL, calls=["k"])], {PRIVATE: ("a",), EXTERNAL: ("a", "b")}),
        # no edge, no path
        (node("a", PRIVATE, calls=["k"]), [node("b", EXTERNAL, provides=["other"])], None),
        (node("a", PRIVATE, calls=["k"]), [node("b", EXTERNAL, calls=["k"])], None),
        # over a Pack between them that carries nothing itself
        (
            node("a", PRIVATE, calls=["k"]),
            [node("b", provides=["k"], calls=["l"]), node("c", EXTERNAL, UNTRUSTED, provides=["l"])],
            {PRIVATE: ("a",), EXTERNAL: ("a", "b", "c"), UNTRUSTED: ("a", "b", "c")},
        ),
        # the shortest path is shown, and the first by name among equals
        (
            node("a", PRIVATE, calls=["k", "m"]),
            [
                node("b", provides=["k"], calls=["l"]),
                node("d", EXTERNAL, provides=["m"]),
                node("c", EXTERNAL, provides=["l", "m"]),
            ],
            {PRIVATE: ("a",), EXTERNAL: ("a", "c")},
        ),
        # the nearest holder of a label counts, not a later one
        (
            node("a", PRIVATE, EXTERNAL, calls=["k"]),
            [node("b", PRIVATE, EXTERNAL, provides=["k"])],
            {PRIVATE: ("a",), EXTERNAL: ("a",)},
        ),
        # what is asked for now replaces what the same Pack holds already
        (node("a", PRIVATE), [node("a", PRIVATE, EXTERNAL)], None),
    ],
)  # fmt: skip
def test_paths_to_a_way_out(subject, others, found):
    risk = combination(subject, others)
    if found is None:
        assert risk is None
    else:
        assert risk is not None
        assert dict(risk.paths) == found
        assert risk.labels == tuple(sorted(found))
        assert list(risk.paths) == sorted(found)
        assert risk.complete is (len(found) == 3)


def test_a_flow_joins_whom_it_calls_and_who_supplied_its_steps():
    flow = PackNode.flow("shop.order", ["k"], ["b"])
    assert flow == PackNode("flow shop.order", frozenset(), frozenset({"k"}), frozenset(), frozenset({"b"}))
    one, other = node("a", PRIVATE, provides=["k"]), node("b", EXTERNAL)
    risk = combination(one, [other, flow])
    assert risk is not None
    assert risk.paths[EXTERNAL] == ("a", "flow shop.order", "b")
    risk = combination(other, [one, flow])  # from either end
    assert risk is not None
    assert risk.paths[PRIVATE] == ("b", "flow shop.order", "a")
    assert combination(one, [other]) is None
    assert combination(one, [other, PackNode.flow("shop.order", ["k"], ["c"])]) is None
    assert combination(one, [other, PackNode.flow("shop.order", ["l"], ["b"])]) is None


@pytest.mark.parametrize(
    ("targets", "changed"),
    [
        ([], set()),
        (["shop.order"], {"shop.order"}),
        (["shop.*"], {"shop.order", "shop.refund"}),
        (["*.order"], {"shop.order"}),
        (["*"], {"shop.order", "shop.refund"}),  # dots are no borders in an id
        (["nothing.of.it", "shop.refund"], {"shop.refund"}),
        (["flow shop.order"], set()),  # the id alone names a flow
        (["shop"], set()),
    ],
)
def test_a_pack_joins_exactly_the_flows_that_it_would_change(targets, changed):
    flows = [PackNode.flow("shop.order", ["k"], ["b"]), PackNode.flow("shop.refund", ["l"], [])]
    found = with_supplier(flows, "a", targets)
    for before, after in zip(flows, found, strict=True):
        joins = before.pack_id.removeprefix("flow ") in changed
        assert after.members == before.members | ({"a"} if joins else set())
        assert (after.pack_id, after.calls, after.provides, after.labels) == (
            before.pack_id, before.calls, frozenset(), frozenset(),
        )  # fmt: skip


def test_the_sentence_names_each_label_with_its_path():
    risk = Combination((EXTERNAL, PRIVATE), {PRIVATE: ("a",), EXTERNAL: ("a", "b")})
    assert risk.sentence() == ("Together these can carry data out. external-communication: a → b; private-data: a")


def test_what_a_grant_and_what_a_declaration_contribute():
    grant = Grant(
        "alpha", "local:alpha", "1", "sha256:0", 1, "e", Isolation(DriverKind.EMBEDDED, Level.STANDARD), 0.0, 0.0, "me",
        permissions=(
            Permission("userdata.read", {"paths": ("a",)}),
            Permission("interface.call", {"keys": ("k", "l")}),
            Permission("event.publish", {"keys": ("not.an.edge",)}),
        ),
        since={"service.alpha": 1.0},
    )  # fmt: skip
    assert PackNode.of(grant) == node("alpha", PRIVATE, provides=["service.alpha"], calls=["k", "l"])
    asked = [
        request("userdata.read", paths=("a",)),
        request("interface.call", keys=("k", "l")),
        request("x", keys=("z",)),
    ]
    assert PackNode.asked("alpha", frozenset({"s"}), asked) == node("alpha", PRIVATE, provides=["s"], calls=["k", "l"])
    assert PackNode.asked("alpha", frozenset(), [request("interface.call")]) == node("alpha")


# --- rating -----------------------------------------------------------------------------------------------------------


def lines(*requests, findings=(), replaces=(), risk=None):
    return rate(requests, findings, replaces=replaces, risk=risk)


def test_a_pack_that_asks_for_nothing_has_all_points():
    rating = lines()
    assert (rating.score, rating.grade, rating.deductions) == (100, "A", ())


@pytest.mark.parametrize(
    ("kind", "points"),
    [("event.publish", 2), ("event.subscribe", 8), ("interface.replace", 20), ("host.anything", 20), ("not.known", 20)],
)
def test_each_type_costs_its_risk_once_and_says_so(kind, points):
    rating = lines(request(kind), request(kind))
    [line] = rating.deductions
    assert (rating.score, line.points) == (100 - points, points)
    assert line.reason.startswith(f"{kind}: ")
    assert line.reason.endswith(" (2 times)")
    assert line.reason_ja.startswith(f"{kind}: ")
    [single] = lines(request(kind)).deductions
    assert not single.reason.endswith("times)")
    known = KINDS.get(kind)
    assert single.reason == f"{kind}: {known.words['en'] if known else 'has the host act on the machine'}"
    assert single.reason_ja == f"{kind}: {known.words['ja'] if known else 'ホストにこのマシン上の操作をさせます'}"


def test_types_stand_in_order_and_reasons_are_missed_except_for_edges():
    rating = lines(request("event.subscribe", " "), request("event.publish", ""), request("interface.call", ""))
    assert [line.points for line in rating.deductions] == [2, 8, 2, 5]
    assert rating.deductions[-1].reason == "2 permissions without a reason"
    assert rating.deductions[-1].reason_ja == "理由のない権限が 2 件"
    assert [line.points for line in lines(request("interface.call", "")).deductions] == [2]


@pytest.mark.parametrize(
    ("code", "points"),
    [("invisible_text", 25), ("native_code", 20), ("startup_hook", 15), ("bytecode", 10), ("unscannable", 5)],
)
def test_each_kind_of_finding_costs_once(code, points):
    findings = [Finding(code, f"file-{number}", "") for number in range(3)]
    rating = lines(findings=findings)
    [line] = rating.deductions
    assert line.points == points
    assert line.reason.startswith("3 × ")
    assert line.reason_ja.startswith("3 × ")
    assert rating.score == 100 - points
    assert lines(findings=[Finding("something_else", "x", "")]).score == 100


def test_replacing_and_combination_cost():
    rating = lines(replaces=[f"key.{n}" for n in range(7, 0, -1)])
    assert [line.points for line in rating.deductions] == [15]
    assert rating.deductions[0].reason == "provides what other Packs own: key.1, key.2, key.3, key.4, key.5"
    assert rating.deductions[0].reason_ja == "他の Pack が所有する機能を提供: key.1, key.2, key.3, key.4, key.5"
    two = Combination((EXTERNAL, PRIVATE), {EXTERNAL: ("a",), PRIVATE: ("a",)})
    three = Combination((EXTERNAL, PRIVATE, UNTRUSTED), dict.fromkeys((EXTERNAL, PRIVATE, UNTRUSTED), ("a",)))
    for risk, points in ((two, 15), (three, 25)):
        [line] = lines(risk=risk).deductions
        assert (line.points, line.reason) == (points, risk.sentence())


@pytest.mark.parametrize(
    ("deducted", "score", "grade"),
    [
        ([2, 8], 90, "A"), ([2, 8, 5], 85, "B"), ([25], 75, "B"), ([25, 2], 73, "C"), ([25, 20], 55, "C"),
        ([25, 20, 2], 53, "D"), ([25, 20, 25], 30, "D"), ([25, 20, 25, 2], 28, "E"), ([25, 20, 15, 10, 5, 25, 20], 0, "E"),
    ],
)  # fmt: skip
def test_grades_begin_where_the_table_says(deducted, score, grade):
    """Built from what costs exactly that much."""
    kinds = {2: "event.publish", 8: "event.subscribe"}
    codes = {25: "invisible_text", 20: "native_code", 15: "startup_hook", 10: "bytecode"}
    requests, findings, risk = [], [], None
    left = dict(codes)
    for points in deducted:
        if points in kinds:
            requests.append(request(kinds[points]))
        elif points in left:
            findings.append(Finding(left.pop(points), "x", ""))
        elif points == 5:
            findings.append(Finding("unscannable", "x", ""))
        elif points == 25:
            risk = Combination((EXTERNAL, PRIVATE, UNTRUSTED), dict.fromkeys((EXTERNAL, PRIVATE, UNTRUSTED), ("a",)))
        else:
            requests.append(request("interface.replace"))
    rating = lines(*requests, findings=findings, risk=risk)
    assert (rating.score, rating.grade) == (score, grade)

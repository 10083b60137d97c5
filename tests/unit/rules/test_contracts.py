"""What was promised at approval against what comes: schemas, versions, differences."""

from __future__ import annotations

import pytest

from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.spec.models import Contract
from core_runtime.rules.contracts import (
    MAX_CHANGES,
    NO_TERMS,
    ContractBroken,
    Terms,
    contract_changes,
    contract_documents,
    satisfies,
)

TEXT = {"type": "object", "properties": {"text": {"type": "string"}}}
PINNED = Terms({"k": Contract("1.2.0", freeze(TEXT), None)}, {"other": "^1"})


@pytest.mark.parametrize(
    ("version", "wanted", "met"),
    [
        ("1.4.2", "^1.2", True), ("2.0.0", "^1.2", False), ("1.2.0", ">=1,<2", True), ("", "*", True), ("", "^1", False),
        ("1.2.0", "nonsense", False), ("nonsense", "*", False), ("1.0.0-rc.1", ">=1", False),
    ],
)  # fmt: skip
def test_a_version_is_in_a_range_or_not_and_what_can_not_be_read_is_not(version, wanted, met):
    assert satisfies(version, wanted) is met


def test_without_a_range_everything_is_admitted():
    assert NO_TERMS.admits("k", "")
    assert PINNED.admits("k", "")
    assert PINNED.admits("other", "1.9.9")
    assert not PINNED.admits("other", "2.0.0")
    assert PINNED.why_not("other", "2.0.0", "store") == (
        "'other' is needed in version ^1, but the Pack 'store' states version 2.0.0."
    )


def test_the_declared_schema_counts_whether_the_same_one_or_none_comes():
    assert PINNED.pinned("k", {"input": {**TEXT}}, callable_=True) == (TEXT, None)
    assert PINNED.pinned("k", {}, callable_=True) == (TEXT, None)
    assert PINNED.version("k") == "1.2.0"


@pytest.mark.parametrize("came", [{**TEXT, "type": "array"}, True, {}, {"x": b"bytes"}, {"n": 2**70}, [TEXT]])
def test_another_schema_is_refused(came):
    with pytest.raises(ContractBroken, match="another than"):
        PINNED.pinned("k", {"input": came}, callable_=True)


def test_data_has_no_schema_of_calls():
    with pytest.raises(ContractBroken, match="data"):
        PINNED.pinned("k", {}, callable_=False)
    assert PINNED.pinned("free", {}, callable_=False) == (None, None)
    only_a_version = Terms({"k": Contract("1.0.0")})
    assert only_a_version.pinned("k", {"input": TEXT}, callable_=True) == (TEXT, None)


def test_what_is_not_declared_may_come_with_the_registration():
    assert PINNED.pinned("k", {"output": {"type": "string"}}, callable_=True) == (TEXT, {"type": "string"})


def test_an_update_says_place_by_place_what_it_promises_otherwise():
    after = {
        "type": "object", "properties": {"text": {"type": "string", "maxLength": 5}, "a/b~": {}}, "required": ["text"],
    }  # fmt: skip
    (change,) = contract_changes(PINNED.contracts, {"k": Contract("2.0.0", freeze(after), freeze({"type": "null"}))})
    assert (change.key, change.before, change.after, change.more) == ("k", "1.2.0", "2.0.0", False)
    assert [tuple(part.values()) for part in change.parts] == [
        ("input", "/properties/a~1b~0", "", "{}"),
        ("input", "/properties/text/maxLength", "", "5"),
        ("input", "/required", "", '["text"]'),
        ("output", "", "", '{"type": "null"}'),
    ]


def test_a_one_is_not_a_true_and_what_is_gone_is_told():
    one, true = Contract("1.0.0", freeze({"const": 1})), Contract("1.0.0", freeze({"const": True}))
    (change,) = contract_changes({"k": one}, {"k": true})
    assert [tuple(part.values()) for part in change.parts] == [("input", "/const", "1", "true")]
    (gone,) = contract_changes({"k": one}, {})
    assert (gone.before, gone.after, gone.parts[0]["after"]) == ("1.0.0", "", "")
    assert contract_changes({"k": one}, {"k": Contract("1.0.0", freeze({"const": 1}))}) == ()


def test_a_huge_difference_is_cut_and_says_so():
    wide = freeze({"properties": {f"p{n}": {} for n in range(3 * MAX_CHANGES)}})
    empty = freeze({"properties": {}})
    (change,) = contract_changes({"k": Contract("", empty)}, {"k": Contract("", wide)})
    assert len(change.parts) == MAX_CHANGES
    assert change.more
    (long,) = contract_changes({"k": Contract("", freeze({"const": "x" * 500}))}, {})
    assert len(long.parts[0]["before"]) < 130


def test_contracts_for_the_faces_are_plain_json():
    assert contract_documents(PINNED.contracts) == {"k": {"version": "1.2.0", "input": TEXT, "output": None}}

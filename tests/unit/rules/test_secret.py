"""What a secret is called, how long it may be, and that its ciphertext is bound to every field of its record."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from core_runtime.rules.secret import MAX_VALUE_BYTES, Record, binding, name_fault, record_of, value_fault

RECORD = Record("pack", "key", "sha256:aa", 5.0, 7.5)
DOCUMENT = {"format": 1, "pack_id": "pack", "name": "key", "identity": "sha256:aa", "set_at": 5.0, "handed_at": 7.5}


def test_a_record_is_written_and_read() -> None:
    assert RECORD.document() == DOCUMENT
    assert record_of(DOCUMENT) == RECORD
    never = replace(RECORD, handed_at=None)
    assert record_of(never.document()) == never
    assert record_of({**DOCUMENT, "set_at": 5}) == RECORD


@pytest.mark.parametrize(
    ("field", "value"), [("pack_id", "p"), ("name", "k"), ("identity", "i"), ("set_at", 6.0), ("handed_at", None)]
)
def test_the_binding_covers_each_field(field: str, value: Any) -> None:
    changed = Record(**{**{k: v for k, v in DOCUMENT.items() if k != "format"}, field: value})
    assert binding(changed) != binding(RECORD)


def test_the_binding_is_of_this_kind_of_record_only() -> None:
    assert binding(RECORD).startswith(b"rumi/1/secret\0{")
    assert b'"format":1' in binding(RECORD)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("format", 2, ValueError),
        ("pack_id", 1, TypeError),
        ("name", None, TypeError),
        ("identity", ["x"], TypeError),
        ("set_at", True, TypeError),
        ("set_at", "5", TypeError),
        ("set_at", None, TypeError),
        ("handed_at", False, TypeError),
        ("handed_at", "7", TypeError),
    ],
)
def test_another_shape_is_refused(field: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        record_of({**DOCUMENT, field: value})


@pytest.mark.parametrize("field", list(DOCUMENT))
def test_no_field_may_be_missing(field: str) -> None:
    with pytest.raises(KeyError):
        record_of({name: value for name, value in DOCUMENT.items() if name != field})


@pytest.mark.parametrize(
    ("name", "taken"),
    [("a", True), ("0", True), ("A.b_c-9", True), ("a" * 64, True), ("a" * 65, False), ("", False), (".a", False),
     ("_a", False), ("-a", False), ("a b", False), ("a/b", False), ("a\n", False), ("é", False)],
)  # fmt: skip
def test_names(name: str, taken: bool) -> None:
    assert (name_fault(name) == "") is taken


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("x", ""),
        ("x" * 16_384, ""),
        ("x" * 16_385, "has 16385 bytes; at most 16384 are kept"),
        ("é" * 8_192, ""),
        ("é" * 8_193, "has 16386 bytes; at most 16384 are kept"),
        ("", "is empty"),
        ("\ud800", "is no valid Unicode text"),
    ],
    ids=["one", "longest", "longer", "wide", "wider", "empty", "surrogate"],
)
def test_values(value: str, fault: str) -> None:
    assert value_fault(value) == fault
    assert MAX_VALUE_BYTES == 16_384

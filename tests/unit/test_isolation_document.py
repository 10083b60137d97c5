"""docs/reference/isolation.md says what the rules say and what the escape suite sees, and nothing else."""

from __future__ import annotations

from collections import Counter

from core_runtime.rules import seccomp
from tests.support import isolation_document
from tests.support.escapes import ESCAPES, SURFACES


def test_the_document_is_current() -> None:
    found = isolation_document.DOCUMENT.read_text(encoding="utf-8")
    assert found == isolation_document.rendered(), "run: python -m tests.support.isolation_document"


def test_every_escape_stands_in_it_once_under_a_surface_that_exists() -> None:
    assert max(Counter(escape.name for escape in ESCAPES).values()) == 1
    assert {escape.surface for escape in ESCAPES} == set(SURFACES)
    assert all("|" not in escape.en + escape.ja for escape in ESCAPES)


def test_no_escape_is_expected_to_work() -> None:
    for escape in ESCAPES:
        for driver in ("docker", "embedded"):
            answers = escape.expected(driver).split(" / ")
            assert not {"works", "found", "some", "known", "visible", "others", "allowed"} & set(answers), escape.name


def test_every_refused_call_of_a_table_row_is_refused_by_the_rules() -> None:
    for escape in ESCAPES:
        if escape.call and escape.answer == "EPERM":
            assert escape.call in seccomp.refused(), escape.call

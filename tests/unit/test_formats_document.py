"""docs/reference/formats.md is what the table says, and the table is what the acceptance tests show."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from tests.support.documents import ROOT
from tests.support.formats import DOCUMENT, SECTIONS, Row, rendered

ROWS = [(phase, row) for phase, rows in SECTIONS.values() for row in rows]


@cache
def source(phase: int) -> str:
    return (ROOT / f"tests/test_ecosystem_phase{phase}.py").read_text(encoding="utf-8")


@cache
def shown_in(phase: int) -> frozenset[str]:
    return frozenset(
        node.name for node in ast.parse(source(phase)).body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def test_the_document_is_generated() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == rendered(), "python -m tests.support.formats"


@pytest.mark.parametrize(("phase", "row"), ROWS, ids=[row.what[:60] for _, row in ROWS])
def test_each_row_names_tests_that_exist_and_use_its_words(phase: int, row: Row) -> None:
    assert row.tests
    assert set(row.tests) <= shown_in(phase)
    missing = [word for word in row.words.split() if word not in source(phase)]
    assert not missing


def test_every_acceptance_test_shows_some_row() -> None:
    named = {(phase, name) for phase, row in ROWS for name in row.tests}
    more = {(phase, name) for phase in range(1, 8) for name in shown_in(phase)} - named
    assert {name for _, name in more} == {  # what the specification asks for beside its formats
        "test_every_module_of_the_ecosystem_exists_and_says_what_it_is", "test_the_published_schemas_are_2020_12",
        "test_json_patch_is_rfc_6902", "test_the_first_start_makes_what_the_specification_shows",
        "test_fail_soft_a_broken_pack_says_where_and_hides_no_other",
    }  # fmt: skip

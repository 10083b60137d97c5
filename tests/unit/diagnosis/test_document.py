"""docs/reference/diagnosis.md says what the checks and fixups say."""

from __future__ import annotations

import re

from core_runtime.diagnosis.parts import load_checks, load_fixups
from tests.support import diagnosis_document


def test_the_document_is_current() -> None:
    found = diagnosis_document.DOCUMENT.read_text(encoding="utf-8")
    assert found == diagnosis_document.rendered(), "run: python -m tests.support.diagnosis_document"


def test_every_title_is_there_in_both_languages_and_fits_a_table() -> None:
    for one in [*load_checks().values(), *load_fixups().values()]:
        assert one.title
        assert "|" not in one.title + one.title_ja
        assert one.title_ja.isascii() is one.title_ja.endswith(".json")
        assert re.fullmatch(r"[A-Z].*|\w+\.json", one.title), one.title

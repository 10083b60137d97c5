"""What issues are called in Japanese: every code that the host makes one of has words, and every face shows them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core_runtime.diagnosis.parts import load_checks
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.issue_words import TITLES_JA, title_ja
from core_runtime.rules.limits_seen import LIMITS
from rumi_setup.cli.machine import issue_title
from rumi_setup.core import words
from tests.support.documents import ROOT

MAKERS = {"issue": 0, "standing": 0, "_issue": 0}
ERRORS = {"HostError", "TrustError"}
SAYS_MORE = {"pack_notice"}
"""Codes whose title holds a Pack's own words; there is nothing to say of them in general."""
ENDS_WITH_WHO_ASKED = {
    "already_running", "bus_stopped", "internal", "name_timeout", "name_unknown", "not_attached", "privilege_unavailable",
    "starting", "stopping", "timeout", "tls_failed", "too_many_streams", "unreachable", "bus_running",
}  # fmt: skip
"""Errors that answer a request and end there."""
JAPANESE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]")


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for folder in ("core_runtime", "backend_core"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def constants(tree: ast.Module) -> dict[str, str]:
    found = {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = getattr(node, "value", None)
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            found |= {target.id: value.value for target in targets if isinstance(target, ast.Name)}
    return found


def codes() -> Iterator[tuple[str, str]]:
    for path, tree in sources():
        named = constants(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = node.args[:2] if name in MAKERS else []
            given += [word.value for word in node.keywords if name in ERRORS and word.arg == "code"]
            for value in given:
                text = named.get(value.id) if isinstance(value, ast.Name) else value.value if isinstance(value, ast.Constant) else None
                if isinstance(text, str) and re.fullmatch(r"[a-z]+(_[a-z]+)+", text):
                    yield text, f"{path.relative_to(ROOT)}:{node.lineno}"


def test_every_code_that_the_host_makes_an_issue_of_has_words() -> None:
    found = {code: place for code, place in codes() if code not in SAYS_MORE | ENDS_WITH_WHO_ASKED}
    assert len(found) > 80, "the search finds them"
    missing = {code: place for code, place in found.items() if not title_ja(code)}
    assert not missing


def test_every_check_and_every_limit_has_words() -> None:
    assert not [code for code in load_checks() if not title_ja(code)]
    assert len({title_ja(f"limit_{limit}") for limit in LIMITS}) == len(LIMITS)
    assert title_ja("limit_of_tomorrow")


@pytest.mark.parametrize("code", TITLES_JA)
def test_titles_are_short_and_japanese(code: str) -> None:
    text = TITLES_JA[code]
    assert JAPANESE.search(text)
    assert len(text) <= 40
    assert not text.endswith("。")


def test_an_issue_carries_both_titles_and_each_face_takes_the_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    diagnostics = Diagnostics()
    diagnostics.issue("pack_gave_up", Severity.ERROR, "demo", "The Pack demo could not be kept running")
    diagnostics.issue("of_somebody_else", Severity.ERROR, "demo", "Nobody has words for this")
    known, unknown = (issue.as_dict() for issue in diagnostics.issues())
    assert (known["title_ja"], unknown["title_ja"]) == ("Packを動かし続けられませんでした", "")
    for language, expected in (("ja", known["title_ja"]), ("en", known["title"])):
        monkeypatch.setattr("rumi_setup.cli.machine.language", lambda language=language: language)
        assert issue_title(known) == expected
        assert issue_title(unknown) == unknown["title"]
    assert issue_title({"title": "from a host of before"}) == "from a host of before"
    assert words.language() in {"en", "ja"}

import ast
import re
import string
import sys

import pytest

from rumi_setup.core import places
from rumi_setup.web import pages
from rumi_setup.web.words import Words, preferred
from rumi_setup.web.words_ja import JAPANESE

WEB = places.ROOT / "rumi_setup" / "web"


def _said() -> set[str]:
    found = set(pages.STEPS.values()) | set(pages._REFUSED.values())
    for path in WEB.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))):
            if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
                continue
            called = ast.unparse(node.func)
            if re.fullmatch(r"(view\.)?say", called):
                found.add(str(node.args[0].value))
    return found


def test_every_sentence_has_a_translation_and_none_is_left_over() -> None:
    assert _said() == set(JAPANESE)


def test_places_in_braces_agree() -> None:
    def fields(text: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)

    assert [e for e, j in JAPANESE.items() if fields(e) != fields(j)] == []


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("ja", "ja"), ("ja-JP,ja;q=0.9,en;q=0.8", "ja"), ("en-GB, ja;q=0.5", "en"), ("en;q=0.4,ja;q=0.6", "ja"), ("de, ja;q=0.1", "ja"),
        ("de", None), ("", None), ("ja;q=0", None), ("ja;q=nan, en", "en"), ("ja;q=9e9, en;q=0.1", "en"), ("," * 9999, None),
    ],
)  # fmt: skip
def test_the_browsers_language(header, expected) -> None:
    assert preferred(header) == expected


def test_an_unknown_sentence_is_said_as_it_is() -> None:
    assert Words("ja")("Never translated {n}.", n=1) == "Never translated 1."


@pytest.mark.parametrize("path", sorted(WEB.glob("*.py")), ids=lambda p: p.name)
def test_parses_as_3_9_and_imports_only_the_standard_library(path) -> None:
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text, feature_version=(3, 9))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            top = name.partition(".")[0]
            assert top == "rumi_setup" or top in sys.stdlib_module_names, f"{path.name} imports {name}"
    # `X | None` in a signature is a TypeError on 3.9 without this import
    assert " | " not in text or "from __future__ import annotations" in text

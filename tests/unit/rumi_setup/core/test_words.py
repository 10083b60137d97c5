import ast
import string

import pytest

from rumi_setup.core import places, words
from rumi_setup.core.words_ja import JAPANESE


def _said() -> set[str]:
    found = set()
    for path in (places.ROOT / "rumi_setup" / "core").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say":
                first = node.args[0]
                assert isinstance(first, ast.Constant), f"{path.name}:{node.lineno} says something computed"
                found.add(first.value)
    return found


def test_every_sentence_has_a_translation_and_none_is_left_over() -> None:
    assert _said() == set(JAPANESE)


def test_places_in_braces_agree() -> None:
    def fields(text: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)

    assert [e for e, j in JAPANESE.items() if fields(e) != fields(j)] == []


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "ja_JP.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "de_DE.UTF-8", "RUMI_LANG": "ja"}, "ja"),
    ],
)
def test_language_follows_the_locale(monkeypatch, variables, expected) -> None:
    for name in ("RUMI_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert words.language() == expected


def test_an_unknown_sentence_is_said_as_it_is(monkeypatch) -> None:
    monkeypatch.setenv("RUMI_LANG", "ja")
    assert words.say("Never translated {n}.", n=1) == "Never translated 1."

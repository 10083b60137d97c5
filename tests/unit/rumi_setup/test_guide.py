"""The installation guide is read where nothing else works: it must hold together by itself."""

import re
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

from rumi_setup.cli.main import root as command_line
from rumi_setup.core import entry, places

GUIDE = places.ROOT / "rumi_setup" / "guide"
PAGES = sorted(GUIDE.rglob("*.html"))
NAMES = {"index", "windows", "macos", "linux", "first-steps", "trouble"}
VOID = {"meta", "link", "br", "hr", "input", "img"}
LOADING = {"src", "srcset", "poster", "data", "action", "background"}


class Outline(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.language = path, ""
        self.ids: set[str] = set()
        self.open: list[str] = []
        self.links: list[str] = []
        self.sections: list[str] = []
        self.code: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self.open == [], f"{path}: not closed: {self.open}"

    def handle_starttag(self, tag, attrs) -> None:
        values = dict(attrs)
        assert tag not in {"script", "iframe", "object", "embed", "base"}, f"{self.path}: <{tag}>"
        assert not [n for n in values if n in LOADING or n.startswith("on") or n == "style"], f"{self.path}: {values}"
        if tag == "html":
            self.language = values["lang"]
        if "id" in values:
            assert values["id"] not in self.ids
            self.ids.add(values["id"])
        if tag == "h2":
            self.sections.append(values["id"])
        if "href" in values:
            self.links.append(values["href"])
        if tag == "code":
            self.code.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag, f"{self.path}:{self.getpos()}"

    def handle_data(self, data) -> None:
        if self.open and self.open[-1] == "code":
            self.code[-1] += data


@pytest.fixture(scope="module")
def outlines() -> dict[Path, Outline]:
    return {path: Outline(path) for path in PAGES}


def test_both_languages_have_every_page_with_the_same_sections_and_commands(outlines) -> None:
    for name in NAMES:
        japanese, english = (outlines[GUIDE / language / f"{name}.html"] for language in ("ja", "en"))
        assert (japanese.language, english.language) == ("ja", "en")
        assert japanese.sections == english.sections, name

        def commands(outline: Outline) -> list[str]:
            return sorted(line for code in outline.code for line in code.splitlines() if " " in line and line.isascii())

        assert commands(japanese) == commands(english), name
    assert {p.stem for p in PAGES if p.parent != GUIDE} == NAMES


def test_every_link_leads_somewhere_and_nothing_comes_from_outside(outlines) -> None:
    for path, outline in outlines.items():
        for link in outline.links:
            assert not re.match(r"[a-z]+:|//", link), f"{path}: {link} is not ours"
            target, _, anchor = link.partition("#")
            leads_to = (path.parent / target).resolve() if target else path
            assert leads_to.is_file(), f"{path}: {link}"
            assert leads_to.is_relative_to(GUIDE)
            assert not anchor or anchor in outlines[leads_to].ids, f"{path}: {link}"


def test_the_style_sheet_loads_nothing() -> None:
    text = (GUIDE / "style.css").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def _help_of_setup() -> str:
    shown: list[str] = []
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        patch.setattr("argparse.ArgumentParser.print_help", lambda self, file=None: shown.append(self.format_help()))
        entry.setup(["--help"])
    return shown[0]


def _unknown_words(line: str) -> str:
    """What of a `./rumi` line the command does not have; empty when all is there."""
    words = re.sub(r"'[^']*'", "JSON", line).split()
    words = words[words.index("./rumi") + 1 :]
    options = [w for w in words if w.startswith("--")]
    if words[:1] == ["setup"]:
        return " ".join(o for o in options if o not in _help_of_setup())
    command: click.Command = command_line
    context = click.Context(command, info_name="rumi")
    for word in [w for w in words if not w.startswith("--")]:
        if not isinstance(command, click.Group):
            break
        found = command.get_command(context, word)
        if found is None:
            return word
        command = found
    have = {name for parameter in command.params for name in parameter.opts}
    return " ".join(o for o in options if o not in have)


def test_every_command_of_ours_exists(outlines) -> None:
    lines = {line for o in outlines.values() for code in o.code for line in code.splitlines() if "./rumi " in line}
    assert len(lines) > 15
    assert {line: missing for line in lines if (missing := _unknown_words(line))} == {}


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    assert _unknown_words("./rumi explode") == "explode"
    assert _unknown_words("./rumi pack explode hello") == "explode"
    assert _unknown_words("./rumi doctor --explode") == "--explode"
    assert _unknown_words("./rumi setup --explode") == "--explode"


def test_bootstrap_words_exist(outlines) -> None:
    said = {w for o in outlines.values() for code in o.code for w in re.findall(r"bootstrap\.py --cli (\w+)", code)}
    assert said <= set(entry._BOOTSTRAP_WORDS)
    assert said

"""Official code knows no application domain: not one word of one, in code, text, file names or templates.

The list of words is the specification's own examples and their close relatives, in English and Japanese. Whole words
only: a word inside of another (``prompted``) is another word, but ``chat_id``, ``ChatWindow`` and ``chat-list`` contain one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

OFFICIAL = ("app.py", "bootstrap.py", "bootstrap", "core_runtime", "backend_core", "console", "docker", "flow", "rumi_setup",
            "rumi", "rumi.bat", "setup.sh", "setup.bat")  # fmt: skip
NOT_OFFICIAL = ("rumi_setup/defaults",)  # templates of Packs, which may be about anything
BUILT = ("__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache")
VENDORED = ("console/static/vendor", "console/vendor", "console/assets/vendor")  # others' code, unchanged, by digest

ENGLISH = ("chat", "conversation", "prompt", "assistant", "llm", "gpt", "openai", "frontend")
JOINED = ("ai_client", "aiclient", "ai-client", "ai client", "front-end", "front end", "chatbot")
JAPANESE = (
    "チャット",
    "会話",
    "プロンプト",
    "アシスタント",
    "フロントエンド",
    "大規模言語モデル",
    "AIクライアント",
    "対話AI",
)
WORDS = frozenset({*ENGLISH, *(f"{word}s" for word in ENGLISH)})


class Exempt(NamedTuple):
    """One permitted occurrence: this word in lines that match, in files that match, because of ``reason``."""

    word: str
    files: str
    lines: str
    reason: str


EXEMPT = (
    Exempt("frontend", r"^(backend_core/ecosystem/spec/schema/manifest\.schema\.json|docker/core/schema/.*)$",
           r'^\s*"frontend": \{$', "field name of compat.md: entry.frontend of a component manifest"),
    Exempt("prompt", r"^rumi_setup/(cli|core)/.*\.py$", r"\bprompt\s*=|\.prompt\(|hide_input",
           "click's name for asking the user of a terminal"),
    Exempt("prompt", r"^(setup|rumi)\.bat$|^setup\.sh$", r"(?i)^\s*(prompt|set\s+prompt)\b",
           "the shells' name for what a terminal shows before a command"),
    Exempt("prompt", r"^core_runtime/drivers/git_source\.py$", r'"GIT_TERMINAL_PROMPT": "0"',
           "the environment variable by which Git is told to ask nothing"),
    Exempt("frontend", r"^rumi_setup/core/[a-z_]+\.py$", r'"DEBIAN_FRONTEND": "noninteractive"',
           "the environment variable by which the system's package tool is told to ask nothing"),
)  # fmt: skip


def official_files() -> Iterator[Path]:
    for name in OFFICIAL:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            relative = path.relative_to(ROOT).as_posix()
            skipped = relative.startswith((*NOT_OFFICIAL, *VENDORED)) or any(part in BUILT for part in path.parts)
            if path.is_file() and not skipped:
                yield path


def words_of(line: str) -> Iterator[str]:
    """Whole words of a line, with ``snake_case``, ``kebab-case`` and ``CamelCase`` taken apart."""
    for run in re.findall(r"[A-Za-z]+", line):
        yield run.lower()
        yield from (part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", run))


def offences(line: str) -> set[str]:
    found = set(words_of(line)) & WORDS
    lowered = line.lower()
    found |= {word for word in JOINED if re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", lowered)}
    if re.search(r"Ai_?Clients?(?![a-z])|AIClients?(?![a-z])", line):
        found.add("ai_client")
    return found | {word for word in JAPANESE if word in line}


def is_exempt(word: str, relative: str, line: str) -> bool:
    return any(
        rule.word == word.rstrip("s") and re.search(rule.files, relative) and re.search(rule.lines, line)
        for rule in EXEMPT
    )


def found_in(path: Path) -> list[str]:
    relative = path.relative_to(ROOT).as_posix()
    problems = [f"{relative}: file name contains {word!r}" for word in sorted(offences(relative))]
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return problems  # an image or a compiled catalogue
    for number, line in enumerate(text.splitlines(), 1):
        problems += [
            f"{relative}:{number}: {word!r} in {line.strip()[:100]!r}"
            for word in sorted(offences(line))
            if not is_exempt(word, relative, line)
        ]
    return problems


def test_official_code_contains_no_word_of_an_application_domain() -> None:
    files = list(official_files())
    assert len(files) > 20
    problems = [problem for path in files for problem in found_in(path)]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("chat", "chat"), ("chat_id = 1", "chat"), ("class ChatWindow:", "chat"), ("# the Prompt", "prompt"),
        ("openChat()", "chat"), ("LLMClient", "llm"), ("'gpt-4'", "gpt"), ("OpenAI", "openai"), ("front-end", "front-end"),
        ("ai_client", "ai_client"), ("AIClient", "ai_client"), ("class AiClient", "ai_client"), ("チャット欄", "チャット"),
        ("新しい会話を", "会話"), ("conversations", "conversations"), ("frontends", "frontends"), ("HTMLChat", "chat"),
    ],
)  # fmt: skip
def test_the_test_finds_a_word_in_any_shape(line, word) -> None:
    assert word in offences(line)


@pytest.mark.parametrize("line", ["prompted", "chatty", "promptly", "email_client", "interface", "gptx", "会社の話"])
def test_other_words_are_left_alone(line) -> None:
    assert offences(line) == set()


def test_every_exemption_is_used_for_its_reason_only() -> None:
    assert all(rule.reason and rule.word in {*WORDS, *JOINED} for rule in EXEMPT)
    assert is_exempt("frontend", "backend_core/ecosystem/spec/schema/manifest.schema.json", '          "frontend": {')
    assert not is_exempt("frontend", "core_runtime/kernel.py", '          "frontend": {')
    assert not is_exempt("prompt", "rumi_setup/cli/main.py", "# the prompt of a Pack")


@pytest.mark.parametrize("name", ["docker", "bootstrap", "flow", "ecosystem", "docs"])
def test_data_folders_are_no_packages(name) -> None:
    """A root ``docker/`` package would shadow a library, ``bootstrap/`` would shadow ``bootstrap.py``."""
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / name).rglob("__init__.py")]
    assert [path for path in found if not path.startswith("ecosystem/packs/")] == []  # Packs are their authors'

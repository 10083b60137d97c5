"""A review on the terminal: the decision's basis in words, riskiest first. All of it is a stranger's text: escaped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rumi_setup.cli import show
from rumi_setup.cli.words import say
from rumi_setup.core.words import language

_LINES = 200
_TOLD = frozenset({"type", "reason", "risk", "words", "note", "grantable", "plain"})


def show_review(found: dict[str, Any]) -> None:
    """Print everything that `found` (the API's review) says, section by section."""
    rating = found.get("rating") or {}
    show.pairs([
        ("pack", found.get("pack_id")), ("status", found.get("state")), ("version", found.get("version")),
        ("identity", found.get("pack_identity")), ("author", found.get("author")),
        ("description", found.get("description")), ("digest", found.get("digest")),
        ("files", f"{found.get('files')} ({found.get('total_bytes')} bytes)"),
        ("approved version", found.get("approved_version")),
        ("rating", f"{rating.get('score')}/100 ({rating.get('grade')})"),
    ])  # fmt: skip
    if found.get("identity_changed"):
        show.words(say("WARNING: another identity than the approved version's."))
    combination = found.get("combination")
    if isinstance(combination, dict):
        show.section("Risk by combination", [show.safe(combination.get("sentence"), 500)])
    show.section("Permissions", _permissions(found.get("permissions")))
    show.section("Deductions", _deductions(rating.get("deductions")))
    show.section("Findings", _sentences(found.get("findings")))
    show.section("Provides", _sentences(found.get("provides")))
    show.section("Requires", _sentences(found.get("requires")))
    show.section("Uses", _sentences(found.get("uses")))
    show.section("Replaces", _mapping(found.get("replaces")))
    show.section("Keys with meaning to the host", _mapping(found.get("host_keys")))
    show.section("Dependencies", _mapping(found.get("dependencies")))
    show.section("Changed permissions", _changes(found.get("permission_changes")))
    show.section("Changed files", _changes(found.get("file_changes")))


def _permissions(items: Any) -> Iterator[str]:
    for item in items[:_LINES] if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        details = ", ".join(
            f"{show.safe(name, 40)}={show.safe(_plain(value), 200)}"
            for name, value in item.items()
            if name not in _TOLD and value not in (None, "", [], {})
        )
        words = item.get("words")
        yield f"{show.safe(item.get('type'))} [{show.safe(item.get('risk'))}] {details}".rstrip()
        yield f"    {show.safe(words.get(language()) if isinstance(words, dict) else words, 300)}"
        yield f"    {say('Its author says:')} {show.safe(item.get('reason'), 300)!r}"
        if item.get("note"):
            yield f"    {show.safe(item.get('note'), 300)}"


def _deductions(items: Any) -> Iterator[str]:
    reason = "reason_ja" if language() == "ja" else "reason"
    for item in items if isinstance(items, list) else ():
        yield f"-{show.safe(item.get('points'))}  {show.safe(item.get(reason), 300)}"


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _sentences(items: Any) -> Iterator[str]:
    for item in items[:_LINES] if isinstance(items, list) else ():
        if isinstance(item, dict):
            yield ": ".join(show.safe(part, 300) for part in item.values() if part not in (None, "", [], {}))
        else:
            yield show.safe(item, 300)


def _mapping(items: Any) -> Iterator[str]:
    for name, value in items.items() if isinstance(items, dict) else ():
        yield f"{show.safe(name)}: {show.safe(value)}"


def _changes(items: Any) -> Iterator[str]:
    for kind, values in items.items() if isinstance(items, dict) else ():
        for value in values[:_LINES] if isinstance(values, list) else ():
            shown = value.get("type") if isinstance(value, dict) and "type" in value else value
            yield f"{show.safe(kind)}: {show.safe(shown)}"

"""Builds HTML so that text can not become markup.

Invariant: only `tag` and `join` make `Markup`, and whatever is not `Markup` is escaped on the way in. What machines and
programs said is bounded, and characters that could rearrange or hide the rest of a line are shown as U+FFFD.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

if TYPE_CHECKING:
    from collections.abc import Iterable

TEXT_LIMIT_CHARACTERS = 4000
_VOID = frozenset({"meta", "link", "input"})
# control characters except line feed and tab; marks that turn the direction of writing; invisible separators
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


@dataclass(frozen=True)
class Markup:
    """HTML that was built here."""

    text: str


Content = Union[Markup, str]


def escape(text: str) -> str:
    """Text as HTML, safe between tags and inside quoted attributes."""
    kept = text if len(text) <= TEXT_LIMIT_CHARACTERS else text[: TEXT_LIMIT_CHARACTERS - 1] + "…"
    return html.escape(_UNSEEN.sub("\ufffd", kept), quote=True)


def join(parts: Iterable[Content]) -> Markup:
    return Markup("".join(p.text if isinstance(p, Markup) else escape(p) for p in parts))


def tag(element: str, /, *children: Content, **attributes: str | bool) -> Markup:
    """One element. `class_` is written `class`, `aria_live` is `aria-live`; True is an attribute without a value."""
    written = []
    for key, value in attributes.items():
        shown = key.rstrip("_").replace("_", "-")
        if value is True:
            written.append(f" {shown}")
        elif value is not False:
            written.append(f' {shown}="{escape(str(value))}"')
    opening = f"<{element}{''.join(written)}>"
    return Markup(opening if element in _VOID else f"{opening}{join(children).text}</{element}>")


def with_code(sentence: str) -> Markup:
    """A sentence in which `backticks` mark what is typed."""
    parts = sentence.split("`")
    if len(parts) % 2 == 0:
        return join([sentence])
    return join(tag("code", part) if n % 2 else part for n, part in enumerate(parts))

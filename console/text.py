"""Text of Packs on a page: bounded, and without characters that change how the rest is read.

HTML is escaped by the template engine, always; this is about what escaping does not touch: bidi controls, invisible
characters, ten thousand characters where a word was expected.
"""

from __future__ import annotations

SHOWN_CHARS = 300


def shown(value: object, limit_chars: int = SHOWN_CHARS) -> str:
    """``value`` as one bounded line of printable characters."""
    if value is None:
        return ""
    text = str(value)
    line = "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in text[:limit_chars])
    return f"{line}…" if len(text) > limit_chars else line

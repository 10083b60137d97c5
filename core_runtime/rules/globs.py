"""Globs for paths and topics, matched in time linear in both lengths. Pure.

``*`` matches within a segment, ``**`` (a whole segment) any number of segments, ``?`` one character. There are no
character classes, no braces and no escapes, so that a reader can't be misled about what a permission covers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_GLOB_CHARS = 256
MAX_WILD_SEGMENTS = 8


def glob_fault(glob: str) -> str:
    """Why ``glob`` is not usable, or ``""``."""
    if not glob or len(glob) > MAX_GLOB_CHARS:
        return f"is empty or longer than {MAX_GLOB_CHARS} characters"
    if any(not character.isprintable() for character in glob):
        return "contains an invisible character"
    if any(character in glob for character in "[]{}\\"):
        return "contains one of [ ] { } \\, which are no part of these patterns"
    segments = glob.split("/")
    if any(segment in {"", ".", ".."} for segment in segments):
        return "has an empty, '.' or '..' segment"
    if any("**" in segment and segment != "**" for segment in segments):
        return "has '**' beside other characters of a segment"
    if sum(segment == "**" for segment in segments) > MAX_WILD_SEGMENTS:
        return f"has more than {MAX_WILD_SEGMENTS} '**' segments"
    return ""


def matches(glob: str, text: str, separator: str = "/") -> bool:
    """Whether ``glob`` covers ``text`` completely."""
    return _segments(glob.split(separator), text.split(separator))


def any_matches(globs: Iterable[str], text: str, separator: str = "/") -> bool:
    """Whether one of ``globs`` covers ``text``."""
    return any(matches(glob, text, separator) for glob in globs)


def literal_prefix(glob: str) -> tuple[str, ...]:
    """The leading segments without a wildcard."""
    prefix: list[str] = []
    for segment in glob.split("/"):
        if "*" in segment or "?" in segment:
            break
        prefix.append(segment)
    return tuple(prefix)


def _segments(pattern: Sequence[str], text: Sequence[str]) -> bool:
    """Greedy with one step back to the latest ``**``: enough, since it can absorb whatever an earlier one could."""
    p = t = 0
    star = mark = -1
    while t < len(text):
        if p < len(pattern) and pattern[p] == "**":
            star, mark = p, t
            p += 1
        elif p < len(pattern) and _segment(pattern[p], text[t]):
            p, t = p + 1, t + 1
        elif star >= 0:
            mark += 1
            p, t = star + 1, mark
        else:
            return False
    return all(segment == "**" for segment in pattern[p:])


def _segment(pattern: str, text: str) -> bool:
    p = t = 0
    star = mark = -1
    while t < len(text):
        if p < len(pattern) and pattern[p] == "*":
            star, mark = p, t
            p += 1
        elif p < len(pattern) and pattern[p] in {"?", text[t]}:
            p, t = p + 1, t + 1
        elif star >= 0:
            mark += 1
            p, t = star + 1, mark
        else:
            return False
    return all(character == "*" for character in pattern[p:])

"""What the operator should know about a file of a Pack before deciding. Pure; nothing is run or unpacked.

A finding is no verdict: it names a path and a reason, and the rating takes points for it.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from msgspec import Struct

SCANNED_BYTES = 512 * 1024
TEXT_SUFFIXES: Final = frozenset(
    {
        ".py",
        ".pyi",
        ".json",
        ".yaml",
        ".yml",
        ".toml",
        ".txt",
        ".md",
        ".cfg",
        ".ini",
        ".js",
        ".css",
        ".html",
        ".sh",
        ".lock",
    }
)
NATIVE_SUFFIXES: Final = frozenset({".so", ".pyd", ".dll", ".dylib", ".exe", ".node"})
NATIVE_MAGIC: Final = (
    b"\x7fELF", b"MZ", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe", b"\0asm",
)  # fmt: skip
ARCHIVE_MAGIC: Final = (b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!")
BYTECODE_SUFFIXES: Final = frozenset({".pyc", ".pyo"})
STARTUP_NAMES: Final = frozenset({"sitecustomize.py", "usercustomize.py"})
MAX_FINDINGS = 200


class Finding(Struct, frozen=True):
    """One thing to know. ``code`` is one of ``invisible_text native_code unscannable bytecode startup_hook
    native_dependency unseen_dependency``.
    """

    code: str
    path: str
    detail: str


def inspect(path: str, head: bytes, size: int) -> list[Finding]:
    """Findings in one file. ``head`` holds its first ``SCANNED_BYTES`` at most."""
    name = path.rpartition("/")[2].lower()
    suffix = f".{name.rpartition('.')[2]}" if "." in name else ""
    found: list[Finding] = []
    if suffix in NATIVE_SUFFIXES or head.startswith(NATIVE_MAGIC):
        found.append(Finding("native_code", path, "holds machine code, which can't be read by a person."))
    elif suffix in BYTECODE_SUFFIXES:
        found.append(Finding("bytecode", path, "holds compiled Python, which need not match any source beside it."))
    elif head.startswith(ARCHIVE_MAGIC):
        found.append(Finding("unscannable", path, "is an archive; what it holds was not looked at."))
    else:
        found.extend(_inspect_text(path, suffix, head, size))
    if suffix == ".pth" or name in STARTUP_NAMES:
        found.append(Finding("startup_hook", path, "is a file that some Pythons run by themselves at start."))
    return found


def _inspect_text(path: str, suffix: str, head: bytes, size: int) -> list[Finding]:
    try:
        text = head.decode("utf-8", "strict" if size <= len(head) else "ignore")
    except UnicodeDecodeError:
        text = ""
        if suffix in TEXT_SUFFIXES:
            return [Finding("unscannable", path, "is named like text, but is not UTF-8.")]
    found = []
    if size > len(head) and suffix in TEXT_SUFFIXES:
        found.append(Finding("unscannable", path, f"is {size} bytes long; only the first {len(head)} were looked at."))
    hidden = _first_invisible(text)
    if hidden is not None and (suffix in TEXT_SUFFIXES or "\0" not in text):
        line, character = hidden
        point = f"U+{ord(character):04X} ({unicodedata.name(character, 'unnamed')})"
        found.append(Finding("invisible_text", path, f"has the invisible character {point} in line {line}."))
    return found


def _first_invisible(text: str) -> tuple[int, str] | None:
    """The first character that a reader can't see and that can change what the text means."""
    if text.isascii():
        return None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.isascii():
            continue
        for position, character in enumerate(line):
            if _invisible(character) and not (number == 1 and position == 0 and character == "\ufeff"):
                return number, character
    return None


def _invisible(character: str) -> bool:
    code = ord(character)
    if 0xE0000 <= code <= 0xE0FFF or 0x115F <= code <= 0x1160 or code in {0x3164, 0xFFA0}:
        return True  # tags, supplementary selectors and Hangul fillers: identifiers that look like nothing
    return unicodedata.category(character) == "Cf" and character != "\u00ad"

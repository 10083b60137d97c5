"""What is said about a file before anybody decides, kind by kind and border by border."""

from __future__ import annotations

import pytest

from core_runtime.rules.findings import MAX_FINDINGS, SCANNED_BYTES, Finding, inspect

NATIVE = "holds machine code, which can't be read by a person."
BYTECODE = "holds compiled Python, which need not match any source beside it."
ARCHIVE = "is an archive; what it holds was not looked at."
STARTUP = "is a file that some Pythons run by themselves at start."
NOT_TEXT = "is named like text, but is not UTF-8."
TEXT_SUFFIXES = [
    "py",
    "pyi",
    "json",
    "yaml",
    "yml",
    "toml",
    "txt",
    "md",
    "cfg",
    "ini",
    "js",
    "css",
    "html",
    "sh",
    "lock",
]


def found(path: str, data: bytes = b"plain", size: int | None = None) -> list[tuple[str, str]]:
    findings = inspect(path, data, len(data) if size is None else size)
    assert all(finding.path == path for finding in findings)
    return [(finding.code, finding.detail) for finding in findings]


def test_bounds():
    assert (SCANNED_BYTES, MAX_FINDINGS) == (512 * 1024, 200)
    assert Finding("a", "b", "c") == Finding("a", "b", "c")


@pytest.mark.parametrize("suffix", ["so", "pyd", "dll", "dylib", "exe", "node", "SO"])
def test_native_by_name(suffix):
    assert found(f"a/b.{suffix}") == [("native_code", NATIVE)]
    assert found(f"a.{suffix}/b") == []
    assert found(f"a/b{suffix}") == []


@pytest.mark.parametrize(
    "magic",
    [b"\x7fELF", b"MZ", b"\xfe\xed\xfa\xce", b"\xfe\xed\xfa\xcf", b"\xce\xfa\xed\xfe", b"\xcf\xfa\xed\xfe", b"\0asm"],
)
def test_native_by_content(magic):
    assert found("innocent.py", magic + b"x") == [("native_code", NATIVE)]
    assert found("innocent", magic) == [("native_code", NATIVE)]
    assert ("native_code", NATIVE) not in found("innocent", b" " + magic)


@pytest.mark.parametrize("suffix", ["pyc", "pyo", "PYC"])
def test_bytecode(suffix):
    assert found(f"__pycache__/x.{suffix}", b"\0\xff") == [("bytecode", BYTECODE)]


@pytest.mark.parametrize("magic", [b"PK\x03\x04", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"])
def test_archives(magic):
    assert found("data.bin", magic + b"x") == [("unscannable", ARCHIVE)]
    assert ("unscannable", ARCHIVE) not in found("data.bin", b" " + magic)


@pytest.mark.parametrize("name", ["evil.pth", "sitecustomize.py", "usercustomize.py", "a/SiteCustomize.py", "x/.pth"])
def test_files_that_python_runs_by_itself(name):
    assert found(name) == [("startup_hook", STARTUP)]
    assert found(name, b"MZ") == [("native_code", NATIVE), ("startup_hook", STARTUP)]
    assert found(f"{name}/x") == []
    assert found(f"{name}.bak") == []


@pytest.mark.parametrize("suffix", TEXT_SUFFIXES)
def test_text_that_is_none_and_text_that_is_too_long(suffix):
    assert found(f"x.{suffix}", b"\xff") == [("unscannable", NOT_TEXT)]
    assert found(f"x.{suffix}", b"abc", 4) == [("unscannable", "is 4 bytes long; only the first 3 were looked at.")]
    assert found(f"x.{suffix}", b"abc", 3) == []
    # a character cut in two at the end of what was read is no fault
    assert found(f"x.{suffix}", b"ab\xc3", 4) == [("unscannable", "is 4 bytes long; only the first 3 were looked at.")]
    assert found(f"x.{suffix}", "\0\u202e".encode())[0][0] == "invisible_text"


def test_other_files_may_be_anything():
    for data in (b"\xff\xfe", b"\0\x01", b"", "ä".encode()):
        assert found("picture.png", data) == []
        assert found("README", data) == []
    assert found("picture.png", b"abc", 4) == []
    assert found("picture.png", "\0\u202e".encode()) == []
    assert found("README", "\u202e".encode())[0][0] == "invisible_text"


@pytest.mark.parametrize(
    ("text", "point", "line"),
    [
        ("a\u202eb", "U+202E (RIGHT-TO-LEFT OVERRIDE)", 1),
        ("ä\nb\n\u200bc", "U+200B (ZERO WIDTH SPACE)", 3),
        ("x\u3164", "U+3164 (HANGUL FILLER)", 1),
        ("x\uffa0", "U+FFA0 (HALFWIDTH HANGUL FILLER)", 1),
        ("x\u115f", "U+115F (HANGUL CHOSEONG FILLER)", 1),
        ("x\u1160", "U+1160 (HANGUL JUNGSEONG FILLER)", 1),
        ("x\U000e0000", "U+E0000 (unnamed)", 1),
        ("x\U000e0fff", "U+E0FFF (unnamed)", 1),
        ("x\U000e0041", "U+E0041 (TAG LATIN CAPITAL LETTER A)", 1),
        ("a\ufeff", "U+FEFF (ZERO WIDTH NO-BREAK SPACE)", 1),
        ("a\n\ufeffb", "U+FEFF (ZERO WIDTH NO-BREAK SPACE)", 2),
        ("\u200ba", "U+200B (ZERO WIDTH SPACE)", 1),
        ("\ufeffa\u200b\u202e", "U+200B (ZERO WIDTH SPACE)", 1),
    ],
)
def test_characters_that_a_reader_does_not_see(text, point, line):
    said = f"has the invisible character {point} in line {line}."
    assert found("x.py", text.encode()) == [("invisible_text", said)]


@pytest.mark.parametrize(
    "text",
    ["ä", "日本語", "\ufeffa = 1", "soft\u00adhyphen", "x\u115e", "x\u1161", "x\U000dffff", "x\U000e1000", "é\n\n" * 9, "plain"],
)
def test_characters_that_a_reader_sees(text):
    assert found("x.py", text.encode()) == []


def test_several_findings_of_one_file():
    data = "ä\u200b".encode()
    assert [code for code, _ in found("sitecustomize.py", data, 9)] == ["unscannable", "invisible_text", "startup_hook"]

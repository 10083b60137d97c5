"""Canonical JSON (vectors of RFC 8785) and files: atomic writes, bounds, modes, confined access."""

from __future__ import annotations

import json
import os
import stat
import struct

import pytest

import backend_core.files
from backend_core.canonical import canonical_json, sha256_hex
from backend_core.errors import NotFoundError, RequestError, TooLargeError
from backend_core.files import Confined, fsync_folder, private_folder, read_bounded, split_path, write_atomic

NUMBERS = [  # RFC 8785, appendix B: IEEE 754 bits and their text
    ("0000000000000000", "0"), ("8000000000000000", "0"), ("0000000000000001", "5e-324"), ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"), ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"), ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"), ("44b52d02c7e14af6", "1e+23"), ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"), ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"), ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"), ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"), ("41b3de4355555557", "333333333.33333343"), ("becbf647612f3696", "-0.0000033333333333333333"),
]  # fmt: skip


def test_a_file_that_is_replaced_while_it_is_read_is_read_as_it_was(tmp_path, monkeypatch):
    """Between its opening and the look at it somebody writes it anew: what was opened has no name any more."""
    opened = backend_core.files.open_beneath

    def slow(root, parts, flags, **how):
        fd = opened(root, parts, flags, **how)
        if not flags & os.O_DIRECTORY:
            write_atomic(tmp_path / "count", b"2")
        return fd

    write_atomic(tmp_path / "count", b"1")
    with Confined(tmp_path) as confined:
        monkeypatch.setattr("backend_core.files.open_beneath", slow)
        assert confined.read("count", 10) == b"1"
        assert confined.stat("count").size_bytes == 1
        monkeypatch.undo()
        assert confined.read("count", 10) == b"2"


@pytest.mark.parametrize(("bits", "text"), NUMBERS)
def test_numbers_are_written_as_rfc_8785_says(bits, text):
    assert canonical_json(struct.unpack(">d", bytes.fromhex(bits))[0]).decode() == text


def test_keys_are_ordered_by_utf16_and_text_is_escaped_minimally():
    value = {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\x80": 6, "\u00f6": 7}
    assert list(json.loads(canonical_json(value))) == ["\r", "1", "\x80", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]
    assert canonical_json('€$\x0f\nA\'B"\\\\"/') == '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'.encode()


@pytest.mark.parametrize("value", [2**53 + 1, float("nan"), float("inf"), "\ud800", {"\ud800": 1}])
def test_what_json_can_not_carry_is_refused(value):
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: 2}, b"x", {1, 2}, object()])
def test_types_without_a_json_form_are_refused(value):
    with pytest.raises(TypeError):
        canonical_json(value)


def test_depth_is_bounded():
    value: list[object] = []
    for _ in range(100):
        value = [value]
    with pytest.raises(ValueError):
        canonical_json(value)
    assert canonical_json({"a": [True, None, {}], "b": []}) == b'{"a":[true,null,{}],"b":[]}'
    assert sha256_hex(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_write_atomic_replaces_with_mode_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, b"one")
    write_atomic(path, b"two", mode=0o644)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError):
        write_atomic(tmp_path / "a", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_read_bounded_refuses_links_folders_and_large_files(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    assert read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(TooLargeError):
        read_bounded(tmp_path / "a", 4)
    for name in ("link", "pipe", "."):
        with pytest.raises(OSError):
            read_bounded(tmp_path / name, 5)


def test_private_folder_has_its_mode_whatever_the_umask(tmp_path):
    old = os.umask(0o077)
    try:
        folder = private_folder(tmp_path / "a" / "b", 0o711)
    finally:
        os.umask(old)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o711
    folder.chmod(0o777)
    assert stat.S_IMODE(private_folder(folder, 0o700).stat().st_mode) == 0o700
    fsync_folder(folder)


@pytest.mark.parametrize("use_openat2", [True, False])
def test_confined_round_trip(tmp_path, use_openat2):
    with Confined(tmp_path, use_openat2=use_openat2) as confined:
        confined.write("a/b/c.txt", b"hello")
        confined.write("a/b/c.txt", b"again")
        assert confined.read("a/b/c.txt", 100) == b"again"
        assert confined.stat("a/b/c.txt").size_bytes == 5
        assert confined.stat("a/b").kind == "folder"
        assert [path for path, _ in confined.walk("", 10)] == ["a/b/c.txt"]
        assert confined.delete("a/b/c.txt")
        assert not confined.delete("a/b/c.txt")
        with pytest.raises(NotFoundError):
            confined.read("a/b/c.txt", 100)
        with pytest.raises(RequestError):
            confined.write("a/b", b"a folder is there")
        for number in range(5):
            confined.write(f"n/{number}", b"")
        with pytest.raises(TooLargeError):
            confined.walk("n", 3)
    confined.close()


def test_split_path_gives_the_components():
    assert split_path("a/b c/日本.txt") == ("a", "b c", "日本.txt")
    with pytest.raises(RequestError):
        split_path("a/" + "あ" * 100)

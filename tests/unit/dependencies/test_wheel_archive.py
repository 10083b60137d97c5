"""The unzipper's own refusals: files that are none, archives that are damaged, lists that say nothing."""

from __future__ import annotations

import os
import struct

import pytest

from backend_core.errors import TrustError
from core_runtime.drivers import wheel_archive
from core_runtime.rules.wheel_layout import LIMITS
from tests.support import wheels

NAME, DATA = wheels.built("colours", "1.0", {"colours/__init__.py": "VERSION = 1\n" * 50, "colours/core.so": wheels.ELF})


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / NAME
    path.write_bytes(DATA)
    return path


def refused(call, *arguments) -> str:
    with pytest.raises(TrustError) as caught:
        call(*arguments)
    return caught.value.detail


def test_an_honest_wheel_is_described(wheel, tmp_path):
    seen = wheel_archive.examine(wheel)
    assert (seen.sha256, seen.size, seen.native) == (wheels.sha256(DATA), len(DATA), ("colours/core.so",))
    into = tmp_path / "set"
    into.mkdir()
    assert wheel_archive.unpack(wheel, seen.sha256, into) == seen
    assert wheel_archive.sha256_of(wheel) == (seen.sha256, seen.size)


def test_other_bytes_than_asked_for(wheel, tmp_path):
    with pytest.raises(TrustError) as caught:
        wheel_archive.unpack(wheel, "0" * 64, tmp_path)
    assert caught.value.code == "wheel_hash"


def test_what_is_no_plain_file(wheel, tmp_path):
    link = tmp_path / "link-1.0-py3-none-any.whl"
    link.symlink_to(wheel)
    assert "can't be read" in refused(wheel_archive.examine, link)
    assert "can't be read" in refused(wheel_archive.examine, tmp_path / "absent.whl")
    fifo = tmp_path / "fifo.whl"
    os.mkfifo(fifo)
    assert "no regular file" in refused(wheel_archive.sha256_of, fifo)
    huge = tmp_path / "huge.whl"
    with huge.open("wb") as file:
        file.truncate(LIMITS.archive_bytes + 1)
    assert "are allowed" in refused(wheel_archive.sha256_of, huge)


def test_damage_is_named(wheel, tmp_path):
    at = DATA.index(b"PK\x01\x02")
    for offset, said in ((14, "damaged"), (50, "damaged")):
        changed = bytearray(DATA)
        changed[offset if offset == 50 else at - 40] ^= 0xFF
        wheel.write_bytes(bytes(changed))
        assert said in refused(wheel_archive.unpack, wheel, wheels.sha256(bytes(changed)), tmp_path / str(offset))
    assert "no plain zip" in refused(_written, wheel, b"")
    assert "no plain zip" in refused(_written, wheel, DATA[:-1])
    split = bytearray(DATA)
    struct.pack_into("<H", split, len(split) - 18, 1)
    assert "several parts" in refused(_written, wheel, bytes(split))


def test_a_record_that_is_none(tmp_path, wheel):
    for number, record in enumerate((b"\xff\xfe", b'"', b"a" * 200_000 + b",sha256=x,1", b"colours/__init__.py,sha256=!,1")):
        files = {"colours/__init__.py": "", "colours-1.0.dist-info/RECORD": record}
        name, data = wheels.built("colours", "1.0", files, with_record=False)
        (tmp_path / name).write_bytes(data)
        into = tmp_path / str(number)
        into.mkdir()
        assert "RECORD" in refused(wheel_archive.unpack, tmp_path / name, wheels.sha256(data), into)


def test_a_record_that_is_too_long(tmp_path):
    files = {"colours/__init__.py": "", "colours-1.0.dist-info/RECORD": os.urandom(wheel_archive.RECORD_BYTES // 2) * 3}
    name, data = wheels.built("colours", "1.0", files, with_record=False)
    (tmp_path / name).write_bytes(data)
    assert "are allowed" in refused(wheel_archive.unpack, tmp_path / name, wheels.sha256(data), tmp_path)


def _written(path, data):
    path.write_bytes(data)
    wheel_archive.examine(path)

"""Reading and unpacking one wheel: its own unzipper, which runs nothing and believes nothing but the bytes.

Invariants:
  * What is unpacked has the SHA-256 that was asked for: the same open file is hashed, then read.
  * The end record is checked before the list of members is read, so that a list can't fill the memory.
  * Each unpacked file is new, 0444, and agrees with the wheel's RECORD (size and SHA-256); otherwise nothing counts.
  * Every refusal is a ``TrustError`` ``wheel_refused`` that names the wheel and the member.

Not here: what may be where (``rules.wheel_layout``), which wheels there should be (``rules.dependencies``).
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from msgspec import Struct

from backend_core.errors import TrustError, quote
from core_runtime.rules.findings import NATIVE_MAGIC
from core_runtime.rules.wheel_layout import LIMITS, Layout, Member, Refused, is_native, lay_out

CHUNK_BYTES: Final = 256 * 1024
HEAD_BYTES: Final = 8
RECORD_BYTES: Final = 8 * 1024 * 1024
LIST_BYTES: Final = 16 * 1024 * 1024
_END: Final = struct.Struct("<4s4H2LH")
_END_MARK: Final = b"PK\x05\x06"
_ZIP64_MARK: Final = b"PK\x06\x07"
_SIGNATURES: Final = ("RECORD.jws", "RECORD.p7s")


class WheelContents(Struct, frozen=True):
    """What a wheel holds. ``native``: members with machine code, by name or by their first bytes."""

    sha256: str
    size: int
    layout: Layout
    native: tuple[str, ...]


def sha256_of(path: Path) -> tuple[str, int]:
    """Hash and size of a wheel file, which must be a plain file of bounded size."""
    with _opened(path) as (file, size):
        return _hash(file), size


def examine(path: Path) -> WheelContents:
    """Look at a whole wheel without writing anything."""
    with _opened(path) as (file, size), _archive(file, size, path.name) as (archive, layout):
        native = set(layout.native)
        for member, target in layout.files.items():
            with archive.open(member) as stream:
                if stream.read(HEAD_BYTES).startswith(NATIVE_MAGIC):
                    native.add(target)
        file.seek(0)
        return WheelContents(_hash(file), size, layout, tuple(sorted(native)))


def unpack(path: Path, sha256: str, into: Path, *, limit_bytes: int = LIMITS.total_bytes) -> WheelContents:
    """Unpack into a folder of ours beside what other wheels put there. A file that exists already refuses the wheel."""
    with _opened(path) as (file, size):
        found = _hash(file)
        if found != sha256:
            raise refusal(path.name, "", f"has the SHA-256 {found}, not {sha256}", code="wheel_hash")
        with _archive(file, size, path.name) as (archive, layout):
            if layout.total_bytes > limit_bytes:
                raise refusal(
                    path.name, "", f"unpacks to {layout.total_bytes} bytes; {limit_bytes} are left for this Pack"
                )
            promised = _record(archive, layout, path.name)
            native = {
                target
                for member, target in layout.files.items()
                if _write(archive, member, target, into, promised, path.name)
            }
            return WheelContents(found, size, layout, tuple(sorted(native)))


def refusal(wheel: str, member: str, reason: str, *, code: str = "wheel_refused") -> TrustError:
    """The one way in which a wheel is refused."""
    shown = f"{quote(member)} in {quote(wheel)}" if member else quote(wheel)
    return TrustError(
        "A wheel is refused",
        code=code,
        detail=f"{shown} {reason}.",
        hint="Lock another build of this package, then review the Pack again.",
        fields={"wheel": quote(wheel), "member": quote(member)},
    )


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise refusal(path.name, "", f"can't be read ({error.strerror})") from error
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise refusal(path.name, "", "is no regular file")
        if status.st_size > LIMITS.archive_bytes:
            raise refusal(path.name, "", f"has {status.st_size} bytes; {LIMITS.archive_bytes} are allowed")
        yield file, status.st_size


def _hash(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _archive(file: BinaryIO, size: int, name: str) -> Iterator[tuple[zipfile.ZipFile, Layout]]:
    """The archive and its layout; whatever the reader stumbles over inside the block is a refusal too."""
    _check_end(file, size, name)
    try:
        with zipfile.ZipFile(file) as archive:
            members = [
                Member(
                    path=one.filename if one.orig_filename == one.filename else one.orig_filename,
                    size=one.file_size,
                    packed=one.compress_size,
                    mode=one.external_attr >> 16,
                    flags=one.flag_bits,
                    compression=one.compress_type,
                )
                for one in archive.infolist()
            ]
            layout = lay_out(members, size, "-".join(name.split("-")[:2]))
            if isinstance(layout, Refused):
                raise refusal(name, layout.path, layout.reason)
            yield archive, layout
    # what zipfile raises at a damaged one; a compression that it lacks is NotImplementedError
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, KeyError, RuntimeError) as error:
        raise refusal(name, "", f"is damaged: {quote(str(error), 120)}") from error


def _check_end(file: BinaryIO, size: int, name: str) -> None:
    """One plain end record as the last bytes, and a list of members of bounded size."""
    wanted = _END.size + 20
    file.seek(max(0, size - wanted))
    tail = file.read(wanted)
    file.seek(0)
    if len(tail) < _END.size or tail[-_END.size :][:4] != _END_MARK:
        raise refusal(name, "", "is no plain zip archive (comments and data behind it are refused)")
    _, disk, first, here, total, list_bytes, _, comment = _END.unpack(tail[-_END.size :])
    if comment or disk or first or here != total or tail[: -_END.size].startswith(_ZIP64_MARK):
        raise refusal(name, "", "is a zip archive of several parts or of more than 65,535 files")
    if total > LIMITS.members or list_bytes > LIST_BYTES:
        raise refusal(name, "", f"lists {total} files in {list_bytes} bytes; {LIMITS.members} are allowed")


def _record(archive: zipfile.ZipFile, layout: Layout, name: str) -> dict[str, str]:
    """Member → SHA-256 (hexadecimal) as the wheel's own RECORD promises."""
    info = archive.getinfo(layout.record)
    if info.file_size > RECORD_BYTES:
        raise refusal(name, layout.record, f"has {info.file_size} bytes; {RECORD_BYTES} are allowed")
    try:
        text = archive.read(info).decode("utf-8")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise refusal(name, layout.record, "is no list of files") from error
    promised: dict[str, str] = {}
    for row in rows:
        kind, _, value = row[1].partition("=") if len(row) > 1 else ("", "", "")
        if kind == "sha256":
            with contextlib.suppress(ValueError):
                promised[row[0]] = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()
    return promised


def _write(
    archive: zipfile.ZipFile, member: str, target: str, into: Path, promised: dict[str, str], wheel: str
) -> bool:
    """Unpack one member; whether it is machine code."""
    path = into.joinpath(target)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    digest, head = hashlib.sha256(), b""
    try:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444)
    except FileExistsError as error:
        raise refusal(wheel, target, "is also in another wheel of this Pack") from error
    with os.fdopen(out, "wb") as file, archive.open(member) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            head = head or chunk[:HEAD_BYTES]
            digest.update(chunk)
            file.write(chunk)
    folder = member.rpartition("/")[0]
    signature = member in {f"{folder}/{name}" for name in ("RECORD", *_SIGNATURES)} and folder.endswith(".dist-info")
    if not signature and promised.get(member) != digest.hexdigest():
        raise refusal(wheel, member, "is not what the wheel's own RECORD says")
    return is_native(target) or head.startswith(NATIVE_MAGIC)

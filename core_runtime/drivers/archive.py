"""Unpacking a Pack's archive (zip; tar plain or with gzip, bzip2, xz) into a new folder; runs and believes nothing.

Invariants:
  * Every member is decided by ``rules.archive`` before a byte of it is written; one refusal ends the whole, and what
    was written goes away with the folder.
  * Sizes that the archive tells are promises: what really comes is counted, and more than promised or allowed ends it.
    Decompressing takes bounded memory, whatever the archive asks for.
  * Each file is new, opened without following links, 0600 or 0700.
  * Every refusal is an ``AuthorError`` ``archive_refused`` that names the member; the machine's own trouble is
    ``OSError``.

Not here: where an archive comes from, what is done with the folder (``drivers.updates``).
"""

from __future__ import annotations

import bz2
import contextlib
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn, cast

from backend_core.errors import AuthorError, quote
from core_runtime.rules.archive import LIMITS, MARKER, ArchiveLimits, Intake, Kind, Member, Refused, root_of

CHUNK_BYTES: Final = 256 * 1024
LZMA_MEMORY_BYTES: Final = 128 * 1024 * 1024
LIST_BYTES: Final = 16 * 1024 * 1024
HEADER_BYTES: Final = 64 * 1024
"""Most that one of tar's extended headers may hold: a path and a few words more."""
GLOBAL_BYTES: Final = 64 * 1024
"""Most that all of a tar's headers that hold for every later member may have together."""
EXTENDED_BYTES: Final = 8 * 1024 * 1024
"""Most that all of a tar's extended headers may have together: some hundred for each of very many members. They
compress to nearly nothing, and reading one costs more than reading a file of its length.
"""
MOST_HEADERS: Final = 8
"""Extended headers in a row before one member."""
MOST_STREAMS: Final = 65_536
"""Compressed streams one behind the other: tools that compress side by side begin one for each 64 KiB or more."""
_LOCATOR_BYTES: Final = 20
_END: Final = struct.Struct("<4s4H2LH")
_ZIP_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_EXTENDED: Final = frozenset(
    {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
)
_BROKEN: Final = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, KeyError, RuntimeError,
    NotImplementedError, struct.error, OverflowError,
)  # fmt: skip
"""What the standard library raises at a damaged archive; a method that it lacks is ``NotImplementedError``."""


def unpack(archive: Path, into: Path, limits: ArchiveLimits = LIMITS) -> Path:
    """Unpack into ``into``, an empty folder of ours; the folder in it that is the Pack.

    Raises ``AuthorError``; what was written by then is for the caller to remove, with ``into``.
    """
    with _opened(archive, limits) as (file, size):
        name, intake = archive.name, Intake(size, limits)
        head = file.read(8)
        file.seek(0)
        try:
            if head.startswith(b"PK\x03\x04"):
                _unzip(file, size, name, into, intake)
            else:
                _untar(_Inflated(file, head, _ceiling(limits)), name, into, intake)
        except _BROKEN as error:
            _refuse(name, "", f"is damaged, or no zip or tar archive: {quote(str(error), 120)}")
        except OSError as error:
            if error.errno is None:  # the decompressors' own, not the machine's
                _refuse(name, "", f"is damaged: {quote(str(error), 120)}")
            raise
    root = root_of(intake.files)
    if root is None:
        _refuse(name, "", f"holds no Pack: expected {MARKER} at its top, or in the one folder that holds everything")
    return into / root


# --- zip -------------------------------------------------------------------------------------------------------------


def _unzip(file: BinaryIO, size: int, name: str, into: Path, intake: Intake) -> None:
    _check_list(file, size, name, intake.limits)
    with zipfile.ZipFile(file) as archive:
        packed = 0
        for one in archive.infolist():
            packed += one.compress_size
            if packed > size:
                _refuse(name, "", "holds members that overlap")
            member = Member(_zip_path(one), _zip_kind(one), one.file_size, bool(one.external_attr >> 16 & stat.S_IXUSR))
            _admit(intake, member, name)
            if one.flag_bits & 0x1 or one.compress_type not in _ZIP_METHODS:
                _refuse(name, member.path, "is encrypted, or compressed in a way that is not read here")
            if member.kind is Kind.FILE:
                with archive.open(one) as stream:
                    _write(into, member, name, stream.read)
            else:
                _make_folder(into, member)


def _zip_path(one: zipfile.ZipInfo) -> str:
    return one.filename if one.orig_filename == one.filename else one.orig_filename  # a NUL is not to be cut away


def _zip_kind(one: zipfile.ZipInfo) -> Kind:
    folder = one.filename.endswith("/")
    allowed = {0, stat.S_IFDIR if folder else stat.S_IFREG}
    if stat.S_IFMT(one.external_attr >> 16) not in allowed:
        return Kind.OTHER
    return Kind.FOLDER if folder else Kind.FILE


def _check_list(file: BinaryIO, size: int, name: str, limits: ArchiveLimits) -> None:
    """The list of members is of bounded size, before it is read whole."""
    file.seek(max(0, size - _END.size - 0xFFFF - _LOCATOR_BYTES))
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        _refuse(name, "", "has no list of its members")
    if tail[max(0, at - _LOCATOR_BYTES) : at].startswith(b"PK\x06\x07"):  # its sizes would count instead of these
        _refuse(name, "", "has a second list of its members, as only archives too large for this have")
    _, disk, first, here, total, list_bytes, _, comment = _END.unpack_from(tail, at)
    if disk or first or here != total or len(tail) - at - _END.size != comment or total == 0xFFFF:
        _refuse(name, "", "is a zip archive of several parts, with data behind it, or of more than 65,534 files")
    if total > limits.members or list_bytes > LIST_BYTES:
        _refuse(name, "", f"lists {total} files in {list_bytes} bytes; {limits.members} are allowed")
    file.seek(max(0, size - (len(tail) - at) - list_bytes))
    if file.read(list_bytes).count(b"PK\x01\x02") > limits.members:  # ``total`` is a promise, and nobody reads it
        _refuse(name, "", f"lists more than {limits.members} files")
    file.seek(0)


# --- tar -------------------------------------------------------------------------------------------------------------


class _Member(tarfile.TarInfo):
    """A tar member whose extended headers are bounded, and that is never sparse."""

    def _proc_member(self, tar: tarfile.TarFile) -> Any:
        if self.type in _EXTENDED:
            if self.size > HEADER_BYTES:
                raise tarfile.ReadError(f"an extended header has {self.size} bytes; {HEADER_BYTES} are allowed")
            cast("_Tar", tar).count_header(self.size, for_all=self.type == tarfile.XGLTYPE)
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a sparse file")
        return super()._proc_member(tar)  # type: ignore[misc]  # tarfile's own hook, which its types leave out

    def _no_sparse(self, *_args: Any) -> NoReturn:
        raise tarfile.ReadError("a sparse file")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _no_sparse


class _Tar(tarfile.TarFile):
    """A tar whose extended headers are bounded together, too: they are kept in memory and are no members."""

    _row = 0
    _for_all = 0
    _extended = 0

    def count_header(self, size: int, *, for_all: bool) -> None:
        self._row += 1
        self._extended += size
        self._for_all += size if for_all else 0
        if self._row > MOST_HEADERS or self._for_all > GLOBAL_BYTES or self._extended > EXTENDED_BYTES:
            raise tarfile.ReadError("more extended headers than are allowed")

    def member_read(self, one: tarfile.TarInfo) -> None:
        """The next member may have headers again; those of this one are not needed any more."""
        self._row = 0
        one.pax_headers = {}


def _untar(stream: _Inflated, name: str, into: Path, intake: Intake) -> None:
    with _Tar.open(fileobj=cast("BinaryIO", stream), mode="r|", tarinfo=_Member, bufsize=CHUNK_BYTES) as archive:
        for one in archive:
            archive.member_read(one)
            kind = Kind.FILE if one.isreg() else Kind.FOLDER if one.isdir() else Kind.OTHER
            path = one.name.removeprefix("./")
            if kind is Kind.FOLDER and path in {"", "."}:
                continue  # the top itself, as `tar -C DIR .` writes it
            member = Member(path, kind, one.size, bool(one.mode & stat.S_IXUSR))
            _admit(intake, member, name)
            source = archive.extractfile(one) if kind is Kind.FILE else None
            if source is not None:
                _write(into, member, name, source.read)
            else:
                _make_folder(into, member)


class _Inflated:
    """The bytes behind a compressed file: bounded in memory and in number, members one after the other. Their number is
    bounded, too: each costs a decompressor, and empty ones unpack to nothing that would be counted.
    """

    def __init__(self, file: BinaryIO, head: bytes, ceiling: int) -> None:
        self._file = file
        self._make = _decompressor_for(head)
        self._open: Any = None
        self._input = b""
        self._left = ceiling
        self._streams = 0

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes; nothing at the end."""
        found = self._read(size)
        self._left -= len(found)
        if self._left < 0:
            raise ValueError("it unpacks to more than is allowed")
        return found

    def _read(self, size: int) -> bytes:
        if self._make is None:
            return self._file.read(size)
        while True:
            if not self._input:
                self._input = self._file.read(CHUNK_BYTES)
            if self._open is None:
                if not self._input.strip(b"\0"):
                    if self._input:
                        self._input = b""
                        continue  # padding between or behind members
                    return b""
                self._streams += 1
                if self._streams > MOST_STREAMS:
                    raise ValueError(f"it is put together of more than {MOST_STREAMS} compressed streams")
                self._open = self._make()
            if not self._input and not self._waits():
                raise EOFError("it ends in the middle")
            found: bytes = self._open.decompress(self._input, size)
            self._input = self._rest()
            if self._open.eof:
                self._input, self._open = self._open.unused_data, None
            if found:
                return found

    def _waits(self) -> bool:
        """Whether the decompressor still holds input of its own."""
        return self._open is not None and not getattr(self._open, "needs_input", True)

    def _rest(self) -> bytes:
        """What zlib gives back; the others keep it."""
        return bytes(getattr(self._open, "unconsumed_tail", b""))


def _decompressor_for(head: bytes) -> Callable[[], Any] | None:
    if head.startswith(b"\x1f\x8b"):
        return lambda: zlib.decompressobj(wbits=31)
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if head.startswith(b"\xfd7zXZ\0"):
        return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=LZMA_MEMORY_BYTES)
    return None


# --- writing ---------------------------------------------------------------------------------------------------------


def _ceiling(limits: ArchiveLimits) -> int:
    """Everything in a tar: the files, and a kilobyte and an extended header or two for each."""
    return limits.total_bytes + limits.members * 8 * 1024


def _admit(intake: Intake, member: Member, archive: str) -> None:
    refused = intake.take(member)
    if isinstance(refused, Refused):
        _refuse(archive, refused.path, refused.reason)


def _write(into: Path, member: Member, archive: str, read: Callable[[int], bytes]) -> None:
    path = into / member.path
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    left = member.size
    with os.fdopen(os.open(path, flags, 0o700 if member.executable else 0o600), "wb") as file:
        while chunk := read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                break
            file.write(chunk)
    if left:
        _refuse(archive, member.path, "is not as long as the archive says")


def _make_folder(into: Path, member: Member) -> None:
    (into / member.path.removesuffix("/")).mkdir(mode=0o700, parents=True, exist_ok=True)


def _refuse(archive: str, member: str, reason: str) -> NoReturn:
    shown = f"{quote(member, 200)} in {quote(archive, 200)}" if member else quote(archive, 200)
    raise AuthorError(
        "The archive is refused",
        code="archive_refused",
        detail=f"{shown} {reason}.",
        hint="Nothing was kept. Get another copy, or unpack it yourself, look at it, and add the folder.",
        fields={"archive": quote(archive, 200), "member": quote(member, 200)},
    )


@contextlib.contextmanager
def _opened(path: Path, limits: ArchiveLimits) -> Iterator[tuple[BinaryIO, int]]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            _refuse(path.name, "", "is no regular file")
        if status.st_size > limits.archive_bytes:
            _refuse(path.name, "", f"has {status.st_size} bytes; {limits.archive_bytes} are allowed")
        yield file, status.st_size

"""Sealed memory files: made, checked, passed on by descriptor, and seen to be let go of.

Invariants:
  * What is taken from a sandbox is a memory file that nobody can change or cut any more, of exactly the size that was
    said, with its pages there. Anything else raises ``NoMemoryFile`` and is closed.
  * Who is given one gets a read-only description of its own, made here: so the kernel tells whether it is still held
    (a write lease is refused while another description is open), whatever the receiver says.
  * One message is one file: whatever else came with it is closed before anybody looks at it.
  * Whoever made the file may hold a lease on it, or open it while we do: neither makes the host wait, nor does the
    signal that the kernel then sends end it.

Not here: who may hold how much (``bus.memory``), what is in it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
import struct
from collections.abc import Sequence
from functools import cache
from typing import Final

# Linux's numbers: where its kernel is not, this module is still loaded, and says why it is of no use
_SET_SIGNAL, _SET_LEASE, _ADD_SEALS, _GET_SEALS = 10, 1024, 1033, 1034
SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8
"""SEAL, SHRINK, GROW and WRITE."""
MARK: Final = struct.Struct("<II")
"""Of a message, and of the body that it stands for: number and size."""
PAGE_BYTES: Final = 4096
_BLOCK_BYTES: Final = 512
_FLAGS: Final = socket.MSG_DONTWAIT | getattr(socket, "MSG_CMSG_CLOEXEC", 0)
_descriptor = struct.Struct("i")


class NoMemoryFile(ValueError):  # noqa: N818 - named for what it tells
    """What came is not what was said."""


class OutOfFiles(OSError):  # noqa: N818
    """The host itself has no descriptor left."""


class Body(mmap.mmap):
    """A body that lies in a memory file of its sender's, mapped read-only. ``file`` is a description of the host's."""

    file: int = -1

    def __del__(self) -> None:
        """The last one who looks at it is done."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


@cache
def why_not() -> str:
    """Why memory files can't be used on this machine; empty when they can."""
    try:
        file = made((b"x",))
    except (OSError, AttributeError) as exc:
        return f"sealed memory files can't be made: {exc}"
    try:
        given = reopened(file)
        try:
            seen = not let_go(file)
        finally:
            os.close(given)
        if not (seen and let_go(file)):
            return "the kernel does not tell whether a memory file is still held"
    except OSError as exc:
        return f"memory files can't be opened again: {exc}"
    finally:
        os.close(file)
    return ""


def made(parts: Sequence[bytes | bytearray | memoryview]) -> int:
    """A sealed memory file with these bytes; a read-only description of it. Raises ``OSError``."""
    file = os.memfd_create("value", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(file, view) :]
        fcntl.fcntl(file, _ADD_SEALS, SEALS)
        return reopened(file)
    finally:
        os.close(file)


def reopened(file: int) -> int:
    """Another description of the same file, read-only. Raises ``OSError``."""
    # without O_NONBLOCK the kernel would have us wait for the holder of a lease, 45 s by default
    return os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)


def let_go(file: int) -> bool:
    """Whether nobody has a description of the file but us (``file``) and who made it."""
    # who opens it at this moment breaks our lease, which by default is a SIGIO: the end of a process that expects none
    fcntl.fcntl(file, _SET_SIGNAL, signal.SIGURG)
    try:
        fcntl.fcntl(file, _SET_LEASE, fcntl.F_WRLCK)
    except OSError:  # somebody has: that is the answer
        return False
    fcntl.fcntl(file, _SET_LEASE, fcntl.F_UNLCK)
    return True


def mapped(file: int, size: int) -> Body:
    """The body in a file that a sandbox sent; ``file`` is closed. Raises ``NoMemoryFile``, ``OSError``."""
    try:
        try:
            seals = fcntl.fcntl(file, _GET_SEALS)
        except OSError:
            raise NoMemoryFile("a descriptor that is no memory file") from None
        if seals & SEALS != SEALS:
            raise NoMemoryFile("a memory file that can still be changed: a seal is missing")
        facts = os.fstat(file)
        if facts.st_size != size:
            raise NoMemoryFile(f"a memory file of {facts.st_size} bytes, of which {size} were said")
        if facts.st_blksize != PAGE_BYTES:
            raise NoMemoryFile("a memory file of huge pages")
        if facts.st_blocks * _BLOCK_BYTES < size:
            raise NoMemoryFile(f"a memory file with holes: {facts.st_blocks * _BLOCK_BYTES} of {size} bytes are there")
        try:
            ours = reopened(file)
        except BlockingIOError:
            raise NoMemoryFile("a memory file on which somebody holds a lease") from None
    finally:
        os.close(file)
    return _body(ours, size)


def stored(parts: Sequence[bytes | bytearray | memoryview]) -> Body:
    """A body of the host's own, in a new file. Raises ``OSError``."""
    return _body(made(parts), sum(len(part) for part in parts))


def _body(file: int, size: int) -> Body:
    try:
        body = Body(file, size, access=mmap.ACCESS_READ)
    except BaseException:
        os.close(file)
        raise
    body.file = file
    return body


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that carry messages with a descriptor; ours does not wait."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def give(end: socket.socket, mark: bytes, file: int) -> bool:
    """Send one message; False where it does not go out now."""
    try:
        end.sendmsg([mark], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _descriptor.pack(file))], _FLAGS)
    except OSError:  # it is not read, too many are under way, or the other end is gone
        return False
    return True


def taken(end: socket.socket) -> tuple[bytes, list[int]] | None:
    """The next message and what came with it; None where there is none. Raises ``OutOfFiles``."""
    space = socket.CMSG_SPACE(2 * _descriptor.size)
    try:
        data, ancillary, flags, _ = end.recvmsg(MARK.size + 1, space, _FLAGS)
    except OSError:  # nothing there, or the far end is gone
        return None
    files: list[int] = []
    for level, kind, carried in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(carried) - len(carried) % _descriptor.size
            files += [number for (number,) in _descriptor.iter_unpack(carried[:whole])]
    if flags & socket.MSG_CTRUNC and not files:
        raise OutOfFiles("no descriptor is left")
    return data, files


def closed(files: Sequence[int]) -> None:
    """Close them all."""
    for file in files:
        os.close(file)

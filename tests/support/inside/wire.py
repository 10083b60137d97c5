"""Frames over a connection that was taken from the agent: MessagePack of the runtime, everything else its own.

Long bodies go both ways: in memory files over the second socket, and in chunks (``body``, ``whole``).
"""

import fcntl
import mmap
import os
import select
import socket
import struct
import sys
import time
import traceback

sys.path.append("/opt/rumi")  # the agent's own MessagePack
import msgpack

OPTIONS = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}
REF = msgpack.ExtType(1, b"\x00")
STORED, CHUNKED = 3, 4
PIECE_BYTES = 60 * 1024
LONG_BYTES = 256 * 1024  # from here on a body goes in a file
F_ADD_SEALS, SEALS = 1033, 15
MARK = struct.Struct("<II")


def frame(*fields):
    body = msgpack.packb(list(fields))
    return struct.pack("<I", len(body)) + body


def memory(data=b"", seals=SEALS, size=0):
    """A memory file; ``size``: it is cut or stretched to that."""
    fd = os.memfd_create("value", 3)  # MFD_CLOEXEC | MFD_ALLOW_SEALING
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    if size:
        os.ftruncate(fd, size)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


class Pipes:
    """The two descriptors of attached stdio, as far as a socket is used here."""

    def __init__(self, read_fd, write_fd):
        self.read_fd, self.write_fd = read_fd, write_fd

    def fileno(self):
        return self.read_fd

    def recv(self, size):
        return os.read(self.read_fd, size)

    def sendall(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.write_fd, view) :]


class Wire:
    def __init__(self, argv):
        way = [int(fd) for fd in argv[1].split(",")]
        for fd in way:
            os.set_blocking(fd, True)
        self.sock = socket.socket(fileno=way[0]) if len(way) == 1 else Pipes(*way)
        self.phase = int(argv[2])
        self.buffer = bytearray.fromhex(argv[3])
        self.second = socket.socket(fileno=int(argv[4])) if int(argv[4]) >= 0 else None
        self.given = int(argv[5])
        self.pieces = {}  # bodies in chunks that have begun to come
        self.bodies = 0

    def raw(self, data):
        self.sock.sendall(data)

    def send(self, *fields):
        self.sock.sendall(frame(*fields))

    def read(self, until=None):
        """The next frame; None when ``until`` passes before it is there."""
        while True:
            if len(self.buffer) >= 4:
                size = struct.unpack_from("<I", self.buffer)[0]
                if len(self.buffer) >= 4 + size:
                    data = bytes(self.buffer[4 : 4 + size])
                    del self.buffer[: 4 + size]
                    return msgpack.unpackb(data, strict_map_key=False, timestamp=3)
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0 and not select.select([self.sock], [], [], 0)[0]:
                return None
            if left is not None and not select.select([self.sock], [], [], max(0.0, left))[0]:
                return None
            part = self.sock.recv(1 << 16)
            if not part:
                raise SystemExit(0)
            self.buffer += part

    def put(self, told, *files):
        """One message on the second socket; whether it went out. The files are closed."""
        carried = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(files)}i", *files))] if files else []
        try:
            if self.second is not None:
                self.second.sendmsg([told], carried, socket.MSG_DONTWAIT)
        except OSError:
            return False
        finally:
            for fd in files:
                os.close(fd)
        return self.second is not None

    def body(self, value, chunks=False):
        """What a frame has for ``value``: itself, or what stands for it where it is long; that goes ahead."""
        data = msgpack.packb(value)
        if len(data) < LONG_BYTES:
            return value
        if not chunks:
            mark = MARK.pack(self.given + 1, len(data))
            if self.put(mark, memory(data)):
                self.given += 1
                return msgpack.ExtType(STORED, mark)
        self.bodies += 1
        for at in range(0, len(data), PIECE_BYTES):
            self.send(8, self.bodies, data[at : at + PIECE_BYTES])
        return msgpack.ExtType(CHUNKED, MARK.pack(self.bodies, len(data)))

    def piece(self, number, data):
        """CHUNK."""
        self.pieces.setdefault(number, bytearray()).extend(data)

    def whole(self, body):
        """The value of a body, wherever it is."""
        if not isinstance(body, msgpack.ExtType) or body.code not in (STORED, CHUNKED):
            return body
        number, size = MARK.unpack(body.data)
        if body.code == CHUNKED:
            data = self.pieces.pop(number)
            assert len(data) == size, (number, size, len(data))
            return msgpack.unpackb(data, strict_map_key=False)
        while True:
            mark, carried, _, _ = self.second.recvmsg(16, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT)
            (fd,) = struct.unpack("i", carried[0][2][:4])
            try:
                if mark == body.data:
                    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as data:
                        return msgpack.unpackb(data, strict_map_key=False)
            finally:
                os.close(fd)

    def begin(self, keys):
        """Register callables 1, 2, … under ``keys`` and end the phase, as an agent would."""
        for number, key in enumerate(keys, 1):
            self.send(32, number, key, OPTIONS, None, None, [[0, number]], REF)
        left = len(keys)
        while left:
            got = self.read()
            if got[0] == 21:
                self.send(22, got[1], {"threads": 1, "stuck": 0, "calls": 0})
            elif got[0] in (2, 3):
                assert got[0] == 2, got
                left -= 1
        done = {"ok": True, "error": None, "registered": list(keys), "duration_us": 1, "asynchronous": False}
        self.send(19, self.phase, done)
        return len(keys) + 1


def played(main):
    """``main(wire)``; what ends it is told in the Pack's log, since nobody reads its output any more."""
    wire = Wire(sys.argv)
    try:
        main(wire)
    except Exception:
        wire.send(23, 0, 40, "stderr", traceback.format_exc()[-4000:])
        raise

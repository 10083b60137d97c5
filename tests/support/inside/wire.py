"""Frames over a connection that was taken from the agent: MessagePack of the runtime, everything else its own."""

import select
import socket
import struct
import sys
import time

sys.path.append("/opt/rumi")  # the agent's own MessagePack
import msgpack

OPTIONS = {"if_absent": False, "ttl_ms": None, "override": False, "source": None}
REF = msgpack.ExtType(1, b"\x00")


def frame(*fields):
    body = msgpack.packb(list(fields))
    return struct.pack("<I", len(body)) + body


class Wire:
    def __init__(self, argv):
        self.sock = socket.socket(fileno=int(argv[1]))
        self.sock.setblocking(True)
        self.phase = int(argv[2])
        self.buffer = bytearray.fromhex(argv[3])

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

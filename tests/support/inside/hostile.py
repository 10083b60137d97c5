"""A Pack whose code speaks the bus by itself, and lies in every way: ``hostile.attack`` ``{kind, s}`` goes on for ``s`` seconds.

What it does costs it its connection in most cases; then its process ends here and supervision starts it anew.
"""

import os
import random
import socket
import struct
import sys
import time

sys.path.insert(0, __file__.rpartition("/")[0])
from wire import MARK, OPTIONS, REF, SEALS, STORED, frame, memory, msgpack, played

BOMB = b"\xdd" + struct.pack(">I", 900_000) + b"\x80" * 900_000


def with_body(head, body):
    data = bytes([0x90 + len(head) + 1]) + b"".join(map(packed, head)) + body
    return struct.pack("<I", len(data)) + data


def packed(value):
    return frame(value)[5:]


def endless(make):
    def attack(wire, until):
        number = 1 << 20
        while time.monotonic() < until:
            number += 1000
            wire.raw(make(number))
            drain(wire)

    return attack


def drain(wire):
    """Read what has come: it must not be its own backlog that ends it."""
    while wire.read(time.monotonic()) is not None:
        pass


def forged_answers(wire, until):
    """Answers of every kind to calls that others were given: their numbers are small, on their own connections."""
    for number in range(2, 16):
        wire.send(2, number, 0, [], "forged")
        wire.send(3, number, "error/Forged", "forged", "", False, "")
        wire.send(5, number, [], "forged")
        wire.send(6, number, None)
    while time.monotonic() < until and wire.read(until) is not None:
        pass


def used_ids(wire, until):
    wire.raw(frame(1, 9, "hostile.attack", 0, 0, 0, None, [], {"kind": "nothing", "s": 60}) * 2)
    wire.read(until)
    wire.read(until)


def half_frames(wire, until):
    """A frame of a megabyte that comes byte by byte."""
    wire.raw(struct.pack("<I", 1 << 20) + b"\x95\x02")
    while time.monotonic() < until:
        wire.raw(b"\x00")
        time.sleep(0.005)
    os._exit(0)


def credit_as_consumer(wire, until):
    """Reads a stream of another Pack with more credit than there is, then with none."""
    for number in range(5000, 5020):
        wire.send(1, number, "server.count", 60_000, 0, 0, None, [], 10**9)
    while time.monotonic() < until:
        for number in range(5000, 5020):
            wire.send(7, number, 2**32 - 1)
        drain(wire)


def credit_as_producer(wire, until):
    """Opens a stream of its own, called by itself, and sends more than it was granted."""
    wire.send(1, 6000, "hostile.stream", 0, 0, 0, None, [], None)
    while True:
        got = wire.read(until)
        if got is None:
            return
        if got[0] == 1:
            wire.send(2, got[1], 1, [], None)
            for item in range(5000):
                wire.send(5, got[1], [], item)


def streams_never_read(wire, until):
    """Opens as many streams of another Pack as it may, grants nothing and lets them stand."""
    for number in range(7000, 7400):
        wire.send(1, number, "server.count", 3_600_000, 0, 0, None, [], 10**9)
    wait(wire, until)


def answers_never_read(wire, until):
    """Asks for more than it takes: what it reads nothing of must be kept by somebody, and in bounds."""
    number = 1 << 25
    while time.monotonic() < until:
        number += 1
        wire.send(1, number, "server.echo", 0, 0, 0, None, [], b"a" * 60_000)


def calls_never_answered(wire, until):
    """Calls itself in a circle and answers nobody."""
    for number in range(8000, 8500):
        wire.send(1, number, "hostile.stream", 600_000, 0, 0, None, [], None)
    wait(wire, until)


def wait(wire, until):
    while True:
        got = wire.read(until)
        if got is None:
            return
        if got[0] == 21:
            wire.send(22, got[1], {"threads": 1, "stuck": 0, "calls": 0})


def forged_references(number):
    return b"".join(
        frame(1, number + n, number + n, 0, 0, 0, None, [], None) + frame(1, number + 500 + n, "server.echo", 0, 0, 0, None, [[1, n]], REF)
        for n in range(100)
    )


def callables_without_end(number):
    """Offers callables to another Pack that gives each back."""
    refs = [[0, number + n] for n in range(500)]
    return frame(1, number, "server.echo", 0, 0, 0, None, refs, None)


def random_frames(number):
    made = random.Random(number)
    kinds = (1, 2, 3, 4, 5, 6, 7, 19, 22, 23, 32, 33, 37, 48, 49, 50, 64)
    return b"".join(
        frame(made.choice(kinds), made.randrange(1 << 16), *[made.choice((None, 0, 1, "k", [], {}, [[0, 1]], b"x", True)) for _ in range(made.randrange(8))])
        for _ in range(50)
    )


def bombs_and_small_talk(number):
    """Stalls the loop, and calls everybody whom that harms: whoever it has something for would be its partner."""
    talk = b"".join(frame(1, number + n, key, 0, 0, 0, None, [], None) for n, key in enumerate(("keeper.echo", "client.idle")))
    return talk + with_body([64, number + 2, "diagnostics.record", 0, []], BOMB)


def register_storm(number):
    return b"".join(frame(32, number + n, "hostile.other", OPTIONS, {"m": "x" * 500}, None, [[0, 100 + n]], REF) for n in range(200))


# --- long values

BODY = msgpack.packb(b"v" * 1_000_000)
BODY_BYTES = len(BODY)
HELD = []  # what it keeps open
CUT = []  # what it cuts when it was sent


def in_file(number, size=BODY_BYTES):
    return msgpack.ExtType(STORED, MARK.pack(number, size))


def held(fd):
    HELD.append(os.dup(fd))
    return fd


def shrinking():
    """Its size was right when it was sent."""
    fd = memory(BODY, seals=0)
    CUT.append(os.dup(fd))
    return fd


def one_socket():
    near, far = socket.socketpair()
    far.close()
    return near.detach()


FILES = {
    "without seals": lambda: memory(BODY, seals=0),
    "that may still be written": lambda: memory(BODY, seals=SEALS & ~8),
    "that may still be cut": lambda: memory(BODY, seals=SEALS & ~2),
    "that may be unsealed": lambda: memory(BODY, seals=SEALS & ~1),
    "that is cut meanwhile": shrinking,
    "of holes": lambda: memory(size=len(BODY)),
    "that is too short": lambda: memory(BODY[:1000]),
    "that is too long": lambda: memory(BODY, size=len(BODY) + 4096),
    "that is a device": lambda: os.open("/dev/zero", os.O_RDONLY),
    "that is a folder": lambda: os.open("/", os.O_RDONLY),
    "that is a pipe": lambda: os.pipe()[0],
    "that is a socket": one_socket,
}
"""One file each, none of which is what its frame says."""
NAMES = {
    "of another number": lambda wire: (wire.put(MARK.pack(9, len(BODY)), memory(BODY)), in_file(1)),
    "of another size": lambda wire: (wire.put(MARK.pack(1, len(BODY)), memory(BODY)), in_file(1, len(BODY) - 1)),
    "that did not come": lambda wire: (None, in_file(1)),
    "of which no descriptor came": lambda wire: (wire.put(MARK.pack(1, len(BODY))), in_file(1)),
    "of which two came": lambda wire: (wire.put(MARK.pack(1, len(BODY)), memory(BODY), memory(BODY)), in_file(1)),
    "in half a message": lambda wire: (wire.put(b"\1\0", memory(BODY)), in_file(1)),
}


def files_that_are_none(wire, until):
    """One lie, then another: each ends the connection."""
    calls = iter(range(1 << 20, 1 << 30))
    while time.monotonic() < until:
        lie = random.choice([*FILES, *NAMES])
        if lie in FILES:
            body = (wire.put(MARK.pack(1, len(BODY)), FILES[lie]()), in_file(1))[1]
            for fd in CUT:
                os.ftruncate(fd, 10)
        else:
            body = NAMES[lie](wire)[1]
        wire.send(1, next(calls), "server.echo", 0, 0, 0, None, [], body)
        wait(wire, until)


def one_file_named_twice(wire, until):
    mark = MARK.pack(wire.given + 1, len(BODY))
    wire.put(mark, memory(BODY))
    wire.raw(b"".join(frame(1, 9000 + n, "server.echo", 0, 0, 0, None, [], msgpack.ExtType(STORED, mark)) for n in range(2)))
    wait(wire, until)


def huge_files(wire, until):
    """Empty pages, as many as the sandbox lets a file have, and the largest size that fits its name."""
    number = 9100
    while time.monotonic() < until:
        wire.given += 1
        mark = MARK.pack(wire.given, 2**32 - 1)
        wire.put(mark, memory(size=1 << 25))
        wire.send(1, number, "server.echo", 0, 0, 0, None, [], msgpack.ExtType(STORED, mark))
        number += 1
        drain(wire)


def files_that_it_keeps(wire, until):
    """It keeps its own open, and those with which they come back."""
    number = 1 << 21
    while time.monotonic() < until:
        mark = MARK.pack(wire.given + 1, len(BODY))
        if len(HELD) < 40:
            file = held(memory(BODY))
            if wire.put(mark, file):
                wire.given += 1
                wire.send(1, number, "server.echo", 0, 0, 0, None, [], msgpack.ExtType(STORED, mark))
        else:
            wire.send(1, number, "server.echo", 0, 0, 0, None, [], wire.body(BODY))
        number += 1
        while wire.read(time.monotonic() + 0.005) is not None:
            take_one(wire)


def take_one(wire):
    """The next file that it was handed, for good."""
    try:
        _, carried, _, _ = wire.second.recvmsg(16, socket.CMSG_SPACE(4), socket.MSG_DONTWAIT)
        HELD.extend(struct.unpack("i", carried[0][2][:4]))
    except OSError:
        return


def files_that_nobody_named(wire, until):
    """A flood of the second socket; between it, calls in good order."""
    bait = memory(BODY)
    number = 1 << 22
    while time.monotonic() < until:
        for _ in range(200):
            wire.put(MARK.pack(7, len(BODY)), *[os.dup(bait) for _ in range(8)])
        number += 1
        wire.send(1, number, "server.echo", 0, 0, 0, None, [], None)
        drain(wire)


def long_values(wire, until):
    """In good order, as fast as they go, in files and in chunks; the answers are not looked at."""
    number = 1 << 23
    while time.monotonic() < until:
        number += 1
        wire.send(1, number, "server.echo", 0, 0, 0, None, [], wire.body(b"v" * 3_000_000, chunks=number % 2 == 0))
        drain(wire)


def chunks_that_lie(wire, until):
    """As many unfinished bodies as it may have, as long as they may be; then one that did not come."""
    at = 0
    while time.monotonic() < until - 0.5:
        at = at % 16 + 1
        wire.send(8, at, b"c" * 60_000)
        drain(wire)
    wire.send(1, 9200, "server.echo", 0, 0, 0, None, [], msgpack.ExtType(4, MARK.pack(1, 5)))
    wait(wire, until)


def streams_in_arguments(wire, until):
    """Passes streams and lies as their producer: more than it may, in two numbers at once, twice, never, half."""
    number = 1 << 24
    while time.monotonic() < until:
        for how in range(5):
            number += 2
            refs = [[2, number], [2, number + 1]] if how == 1 else [[2, number]]
            wire.send(1, number, "server.read", 2000, 0, 0, None, refs, {"items": REF})
            got = wire.read(until)
            while got is not None and not (got[0] == 1 and got[2] == number):
                if got[0] == 21:
                    wire.send(22, got[1], {"threads": 1, "stuck": 0, "calls": 0})
                got = wire.read(min(until, time.monotonic() + 0.5))
            if got is None:
                continue
            if how != 3:
                wire.send(2, got[1], 1, [], None)
            if how == 2:
                wire.send(2, got[1], 0, [], "an answer too")
                wire.send(6, got[1], None)
            elif how == 4 and random.random() < 0.3:
                for item in range(2000):
                    wire.send(5, got[1], [], item)
            elif how != 3:
                for item in range(10):
                    wire.send(5, got[1], [], item)
                wire.send(37, 0, [number])
                if how == 0:
                    wire.send(6, got[1], ["hostile/enough", "t" * 499, "", True, ""])


ATTACKS = {
    "nothing": wait,
    "memory files that are none": files_that_are_none,
    "a memory file that is named twice": one_file_named_twice,
    "huge memory files": huge_files,
    "memory files that it keeps": files_that_it_keeps,
    "memory files that nobody named": files_that_nobody_named,
    "long values without end": long_values,
    "chunks that lie": chunks_that_lie,
    "streams in arguments that lie": streams_in_arguments,
    "forged answers": forged_answers,
    "used ids": used_ids,
    "half frames": half_frames,
    "credit lies as a consumer": credit_as_consumer,
    "credit lies as a producer": credit_as_producer,
    "streams that nobody reads": streams_never_read,
    "answers that it never reads": answers_never_read,
    "calls that nobody answers": calls_never_answered,
    "forged references": endless(forged_references),
    "forged parents": endless(lambda n: b"".join(frame(1, n + i, "server.echo", 1, n + i, 0, None, [], None) for i in range(100))),
    "callables without end": endless(callables_without_end),
    "frame bombs for the host": endless(
        lambda n: with_body([50, n, "storm.bomb", []], BOMB) + with_body([64, n + 1, "diagnostics.record", 0, []], BOMB)
        + with_body([32, n + 2, "hostile.other", OPTIONS, None, None, []], BOMB)
    ),
    "frame bombs for another Pack": endless(lambda n: b"".join(with_body([1, n + i, "server.echo", 0, 0, 0, None, []], BOMB) for i in range(20))),
    "frames of a megabyte for another Pack": endless(lambda n: b"".join(frame(1, n + i, "server.echo", 0, 0, 0, None, [], b"x" * 1_000_000) for i in range(4))),
    "frame bombs beside small talk with those they harm": endless(bombs_and_small_talk),
    "a register storm": endless(register_storm),
    "an event storm": endless(lambda n: frame(50, 0, "storm.rain", [], {"n": n, "text": "x" * 200}) * 200),
    "an event storm without the right": endless(lambda n: frame(50, n, "other.rain", [], None) * 200),
    "a subscribe storm": endless(lambda n: b"".join(frame(48, n + i, "storm.*") + frame(49, n + 500 + i, i) for i in range(200))),
    "a RELEASE storm": endless(lambda n: frame(37, 0, list(range(n, n + 5000))) * 10),
    "an UNREGISTER storm": endless(lambda n: frame(33, n, list(range(n, n + 5000))) * 10),
    "a CANCEL storm": endless(lambda n: frame(4, n) * 2000),
    "calls and CANCELs": endless(lambda n: b"".join(frame(1, n + i, "server.slow", 0, 0, 0, None, [], 0.05) + frame(4, n + i) for i in range(50))),
    "a CREDIT storm": endless(lambda n: frame(7, n, 1 << 31) * 2000),
    "a PONG storm": endless(lambda n: frame(22, n, {}) * 60),
    "a LOG storm": endless(lambda n: frame(23, 0, 20, "stdout", "\x1b[2J" * 1000) * 20),
    "requests without end": endless(lambda n: b"".join(frame(64, n + i, "userdata.write", 0, [], {"path": "packs/hostile/x", "data": b"z" * 1000}) for i in range(100))),
    "random frames": endless(random_frames),
}


def main(wire):
    wire.begin(["hostile.attack", "hostile.stream", "hostile.alive"])
    while True:
        got = wire.read()
        if got[0] == 21:
            wire.send(22, got[1], {"threads": 1, "stuck": 0, "calls": 0})
        elif got[0] == 18:  # a later phase: it has nothing to run
            done = {"ok": True, "error": None, "registered": [], "duration_us": 1, "asynchronous": False}
            wire.send(19, got[1], done)
        elif got[0] == 20:
            return
        elif got[0] == 1 and got[2] == 1:
            told = got[-1]
            ATTACKS[told["kind"]](wire, time.monotonic() + told["s"])
            wire.send(2, got[1], 0, [], True)
        elif got[0] == 1:
            wire.send(2, got[1], 0, [], True)


if __name__ == "__main__":
    played(main)

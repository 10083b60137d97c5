"""Attacks with values in sealed memory files: what is none, lies, floods, holders that never let go.

Each of them costs its own Pack its connection, or the fast way; nobody else's call, and the host no descriptor.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgpack
import pytest

from core_runtime.bus import memory as bus_memory
from core_runtime.rules.frames import BusLimits
from tests.support.file_agent import SEALS, FileAgent, mark, memory
from tests.support.raw_agent import CALL, RESULT, RawAgent, eventually, issue_codes, reference, rig

KIB = 1024
SMALL = BusLimits(frame_bytes=64 * KIB, value_bytes=256 * KIB, values=4, values_bytes=384 * KIB)
VALUE = b"v" * 100 * KIB
BODY = msgpack.packb(VALUE)


@pytest.fixture(autouse=True)
def with_files(monkeypatch):
    monkeypatch.setattr("tests.support.raw_agent.RawAgent", FileAgent)


def descriptors() -> Counter[str]:
    """What this process, which is the host here, has open, by kind."""
    found: Counter[str] = Counter()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[str(entry.readlink()).partition(":")[0]] += 1
        except FileNotFoundError:
            continue
    return found


def bus(test, tmp_path, limits=SMALL):
    async def main():
        before = descriptors()
        async with rig(tmp_path, limits=limits) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            b, session = await r.agent("b", calls={"k"}, provides={"own"})
            await b.mirror("k")
            await test(r, a, b, session)
            for agent in r.agents:
                await agent.close()
            await eventually(lambda: not r.bus.router.sessions)
            assert r.bus.router.memory_room.used_bytes == r.bus.router.room.used_bytes == 0, "nothing is kept"
        await eventually(lambda: not descriptors() - before)

    asyncio.run(main())


async def goes_on(r, a) -> None:
    """The other Pack answers small and large calls as before."""
    for value in ("small", VALUE):
        call = asyncio.ensure_future(r.bus.call("k", value))
        frame = await a.until(CALL, lambda frame: frame[7][1] == "")
        while isinstance(frame[-1], msgpack.ExtType):
            number, _size, fd = a.taken()
            os.close(fd)
            if number == int.from_bytes(frame[-1].data[:4], "little"):
                break
        a.result(frame[1], "fine")
        assert await call == "fine"


def test_memory_files_in_good_order_go_through_without_a_copy(tmp_path):
    async def test(r, a, b, session):
        asked = b.call("k", b.stored(1, BODY))
        frame, fd, body = await a.in_file(CALL)
        assert body == VALUE
        a.result(frame[1], a.stored(1, msgpack.packb(VALUE[::-1])))
        answer, back, value = await b.in_file(RESULT)
        assert (answer[1], value) == (asked, VALUE[::-1])
        assert (session.memory.handed, session.memory.taken) == (1, 1)
        os.close(fd)
        os.close(back)

    bus(test, tmp_path)


def test_what_is_handed_on_can_not_be_changed_by_its_sender_or_its_receiver(tmp_path):
    async def test(_r, a, b, _session):
        mine = memory(BODY)
        b.put(struct.pack("<II", 1, len(BODY)), mine, keep=True)
        b.call("k", mark(1, len(BODY)))
        _frame, fd, _body = await a.in_file(CALL)
        for held in (mine, fd):
            with pytest.raises(OSError):
                os.pwrite(held, b"other", 0)
            with pytest.raises(OSError):
                os.ftruncate(held, 10)
        assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
        with pytest.raises((OSError, ValueError)):
            mmap.mmap(fd, len(BODY), access=mmap.ACCESS_WRITE)
        assert os.pread(fd, len(BODY), 0) == BODY
        os.close(mine)
        os.close(fd)

    bus(test, tmp_path)


def nothing_came(b):
    b.call("k", mark(1, 10))


def another_number(b):
    b.stored(2, BODY)
    b.call("k", mark(1, len(BODY)))


def another_size(b):
    b.put(struct.pack("<II", 1, 10), memory(BODY))
    b.call("k", mark(1, 10))


def another_size_in_the_frame(b):
    b.stored(1, BODY)
    b.call("k", mark(1, len(BODY) - 1))


def told_twice(b):
    body = b.stored(1, BODY)
    b.call("k", body)
    b.call("k", body)


def sent(data: bytes, *files):
    """Send what ``files`` make under number 1."""

    def lie(b):
        b.put(struct.pack("<II", 1, len(data)), *(make() for make in files))
        b.call("k", mark(1, len(data)))

    return lie


def ordinary_file() -> int:
    fd = os.open("/tmp", os.O_TMPFILE | os.O_RDWR)
    os.write(fd, BODY)
    return fd


def a_socket() -> int:
    near, far = socket.socketpair()
    far.close()
    return near.detach()


def a_pipe() -> int:
    reader, writer = os.pipe()
    os.close(writer)
    return reader


def read_only_path() -> int:
    fd = memory(BODY)
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    finally:
        os.close(fd)


LEASES: list[int] = []


def under_a_lease() -> int:
    fd = memory(BODY)
    LEASES.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
    fcntl.fcntl(LEASES[-1], 10, signal.SIGURG)  # F_SETSIG: the lease is this process's, and its end a signal
    fcntl.fcntl(LEASES[-1], fcntl.F_SETLEASE, fcntl.F_WRLCK)
    return fd


def missing(seal: int):
    return sent(BODY, lambda: memory(BODY, seals=SEALS & ~seal))


LIES = {
    "none came": nothing_came,
    "another number": another_number,
    "another size": another_size,
    "another size in the frame": another_size_in_the_frame,
    "told twice": told_twice,
    "no descriptor": sent(BODY),
    "two descriptors": sent(BODY, lambda: memory(BODY), lambda: memory(BODY)),
    "as many as a message carries": sent(BODY, *[lambda: memory(b"x", seals=SEALS)] * 200),
    "no seals": missing(SEALS),
    "may still be written": missing(fcntl.F_SEAL_WRITE),
    "may still be cut": missing(fcntl.F_SEAL_SHRINK),
    "may still grow": missing(fcntl.F_SEAL_GROW),
    "may be unsealed": missing(fcntl.F_SEAL_SEAL),
    "holes alone": lambda b: b.call("k", b.stored(1, b"", holes=100 * KIB)),
    "a hole behind the data": lambda b: b.call("k", b.stored(1, BODY, holes=100 * KIB)),
    "a folder": sent(BODY, lambda: os.open("/", os.O_RDONLY)),
    "a device": sent(BODY, lambda: os.open("/dev/null", os.O_RDWR)),
    "a socket": sent(BODY, a_socket),
    "a pipe": sent(BODY, a_pipe),
    "a file": sent(BODY, ordinary_file),
    "a process's own files": sent(BODY, lambda: os.open("/proc/self/maps", os.O_RDONLY)),
    "a path only": sent(BODY, read_only_path),
    "under a lease, to make the host wait": sent(BODY, under_a_lease),
    "a message that is too short": lambda b: (b.put(b"\1\0\0\0", memory(BODY)), b.call("k", mark(1, len(BODY)))),
    "a message that is too long": lambda b: (
        b.put(struct.pack("<IIQ", 1, len(BODY), 0), memory(BODY)), b.call("k", mark(1, len(BODY))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_is_not_what_was_said_ends_the_liars_connection(tmp_path, lie):
    async def test(r, a, b, session):
        lie(b)
        await b.ended()
        await eventually(lambda: session.dead)
        assert "bus_protocol" in issue_codes(r)
        await goes_on(r, a)
        while LEASES:
            os.close(LEASES.pop())

    bus(test, tmp_path)


def test_opening_a_file_while_the_host_looks_whether_it_is_held_does_not_end_the_host():
    """The kernel tells who holds a lease that it is broken, by a signal that ends a process by default."""
    program = """if True:
        import os, threading, time
        from core_runtime.drivers import memory_file

        file = memory_file.made([b"x" * 4096])

        over = threading.Event()
        until = time.monotonic() + 30

        def opens():
            while not over.is_set():
                os.close(os.open(f"/proc/self/fd/{file}", os.O_RDONLY))

        opener = threading.Thread(target=opens)
        opener.start()
        seen = {memory_file.let_go(file) for _ in range(20_000)}
        while len(seen) < 2 and time.monotonic() < until:
            seen.add(memory_file.let_go(file))
        over.set()
        opener.join()
        print(sorted(seen))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "[False, True]")


def test_sealed_too_late_is_too_late(tmp_path):
    async def test(_r, _a, b, session):
        fd = memory(BODY, seals=0)
        b.put(struct.pack("<II", 1, len(BODY)), fd, keep=True)
        b.call("k", mark(1, len(BODY)))
        await eventually(lambda: session.dead)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        os.close(fd)

    bus(test, tmp_path)


def test_a_mapping_that_may_be_written_keeps_its_file_from_being_sealed(tmp_path):
    """The kernel's own rule, on which the seal's word stands: who can still write can't have the seal."""
    fd = os.memfd_create("value", os.MFD_ALLOW_SEALING)
    os.write(fd, BODY)
    with mmap.mmap(fd, len(BODY)), pytest.raises(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    os.close(fd)


def test_the_sign_of_a_memory_file_reaches_nobody_where_it_means_nothing(tmp_path):
    """It would have the receiver take what was meant for another frame."""

    async def test(_r, a, b, session):
        assert (await b.answer(b.register("own", None, value=mark(1, 1))))[2] == "value.malformed"
        number = b.next_id()
        b.send(64, number, "userdata.read", 0, [], mark(1, 1))
        assert (await b.answer(number))[2] == "value.malformed"
        for body in (b"\xc7\x08\x03" + bytes(8), msgpack.packb([mark(1, 1)]), b"\xd6\x03" + bytes(4)):
            number = b.next_id()
            data = b"\x99" + msgpack.packb([CALL, number, "k", 0, 0, 0, None, []])[1:] + body
            b.raw(len(data).to_bytes(4, "little") + data)
            frame = await a.until(CALL)
            assert session.memory.taken == 0
            a.send(3, frame[1], "value.malformed", "", "", False, "")
            assert (await b.answer(number))[2] == "value.malformed"

    bus(test, tmp_path)


def test_a_pack_without_a_second_socket_has_none_to_name(tmp_path, monkeypatch):
    async def test(r, a, _b, _session):
        monkeypatch.setattr("tests.support.raw_agent.RawAgent", RawAgent)
        c, session = await r.agent("c", calls={"k"})
        c.call("k", mark(1, 10))
        await c.ended()
        assert session.dead
        await goes_on(r, a)

    bus(test, tmp_path)


def test_a_second_socket_that_begins_with_something_else_ends_the_connection(tmp_path, monkeypatch):
    async def test(r, a, _b, _session):
        class Rude(FileAgent):
            says_ready = False

        monkeypatch.setattr("tests.support.raw_agent.RawAgent", Rude)
        c, session = await r.agent("c", calls={"k"})
        c.call("k", c.stored(1, BODY))
        await c.ended()
        assert session.dead
        await goes_on(r, a)

    bus(test, tmp_path)


def test_a_flood_of_descriptors_is_the_floods_own(tmp_path):
    """The host reads the second socket for a frame, one message each: what else is in it stays in it."""

    async def test(r, a, b, session):
        before = sum(descriptors().values())
        fd = memory(b"x")
        b.second.setblocking(False)
        flooded = 0
        with pytest.raises(OSError):  # the socket is full, or the kernel lets its user have no more under way
            while True:
                b.put(struct.pack("<II", 7, 1), *[fd] * 50, keep=True)
                flooded += 1
        os.close(fd)
        assert flooded
        assert sum(descriptors().values()) == before, "the host took none"
        await goes_on(r, a)
        b.call("k", mark(1, 10))
        await b.ended()
        assert session.dead
        await eventually(lambda: sum(descriptors().values()) <= before)

    bus(test, tmp_path)


def test_a_huge_file_is_refused_unread_and_its_call_answered(tmp_path):
    async def test(r, a, b, session):
        assert (await b.answer(b.call("k", b.stored(1, bytes(300 * KIB)))))[2] == "value.too_large"
        assert not session.dead
        b.put(struct.pack("<II", 2, 2**32 - 1), memory(b"", holes=1 << 40))
        assert (await b.answer(b.call("k", mark(2, 2**32 - 1))))[2] == "value.too_large"
        await goes_on(r, a)

    bus(test, tmp_path)


def test_a_bomb_in_a_memory_file_costs_its_sender_an_error(tmp_path):
    async def test(r, a, b, session):
        function = asyncio.ensure_future(r.bus.call("k", "x"))
        frame = await a.until(CALL)
        a.result(frame[1], a.stored(1, b"\xdd\x00\x03\x0d\x40" + b"\x80" * 200_000))
        with pytest.raises(Exception, match="more than 131072 values"):
            await function
        call = asyncio.ensure_future(r.bus.call("k", "x"))
        frame = await a.until(CALL)
        a.result(frame[1], a.stored(2, b"\x91" * 100_000 + b"\xc0"))
        with pytest.raises(Exception, match="nest"):
            await call
        call = asyncio.ensure_future(r.bus.call("k", "x"))
        frame = await a.until(CALL)
        a.result(frame[1], a.stored(3, b"\xc1" * 100_000))
        with pytest.raises(Exception, match=r"malformed|MessagePack"):
            await call
        assert not session.dead
        await goes_on(r, a)

    bus(test, tmp_path)


def test_who_never_lets_go_is_sent_chunks_and_keeps_no_more_than_one_packs_share(tmp_path):
    async def test(r, a, b, session):
        memory_of_a = r.bus.sessions["a"].memory
        kept = []
        for n in range(1, 7):
            b.call("k", b.stored(n, BODY))
            frame = await a.until(CALL, lambda frame: isinstance(frame[-1], msgpack.ExtType))
            if frame[-1].code == 3:
                kept.append(a.taken()[2])
            a.result(frame[1], "got it")
            assert (await b.until(RESULT))[4] == "got it"
            assert memory_of_a._given_bytes <= SMALL.value_bytes
        assert len(kept) == 2, "of 256 KiB"
        assert r.bus.router.memory_room.used_bytes == memory_of_a._given_bytes == session.memory.sent_bytes
        for fd in kept:  # it lets go: the fast way is open again
            os.close(fd)
        await eventually(lambda: r.bus.router.memory_room.used_bytes == 0)
        b.call("k", b.stored(9, BODY))
        _frame, fd, _body = await a.in_file(CALL)
        os.close(fd)

    bus(test, tmp_path)


@pytest.mark.parametrize("how", ["a mapping", "in a socket", "a copy of it"])
def test_holding_it_in_another_way_is_holding_it(tmp_path, how):
    async def test(r, a, b, _session):
        b.call("k", b.stored(1, BODY))
        _frame, fd, _body = await a.in_file(CALL)
        near, far = socket.socketpair()
        kept = None
        if how == "a mapping":
            kept = mmap.mmap(fd, len(BODY), access=mmap.ACCESS_READ)
        elif how == "in a socket":
            socket.send_fds(near, [b"x"], [fd])
        else:
            kept = os.fdopen(os.dup(fd), "rb")
        os.close(fd)
        await asyncio.sleep(0.3)
        assert r.bus.router.memory_room.used_bytes == len(BODY)
        if kept is not None:
            kept.close()
        near.close()
        far.close()
        await eventually(lambda: r.bus.router.memory_room.used_bytes == 0)

    bus(test, tmp_path)


def test_a_sender_that_opens_its_own_file_again_blames_nobody_but_its_own_room(tmp_path):
    async def test(r, a, b, session):
        c, _ = await r.agent("c", calls={"k"})
        await c.mirror("k")
        again = []
        for n in (1, 2):
            fd = memory(BODY)
            b.put(struct.pack("<II", n, len(BODY)), fd, keep=True)
            b.call("k", mark(n, len(BODY)))
            os.close((await a.in_file(CALL))[1])
            again.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
            os.close(fd)
        b.call("k", b.stored(3, BODY))
        assert (await a.until(CALL))[-1].code == 4, "its own next one goes in chunks"
        assert not session.dead
        assert not r.bus.sessions["a"].dead
        for fd in again:
            os.close(fd)
        await eventually(lambda: session.memory.sent_bytes == 0)

    bus(test, tmp_path, BusLimits(frame_bytes=64 * KIB, value_bytes=256 * KIB, values=8, values_bytes=4096 * KIB))


def test_one_that_its_sender_has_open_besides_is_not_handed_on_at_all(tmp_path):
    async def test(_r, a, b, session):
        fd = memory(BODY)
        besides = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
        b.put(struct.pack("<II", 1, len(BODY)), fd)
        b.call("k", mark(1, len(BODY)))
        assert (await a.until(CALL))[-1].code == 4
        assert session.memory.sent_bytes == 0
        os.close(besides)

    bus(test, tmp_path)


def test_those_that_are_not_handed_on_go_in_pieces_also_while_others_do(tmp_path):
    """A whole frame of each would be a stall of milliseconds for everybody, from which nobody rests."""

    async def test(_r, a, b, _session):
        besides = []
        for number, body in enumerate((msgpack.packb(VALUE * 80), BODY, BODY), 1):
            fd = memory(body)
            besides.append(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY))
            b.put(struct.pack("<II", number, len(body)), fd)
            b.call("k", mark(number, len(body)))
        calls = [await a.until(CALL) for _ in besides]
        assert [call[-1].code for call in calls] == [4, 4, 4]
        for fd in besides:
            os.close(fd)

    bus(test, tmp_path, BusLimits(file_bytes=64 * KIB, values=4))


def test_all_held_together_stay_within_the_hosts_room_and_nobody_else_waits(tmp_path):
    limits = BusLimits(frame_bytes=64 * KIB, value_bytes=256 * KIB, values=4, values_bytes=128 * KIB)

    async def test(r, a, b, _session):
        b.call("k", b.stored(1, BODY))
        _frame, fd, _body = await a.in_file(CALL)
        call = asyncio.ensure_future(r.bus.call("k", VALUE))
        frame = await a.until(CALL)
        assert frame[-1].code == 4, "in chunks"
        a.result(frame[1], "fine")
        assert await call == "fine"
        os.close(fd)

    bus(test, tmp_path, limits)


def test_who_does_not_read_its_second_socket_is_sent_chunks(tmp_path):
    limits = BusLimits(frame_bytes=1024, value_bytes=4096 * KIB, values=4096, values_bytes=8192 * KIB)

    async def test(r, a, _b, _session):
        seen: set[int] = set()
        for _ in range(600):
            call = asyncio.ensure_future(r.bus.call("k", bytes(2000)))
            frame = await a.until(CALL)
            seen.add(frame[-1].code)
            a.result(frame[1], "fine")
            assert await call == "fine"
            if 4 in seen:
                break
        assert seen == {3, 4}

    bus(test, tmp_path, limits)


def test_a_holder_is_told_to_the_operator_and_both_ends_give_everything_back(tmp_path, monkeypatch):
    monkeypatch.setattr(bus_memory, "KEPT_S", 0.05)
    told: list[str] = []

    async def test(r, a, b, session):
        monkeypatch.setattr(r.bus.sessions["a"], "limited", lambda limit, detail: told.append(f"{limit} {detail}"))
        b.call("k", b.stored(1, BODY))
        _frame, fd, _body = await a.in_file(CALL)
        await eventually(lambda: told)
        assert [text.partition(" for ")[0] for text in told] == [f"values It has held a value of {len(BODY)} bytes"]
        session.abort("its sender ends first")
        await asyncio.sleep(0.1)
        assert r.bus.router.memory_room.used_bytes == len(BODY)
        r.bus.sessions["a"].abort("then the holder")
        await eventually(lambda: r.bus.router.memory_room.used_bytes == 0)
        os.close(fd)

    bus(test, tmp_path)


def test_references_beside_a_file_are_judged_as_ever(tmp_path):
    async def test(_r, a, b, _session):
        number = b.next_id()
        b.send(CALL, number, "k", 0, 0, 0, None, [[1, 4711]], b.stored(1, BODY))
        assert (await b.answer(number))[2] == "dead_reference"
        b.call("k", b.stored(2, msgpack.packb([VALUE, reference(0)])), refs=[[0, 5]])
        frame, fd, _body = await a.in_file(CALL)
        assert frame[-2][0][0] == 0
        os.close(fd)

    bus(test, tmp_path)


def test_a_value_that_nobody_may_call_with_goes_nowhere(tmp_path):
    async def test(_r, a, b, session):
        assert (await b.answer(b.call("other", b.stored(1, BODY))))[2] == "denied"
        assert session.memory.taken == 1
        with pytest.raises(BlockingIOError):
            a.taken()

    bus(test, tmp_path)

"""Values in sealed memory files, with the real agent on both sides: which way each goes, and that nothing stays."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path

import pytest

from backend_core.errors import PackTimeout
from core_runtime.drivers import memory_file
from core_runtime.rules.frames import LARGEST_BYTES, BusLimits
from tests.support.joined import RUMIS, running
from tests.support.raw_agent import eventually, rig

PROVIDER = """
    import time

    def run(context):
        ir = context["interface_registry"]
        ir.register("a.echo", lambda args, ctx: args)
        ir.register("a.size", lambda args, ctx: len(args))
        ir.register("a.make", lambda args, ctx: {"data": b"x" * args})
        ir.register("a.sleep", lambda args, ctx: time.sleep(0.3))
        ir.register("a.stream", lambda args, ctx: iter([b"y" * args, 1]))

        async def slow(args, ctx):
            return args

        ir.register("a.async", slow)
"""
CALLER = """
    def run(context):
        ir = context["interface_registry"]
        echo = ir.get("a.echo")

        def go(args, ctx):
            data = bytes(range(256)) * (args // 256)
            return echo({"data": data}, ctx)["data"] == data and echo(data, ctx) == data

        ir.register("b.go", go)

        def upload(args, ctx):
            return context["interface_registry"].get("host.size")(b"u" * args, ctx)

        ir.register("b.upload", upload)
"""
ROOT = Path(__file__).parents[3]
GIVES = {"a.echo", "a.size", "a.make", "a.sleep", "a.stream", "a.async"}
MIB = 1024 * 1024


def descriptors() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return [name for name in found if "memfd" in name]


def joined(test, tmp_path, program=RUMIS, **limits):
    async def main():
        async with (
            rig(tmp_path, limits=BusLimits(**limits)) as r,
            running(r, tmp_path, "a", PROVIDER, provides=GIVES, program=program),
            running(r, tmp_path, "b", CALLER, provides={"b.go", "b.upload"}, calls={*GIVES, "host.size"}),
        ):
            await test(r, r.bus.sessions["a"].memory, r.bus.sessions["b"].memory)
            await eventually(lambda: r.bus.router.memory_room.used_bytes == 0)
            assert r.bus.router.room.used_bytes == 0
        assert descriptors() == []

    asyncio.run(main())


def test_this_machine_tells_whether_a_memory_file_is_held():
    """Where it does not, all of this goes in chunks, and the other tests say nothing."""
    assert memory_file.why_not() == ""


def test_calls_and_answers_that_would_hold_up_the_loop_go_in_files_both_ways(tmp_path):
    async def test(r, a, b):
        assert (await r.bus.call("a.echo", b"h" * (MIB // 4))) == b"h" * (MIB // 4)
        assert (await r.bus.call("a.echo", {"one": b"h" * (MIB // 4)}))["one"] == b"h" * (MIB // 4)
        assert (a.handed, a.taken) == (2, 2)
        a.handed = a.taken = 0
        assert (await r.bus.call("a.echo", b"h" * 2 * MIB)) == b"h" * 2 * MIB
        assert (a.handed, a.taken) == (1, 1)
        assert (await r.bus.call("a.echo", {"one": b"h" * 2 * MIB}))["one"] == b"h" * 2 * MIB
        assert (await r.bus.call("a.async", ["t" * 2 * MIB])) == ["t" * 2 * MIB]
        assert (a.handed, a.taken) == (3, 3)
        assert await r.bus.call("b.go", 3 * MIB) is True
        assert (a.handed, a.taken, b.handed, b.taken) == (5, 5, 2, 2)

    joined(test, tmp_path)


def test_what_is_short_and_the_items_of_streams_do_not(tmp_path):
    async def test(r, a, _b):
        assert len(await r.bus.call("a.echo", b"h" * (MIB // 4 - 200))) == MIB // 4 - 200
        stream = await r.bus.call("a.stream", 2 * MIB)
        assert [item if isinstance(item, int) else len(item) async for item in stream] == [2 * MIB, 1]
        assert (a.handed, a.taken) == (0, 0)

    joined(test, tmp_path)


def test_a_host_function_takes_them_too(tmp_path):
    async def test(r, _a, b):
        r.registry.register("host.size", lambda args, ctx: len(args))
        await eventually(lambda: "host.size" in r.bus.sessions["b"].mirror.shown)
        assert await r.bus.call("b.upload", 5 * MIB) == 5 * MIB
        assert b.taken == 1

    joined(test, tmp_path)


@pytest.mark.parametrize("size", [MIB, MIB + 1, 64 * MIB - 5, 64 * MIB])
def test_the_largest_value_goes_through_and_one_more_does_not(tmp_path, size):
    async def test(r, a, _b):
        assert await r.bus.call("a.size", bytes(size)) == size
        assert a.handed == 1

    joined(test, tmp_path)


def test_beyond_it_both_ends_refuse_by_name(tmp_path):
    async def test(r, _a, _b):
        for key, value in (("a.size", bytes(LARGEST_BYTES)), ("a.make", LARGEST_BYTES)):
            with pytest.raises(Exception, match=r"value\.too_large") as caught:
                await r.bus.call(key, value)
            assert caught.value.code == "value.too_large"

    joined(test, tmp_path)


@pytest.mark.parametrize(
    "program",
    [("prlimit", "--fsize=1000000", *RUMIS), ("prlimit", "--as=400000000", "--fsize=0", *RUMIS)],
    ids=["no file of that size", "no file at all"],
)
def test_an_agent_that_can_make_none_sends_chunks_and_takes_files(tmp_path, program):
    async def test(r, a, _b):
        assert await r.bus.call("a.echo", b"h" * 2 * MIB) == b"h" * 2 * MIB
        assert (await r.bus.call("a.make", 3 * MIB))["data"] == b"x" * 3 * MIB
        assert (a.handed, a.taken) == (1, 0)

    joined(test, tmp_path, program)


FILTERED = """if True:
    import ctypes, os, platform, sys
    sys.path.insert(0, sys.argv[1])
    from core_runtime.rules.seccomp import bpf_program
    program = bpf_program(platform.machine(), memfd=sys.argv[2] == "memfd")

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.byref(Program(len(program) // 8, program)), 0, 0) == 0, ctypes.get_errno()
    os.execv(sys.argv[3], sys.argv[3:])
"""


@pytest.mark.parametrize(("memfd", "taken"), [("memfd", 2), ("none", 0)])
def test_our_filter_lets_them_through_and_without_memfd_create_they_are_taken_only(tmp_path, memfd, taken):
    """``none``: the filter of a sandbox whose memory nothing counts."""

    async def test(r, a, _b):
        assert await r.bus.call("a.echo", b"h" * 2 * MIB) == b"h" * 2 * MIB
        assert (await r.bus.call("a.make", 3 * MIB))["data"] == b"x" * 3 * MIB
        assert (a.handed, a.taken) == (1, taken)
        report = r.bus.statistics()["packs"]["a"]["large_values"]
        assert (report["way"], "goes in chunks" in report["detail"]) == ("memory files", not taken)

    joined(test, tmp_path, (sys.executable, "-c", FILTERED, str(ROOT), memfd, *RUMIS))


def test_a_call_that_is_given_up_leaves_nothing_behind(tmp_path):
    async def test(r, a, _b):
        with pytest.raises(PackTimeout):
            await r.bus.call("a.sleep", bytes(3 * MIB), timeout_s=0.05)
        task = asyncio.ensure_future(r.bus.call("a.sleep", bytes(3 * MIB)))
        await asyncio.sleep(0.02)
        task.cancel()
        assert a.handed == 2

    joined(test, tmp_path)


def test_where_it_is_not_possible_the_report_says_why(tmp_path, monkeypatch):
    async def test(r, _a, _b):
        assert r.bus.statistics()["packs"]["a"]["large_values"] == {
            "way": "memory files", "detail": "", "handed": 0, "taken": 0, "held_bytes": 0,
        }  # fmt: skip
        monkeypatch.setattr(memory_file, "why_not", lambda: "the kernel is of another kind")
        async with running(r, tmp_path, "c", CALLER, provides={"b.go", "b.upload"}, calls=GIVES):
            report = r.bus.statistics()["packs"]["c"]["large_values"]
            assert (report["way"], report["detail"]) == ("chunks", "the kernel is of another kind")

    joined(test, tmp_path)


def test_a_host_without_descriptors_left_sends_chunks(tmp_path, monkeypatch):
    async def test(r, a, _b):
        assert await r.bus.call("a.echo", b"h" * 2 * MIB) == b"h" * 2 * MIB

        def full(*_args):
            raise OSError(24, os.strerror(24))

        monkeypatch.setattr(memory_file, "reopened", full)
        assert await r.bus.call("a.size", b"h" * 2 * MIB) == 2 * MIB
        assert a.handed == 1
        with pytest.raises(Exception, match="memory file now"):
            await r.bus.call("a.make", 2 * MIB)
        monkeypatch.undo()
        assert await r.bus.call("a.echo", b"h" * 2 * MIB) == b"h" * 2 * MIB

    joined(test, tmp_path)

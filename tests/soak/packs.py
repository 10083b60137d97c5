"""The Packs of the soak: plain, asynchronous, one that keeps a ledger of raw frames, hostile ones, and two that are left in peace."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.inside import become, hostile, ledger, wire
from tests.support.running_host import one_component_pack

PLAIN = [f"p{number:02}" for number in range(11)]
ASYNCHRONOUS = [f"a{number:02}" for number in range(3)]
LEDGERS = ["l00", "l01"]
HOSTILE = ["hostile"]
PEACEFUL = ["server", "meter", "keeper"]
NAMES = [*PLAIN, *ASYNCHRONOUS, *LEDGERS, *HOSTILE, *PEACEFUL]
DRIVERS = [*PLAIN, *ASYNCHRONOUS, *LEDGERS]
"""Those that call."""
MORTAL = [*PLAIN, *ASYNCHRONOUS]
"""Those that are killed."""
WORK = tuple(f"{name}.work" for name in (*PLAIN, *ASYNCHRONOUS, *LEDGERS))
COUNT = tuple(f"{name}.count" for name in MORTAL)
"""What reads a stream that it is given whole."""
PATIENCE_S = 12.0
"""How long after its calls a Pack waits for the streams that it passed to be closed."""

COMMON = """
import os, random, time

LOST = "the host was silent"
LONG = (300_000, 700_000, 1_500_000, 4_000_000)
TIMEOUTS = (None, None, None, 0.005, 0.05, 2.0)
HOW = ("value", "value", "value", "raise", "stream", "deep", "large", "echo", "read", "read")

def kind_of(exc):
    text = str(exc)
    return "LOST" if LOST in text else getattr(exc, "type", type(exc).__name__)

def blob(seed, size):
    return bytes((seed + n) & 255 for n in range(16)) * (size // 16)

def made(how, args):
    if how == "raise":
        raise KeyError("as asked")
    if how == "deep":
        value = 1
        for _ in range(70):
            value = [value]
        return value
    if how == "large":
        return blob(args["seed"], 2 << 20)
    if how == "echo":
        return args["blob"]
    return {"seed": args["seed"], "data": b"x" * args["size"]}

def more(chance):
    told = {
        "depth": chance.choice((0, 0, 1, 2, 3)), "seed": chance.randrange(1 << 30), "size": chance.choice((0, 10, 1000, 100_000)),
        "nap": chance.choice((0, 0, 0, 0.002, 0.02, 0.2)), "how": chance.choice(HOW),
    }
    if told["how"] == "echo":
        told["blob"] = blob(told["seed"], chance.choice(LONG))
    return told

def deeper(args, chance):
    # what one that is called calls itself: the same, one level down; a stream that it was given it passes on, or keeps for itself
    told = {**args, "depth": args["depth"] - 1, "seed": args["seed"] + 1}
    passed = args["how"] == "read" and chance.random() < 0.5
    if args["how"] == "read" and not passed:
        told["how"] = "value"
        del told["items"]
    return told, passed

def sizes(args):
    # of the items of a stream in arguments, one of them sometimes longer than a frame
    chance = random.Random(args["seed"] ^ 5)
    most = chance.randrange(40)
    large = chance.randrange(160)
    return [1_200_000 if number == large else 1000 for number in range(most)]

def stop_of(args):
    return args["seed"] % 9 if args["seed"] % 3 == 0 else None

def said(args, result):
    # how a call ended that was answered with a value, and whether that is what it had to be
    how = args["how"]
    if how == "echo":
        return "echo" if result == args["blob"] else "WRONG"
    if how == "large":
        return "large" if len(result) == 2 << 20 and result[:16] * 2 == result[16:48] else "WRONG"
    if how == "read":
        most = len(sizes(args))
        if result["bad"] or result["read"] > most or (result["whole"] and result["read"] != most):
            return "WRONG"
        return "read whole" if result["whole"] else "read in part"
    return "value"
"""

PLAIN_CODE = """
def run(context):
    ir = context["interface_registry"]

    def items(args):
        for number in range(args["seed"] % 60):
            yield number

    def feed(args, mine):
        token = object()
        mine.append(token)
        try:
            for number, size in enumerate(sizes(args)):
                if number % 16 == 7:
                    time.sleep(args["nap"] / 10)
                yield [number, size, b"y" * size]
        finally:
            mine.remove(token)

    def read(args):
        count, stop = 0, stop_of(args)
        for number, size, data in args["items"]:
            if number != count or len(data) != size:
                return {"bad": True, "read": count, "whole": False}
            count += 1
            if count == stop:
                return {"bad": False, "read": count, "whole": False}
        return {"bad": False, "read": count, "whole": True}

    def work(args, ctx):
        chance = random.Random(args["seed"])
        if args["depth"] > 0:
            told, passed = deeper(args, chance)
            inner = ir.get(chance.choice(WORK))
            if passed and inner is not None:
                return inner(told, ctx)
            try:
                if inner is not None:
                    finish(told, inner(told, ctx, timeout_s=chance.choice(TIMEOUTS)), chance)
            except Exception:
                pass
        end = time.monotonic() + args["nap"]
        while time.monotonic() < end and not ctx["cancelled"]():
            time.sleep(0.001)
        if args["how"] == "read":
            return read(args)
        return items(args) if args["how"] == "stream" else made(args["how"], args)

    def finish(args, result, chance):
        if hasattr(result, "__next__"):
            for number, _ in enumerate(result):
                if number == 20 and chance.random() < 0.5:
                    result.close()
                    return "left"
            return "stream"
        return said(args, result)

    def drive(args, ctx):
        chance, answers, mine = random.Random(args["seed"]), {}, []
        for _ in range(args["calls"]):
            target = ir.get(chance.choice(args["targets"]))
            if target is None:
                how = "not there"
            else:
                told = more(chance)
                given = {**told, "items": feed(told, mine)} if told["how"] == "read" else told
                try:
                    how = finish(told, target(given, ctx, timeout_s=chance.choice(TIMEOUTS)), chance)
                except Exception as exc:
                    how = kind_of(exc)
            answers[how] = answers.get(how, 0) + 1
        end = time.monotonic() + PATIENCE_S
        while mine and time.monotonic() < end:
            time.sleep(0.01)
        if mine:
            answers["LEFT OPEN"] = len(mine)
        return {"answers": answers}

    def count(args, ctx):
        return sum(1 for _ in args)

    ir.register(NAME + ".work", work)
    ir.register(NAME + ".count", count)
    ir.register(NAME + ".drive", drive)
    ir.register(NAME + ".die", lambda args, ctx: os._exit(9))
"""

ASYNC_CODE = """
import asyncio

def run(context):
    ir = context["interface_registry"]

    async def items(args):
        for number in range(args["seed"] % 60):
            yield number

    async def feed(args, mine):
        token = object()
        mine.append(token)
        try:
            for number, size in enumerate(sizes(args)):
                if number % 16 == 7:
                    await asyncio.sleep(args["nap"] / 10)
                yield [number, size, b"y" * size]
        finally:
            mine.remove(token)

    async def read(args):
        count, stop = 0, stop_of(args)
        async for number, size, data in args["items"]:
            if number != count or len(data) != size:
                return {"bad": True, "read": count, "whole": False}
            count += 1
            if count == stop:
                return {"bad": False, "read": count, "whole": False}
        return {"bad": False, "read": count, "whole": True}

    async def work(args, ctx):
        chance = random.Random(args["seed"])
        if args["depth"] > 0:
            told, passed = deeper(args, chance)
            inner = ir.get(chance.choice(WORK))
            if passed and inner is not None:
                return await inner(told, ctx)
            try:
                if inner is not None:
                    await finish(told, await inner(told, ctx, timeout_s=chance.choice(TIMEOUTS)), chance)
            except Exception:
                pass
        await asyncio.sleep(args["nap"])
        if args["how"] == "read":
            return await read(args)
        return items(args) if args["how"] == "stream" else made(args["how"], args)

    async def finish(args, result, chance):
        if hasattr(result, "__anext__"):
            number = 0
            async for _ in result:
                number += 1
                if number == 20 and chance.random() < 0.5:
                    await result.aclose()
                    return "left"
            return "stream"
        return said(args, result)

    async def one(args, ctx, chance, mine):
        target = ir.get(chance.choice(args["targets"]))
        if target is None:
            return "not there"
        timeout_s = chance.choice(TIMEOUTS)
        task = asyncio.ensure_future(whole(target, more(chance), ctx, timeout_s, chance, mine))
        if chance.random() < 0.15:
            await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled here"
        except Exception as exc:
            return kind_of(exc)

    async def whole(target, told, ctx, timeout_s, chance, mine):
        given = {**told, "items": feed(told, mine)} if told["how"] == "read" else told
        return await finish(told, await target(given, ctx, timeout_s=timeout_s), chance)

    async def drive(args, ctx):
        chance, answers, mine = random.Random(args["seed"]), {}, []
        for _ in range(args["calls"] // 6):
            for how in await asyncio.gather(*(one(args, ctx, chance, mine) for _ in range(6))):
                answers[how] = answers.get(how, 0) + 1
        end = time.monotonic() + PATIENCE_S
        while mine and time.monotonic() < end:
            await asyncio.sleep(0.01)
        if mine:
            answers["LEFT OPEN"] = len(mine)
        return {"answers": answers}

    async def count(args, ctx):
        number = 0
        async for _ in args:
            number += 1
        return number

    ir.register(NAME + ".work", work)
    ir.register(NAME + ".count", count)
    ir.register(NAME + ".drive", drive)
    ir.register(NAME + ".die", lambda args, ctx: os._exit(9))
"""

SERVER = """
import time
def run(context):
    ir = context["interface_registry"]
    def count(args, ctx):
        for number in range(args):
            yield number
    def slow(args, ctx):
        time.sleep(min(args, 0.05))
    ir.register("server.echo", lambda args, ctx: args)
    ir.register("server.count", count)
    ir.register("server.slow", slow)
    ir.register("server.read", lambda args, ctx: sum(1 for _ in args["items"]))
"""
METER = """
import time
def run(context):
    ir = context["interface_registry"]
    def measure(args, ctx):
        echo, took = ir.get("keeper.echo"), []
        for number in range(args["n"]):
            begun = time.perf_counter()
            assert echo([number, "mine"]) == [number, "mine"]
            took.append(time.perf_counter() - begun)
            time.sleep(0.002)
        took.sort()
        return [took[len(took) // 2], took[int(len(took) * 0.99)]]
    ir.register("meter.p99", measure)
"""
KEEPER = 'def run(c):\n    c["interface_registry"].register("keeper.echo", lambda args, ctx: args)\n'


def source(module: Any) -> str:
    """The text of a program that runs inside."""
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def files(name: str) -> dict[str, str]:
    """The Pack of that name."""
    if name in PLAIN or name in ASYNCHRONOUS:
        head = f"NAME = {name!r}\nWORK = {WORK!r}\nPATIENCE_S = {PATIENCE_S!r}\n"
        code = head + COMMON + (PLAIN_CODE if name in PLAIN else ASYNC_CODE)
        return one_component_pack(name, code, provides=(f"{name}.work", f"{name}.count", f"{name}.drive", f"{name}.die"), uses=WORK)
    if name in LEDGERS:
        return _taken(name, ledger, (f"{name}.drive", f"{name}.work"), WORK)
    if name in HOSTILE:
        provides = ("hostile.attack", "hostile.stream", "hostile.alive", "hostile.other")
        made = _taken(name, hostile, provides, ("server.echo", "server.count", "server.slow", "server.read", *provides[:2], *WORK[:3]))
        topics = {"type": "event.publish", "topics": ["storm.*"], "reason": "for the soak"}
        made["backend/permissions.json"] = json.dumps({"pack_id": name, "permissions": [topics]})
        return made
    code, provides, uses = _PEACEFUL[name].told()
    return one_component_pack(name, code, provides=provides, uses=uses)


def _taken(name: str, program: Any, provides: tuple[str, ...], uses: tuple[str, ...]) -> dict[str, str]:
    made = one_component_pack(name, source(become), provides=provides, uses=uses)
    made["backend/components/main/program.py"] = source(program)
    made["backend/components/main/wire.py"] = source(wire)
    return made


@dataclass(frozen=True)
class _Peaceful:
    code: str
    provides: tuple[str, ...]
    uses: tuple[str, ...] = ()

    def told(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        return self.code, self.provides, self.uses


_PEACEFUL = {
    "server": _Peaceful(SERVER, ("server.echo", "server.count", "server.slow", "server.read")),
    "meter": _Peaceful(METER, ("meter.p99",), ("keeper.echo",)),
    "keeper": _Peaceful(KEEPER, ("keeper.echo",)),
}

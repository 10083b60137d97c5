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

COMMON = """
import os, random, time

LOST = "the host was silent"

def kind_of(exc):
    text = str(exc)
    return "LOST" if LOST in text else getattr(exc, "type", type(exc).__name__)

def made(how, args):
    if how == "raise":
        raise KeyError("as asked")
    if how == "deep":
        value = 1
        for _ in range(70):
            value = [value]
        return value
    if how == "large":
        return b"x" * (2 << 20)
    return {"seed": args["seed"], "data": b"x" * args["size"]}

def more(chance):
    return {
        "depth": chance.choice((0, 0, 1, 2, 3)), "seed": chance.randrange(1 << 30), "size": chance.choice((0, 10, 1000, 100_000)),
        "nap": chance.choice((0, 0, 0, 0.002, 0.02, 0.2)), "how": chance.choice(("value", "value", "value", "raise", "stream", "deep", "large")),
    }

TIMEOUTS = (None, None, None, 0.005, 0.05, 2.0)
"""

PLAIN_CODE = """
def run(context):
    ir = context["interface_registry"]

    def items(args):
        for number in range(args["seed"] % 60):
            yield number

    def work(args, ctx):
        chance = random.Random(args["seed"])
        if args["depth"] > 0:
            try:
                inner = ir.get(chance.choice(WORK))
                if inner is not None:
                    finish(inner({**args, "depth": args["depth"] - 1, "seed": args["seed"] + 1}, ctx, timeout_s=chance.choice(TIMEOUTS)), chance)
            except Exception:
                pass
        end = time.monotonic() + args["nap"]
        while time.monotonic() < end and not ctx["cancelled"]():
            time.sleep(0.001)
        return items(args) if args["how"] == "stream" else made(args["how"], args)

    def finish(result, chance):
        if hasattr(result, "__next__"):
            for number, _ in enumerate(result):
                if number == 20 and chance.random() < 0.5:
                    result.close()
                    return "left"
            return "stream"
        return "value"

    def drive(args, ctx):
        chance, answers = random.Random(args["seed"]), {}
        for _ in range(args["calls"]):
            target = ir.get(chance.choice(args["targets"]))
            if target is None:
                how = "not there"
            else:
                try:
                    how = finish(target(more(chance), ctx, timeout_s=chance.choice(TIMEOUTS)), chance)
                except Exception as exc:
                    how = kind_of(exc)
            answers[how] = answers.get(how, 0) + 1
        return {"answers": answers}

    ir.register(NAME + ".work", work)
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

    async def work(args, ctx):
        chance = random.Random(args["seed"])
        if args["depth"] > 0:
            try:
                inner = ir.get(chance.choice(WORK))
                if inner is not None:
                    await finish(await inner({**args, "depth": args["depth"] - 1, "seed": args["seed"] + 1}, ctx, timeout_s=chance.choice(TIMEOUTS)), chance)
            except Exception:
                pass
        await asyncio.sleep(args["nap"])
        return items(args) if args["how"] == "stream" else made(args["how"], args)

    async def finish(result, chance):
        if hasattr(result, "__anext__"):
            number = 0
            async for _ in result:
                number += 1
                if number == 20 and chance.random() < 0.5:
                    await result.aclose()
                    return "left"
            return "stream"
        return "value"

    async def one(args, ctx, chance):
        target = ir.get(chance.choice(args["targets"]))
        if target is None:
            return "not there"
        timeout_s = chance.choice(TIMEOUTS)
        task = asyncio.ensure_future(whole(target, more(chance), ctx, timeout_s, chance))
        if chance.random() < 0.15:
            await asyncio.sleep(chance.choice((0, 0.001, 0.01)))
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return "cancelled here"
        except Exception as exc:
            return kind_of(exc)

    async def whole(target, args, ctx, timeout_s, chance):
        return await finish(await target(args, ctx, timeout_s=timeout_s), chance)

    async def drive(args, ctx):
        chance, answers = random.Random(args["seed"]), {}
        for _ in range(args["calls"] // 6):
            for how in await asyncio.gather(*(one(args, ctx, chance) for _ in range(6))):
                answers[how] = answers.get(how, 0) + 1
        return {"answers": answers}

    ir.register(NAME + ".work", work)
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
        head = f"NAME = {name!r}\nWORK = {WORK!r}\n"
        code = head + COMMON + (PLAIN_CODE if name in PLAIN else ASYNC_CODE)
        return one_component_pack(name, code, provides=(f"{name}.work", f"{name}.drive", f"{name}.die"), uses=WORK)
    if name in LEDGERS:
        return _taken(name, ledger, (f"{name}.drive", f"{name}.work"), WORK)
    if name in HOSTILE:
        provides = ("hostile.attack", "hostile.stream", "hostile.alive", "hostile.other")
        made = _taken(name, hostile, provides, ("server.echo", "server.count", "server.slow", *provides[:2], *WORK[:3]))
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
    "server": _Peaceful(SERVER, ("server.echo", "server.count", "server.slow")),
    "meter": _Peaceful(METER, ("meter.p99",), ("keeper.echo",)),
    "keeper": _Peaceful(KEEPER, ("keeper.echo",)),
}

"""An agent in another language, written from the reference alone, joins the real bus beside Rumi's own agent."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import PackError, PackTimeout
from tests.support.joined import running
from tests.support.raw_agent import eventually, rig
from tests.support.vectors import VECTORS, node_agent

pytestmark = pytest.mark.node

NODE = """
exports.run = async ({ registry, events, request, log }) => {
  const heard = [];
  let left = 0;
  function* count(args) {
    try {
      for (let n = 0; n < args; n++) yield n;
    } finally {
      left += 1;
    }
  }
  const handlers = {
    hello: (args, ctx) => ({ message: `Hello, ${args.name}!`, caller: ctx.caller, chain: ctx.chain }),
    count,
    left: () => left,
    broken: () => { throw Object.assign(new Error("no"), { type: "node/broken" }); },
    wait: (args, ctx) => new Promise((resolve) => setTimeout(() => resolve(ctx.cancelled()), args)),
    relay: (args) => registry.get("python.double")(args),
    caught: () => registry.get("python.boom")(null).catch((problem) => problem.busType),
    denied: () => registry.get("python.secret"),
    total: async (args) => {
      let sum = 0;
      for await (const item of await registry.get("python.numbers")(args)) sum += item;
      return sum;
    },
    early: async () => {
      for await (const item of await registry.get("python.numbers")(1000000000)) if (item === 40) return item;
    },
    stuck: () => registry.get("python.sleep")(30),
    apply: async (args) => Promise.all(args.items.map((item) => args.fn(item))),
    counter: (args) => {
      let n = args;
      return { more: (by) => (n += by) };
    },
    bounce: (args) => (args === 0 ? "bottom" : registry.get("python.bounce")(args - 1)),
    publish: (args) => events.publish("node.said", args),
    heard: () => heard,
    keys: () => registry.keys().sort(),
    data: () => registry.get("python.data"),
    sum: async (items) => {
      let sum = 0;
      for await (const item of items) sum += item;
      return sum;
    },
    sip: async (items) => {
      for await (const item of items) if (item === 3) return item;
    },
    pour: ({ key, n }) => registry.get(key)(count(n)),
    read: (args) => request("userdata.read", { path: args }),
  };
  for (const [name, fn] of Object.entries(handlers)) await registry.register(`node.${name}`, fn);
  await events.subscribe("python.*", (payload, event) => heard.push([event.type, payload]));
  log(20, "ready");
};
"""
PYTHON = """
    import time
    def run(context):
        ir, bus = context["interface_registry"], context["event_bus"]
        heard = []
        def numbers(args, ctx):
            for n in range(args):
                yield n
        def boom(args, ctx):
            raise KeyError("gone")
        def sleep(args, ctx):
            while not ctx["cancelled"]():
                time.sleep(0.005)
        def use(args, ctx):
            more = ir.get("node.counter")(args)["more"]
            return [more(1), more(2)]
        def squares(args, ctx):
            return ir.get("node.apply")({"items": args, "fn": lambda n: n * n})
        def bounce(args, ctx):
            return "bottom" if args == 0 else ir.get("node.bounce")(args - 1)
        handlers = dict(
            double=lambda args, ctx: args * 2, numbers=numbers, boom=boom, sleep=sleep, use=use, squares=squares,
            bounce=bounce, total=lambda args, ctx: sum(ir.get("node.count")(args)),
            sum=lambda args, ctx: sum(args), sip=lambda args, ctx: next(n for n in args if n == 3),
            pour=lambda args, ctx: ir.get(args["key"])(iter(range(args["n"]))),
            say=lambda args, ctx: bus.publish("python.said", args), heard=lambda args, ctx: heard,
        )
        for name, fn in handlers.items():
            ir.register("python." + name, fn)
        ir.register("python.data", {"answer": 42})
        bus.subscribe("node.said", heard.append)
"""
NODE_KEYS = {
    f"node.{name}"
    for name in (
        "hello", "count", "left", "broken", "wait", "relay", "caught", "denied", "total", "early", "stuck", "apply", "counter", "bounce",
        "publish", "heard", "keys", "data", "read", "sum", "sip", "pour",
    )
}  # fmt: skip
PYTHON_KEYS = {
    f"python.{name}"
    for name in (
        "double", "numbers", "boom", "sleep", "use", "squares", "bounce", "total", "say", "heard", "data", "sum", "sip", "pour",
    )
}  # fmt: skip


async def files(_session: Any, operation: str, args: Any) -> Any:
    return f"{operation} {args['path']}".encode()


def both(tmp_path: Path, test: Any) -> None:
    async def main() -> None:
        async with (
            rig(tmp_path, requests=files) as r,
            running(r, tmp_path, "python", PYTHON, provides=PYTHON_KEYS, calls=NODE_KEYS, publish=("python.*",), subscribe=("node.*",)) as (
                sp, _,
            ),
            running(
                r, tmp_path, "node", NODE, program=node_agent(), suffix="js",
                provides=NODE_KEYS, calls=PYTHON_KEYS, publish=("node.*",), subscribe=("python.*",),
            ) as (sn, node),
        ):  # fmt: skip
            await asyncio.wait_for(test(r, sp, sn, node), 60)

    asyncio.run(main())


def test_the_corpus_holds_in_the_other_language_too() -> None:
    program = [*node_agent()[:1], str(Path(node_agent()[1]).with_name("corpus.js")), str(VECTORS)]
    found = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout) == (0, ""), found.stderr


def test_it_serves_calls_of_the_host_and_of_packs(tmp_path):
    async def test(r, sp, sn, node):
        assert sn.hello["agent"] == "node"
        assert await r.bus.call("node.hello", {"name": "Bob"}) == {"message": "Hello, Bob!", "caller": "", "chain": []}
        with pytest.raises(PackError) as caught:
            await r.bus.call("node.broken")
        assert caught.value.code == "node/broken"
        assert ("node", 1, 20, "log:pack", "ready") in r.logs
        assert set(await sn.ping(5)) == {"threads", "stuck", "calls"}

    both(tmp_path, test)


def test_it_calls_packs_of_the_other_language_and_is_called_by_them(tmp_path):
    async def test(r, sp, sn, node):
        assert await r.bus.call("node.relay", 21) == 42
        assert await r.bus.call("node.caught") == "error/KeyError"
        assert await r.bus.call("node.bounce", 20) == "bottom"
        assert await asyncio.gather(*(r.bus.call("node.bounce", 8) for _ in range(30))) == ["bottom"] * 30
        assert r.bus.router.edges["node", "python.double"].calls == 1

    both(tmp_path, test)


def test_it_streams_both_ways_with_credit(tmp_path):
    async def test(r, sp, sn, node):
        assert await r.bus.call("python.total", 300) == sum(range(300))
        assert await r.bus.call("node.total", 300) == sum(range(300))
        assert await r.bus.call("node.early") == 40
        await eventually(lambda: not sp.incoming)
        stream = await r.bus.call("node.count", 10**9)
        assert await anext(stream) == 0
        await stream.aclose()
        await eventually(lambda: not sn.incoming)
        assert await r.bus.call("node.left") == 2

    both(tmp_path, test)


def test_it_passes_streams_and_reads_those_that_it_is_passed(tmp_path):
    async def test(r, sp, sn, node):
        assert await r.bus.call("python.pour", {"key": "node.sum", "n": 300}) == sum(range(300))
        assert await r.bus.call("python.pour", {"key": "node.sip", "n": 10**9}) == 3
        assert await r.bus.call("node.pour", {"key": "python.sum", "n": 300}) == sum(range(300))
        assert await r.bus.call("node.pour", {"key": "python.sip", "n": 10**9}) == 3
        await eventually(lambda: not any(s.incoming or s.outgoing for s in (sp, sn)))
        assert await r.bus.call("node.left") == 2
        assert await r.bus.call("node.sum", iter(range(100))) == sum(range(100))

    both(tmp_path, test)


def test_it_cancels_and_is_cancelled(tmp_path):
    async def test(r, sp, sn, node):
        with pytest.raises(PackTimeout):
            await r.bus.call("node.stuck", timeout_s=0.2)
        await eventually(lambda: not sn.incoming and not sp.incoming)
        call = asyncio.ensure_future(r.bus.call("node.wait", 60_000))
        await eventually(lambda: sn.incoming)
        call.cancel()
        await eventually(lambda: not sn.incoming)
        assert not sn.dead

    both(tmp_path, test)


def test_its_callables_travel_and_are_released(tmp_path):
    async def test(r, sp, sn, node):
        assert await r.bus.call("python.use", 10) == [11, 13]
        assert await r.bus.call("python.squares", [1, 2, 3]) == [1, 4, 9]
        held = len(sp.references._own)
        assert await r.bus.call("python.squares", [1, 2, 3]) == [1, 4, 9]
        await eventually(lambda: len(sp.references._own) <= held)

    both(tmp_path, test)


def test_it_hears_says_and_sees(tmp_path):
    async def test(r, sp, sn, node):
        assert await r.bus.call("python.say", {"n": 1}) == 1
        for _ in range(200):
            if await r.bus.call("node.heard"):
                break
        assert await r.bus.call("node.heard") == [["python.said", {"n": 1}]]
        assert await r.bus.call("node.publish", "hello") == 1
        assert await r.bus.call("node.data") == {"answer": 42}
        assert set(await r.bus.call("node.keys")) == NODE_KEYS | PYTHON_KEYS
        assert await r.bus.call("node.denied") is None
        assert await r.bus.call("node.read", "packs/node/a") == b"userdata.read packs/node/a"
        r.grants["node"].calls = PYTHON_KEYS - {"python.data"}
        r.bus.rights_changed("node")
        assert await r.bus.call("node.data") is None

    both(tmp_path, test)


def test_it_leaves_in_order(tmp_path):
    async def test(r, sp, sn, node):
        call = asyncio.ensure_future(r.bus.call("node.wait", 100))
        await eventually(lambda: sn.incoming)
        await sn.shutdown(5)
        assert await call is False
        assert await asyncio.wait_for(node.wait(), 5) == 0
        assert r.registry.get("node.hello") is None

    both(tmp_path, test)

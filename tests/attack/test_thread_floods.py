"""An approved Pack takes all threads of another one that it was granted to call: the others are answered as if it were not there.

It speaks the bus by itself, over the raw socket of a real sandbox. What it holds it may keep for an hour.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inside import become, greedy, wire
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = [pytest.mark.slow, pytest.mark.embedded, pytest.mark.timeout(300)]

PROMPT_S = 5.0
"""Far above what a call takes, far below any deadline."""

SERVER = """
import time
def run(context):
    ir = context["interface_registry"]
    def count(args, ctx):
        for number in range(args):
            yield number
    def slow(args, ctx):
        end = time.monotonic() + args
        while time.monotonic() < end and not ctx["cancelled"]():
            time.sleep(0.05)
    def back(args, ctx):
        return ir.get("greedy.back")(args, ctx, timeout_s=3600)
    ir.register("server.echo", lambda args, ctx: args)
    ir.register("server.count", count)
    ir.register("server.slow", slow)
    ir.register("server.back", back)
"""
CLIENT = """
def run(context):
    ir = context["interface_registry"]
    def down(args, ctx):
        if args["depth"]:
            return ir.get("client.down")({**args, "depth": args["depth"] - 1}, ctx)
        assert ir.get("server.echo")("mine", ctx, timeout_s=20) == "mine"
        return sum(ir.get("server.count")(20, ctx))
    ir.register("client.down", down)
"""
TAKES = ("streams", "depths", "returns")


def greedy_pack() -> dict[str, str]:
    keys = ("greedy.take", "greedy.self", "greedy.back")
    uses = ("server.echo", "server.count", "server.slow", "server.back", "greedy.self")
    files = one_component_pack("greedy", source(become), provides=keys, uses=uses)
    files["backend/components/main/program.py"] = source(greedy)
    files["backend/components/main/wire.py"] = source(wire)
    return files


def source(module: Any) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("threads") / "home", "embedded") as running:
        keys = ("server.echo", "server.count", "server.slow", "server.back")
        running.put_pack("server", one_component_pack("server", SERVER, provides=keys, uses=("greedy.back",)))
        uses = ("server.echo", "server.count", "client.down")
        running.put_pack("client", one_component_pack("client", CLIENT, provides=("client.down",), uses=uses))
        running.put_pack("greedy", greedy_pack())
        for pack_id in ("server", "client", "greedy"):
            running.approve(pack_id)
        yield running


@pytest.fixture
def fresh(host: RunningHost) -> RunningHost:
    """Nothing is held: what a test before held went with the Pack that held it."""
    host.request("POST", "/api/containers/greedy/stop")
    host.request("POST", "/api/containers/greedy/start")
    host.until(lambda: host.call("greedy.take", {"kind": "settle"}, 5)[0] == 200, 60, "the greedy Pack to serve (again)")
    return host


def answered(host: RunningHost, key: str, args: Any) -> tuple[Any, float]:
    """(Result, seconds)."""
    begun = time.monotonic()
    return host.result(key, args), time.monotonic() - begun


def blamed(host: RunningHost) -> set[str]:
    return {one["code"] for one in host.ok("GET", "/api/issues") if one["subject"] == "server" and one["severity"] != "info"}


@pytest.mark.parametrize("kind", TAKES)
def test_a_caller_that_takes_all_threads_it_can_keeps_nobody_waiting(fresh: RunningHost, kind: str) -> None:
    taken = fresh.result("greedy.take", {"kind": kind})
    assert taken["sent"] > 100, taken
    if kind == "streams":
        assert taken["begun"] > 20, "they hold threads"
    for depth in (0, 1, 2, 7):
        for key, args, wanted in (("server.echo", depth, depth), ("client.down", {"depth": depth}, 190)):
            result, took_s = answered(fresh, key, args)
            assert result == wanted
            assert took_s < PROMPT_S, (key, depth, took_s)
    assert fresh.stream("server.count", 40) == list(range(40))
    assert not blamed(fresh) & {"limit_time"}


def test_many_calls_of_the_others_at_once_are_answered_beside_it(fresh: RunningHost) -> None:
    fresh.result("greedy.take", {"kind": "streams"})
    fresh.result("greedy.take", {"kind": "depths"})
    took: list[float] = []

    def one() -> None:
        took.append(answered(fresh, "client.down", {"depth": 3})[1])

    begun = [threading.Thread(target=one) for _ in range(40)]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join(60)
    assert len(took) == 40
    assert max(took) < 2 * PROMPT_S, sorted(took)[-5:]


def test_who_waits_behind_its_own_calls_has_nobody_blamed(fresh: RunningHost) -> None:
    """What stands behind calls that its caller never lets end says nothing of the Pack that serves it."""
    fresh.result("greedy.take", {"kind": "streams"})
    late: list[Any] = []
    thread = threading.Thread(target=lambda: late.append(fresh.call("greedy.take", {"kind": "behind"}, 50)))
    thread.start()
    thread.join(60)
    assert late[0][0] == 200, late
    assert late[0][1]["data"]["result"] == 40, "they were late"
    assert not blamed(fresh) & {"limit_time"}

"""An approved Pack throws its agent away and speaks the bus by itself, over the raw socket of a real sandbox: it hurts itself alone.

During each attack the calls of two Packs that have nothing to do with it keep their pace: p99 over the whole of it stays
below three times the quiet one of the same run, in one of a few tries, since the machine's own processes disturb both.
The Pack that was granted to the hostile one answers the others all the same, and rightly; nobody else is restarted or
blamed; and the hostile Pack serves again afterwards.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inside import become, hostile, wire
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.sandboxes import EMBEDDED, GVISOR, STDIO

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

FACTOR = 3
TRIES = 4
LASTS_S = 3.0
MEASURED_S = 2.0

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
            time.sleep(0.001)
    ir.register("server.echo", lambda args, ctx: args)
    ir.register("server.count", count)
    ir.register("server.slow", slow)
    ir.register("server.read", lambda args, ctx: sum(1 for _ in args["items"]))
"""
CLIENT = """
import time
def run(context):
    ir = context["interface_registry"]
    def measure(args, ctx):
        echo, took, until = ir.get("keeper.echo"), [], time.monotonic() + args["s"]
        while time.monotonic() < until:
            number = len(took)
            begun = time.perf_counter()
            assert echo([number, "mine"]) == [number, "mine"]
            took.append(time.perf_counter() - begun)
            time.sleep(0.001)
        took.sort()
        return took[int(len(took) * 0.99)]
    def served(args, ctx):
        echo = ir.get("server.echo")
        for number in range(20):
            assert echo([number, "mine"], timeout_s=20) == [number, "mine"]
        return True
    ir.register("client.p99", measure)
    ir.register("client.served", served)
    ir.register("client.idle", lambda args, ctx: None)
"""
KEEPER = """
def run(context):
    context["interface_registry"].register("keeper.echo", lambda args, ctx: args)
"""
BYSTANDER = """
def run(context):
    heard = []
    context["event_bus"].subscribe("storm.*", lambda payload: heard.append(1))
    context["interface_registry"].register("bystander.heard", lambda args, ctx: len(heard))
"""
HOSTILE_KEYS = ("hostile.attack", "hostile.stream", "hostile.alive", "hostile.other")
BUSY = {("server", f"limit_{which}") for which in ("busy", "cpu")}
"""What the Pack that serves the hostile one may be said to have met."""
OTHERS = {"server", "client", "keeper", "bystander"}


def hostile_pack() -> dict[str, str]:
    uses = ("server.echo", "server.count", "server.slow", "server.read", "keeper.echo", "client.idle", *HOSTILE_KEYS[:2])
    files = one_component_pack("hostile", source(become), provides=HOSTILE_KEYS, uses=uses)
    files["backend/components/main/program.py"] = source(hostile)
    files["backend/components/main/wire.py"] = source(wire)
    files["backend/permissions.json"] = permissions("hostile", "event.publish", "storm.*")
    return files


def source(module: Any) -> str:
    return Path(str(module.__file__)).read_text(encoding="utf-8")


def permissions(pack_id: str, type_: str, topic: str) -> str:
    return json.dumps({"pack_id": pack_id, "permissions": [{"type": type_, "topics": [topic], "reason": "for the test"}]})


OVER_STDIO = ("half frames", "answers that it never reads", "frames of a megabyte for another Pack", "a LOG storm")
"""What an engine between must hold back, or hand on in whatever pieces."""
IN_GVISOR = ("half frames", "answers that it never reads")


@pytest.fixture(params=[EMBEDDED], scope="module")
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("hostile") / "home", str(request.param)) as running:
        running.put_pack("server", one_component_pack("server", SERVER, provides=("server.echo", "server.count", "server.slow", "server.read")))
        client = one_component_pack("client", CLIENT, provides=("client.p99", "client.served", "client.idle"), uses=("server.echo", "keeper.echo"))
        running.put_pack("client", client)
        running.put_pack("keeper", one_component_pack("keeper", KEEPER, provides=("keeper.echo",)))
        listens = one_component_pack("bystander", BYSTANDER, provides=("bystander.heard",))
        listens["backend/permissions.json"] = permissions("bystander", "event.subscribe", "storm.*")
        running.put_pack("bystander", listens)
        running.put_pack("hostile", hostile_pack())
        for pack_id in ("server", "keeper", "client", "bystander", "hostile"):
            running.approve(pack_id)
        yield running


def serving(host: RunningHost) -> None:
    """An operator starts the hostile Pack anew, who does not wait for supervision's patience."""

    def alive() -> bool:
        if host.call("hostile.alive", None, 2)[0] == 200:
            return True
        host.request("POST", "/api/containers/hostile/stop")
        host.request("POST", "/api/containers/hostile/start")
        return False

    host.until(alive, 60, "the hostile Pack to serve (again)")


def generations(host: RunningHost) -> dict[str, int]:
    return {one["pack_id"]: one["generation"] for one in host.ok("GET", "/api/containers") if one["pack_id"] in OTHERS}


def p99(host: RunningHost) -> float:
    return float(host.result("client.p99", {"s": MEASURED_S}))


@pytest.mark.parametrize("kind", [kind for kind in hostile.ATTACKS if kind != "nothing"])
def test_it_hurts_its_own_pack_only(host: RunningHost, kind: str) -> None:
    hurts_its_own_pack_only(host, kind)


@pytest.mark.parametrize("host", [STDIO], indirect=True)
@pytest.mark.parametrize("kind", OVER_STDIO)
def test_over_stdio_it_hurts_its_own_pack_only(host: RunningHost, kind: str) -> None:
    hurts_its_own_pack_only(host, kind)


@pytest.mark.parametrize("host", [GVISOR], indirect=True)
@pytest.mark.parametrize("kind", IN_GVISOR)
def test_in_gvisor_it_hurts_its_own_pack_only(host: RunningHost, kind: str) -> None:
    hurts_its_own_pack_only(host, kind)


def hurts_its_own_pack_only(host: RunningHost, kind: str) -> None:
    serving(host)
    others = generations(host)
    ratios: list[float] = []
    for _ in range(TRIES):
        quiet_s = p99(host)
        attack = threading.Thread(target=host.call, args=("hostile.attack", {"kind": kind, "s": LASTS_S}, LASTS_S + 5))
        attack.start()
        attacked_s = p99(host)
        assert host.result("client.served") is True
        assert host.request("GET", "/api/health")[0] == 200
        attack.join(60)
        assert not attack.is_alive()
        serving(host)
        ratios.append(attacked_s / max(quiet_s, p99(host)))
        if ratios[-1] < FACTOR:
            break
    print(f"{kind}: p99 during the attack is {min(ratios):.2f} times the quiet one ({len(ratios)} tries)")
    assert min(ratios) < FACTOR
    assert generations(host) == others, "somebody else was restarted"
    blamed = [one for one in host.ok("GET", "/api/issues") if one["subject"] in OTHERS and one["severity"] != "info"]
    # that somebody waits for the Pack that serves the hostile one is true, and no fault of its
    assert [one for one in blamed if (one["subject"], one["code"]) not in BUSY] == []

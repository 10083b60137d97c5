"""Packs that nobody uses are stopped where the operator allows it, and the first call starts them again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.slow

QUIET = """
def run(context):
    ir = context["interface_registry"]
    ir.register("quiet.echo", lambda args, ctx: args)
    ir.register("quiet.stream", lambda args, ctx: iter(range(3)))
    ir.register("quiet.back", lambda args, ctx: args["fn"](1) + 1)
"""
CALLER = """
def run(context):
    ir = context["interface_registry"]
    kept = {"all": ir.get("quiet.echo", "all")[0], "last": ir.get("quiet.echo")}
    ir.register("caller.by_key", lambda args, ctx: ir.get("quiet.echo")(args, ctx))
    ir.register("caller.kept", lambda args, ctx: [kept["all"](args, ctx), kept["last"](args, ctx)])
    ir.register("caller.back", lambda args, ctx: ir.get("quiet.back")({"fn": lambda value: value * 10}, ctx))
    ir.register("caller.fact", {"stays": True})
"""
BROKEN = """
def run(context):
    store = context["userdata_manager"]
    if store.exists("packs/broken/started"):
        raise ValueError("not again")
    store.write_text("packs/broken/started", "")
    context["interface_registry"].register("broken.echo", lambda args, ctx: args)
"""
KEYS = ("quiet.echo", "quiet.stream", "quiet.back")


@pytest.fixture
def host(tmp_path: Path, isolation: str) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", isolation, {"RUMI_IDLE_STOP": "1s"}) as running:
        yield running


def container(host: RunningHost, pack_id: str) -> dict[str, Any] | None:
    return next((one for one in host.ok("GET", "/api/containers") if one["pack_id"] == pack_id), None)


def asleep(host: RunningHost, pack_id: str) -> None:
    host.until(lambda: container(host, pack_id) is None, 30, f"{pack_id} to sleep")
    host.until(lambda: host.status(pack_id)["cause"] == "asleep", 10, "its status")
    assert host.status(pack_id)["status"] == "approved"


def test_what_nobody_uses_is_stopped_and_started_by_the_first_call(host: RunningHost) -> None:
    host.put_pack("quiet", one_component_pack("quiet", QUIET, provides=KEYS))
    uses = ("quiet.echo", "quiet.back")
    provides = ("caller.by_key", "caller.kept", "caller.back", "caller.fact")
    host.put_pack("caller", one_component_pack("caller", CALLER, provides=provides, uses=uses))
    host.approve("quiet")
    host.approve("caller")
    asleep(host, "quiet")
    found = {one["key"]: one for one in host.ok("GET", "/api/interfaces")}
    assert found["quiet.echo"]["available"], "others see the key as before"
    assert container(host, "caller") is not None, "it registered more than callables"
    # many at once start it once
    answers: list[Any] = []
    callers = [threading.Thread(target=lambda n=n: answers.append(host.call("quiet.echo", n))) for n in range(8)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(60)
    assert [status for status, _ in answers] == [200] * 8
    assert sorted(envelope["data"]["result"] for _, envelope in answers) == list(range(8))
    running = container(host, "quiet")
    assert running is not None
    assert running["generation"] == 2
    assert host.status("quiet")["status"] == "running"
    # from another Pack: by key, by what was kept from before the sleep, with a callable, as a stream
    for key, args, wanted in (("caller.by_key", 5, 5), ("caller.kept", 6, [6, 6]), ("caller.back", None, 11)):
        asleep(host, "quiet")
        assert host.result(key, args) == wanted
    asleep(host, "quiet")
    assert host.stream("quiet.stream") == [0, 1, 2]


def test_a_pack_that_does_not_start_again_answers_with_an_error_in_time(host: RunningHost) -> None:
    host.put_pack("broken", one_component_pack("broken", BROKEN, provides=("broken.echo",)))
    host.approve("broken")
    asleep(host, "broken")
    status, answer = host.call("broken.echo", 1, timeout_s=20)
    assert (status, answer["code"]) == (404, "missing"), answer


def test_the_operators_stop_ends_the_sleep_and_his_start_too(host: RunningHost) -> None:
    host.put_pack("quiet", one_component_pack("quiet", QUIET, provides=KEYS))
    host.approve("quiet")
    asleep(host, "quiet")
    host.ok("POST", "/api/containers/quiet/start")
    assert host.result("quiet.echo", 1) == 1
    asleep(host, "quiet")
    host.ok("POST", "/api/containers/quiet/stop")
    assert host.call("quiet.echo", 1)[0] == 404, "what the operator stopped stays stopped"
    assert container(host, "quiet") is None
    host.ok("POST", "/api/packs/quiet/reject", {"reason": "no"})
    assert host.call("quiet.echo", 1)[0] == 404

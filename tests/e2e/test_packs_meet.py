"""Strangers meet on the bus: calls, streams, typed errors, death in the middle, nested callables, order, failure of one."""

from __future__ import annotations

import http.client
import os
import threading
from pathlib import Path
from typing import Any

from tests.support.running_host import RunningHost, component, one_component_pack

PROVIDER = """
import os, threading, time

def run(context):
    ir = context["interface_registry"]

    def count(args, ctx):
        for n in range(args["up_to"]):
            yield {"n": n}

    def refuse(args, ctx):
        raise ValueError("not " + args["what"])

    def die(args, ctx):
        os._exit(3)

    def adder(args, ctx):
        base = args["base"]
        return {"add": lambda a, c: base + a["n"]}

    def apply(args, ctx):
        return args["fn"]({"n": args["n"]}, ctx) * 2

    ir.register("a.echo", lambda args, ctx: {"args": args, "caller": ctx["caller"], "pid": os.getpid()})
    ir.register("a.count", count)
    ir.register("a.refuse", refuse)
    ir.register("a.die", die)
    ir.register("a.adder", adder)
    ir.register("a.apply", apply)
"""
PROVIDED = ("a.echo", "a.count", "a.refuse", "a.die", "a.adder", "a.apply")

CALLER = """
from rumi import RemoteError

def run(context):
    ir = context["interface_registry"]
    echo = ir.get("a.echo")

    def failure(fn, args, ctx):
        try:
            return {"result": fn(args, ctx)}
        except RemoteError as error:
            return {"type": error.type, "title": error.title, "retryable": error.retryable, "class": type(error).__name__}

    ir.register("b.echo", lambda args, ctx: echo(args, ctx))
    ir.register("b.numbers", lambda args, ctx: [item["n"] for item in ir.get("a.count")({"up_to": args["n"]}, ctx)])
    ir.register("b.refused", lambda args, ctx: failure(ir.get("a.refuse"), {"what": "today"}, ctx))
    ir.register("b.widow", lambda args, ctx: failure(ir.get("a.die"), {}, ctx))
    ir.register("b.nested", lambda args, ctx: ir.get("a.adder")({"base": 40}, ctx)["add"]({"n": 2}, ctx))
    ir.register("b.passed", lambda args, ctx: ir.get("a.apply")({"fn": lambda a, c: a["n"] + 1, "n": 20}, ctx))

    async def concurrent(args, ctx):
        import asyncio
        answers = await asyncio.gather(*(echo({"i": i}, ctx) for i in range(args["n"])))
        return sorted(answer["args"]["i"] for answer in answers)

    ir.register("b.concurrent", concurrent)
"""
CALLED = ("b.echo", "b.numbers", "b.refused", "b.widow", "b.nested", "b.passed", "b.concurrent")


def _two_packs(host: RunningHost) -> None:
    # The caller comes first on purpose: it waits until what it requires is there.
    host.put_pack("caller", one_component_pack("caller", CALLER, provides=CALLED, requires=PROVIDED))
    host.put_pack("provider", one_component_pack("provider", PROVIDER, provides=PROVIDED))
    assert "a.echo" in str(host.approve("caller"))
    host.approve("provider")
    host.until(lambda: host.status("caller")["status"] == "running", 30, "the caller to run once its requirements exist")


def test_packs_call_stream_fail_and_die(host: RunningHost) -> None:
    _two_packs(host)

    answer = host.result("b.echo", {"x": [1, "two", None, 3.5]})
    assert answer["args"] == {"x": [1, "two", None, 3.5]}
    assert answer["caller"] == "caller", "the host names the verified direct caller"
    assert host.result("b.numbers", {"n": 50}) == list(range(50))
    refused = host.result("b.refused")
    assert refused["type"] == "error/ValueError"
    assert "not today" in refused["title"]
    assert host.result("b.nested") == 42
    assert host.result("b.passed") == 42
    assert host.result("b.concurrent", {"n": 40}) == list(range(40))

    widow = host.result("b.widow")
    assert widow["type"] == "unavailable"
    assert widow["retryable"] is True
    host.until(lambda: host.call("b.echo", {"again": 1})[0] == 200, 30, "the provider to be restarted")
    assert host.status("provider")["status"] == "running"
    assert host.request("GET", "/api/health")[0] == 200


def test_who_depends_on_a_stopped_pack_runs_on_and_finds_it_again(host: RunningHost) -> None:
    caller = """
from rumi import RemoteError
def run(context):
    ir = context["interface_registry"]
    early = ir.get("a.echo")
    def ask(args, ctx):
        found = []
        for fn in (early, ir.get("a.echo")):
            try:
                found.append("missing" if fn is None else fn(args, ctx)["args"])
            except RemoteError as error:
                found.append(error.type)
        return found
    ir.register("c.ask", ask)
"""
    host.put_pack("provider", one_component_pack("provider", PROVIDER, provides=PROVIDED))
    host.put_pack("asker", one_component_pack("asker", caller, provides=("c.ask",), requires=("a.echo",)))
    host.approve("provider")
    host.approve("asker")
    assert host.result("c.ask", 1) == [1, 1]

    def generation() -> int:
        return next(one["generation"] for one in host.ok("GET", "/api/containers") if one["pack_id"] == "asker")

    before = generation()
    host.ok("POST", "/api/containers/provider/stop")
    assert host.result("c.ask", 2) == ["missing", "missing"]
    host.ok("POST", "/api/containers/provider/start")
    assert host.result("c.ask", 3) == [3, 3], "what was held before it stopped answers again, too"
    assert (host.status("asker")["status"], generation()) == ("running", before), "nothing of it was restarted"


WORKER = """
import time

def run(context):
    ir, seen = context["interface_registry"], []

    def work(args, ctx):
        seen.append("begun")
        until = time.monotonic() + 30
        while not ctx["cancelled"]() and time.monotonic() < until:
            time.sleep(0.005)
        seen.append("cancelled" if ctx["cancelled"]() else "finished")

    ir.register("c.work", work)
    ir.register("c.seen", lambda args, ctx: list(seen))
"""


def test_a_client_that_hangs_up_cancels_its_call(host: RunningHost) -> None:
    host.put_pack("c", one_component_pack("c", WORKER, provides=("c.work", "c.seen")))
    host.approve("c")
    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=20)
    connection.request("POST", "/api/interfaces/c.work/call", "{}", {"Host": f"localhost:{host.api_port}", "Content-Type": "application/json"})
    host.until(lambda: host.result("c.seen") == ["begun"], 20, "the call to begin")
    connection.close()
    host.until(lambda: host.result("c.seen") == ["begun", "cancelled"], 20, "its end")


def test_streams_arrive_as_server_sent_events(host: RunningHost) -> None:
    host.put_pack("provider", one_component_pack("provider", PROVIDER, provides=PROVIDED))
    host.approve("provider")
    assert [item["n"] for item in host.stream("a.count", {"up_to": 5})] == [0, 1, 2, 3, 4]


def test_calls_in_parallel_do_not_wait_for_each_other(host: RunningHost) -> None:
    setup = """
import threading
def run(context):
    gate = threading.Event()
    def wait(args, ctx):
        return gate.wait(20)
    def open_gate(args, ctx):
        gate.set()
        return True
    context["interface_registry"].register("gate.wait", wait)
    context["interface_registry"].register("gate.open", open_gate)
"""
    host.put_pack("gate", one_component_pack("gate", setup, provides=("gate.wait", "gate.open")))
    host.approve("gate")
    answers: list[Any] = []

    def wait() -> None:
        answers.append(host.call("gate.wait"))

    waiting = [threading.Thread(target=wait) for _ in range(10)]
    for thread in waiting:
        thread.start()
    assert host.result("gate.open") is True
    for thread in waiting:
        thread.join(30)
    assert [envelope["data"] or envelope for _, envelope in answers] == [{"result": True}] * 10


def test_a_failing_component_is_disabled_and_the_rest_serves(host: RunningHost) -> None:
    files = one_component_pack("half", "def run(context):\n    context['interface_registry'].register('half.fine', lambda a, c: 'fine')\n", provides=("half.fine",))
    files["backend/components/broken/manifest.json"] = component("service", "broken", provides=("half.broken",))
    files["backend/components/broken/setup.py"] = "def run(context):\n    raise RuntimeError('as expected')\n"
    host.put_pack("half", files)
    host.approve("half")

    assert host.result("half.fine") == "fine"
    assert host.call("half.broken")[0] == 404
    issues = host.ok("GET", "/api/issues")
    mine = [issue for issue in issues if "half:service:broken" in str(issue)]
    assert mine
    assert "as expected" in str(mine)
    assert "setup.py" in str(mine)


def test_undeclared_keys_and_edges_are_refused(host: RunningHost) -> None:
    host.put_pack("provider", one_component_pack("provider", PROVIDER, provides=PROVIDED))
    intruder = """
from rumi import RemoteError
def run(context):
    ir = context["interface_registry"]
    def attempt(args, ctx):
        seen = {"get": ir.get("a.echo"), "list": sorted(ir.list())}
        try:
            ir.register("a.echo", lambda a, c: "mine")
            seen["registered"] = True
        except RemoteError as error:
            seen["registered"] = error.type
        return seen
    ir.register("intruder.attempt", attempt)
"""
    host.put_pack("intruder", one_component_pack("intruder", intruder, provides=("intruder.attempt",)))
    host.approve("provider")
    host.approve("intruder")
    assert host.result("intruder.attempt") == {"get": None, "list": ["intruder.attempt"], "registered": "denied"}
    assert host.result("a.echo", 1)["args"] == 1


def test_the_handler_runs_in_another_process_without_network(host: RunningHost) -> None:
    setup = """
import os, socket
def run(context):
    def report(args, ctx):
        return {"uid": os.getuid(), "net": os.readlink("/proc/self/ns/net"), "pid": os.readlink("/proc/self/ns/pid"),
                "interfaces": [name for _, name in socket.if_nameindex()], "environment": dict(os.environ)}
    context["interface_registry"].register("who.am_i", report)
"""
    host.put_pack("who", one_component_pack("who", setup, provides=("who.am_i",)))
    host.approve("who")
    report = host.result("who.am_i")
    assert report["net"] != str(Path("/proc/self/ns/net").readlink())
    assert report["pid"] != str(Path("/proc/self/ns/pid").readlink())
    assert set(report["interfaces"]) <= {"lo"}
    assert not any(name.startswith("RUMI_") for name in report["environment"])
    if os.getuid() == 0:
        assert report["uid"] != 0

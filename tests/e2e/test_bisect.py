"""`bisect`: the Pack that breaks a call is found among others by real stops and starts, and all run again after."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_host import RunningHost, one_component_pack

PRICE = """
def run(context):
    ir = context["interface_registry"]
    calls = []

    def price(args, ctx):
        calls.append(1)
        for key in ("extra.tax", "extra.discount"):
            extra = ir.get(key)
            if extra is not None:
                args = extra({"amount": args["amount"], "call": len(calls)}, ctx)
        return {"amount": args["amount"]}

    ir.register("shop.price", price)
"""
TAX = """
def run(context):
    context["interface_registry"].register("extra.tax", lambda args, ctx: {"amount": args["amount"] * 2})
"""
BREAKS = """
def run(context):
    context["interface_registry"].register("extra.discount", lambda args, ctx: {"total": args["amount"]})
"""
NOW_AND_THEN = """
def run(context):
    def discount(args, ctx):
        if args["call"] % 3 == 0:
            raise ValueError("the third call")
        return args

    context["interface_registry"].register("extra.discount", discount)
"""
IDLE = """
def run(context):
    context["interface_registry"].register("{key}", lambda args, ctx: args)
"""


def put_all(host: RunningHost, discount: str, others: int = 5) -> list[str]:
    host.put_pack(
        "shop", one_component_pack("shop", PRICE, provides=("shop.price",), uses=("extra.tax", "extra.discount"))
    )
    host.put_pack("tax", one_component_pack("tax", TAX, provides=("extra.tax",)))
    host.put_pack(
        "half_off", one_component_pack("half_off", discount, provides=("extra.discount",), requires=("other.0",))
    )
    names = ["shop", "tax", "half_off"]
    for number in range(others):
        names.append(f"other{number}")
        host.put_pack(
            names[-1], one_component_pack(names[-1], IDLE.format(key=f"other.{number}"), provides=(f"other.{number}",))
        )
    for name in reversed(names):
        host.approve(name)
    assert running(host) == set(names)
    return names


def running(host: RunningHost) -> set[str]:
    return {one["pack_id"] for one in host.ok("GET", "/api/packs") if one["status"] == "running"}


def asked(host: RunningHost, **words: Any) -> Any:
    return host.ok("POST", "/api/bisect", {"key": "shop.price", "args": {"amount": 5}, **words})


def test_the_pack_that_breaks_a_call_is_found_and_all_run_again(tmp_path: Path, isolation: str) -> None:
    with RunningHost(tmp_path / "home", isolation) as host:
        names = put_all(host, BREAKS)
        assert host.call("shop.price", {"amount": 5})[0] == 502
        found = asked(host)
        assert (found["verdict"], found["packs"], found["provider"]) == ("found", ["half_off"], "shop"), found
        assert len(found["trials"]) <= 2 + 3 + 1 + 2, found
        assert found["trials"][0]["failed"] == 3
        assert found["trials"][0]["error"]["detail"]
        assert found["trials"][1] == {"running": [], "calls": 3, "failed": 0, "error": None, "not_started": []}
        assert found["trials"][-2]["running"] == ["other0", "half_off"], "what it requires runs with it"
        assert found["trials"][-1]["failed"] == 0
        assert found["not_restored"] == {}
        assert running(host) == set(names)
        audit = [one["event"] for one in host.ok("GET", "/api/audit?lines=500")]
        assert audit.count("bisect.begun") == audit.count("bisect.ended") == 1

        wrong = asked(host, expect={"amount": 5}, key="other.1", args={"amount": 6})
        assert (wrong["verdict"], wrong["packs"]) == ("own", ["other1"])
        works = asked(host, key="other.1")
        assert (works["verdict"], works["packs"], works["starts"]) == ("works", [], 0)


def test_one_that_fails_now_and_then_is_found_by_repeating(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        put_all(host, NOW_AND_THEN)
        found = asked(host, repeat=3)
        assert (found["verdict"], found["packs"], found["flaky"]) == ("found", ["half_off"], True), found


KEEPS = """
def run(context):
    ir = context["interface_registry"]
    state = {"amount": 1}

    def price(args, ctx):
        return {"amount": args["amount"] / state["amount"]}

    ir.register("shop.price", price)
    ir.register("shop.unit", lambda args, ctx: state.update(args))
"""
SPOILS = """
def run(context):
    ir = context["interface_registry"]
    ir.get("shop.unit")({"amount": 0}, {})
    ir.register("extra.spoils", lambda args, ctx: args)
"""


def test_a_fault_that_outlives_its_cause_is_found_by_starting_afresh(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        host.put_pack("shop", one_component_pack("shop", KEEPS, provides=("shop.price", "shop.unit")))
        host.put_pack("spoiler", one_component_pack("spoiler", SPOILS, provides=("extra.spoils",), requires=("shop.unit",)))
        host.approve("shop")
        for number in range(3):
            host.put_pack(f"other{number}", one_component_pack(f"other{number}", IDLE.format(key=f"other.{number}"), provides=(f"other.{number}",)))
            host.approve(f"other{number}")
        host.approve("spoiler")
        assert host.call("shop.price", {"amount": 5})[0] == 502
        found = asked(host)
        assert (found["verdict"], found["packs"], found["afresh"]) == ("found", ["spoiler"], True), found
        assert len(running(host)) == 5


def test_a_wrong_result_counts_where_one_is_expected(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        put_all(host, IDLE.format(key="extra.discount"))
        found = asked(host, expect={"amount": 5})
        assert (found["verdict"], found["packs"]) == ("found", ["tax"]), found
        assert "10" in found["trials"][0]["error"]["detail"]


def test_a_result_is_what_is_expected_by_the_rules_of_json(tmp_path: Path) -> None:
    """1 is not true, whatever the host is written in."""
    with RunningHost(tmp_path / "home", "embedded") as host:
        host.put_pack("one", one_component_pack("one", IDLE.format(key="one.key"), provides=("one.key",)))
        host.approve("one")
        asked_for = {"key": "one.key", "args": 1, "repeat": 1}
        assert host.ok("POST", "/api/bisect", {**asked_for, "expect": 1.0})["verdict"] == "works"
        assert host.ok("POST", "/api/bisect", {**asked_for, "expect": True})["verdict"] == "own"


def test_what_the_operator_decides_meanwhile_stands_and_a_second_bisect_is_refused(tmp_path: Path) -> None:
    slow = BREAKS.replace("lambda args, ctx:", "lambda args, ctx: __import__('time').sleep(1) or")
    with RunningHost(tmp_path / "home", "embedded") as host:
        names = put_all(host, slow)
        report: list[Any] = []
        asking = threading.Thread(target=lambda: report.append(asked(host)))
        asking.start()
        try:
            held = host.until(lambda: held_off(host) - {"half_off", "other0"}, 40, "a Pack to be held off")
            status, refused = host.request("POST", "/api/bisect", {"key": "shop.price"})
            assert (status, refused["code"]) == (409, "busy")
            chosen = min(held)
            host.ok("POST", f"/api/packs/{chosen}/reject", {"reason": "not this one"})
        finally:
            asking.join(120)
        assert report
        assert report[0]["packs"] == ["half_off"]
        assert running(host) == set(names) - {chosen}


@pytest.mark.parametrize("how", ["the client goes", "the host is killed"])
def test_however_it_is_cut_off_everything_runs_again(tmp_path: Path, how: str) -> None:
    slow = BREAKS.replace("lambda args, ctx:", "lambda args, ctx: __import__('time').sleep(2) or")
    with RunningHost(tmp_path / "home", "embedded") as host:
        names = put_all(host, slow)
        state = {path: path.read_bytes() for path in (host.home / "user_data" / "permissions").glob("*.grants.json")}
        connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=60)
        with contextlib.closing(connection):
            body = json.dumps({"key": "shop.price", "args": {"amount": 5}})
            connection.request("POST", "/api/bisect", body, {"Content-Type": "application/json"})
            host.until(lambda: held_off(host), 40, "a Pack to be held off")
            if how == "the host is killed":
                host.kill()
        if how == "the host is killed":
            host.start()
        host.until(lambda: running(host) == set(names), 60, "everything to run again")
        assert {path: path.read_bytes() for path in state} == state
        assert not held_off(host)


def held_off(host: RunningHost) -> set[str]:
    return {one["pack_id"] for one in host.ok("GET", "/api/packs") if one["cause"] == "held_off"}

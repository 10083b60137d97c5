"""A new version in the old one's place while a Pack and an HTTP client call it all the time: nobody gets an error."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.slow

MOVER = """
import threading, time
VERSION = {version!r}
def run(context):
    ir, store = context["interface_registry"], context["userdata_manager"]
    path = "packs/mover/state.txt"
    {extra}
    busy = []
    def slow(args, ctx):
        busy.append(args)
        time.sleep(args["s"])
        return VERSION
    def count(args, ctx):
        number = int(store.read_text(path)) + 1 if store.exists(path) else 1
        store.write_text(path, str(number))
        return [VERSION, number]
    ir.register("mover.version", lambda args, ctx: VERSION)
    ir.register("mover.slow", slow)
    ir.register("mover.busy", lambda args, ctx: len(busy))
    ir.register("mover.count", count)
"""
KEYS = ("mover.version", "mover.slow", "mover.busy", "mover.count")
CALLER = """
import threading, time
def run(context):
    ir = context["interface_registry"]
    found = {"calls": 0, "errors": [], "seen": []}
    by_key = ir.get("mover.version")
    by_number = ir.get("mover.version", "all")[0]
    def call():
        while True:
            for fn in (by_key, by_number):
                try:
                    version = fn({})
                    if version not in found["seen"]:
                        found["seen"].append(version)
                except Exception as error:
                    found["errors"].append(("key" if fn is by_key else "number") + ": " + repr(error)[:200])
                found["calls"] += 1
            time.sleep(0.002)
    threading.Thread(target=call, daemon=True).start()
    ir.register("caller.report", lambda args, ctx: dict(found))
"""


def mover(version: str, extra: str = "pass") -> dict[str, str]:
    files = one_component_pack("mover", MOVER.format(version=version, extra=extra), provides=KEYS)
    files["backend/ecosystem.json"] = json.dumps({"pack_id": "mover", "version": version})
    return files


class Load:
    """An HTTP client that calls one interface again and again, and the caller Pack."""

    def __init__(self, host: RunningHost, key: str = "mover.version", args: Any = None) -> None:
        self._host = host
        self._key, self._args = key, args
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._call)
        self.answers: list[Any] = []
        self.errors: list[Any] = []
        self.slowest_s = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        self.until(lambda: self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    def _call(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            status, envelope = self._host.call(self._key, self._args)
            self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
            if status == 200:
                self.answers.append(envelope["data"]["result"])
            else:
                self.errors.append(envelope)

    def until(self, holds: Callable[[], Any]) -> None:
        self._host.until(holds, 20, "the load to get there")

    def more(self, count: int = 20) -> None:
        """Wait for that many further answers."""
        target = len(self.answers) + count
        self.until(lambda: len(self.answers) >= target or self.errors)


def running(host: RunningHost, tmp_path: Path, files: dict[str, str], *, caller: bool = True) -> None:
    """Version 1.0.0 runs, its caller too, and ``files`` are staged."""
    host.put_pack("mover", mover("1.0.0"))
    host.approve("mover")
    if caller:
        host.put_pack("caller", one_component_pack("caller", CALLER, provides=("caller.report",), uses=("mover.version",)))
        host.approve("caller")
        host.until(lambda: host.result("caller.report")["calls"] > 20, 20, "the caller to call")
    folder = tmp_path / "next"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    host.ok("POST", "/api/packs/add", {"path": str(folder)})


def changes(answers: list[Any]) -> list[Any]:
    return [key for key, _ in itertools.groupby(answers)]


def ways(host: RunningHost) -> list[str]:
    """Steps that the diagnostics tell of taking a version in its place."""
    return [event["step_id"] for event in host.ok("GET", "/api/diagnostics")["events"] if event.get("step_id") == "update_in_place"]


def test_an_update_is_taken_over_without_one_failed_call(host: RunningHost, tmp_path: Path) -> None:
    running(host, tmp_path, mover("2.0.0"))
    with Load(host) as load:
        done = host.ok("POST", "/api/packs/mover/update/approve", {})
        assert (done["status"], done["version"], done["pending_update"]) == ("running", "2.0.0", None)
        load.more()
    assert load.errors == []
    assert changes(load.answers) == ["1.0.0", "2.0.0"]
    report = host.until(lambda: (r := host.result("caller.report"))["seen"][-1] == "2.0.0" and r, 20, "the caller")
    assert report["errors"] == []
    assert report["seen"] == ["1.0.0", "2.0.0"]
    [container] = [c for c in host.ok("GET", "/api/containers") if c["pack_id"] == "mover"]
    assert container["generation"] == 2
    assert ways(host) == []


@pytest.mark.parametrize(
    ("extra", "said"),
    [("raise ValueError('no such luck')", "no such luck"), ("import os; os._exit(3)", "failed in phase setup")],
    ids=["a component fails", "the sandbox dies"],
)
def test_a_failing_update_costs_no_call(host: RunningHost, tmp_path: Path, extra: str, said: str) -> None:
    running(host, tmp_path, mover("2.0.0", f"ir.register('mover.version', lambda a, c: 'half'); {extra}"))
    with Load(host) as load:
        status, answer = host.request("POST", "/api/packs/mover/update/approve", {})
        assert (status, answer["code"]) == (502, "update_failed"), answer
        assert said in json.dumps(answer)
        load.more()
    assert load.errors == []
    assert changes(load.answers) == ["1.0.0"]
    report = host.result("caller.report")
    assert (report["errors"], report["seen"]) == ([], ["1.0.0"])
    seen = host.status("mover")
    assert (seen["status"], seen["version"], seen["pending_update"]["version"]) == ("running", "1.0.0", "2.0.0")
    about = {issue["code"] for issue in host.ok("GET", "/api/issues") if "mover" in json.dumps(issue)}
    assert about <= {"update_undecided"}, "nothing but that the staged version waits"
    assert list((host.home / "user_data/packs/.trials").iterdir()) == []


def test_a_rollback_lets_its_callers_wait(host: RunningHost, tmp_path: Path) -> None:
    running(host, tmp_path, mover("2.0.0"), caller=False)
    host.ok("POST", "/api/packs/mover/update/approve", {})
    with Load(host) as load:
        assert host.ok("POST", "/api/packs/mover/rollback")["version"] == "1.0.0"
        load.more()
    assert load.errors == []
    assert changes(load.answers) == ["2.0.0", "1.0.0"]


def test_a_version_that_reads_what_the_old_one_goes_on_writing_starts_after_it(
    host: RunningHost, tmp_path: Path
) -> None:
    """Two versions that count in one file: no number is lost, none is given twice, and no call fails."""
    seen = "store.exists(path) and store.read_text(path); time.sleep(0.3)"
    running(host, tmp_path, mover("2.0.0", seen), caller=False)
    with Load(host, "mover.count") as load:
        assert host.ok("POST", "/api/packs/mover/update/approve", {})["version"] == "2.0.0"
        load.more()
    assert load.errors == []
    assert [number for _, number in load.answers] == list(range(1, len(load.answers) + 1))
    assert changes([version for version, _ in load.answers]) == ["1.0.0", "2.0.0"]
    assert ways(host) == ["update_in_place"]


def test_a_version_that_needs_more_than_a_trial_may_do_starts_after_the_old_one(host: RunningHost, tmp_path: Path) -> None:
    """It asks for the network while it starts; that it fails on trial says nothing about it."""
    wants = """
    import urllib.request
    try:
        urllib.request.urlopen("http://example.invalid/", timeout=5)
    except OSError as error:
        assert "on_trial" not in str(error)
    """
    files = mover("2.0.0", wants.strip().replace("\n    ", "\n    "))
    permission = {"type": "network", "domains": ["example.invalid"], "ports": [80], "reason": "to look"}
    files["backend/permissions.json"] = json.dumps({"pack_id": "mover", "permissions": [permission]})
    running(host, tmp_path, files, caller=False)
    with Load(host) as load:
        assert host.ok("POST", "/api/packs/mover/update/approve", {})["version"] == "2.0.0"
        load.more()
    assert load.errors == []
    assert ways(host) == ["update_in_place"]


def test_what_a_version_wrote_on_trial_counts_when_it_has_taken_over_and_not_before(
    host: RunningHost, tmp_path: Path
) -> None:
    state = host.home / "user_data/packs/mover/state.txt"
    wait = "store.write_text(path, '41'); assert store.read_text(path) == '41'; time.sleep(1)"
    running(host, tmp_path, mover("2.0.0", wait), caller=False)
    state.parent.mkdir(parents=True, exist_ok=True)
    state.write_text("7")
    during: list[str] = []
    asking = threading.Thread(target=lambda: during.append(host.ok("POST", "/api/packs/mover/update/approve", {})["version"]))
    asking.start()
    trials = host.home / "user_data/packs/.trials"
    host.until(lambda: list(trials.glob("*/files/packs/mover/state.txt")), 20, "the trial to write")
    assert state.read_text() == "7"
    asking.join(60)
    assert during == ["2.0.0"]
    assert state.read_text() == "41"
    assert host.result("mover.count") == ["2.0.0", 42]
    host.ok("POST", "/api/packs/mover/rollback")
    assert state.read_text() == "7"


def test_a_call_in_flight_ends_where_it_began(host: RunningHost, tmp_path: Path) -> None:
    running(host, tmp_path, mover("2.0.0"), caller=False)
    answers: list[Any] = []
    calling = threading.Thread(target=lambda: answers.append(host.result("mover.slow", {"s": 4})))
    calling.start()
    host.until(lambda: host.result("mover.busy"), 10, "the slow call to be in flight")
    host.ok("POST", "/api/packs/mover/update/approve", {})
    assert host.result("mover.version") == "2.0.0"
    assert answers == [], "the old version is still at it"
    calling.join(30)
    assert answers == ["1.0.0"]


def test_a_host_that_is_killed_during_the_trial_has_nothing_to_take_back(host: RunningHost, tmp_path: Path) -> None:
    running(host, tmp_path, mover("2.0.0", "store.write_text(path, '41'); time.sleep(60)"), caller=False)
    asking = threading.Thread(target=_ask_and_be_cut_off, args=(host,))
    asking.start()
    trials = host.home / "user_data/packs/.trials"
    host.until(lambda: list(trials.glob("*/files/packs/mover/state.txt")), 20, "the trial to write")
    host.kill()
    asking.join(10)
    host.start()
    assert host.result("mover.count") == ["1.0.0", 1]
    assert list(trials.iterdir()) == []


def _ask_and_be_cut_off(host: RunningHost) -> None:
    try:
        host.request("POST", "/api/packs/mover/update/approve", {})
    except OSError:
        return

"""Events over a real host and its restarts: the stream of the API, and Packs that were away."""

from __future__ import annotations

import http.client
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.embedded

SPEAKER = """
def run(context):
    bus = context["event_bus"]
    context["interface_registry"].register("speaker.say", lambda args: bus.publish("news.said", args))
"""
HEARER = """
def run(context):
    bus, files = context["event_bus"], context["userdata_manager"]
    def exists():
        return files.exists("packs/hearer/last")
    since = files.read("packs/hearer/last").decode() if exists() else "oldest"
    heard = []
    def hear(payload, event):
        heard.append(payload)
        files.write("packs/hearer/last", event["id"].encode())
    name = bus.subscribe("news.*", hear, since=since)
    ir = context["interface_registry"]
    ir.register("hearer.heard", lambda: heard)
    ir.register("hearer.complete", lambda: bus.is_complete(name))
"""


def pack(pack_id: str, setup: str, permission: dict[str, Any], *provides: str) -> dict[str, str]:
    files = one_component_pack(pack_id, setup, provides=provides)
    asked = {"pack_id": pack_id, "permissions": [permission | {"reason": "To speak and to hear."}]}
    return {**files, "backend/permissions.json": json.dumps(asked)}


@contextmanager
def stream(host: RunningHost, last: str = "") -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=20)
    headers = {"Host": f"localhost:{host.api_port}", **({"Last-Event-ID": last} if last else {})}
    connection.request("GET", "/api/events", headers=headers)
    answer = connection.getresponse()

    def events() -> Iterator[tuple[str, dict[str, Any]]]:
        name = ""
        while line := answer.readline().decode().rstrip("\n"):
            pass
        while True:
            line = answer.readline().decode().rstrip("\n")
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                yield name, json.loads(line[6:])

    try:
        assert answer.status == 200
        yield events()
    finally:
        connection.close()


def said(events: Iterator[tuple[str, dict[str, Any]]], until: Any) -> list[dict[str, Any]]:
    found = []
    for name, event in events:
        assert name != "lost", event
        if name == "event" and event["type"] == "news.said":
            found.append(event)
            if event["data"] == until:
                return found
    raise AssertionError("the stream ended")


def test_what_was_missed_is_told_over_restarts_of_pack_and_host(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "h", "embedded") as host:
        host.put_pack("speaker", pack("speaker", SPEAKER, {"type": "event.publish", "topics": ["news.*"]}, "speaker.say"))
        hearer = pack("hearer", HEARER, {"type": "event.subscribe", "topics": ["news.*"]}, "hearer.heard", "hearer.complete")
        host.put_pack("hearer", hearer)
        for pack_id in ("hearer", "speaker"):
            host.approve(pack_id)
        with stream(host) as events:
            assert host.result("speaker.say", {"n": 1}) >= 1
            [first] = said(events, {"n": 1})
            assert first["specversion"] == "1.0"
            assert first["source"] == "rumi:pack/speaker"
        host.until(lambda: host.result("hearer.heard") == [{"n": 1}], 10, "the first event")

        host.ok("POST", "/api/containers/hearer/stop")
        for number in (2, 3):
            host.result("speaker.say", {"n": number})
        host.ok("POST", "/api/containers/hearer/start")
        host.until(lambda: host.result("hearer.heard") == [{"n": 2}, {"n": 3}], 10, "what the Pack missed")
        assert host.result("hearer.complete") is True

        host.ok("POST", "/api/containers/hearer/stop")
        host.result("speaker.say", {"n": 4})
        with stream(host, first["id"]) as events:
            assert [event["data"]["n"] for event in said(events, {"n": 4})] == [2, 3, 4]
        kept = host.ok("GET", "/api/events/kept?pack=speaker&count=2")  # reading has it written, too
        assert [event["data"]["n"] for event in kept] == [3, 4]
        host.kill()
        host.start()
        with stream(host, first["id"]) as events:
            assert [event["data"]["n"] for event in said(events, {"n": 4})] == [2, 3, 4]
            host.result("speaker.say", {"n": 5})
            assert [event["data"]["n"] for event in said(events, {"n": 5})] == [5]
        host.until(lambda: [h["n"] for h in host.result("hearer.heard")] == [4, 5], 10, "what the Pack missed")
        with stream(host, "00000000-5") as events:
            assert next(events) == ("lost", {"events": None})
        command = [sys.executable, "-m", "rumi_setup", "--json", "events", "--follow", "--pack", "speaker", "--count", "2"]
        words = {**host._environment, "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=words, stdout=subprocess.PIPE, text=True) as told:
            assert told.stdout is not None
            try:
                assert [json.loads(told.stdout.readline())["data"]["n"] for _ in range(2)] == [4, 5]
                host.result("speaker.say", {"n": 6})
                assert json.loads(told.stdout.readline())["data"] == {"n": 6}
            finally:
                told.kill()


def test_what_is_older_than_a_week_goes_and_rumi_events_says_so(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "h", "embedded") as host:
        host.put_pack("speaker", pack("speaker", SPEAKER, {"type": "event.publish", "topics": ["news.*"]}, "speaker.say"))
        host.approve("speaker")
        for number in range(3):
            host.result("speaker.say", {"n": number})
        ids = [event["id"] for event in host.ok("GET", "/api/events/kept?pack=speaker") if event["type"] == "news.said"]
        assert len(ids) == 3
        host.stop()
        with closing(sqlite3.connect(host.home / "user_data/events/journal.db")) as journal, journal:
            assert journal.execute("UPDATE events SET time_s = time_s - 8 * 86400").rowcount > 3
        host.start()
        host.until(lambda: not {one["id"] for one in host.ok("GET", "/api/events/kept")} & set(ids), 20, "the old to go")
        command = [sys.executable, "-m", "rumi_setup", "events", "--follow", "--since", ids[0]]
        words = {**host._environment, "RUMI_LANG": "en", "PYTHONUNBUFFERED": "1"}
        with subprocess.Popen(command, cwd=ROOT, env=words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as told:
            assert told.stdout is not None
            assert told.stderr is not None
            try:
                assert told.stderr.readline() == "Some events in between are no longer kept.\n"
                assert ids[1] not in told.stdout.readline()
            finally:
                told.kill()
        command.remove("--follow")
        done = subprocess.run(command, cwd=ROOT, env=words, capture_output=True, text=True, timeout=60, check=True)
        assert done.stderr.startswith("Some events in between are no longer kept.\n")
        assert done.stdout
        assert not any(event_id in done.stdout for event_id in ids)

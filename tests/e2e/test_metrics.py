"""Numbers of a real host: what a scraper of Prometheus reads, and the counts of each edge."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.embedded

WORKER = """
import time
def run(context):
    ir = context["interface_registry"]
    def work(args):
        if args == "fail":
            raise ValueError("no")
        return args
    ir.register("worker.work", work)
"""
ASKER = """
def run(context):
    ir = context["interface_registry"]
    work = ir.get("worker.work")
    def ask(args):
        try:
            return work(args)
        except Exception as error:
            return "failed"
    ir.register("asker.ask", ask)
"""


def scrape(host: RunningHost, headers: dict[str, str] | None = None) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=20)
    try:
        connection.request("GET", "/metrics", headers={"Host": f"localhost:{host.api_port}", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.getheader("content-type", ""), answer.read()
    finally:
        connection.close()


def samples(host: RunningHost, headers: dict[str, str] | None = None) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, kind, body = scrape(host, headers)
    assert (status, kind.partition(";")[0]) == (200, "text/plain"), body
    found = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def cli(host: RunningHost, *arguments: str) -> str:
    command = [sys.executable, "-m", "rumi_setup", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**host._environment, "RUMI_LANG": "en"}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_packs_do_and_use_is_counted(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "h", "embedded") as host:
        host.put_pack("worker", one_component_pack("worker", WORKER, provides=("worker.work",)))
        host.put_pack("asker", one_component_pack("asker", ASKER, provides=("asker.ask",), requires=("worker.work",)))
        host.approve("worker")
        host.approve("asker")
        for args in (1, 2, 3, "fail"):
            host.result("asker.ask", args)
        for _ in range(2):
            assert host.call("worker.work", "fail")[0] == 502
        assert host.call("asker.nothing")[0] == 404

        bearer = {"Authorization": f"Bearer {cli(host, 'token').strip()}"}
        found = samples(host, bearer)
        assert scrape(host, {"Authorization": "Bearer wrong"})[0] == 401
        assert found["rumi_pack_calls_total", (("pack", "worker"),)] == 6
        assert found["rumi_pack_errors_total", (("pack", "worker"), ("type", "error/ValueError"))] == 3
        assert found["rumi_edge_calls_total", (("caller", "asker"), ("key", "worker.work"))] == 4
        assert found["rumi_edge_errors_total", (("caller", "asker"), ("key", "worker.work"), ("type", "error/ValueError"))] == 1
        assert found["rumi_edge_calls_total", (("caller", "operator"), ("key", "worker.work"))] == 2
        assert found["rumi_edge_call_duration_seconds_count", (("caller", "asker"), ("key", "worker.work"))] == 4
        for quantile in ("0.5", "0.99"):
            took = found["rumi_pack_call_duration_seconds", (("pack", "worker"), ("quantile", quantile))]
            assert 0 < took < 5
        assert found["rumi_pack_up", (("pack", "worker"),)] == 1
        assert found["rumi_pack_restarts_total", (("pack", "worker"),)] == 0
        assert found["rumi_pack_calls_in_flight", (("pack", "worker"),)] == 0
        assert found["rumi_pack_events_dropped_total", (("pack", "worker"),)] == 0
        for name in ("rumi_pack_memory_bytes", "rumi_pack_cpu_seconds_total"):
            assert found[name, (("pack", "worker"),)] > 0
        assert found["rumi_host_memory_bytes", ()] > 10_000_000
        assert found["rumi_host_loop_lag_seconds_count", ()] > 0
        assert found["rumi_flow_runs_total", (("flow", "rumi.startup"), ("status", "ok"))] == 1
        assert found["rumi_packs", (("state", "running"),)] == 2
        assert found["rumi_events_published_total", ()] > 0

        [edge] = [e for e in host.ok("GET", "/api/edges?pack=worker") if e["caller"] == "asker"]
        assert (edge["key"], edge["provider"], edge["calls"], edge["errors"]) == ("worker.work", "worker", 4, 1)
        assert (edge["failures"], edge["last_error"]) == ({"error/ValueError": 1}, "error/ValueError")
        assert edge["last_error_at"] > 1e9
        assert 0 < edge["p50_us"] <= edge["p99_us"]
        assert host.ok("GET", "/api/edges?pack=nobody") == []
        assert "error/ValueError 2" in cli(host, "interface", "edges", "--pack", "worker")
        assert json.loads(cli(host, "interface", "edges", "--json"))[0]["calls"] == 4
        events = json.loads(cli(host, "events", "--json", "-n", "5"))
        assert len(events) == 5
        assert "container.started" in cli(host, "events")

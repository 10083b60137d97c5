"""One trace over HTTP, flows and Packs, at a receiver of the test's own."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.support.otlp_receiver import Receiver, attributes, named
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.embedded

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADERS = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
ASKER = """
def run(context):
    ir = context["interface_registry"]
    ir.register("asker.ask", lambda args, ctx: [ctx["trace"], ir.get("teller.tell")(args)])
"""
TELLER = """
def run(context):
    ir, bus = context["interface_registry"], context["event_bus"]
    def tell(args, ctx):
        bus.publish("teller.told", {"n": 1})
        return ctx["trace"]
    ir.register("teller.tell", tell)
    ir.register("teller.note", lambda args: None)
"""
FLOW = """
flow: told
version: 1
on: [{event: teller.told}]
steps:
  - {id: note, call: teller.note}
"""
ASKING = """
flow: asking
version: 1
steps:
  - {id: ask, call: asker.ask, with: {n: 1}}
"""


def test_one_trace_from_http_over_packs_to_a_flow_and_back(tmp_path: Path) -> None:
    with Receiver() as receiver:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_SERVICE_NAME": "host under test"}
        home = tmp_path / "h"
        (home / "user_data" / "flows").mkdir(parents=True)
        (home / "user_data" / "flows" / "told.flow.yaml").write_text(FLOW)
        (home / "user_data" / "flows" / "asking.flow.yaml").write_text(ASKING)
        with RunningHost(home, "embedded", environment) as host:
            host.put_pack("asker", one_component_pack("asker", ASKER, provides=("asker.ask",), requires=("teller.tell",)))
            files = one_component_pack("teller", TELLER, provides=("teller.tell", "teller.note"))
            asked = [{"type": "event.publish", "topics": ["teller.told"], "reason": "Tells."}]
            files["backend/permissions.json"] = json.dumps({"pack_id": "teller", "permissions": asked})
            host.put_pack("teller", files)
            host.approve("teller")
            host.approve("asker")

            status, envelope = host.request("POST", "/api/interfaces/asker.ask/call", {"args": {}}, HEADERS)
            assert status == 200, envelope
            told_asker, told_teller = envelope["data"]["result"]
            host.until(lambda: any(span["name"] == "teller.note" for span in receiver.spans()), 15, "the flow's span")
            spans = [span for span in receiver.spans() if span["traceId"] == TRACE]
            chain = ["POST /api/interfaces/{key}/call", "asker.ask", "teller.tell", "flow told", "step note", "teller.note"]
            parent = "b7ad6b7169203331"
            for name in chain:
                span = named(spans, name)
                assert span["parentSpanId"] == parent, name
                parent = span["spanId"]
            assert told_asker == f"00-{TRACE}-{named(spans, 'asker.ask')['spanId']}-01"
            assert told_teller == f"00-{TRACE}-{named(spans, 'teller.tell')['spanId']}-01"
            assert attributes(named(spans, "teller.tell"))["rumi.caller"] == "asker"

            status, envelope = host.request("POST", "/api/flows/asking/run", {"input": {}}, {"traceparent": HEADERS["traceparent"].replace("0af7", "1af7")})
            assert status == 200, envelope
            other = TRACE.replace("0af7", "1af7")
            host.until(lambda: [s for s in receiver.spans() if s["traceId"] == other and s["name"].startswith("POST")], 15, "the request's span")
            spans = [span for span in receiver.spans() if span["traceId"] == other]
            parent = "b7ad6b7169203331"
            for name in ("POST /api/flows/{id}/run", "flow asking", "step ask", "asker.ask", "teller.tell"):
                span = named(spans, name)
                assert span["parentSpanId"] == parent, name
                parent = span["spanId"]
            streamed(host, receiver, "/api/interfaces/asker.ask/call", {"args": {}}, "2af7", ["POST /api/interfaces/{key}/call", "asker.ask", "teller.tell"])
            streamed(host, receiver, "/api/flows/asking/run", {"input": {}}, "3af7", ["POST /api/flows/{id}/run", "flow asking", "step ask", "asker.ask"])
        path, headers, body = receiver.requests[0]
        assert (path, headers["Content-Type"]) == ("/v1/traces", "application/json")
        assert body["resourceSpans"][0]["resource"]["attributes"][0]["value"]["stringValue"] == "host under test"


def streamed(host: RunningHost, receiver: Receiver, path: str, body: dict, first: str, chain: list[str]) -> None:
    """An answer in events has a span of its own, which what was done for it stands below, and which lasts to its end."""
    trace = TRACE.replace("0af7", first)
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01", "Accept": "text/event-stream", "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=20)
    connection.request("POST", path, json.dumps(body), {**headers, "Host": f"localhost:{host.api_port}"})
    assert b"event: error" not in connection.getresponse().read()
    connection.close()
    host.until(lambda: any(s["traceId"] == trace and s["name"] == chain[0] for s in receiver.spans()), 15, "the request's span")
    spans = [span for span in receiver.spans() if span["traceId"] == trace]
    parent, ended = "b7ad6b7169203331", 2**64
    for name in chain:
        span = named(spans, name)
        assert span["parentSpanId"] == parent, name
        assert int(span["endTimeUnixNano"]) <= ended + 50_000_000, name  # two clocks
        parent, ended = span["spanId"], int(span["endTimeUnixNano"])
    assert named(spans, chain[0])["kind"] == 2


def test_a_receiver_that_is_not_there_hurts_no_call(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "20"}
    with RunningHost(tmp_path / "h", "embedded", environment) as host:
        host.put_pack("teller", one_component_pack("teller", "def run(context):\n    context['interface_registry'].register('t.k', lambda a: a)\n", provides=("t.k",)))
        host.approve("teller")
        for number in range(200):
            assert host.result("t.k", number) == number
        connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=20)
        connection.request("GET", "/metrics", headers={"Host": f"localhost:{host.api_port}"})
        assert b"rumi_spans_sent_total 0\n" in connection.getresponse().read()
        connection.close()
        host.until(lambda: [i for i in host.ok("GET", "/api/issues") if i["code"] == "traces_not_sent"], 10, "the issue")
    with RunningHost(tmp_path / "i", "embedded", {"OTEL_EXPORTER_OTLP_ENDPOINT": "not a url"}) as host:
        assert [i["code"] for i in host.ok("GET", "/api/issues") if i["subject"] == "traces"] == ["traces_unusable"]

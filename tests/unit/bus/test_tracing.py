"""Spans of calls on the bus, and a receiver that is slow, absent or full of errors."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.rules.otlp import TraceConfig
from core_runtime.rules.routing import SpanContext, span_of
from core_runtime.tracing import CURRENT, NOT_SENT, Tracer, entering, maybe, within
from tests.support.otlp_receiver import Receiver, attributes, named
from tests.support.raw_agent import CALL, PUBLISH, eventually, rig

TRACE = "0af7651916cd43dd8448eb211c80319c"
HEADER = f"00-{TRACE}-b7ad6b7169203331-01"


def made(url: str, diagnostics: Diagnostics | None = None, **options: Any) -> Tracer:
    config = TraceConfig(f"{url}/v1/traces", delay_s=0.02, **options)
    return Tracer(config, diagnostics or Diagnostics(), lambda text: text)


async def relayed(r: Any) -> tuple[Any, Any]:
    """The operator calls ``a.k``, which calls ``b.k`` on its behalf; the contexts that both were told."""
    a, _ = await r.agent("a", provides={"a.k"}, calls={"b.k"})
    b, _ = await r.agent("b", provides={"b.k"})
    await b.registered("b.k")
    await a.registered("a.k")
    await a.mirror("b.k")
    call = asyncio.ensure_future(r.bus.call("a.k"))
    first = await a.until(CALL)
    asked = a.call("b.k", parent=first[1])
    second = await b.until(CALL)
    b.result(second[1], 1)
    await a.answer(asked)
    a.result(first[1], 2)
    assert await call == 2
    return first[7], second[7]


def test_one_trace_over_packs_with_the_right_parents(tmp_path):
    async def main(receiver: Receiver):
        async with rig(tmp_path) as r:
            tracer = r.bus.router.calls.tracer = made(receiver.url)
            with entering(tracer, HEADER, "GET /x", rumi_interface="a.k"):
                told_a, told_b = await relayed(r)
            await asyncio.to_thread(tracer.close)
            spans = receiver.spans()
            assert {span["traceId"] for span in spans} == {TRACE}
            request, first, second = named(spans, "GET /x"), named(spans, "a.k"), named(spans, "b.k")
            assert request["parentSpanId"] == "b7ad6b7169203331"
            assert first["parentSpanId"] == request["spanId"]
            assert second["parentSpanId"] == first["spanId"]
            assert told_a[0] == f"00-{TRACE}-{first['spanId']}-01"
            assert told_b[0] == f"00-{TRACE}-{second['spanId']}-01"
            assert attributes(second) == {"rpc.system": "rumi", "rpc.method": "b.k", "rumi.caller": "a", "peer.service": "b"}
            assert int(first["startTimeUnixNano"]) <= int(second["startTimeUnixNano"]) <= int(second["endTimeUnixNano"])
            assert abs(int(first["endTimeUnixNano"]) / 1e9 - time.time()) < 60

    with Receiver() as receiver:
        asyncio.run(main(receiver))


def test_context_travels_without_a_tracer_too(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            with entering(None, HEADER, "GET /x"):
                told_a, told_b = await relayed(r)
            assert span_of(told_a[0]).trace_id == span_of(told_b[0]).trace_id == TRACE
            assert CURRENT.get() is None

    asyncio.run(main())


def test_what_is_not_sampled_is_not_recorded_and_says_so(tmp_path):
    async def main(receiver: Receiver):
        async with rig(tmp_path) as r:
            tracer = r.bus.router.calls.tracer = made(receiver.url)
            with entering(tracer, HEADER[:-1] + "0", "GET /x"):
                told_a, told_b = await relayed(r)
            assert not span_of(told_a[0]).sampled
            assert not span_of(told_b[0]).sampled
            await asyncio.to_thread(tracer.close)
            assert receiver.spans() == []

    with Receiver() as receiver:
        asyncio.run(main(receiver))


def test_a_sampler_that_does_not_follow(tmp_path):
    async def main(receiver: Receiver):
        tracer = made(receiver.url, ratio=1.0, follow_parent=False)
        with entering(tracer, HEADER[:-1] + "0", "GET /x"):
            assert CURRENT.get().sampled
        tracer.close()
        never = made(receiver.url, ratio=0.0)
        with maybe(never, "root"):
            assert not CURRENT.get().sampled
        never.close()
        assert [span["name"] for span in receiver.spans()] == ["GET /x"]

    with Receiver() as receiver:
        asyncio.run(main(receiver))


def test_an_event_knows_the_call_that_published_it(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, publish=("t",))
            await a.registered("k")
            heard: list[Any] = []
            r.events.subscribe_events("t", heard.append)
            with within(SpanContext(TRACE, 5)):
                call = asyncio.ensure_future(r.bus.call("k"))
                frame = await a.until(CALL)
                a.send(PUBLISH, 50, ["t", frame[1]], [], 1)
                a.send(PUBLISH, 51, ["t", 9_999], [], 2)
                a.send(PUBLISH, 52, "t", [], 3)
                await a.answer(52)
                a.result(frame[1], None)
                await call
            assert [event.data for event in heard] == [1, 2, 3]
            assert heard[0].attributes["traceparent"] == frame[7][0]
            assert [event.trace for event in heard[1:]] == [None, None]

    asyncio.run(main())


def test_errors_and_secrets(tmp_path):
    with Receiver() as receiver:
        tracer = Tracer(TraceConfig(f"{receiver.url}/v1/traces"), Diagnostics(), lambda text: text.replace("s3cret", "*"))
        with pytest.raises(ZeroDivisionError), maybe(tracer, "step s3cret", rumi_flow="s3cret"):
            _ = 1 / 0
        tracer.close()
        [span] = receiver.spans()
        assert span["status"] == {"code": 2, "message": "error/ZeroDivisionError"}
        assert "s3cret" not in str(receiver.requests)


def test_a_receiver_that_is_down_costs_nothing_and_is_sent_what_waited(tmp_path):
    async def main(receiver: Receiver):
        diagnostics = Diagnostics()
        receiver.status = 503
        tracer = made(receiver.url, diagnostics, queue=50, batch=10)
        for number in range(200):
            with maybe(tracer, f"n{number}"):
                pass
        await eventually(diagnostics.issues)
        assert diagnostics.issues()[0].code == NOT_SENT
        assert tracer.dropped == 150
        receiver.status = 200
        await eventually(lambda: tracer.sent == 50)
        assert [span["name"] for span in receiver.spans()] == [f"n{number}" for number in range(50)]
        await eventually(lambda: not diagnostics.issues())
        tracer.close()

    with Receiver() as receiver:
        asyncio.run(main(receiver))


def test_a_receiver_that_never_answers_holds_up_nobody():
    hung = threading.Event()

    def never(_config: TraceConfig, _body: bytes) -> str:
        hung.wait(30)
        return "late"

    tracer = Tracer(TraceConfig("http://x/v1/traces", delay_s=0.01, queue=10, batch=5), Diagnostics(), lambda text: text, never)
    for number in range(1_000):
        with maybe(tracer, f"n{number}"):
            pass
    assert tracer.dropped >= 980
    hung.set()
    tracer.close()

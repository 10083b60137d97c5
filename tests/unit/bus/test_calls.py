"""Calls over the bus, seen from the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend_core.errors import DeniedError, NotFoundError, PackError, PackTimeout
from core_runtime.bus.calls import CallContext, Failure
from core_runtime.rules.frames import BusLimits
from tests.support.raw_agent import CALL, CANCEL, CREDIT, END, ERROR, ITEM, RELEASE, RESULT, eventually, reference, rig


def run(coro: Any) -> Any:
    return asyncio.run(coro)


def test_the_host_calls_a_callable_of_a_pack(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            agent, session = await r.agent("a", provides={"service.hello"})
            await agent.registered("service.hello", 7)
            call = asyncio.ensure_future(r.bus.call("service.hello", {"name": "Bob"}, idempotency_key="k1"))
            kind, number, ref, deadline_ms, flags, depth, reenter, context, idem, refs, body = await agent.until(CALL)
            assert (kind, ref, flags, depth, reenter, idem, refs) == (CALL, 7, 0, 0, 0, "k1", [])
            assert 29_000 < deadline_ms <= 30_000
            assert body == {"name": "Bob"}
            trace, caller, chain, flow = context
            assert trace.startswith("00-")
            assert len(trace) == 55
            assert (caller, chain, flow) == ("", [], None)
            agent.result(number, {"message": "Hello, Bob!"})
            assert await call == {"message": "Hello, Bob!"}
            assert session.stats.calls == 1
            assert session.stats.errors == 0
            assert r.bus.router.edges["", "service.hello"].calls == 1

    run(main())


def test_a_registry_handle_is_an_async_callable(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            agent, _ = await r.agent("a", provides={"k"})
            await agent.registered("k", 3)
            handle = r.registry.get("k")
            call = asyncio.ensure_future(handle([1, 2], timeout_s=1))
            frame = await agent.until(CALL)
            assert frame[2] == 3
            assert frame[-1] == [1, 2]
            agent.result(frame[1], 3)
            assert await call == 3

    run(main())


def test_a_pack_calls_a_pack_and_the_host_says_who_it_is(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k", {"x": [1, {"y": None}]}, deadline_ms=500, idempotency="once")
            frame = await a.until(CALL)
            assert frame[7][1:] == ["b", [], None]
            assert frame[3] <= 500
            assert frame[8] == "once"
            assert frame[-1] == {"x": [1, {"y": None}]}
            a.result(frame[1], "done")
            assert (await b.answer(asked))[2:] == [0, [], "done"]
            assert r.bus.router.edges["b", "k"].calls == 1

    run(main())


def test_errors_keep_their_type_and_the_host_gets_a_typed_exception(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k")
            frame = await a.until(CALL)
            a.send(ERROR, frame[1], "error/ValueError", "no", "because", False, "Traceback …")
            assert (await b.answer(asked))[2:] == ["error/ValueError", "no", "because", False, "Traceback …"]
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            a.send(ERROR, frame[1], "error/ValueError", "no\x1b[2J", "because", False, "tb")
            with pytest.raises(PackError) as caught:
                await call
            assert caught.value.code == "error/ValueError"
            assert caught.value.pack_id == "a"
            assert "\x1b" not in str(caught.value)

    run(main())


@pytest.mark.parametrize(
    ("type_", "pack_id", "title", "hint"),
    [
        ("error/ValueError", "echo", "echo answered service.hello with error/ValueError", "`rumi logs echo`"),
        ("error/KeyError", "", "The host answered service.hello with error/KeyError", "`rumi issue list`"),
        ("timeout", "echo", "echo did not answer service.hello in time", "`rumi logs echo`"),
        ("schema", "echo", "The call of service.hello ended with schema", "`rumi interface show`"),
        ("limit", "echo", "The call of service.hello ended with limit", "`rumi logs echo`"),
        ("value.too_deep", "echo", "The call of service.hello ended with value.too_deep", "`rumi logs echo`"),
    ],
)
def test_who_did_not_answer_is_not_said_to_have_answered(type_, pack_id, title, hint):
    error = Failure(type_, "why").exception(pack_id, "service.hello")
    assert (error.title, error.code) == (title, type_)
    assert hint in error.hint
    assert "service.hello" not in error.hint, "a key may be anybody's text, and commands are copied"
    assert Failure(type_, "why", retryable=True).exception(pack_id, "service.hello").hint == "Try again in a moment."


def test_missing_denied_and_data(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            b, _ = await r.agent("b", calls={"known", "data"})
            r.registry.register("data", 5)
            r.registry.register("secret", lambda args, ctx: 1)
            with pytest.raises(NotFoundError) as caught:
                await r.bus.call("nothing")
            assert caught.value.code == "missing"
            assert (await b.answer(b.call("known")))[2] == "missing"
            assert (await b.answer(b.call("data")))[2] == "missing"
            assert (await b.answer(b.call("secret")))[2] == "denied"
            assert (await b.answer(b.call("unheard.of")))[2] == "denied"
            assert [d[:3] for d in r.denials] == [
                ("b", "interface.call", "secret"),
                ("b", "interface.call", "unheard.of"),
            ]

    run(main())


def test_a_revoked_edge_acts_on_the_next_call(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            mirror = await b.mirror("k", lambda m: m[3])
            asked = b.call("k")
            frame = await a.until(CALL)
            a.result(frame[1], 1)
            assert (await b.answer(asked))[0] == RESULT
            r.grants["b"].calls.clear()
            assert (await b.answer(b.call("k")))[2] == "denied"
            assert (await b.answer(b.call(mirror[4][0][1])))[2] == "denied"
            r.bus.rights_changed("b")
            assert (await b.mirror("k", lambda m: not m[3]))[3] == []

    run(main())


def test_acting_for_a_pack_needs_that_packs_edge(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            await r.agent("b", calls={"k"})
            r.registry.register("k", lambda args, ctx: ctx["caller"])
            r.registry.register("l", lambda args, ctx: ctx["caller"])
            assert await r.bus.call("k", caller="b") == "b"
            assert await r.bus.call("l", caller="kernel") == "kernel"
            for stranger in ("b", "unknown"):
                with pytest.raises(DeniedError):
                    await r.bus.call("l", caller=stranger)

    run(main())


def test_deadline_answers_the_caller_and_cancels_the_callee(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k")
            with pytest.raises(PackTimeout):
                await r.bus.call("k", timeout_s=0.05)
            frame = await a.until(CALL)
            assert (await a.until(CANCEL))[1] == frame[1]
            assert session.abandoned == 1
            a.result(frame[1], "late")
            await eventually(lambda: session.abandoned == 0)
            assert not session.incoming

    run(main())


def test_cancelling_the_caller_cancels_everything_it_called(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"ka"}, calls={"kb"})
            b, _ = await r.agent("b", provides={"kb"}, calls={"kc"})
            c, sc = await r.agent("c", provides={"kc"})
            await a.registered("ka")
            await b.registered("kb")
            await c.registered("kc")
            task = asyncio.ensure_future(r.bus.call("ka"))
            at_a = await a.until(CALL)
            asked_a = a.call("kb", parent=at_a[1])
            at_b = await b.until(CALL)
            asked_b = b.call("kc", parent=at_b[1])
            at_c = await c.until(CALL)
            assert at_c[5] == 2
            assert at_c[7][1:3] == ["b", ["", "a"]]
            assert at_c[7][0].split("-")[1] == at_a[7][0].split("-")[1], "one trace"
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for agent, frame in ((a, at_a), (b, at_b), (c, at_c)):
                assert (await agent.until(CANCEL))[1] == frame[1]
            assert (await a.answer(asked_a))[2] == "cancelled"
            assert (await b.answer(asked_b))[2] == "cancelled"
            c.result(at_c[1], None)
            await eventually(lambda: not sc.incoming)
            # a call that still names the cancelled one as its parent goes nowhere
            assert (await b.answer(b.call("kc", parent=at_b[1])))[2] == "cancelled"

    run(main())


def test_a_packs_cancel_is_answered_and_passed_on(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, sb = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k")
            frame = await a.until(CALL)
            b.send(CANCEL, asked)
            assert (await b.answer(asked))[2] == "cancelled"
            assert (await a.until(CANCEL))[1] == frame[1]
            assert not sb.outgoing
            assert sb.orphans == 0

    run(main())


def test_death_of_the_callee_fails_everything_at_once(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = [b.call("k") for _ in range(20)]
            host = asyncio.ensure_future(r.bus.call("k"))
            for _ in range(21):
                await a.until(CALL)
            await a.close()
            for number in asked:
                answer = await b.answer(number)
                assert answer[2] == "unavailable"
                assert answer[5] is True
            with pytest.raises(PackError) as caught:
                await host
            assert caught.value.code == "unavailable"
            assert caught.value.retryable
            assert await asyncio.wait_for(sa.closed, 1)
            assert r.registry.get("k") is None
            assert (await b.answer(b.call("k")))[2] == "missing"

    run(main())


def test_death_of_the_caller_cancels_what_it_called(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            b.call("k")
            frame = await a.until(CALL)
            await b.close()
            assert (await a.until(CANCEL))[1] == frame[1]
            a.result(frame[1], 0)
            await eventually(lambda: not sa.incoming)

    run(main())


def test_reentrance_names_the_callers_own_call(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"ka"}, calls={"kb"})
            b, _ = await r.agent("b", provides={"kb"}, calls={"ka"})
            await a.registered("ka")
            await b.registered("kb")
            host = asyncio.ensure_future(r.bus.call("ka", "outer"))
            outer = await a.until(CALL)
            asked = a.call("kb", parent=outer[1], id=777)
            at_b = await b.until(CALL)
            back = b.call("ka", parent=at_b[1])
            inner = await a.until(CALL)
            assert inner[6] == 777
            assert inner[5] == 2
            a.result(inner[1], "inner")
            b.result(at_b[1], (await b.answer(back))[4] + "+b")
            a.result(outer[1], (await a.answer(asked))[4] + "+a")
            assert await host == "inner+b+a"

    run(main())


def test_depth_is_limited_by_the_hosts_own_count(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(depth=3)) as r:
            a, _ = await r.agent("a", provides={"k"}, calls={"k"})
            await a.registered("k")
            asyncio.ensure_future(r.bus.call("k")).add_done_callback(lambda f: f.cancelled() or f.exception())
            asked = 0
            for depth in range(4):
                frame = await a.until(CALL)
                assert frame[5] == depth
                asked = a.call("k", parent=frame[1])
            assert (await a.answer(asked))[2] == "depth"

    run(main())


def test_a_childs_deadline_never_exceeds_its_parents(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"}, calls={"k"})
            await a.registered("k")
            call = asyncio.ensure_future(r.bus.call("k", timeout_s=2))
            outer = await a.until(CALL)
            asked = a.call("k", parent=outer[1], deadline_ms=60_000)
            inner = await a.until(CALL)
            assert inner[3] <= 2_000
            a.result(inner[1], 1)
            await a.answer(asked)
            a.result(outer[1], 2)
            assert await call == 2

    run(main())


def test_callables_nested_in_values_come_home_and_are_released(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k", {"cb": reference(0)}, refs=[[0, 42]])
            at_a = await a.until(CALL)
            space, number = at_a[9][0]
            assert space == 0
            assert number != 42
            # a calls back, and hands the callable back: it comes home under its owner's number
            back = a.call(number, "ping", parent=at_a[1])
            at_b = await b.until(CALL)
            assert at_b[2] == 42
            assert at_b[-1] == "ping"
            assert at_b[6] == asked
            b.result(at_b[1], "pong")
            assert (await a.answer(back))[4] == "pong"
            a.result(at_a[1], [reference(0)], refs=[[1, number]])
            assert (await b.answer(asked))[3] == [[1, 42]]
            a.send(RELEASE, 0, [number])
            assert (await b.until(RELEASE))[2] == [42]
            assert (await a.answer(a.call(number)))[2] == "dead_reference"

    run(main())


def test_host_values_carry_callables_both_ways(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, session = await r.agent("a", provides={"k"})
            await a.registered("k")

            async def progress(args, ctx):
                assert ctx["caller"] == "a"
                return args + 1

            call = asyncio.ensure_future(r.bus.call("k", {"progress": progress}))
            at_a = await a.until(CALL)
            [[space, number]] = at_a[9]
            assert space == 0
            asked = a.call(number, 41, parent=at_a[1])
            assert (await a.answer(asked))[4] == 42
            a.result(at_a[1], {"undo": reference(0)}, refs=[[0, 9]])
            undo = (await call)["undo"]
            again = asyncio.ensure_future(undo("now"))
            frame = await a.until(CALL)
            assert frame[2] == 9
            a.result(frame[1], None)
            await again
            del undo, again, call
            assert 9 in (await a.until(RELEASE))[2]
            assert session.alive is True if hasattr(session, "alive") else not session.dead

    run(main())


def test_a_third_pack_gets_no_borrowed_reference(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"ka"})
            b, _ = await r.agent("b", provides={"kb"}, calls={"ka"})
            c, _ = await r.agent("c", calls={"kb"})
            await a.registered("ka")
            await b.registered("kb")
            number = (await b.mirror("ka", lambda m: m[3]))[4][0][1]
            asked = c.call("kb")
            at_b = await b.until(CALL)
            b.result(at_b[1], reference(0), refs=[[1, number]])
            assert (await c.answer(asked))[2] == "dead_reference"

    run(main())


def test_a_stream_flows_within_its_credit_and_ends(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k")
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            assert (await b.answer(asked))[2] == 1
            for i in range(16):
                a.send(ITEM, frame[1], [], i)
            for i in range(16):
                assert (await b.until(ITEM))[1:] == [asked, [], i]
            b.send(CREDIT, asked, 2)
            assert (await a.until(CREDIT))[1:] == [frame[1], 2]
            a.send(ITEM, frame[1], [], 16)
            a.send(END, frame[1], ["error/Late", "t", "d", False, ""])
            await b.until(ITEM)
            assert (await b.until(END))[1:] == [asked, ["error/Late", "t", "d", False, ""]]
            await eventually(lambda: not sa.incoming)

    run(main())


def test_the_host_reads_a_stream_as_an_async_iterator(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            await a.registered("k")
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            stream = await call

            async def produce():
                room = 16
                for i in range(100):
                    while not room:
                        room += (await a.until(CREDIT))[2]
                    a.send(ITEM, frame[1], [], i)
                    room -= 1
                a.send(END, frame[1], None)

            producer = asyncio.ensure_future(produce())
            assert [item async for item in stream] == list(range(100))
            await producer
            # and one that is closed early
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            stream = await call
            a.send(ITEM, frame[1], [], "one")
            assert await anext(stream) == "one"
            await stream.aclose()
            assert (await a.until(CANCEL))[1] == frame[1]
            a.send(END, frame[1], None)
            await eventually(lambda: not sa.incoming)
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main())


def test_a_stream_whose_producer_dies_ends_with_unavailable(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            asked = b.call("k")
            host = asyncio.ensure_future(r.bus.call("k"))
            for _ in range(2):
                frame = await a.until(CALL)
                a.send(RESULT, frame[1], 1, [], None)
                a.send(ITEM, frame[1], [], "x")
            stream = await host
            await b.until(ITEM)
            await a.close()
            end = await b.until(END)
            assert end[1] == asked
            assert end[2][0] == "unavailable"
            assert await anext(stream) == "x"
            with pytest.raises(PackError):
                await anext(stream)

    run(main())


def test_host_functions_serve_packs_plain_async_and_streaming(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            b, _ = await r.agent("b", calls={"plain", "async", "stream", "bad"})

            async def double(args, ctx):
                return args * 2

            async def count(args, ctx):
                for i in range(args):
                    yield i

            def bad(args, ctx):
                raise ValueError("nope")

            r.registry.register("plain", lambda args, ctx: [args, ctx["caller"]])
            r.registry.register("async", double)
            r.registry.register("stream", count)
            r.registry.register("bad", bad)
            assert (await b.answer(b.call("plain", 1)))[4] == [1, "b"]
            assert (await b.answer(b.call("async", 2)))[4] == 4
            assert (await b.answer(b.call("bad")))[2:4] == ["error/ValueError", "nope"]
            asked = b.call("stream", 40)
            assert (await b.answer(asked))[2] == 1
            for i in range(40):
                assert (await b.until(ITEM))[3] == i
                if i % 8 == 7:
                    b.send(CREDIT, asked, 8)
            assert (await b.until(END))[2] is None

    run(main())


def test_schema_is_checked_both_ways_and_names_the_path(tmp_path):
    schemas = {
        "input": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
        "output": {"type": "string"},
    }

    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k", schemas=schemas)
            answer = await b.answer(b.call("k", {"n": "x"}))
            assert answer[2] == "schema"
            assert "$.n" in answer[4]
            answer = await b.answer(b.call("k", {"n": b"x"}))
            assert answer[2] == "schema"
            assert "bytes are no JSON value at $.n" in answer[4]
            assert "no text" in (await b.answer(b.call("k", {"n": 1, 5: 1})))[4]
            with pytest.raises(PackError) as caught:
                await r.bus.call("k", {})
            assert caught.value.code == "schema"
            asked = b.call("k", {"n": 1})
            frame = await a.until(CALL)
            assert frame[-1] == {"n": 1}
            a.result(frame[1], 5)
            assert (await b.answer(asked))[2] == "schema"
            mirror = await b.mirror("k", lambda m: m[3])
            assert mirror[3][0]["input"] == schemas["input"]

    run(main())


def test_each_item_of_a_stream_fits_the_schema_or_ends_it(tmp_path):
    schemas = {"input": None, "output": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}}

    async def main():
        async with rig(tmp_path) as r:
            a, sa = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k", schemas=schemas)
            # what opens the stream is no item
            asked = b.call("k")
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            assert (await b.answer(asked))[2] == 1
            a.send(ITEM, frame[1], [], {"n": 1})
            a.send(ITEM, frame[1], [[0, 7]], {"n": 2, "cb": reference(0)})
            a.send(ITEM, frame[1], [], {"n": "three"})
            a.send(ITEM, frame[1], [], {"n": 4})
            assert (await b.until(ITEM))[3] == {"n": 1}
            assert (await b.until(ITEM))[3]["n"] == 2
            kind, title, detail, _, _ = (await b.until(END))[2]
            assert (kind, title) == ("schema", "an item of the stream: not what the interface's schema describes")
            assert "$.n" in detail
            assert (await a.until(CANCEL))[1] == frame[1]
            a.send(END, frame[1], None)
            await eventually(lambda: not sa.incoming)
            # the host reads the same
            call = asyncio.ensure_future(r.bus.call("k"))
            frame = await a.until(CALL)
            a.send(RESULT, frame[1], 1, [], None)
            stream = await call
            a.send(ITEM, frame[1], [], {"n": 1})
            a.send(ITEM, frame[1], [], [])
            assert await anext(stream) == {"n": 1}
            with pytest.raises(PackError) as caught:
                await anext(stream)
            assert caught.value.code == "schema"
            assert (await a.until(CANCEL))[1] == frame[1]

    run(main())


def test_in_flight_limit_each_way(tmp_path):
    async def main():
        async with rig(tmp_path, limits=BusLimits(in_flight=6, orphans=3)) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, _ = await r.agent("b", calls={"k"})
            await a.registered("k")
            for _ in range(3):
                b.call("k")
            assert (await b.answer(b.call("k")))[2] == "limit"
            host = [asyncio.ensure_future(r.bus.call("k")) for _ in range(3)]
            for _ in range(6):
                await a.until(CALL)
            with pytest.raises(PackError) as caught:
                await r.bus.call("k")
            assert caught.value.code == "limit"
            assert caught.value.retryable
            for call in host:
                call.cancel()

    run(main())


def test_a_call_that_wants_no_answer_gets_none(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            b, sb = await r.agent("b", calls={"k"})
            await a.registered("k")
            b.call("k", 1, id=0)
            frame = await a.until(CALL)
            a.result(frame[1], 1)
            asked = b.call("k", 2)
            frame = await a.until(CALL)
            a.result(frame[1], 2)
            assert (await b.answer(asked))[4] == 2
            assert not b.frames
            assert not sb.outgoing
            assert sb.orphans == 0

    run(main())


def test_unencodable_arguments_name_their_path(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            with pytest.raises(PackError) as caught:
                await r.bus.call("k", {"a": [1, {2}]})
            assert caught.value.code == "value.unsupported"
            assert "$.a[1]" in caught.value.detail

    run(main())


def test_context_of_a_flow_travels(tmp_path):
    async def main():
        async with rig(tmp_path) as r:
            a, _ = await r.agent("a", provides={"k"})
            await a.registered("k")
            trace = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"
            context = CallContext(caller="kernel", flow="f1", traceparent=trace, chain=("x",))
            call = asyncio.ensure_future(r.bus.call("k", context=context))
            frame = await a.until(CALL)
            assert frame[7][0].split("-")[1] == "ab" * 16
            assert frame[7][1:] == ["kernel", ["x"], "f1"]
            a.result(frame[1], None)
            await call

    run(main())

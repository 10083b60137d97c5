from __future__ import annotations

import threading
import time
from datetime import UTC, date, datetime
from typing import Any

import msgpack
import pytest

from tests.support.fake_host import BusError, FakeHost, wait_until

HELLO = """
    def run(context):
        ir = context["interface_registry"]

        def hello_handler(args, ctx):
            return {"message": f"Hello, {args['name']}!"}

        ir.register("service.hello", hello_handler)
"""


def test_the_readmes_handler_answers(start, host: FakeHost) -> None:
    start(HELLO)
    assert host.call("service.hello", {"name": "Bob"}) == {"message": "Hello, Bob!"}


def test_values_come_and_go_unchanged(start, host: FakeHost) -> None:
    peer = start("def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)")
    value: dict[object, object] = {
        "a": [1, -5, 2**63, -(2**63), 1.5, True, None, "ü", b"\0\xff", {"b": {}}],
        7: "seven",
        "long": "y" * 70_000,
    }
    assert host.call("echo", value) == value
    stamp = msgpack.packb(datetime(2031, 5, 6, 7, 8, 9, 10, tzinfo=UTC), datetime=True)
    call = peer.start_call(host.entry("echo").refs[0][1], None, raw_body=stamp)
    assert msgpack.packb(call.frame()[4]) == stamp
    when = msgpack.ExtType(2, b"2031-05-06")
    assert host.call("echo", [when]) == [when]


def test_times_and_dates_are_python_objects_in_the_handler(start, host: FakeHost) -> None:
    start("""
        from datetime import date, datetime, timezone
        def kinds(args, ctx):
            assert args[0] == date(2031, 5, 6) and args[1].tzinfo is not None, args
            return [date(2032, 1, 1), datetime(2032, 1, 1, tzinfo=timezone.utc)]
        def run(c): c["interface_registry"].register("kinds", kinds)
    """)
    answer = host.call("kinds", [msgpack.ExtType(2, b"2031-05-06"), msgpack.Timestamp(1_900_000_000)])
    assert date.fromisoformat(answer[0].data.decode()) == date(2032, 1, 1)
    assert answer[1].to_datetime() == datetime(2032, 1, 1, tzinfo=UTC)


def test_handlers_may_take_fewer_parameters(start, host: FakeHost) -> None:
    start("""
        import functools
        class Service:
            def method(self, args, ctx): return ["method", args]
            def short(self, args): return ["short", args]
            def __call__(self, args, ctx): return ["object", args]
        def run(context):
            ir = context["interface_registry"]
            service = Service()
            ir.register("none", lambda: "none")
            ir.register("one", lambda args: ["one", args])
            ir.register("method", service.method)
            ir.register("short", service.short)
            ir.register("object", service)
            ir.register("partial", functools.partial(lambda extra, args, ctx: [extra, args], "extra"))
            ir.register("builtin", len)
            ir.register("many", lambda *rest: len(rest))
    """)
    assert host.call("none", 1) == "none"
    assert host.call("one", 1) == ["one", 1]
    assert host.call("method", 1) == ["method", 1]
    assert host.call("short", 1) == ["short", 1]
    assert host.call("object", 1) == ["object", 1]
    assert host.call("partial", 1) == ["extra", 1]
    assert host.call("builtin", [1, 2, 3]) == 3
    assert host.call("many", 1) == 2


def test_ctx_is_a_read_only_mapping(start, host: FakeHost) -> None:
    start("""
        from collections.abc import Mapping
        def look(args, ctx):
            assert isinstance(ctx, Mapping) and set(ctx) == set(ctx.keys()) and len(ctx) == 8, list(ctx)
            try:
                ctx["caller"] = "me"
            except TypeError:
                pass
            else:
                raise AssertionError("ctx was changed")
            assert ctx["cancelled"]() is False and ctx.cancelled() is False
            return {key: value for key, value in ctx.items() if key != "cancelled"}
        def run(context): context["interface_registry"].register("look", look)
    """)
    context = ["00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "beta", ["gamma"], "flow.x"]
    call = host.start_call("look", None, deadline_ms=5_000, idempotency="once", context=context)
    seen = call.result()
    assert 0 < seen.pop("deadline_s") <= 5
    assert seen == {
        "call_id": call.id, "caller": "beta", "asserted_chain": ["gamma"], "trace": context[0], "idempotency_key": "once",
        "flow": "flow.x",
    }  # fmt: skip


def test_an_exception_becomes_a_typed_error_with_the_packs_own_frames(start, host: FakeHost) -> None:
    start("""
        import json
        class Odd(Exception):
            type = "custom/odd.thing"
            retryable = True
        def inner(): raise Odd("x" * 5000)
        def odd(args, ctx): inner()
        def plain(args, ctx): json.loads("{")
        def ends(args, ctx): raise SystemExit(3)
        def unreadable(args, ctx):
            class Bad(Exception):
                def __str__(self): raise RuntimeError
            raise Bad
        def deep(args, ctx): return deep(args, ctx)
        def run(context):
            for fn in (odd, plain, ends, unreadable, deep):
                context["interface_registry"].register(fn.__name__, fn)
    """)
    with pytest.raises(BusError) as odd:
        host.call("odd")
    assert odd.value.type == "custom/odd.thing"
    assert odd.value.retryable is True
    assert len(odd.value.title) == 500
    assert len(odd.value.detail) == 2_000
    assert "in inner" in odd.value.trace
    assert "in odd" in odd.value.trace
    assert "inner()" in odd.value.trace
    with pytest.raises(BusError) as plain:
        host.call("plain")
    assert plain.value.type == "error/JSONDecodeError"
    assert "in plain" in plain.value.trace
    assert "json/decoder.py" not in plain.value.trace, "frames outside the Pack say nothing to its author"
    assert "container_agent" not in plain.value.trace
    for key, kind in (("ends", "SystemExit"), ("unreadable", "Bad"), ("deep", "RecursionError")):
        with pytest.raises(BusError) as caught:
            host.call(key)
        assert caught.value.type == f"error/{kind}"
        assert len(caught.value.trace) <= 8_000


@pytest.mark.parametrize(
    ("expression", "kind", "path"),
    [
        ("{'a': [1, {2, 3}]}", "value.unsupported", "$.a[1]"),
        ("{'a': [1, object()]}", "value.unsupported", "$.a[1]"),
        ("[0, 2**64]", "value.too_large", "$[1]"),
        ("[0, -2**63 - 1]", "value.too_large", "$[1]"),
        ("nested(65)", "value.too_deep", "$[0]"),
        ("cycle()", "value.unsupported", "$[0]"),
        ("'\\ud800'", "value.unsupported", "$"),
        ("'x' * (1024 * 1024)", "value.too_large", "$"),
        ("[__import__('datetime').datetime(2020, 1, 1)]", "value.unsupported", "$[0]"),
        ("{'f': print, 'bad': {1}}", "value.unsupported", "$.bad"),
        ("{object(): 1}", "value.unsupported", "$"),
    ],
)
def test_what_cannot_cross_is_refused_with_its_path(
    start, host: FakeHost, expression: str, kind: str, path: str
) -> None:
    start(f"""
        def nested(levels):
            value = 1
            for _ in range(levels): value = [value]
            return value
        def cycle():
            value = []
            value.append([value])
            return value
        def bad(args, ctx): return {expression}
        def good(args, ctx): return nested(64)
        def run(context):
            context["interface_registry"].register("bad", bad)
            context["interface_registry"].register("good", good)
    """)
    with pytest.raises(BusError) as caught:
        host.call("bad")
    assert caught.value.type == kind
    assert f"at {path}" in caught.value.detail or f"{path}," in caught.value.detail
    host.call("good")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xa2\xff\xfe", id="bad UTF-8"),
        pytest.param(b"\x92\x01", id="cut short"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\x01\x01", id="two values"),
        pytest.param(b"\xd4\x01\x00", id="a reference to nothing"),
        pytest.param(b"\x81\x90\x01", id="a list as a key"),
        pytest.param(b"\xd4\x05\x00", id="unknown extension"),
        pytest.param(b"\xda\x13\x88" + b"x" * 4_998 + b"\xff\xff", id="bad UTF-8 in a long body"),
    ],
)
def test_a_malformed_body_fails_its_call_only(start, host: FakeHost, body: bytes) -> None:
    peer = start("def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)")
    ref = host.entry("echo").refs[0][1]
    with pytest.raises(BusError) as caught:
        peer.start_call(ref, None, raw_body=body).result()
    assert caught.value.type == "value.malformed"
    assert host.call("echo", 1) == 1


def test_an_unknown_callable_is_a_dead_reference(start) -> None:
    peer = start("")
    with pytest.raises(BusError) as caught:
        peer.start_call(999, None).result()
    assert caught.value.type == "dead_reference"


def test_a_call_that_wants_no_answer_gets_none(start, host: FakeHost) -> None:
    peer = start("""
        seen = []
        def note(args, ctx):
            seen.append(args)
            if args == "bad": raise ValueError(args)
        def run(context):
            context["interface_registry"].register("note", note)
            context["interface_registry"].register("seen", lambda: list(seen))
    """)
    ref = host.entry("note").refs[0][1]
    before = len(peer.frames)
    peer.start_call(ref, "a", wanted=False)
    peer.start_call(ref, "bad", wanted=False)
    assert host.call("seen") == ["a", "bad"]
    assert all(frame[0] == 23 for frame in peer.frames[before:-1])
    peer.wait_for_log(lambda log: log[0] == 40 and "ValueError: bad" in log[2])


def test_two_hundred_slow_plain_handlers_at_once_keep_to_the_ceiling(start, host: FakeHost) -> None:
    peer = start(
        """
        import threading, time
        now = most = 0
        lock = threading.Lock()
        def slow(args, ctx):
            global now, most
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with lock:
                now -= 1
            return args
        def run(context):
            context["interface_registry"].register("slow", slow)
            context["interface_registry"].register("most", lambda: most)
        """,
        limits={"threads": 16},
    )
    calls = [host.start_call("slow", number) for number in range(200)]
    assert peer.ping()["calls"] > 0, "the connection is read while handlers sleep"
    assert [call.result() for call in calls] == list(range(200))
    assert 8 <= host.call("most") <= 17


def test_cancel_is_seen_by_a_running_handler_and_answered_once(start, host: FakeHost) -> None:
    peer = start("""
        import time
        def waits(args, ctx):
            print("entered", flush=True)
            while not ctx.cancelled():
                time.sleep(0.002)
            return "saw it"
        def run(context): context["interface_registry"].register("waits", waits)
    """)
    call = host.start_call("waits")
    peer.wait_for_log(lambda log: "entered" in log[2])
    call.cancel()
    assert call.frame()[0] in {2, 3}
    peer.ping()
    assert call.answers.empty()


def test_a_queued_call_is_cancelled_without_running(start, host: FakeHost) -> None:
    start(
        """
        import threading
        go = threading.Event()
        ran = []
        def blocks(args, ctx):
            ran.append(args)
            go.wait(20)
        def run(context):
            context["interface_registry"].register("blocks", blocks)
            context["interface_registry"].register("go", lambda: (go.set(), ran)[1])
        """,
        limits={"threads": 1},
    )
    first = [host.start_call("blocks", n) for n in range(2)]  # the shared slot, and the one of depth 0
    queued = host.start_call("blocks", "queued")
    queued.cancel()
    with pytest.raises(BusError) as caught:
        queued.result()
    assert caught.value.type == "cancelled"
    assert host.call("go", depth=1) == [0, 1]
    for call in first:
        call.result()


def test_limits_that_only_the_agent_sees_are_told_with_a_sign_of_life(start, host: FakeHost) -> None:
    peer = start("""
        import errno
        class Odd(OSError):
            errno = property(lambda self: 1 / 0)
        def opens(args, ctx):
            try:
                raise OSError(errno.EMFILE, "Too many open files")
            except OSError as error:
                raise RuntimeError("no connection") from error
        def odd(args, ctx): raise Odd()
        def answers(args, ctx): return "x" * (1 << 20)
        def run(c):
            for fn in (opens, odd, answers): c["interface_registry"].register(fn.__name__, fn)
    """)
    assert "refused" not in peer.ping()
    for key, kind in (("opens", "error/RuntimeError"), ("odd", "error/Odd"), ("answers", "value.too_large"), ("answers", "value.too_large")):
        with pytest.raises(BusError) as caught:
            host.call(key)
        assert caught.value.type == kind
    assert peer.ping()["refused"] == {"files": 1, "message": 2}


def test_too_many_calls_at_once_are_refused(start, host: FakeHost) -> None:
    start(
        """
        import threading
        go = threading.Event()
        def run(context):
            context["interface_registry"].register("blocks", lambda: go.wait(20))
            context["interface_registry"].register("go", lambda: go.set())
        """,
        limits={"threads": 1, "in_flight": 4},
    )
    calls = [host.start_call("blocks") for _ in range(8)]
    kinds = [calls[number].frame()[2] for number in (5, 6, 7)]
    assert kinds == ["limit", "limit", "limit"]


def test_a_flood_of_print_never_blocks_a_call(start, host: FakeHost) -> None:
    peer = start("""
        def flood(args, ctx):
            for _ in range(20_000):
                print("x" * 100)
            return "done"
        def run(context): context["interface_registry"].register("flood", flood)
    """)
    assert host.call("flood") == "done"
    text = sum(len(log[2]) for log in peer.logs)
    assert text < 1_500_000, "the rate is limited"
    assert all(len(log[2]) <= 8_000 for log in peer.logs)


def test_output_of_every_kind_arrives_with_its_level(start, host: FakeHost) -> None:
    peer = start("""
        import logging, os, subprocess, sys
        log = logging.getLogger("my.part")
        def speak(args, ctx):
            print("from print")
            print("from stderr", file=sys.stderr)
            os.write(1, b"from a descriptor\\n")
            subprocess.run(["/bin/echo", "from a child"])
            log.debug("not this")
            log.info("from logging %d", 7)
            log.error("an error", exc_info=ValueError("why"))
            logging.getLogger().warning("bad %d", "args")
        def run(context):
            logging.basicConfig(level=logging.INFO)
            context["interface_registry"].register("speak", speak)
    """)
    host.call("speak")
    wanted = [
        (20, "stdout", "from print"), (30, "stderr", "from stderr"), (20, "stdout", "from a descriptor"),
        (20, "stdout", "from a child"), (20, "log:my.part", "from logging 7"), (40, "log:my.part", "ValueError: why"),
        (30, "log:root", "could not be formatted"),
    ]  # fmt: skip
    for level, source, text in wanted:
        peer.wait_for_log(lambda log, want=(level, source, text): log[:2] == want[:2] and want[2] in log[2])
    assert not any("not this" in log[2] for log in peer.logs)


def test_a_result_that_explodes_while_it_is_encoded_fails_its_call_only(start, host: FakeHost) -> None:
    start("""
        class Odd(dict):
            def items(self): raise EOFError("odd")
        def run(context):
            context["interface_registry"].register("odd", lambda: Odd(a=1))
            context["interface_registry"].register("fine", lambda: 1)
    """)
    with pytest.raises(BusError) as caught:
        host.call("odd")
    assert caught.value.type == "error/EOFError"
    assert host.call("fine") == 1


def test_contextvars_of_one_call_are_unknown_to_the_next(start, host: FakeHost) -> None:
    start("""
        from contextvars import ContextVar
        var = ContextVar("var", default=None)
        def look(args, ctx):
            before = var.get()
            var.set(args)
            return before
        def run(context): context["interface_registry"].register("look", look)
    """)
    assert [host.call("look", n) for n in range(5)] == [None] * 5


def test_calls_during_a_long_phase_are_served(start, host: FakeHost) -> None:
    peer = start(
        """
        import threading
        go = threading.Event()
        def run(context):
            context["interface_registry"].register("go", lambda: go.set())
            print("registered", flush=True)
            assert go.wait(15)
        """,
        run=False,
    )
    outcomes: list[object] = []
    thread = threading.Thread(target=lambda: outcomes.append(peer.phase("one")))
    thread.start()
    peer.wait_for_log(lambda log: "registered" in log[2])
    wait_until(lambda: host.entries, "the registration")
    host.call("go")
    thread.join(15)
    assert outcomes[0]["ok"] is True  # type: ignore[index]


def test_answers_are_not_held_back_by_a_slow_neighbour(start, host: FakeHost) -> None:
    """A finished answer waits in the leader's buffer at most until the ticker takes the lead from the next handler."""
    start("""
        import time
        def run(context):
            context["interface_registry"].register("quick", lambda: "quick")
            context["interface_registry"].register("slow", lambda: time.sleep(3))
    """)
    for _ in range(20):
        began = time.monotonic()
        quick, _slow = host.start_call("quick"), host.start_call("slow")
        assert quick.result() == "quick"
        assert time.monotonic() - began < 2


BOMBS = {
    "maps": b"\xdd" + (900_000).to_bytes(4, "big") + b"\x80" * 900_000,
    "arrays in arrays": b"\xdd" + (300_000).to_bytes(4, "big") + b"\x92\x90\x90" * 300_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_body_that_would_decode_large_is_refused_before_it_does(start, host: FakeHost, bomb: str) -> None:
    """What another Pack sends is bounded as the host bounds what it decodes: 131,072 values where most are containers."""
    peer = start("def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)")
    number = host.entry("echo").refs[0][1]
    with pytest.raises(BusError) as caught:
        peer.start_call(number, None, raw_body=BOMBS[bomb]).result()
    assert caught.value.type == "value.too_large"
    assert host.call("echo", 1) == 1


@pytest.mark.parametrize(
    "value",
    ["日本語の長い文章。" * 30_000, ["日本語" * 20] * 3_000, list(range(200_000)), [{"a": []}] * 20_000, [[]] * 131_000],
    ids=["one text", "texts", "numbers", "small maps", "just enough"],
)
def test_large_values_that_are_no_bombs_pass(start, host: FakeHost, value: Any) -> None:
    start("def run(c): c['interface_registry'].register('size', lambda args, ctx: len(args))")
    assert host.call("size", value) == len(value)

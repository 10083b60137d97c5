"""The short way of the usual call and the general way: whatever happens, they do and leave the same.

One story is told twice, once with the short way closed. Both times every frame that an agent gets, what the host's own
callers get, what is traced, how often a right is asked for, the counts and the tables are the same.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast
from unittest import mock

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend_core.errors import RumiError
from core_runtime.bus.calls import CallContext
from core_runtime.bus.usual import Usual
from core_runtime.drivers.busy_poll import AFTER_ANSWER, AFTER_CALL, BusyPoll
from core_runtime.rules.frames import BusLimits
from core_runtime.tracing import Tracer
from tests.support.raw_agent import CALL, CANCEL, ERROR, RESULT, Grant, RawAgent, Rig, eventually, reference, rig


class Long(NamedTuple):
    """A text of so many characters, which no report of a failure spells."""

    chars: int


def spelled(value: Any) -> Any:
    return {"long": "z" * value.chars} if isinstance(value, Long) else value


VALUES = st.sampled_from(
    [
        {"text": "x" * 80}, {}, {"n": 1, "f": 0.5, "b": b"\x00", "none": None, "yes": True}, {"deep": [[1], {"a": 2}]},
        None, 7, "text", [1, 2], {"n": 2**64 - 1}, Long(3_000), Long(40_000), {1: 2}, b"x" * 10,
    ]
)  # fmt: skip
NESTED: list[Any] = []
for _ in range(80):
    NESTED = [NESTED]
ANSWERS = st.one_of(
    VALUES.map(lambda value: ("value", value)),
    st.sampled_from(
        [("error", None), ("reference", None), ("stream", None), ("stored", None), ("cut", None), ("deep", NESTED)]
    ),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("host"), VALUES, st.sampled_from(["", "", "soon", "kernel", "flow", "once", "ahead"])),
        st.tuples(st.just("pack"), VALUES, st.sampled_from(["", "", "", "silent", "again", "soon", "refs", "source"])),
        st.tuples(st.just("nested"), VALUES, st.integers(0, 3)),
        st.tuples(st.just("answer"), ANSWERS, st.integers(0, 3)),
        st.tuples(st.just("answer"), ANSWERS, st.integers(0, 3)),
        st.tuples(st.just("cancel"), st.none(), st.integers(0, 3)),
        st.tuples(st.just("own"), VALUES, st.integers(0, 3)),
        st.tuples(st.just("again"), VALUES, st.integers(0, 3)),
        st.sampled_from([(what, None, None) for what in ("drain", "revoke", "hold", "go on", "trace", "end a", "end c")]),
    ),
    max_size=14,
)  # fmt: skip
LONGEST = Long(65_500)
"""No longer than a frame by itself."""
LIMITS = st.sampled_from(
    [
        BusLimits(in_flight=6, orphans=4, depth=2, in_flight_bytes=100_000, frame_bytes=64 * 1024),
        BusLimits(in_flight=40, orphans=1, depth=3, frame_bytes=64 * 1024),
    ]
)


def closed() -> Any:
    """The short way, closed."""
    return mock.patch.multiple(Usual, begin=lambda *_: None, forward=lambda *_: False, end=lambda *_: False)


@dataclass
class Counted(Grant):
    """Rights, and how often each was asked for in a way that spends it."""

    spent: Counter[str] = field(default_factory=Counter)

    def may_call(self, key: str) -> bool:
        self.spent[key] += 1
        return super().may_call(key)


class Records:
    """A tracer that keeps what it is told."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def samples(self, _trace_id: str) -> bool:
        return True

    def call(self, call: Any, _now: float, failure: str) -> None:
        self.calls.append((call.key, call.caller_name, call.caller_id > 0, call.depth, call.done, failure))


class Story:
    """One telling."""

    def __init__(self, r: Rig, a: RawAgent, c: RawAgent) -> None:
        self.rig, self.agents = r, (a, c)
        self.seen: list[Any] = []
        self.open: list[tuple[RawAgent, int]] = []
        self.made: list[int] = []
        self.hosts: list[asyncio.Task[Any]] = []
        self.given: Counter[str] = Counter()
        self.hold: Any = None
        self.traced = Records()
        self.polls: Counter[int] = Counter()

    async def settle(self) -> bool:
        """Until the host has read what was sent, and what it sent is here. False: the story is over."""
        told: list[str] = []
        bus = self.rig.bus
        for again in (False, True):
            for agent in self.agents:
                with suppress(ConnectionError):  # an answer that ends the connection ends the story
                    number = agent.call("nobody.has.it")
                    assert (await agent.answer(number))[2] == "denied"
                self.open += [(agent, frame[1]) for frame in agent.frames if frame[0] == CALL]
                told += [repr((self.agents.index(agent), self.plain(frame))) for frame in agent.frames]
                agent.frames.clear()
            ended = sum(agent.closed for agent in self.agents)
            if again or not ended:
                break
            await eventually(lambda: len(bus.router.sessions) == len(self.agents) - ended)  # noqa: B023
            await eventually(lambda: bus._pushes.told)  # who is left is told
        self.seen += [*sorted(told), ended]  # sorted: what is called off together is in no order
        return not ended

    def plain(self, frame: list[Any]) -> Any:
        """A frame without what chance and clock put in it."""
        if frame[0] != CALL:
            return frame
        kind, number, target, deadline, flags, depth, reenter, (trace, *above), *rest = frame
        return [kind, number, target, deadline > 0, flags, depth, reenter, trace[:3] + trace[-3:], above, rest]

    async def act(self, what: str, value: Any, how: Any) -> None:  # noqa: PLR0912  one for each word of a story
        a, c = self.agents
        value = spelled(value)
        if what == "host":
            given: dict[str, Any] = {
                "soon": {"timeout_s": 9.0}, "kernel": {"caller": "kernel"}, "once": {"idempotency_key": "once"},
                "flow": {"context": CallContext("kernel", ("x", "y"), "a.flow")}, "ahead": {"ahead": 2},
            }.get(how, {})  # fmt: skip
            call = self.rig.bus.call("k", value, **given)
            self.hosts.append(asyncio.ensure_future(call))
            await asyncio.sleep(0)
        elif what == "pack":
            options: dict[str, Any] = {
                "silent": {"id": 0}, "again": {"idempotency": "once"}, "soon": {"deadline_ms": 20_000},
                "refs": {"refs": [[0, 5]]}, "source": {"refs": [[2, 6]]},
            }.get(how, {})  # fmt: skip
            self.made.append(c.call("k", reference(0) if "refs" in options else value, **options))
        elif what == "nested":
            ours = [number for agent, number in self.open if agent is a]
            a.call("m", value, parent=ours[how % len(ours)] if ours else 0)
        elif what == "own":
            ours = [number for agent, number in self.open if agent is a]
            a.call("k", value, parent=ours[how % len(ours)] if ours and how else 0)
        elif what == "again":
            c.call("k", value, id=self.made[how % len(self.made)] if self.made else None)
        elif what == "drain":
            self.rig.bus.sessions["a"].draining = True
        elif what == "revoke":
            self.rig.grants["c"].calls.discard("k")
        elif what == "hold":
            self.hold = self.hold or self.rig.bus.router.holds.begin("a", asyncio.get_running_loop())
        elif what == "go on":
            if self.hold is not None:
                self.rig.bus.router.holds.end(self.hold)
                self.hold = None
        elif what == "trace":
            self.rig.bus.router.calls.tracer = cast("Tracer", self.traced)
        elif what in {"end a", "end c"}:
            self.rig.bus.sessions[what[-1]].abort("killed")
        elif what == "cancel":
            if self.made:
                c.send(CANCEL, self.made[how % len(self.made)])
        elif self.open:
            agent, number = self.open.pop(how % len(self.open))
            kind, value = value
            self.given[kind] += 1
            self.answer(agent, number, kind, spelled(value))

    def answer(self, agent: RawAgent, number: int, kind: str, value: Any) -> None:
        if kind == "error":
            agent.send(ERROR, number, "error/Bad", "title", "detail", False, "")
        elif kind == "reference":
            agent.send(RESULT, number, 0, [[0, 9]], reference(0))
        elif kind == "stream":
            agent.send(RESULT, number, 1, [], None)
        elif kind == "stored":
            agent.send(RESULT, number, 0, [], msgpack.ExtType(3, b"\x01\0\0\0\x10\0\0\0"))
        elif kind == "cut":
            agent.send(RESULT, number, 0, [], msgpack.ExtType(1, b"\x05"))  # a reference to none
        else:
            agent.result(number, value)

    def left(self) -> Any:
        """Counts and tables."""
        router = self.rig.bus.router
        edges = {
            edge: (stats.calls, stats.errors, stats.failures) for edge, stats in sorted(router.edges.items())
        }  # fmt: skip
        tables = [
            {
                "incoming": {n: self.known(call) for n, call in s.incoming.items()},
                "outgoing": {n: self.known(call) for n, call in s.outgoing.items()},
                "orphans": s.orphans, "abandoned": s.abandoned, "made": s.made, "calls": s.stats.calls,
                "errors": s.stats.errors, "left": s.places._left, "bytes": s.places._bytes_left, "by": s.places._by,
                "strays": s.handlers.strays, "held": len(s.references.held), "own": dict(s.references._own),
            }
            for _, s in sorted(self.rig.bus.sessions.items())
        ]  # fmt: skip
        spent = {name: cast("Counted", grant).spent for name, grant in self.rig.grants.items()}
        return edges, tables, len(router.calls.local), spent, sorted(self.traced.calls)

    @staticmethod
    def known(call: Any) -> Any:
        return (
            call.key, call.number, call.caller_id, call.caller_name, call.depth, call.chain, call.flow, call.size_bytes,
            call.streaming, call.abandoned, call.done, call.sampled, len(call.children or ()), call.parent is not None,
            round(call.budget_s) if call.parent is None else None, call.span > 0, len(call.trace_id),
        )  # fmt: skip

    async def outcomes(self) -> list[Any]:
        """What the host's callers got by now."""
        found: list[Any] = []
        for task in self.hosts:
            if not task.done():
                found.append("waits")
            else:
                error = task.exception()
                stream = error is None and hasattr(task.result(), "__anext__")
                found.append(
                    (error.code, error.title) if isinstance(error, RumiError)
                    else error or ("stream" if stream else repr(task.result())[:100])
                )  # fmt: skip
        return found


async def told(steps: list[Any], limits: BusLimits | None = None) -> tuple[Any, ...]:
    with tempfile.TemporaryDirectory() as folder:
        async with rig(folder, limits=limits) as r:
            a, _ = await r.agent("a", provides={"k"}, calls={"m"})
            c, _ = await r.agent("c", provides={"m"}, calls={"k"})
            r.grants.update(a=Counted({"m"}, {"k"}), c=Counted({"k"}, {"m"}))
            await a.registered("k", 1)
            await c.registered("m", 2)
            story = Story(r, a, c)
            with mock.patch.object(BusyPoll, "sent", lambda _poll, what, _loop: story.polls.update([what])):
                for step in steps:
                    await story.act(*step)
                    if not await story.settle():
                        break
            found = (story.seen, await story.outcomes(), story.left(), story.polls)
            for task in story.hosts:
                task.cancel()
            await asyncio.gather(*story.hosts, return_exceptions=True)
            return found


@given(STEPS, LIMITS)
@example([("host", LONGEST, "")], BusLimits(frame_bytes=64 * 1024))
@example([("pack", LONGEST, "")], BusLimits(frame_bytes=64 * 1024))
@example([("pack", 1, "source"), ("answer", ("value", 1), 0)], BusLimits())
@example([("pack", 1, ""), ("drain", None, None), ("answer", ("value", 1), 0), ("pack", 1, "")], BusLimits())
@example([("pack", 1, "")] * 2, BusLimits(orphans=1))
@settings(max_examples=250, deadline=None)
def test_both_ways_do_and_leave_the_same(steps, limits):
    short = asyncio.run(told(steps, limits))
    with closed():
        general = asyncio.run(told(steps, limits))
    assert short[:-1] == general[:-1], "but for how many writes it took"


@pytest.mark.parametrize("way", [nullcontext, closed])
def test_after_a_call_and_after_an_answer_to_a_pack_the_loop_is_told_to_look(way):
    steps: list[Any] = [("host", 1, ""), ("pack", 1, ""), ("answer", ("value", 1), 1), ("answer", ("value", 1), 0)]
    with way():
        *_, polls = asyncio.run(told(steps))
    assert polls == {AFTER_CALL: 2, AFTER_ANSWER: 1}


def test_the_short_way_is_taken_by_what_is_usual_and_nothing_else():
    taken: Counter[str] = Counter()

    def counting(name: str) -> Any:
        real = getattr(Usual, name)

        def wrapped(*args: Any) -> Any:
            found = real(*args)
            taken[name] += bool(found)
            return found

        return mock.patch.object(Usual, name, wrapped)

    with counting("begin"), counting("forward"), counting("end"):
        for how in ("", "soon", "kernel", "flow", "once"):
            asyncio.run(told([("host", {"a": 1}, how), ("answer", ("value", {"b": 2}), 0)]))
            assert taken == Counter(begin=1, end=1), how
            taken.clear()
        asyncio.run(
            told([("pack", {"a": 1}, ""), ("nested", {"a": 1}, 0), ("answer", ("value", 1), 1), ("answer", ("value", 2), 0)])
        )
        assert taken == Counter(forward=2, end=2)
        taken.clear()
        unusual = [("host", {"a": 1}, "ahead"), ("host", [1], ""), ("pack", 1, "again"), ("pack", 1, "silent")]
        asyncio.run(told([*unusual, *[("answer", ("error", None), 0)] * 4]))
        assert taken == Counter()

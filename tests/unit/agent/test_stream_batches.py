"""Items of a quick producer go together: when, how many, in which order, and that none is held back for long."""

from __future__ import annotations

import threading
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent_module import load_agent
from tests.support.fake_host import FakeHost

AGENT: Any = load_agent()
ITEM, BATCH = 5, 9
MOST = 200
SLOW_S = AGENT.QUICK_S * 1.01


class Wire:
    """A connection that keeps what is sent; while ``stuck`` is not set it keeps its sender."""

    def __init__(self) -> None:
        self.fd = -1
        self.lock = threading.Lock()
        self.sent: list[list[Any]] = []
        self.stuck = threading.Event()
        self.stuck.set()
        self.entered = threading.Event()

    def send(self, data: bytes) -> None:
        self.entered.set()
        assert self.stuck.wait(10)
        while data:
            size = int.from_bytes(data[:4], "little")
            self.sent.append(msgpack.unpackb(data[4 : 4 + size], strict_map_key=False))
            data = data[4 + size :]

    def items(self) -> list[Any]:
        found = []
        for kind, _number, refs, body in (frame for frame in self.sent if frame[0] in {ITEM, BATCH}):
            assert refs == []
            found += body if kind == BATCH else [body]
        return found

    def kinds(self) -> list[int]:
        return [frame[0] for frame in self.sent]


class Producer:
    """One stream of an agent that sends nowhere, with a clock of its own."""

    def __init__(self, codec: Any = None) -> None:
        self.wire = Wire()
        self.agent = AGENT.Agent(self.wire, codec or AGENT.PureCodec())
        self.agent.batch_bytes = MOST
        self.clock = 100.0
        AGENT.monotonic = lambda: self.clock
        self.run = AGENT.Run(self.agent, 7, None, None)
        self.batch = AGENT.Batch(self.run)
        self.made: list[Any] = []

    def make(self, item: Any, seconds: float = 1e-6) -> bool:
        """As ``Run.streamed`` does with each item; whether it was kept."""
        self.clock += seconds
        self.made.append(item)
        kept: bool = self.batch.take(item)
        if not kept:
            self.agent.send(self.run.item_frame(item))
            self.batch.go_on()
        return kept

    def quick(self) -> None:
        """Until its items go together."""
        for number in range(AGENT.QUICK_ITEMS):
            assert not self.make(number)


def test_who_takes_his_time_has_each_item_sent_at_once() -> None:
    producer = Producer()
    for number in range(100):
        assert not producer.make(number, SLOW_S)
        assert len(producer.wire.sent) == number + 1
    assert set(producer.wire.kinds()) == {ITEM}
    assert not producer.agent.holding


def test_the_first_items_go_at_once_however_quick_they_are() -> None:
    producer = Producer()
    producer.quick()
    assert producer.wire.kinds() == [ITEM] * AGENT.QUICK_ITEMS
    assert producer.make("next")
    assert len(producer.wire.sent) == AGENT.QUICK_ITEMS
    assert list(producer.agent.holding) == [producer.batch]


def test_what_is_held_goes_in_one_frame_and_one_alone_as_an_item() -> None:
    producer = Producer()
    producer.quick()
    for item in ("a", {"b": [1]}, b"c"):
        assert producer.make(item)
    producer.agent.flush_held()
    assert producer.wire.sent[-1] == [BATCH, 7, [], ["a", {"b": [1]}, b"c"]]
    assert producer.make("alone")
    producer.batch.flush()
    assert producer.wire.sent[-1] == [ITEM, 7, [], "alone"]
    assert not producer.agent.holding
    before = len(producer.wire.sent)
    producer.batch.flush()
    assert len(producer.wire.sent) == before


def test_one_that_took_a_moment_is_not_held_and_what_was_is_before_it() -> None:
    producer = Producer()
    producer.quick()
    assert producer.make("held")
    assert not producer.make("slow", SLOW_S)
    assert producer.wire.sent[-2:] == [[ITEM, 7, [], "held"], [ITEM, 7, [], "slow"]]


@pytest.mark.parametrize("item", ["x" * (MOST + 1), b"x" * (MOST + 1), ["x" * MOST], {"deep": [[]] * MOST}], ids=["text", "bytes", "list", "map"])
def test_a_long_one_goes_by_itself_behind_what_was_held(item: Any) -> None:
    producer = Producer()
    producer.quick()
    assert producer.make("held")
    assert not producer.make(item)
    assert producer.wire.sent[-2:] == [[ITEM, 7, [], "held"], [ITEM, 7, [], item]]
    assert not producer.make("after"), "it is packed twice at most every ninth time"


def test_one_that_refers_to_something_goes_by_itself() -> None:
    producer = Producer()
    producer.quick()
    assert producer.make("held")
    assert not producer.make({"fn": print})
    kind, _, refs, body = producer.wire.sent[-1]
    assert (kind, refs, body["fn"].code) == (ITEM, [[0, 1]], 1)
    assert producer.wire.sent[-2] == [ITEM, 7, [], "held"]


@pytest.mark.parametrize("item", [{1, 2}, 2**64, object], ids=["set", "integer", "class"])
def test_one_that_is_refused_is_refused_as_ever(item: Any) -> None:
    producer = Producer()
    producer.quick()
    producer.make("held")
    deep: Any = []
    for _ in range(70):
        deep = [deep]
    for bad in (item, deep) if item is not object else (deep,):
        with pytest.raises(AGENT.Refusal):
            producer.make(bad)
    assert producer.wire.items()[-1] == "held"


def test_a_host_that_takes_no_batches_is_sent_none() -> None:
    producer = Producer()
    producer.batch.most = 0
    for number in range(100):
        assert not producer.make(number)
    assert producer.wire.sent == [[ITEM, 7, [], number] for number in range(100)]


def test_the_time_that_writing_takes_is_not_the_producers() -> None:
    producer = Producer()
    for number in range(AGENT.QUICK_ITEMS):
        assert not producer.make(number)
        producer.clock += 1.0
        producer.batch.go_on()
    assert producer.make("quick all the same")


def test_what_is_held_goes_before_its_thread_or_its_loop_waits() -> None:
    producer = Producer()
    producer.quick()
    producer.make("before a wait")
    gate = producer.agent.make_gate()
    gate.open = True
    assert producer.agent.wait(gate, None)
    assert producer.wire.items() == producer.made
    producer.make("before a turn of the loop ends")
    mode = AGENT.LoopMode(producer.agent)
    mode.select_without_lead = lambda _timeout: []
    assert mode.select(0) == []
    assert producer.wire.items() == producer.made


def test_a_ticker_that_sleeps_is_woken() -> None:
    producer = Producer()
    producer.agent.ticker_asleep = True
    producer.quick()
    assert producer.agent.ticker_asleep
    producer.make("held")
    assert not producer.agent.ticker_asleep
    assert producer.agent.ticker_lock.acquire(False), "it was released"


def test_nothing_overtakes_what_another_thread_is_sending() -> None:
    producer = Producer()
    producer.quick()
    producer.make("first")
    producer.wire.entered.clear()
    producer.wire.stuck.clear()
    other = threading.Thread(target=producer.agent.flush_held)
    other.start()
    assert producer.wire.entered.wait(10)
    producer.agent.flush_held()  # the ticker: it leaves it to whoever is at it
    assert producer.make("second")
    last = threading.Thread(target=producer.make, args=("third", SLOW_S))
    last.start()
    last.join(0.05)
    assert last.is_alive(), "it waits for what is before it"
    producer.wire.stuck.set()
    other.join(10)
    last.join(10)
    assert producer.wire.items() == producer.made


def test_a_wake_without_credit_sends_nothing() -> None:
    """Credit is counted before its producer is woken: what was spent in between is not there when it wakes."""
    producer = Producer()
    producer.agent.stream_credit = 20
    seen: list[int] = []

    def wait(_gate: Any, _until: Any) -> bool:
        seen.append(len(producer.wire.items()))
        if len(seen) % 3 == 0:
            producer.run.granted += 20
        return True

    producer.agent.wait = wait
    producer.agent.send(producer.run.streamed(iter(range(50))))
    assert seen == [20, 20, 20, 40, 40, 40]
    assert producer.wire.sent[-1] == [6, 7, None]


steps = st.lists(
    st.tuples(
        st.sampled_from([1e-6, 1e-6, 1e-6, SLOW_S]),
        st.one_of(
            st.integers(-5, 300), st.text(max_size=MOST * 2), st.binary(max_size=MOST * 2), st.none(),
            st.lists(st.integers(0, 9), max_size=MOST * 2), st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False), max_size=4),
        ),
        st.sampled_from(["", "", "", "", "ticker", "wait"]),
    ),
    max_size=120,
)  # fmt: skip


@given(steps)
def test_every_item_goes_once_in_order_and_no_batch_is_too_long(told: list[tuple[float, Any, str]]) -> None:
    producer = Producer(codec=CODEC)
    for seconds, item, then in told:
        producer.make(item, seconds)
        if then == "ticker":
            producer.agent.flush_held()
            assert producer.wire.items() == producer.made
        elif then == "wait":
            producer.batch.flush()
            producer.batch.go_on()
    producer.batch.flush()
    assert producer.wire.items() == producer.made
    assert not producer.agent.holding
    for kind, _, _, body in producer.wire.sent:
        if kind == BATCH:
            assert 2 <= len(body) <= AGENT.BATCH_ITEMS
            assert len(msgpack.packb(body)) <= MOST + 3


CODEC = AGENT.FastCodec(msgpack._cmsgpack)  # type: ignore[attr-defined]


# --- reading ------------------------------------------------------------------------------------------------


class Reader:
    """A stream whose items come from here; ``credit`` is what its consumer granted."""

    stream_credit = 16
    frame = staticmethod(lambda *_: None)

    def __init__(self) -> None:
        self.agent = AGENT.Agent(Wire(), CODEC)
        self.pending = self.agent.open_pending(None)
        self.stream = self.pending.stream = AGENT.StreamState(self.agent, self.pending.id)

    def arrive(self, kind: int, body: Any) -> None:
        """As the agent reads a frame: short ones are decoded at once."""
        data = msgpack.packb([kind, self.pending.id, [], body])
        self.agent.dispatch(self.agent.parse(memoryview(data)))

    def credit(self) -> int:
        return sum(frame[2] for frame in self.agent.link.sent if frame[0] == AGENT.STREAM_CREDIT)


@given(st.lists(st.one_of(st.integers(), st.lists(st.text(max_size=900), min_size=1, max_size=12)), max_size=30))
def test_a_reader_has_the_items_of_batches_in_order_and_grants_each(told: list[Any]) -> None:
    reader = Reader()
    expected: list[Any] = []
    told = [each if type(each) is list else each % 2**32 for each in told]
    for each in told:
        reader.arrive(BATCH if type(each) is list else ITEM, each)
        expected += each if type(each) is list else [each]
    assert [reader.stream.pop() for _ in expected] == expected
    assert not reader.stream.items
    if not reader.stream.total or reader.stream.window == reader.agent.stream_credit // 2:  # it did not widen
        assert len(expected) - reader.stream.window < reader.credit() <= len(expected)


@pytest.mark.parametrize("rest", ["", "x" * 5_000], ids=["short", "long"])
def test_a_batch_with_a_malformed_item_is_gone_with_its_credit(rest: str) -> None:
    reader = Reader()
    reader.arrive(BATCH, ["a", msgpack.ExtType(9, b""), rest])
    reader.arrive(ITEM, "next")
    with pytest.raises(AGENT.ValueRefused, match="could not be decoded"):
        reader.stream.pop()
    assert reader.stream.pop() == "next"
    assert reader.stream.taken == 4


@pytest.mark.parametrize("body", [[], {}, 7, "items", None, "x" * 5_000], ids=repr)
def test_a_batch_that_is_none_ends_the_connection(body: Any) -> None:
    reader = Reader()
    with pytest.raises(AGENT.ProtocolError):
        reader.arrive(BATCH, body)


# --- a whole agent -----------------------------------------------------------------------------------------

LIMITS = {"stream_credit": 64, "batch_bytes": 4_096}
PRODUCERS = """
    import asyncio, threading
    go = threading.Event()
    def plain(args, ctx):
        for number in range(args):
            yield {"n": number}
    async def asynchronous(args, ctx):
        for number in range(args):
            yield {"n": number}
    async def gives_iterator(args, ctx):
        return plain(args, ctx)
    def stops(args, ctx):
        for number in range(args):
            yield {"n": number}
        go.wait(20)
        yield "end"
    async def stops_the_loop(args, ctx):
        for number in range(args):
            yield {"n": number}
        go.wait(20)
        yield "end"
    async def waits(args, ctx):
        for number in range(args):
            yield {"n": number}
        while not go.is_set():
            await asyncio.sleep(0.001)
        yield "end"
    def run(context):
        ir = context["interface_registry"]
        def asks(args, ctx):
            for number in range(args):
                yield {"n": number}
            ir.get("beta.gate")(None)
            yield "end"
        for fn in (plain, asynchronous, gives_iterator, stops, stops_the_loop, waits, asks):
            ir.register(fn.__name__, fn)
        ir.register("go", lambda: go.set())
"""


@pytest.mark.parametrize("key", ["plain", "asynchronous", "gives_iterator"])
def test_all_items_of_a_quick_producer_come_in_order(start, host: FakeHost, key: str) -> None:
    start(PRODUCERS, limits=LIMITS)
    for count in (3, 1_000):
        call = host.start_call(key, count)
        call.result()
        assert [item["n"] for item in call.items()] == list(range(count))


@pytest.mark.parametrize("key", ["stops", "stops_the_loop", "waits"])
def test_none_is_held_back_by_a_producer_that_stops(start, host: FakeHost, key: str) -> None:
    peer = start(PRODUCERS, limits=LIMITS)
    call = host.start_call(key, 50)
    call.result()
    items = call.items(credit=False)
    assert [next(items)["n"] for _ in range(50)] == list(range(50)), "while it stands still"
    if key == "stops_the_loop":
        threading.Timer(0, lambda: host.start_call("go")).start()
    else:
        host.call("go")
    assert list(items) == ["end"]
    assert peer.process.poll() is None


def test_none_is_held_back_by_a_producer_that_calls_somebody(start, host: FakeHost) -> None:
    start(
        """
        import threading
        go = threading.Event()
        def run(context):
            ir = context["interface_registry"]
            ir.register("beta.gate", lambda args: go.wait(20))
            ir.register("beta.go", lambda args: go.set())
        """,
        pack_id="beta",
    )
    start(PRODUCERS, limits=LIMITS)
    call = host.start_call("asks", 50)
    call.result()
    items = call.items(credit=False)
    assert [next(items)["n"] for _ in range(50)] == list(range(50)), "while it waits for an answer"
    host.call("beta.go")
    assert list(items) == ["end"]

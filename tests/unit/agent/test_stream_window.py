"""How far a producer may be ahead of whoever reads it in a sandbox: what the reader grants, as it takes items."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent_module import load_agent

AGENT: Any = load_agent()
NARROW, WIDE = 16, 256


class Producer:
    """Sends as far as credit goes; stands for the agent of the reader and for everything behind it."""

    stream_credit = NARROW

    def __init__(self) -> None:
        self.granted = NARROW
        self.made = 0
        self.taken = 0
        self.clock = 100.0
        AGENT.monotonic = lambda: self.clock
        self.stream = AGENT.StreamState(self, 7)

    def plain_frame(self, fields: list[Any]) -> list[Any]:
        return fields

    def send(self, frame: list[Any]) -> None:
        kind, number, count = frame
        assert (kind, number) == (AGENT.STREAM_CREDIT, 7)
        assert count > 0
        self.granted += count

    def decode(self, raw: Any) -> Any:
        return raw.data

    @property
    def ahead(self) -> int:
        return self.granted - self.taken

    def take(self, seconds: float, *, long: bool = False) -> None:
        """The reader takes an item, so long after the one before."""
        while self.made < self.granted:
            self.stream.items.append(AGENT.Raw(b"long", [], self) if long else self.made)
            self.made += 1
        self.clock += seconds
        self.stream.pop()
        self.taken += 1


def test_a_reader_that_takes_fast_lets_the_producer_go_further_ahead() -> None:
    producer = Producer()
    for _ in range(WIDE - 1):
        producer.take(10e-6)
        assert producer.ahead <= NARROW
    for _ in range(10 * WIDE):
        producer.take(10e-6)
        assert producer.ahead <= WIDE
    assert producer.ahead > WIDE // 2


def test_who_takes_an_item_now_and_then_has_few_made_ahead() -> None:
    producer = Producer()
    for _ in range(10 * WIDE):
        producer.take(0.001)
        assert producer.ahead <= NARROW


def test_long_items_stay_few() -> None:
    producer = Producer()
    for _ in range(10 * WIDE):
        producer.take(10e-6, long=True)
        assert producer.ahead <= NARROW


def test_after_a_long_item_the_window_grows_no_more() -> None:
    producer = Producer()
    producer.take(10e-6, long=True)
    for _ in range(10 * WIDE):
        producer.take(10e-6)
        assert producer.ahead <= NARROW


@given(st.lists(st.tuples(st.sampled_from([1e-6, 1e-4, 0.01]), st.booleans()), max_size=400))
def test_whatever_comes_nobody_stands_still_and_no_more_than_the_wide_window_is_under_way(
    takes: list[tuple[float, bool]],
) -> None:
    producer = Producer()
    for seconds, long in takes:
        producer.take(seconds, long=long)
        assert 0 < producer.ahead <= WIDE


def test_a_stream_that_has_ended_grants_nothing() -> None:
    producer = Producer()
    for _ in range(NARROW // 2 - 1):
        producer.take(0.0)
    granted = producer.granted
    producer.stream.ended = True
    producer.take(0.0)
    assert producer.granted == granted

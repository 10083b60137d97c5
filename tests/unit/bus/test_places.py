"""The room that a Pack has for calls: never more than there is, and no caller holds more of it than is free."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from core_runtime.bus.places import LITTLE_BYTES, LITTLE_CALLS, SHORT_BYTES, SPARE, Places
from core_runtime.rules.frames import BusLimits

CALLERS = st.sampled_from(["a", "b", "c", None])


def test_alone_a_pack_gets_half_and_the_host_gets_all():
    places = Places(BusLimits(in_flight=10, in_flight_bytes=1000))
    assert [places.take("a", 1) for _ in range(6)] == [True] * 5 + [False]
    assert [places.take(None, 1) for _ in range(6)] == [True] * 5 + [False]


def test_one_more_pack_always_finds_room():
    places = Places(BusLimits(in_flight=1024, in_flight_bytes=1 << 25))
    for number in range(8):
        while places.take(f"flood{number}", 1):
            pass
    assert places.take("good", 1)


def test_bytes_count_too():
    places = Places(BusLimits(in_flight=100, in_flight_bytes=100_000))
    assert places.take("a", 50_000)
    assert not places.take("a", SHORT_BYTES)
    assert places.take("b", 25_000)
    assert not places.take(None, 25_001)
    places.give_back("a", 50_000)
    assert places.take("b", 10_000)


def test_one_value_that_takes_all_bytes_leaves_a_little_for_each_of_the_others():
    limits = BusLimits()
    places = Places(limits)
    assert places.take("flood", limits.value_bytes)
    assert not places.take("flood", SHORT_BYTES)
    others = [f"good{number}" for number in range(100)]
    assert not places.take("large", LITTLE_BYTES + 1)
    given = sum(places.take(name, LITTLE_BYTES // 2) and places.take(name, LITTLE_BYTES // 2) for name in others)
    assert given == limits.in_flight_bytes // SPARE // LITTLE_BYTES
    assert not places.take("good0", SHORT_BYTES)
    assert places.take("good0", 0), "what is short is not counted in bytes"
    places.give_back("flood", limits.value_bytes)
    assert places.take("good0", 1_000_000)


def test_short_arguments_count_as_calls_alone():
    places = Places(BusLimits(in_flight=100, in_flight_bytes=SHORT_BYTES))
    assert places.take(None, SHORT_BYTES)
    assert sum(places.take(None, SHORT_BYTES - 1) for _ in range(200)) == 99
    places.give_back(None, SHORT_BYTES - 1)
    assert not places.take(None, SHORT_BYTES)
    places.give_back(None, SHORT_BYTES)
    assert places.take(None, SHORT_BYTES)


def test_beside_a_backlog_only_who_made_it_is_refused():
    places = Places(BusLimits(in_flight=1024, in_flight_bytes=1 << 25))
    assert places.take("flood", 9_000_000)
    assert not places.take("flood", 1, congested=True)
    assert [places.take("good", 100, congested=True) for _ in range(LITTLE_CALLS + 1)] == [True] * LITTLE_CALLS + [False]
    assert not places.take("long", LITTLE_BYTES + 1, congested=True)
    assert [places.take(None, 0, congested=True) for _ in range(LITTLE_CALLS + 1)] == [True] * LITTLE_CALLS + [False]
    places.give_back("good", 100)
    assert places.take("good", 100, congested=True)


@given(st.lists(st.tuples(CALLERS, st.integers(0, 60_000), st.booleans()), max_size=120))
def test_what_was_given_back_is_there_again(steps):
    places = Places(BusLimits(in_flight=12, in_flight_bytes=200_000))
    held: list[tuple[str | None, int]] = []
    for caller, size, back in steps:
        if back and held:
            places.give_back(*held.pop())
        elif places.take(caller, size):
            held.append((caller, size))
            counts = Counter(name for name, _ in held)
            assert caller is None or counts[caller] <= 12 - len(held) + 1
        assert len(held) <= 12
        assert sum(size for _, size in held if size >= SHORT_BYTES) <= 200_000 + 200_000 // SPARE
    for one in held:
        places.give_back(*one)
    assert all(places.take(None, 0) for _ in range(12))
    assert not places.take(None, 0)

from __future__ import annotations

import pytest

from core_runtime.rules.subscriptions import (
    EVENT_ID,
    OLDEST,
    QUEUE_BYTES,
    QUEUE_EVENTS,
    QUEUE_MOST,
    Options,
    Policy,
    Queue,
    matcher,
    options_of,
    place_of,
)


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, Options(256, Policy.DROP_OLDEST, "")),
        ({"queue": None, "policy": None, "since": None}, Options(256, Policy.DROP_OLDEST, "")),
        ({"queue": 1, "policy": "latest", "since": "oldest"}, Options(1, Policy.LATEST, OLDEST)),
        ({"queue": 4096, "policy": "drop_newest", "since": "0123abcd-7"}, Options(4096, Policy.DROP_NEWEST, "0123abcd-7")),
        ({"since": ""}, Options()),
    ],
)
def test_options(given, options):
    assert options_of(given) == options


@pytest.mark.parametrize(
    "given",
    [
        {"queue": 0}, {"queue": 4097}, {"queue": True}, {"queue": 1.0}, {"queue": "5"}, {"policy": "block"}, {"policy": 1},
        {"policy": ["latest"]}, {"since": 5}, {"since": "newest"}, {"since": "0123abcd-"}, {"since": "0123ABCD-1"},
        {"since": "0123abcd-1\n"}, {"since": "0123abcd-1234567890123456"}, {"other": 1}, {1: 2}, {b"queue": 1},
    ],
)  # fmt: skip
def test_options_that_are_not_usable(given):
    assert isinstance(options_of(given), str)


def test_bounds():
    assert (QUEUE_EVENTS, QUEUE_MOST, QUEUE_BYTES) == (256, 4096, 4 * 1024 * 1024)
    assert EVENT_ID.match("0123abcd-123456789012345")


def test_places():
    assert place_of("0123abcd-12") == ("0123abcd", 12)
    assert place_of("oldest") is None
    assert place_of("") is None


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a.b", "a.b", True), ("a.b", "a.bc", False), ("a.*", "a.b.c", True), ("a.?", "a.b", True), ("a.?", "a.bc", False),
        ("a.[bc]", "a.c", True), ("a.[bc]", "a.d", False), ("*", "", True), ("A.*", "a.b", False), ("a.b*", "xa.b", False),
        ("a.*b", "a.xbc", False),
    ],
)  # fmt: skip
def test_topics_and_globs(pattern, topic, expected):
    assert bool(matcher(pattern)(topic)) is expected


def taken(queue: Queue[int]) -> list[int]:
    return [queue.take() for _ in range(len(queue))]


def test_the_oldest_goes():
    queue: Queue[int] = Queue(Options(queue=2))
    assert [queue.put("t", n, 1) for n in range(4)] == [0, 0, 1, 1]
    assert queue.size_bytes == 2
    assert taken(queue) == [2, 3]
    assert queue.size_bytes == 0


def test_the_newest_goes():
    queue: Queue[int] = Queue(Options(queue=2, policy=Policy.DROP_NEWEST))
    assert queue.policy is Policy.DROP_NEWEST
    assert [queue.put("t", n, 1) for n in range(4)] == [0, 0, 1, 1]
    assert queue.size_bytes == 2
    assert taken(queue) == [0, 1]


def test_the_latest_of_each_topic_stays():
    queue: Queue[int] = Queue(Options(queue=2, policy=Policy.LATEST))
    assert [queue.put(t, n, 5) for n, t in enumerate("aabab")] == [0] * 5
    assert (len(queue), queue.size_bytes) == (2, 10)
    assert queue.put("c", 9, 5) == 1
    assert taken(queue) == [4, 9]


@pytest.mark.parametrize(("policy", "left"), [(Policy.DROP_OLDEST, [3]), (Policy.DROP_NEWEST, [1, 2]), (Policy.LATEST, [3])])
def test_bytes_are_bounded_as_well(policy, left):
    queue: Queue[int] = Queue(Options(policy=policy), 10)
    lost = queue.put("a", 1, 4) + queue.put("b", 2, 4) + queue.put("c", 3, 8)
    assert (taken(queue), lost, queue.size_bytes) == (left, 3 - len(left), 0)


@pytest.mark.parametrize("policy", list(Policy))
def test_what_is_larger_than_the_queue_is_lost(policy):
    queue: Queue[int] = Queue(Options(policy=policy), 10)
    assert queue.put("a", 1, 11) == 1
    assert len(queue) == 0
    assert queue.put("a", 1, 10) == 0
    queue.clear()
    assert (len(queue), queue.size_bytes) == (0, 0)

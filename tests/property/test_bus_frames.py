"""Frames and values under random input: whatever comes is a frame or a ``FrameError``, a value or a ``ValueProblem``."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, date, datetime
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from core_runtime.rules import frames
from core_runtime.rules.sketch import Sketch
from core_runtime.rules.values import ValueProblem, check_nodes, pack, pack_flat, unpack

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.dates()
)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=5) | st.dictionaries(st.text(max_size=8), v, max_size=5))


@given(VALUES)
@settings(max_examples=200, deadline=None)
def test_values_round_trip(value):
    data = pack(value)
    assert unpack(data, lambda index: index) == value
    check_nodes(data, 100_000)


@given(VALUES | st.dictionaries(st.text(max_size=8), LEAVES, max_size=5))
@settings(max_examples=300, deadline=None)
def test_the_short_way_writes_what_the_long_one_writes_or_leaves_it_to_it(value):
    flat = type(value) is dict and not any(isinstance(leaf, list | dict | date) for leaf in value.values())
    assert pack_flat(value) == (pack(value) if flat else None)


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_another_library_reads_the_same(value):
    def hook(code, data):
        return date.fromisoformat(data.decode()) if code == 2 else None

    assert msgpack.unpackb(pack(value), ext_hook=hook, strict_map_key=False, timestamp=3) == value


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_frame_or_refused(data):
    try:
        frame = frames.parse(data)
    except frames.FrameError:
        return
    assert type(frame).__name__.endswith("Frame")


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_a_value_or_refused(data):
    for walk in (lambda: unpack(data, lambda index: index), lambda: check_nodes(data, 50)):
        with contextlib.suppress(ValueProblem):
            walk()


@given(st.integers(0, 2**32 - 1), st.text(max_size=20), st.binary(max_size=50), st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_calls_never_crash_the_parser(number, key, body, data):
    good = bytearray(msgpack.packb([1, number, key or "k", 0, 0, 0, None, [[0, 1]], body]))
    assert isinstance(frames.parse(bytes(good)), frames.CallFrame)
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(frames.FrameError):
        frames.parse(bytes(good))


@given(st.binary(min_size=1, max_size=100))
@settings(max_examples=50, deadline=None)
def test_append_prefixes_the_length_and_forwards_raw(body):
    out = bytearray(b"before")
    size = frames.append(out, (2, 7, 0, (), Raw(msgpack.packb(body))), 1024)
    assert out.startswith(b"before")
    assert int.from_bytes(out[6:10], "little") == size == len(out) - 10
    assert msgpack.unpackb(bytes(out[10:])) == [2, 7, 0, [], body]


def test_append_beyond_the_limit_leaves_the_buffer_alone():
    out = bytearray(b"x")
    for frame in ((2, 7, 0, (), "y" * 100), (2, object())):
        try:
            frames.append(out, frame, 50)
        except (frames.FrameError, TypeError):
            assert out == b"x"
        else:
            raise AssertionError


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=300), st.floats(0.01, 1.0))
@settings(max_examples=200, deadline=None)
def test_the_sketch_is_right_within_its_promise(durations, q):
    sketch = Sketch()
    for duration in durations:
        sketch.add(duration)
    exact = sorted(durations)[max(0, math.ceil(q * len(durations)) - 1)]
    assert abs(sketch.quantile(q) - exact) <= max(0.5, 0.13 * exact)
    one, other = Sketch(), Sketch()
    for duration in durations:
        one.add_with(other, duration)
    assert one._counts == other._counts == sketch._counts
    assert one.count == len(durations)
    assert one.total_us == other.total_us == sketch.total_us


def test_refused_values_name_their_path():
    deep: list[Any] = []
    current = deep
    for _ in range(70):
        current.append([])
        current = current[0]
    cyclic: dict[str, Any] = {}
    cyclic["me"] = cyclic
    for value, kind, path in (
        ({"a": [1, {2}]}, "value.unsupported", "$.a[1]"),
        ([2**64], "value.too_large", "$[0]"),
        (deep, "value.too_deep", "$[0][0]"),
        (cyclic, "value.too_deep", "$.me.me"),
        ({"x": {(1, 2): 3}}, "value.unsupported", "$.x"),
        ({"f": len}, "value.unsupported", "$.f"),
        (datetime(2020, 1, 1), "value.unsupported", "$"),  # noqa: DTZ001
    ):
        with pytest.raises(ValueProblem) as caught:
            pack(value)
        assert caught.value.type == kind
        assert path in str(caught.value)
    moment = datetime(2020, 1, 1, 12, 30, 0, 123456, tzinfo=UTC)
    assert unpack(pack([moment, (1, 2), True])) == [moment, [1, 2], True]

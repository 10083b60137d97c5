"""The agent's codec in Python equals msgpack's C extension, in both directions and in what it refuses."""

from __future__ import annotations

import importlib.util
import mmap
import sys
from datetime import UTC, datetime, timedelta, timezone
from types import ModuleType, SimpleNamespace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgpack import _cmsgpack

from tests.support.fake_host import AGENT


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agent_under_test", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


agent = _load()
pure = agent.PureCodec()


class _Module:
    Packer, Unpacker, unpackb, ext_type = _cmsgpack.Packer, _cmsgpack.Unpacker, _cmsgpack.unpackb, msgpack.ExtType


fast = agent.FastCodec(_Module)

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=40)
    | st.binary(max_size=40)
    | st.datetimes(timezones=st.just(UTC), min_value=datetime(1700, 1, 1), max_value=datetime(2600, 1, 1))  # noqa: DTZ001
)
keys = st.text(max_size=5) | st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=5) | st.booleans() | st.none()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20), max_leaves=40
)


@given(values)
@settings(max_examples=300, deadline=None)
def test_both_write_the_same_bytes_and_read_them_alike(value: Any) -> None:
    data = fast.pack(value)
    assert pure.pack(value) == data
    assert pure.unpack(data, agent.no_extensions) == fast.unpack(data, agent.no_extensions) == value


@given(st.binary(max_size=60))
@settings(max_examples=500, deadline=None)
def test_both_accept_and_refuse_the_same_bytes(data: bytes) -> None:
    outcomes = []
    for codec in (fast, pure):
        try:
            outcomes.append(repr(codec.unpack(data, agent.no_extensions)))
        except Exception:  # noqa: BLE001 - which class it is differs; that it is refused must not
            outcomes.append("refused")
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("size", [0, 1, 15, 16, 31, 32, 255, 256, 65_535, 65_536, 70_000])
def test_every_length_form(size: int) -> None:
    for value in ("x" * size, b"x" * size, [0] * size, dict.fromkeys(range(size))):
        data = fast.pack(value)
        assert pure.pack(value) == data
        assert pure.unpack(data, agent.no_extensions) == value


@pytest.mark.parametrize("size", [1, 2, 3, 4, 8, 16, 17, 255, 256, 65_536])
def test_extensions(size: int) -> None:
    theirs = fast.pack(msgpack.ExtType(5, b"x" * size))
    assert pure.pack(agent.ExtType(5, b"x" * size)) == theirs
    assert pure.unpack(theirs, lambda code, data: (code, len(data))) == (5, size)
    assert fast.unpack(theirs, lambda code, data: (code, len(data))) == (5, size)


def test_times_of_other_zones_become_utc() -> None:
    value = datetime(2031, 1, 1, 12, tzinfo=timezone(timedelta(hours=9)))
    assert pure.pack(value) == fast.pack(value)
    assert pure.unpack(pure.pack(value), agent.no_extensions) == datetime(2031, 1, 1, 3, tzinfo=UTC)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, {1}, object(), "\ud800", datetime(2020, 1, 1)])  # noqa: DTZ001
def test_both_refuse_the_same_values(value: Any) -> None:
    for codec in (fast, pure):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            codec.pack([value])
        refusal = agent.refuse_value([value])
        assert refusal.type.startswith("value.")
        assert "$[0]" in refusal.detail


def test_a_size_that_is_announced_is_not_believed() -> None:
    for head in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff"):
        with pytest.raises(ValueError, match="incomplete"):
            pure.unpack(head, agent.no_extensions)


def test_header_and_body_are_split_alike() -> None:
    frame = fast.pack([2, 7, 0, [[0, 3]], {"a": [1, 2]}])
    for codec in (fast, pure):
        fields, at = codec.split(frame, agent.no_extensions)
        assert fields == [2, 7, 0, [[0, 3]]]
        assert codec.unpack(frame[at:], agent.no_extensions) == {"a": [1, 2]}


@pytest.mark.parametrize("text", ["a/B", "error/KeyError", "a1_.-x/y.z/w-1"])
def test_error_types_that_a_pack_may_choose(text: str) -> None:
    assert agent.is_error_type(text)


@pytest.mark.parametrize("text", ["", "a", "/b", "a/", "A/b", "1a/b", "a/b c", "ä/b", "a/ü", "aB/c", "timeout"])
def test_error_types_that_a_pack_may_not_choose(text: str) -> None:
    assert not agent.is_error_type(text)


@pytest.mark.parametrize("codec", [pure, fast], ids=["in Python", "in C"])
@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\xdd\x00\x0d\xbb\xa0" + b"\x80" * 900_000, "value.too_large"),
        (b"\xc1" * 300_000, "value.malformed"),
        (b"\xc6\x00\x04\x93\xe0" + b"x" * 300_000, ""),
    ],
    ids=["too many values", "no value", "a value"],
)
def test_a_memory_file_is_let_go_of_whatever_lies_in_it(codec: Any, body: bytes, why: str) -> None:
    """Who held on to one that it could not read was said to keep the sender's memory."""
    mapped = mmap.mmap(-1, len(body))
    mapped.write(body)
    reader = SimpleNamespace(codec=codec)
    try:
        agent.Agent.decode(reader, agent.Raw(mapped, [], reader))
        refused = ""
    except agent.ValueRefused as exc:
        refused = exc.type
    assert (refused, mapped.closed) == (why, True)

"""What may cross the bus: every kind of value there and back, every refusal with its place, every head of MessagePack."""

from __future__ import annotations

from collections import OrderedDict
from datetime import UTC, date, datetime
from enum import IntEnum, StrEnum
from typing import NamedTuple

import msgspec
import pytest
from msgspec.msgpack import Ext

from core_runtime.rules import values
from core_runtime.rules.values import (
    EXT_DATE,
    EXT_REFERENCE,
    MAX_DEPTH,
    ValueProblem,
    check_nodes,
    footprint,
    pack,
    pack_flat,
    refuse_callables,
    unpack,
)
from tests.support.names import case

encode = msgspec.msgpack.Encoder().encode


class Text(StrEnum):
    A = "a"


class Number(IntEnum):
    ONE = 1


class Words(str):
    __slots__ = ()


class Point(NamedTuple):
    x: int
    y: int


def problem(call, *arguments) -> ValueProblem:
    with pytest.raises(ValueProblem) as caught:
        call(*arguments)
    return caught.value


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def test_numbers_of_the_protocol():
    assert (EXT_REFERENCE, EXT_DATE, MAX_DEPTH, values.MAX_PATH_CHARS) == (1, 2, 64, 200)
    assert (values.VALUE_BYTES, values.REFERENCE_BYTES) == (64, 512)


@pytest.mark.parametrize(
    ("value", "again"),
    [
        (None, None), (True, True), (0, 0), (-1, -1), (2**64 - 1, 2**64 - 1), (-(2**63), -(2**63)), (1.5, 1.5), ("ä", "ä"), (b"\0", b"\0"),
        ([1, [2]], [1, [2]]), ((1, (2,)), [1, [2]]), ({"a": {"b": 1}}, {"a": {"b": 1}}), ({1: 2, b"x": 3, None: 4}, {1: 2, b"x": 3, None: 4}),
        (bytearray(b"x"), b"x"), (memoryview(b"x"), b"x"), (Text.A, "a"), (Number.ONE, 1), (Words("w"), "w"), (Point(1, 2), [1, 2]),
        (OrderedDict(a=1), {"a": 1}), (date(2024, 2, 29), date(2024, 2, 29)), ({"x": date(2024, 1, 1)}, {"x": date(2024, 1, 1)}),
        (datetime(2024, 1, 1, 12, tzinfo=UTC), datetime(2024, 1, 1, 12, tzinfo=UTC)), ([[]], [[]]), ({}, {}), ({Text.A: 1}, {"a": 1}),
    ],
    ids=case,
)  # fmt: skip
def test_there_and_back(value, again):
    found = unpack(pack(value), lambda index: index)
    assert found == again
    assert type(found) is type(again)
    assert unpack(msgspec.Raw(pack(value)), lambda index: index) == again


@pytest.mark.parametrize(
    ("value", "type_", "text"),
    [
        (2**64, "value.too_large", "an integer beyond 64 bits at $"),
        (-(2**63) - 1, "value.too_large", "an integer beyond 64 bits at $"),
        ({"a": [1, {"b": 2**64}]}, "value.too_large", "an integer beyond 64 bits at $.a[1].b"),
        (datetime(2024, 1, 1), "value.unsupported", "a datetime without time zone at $"),  # noqa: DTZ001 - that is the point
        ([{1}], "value.unsupported", "a value of type set at $[0]"),
        (object(), "value.unsupported", "a value of type object at $"),
        (int, "value.unsupported", "a value of type type at $"),
        ({(1,): 2}, "value.unsupported", "a map key of type tuple at $"),
        ({"a": {1.5: 2}}, "value.unsupported", "a map key of type float at $.a"),
        ({"f": len}, "value.unsupported", "a callable can't be passed here at $.f"),
        (1j, "value.unsupported", "a value of type complex at $"),
    ],
    ids=case,
)
def test_what_has_no_place_on_the_bus(value, type_, text):
    found = problem(pack, value)
    assert (found.type, str(found)) == (type_, text)


@pytest.mark.parametrize(
    "value",
    [
        {"a": 2**64},
        {"a": "\ud800"},
        {1: "a"},
        {"a": Text.A},
        {"a": Number.ONE},
        {Words("a"): 1},
        OrderedDict(a=1),
        {"a": []},
        "a",
    ],
)
def test_what_is_not_flat_is_left_to_the_long_way(value):
    assert pack_flat(value) is None


def test_half_of_a_surrogate_pair_has_no_place_on_the_bus():
    for value in ({"a": "\ud800"}, ["\udfff"], {"\ud800": 1}):
        assert problem(pack, value).type == "value.unsupported"


def test_depth_is_bounded_on_the_way_out_and_in():
    good = nested(MAX_DEPTH)
    assert unpack(pack(good)) == good
    found = problem(pack, nested(MAX_DEPTH + 1))
    assert (found.type, str(found)) == ("value.too_deep", f"nesting deeper than 64 at ${'[0]' * 65}")
    assert problem(pack, {"a": good}).type == "value.too_deep"
    data = encode(nested(MAX_DEPTH + 2))
    assert problem(unpack, data).type == "value.too_deep"
    assert problem(unpack, b"\x91" * 5000 + b"\xc0").type == "value.too_deep"
    wide = encode([nested(3) for _ in range(100)])
    assert len(unpack(wide)) == 100
    maps: dict = {}
    for _ in range(MAX_DEPTH + 2):
        maps = {"k": maps}
    assert problem(unpack, encode(maps)).type == "value.too_deep"


def test_long_places_are_cut():
    found = problem(pack, {"k" * 500: {1}})
    assert found.path == "$." + "k" * 198
    assert str(found) == f"a value of type set at {found.path}"
    assert ValueProblem("t", "m").path == "$"


def test_callables_travel_as_references_by_index():
    seen = []

    def export(function):
        seen.append(function)
        return len(seen) - 1

    data = pack({"a": len, "b": [max]}, export)
    assert seen == [len, max]
    plain = unpack(data)
    assert plain["a"] == Ext(EXT_REFERENCE, encode(0))
    assert unpack(data, lambda index: f"ref-{index}") == {"a": "ref-0", "b": ["ref-1"]}
    assert problem(refuse_callables, len).type == "value.unsupported"

    def full(function):
        raise ValueProblem("value.too_large", "too many callables")

    found = problem(pack, {"x": len}, full)
    assert (found.type, found.path, str(found)) == ("value.too_large", "$.x", "too many callables at $.x")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "not a MessagePack value: "), (b"\xc1", "not a MessagePack value: "), (b"\x92\x01", "not a MessagePack value: "),
        (b"\x01\x02", "not a MessagePack value: "), (b"\xa2\xff\xff", "not a MessagePack value: "),
        (encode(Ext(EXT_REFERENCE, b"")), "a reference without an index"), (encode(Ext(EXT_REFERENCE, encode("x"))), "a reference without an index"),
        (encode(Ext(EXT_DATE, b"2024-13-01")), "a date that is none"), (encode(Ext(EXT_DATE, b"\xff")), "a date that is none"),
        (encode(Ext(7, b"")), "extension type 7"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_value(data, text):
    found = problem(unpack, data, lambda index: index)
    assert found.type == "value.malformed"
    assert str(found).startswith(text)


def test_what_a_value_weighs():
    assert footprint(1, 10_000) == 64
    assert footprint("long text", 10_000) == 64
    assert footprint(len, 10_000) == 512
    assert footprint([], 10_000) == 64
    assert footprint([1, 2, 3], 10_000) == 64 * 4
    assert footprint({"a": 1, "b": [1]}, 10_000) == 64 * 3 + 64 + 64 + 64
    assert footprint([[1], [2]], 10_000) == 64 * 5
    assert footprint([1] * 1000, 640) == 704  # stops beyond the limit
    assert footprint([1] * 9, 640) == 640


HEADS = {
    "fixint": 1, "negative": -1, "uint8": 200, "uint16": 60_000, "uint32": 2**31, "uint64": 2**63, "int8": -100, "int16": -30_000,
    "int32": -(2**31), "int64": -(2**63), "nil": None, "true": True, "false": False, "float": 1.5, "fixstr": "a" * 31,
    "str8": "a" * 32, "str16": "a" * 256, "str32": "a" * 65_536, "bin8": b"a" * 255, "bin16": b"a" * 256, "bin32": b"a" * 65_536,
    "fixext1": Ext(5, b"a"), "fixext2": Ext(5, b"a" * 2), "fixext4": Ext(5, b"a" * 4), "fixext8": Ext(5, b"a" * 8),
    "fixext16": Ext(5, b"a" * 16), "ext8": Ext(5, b"a" * 17), "ext16": Ext(5, b"a" * 256), "ext32": Ext(5, b"a" * 65_536),
}  # fmt: skip


@pytest.mark.parametrize("value", HEADS.values(), ids=HEADS.keys())
def test_each_head_is_one_node_of_its_length(value):
    data = encode(value)
    for count in (1, 3):
        many = encode([value] * count)
        check_nodes(many, count + 1)
        assert problem(check_nodes, many, count).type == "value.too_large"
        assert str(problem(check_nodes, many, count)) == f"more than {count} values at $"
    check_nodes(data, 1)
    # what follows is found where it begins: a wrong length would read a wrong head
    check_nodes(encode([value, [1, 2]]), 5)
    assert problem(check_nodes, encode([value, [1, 2]]), 4).type == "value.too_large"
    if len(data) > 1:
        assert problem(check_nodes, b"\x92" + data, 9).type == "value.malformed"


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_containers_count_what_they_hold(count):
    for value, nodes in (([1] * count, count + 1), (dict.fromkeys(range(count), 0), 2 * count + 1)):
        data = encode(value)
        check_nodes(data, nodes)
        assert problem(check_nodes, data, nodes - 1).type == "value.too_large"
        if count:
            assert str(problem(check_nodes, data[:-1], nodes)) == "not a MessagePack value: it ends too early at $"


def test_an_unused_byte_and_a_bomb():
    assert str(problem(check_nodes, b"\xc1", 9)) == "not a MessagePack value: an unused type byte at $"
    assert problem(check_nodes, b"", 9).type == "value.malformed"
    assert problem(check_nodes, b"\xdd\xff\xff\xff\xff", 1000).type == "value.malformed"
    assert problem(check_nodes, b"\xdd\xff\xff\xff\xff\x00", 1000).type == "value.too_large"
    assert problem(unpack, encode([[]] * 8193 + [0] * 200_000)).type == "value.too_large"
    assert len(unpack(encode([[]] * 9000), max_nodes=9001)) == 9000
    found = problem(lambda: unpack(encode([[]] * 9000), max_nodes=9000))
    assert (found.type, str(found)) == ("value.too_large", "more than 9000 values at $")


@pytest.mark.parametrize("leaf", [10**6, "abcd", 1.5])
def test_a_long_body_is_counted_before_it_is_built_whatever_its_values_are(leaf):
    """A body of more than a megabyte that is made of small values is refused by their number."""
    data = encode([leaf] * 250_000)
    assert len(data) > 1024 * 1024
    assert problem(unpack, data).type == "value.too_large"
    assert len(unpack(data, max_nodes=250_001)) == 250_000


def test_long_texts_are_no_many_values_and_a_value_of_one_byte_is_no_more_than_its_frame():
    assert unpack(encode([b"x" * 2**21, "y" * 2**20])) == [b"x" * 2**21, "y" * 2**20]
    assert len(unpack(encode([1] * 200_000))) == 200_000

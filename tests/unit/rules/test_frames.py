"""Every frame of the protocol by number and field, the borders of each field, and the limits that the host keeps."""

from __future__ import annotations

import msgspec
import pytest
from msgspec import Raw

from core_runtime.rules import frames
from core_runtime.rules.frames import BusLimits, FrameError, append, parse

encode = msgspec.msgpack.Encoder().encode
U32 = 2**32 - 1
ERROR = ["t", "title", "detail", True, "trace"]
KINDS = {
    "CALL": 1, "RESULT": 2, "ERROR": 3, "CANCEL": 4, "STREAM_ITEM": 5, "STREAM_END": 6, "STREAM_CREDIT": 7, "CHUNK": 8, "STREAM_BATCH": 9, "HELLO": 16, "WELCOME": 17,
    "RUN_PHASE": 18, "PHASE_DONE": 19, "SHUTDOWN": 20, "PING": 21, "PONG": 22, "LOG": 23, "REGISTER": 32, "UNREGISTER": 33, "MIRROR": 34,
    "RELEASE": 37, "SUBSCRIBE": 48, "UNSUBSCRIBE": 49, "PUBLISH": 50, "EVENT": 51, "REQUEST": 64,
}  # fmt: skip
GOOD = [
    (frames.CallFrame, [1, 7, "key", 5, 0, 0, None, [], "body"]),
    (frames.CallFrame, [1, U32, U32, U32, U32, U32, "i" * 256, [[0, 0], [1, U32]], {}]),
    (frames.CallFrame, [1, 0, "k" * 256, 0, 0, 0, "", [[1, 0]] * 1024, None]),
    (frames.CallFrame, [1, 7, "k", 0, 0, 0, None, [[2, U32]], None]),
    (frames.ResultFrame, [2, 7, 1, [], [1]]),
    (frames.ErrorFrame, [3, 7, *ERROR]),
    (frames.CancelFrame, [4, 7]),
    (frames.ItemFrame, [5, 7, [], 1]),
    (frames.EndFrame, [6, 7, None]),
    (frames.EndFrame, [6, 7, ERROR]),
    (frames.CreditFrame, [7, 7, 16]),
    (frames.BatchFrame, [9, 7, [], [1, {}]]),
    (frames.HelloFrame, [16, 0, {}]),
    (frames.PhaseDoneFrame, [19, 7, {}]),
    (frames.PongFrame, [22, 7, {}]),
    (frames.LogFrame, [23, 0, 20, "s" * 200, "text"]),
    (frames.RegisterFrame, [32, 7, "key", {}, {}, {}, [], None]),
    (frames.UnregisterFrame, [33, 7, [1, U32]]),
    (frames.ReleaseFrame, [37, 0, [1] * 1_024]),
    (frames.SubscribeFrame, [48, 7, "topic", {"queue": 1}]),
    (frames.UnsubscribeFrame, [49, 7, 3]),
    (frames.PublishFrame, [50, 7, "topic", [], 1]), (frames.PublishFrame, [50, 7, ["topic", 3], [], 1]),
    (frames.RequestFrame, [64, 7, "o" * 64, 3, [], 1]),
]
BAD = [
    [1, 7, "", 5, 0, 0, None, [], 1], [1, 7, "k" * 257, 5, 0, 0, None, [], 1], [1, 7, -1, 5, 0, 0, None, [], 1],
    [1, 7, U32 + 1, 5, 0, 0, None, [], 1], [1, -1, "k", 5, 0, 0, None, [], 1], [1, U32 + 1, "k", 5, 0, 0, None, [], 1],
    [1, 7, "k", -1, 0, 0, None, [], 1], [1, 7, "k", 5, 0, 0, "i" * 257, [], 1], [1, 7, "k", 5, 0, 0, None, [[3, 0]], 1],
    [1, 7, "k", 5, 0, 0, None, [[-1, 0]], 1], [1, 7, "k", 5, 0, 0, None, [[0, U32 + 1]], 1], [1, 7, "k", 5, 0, 0, None, [[0, -1]], 1],
    [1, 7, "k", 5, 0, 0, None, [[0]], 1], [1, 7, "k", 5, 0, 0, None, [[0, 0]] * 1025, 1], [1, 7, "k", 5, 0, 0, None, []],
    [1, 7, "k", 5, 0, 0, None, [], 1, "more"], [4], [4, 7, 8], [4, "7"], [4, True], [4, 1.5], [6, 7, ERROR[:4]], [3, 7, *ERROR, 1],
    [8, 7], [0, 7], [17, 7, {}], [18, 7, {}], [20, 7], [21, 7], [34, 7, 1], [51, 7, "t", [], 1], [63, 7], [65, 7], [23, 0, 20, "s" * 201, "x"],
    [33, 7, [1] * 1_025], [37, 0, [1] * 1_025], [33, 7, [-1]], [48, 7, ""], [48, 7, "t" * 257], [48, 7], [50, 7, "", [], 1], [64, 7, "o" * 65, 3, [], 1],
    [2, 7, 0, [[2, 0]], 1], [5, 7, [[2, 0]], 1], [9, 7, [[0, 0]], [1]], [9, 7, [1]], [9, 7, [], [1], 1], [32, 7, "", {}, {}, {}, [], None], {}, [], 7, "x", None, [[4], 7],
]  # fmt: skip


def test_numbers_of_the_protocol():
    assert {name: getattr(frames, name) for name in KINDS} == KINDS
    assert (frames.PROTOCOL_VERSION, frames.FLAG_STREAM, frames.FLAG_CLOSER, frames.WINDOW_SHIFT) == (1, 1, 2, 8)
    assert (frames.OWN, frames.HELD, frames.SOURCE) == (0, 1, 2)
    assert (frames.TITLE_CHARS, frames.DETAIL_CHARS, frames.TRACE_CHARS, frames.LOG_CHARS) == (500, 2000, 8000, 8000)
    assert (frames.REFS_PER_FRAME, frames.KEY_CHARS) == (1024, 256)


@pytest.mark.parametrize(("kind", "fields"), GOOD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_frame_is_read_into_its_fields(kind, fields):
    frame = parse(encode(fields))
    assert type(frame) is kind
    for name, value in zip(kind.__struct_fields__, fields[1:], strict=True):
        found = getattr(frame, name)
        if isinstance(found, Raw):
            assert msgspec.msgpack.decode(found) == value
        else:
            assert msgspec.msgpack.decode(encode(found)) == value
    assert type(parse(memoryview(encode(fields)))) is kind


@pytest.mark.parametrize(("kind", "fields"), GOOD, ids=lambda value: getattr(value, "__name__", ""))
def test_a_frame_has_no_field_more_and_none_less(kind, fields):
    less = fields[: -2 if kind is frames.SubscribeFrame else -1]  # the one field that may be left out
    for wrong in ([*fields, 1], less, dict(enumerate(fields))):
        with pytest.raises(FrameError):
            parse(encode(wrong))


def test_publishing_names_a_topic_and_maybe_a_call():
    def named(subject):
        frame = parse(encode([50, 7, subject, [], 1]))
        assert isinstance(frame, frames.PublishFrame)
        return frame.named()

    assert named("topic") == ("topic", 0)
    assert named(["topic", 3]) == ("topic", 3)
    for wrong in ([], ["topic"], [3, "topic"], ["topic", 3, 3], ["topic", "topic"], ["", 1], ["topic", -1], [["topic", 1], 1], ["t" * 257, 1]):
        with pytest.raises(FrameError):
            named(wrong)


def test_subscribing_without_options_is_the_older_form():
    frame = parse(encode([48, 7, "topic"]))
    assert isinstance(frame, frames.SubscribeFrame)
    assert msgspec.msgpack.decode(frame.options) == {}


@pytest.mark.parametrize("fields", BAD, ids=range(len(BAD)))
def test_what_is_no_frame_ends_the_connection(fields):
    with pytest.raises(FrameError) as refused:
        parse(encode(fields))
    assert 0 < len(str(refused.value)) <= 300


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x04", b"\x93\x03\x07\xa2\xff\xff", b"\x92\x04\x07\x00"])
def test_bytes_that_are_no_message(data):
    with pytest.raises(FrameError):
        parse(data)


def test_a_frame_is_no_deeper_than_the_parser():
    with pytest.raises(FrameError, match="a value is nested too deep to be framed"):
        parse(encode([16, 0, Raw(b"\x91" * 100_000 + b"\xc0")]))


def test_frames_are_written_with_their_length():
    out = bytearray(b"before")
    size = append(out, (4, 7), 100)
    assert bytes(out) == b"before" + len(encode((4, 7))).to_bytes(4, "little") + encode((4, 7))
    assert size == len(encode((4, 7))) == 3
    assert append(out, (2, 7, 0, [], "x" * 300), 310) == 308
    assert int.from_bytes(out[13:17], "little") == 308
    kept = bytes(out)
    assert append(bytearray(), (4, 7), 3) == 3
    with pytest.raises(FrameError, match=r"^a frame of 3 bytes exceeds the limit of 2$"):
        append(out, (4, 7), 2)
    assert bytes(out) == kept
    with pytest.raises(TypeError):
        append(out, (4, object()), 100)
    assert bytes(out) == kept


def test_limits_and_what_welcome_tells_of_them():
    limits = BusLimits()
    expected = {
        "frame_bytes": 2**20, "in_flight": 1024, "depth": 32, "deadline_ms": 30_000, "stream_credit": 16, "batch_bytes": 15_360, "sources": 16, "threads": 48, "orphans": 512,
        "abandoned": 256, "in_flight_bytes": 2**26 + 4096, "references": 65_536, "registrations": 1024, "subscriptions": 256, "requests": 128, "requests_at_once": 4,
        "request_bytes": 2**23, "registry_bytes": 2**23, "register_burst": 2000, "register_per_s": 200, "backlog_bytes": 2**23,
        "backlog_hard_bytes": 2**25, "log_bytes_per_s": 65_536, "decode_nodes": 131_072, "credit_ahead": 4096,
        "max_deadline_ms": 86_400_000, "channels": 256, "strays": 64, "value_bytes": 2**26 + 4096, "values": 16, "values_bytes": 2**28,
    }  # fmt: skip
    assert {name: getattr(limits, name) for name in expected} == expected
    told = BusLimits(
        frame_bytes=1, in_flight=2, depth=3, deadline_ms=4, stream_credit=5, threads=6, registry_bytes=7,
        value_bytes=8, values=9, sources=10, batch_bytes=11,
    ).told()
    assert told == {
        "frame_bytes": 1, "in_flight": 2, "depth": 3, "deadline_ms": 4, "stream_credit": 5, "threads": 6, "registry_bytes": 7,
        "value_bytes": 8, "values": 9, "sources": 10, "batch_bytes": 11,
    }  # fmt: skip


def test_the_items_of_a_batch():
    found = parse(encode([9, 7, [], [1, {"a": [2]}, b"x"]]))
    assert [msgspec.msgpack.decode(item) for item in found.items()] == [1, {"a": [2]}, b"x"]
    assert len(parse(encode([9, 7, [], [0] * 64])).items()) == 64
    for body in ([], {}, 1, "items", None, {"0": 1}, [0] * 65):
        with pytest.raises(FrameError, match=r"^a batch "):
            parse(encode([9, 7, [], body])).items()


def test_no_frame_is_a_thing_that_the_collector_of_cycles_has_to_look_at():
    kinds = {kind for name, kind in vars(frames).items() if isinstance(kind, type) and name.endswith("Frame")}
    assert {kind for kind, _ in GOOD} <= kinds
    for kind in kinds:
        assert kind.__struct_config__.gc is False
        assert (kind.__struct_config__.array_like, kind.__struct_config__.forbid_unknown_fields) == (True, True)


def test_a_body_that_came_in_chunks_has_an_extension_type_of_its_own():
    assert (frames.EXT_CHUNKED, frames.CHUNK) == (4, 8)

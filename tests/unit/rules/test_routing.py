"""A call on its way: re-entrance, deadlines, credit, types of errors, patterns, trace context."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from core_runtime.rules import routing
from core_runtime.rules.routing import (
    NO_RIGHTS,
    PHASE_WORDS,
    SpanContext,
    allowed_ms,
    error_type,
    granted_credit,
    is_glob,
    matches,
    matching,
    reenter_id,
    span_of,
    traceparent,
)


@dataclass
class Call:
    caller: object | None
    caller_id: int
    parent: Call | None = None


def test_a_pack_without_rights_may_nothing():
    for ask in (
        NO_RIGHTS.may_call,
        NO_RIGHTS.may_see,
        NO_RIGHTS.may_register,
        NO_RIGHTS.may_publish,
        NO_RIGHTS.may_subscribe,
    ):
        assert ask("anything") is False


def test_the_nearest_own_call_above_is_found():
    a, b = object(), object()
    top = Call(a, 5)
    middle = Call(b, 7, top)
    low = Call(a, 9, middle)
    assert reenter_id(low, a) == 9
    assert reenter_id(middle, a) == 5
    assert reenter_id(low, b) == 7
    assert reenter_id(top, b) == 0
    assert reenter_id(None, a) == 0
    assert reenter_id(Call(a, 0, top), a) == 5
    assert reenter_id(Call(a, 1), a) == 1
    assert reenter_id(Call(a, -1), a) == 0
    assert reenter_id(Call(None, 3), a) == 0


@pytest.mark.parametrize(
    ("asked", "parent", "got"),
    [
        (0, None, 30),
        (5, None, 5),
        (500, None, 100),
        (100, None, 100),
        (5, 9, 5),
        (5, 5, 5),
        (50, 9, 9),
        (0, 9, 9),
        (5, 1, 1),
        (5, 0, 1),
        (5, -7, 1),
    ],
)
def test_no_call_outlives_its_parent(asked, parent, got):
    assert allowed_ms(asked, 30, 100, parent) == got


@pytest.mark.parametrize(
    ("outstanding", "asked", "got"),
    [(0, 5, 5), (0, 20, 10), (8, 5, 2), (10, 5, 0), (12, 5, 0), (0, 0, 0), (0, -5, 0), (9, 1, 1)],
)
def test_credit_never_runs_ahead(outstanding, asked, got):
    assert granted_credit(outstanding, asked, 10) == got


GOOD = [
    "error/ValueError",
    "error/_x1",
    "error/" + "a" * 100,
    "limit",
    "value.too_large",
    "pack/Some.Error-x/y",
    "a/" + "b" * 99,
]
BAD = [
    "",
    "error/",
    "Error/x",
    "error/a.b" + "c" * 100,
    "1a",
    "-a",
    "A",
    "a b",
    "a\n",
    "error/x\n",
    "a" * 101,
    "a/" + "b" * 100,
    "a/b c",
    "error/" + "a" * 101 + "-",
]


def test_types_of_errors():
    assert routing.UNTYPED_ERROR == "error/Exception"
    for text in GOOD:
        assert error_type(text) == text
    for text in BAD:
        assert error_type(text) == "error/Exception", text


@pytest.mark.parametrize("text", ["a", "a" * 99, "deadline.exceeded", "a.b-c_d", "denied", "cancelled", "value", "limits", "missing_file"])
def test_a_word_that_no_agent_has_is_told_as_its_own(text):
    assert error_type(text) == f"error/{text}"
    assert error_type(error_type("a" * 100)) == "error/" + "a" * 99


def test_a_phase_has_words_of_its_own():
    for text in ("missing_file", "conflict", "cancelled", "limit"):
        assert error_type(text, PHASE_WORDS) == text
    assert error_type("denied", PHASE_WORDS) == "error/denied"


@pytest.mark.parametrize(
    ("pattern", "text", "covered"),
    [
        ("a", "a", True), ("a", "b", False), ("a", "A", False), ("*", "a.b/c", True), ("a.*", "a.b.c", True), ("a.*", "a", False), ("a?", "ab", True),
        ("a?", "a", False), ("[ab]c", "bc", True), ("[ab]c", "cc", False), ("a**b", "a.x.b", True), ("*" * 50 + "z", "a" * 500, False),
        ("a.b", "axb", False), ("*.b", "a.B", False), ("a*", "xa", False),
    ],
)  # fmt: skip
def test_patterns(pattern, text, covered):
    assert matches(pattern, text) is covered
    assert matching([pattern], text) is covered
    assert matching(["never", pattern], text) is covered
    assert is_glob(pattern) is any(c in pattern for c in "*?[")


def test_no_pattern_matches_nothing():
    assert not matching([], "a")
    assert [is_glob(text) for text in ("a", "a*", "a?", "[a", "a]", "XX")] == [False, True, True, True, False, False]


def test_trace_context():
    trace = "0123456789abcdef" * 2
    header = traceparent(trace, 255)
    assert header == f"00-{trace}-00000000000000ff-01"
    assert span_of(header) == SpanContext(trace, 255, sampled=True)
    unsampled = traceparent(trace, 255, sampled=False)
    assert unsampled == f"00-{trace}-00000000000000ff-00"
    assert span_of(unsampled) == SpanContext(trace, 255, sampled=False)
    assert span_of(header.replace("00-0", "cc-0", 1) + "-more") == SpanContext(trace, 255), "a later version"
    for bad in (
        "",
        header + "x",
        header + "-x",
        header.upper(),
        header.replace("00-0", "ff-0", 1),
        f"00-{'0' * 32}-00000000000000ff-01",
        f"00-{trace}-{'0' * 16}-01",
        f"x{header}",
        f"00-{trace}-00000000000000ff-1",
    ):
        assert span_of(bad) is None

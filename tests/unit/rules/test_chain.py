"""The audit chain: which damage is named how and where, what a crash may leave, and how values are bounded."""

from __future__ import annotations

import json

import pytest

from backend_core.canonical import sha256_hex
from core_runtime.rules.chain import GENESIS, AuditReport, Head, bounded, check
from tests.support.names import case


def log(count: int) -> tuple[list[bytes], list[str]]:
    """``count`` lines, and the hash before the first and after each."""
    lines, hashes = [], [GENESIS]
    for number in range(1, count + 1):
        line = json.dumps({"seq": number, "prev": hashes[-1], "event": f"e{number}"}).encode()
        lines.append(line)
        hashes.append(sha256_hex(line))
    return lines, hashes


LINES, HASHES = log(4)
DATA = b"".join(line + b"\n" for line in LINES)
SIZES = [len(b"".join(line + b"\n" for line in LINES[:n])) for n in range(5)]


def test_genesis_is_fixed():
    assert GENESIS == "0" * 64


@pytest.mark.parametrize("count", range(5))
def test_a_whole_log_is_ok(count):
    data = b"".join(line + b"\n" for line in LINES[:count])
    assert check(data, Head(count, HASHES[count])) == AuditReport(count, HASHES[count], SIZES[count], "", 0, 0, 0)


def test_one_line_more_than_the_head_is_a_crash_two_are_not():
    assert check(DATA, Head(3, HASHES[3])).ok
    assert check(DATA, Head(2, HASHES[2])) == AuditReport(4, HASHES[4], SIZES[4], "unsigned_tail", 4)
    assert check(DATA, Head(0, HASHES[0])) == AuditReport(4, HASHES[4], SIZES[4], "unsigned_tail", 2)


def test_lines_that_the_head_knows_are_missed():
    data = DATA[: SIZES[3]]
    assert check(data, Head(4, HASHES[4])) == AuditReport(3, HASHES[3], SIZES[3], "truncated", 4)
    assert check(b"", Head(1, HASHES[1])) == AuditReport(0, GENESIS, 0, "truncated", 1)


def test_unsynced_lines_may_be_lost_and_are_counted():
    head = Head(4, HASHES[4], 2, HASHES[2])
    assert head.certain == (2, HASHES[2])
    assert Head(4, "x").certain == (4, "x")
    assert check(DATA[: SIZES[2]], head) == AuditReport(2, HASHES[2], SIZES[2], "", 0, 0, 2)
    assert check(DATA, head).lost == 0
    assert check(DATA[: SIZES[1]], head) == AuditReport(1, HASHES[1], SIZES[1], "truncated", 2)
    assert check(DATA, Head(4, HASHES[4], 0, GENESIS)).ok


def test_a_rewritten_chain_is_edited_where_the_head_knows_it():
    assert check(DATA, Head(4, "f" * 64)) == AuditReport(4, HASHES[4], SIZES[4], "edited", 4)
    assert check(DATA, Head(4, "f" * 64, 2, HASHES[2])) == AuditReport(4, HASHES[4], SIZES[4], "edited", 4)
    assert check(DATA, Head(4, HASHES[4], 2, "f" * 64)) == AuditReport(4, HASHES[4], SIZES[4], "edited", 2)
    assert check(DATA, Head(3, "f" * 64, 2, HASHES[2])) == AuditReport(4, HASHES[4], SIZES[4], "edited", 3)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b'"event"', b'"evenT"'),
        lambda line: b"not json",
        lambda line: b"[1]",
        lambda line: b"",
        lambda line: line.replace(b'"seq": ', b'"seq": 1'),
        lambda line: b"[" * 100_000,
    ],
    ids=["content", "no json", "no object", "empty", "number", "deep"],
)
def test_the_first_line_that_does_not_fit_is_named(number, damage):
    lines = [damage(line) if index == number else line for index, line in enumerate(LINES)]
    data = b"".join(line + b"\n" for line in lines)
    report = check(data, Head(4, HASHES[4]))
    where = number + 1
    if b"evenT" in lines[number]:  # a changed line is noticed by the one after it, the last by the head
        where += number < 3
    good = sum(len(line) + 1 for line in lines[: where - 1])
    assert report.problem == "edited"
    assert report.bad_record == where
    if not (b"evenT" in lines[number] and number == 3):
        assert (report.records, report.good_bytes, report.torn_bytes) == (where - 1, good, len(data) - good)


def test_removed_and_swapped_lines_are_edited():
    for lines, where in (([0, 2, 3], 2), ([1, 2, 3], 1), ([1, 0, 2, 3], 1), ([0, 1, 3, 2], 3), ([0, 0, 1, 2], 2)):
        data = b"".join(LINES[index] + b"\n" for index in lines)
        assert check(data, Head(4, HASHES[4])).bad_record == where


def test_a_torn_last_line_is_what_a_crash_leaves():
    report = check(DATA + b'{"seq": 5', Head(4, HASHES[4]))
    assert report == AuditReport(4, HASHES[4], SIZES[4], "", 0, 9)
    assert check(b'{"seq"', Head(0, GENESIS)) == AuditReport(0, GENESIS, 0, "", 0, 6)


@pytest.mark.parametrize("cause", ["head_missing", "key_missing"])
def test_without_a_head_to_believe_the_end_is_not_proven(cause):
    assert check(DATA, cause) == AuditReport(4, HASHES[4], SIZES[4], cause, 5)


def test_sentences_for_the_operator():
    assert AuditReport(4, "x", 9).sentence() == "4 records, unchanged and complete."
    assert AuditReport(4, "x", 9, torn_bytes=7).sentence() == (
        "4 records, unchanged and complete. An incomplete last line (7 bytes) is what a crash leaves."
    )
    bad = AuditReport(2, "x", 9, "edited", 3, 7)
    assert not bad.ok
    assert bad.sentence() == (
        "Record 3 is the first that does not fit: edited. An incomplete last line (7 bytes) is what a crash leaves."
    )
    assert AuditReport(2, "x", 9, "edited", 3).sentence() == "Record 3 is the first that does not fit: edited."


def nested(depth: int) -> object:
    value: object = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("a" * 2000, "a" * 2000), ("a" * 2001, "a" * 2000 + "…"), (None, None), (True, True), (1.5, 1.5), (7, 7),
        (2**53 - 1, 2**53 - 1), (2**53, str(2**53)), (-(2**53), str(-(2**53))), (10**100, str(10**100)[:64]),
        ({"a": [1, (2,)]}, {"a": [1, [2]]}), ({7: 1}, {"7": 1}), ({"k" * 101: 1}, {"k" * 100: 1}), ({"b", "a"}, ["a", "b"]),
        (frozenset({"b", "a"}), ["a", "b"]), (list(range(201)), list(range(200))), (list(range(200)), list(range(200))),
        ({str(n): n for n in range(201)}, {str(n): n for n in range(200)}), (b"bytes", "b'bytes'"),
        (nested(6), [[[[[["x"]]]]]]), (nested(7), [[[[[["…"]]]]]]), ({"a": {"a": {"a": {"a": {"a": {"a": [1]}}}}}},
                                                                   {"a": {"a": {"a": {"a": {"a": {"a": "…"}}}}}}),
    ],
    ids=case,
)  # fmt: skip
def test_values_are_bounded(value, kept):
    assert bounded(value) == kept


def test_foreign_objects_become_short_text():
    class Long:
        def __str__(self) -> str:
            return "z" * 5000

    assert bounded(Long()) == "z" * 2000

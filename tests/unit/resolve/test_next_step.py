"""What an operator can do about a Pack that waits: approving helps where something is absent, and there only."""

from __future__ import annotations

from core_runtime.rules.component_work import pack_key
from core_runtime.rules.next_step import ABSENT, next_step
from core_runtime.rules.resolve import Unit, resolve


def needing(name: str, provides: dict[str, str], requires: dict[str, str]) -> Unit:
    """``provides``: key → version or "", ``requires``: key → range or ""."""
    return Unit(
        name, name.partition(":")[0], frozenset(provides), frozenset(requires),
        versions=frozenset((k, v) for k, v in provides.items() if v), ranges=frozenset((k, r) for k, r in requires.items() if r),
    )  # fmt: skip


def steps(*units: Unit, available=(), owners=lambda key: "") -> dict[str, str]:
    return {one.unit.pack_id: next_step(one, owners) for one in resolve(units, available=available).blocked}


def test_what_is_absent_is_approved_started_or_added():
    told = steps(needing("a:s:a", {}, {"x": ""}), needing("b:s:b", {"y": ""}, {"x": ""}), needing("c:s:c", {}, {"y": ""}))
    assert told == dict.fromkeys("abc", ABSENT)


def test_of_a_circle_the_packs_are_named_and_approving_is_not_offered():
    told = steps(needing("a:s:a", {"x": ""}, {"y": ""}), needing("b:s:b", {"y": ""}, {"x": ""}))
    for pack_id in "ab":
        assert "Approve" not in told[pack_id]
        assert "'a', 'b' need each other" in told[pack_id]
        assert "rumi pack add FOLDER" in told[pack_id]


def test_who_waits_for_a_circle_is_not_told_to_be_part_of_it():
    told = steps(
        needing("a:s:a", {"x": ""}, {"y": ""}), needing("b:s:b", {"y": ""}, {"x": ""}), needing("w:s:w", {}, {"x": ""})
    )
    assert "'a', 'b' need each other" in told["w"]
    assert "'w'" not in told["w"]


def test_a_pack_that_needs_itself_is_named_alone():
    told = steps(needing("a:s:a", {"x": ""}, {"x": ""}))["a"]
    assert "'a' needs what only it itself provides" in told
    two = steps(needing("a:s:one", {"x": ""}, {"y": ""}), needing("a:s:two", {"y": ""}, {"x": ""}))["a"]
    assert "'a' needs what only it itself provides" in two


def test_a_circle_too_long_to_be_told_says_that_there_are_others():
    units = [needing(f"p{n:03}:s:m", {f"k{n}": ""}, {f"k{(n + 1) % 90}": ""}) for n in range(90)]
    told = steps(*units)["p000"]
    assert "and others need each other" in told
    assert len(told) < 400


def test_of_a_version_out_of_range_the_provider_and_the_range_are_named():
    told = steps(needing("store:s:s", {"k": "1.4.0"}, {"gone": ""}), needing("reader:s:r", {}, {"k": "^2"}))["reader"]
    assert "a version of 'store' that gives 'k' in ^2" in told
    assert "or one of 'reader' that accepts" in told
    assert "rumi pack add FOLDER" in told
    assert "Approve" not in told


def test_the_owner_of_a_key_that_is_there_is_asked_for():
    told = steps(needing("reader:s:r", {}, {"k": "^2"}), available={"k": ["1.0.0"]}, owners={"k": "store"}.get)
    assert "a version of 'store' that gives 'k' in ^2" in told["reader"]


def test_a_pack_that_is_needed_in_a_range_is_its_own_provider():
    key = pack_key("store")
    told = steps(needing("reader:s:r", {}, {key: ">=2"}), available={key: ["1.0.0"]})
    assert "a version of 'store' in >=2" in told["reader"]


def test_the_last_of_a_way_is_the_one_that_has_to_accept_it():
    told = steps(
        needing("a:s:a", {}, {"x": ""}), needing("b:s:b", {"x": ""}, {"y": "~1.2"}), needing("c:s:c", {"y": "1.3.0"}, {"z": ""})
    )["a"]
    assert "a version of 'c' that gives 'y' in ~1.2, or one of 'b' that accepts" in told

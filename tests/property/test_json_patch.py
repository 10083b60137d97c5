"""Whatever two documents are, their difference applied to the first gives the second, and nothing is touched."""

from __future__ import annotations

import copy
import json
from fractions import Fraction

import jsonpatch
from hypothesis import given
from hypothesis import strategies as st

from backend_core.ecosystem.json_patch import (
    PatchError,
    apply_patch,
    diff,
    equal,
    format_pointer,
    parse_pointer,
    refusal,
    resolve,
    within,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-100, 100)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab~/01-", max_size=3), inner, max_size=4),
    max_leaves=12,
)
TOKENS = st.lists(st.text("ab~/01-é", max_size=4), max_size=5)
OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "spam"]),
     "path": TOKENS.map(format_pointer) | st.text(max_size=5)},
    optional={"value": VALUES, "from": TOKENS.map(format_pointer)},
)  # fmt: skip


@given(VALUES, VALUES)
def test_diff_then_apply_gives_the_other(before, after) -> None:
    kept = copy.deepcopy(before)
    patch = diff(before, after)
    assert equal(apply_patch(before, patch), after)
    assert equal(before, kept)
    assert json.loads(json.dumps(patch)) == patch


@given(VALUES)
def test_no_difference_is_an_empty_patch(value) -> None:
    assert diff(value, copy.deepcopy(value)) == []


@given(TOKENS)
def test_pointers_round_trip(tokens) -> None:
    assert parse_pointer(format_pointer(tokens)) == tuple(tokens)


@given(VALUES, st.lists(OPERATIONS, max_size=4))
def test_any_patch_applies_or_is_refused_and_never_touches_its_input(document, patch) -> None:
    kept, kept_patch = copy.deepcopy(document), copy.deepcopy(patch)
    refused = None
    try:
        apply_patch(document, patch)
    except PatchError as error:
        refused = error.code
    assert refused in {None, "patch_invalid", "patch_target", "patch_test"}
    assert equal(document, kept)
    assert patch == kept_patch


@given(st.dictionaries(st.text("ab", max_size=2), VALUES, max_size=4), st.lists(OPERATIONS, max_size=3), TOKENS)
def test_an_admitted_addon_changes_nothing_outside_its_prefix(document, patch, prefix) -> None:
    """The policy's promise: what lies outside of the allowed prefix is the same afterwards."""
    try:
        if refusal(patch, [format_pointer(prefix)]) is not None:
            return
        after = apply_patch(document, patch)
    except PatchError:
        return
    for step in diff(document, after):
        changed = parse_pointer(step["path"])
        assert within(changed, tuple(prefix)) or within(tuple(prefix), changed)
    if prefix:
        for key in document.keys() - {prefix[0]}:
            assert equal(resolve(after, format_pointer([key])), document[key])


SIGNIFICANT = st.integers(-(10**15) + 1, 10**15 - 1)
"""Fifteen digits: as many as a double gives back as they were written."""


@given(SIGNIFICANT, st.integers(-30, 290), st.sampled_from([-1, 0, 0, 0, 1]))
def test_numbers_are_equal_if_what_was_written_is(digits, exponent, off) -> None:
    """RFC 6902, 4.6, against fractions: an integer near the number, or it itself, and the number in its other spelling."""
    written = f"{digits}e{exponent}"
    whole = int(Fraction(written)) + off
    same = Fraction(written) == whole
    assert equal(json.loads(written), whole) is same
    assert equal([whole], [json.loads(written)]) is same


@given(st.integers() | st.floats(allow_nan=False) | st.booleans(), st.integers(-1, 1))
def test_equality_of_numbers_is_one_of_values_only(one, off) -> None:
    """No two integers equal the same float, and true and false equal no number."""
    near = int(one) + off if one not in {float("inf"), float("-inf")} else off
    if equal(near, one):
        assert not isinstance(one, bool)
        assert not equal(near + 1, one)
        assert not equal(near - 1, one)


PLAIN = st.recursive(
    st.none() | st.integers(2, 9) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("ab~/01-", max_size=2), inner, max_size=4),
    max_leaves=12,
)
"""Without numbers that equal true or false, which the other implementation takes for these."""
STEPS = st.lists(
    st.sampled_from(["a", "b", "", "0", "1", "-", "01", "~", "/", "a/b"]), max_size=3
).map(format_pointer)  # fmt: skip
VERBS = st.one_of(
    *(st.fixed_dictionaries({"op": st.just(verb), "path": STEPS, "value": PLAIN}) for verb in ("add", "replace", "test")),
    st.fixed_dictionaries({"op": st.just("remove"), "path": STEPS}),
    *(st.fixed_dictionaries({"op": st.just(verb), "path": STEPS, "from": STEPS}) for verb in ("move", "copy")),
)


@given(PLAIN, st.lists(VERBS, max_size=4))
def test_another_implementation_comes_to_the_same(document, patch) -> None:
    """Wherever both apply a patch, to the same document; what only one refuses is told by the standard."""
    try:
        ours, refused = apply_patch(document, patch), None
    except PatchError as error:
        ours, refused = None, error
    try:
        theirs, other = jsonpatch.apply_patch(copy.deepcopy(document), patch), None
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException) as error:
        theirs, other = None, error
    if refused is None and other is None:
        assert equal(ours, theirs)
    assert (refused is None) is (other is None), (refused, other)

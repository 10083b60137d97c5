"""Variables of blocks: what is read, what stays inside, and what a failed step owes."""

from __future__ import annotations

import pytest

from core_runtime.rules.flow.scope import Scope, Upstream


def test_a_block_reads_its_surroundings_and_writes_to_itself():
    outer = Scope({"a": 1, "b": 2})
    inner = outer.inner({"item": 3})
    inner.assign(("a",), 9)
    assert [inner.lookup((name,)) for name in ("a", "b", "item", "gone")] == [9, 2, 3, None]
    assert [outer.lookup((name,)) for name in ("a", "b", "item")] == [1, 2, None]
    assert inner.flat() == {"a": 9, "b": 2, "item": 3}
    assert outer.flat() == {"a": 1, "b": 2}


def test_what_a_block_wrote_is_taken_over_but_for_its_own_variables():
    outer = Scope({"a": 1, "item": "mine"})
    inner = outer.inner({"item": 3})
    inner.assign(("a",), 9)
    inner.assign(("new",), 5)
    inner.owe(("late",), "s.3")
    inner.owe(("item",), "s.4")
    outer.merge(inner, without=("item",))
    assert outer.flat() == {"a": 9, "item": "mine", "new": 5}
    assert outer.lookup(("item",)) == "mine"
    with pytest.raises(Upstream):
        outer.lookup(("late",))


def test_a_value_that_is_owed_is_never_read_as_null():
    scope = Scope({"a": {"b": 1}})
    scope.owe(("a", "b"), "s.1")
    for reader in (scope, scope.inner()):
        with pytest.raises(Upstream) as missing:
            reader.lookup(("a", "b"))
        assert (missing.value.name, missing.value.path) == ("a", "s.1")
    inner = scope.inner({"a": 7})
    assert inner.lookup(("a",)) == 7, "its own value stands before what its surroundings are owed"
    scope.assign(("a",), 2)
    assert scope.lookup(("a",)) == 2


def test_a_part_is_set_and_nobody_elses_value_changes():
    value = {"b": {"c": 1, "d": 2}, "e": 3}
    outer = Scope({"a": value})
    inner = outer.inner()
    inner.assign(("a", "b", "c"), 9)
    assert inner.lookup(("a",)) == {"b": {"c": 9, "d": 2}, "e": 3}
    assert inner.lookup(("a", "b", "c")) == 9
    assert outer.lookup(("a",)) == value == {"b": {"c": 1, "d": 2}, "e": 3}


@pytest.mark.parametrize("before", [{}, {"a": None}, {"a": 5}, {"a": [1]}, {"a": {"b": "text"}}], ids=str)
def test_maps_on_the_way_are_made_where_there_are_none(before):
    scope = Scope(before)
    scope.assign(("a", "b", "c"), 1)
    assert scope.lookup(("a", "b", "c")) == 1
    assert scope.flat() == {"a": {"b": {"c": 1}}}

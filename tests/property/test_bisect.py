"""Whatever breaks a call, alone or together: it is found, with few trials."""

import math

from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.bisect import MOST_FOUND, Search, closure, in_order

COUNTS = st.integers(min_value=1, max_value=200)


def searched(candidates, culprits):
    search, trials = Search(candidates), 0
    while not search.done:
        trials += 1
        search.tell(bad=culprits <= search.trial())
    return search.found, trials


@given(COUNTS, st.data())
def test_one_culprit_costs_the_logarithm(count, data):
    candidates = [f"p{n:03}" for n in range(count)]
    culprit = data.draw(st.sampled_from(candidates))
    found, trials = searched(candidates, {culprit})
    assert found == (culprit,)
    assert trials <= math.ceil(math.log2(count)) + 1


@given(COUNTS, st.data())
def test_those_that_break_it_together_are_all_found(count, data):
    candidates = [f"p{n:03}" for n in range(count)]
    culprits = data.draw(st.sets(st.sampled_from(candidates), min_size=1, max_size=MOST_FOUND))
    found, trials = searched(candidates, culprits)
    assert set(found) == culprits
    assert trials <= len(culprits) * (math.ceil(math.log2(count)) + 1)


@given(COUNTS, st.data())
def test_a_search_ends_whatever_the_trials_say(count, data):
    search = Search([f"p{n:03}" for n in range(count)])
    for _ in range(MOST_FOUND * (math.ceil(math.log2(count)) + 1)):
        if search.done:
            break
        search.tell(bad=data.draw(st.booleans()))
    assert search.done
    assert 1 <= len(search.found) <= MOST_FOUND


NEEDS = st.dictionaries(st.sampled_from("abcdefgh"), st.sets(st.sampled_from("abcdefgh"), max_size=3), max_size=8)


@given(NEEDS, st.sets(st.sampled_from("abcdefgh")))
def test_a_closure_lacks_nothing_and_an_order_loses_nobody(needs, names):
    closed = closure(names, needs)
    assert names <= closed
    assert all(needs.get(name, set()) <= closed for name in closed)
    order = in_order(closed, needs)
    assert sorted(order) == sorted(closed)
    for place, name in enumerate(order):
        for need in needs.get(name, ()):
            in_a_circle = name in closure(needs.get(need, ()), needs) or need == name
            assert in_a_circle or need in order[:place]

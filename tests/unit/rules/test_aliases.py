"""Which of the operator's aliases concern what a Pack provides: that hide it, or that lead to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.aliases import HIDES, REACHES, Concerned, concerned

TABLE = {"db.get": ["store.get", "old.get"], "db.put": ["store.put"], "lonely": []}


def test_an_alias_hides_what_has_its_name_and_reaches_what_it_means() -> None:
    found = concerned({"store.get", "db.put", "lonely", "other"}, TABLE, {"db.put": "shop", "store.get": "nobody asks"})
    assert found == (
        Concerned("store.get", "db.get", HIDES, ""),
        Concerned("store.put", "db.put", REACHES, "shop"),
    )


def test_who_provides_both_the_name_and_what_it_means_is_told_of_both() -> None:
    assert concerned(["db.get", "old.get"], TABLE, {}) == (
        Concerned("old.get", "db.get", HIDES, ""),
        Concerned("old.get", "db.get", REACHES, ""),
        Concerned("store.get", "db.get", REACHES, ""),
    )


def test_nobody_is_concerned_by_names_that_only_look_alike() -> None:
    assert concerned({"db", "get", "db.get.more", "DB.get", "store"}, TABLE, {}) == ()
    assert concerned((), TABLE, {}) == concerned({"db.get"}, {}, {}) == ()


NAMES = st.sampled_from(["a", "b", "c.d", "e-f", "g"])


@given(st.sets(NAMES), st.dictionaries(NAMES, st.lists(NAMES, unique=True)), st.dictionaries(NAMES, st.just("shop")))
def test_each_pair_is_told_once_for_each_end_that_is_provided(
    provides: set[str], table: dict[str, list[str]], owners: dict[str, str]
) -> None:
    found = concerned(provides, table, owners)
    pairs = {(alias, key) for key, names in table.items() for alias in names}
    assert {(one.alias, one.key) for one in found if one.effect == HIDES} == {pair for pair in pairs if pair[0] in provides}
    assert {(one.alias, one.key) for one in found if one.effect == REACHES} == {pair for pair in pairs if pair[1] in provides}
    assert len(set(found)) == len(found)
    assert all(one.owner == owners.get(one.key, "") for one in found)
    assert list(found) == sorted(found, key=lambda one: (one.effect != HIDES, one.alias, one.key))

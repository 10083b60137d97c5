"""Budgets of connections: what the operator may set, and how an account counts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.budgets import (
    HOUR,
    LOOKUPS,
    MAX_DESTINATIONS,
    MINUTE,
    OTHERS,
    TO,
    Account,
    Budgets,
    BudgetTable,
    Spent,
    Window,
    parse_budgets,
)
from core_runtime.rules.egress import Refused


def code(found: Refused | None) -> str:
    return found.code if found is not None else ""


def test_choices_for_all_and_for_one() -> None:
    table = parse_budgets({"budgets": {"idle_s": 5}, "packs": {"a": {"connections": 2}}})
    assert isinstance(table, BudgetTable)
    assert (table.of("a").connections, table.of("a").idle_s) == (2, 5)
    assert (table.of("b").connections, table.of("b").idle_s) == (Budgets().connections, 5)
    assert parse_budgets({}) == BudgetTable()
    assert table.of("a").as_dict()["connections"] == 2


@pytest.mark.parametrize(
    ("document", "says"),
    [([], "object"), ({"x": 1}, "only"), ({"budgets": 5}, "budgets: expected an object"), ({"packs": 5}, "packs: expected an object"),
     ({"packs": {"a": []}}, "packs/'a'"), ({"budgets": {"nope": 1}}, "'nope' is none of"), ({"budgets": {"connections": 1.5}}, "whole number"),
     ({"budgets": {"connections": 257}}, "at most 256"), ({"budgets": {"connections": 0}}, "above 0"), ({"budgets": {"idle_s": True}}, "number"),
     ({"budgets": {"idle_s": "5"}}, "number"), ({"budgets": {"idle_s": float("nan")}}, "number"), ({"budgets": {"idle_s": 86_401}}, "at most 86400"),
     ({"budgets": {"bytes_per_hour": -1}}, "above 0")],
)  # fmt: skip
def test_choices_that_can_not_be_used_are_named(document: Any, says: str) -> None:
    found = parse_budgets(document)
    assert isinstance(found, str)
    assert says in found


def test_a_window_starts_with_its_first_entry_and_ends_by_itself() -> None:
    window = Window(60)
    assert (window.value(5), window.left_s(5)) == (0, 0)
    assert window.add(3, 100) == 3
    assert (window.add(4, 159.9), window.left_s(159)) == (7, 1)
    assert window.value(160) == 0
    assert window.add(1, 161) == 1


def test_an_account_refuses_by_the_budget_that_is_used_up() -> None:
    account, limits = Account(), Budgets(connections=2, connections_per_minute=3, bytes_per_hour=100, bytes_per_hour_and_host=60, lookups_per_minute=1)
    assert code(account.open("a", 2, limits, 0)) == "budget.connections"
    assert [code(account.open("a", 0, limits, 0)) for _ in range(4)] == ["", "", "", "budget.connections_per_minute"]
    account.count("a", 30, 30, 1)
    assert code(account.open("a", 0, limits, 70)) == "budget.bytes_per_hour_and_host"
    assert code(account.open("b", 0, limits, 70)) == ""
    account.count("b", 40, 0, 71)
    assert code(account.open("c", 0, limits, 72)) == "budget.bytes_per_hour"
    assert code(account.exceeded("a", limits, 3_700)) == ""
    assert [code(account.lookup(limits, at)) for at in (0, 1, 60)] == ["", "budget.lookups_per_minute", ""]
    assert (account.destinations["a"].bytes_up, account.destinations["a"].bytes_down, account.destinations["a"].connections) == (30, 30, 3)


def test_bytes_wait_for_their_turn_after_a_short_burst() -> None:
    account, limits = Account(), Budgets(bytes_per_s=1_000)
    assert account.wait_s(50, limits, 100) == 0
    assert account.wait_s(100, limits, 100) == pytest.approx(0.1)
    assert account.wait_s(100, limits, 100) == pytest.approx(0.2)
    assert account.wait_s(100, limits, 100.25) == pytest.approx(0.05)
    assert account.wait_s(10, limits, 200) == 0


def test_many_destinations_are_counted_together() -> None:
    account = Account()
    for number in range(MAX_DESTINATIONS + 10):
        account.count(f"h{number}", 1, 0, 0)
    assert len(account.destinations) == MAX_DESTINATIONS + 1
    assert account.destinations[OTHERS].bytes_up == 10


LIMITS = Budgets(bytes_per_hour=1_600, bytes_per_hour_and_host=800, connections_per_minute=16, lookups_per_minute=32)
MOVES = st.lists(
    st.one_of(
        st.tuples(st.just("bytes"), st.sampled_from(["a", "b"]), st.integers(1, 300)),
        st.tuples(st.sampled_from(["open", "lookup"]), st.sampled_from(["a", "b"]), st.just(1)),
        st.tuples(st.just("wait"), st.just(""), st.integers(1, 40)),
        st.tuples(st.just("killed"), st.just(""), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(MOVES)
def test_a_copy_says_at_least_what_was_spent_and_at_most_a_step_more(moves: list[tuple[str, str, int]]) -> None:
    """Against an account that lives through everything: whoever is killed and restored never has spent less."""
    account, whole, copy, now = Account(), Account(), Spent(), 1_000.0
    for kind, host, amount in moves:
        if kind == "wait":
            now += amount
        elif kind == "killed":
            saved_at, now = now, now + amount
            account = Account()
            account.restore({name: (age + now - saved_at, total) for name, (age, total) in copy.items()}, now)
        else:
            for one in (account, whole):
                refused = None
                if kind == "bytes":
                    one.count(host, amount, 0, now)
                elif kind == "open":
                    refused = one.open(host, 0, LIMITS, now)
                else:
                    refused = one.lookup(LIMITS, now)
                if refused is not None:  # the one that was restored refuses first, and what it refuses is not spent
                    break
        if not account.is_kept("a", now) or not account.is_kept("b", now):
            copy = account.ahead(LIMITS, now)
            account.kept(copy, now)
        else:
            copy = account.spent(now)
        assert account.is_kept("a", now)
        assert account.is_kept("b", now)
        steps = {HOUR: 100, MINUTE: 1, LOOKUPS: 2, TO + "a": 50, TO + "b": 50}
        for name, (_, spent) in account.spent(now, exactly=True).items():
            assert spent <= copy[name][1] <= spent + steps[name]
        known = account.spent(now)
        assert all(known[name][1] >= spent for name, (_, spent) in whole.spent(now, exactly=True).items())


def test_a_killed_host_buys_nothing() -> None:
    """Twenty kills within a minute: together no more than one minute's budget is admitted."""
    admitted, copy, now = 0, Spent(), 0.0
    for _ in range(20):
        account = Account()
        account.restore(copy, now)
        for _ in range(3):
            refused = account.lookup(LIMITS, now)
            if refused is None and not account.is_kept("a", now):
                copy = account.ahead(LIMITS, now)
                account.kept(copy, now)
            admitted += refused is None
    assert LIMITS.lookups_per_minute // 2 <= admitted <= LIMITS.lookups_per_minute


def test_a_copy_whose_time_is_over_says_nothing() -> None:
    account = Account()
    account.restore({HOUR: (3_600.0, 5), MINUTE: (59.0, 5), LOOKUPS: (-1.0, 5), TO + "a": (3_599.0, 7), "of a later version": (0.0, 1)}, 10_000)
    assert account.spent(10_000) == {MINUTE: (59.0, 5), TO + "a": (3_599.0, 7)}
    assert account.spent(10_002) == {}


def test_what_holds_unless_the_operator_says_otherwise() -> None:
    """As ``docs/reference/egress.md`` tells it."""
    assert Budgets().as_dict() == {
        "connections": 32, "connections_per_minute": 600, "lookups_per_minute": 120, "bytes_per_s": 64 * 2**20, "bytes_per_hour": 2**30,
        "bytes_per_hour_and_host": 2**30, "connect_s": 15, "idle_s": 120, "total_s": 21_600, "response_bytes": 256 * 2**20, "request_bytes": 64 * 2**20,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "most"),
    [("connections", 256), ("connections_per_minute", 10**6), ("lookups_per_minute", 10**6), ("connect_s", 300), ("idle_s", 86_400), ("total_s", 2_592_000)],
)  # fmt: skip
def test_the_most_that_an_operator_may_choose_is_told(name: str, most: int) -> None:
    table = parse_budgets({"budgets": {name: most}})
    assert isinstance(table, BudgetTable)
    assert table.of("any").as_dict()[name] == most
    assert f"at most {most}" in str(parse_budgets({"budgets": {name: most + 1}}))

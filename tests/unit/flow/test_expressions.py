"""Expressions: what they can see, what they cost, and what a machine without the engine says."""

from __future__ import annotations

import os

import pytest

from core_runtime.drivers import cel
from core_runtime.rules.flow import values
from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.flow.scope import Scope
from core_runtime.rules.flow.values import ExpressionFailed, ValueProblem, compile_value
from tests.support.flows import Playbook


@pytest.fixture(autouse=True)
def engine(no_engine: None) -> None:
    assert cel.available() == ""
    values.use(cel.compile_expression)


SCOPE = Scope({
    "n": 3, "text": "a b", "order": {"items": [{"price": 2, "name": "x"}, {"price": 5, "name": "y"}], "paid": True},
    "item": {"name": "outer"}, "nothing": None, "octets": b"ab",
})  # fmt: skip


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("${n + 1}", 4),
        ("${n > 2 && order.paid}", True),
        ("${order.items.map(item, item.price)}", [2, 5]),
        ("${order.items.filter(i, i.price > 3)[0].name}", "y"),
        ("${has(order.refund) ? 1 : 2}", 2),
        ("${has(order.paid) && order.paid}", True),
        ("${text.startsWith('a}') || text.contains(\"b\")}", True),
        ("${{'a': n, 'b': [n]}}", {"a": 3, "b": [3]}),
        ("${order.missing == null}", True),
        ("${nothing == null ? 'none' : 'some'}", "none"),
        ("${size(octets)}", 2),
        ("n is ${n * 2}, text is ${text}", "n is 6, text is a b"),
        ("$${n + 1}", "${n + 1}"),
        ("${timestamp('2020-01-01T00:00:00Z')}", "2020-01-01T00:00:00+00:00"),
        ("${duration('90s')}", 90.0),
        ("${order.items[n - 2].price}", 5),
    ],
)
def test_values_of_expressions(source, expected):
    assert compile_value(source).get(SCOPE.lookup) == expected


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("${n + text}", "overload"),
        ("${1 / (n - 3)}", "divide by zero"),
        ("${order.items[9]}", "index=9 size=2"),
        ("${size(n)}", "overload"),
    ],
)
def test_an_evaluation_that_fails_says_why(source, said):
    with pytest.raises(ExpressionFailed, match=said):
        compile_value(source).get(SCOPE.lookup)


@pytest.mark.parametrize(
    "source",
    ["${n +}", "${open('/etc/passwd')}", "${n.__class__()}", "${import os}", "${[]]}", "${}", "${" + "n+" * 2000 + "n}",
     "${n + 1", "${getenv('HOME')}", "${" + " + ".join(f"a{i}" for i in range(40)) + "}"],
)  # fmt: skip
def test_what_is_no_expression_is_a_problem_of_the_document(source):
    with pytest.raises(ValueProblem):
        compile_value(source)


def test_nothing_of_the_machine_can_be_reached():
    os.environ["RUMI_PLANTED"] = "secret"
    for source in ("${env.RUMI_PLANTED == null}", "${os.environ == null}", "${n.__class__ == null}", "${input == null}"):
        assert compile_value(source).get(SCOPE.lookup) is True


def test_endless_iteration_and_backtracking_are_bounded():
    big = Scope({"a": list(range(900)), "b": list(range(900, 1800)), "t": "a" * 5000 + "b"})
    with pytest.raises(ExpressionFailed, match="budget"):
        compile_value("${a.filter(x, b.exists(y, x == y))}").get(big.lookup)
    assert compile_value("${t.matches('^(a+)+$')}").get(big.lookup) is False


@pytest.mark.parametrize(
    ("expression", "length"),
    [
        ("${a.map(x, s + s)}", 1_000), ("${size(a.map(x, [x]).map(x, [x]).map(x, [x]))}", 1_500),
        ("${a.map(x, [x, x])}", 2_001), ("${(a + a).map(x, x)}", 1_500), ("${size(s + s + s + s + s)}", 1),
        ("${a.map(x, m)}", 1_000), ("${a.map(x, a.map(y, s + s))}", 90),
    ],
)  # fmt: skip
def test_what_an_expression_could_put_together_is_bounded_in_bytes_and_in_time(expression, length):
    """The engine bounds iterations only: the first of these took 12 s and 4 GB on the event loop."""
    many = [{str(n): n for n in range(10)} for _ in range(200)]
    scope = Scope({"a": list(range(length)), "s": "x" * 8_000_000, "m": many})
    value = compile_value(expression)
    with pytest.raises(ExpressionFailed, match=r"at most|more than"):
        value.get(scope.lookup)


def test_usual_lists_and_texts_are_far_from_the_bounds():
    orders = [{"p": n, "n": "x" * 1_000} for n in range(1_000)]
    scope = Scope({"a": orders, "s": "y" * 1_000_000})
    assert len(compile_value("${a.filter(i, i.p > 3).map(i, i.n)}").get(scope.lookup)) == 996
    assert compile_value("${size(s + s)}").get(scope.lookup) == 2_000_000


def test_numbers_beyond_the_engine_are_named():
    with pytest.raises(ExpressionFailed, match="range"):
        compile_value("${big > 1}").get(Scope({"big": 2**70}).lookup)


def test_only_what_is_selected_is_bound():
    seen: list[tuple[str, ...]] = []

    def lookup(path: tuple[str, ...]) -> object:
        seen.append(path)
        return SCOPE.lookup(path)

    assert compile_value("${order.paid && n > 1 && item.name == 'outer'}").get(lookup) is True
    assert seen == [("order", "paid"), ("n",), ("item", "name")]


def test_an_expression_that_fails_is_a_failure_of_its_step():
    play = Playbook(
        "flow: f\nsteps: [{id: a, call: k, when: '${input.n > 1}'}, {id: b, call: k, with: '${1 / input.n}'}]",
        {"k": lambda args: args}, values={"n": 0},
    )  # fmt: skip
    assert play.run().status is RunStatus.DEGRADED
    assert (play.status("a"), play.status("b"), play.results["b"].error.type) == ("skipped", "failed", "expression")


def test_without_the_engine_a_richer_document_is_refused_by_name():
    values.use(None)
    with pytest.raises(ValueProblem, match="CEL"):
        compile_value("${n + 1}")
    assert compile_value("${order.paid}").get(SCOPE.lookup) is True

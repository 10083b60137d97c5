"""Order of steps, and names that lead nowhere."""

import pytest

from backend_core.errors import AuthorError
from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import plan_flow


def plan(*steps, layer=model.Layer.CORE, **flow):
    document = {"flow": "t", "steps": [{"call": "k", **step} for step in steps], **flow}
    return plan_flow(parse_flow(document, source="t", layer=layer))


def order(*steps, **flow):
    return [step.id for _, block in plan(*steps, **flow).phases for step in block]


def test_phase_then_order_then_place():
    phases = ["one", "two"]
    steps = [
        {"id": "d", "phase": "two"}, {"id": "b", "phase": "one", "order": 2}, {"id": "c", "phase": "one", "order": 2},
        {"id": "a", "phase": "one", "order": 1},
    ]  # fmt: skip
    assert order(*steps, phases=phases) == ["a", "b", "c", "d"]


def test_needs_move_a_step_back():
    assert order({"id": "a", "needs": ["c"]}, {"id": "b"}, {"id": "c"}) == ["b", "c", "a"]


def test_needs_inside_blocks():
    inner = [{"id": "y", "call": "k", "needs": ["x"]}, {"id": "x", "call": "k"}]
    flow = parse_flow({"flow": "t", "steps": [{"id": "o", "do": inner}]}, source="t")
    [outer] = plan_flow(flow).flow.steps
    assert isinstance(outer.action, model.Do)
    assert [step.id for step in outer.action.steps] == ["x", "y"]


@pytest.mark.parametrize(
    ("steps", "flow", "said"),
    [
        ([{"id": "a", "needs": ["bb"]}, {"id": "bbb"}], {}, "Did you mean 'bbb'"),
        ([{"id": "a", "needs": ["b"]}, {"id": "b", "needs": ["a"]}], {}, "need each other in a circle: a, b"),
        ([{"id": "a", "phase": "sandbx"}], {"phases": ["sandbox"]}, "Did you mean 'sandbox'"),
        ([{"id": "a"}], {"phases": ["p"]}, "belongs to one; 'a' names none"),
        ([{"id": "a", "phase": "p"}], {}, "the flow lists no phases"),
        ([{"id": "a", "phase": "p"}], {"phases": ["p", "p"]}, "listed twice"),
        (
            [{"id": "a", "phase": "p", "needs": ["b"]}, {"id": "b", "phase": "q"}],
            {"phases": ["p", "q"]},
            "a later phase",
        ),
    ],
)
def test_names_that_lead_nowhere(steps, flow, said):
    with pytest.raises(AuthorError) as caught:
        plan(*steps, **flow)
    assert any(said in problem["text"] for problem in caught.value.fields["problems"])


def test_kernel_handlers_are_callable_from_official_flows_only():
    assert plan({"id": "a", "call": "kernel:x"}).handlers == {"kernel:x"}
    for layer in (model.Layer.ECOSYSTEM, model.Layer.USER):
        with pytest.raises(AuthorError, match="official flows only"):
            plan({"id": "a", "call": "k", "finally": [{"call": "kernel:x"}]}, layer=layer)

"""The drawing of a flow, for outlines that nobody drew by hand."""

from __future__ import annotations

from itertools import count, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.flow_graph import NARROW, STEPS_MOST, WIDE, Box, Paper, clipped, draw

KINDS = ("do", "branch", "when", "default", "catch", "finally")


def numbered(groups: list[Any]) -> list[Any]:
    numbers = count()

    def step(shape: Any) -> dict[str, Any]:
        by, lanes = shape
        number = next(numbers)
        made = [{"kind": kind, "words": words, "steps": [step(one) for one in steps]} for kind, words, steps in lanes]
        return {"number": number, "id": f"s{number}", "by": by, "changed": False, "lanes": made}

    return [{"kind": kind, "words": words, "steps": [step(one) for one in steps]} for kind, words, steps in groups]


LEAF = st.tuples(st.sampled_from([(), ("other",)]), st.just([]))
STEP = st.recursive(
    LEAF,
    lambda inner: st.tuples(
        st.sampled_from([(), ("other",)]),
        st.lists(st.tuples(st.sampled_from(KINDS), st.text(max_size=5), st.lists(inner, max_size=3)), max_size=5),
    ),
    max_leaves=20,
)
GROUPS = st.lists(st.tuples(st.sampled_from(("phase", "catch", "finally")), st.text(max_size=3), st.lists(STEP, max_size=4)), max_size=4)


def inside(inner: Box, outer: Any) -> bool:
    return inner.x >= outer.x and inner.y >= outer.y and inner.x + inner.width <= outer.x + outer.width and inner.y + inner.height <= outer.y + outer.height


def apart(a: Box, b: Box) -> bool:
    return a.x + a.width <= b.x or b.x + b.width <= a.x or a.y + a.height <= b.y or b.y + b.height <= a.y


@pytest.mark.parametrize("size", [WIDE, NARROW])
@given(shapes=GROUPS)
def test_every_step_is_drawn_once_apart_from_others_and_inside(size: Paper, shapes: list[Any]) -> None:
    groups = numbered(shapes)
    drawing = draw(groups, size)
    assert drawing is not None
    paper = Box(0, 0, drawing.width, drawing.height, "paper")
    numbers = [node.step["number"] for node in drawing.nodes if node.step]
    assert sorted(numbers) == list(range(len(numbers)))
    assert all(inside(box, paper) for box in (*drawing.nodes, *drawing.boxes))
    assert all(apart(a, b) for index, a in enumerate(drawing.nodes) for b in drawing.nodes[:index])
    for index, box in enumerate(drawing.boxes):
        for other in drawing.boxes[:index]:
            assert apart(box, other) or inside(box, other) or inside(other, box)
        assert all(apart(box, node) or inside(node, box) for node in drawing.nodes)
    for arrow in drawing.arrows:
        assert all(before[1] <= after[1] for before, after in pairwise(arrow))
        assert arrow[0][1] < arrow[-1][1]
        assert all(0 <= x <= paper.width and 0 <= y <= paper.height for x, y in arrow)
    assert draw(groups, size) == drawing


def test_a_graph_that_nobody_could_read_is_not_drawn() -> None:
    assert draw(numbered([("phase", "", [((), [])] * STEPS_MOST)])) is not None
    assert draw(numbered([("phase", "", [((), [])] * (STEPS_MOST + 1))])) is None
    assert draw(numbered([("phase", "", [((), [("branch", "b", [((), [])])] * STEPS_MOST)])])) is None


@given(st.text(), st.integers(1, 40))
def test_text_is_clipped_to_columns(text: str, columns: int) -> None:
    found = clipped(text, columns)
    assert found == text or found.endswith("…")
    assert len(found) <= columns

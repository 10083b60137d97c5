"""Where each step of a flow stands on a drawing: boxes within boxes, from the top down. Pure.

Steps of a block stand below each other with an arrow between them; the lanes of a step (branches, cases, a block, what
catches its errors) stand side by side inside its box and go on in a further row where a row is full.

Invariants:
  * Every step has one box; boxes of steps never overlap, and what belongs to a box lies inside it.
  * The same outline gives the same drawing. At most ``STEPS_MOST`` steps are drawn.

Not here: colours and words (the template), the outline (``core_runtime.rules.flow.outline``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

STEPS_MOST: Final = 200
"""A larger graph is not read by anybody; the table has every step."""
WIDTH: Final = 200
HEIGHT: Final = 46
LINE: Final = 16
"""What a third line in a step's box adds."""
GAP: Final = 24
ASIDE: Final = 12
TITLE: Final = 24

Outline = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Paper:
    """``row``: how wide a row of lanes grows before the next one begins, where no single lane is wider."""

    row: int
    padding: int


WIDE: Final = Paper(700, 12)
NARROW: Final = Paper(0, 7)
"""For a screen of 320 px: lanes stand below each other."""


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle. ``kind``: of a step ``step`` or ``block``, else that of the lane or group that it frames."""

    x: int
    y: int
    width: int
    height: int
    kind: str
    title: str = ""
    words: str = ""
    sealed: bool = False
    step: Outline | None = None

    @property
    def middle(self) -> int:
        """Where arrows meet it."""
        return self.x + self.width // 2


@dataclass(slots=True)
class Drawing:
    """``boxes``: frames of groups, blocks and lanes, outer ones first; ``nodes``: one for each step."""

    width: int = 0
    height: int = 0
    boxes: list[Box] = field(default_factory=list)
    nodes: list[Box] = field(default_factory=list)
    arrows: list[tuple[tuple[int, int], ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Lane:
    width: int
    height: int
    lane: Outline
    steps: tuple[_Step, ...]


@dataclass(frozen=True, slots=True)
class _Step:
    width: int
    height: int
    step: Outline
    rows: tuple[tuple[_Lane, ...], ...]

    @property
    def own(self) -> int:
        """How high the step's own box is."""
        return HEIGHT + (LINE if self.step["by"] or self.step["changed"] else 0)


def draw(groups: Sequence[Outline], paper: Paper = WIDE) -> Drawing | None:
    """The whole outline; None where it has more than ``STEPS_MOST`` steps."""
    if sum(_count(group["steps"]) for group in groups) > STEPS_MOST:
        return None
    pen = _Pen(paper, Drawing())
    pen.groups(groups)
    return pen.drawing


def clipped(text: str, columns: int) -> str:
    """As much of ``text`` as fits into so many columns."""
    used = 0
    for index, letter in enumerate(text):
        used += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if used > columns:
            kept = text[:index]
            while kept and _columns(kept) >= columns:
                kept = kept[:-1]
            return f"{kept}…"
    return text


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _count(steps: Sequence[Outline]) -> int:
    return sum(1 + sum(_count(lane["steps"]) for lane in step["lanes"]) for step in steps)


def _across(row: Sequence[_Lane]) -> int:
    return sum(lane.width for lane in row) + ASIDE * (len(row) - 1)


@dataclass(frozen=True, slots=True)
class _Pen:
    paper: Paper
    drawing: Drawing

    def groups(self, groups: Sequence[Outline]) -> None:
        drawing = self.drawing
        framed = len(groups) > 1 or any(group["words"] or group["kind"] != "phase" for group in groups)
        lanes = [self._lane(group, framed=framed) for group in groups]
        width = max((lane.width for lane in lanes), default=0)
        y, before = 1, None
        for lane in lanes:
            x = 1 + (width - lane.width) // 2
            if framed:
                box = self._frame(lane, x, y)
                if before is not None and box.kind == "phase":
                    drawing.arrows.append(((before.middle, before.y + before.height), (box.middle, box.y)))
                before = box
            self._column(lane, x, y + (TITLE if framed else 0))
            y += lane.height + GAP
        drawing.width, drawing.height = width + 2, y - GAP + 1 if lanes else 0

    # --- how large

    def _lane(self, lane: Outline, *, framed: bool = True) -> _Lane:
        steps = tuple(map(self._step, lane["steps"]))
        around = 2 * self.paper.padding if framed else 0
        width = max((step.width for step in steps), default=WIDTH) + around
        height = sum(step.height for step in steps) + GAP * max(0, len(steps) - 1)
        return _Lane(width, height + (TITLE + self.paper.padding if framed else 0), lane, steps)

    def _step(self, step: Outline) -> _Step:
        rows: list[list[_Lane]] = []
        for lane in map(self._lane, step["lanes"]):
            if not rows or _across(rows[-1]) + ASIDE + lane.width > self.paper.row:
                rows.append([])
            rows[-1].append(lane)
        found = _Step(WIDTH, 0, step, tuple(map(tuple, rows)))
        if not rows:
            return replace(found, height=found.own)
        width = max(WIDTH, *map(_across, rows)) + 2 * self.paper.padding
        below = sum(max(lane.height for lane in row) + GAP for row in rows)
        return replace(found, width=width, height=found.own + below + 2 * self.paper.padding)

    # --- where

    def _frame(self, lane: _Lane, x: int, y: int) -> Box:
        about = lane.lane
        sealed = bool(about.get("sealed"))
        box = Box(x, y, lane.width, lane.height, about["kind"], about["kind"], about["words"], sealed)
        self.drawing.boxes.append(box)
        return box

    def _column(self, lane: _Lane, x: int, y: int) -> None:
        """The steps of a lane below each other, in its middle."""
        middle, end = x + lane.width // 2, None
        for step in lane.steps:
            if end is not None:
                self.drawing.arrows.append(((middle, end), (middle, y)))
            self._place(step, middle, y)
            end = y + step.height
            y = end + GAP

    def _place(self, step: _Step, middle: int, y: int) -> None:
        if not step.rows:
            self._node(step, middle, y)
            return
        block = Box(middle - step.width // 2, y, step.width, step.height, "block", step=step.step)
        self.drawing.boxes.append(block)
        node = self._node(step, middle, y + self.paper.padding)
        y = node.y + node.height + GAP
        for number, row in enumerate(step.rows):
            x = middle - _across(row) // 2
            for lane in row:
                box = self._frame(lane, x, y)
                if number == 0:
                    self.drawing.arrows.append(_bent(node, box))
                self._column(lane, x, y + TITLE)
                x += lane.width + ASIDE
            y += max(lane.height for lane in row) + GAP

    def _node(self, step: _Step, middle: int, y: int) -> Box:
        node = Box(middle - WIDTH // 2, y, WIDTH, step.own, "step", step=step.step)
        self.drawing.nodes.append(node)
        return node


def _bent(node: Box, box: Box) -> tuple[tuple[int, int], ...]:
    """From a step down, aside, and down to a lane."""
    start, end = node.y + node.height, box.y
    if node.middle == box.middle:
        return (node.middle, start), (box.middle, end)
    turn = start + (end - start) // 2
    return (node.middle, start), (node.middle, turn), (box.middle, turn), (box.middle, end)

"""Style A: ``{flow_version: "2.0", defaults, pipelines{name: [step]}}``; each pipeline is a flow of that name. Pure.

Several files write to one pipeline: in their order, a step whose id is there already takes its place, any other goes to
the end. The pipeline is the host's or the operator's where one of their files has it, else the Pack's that was approved
with it first; what a Pack's file does to another's needs ``flow.modify``, as a modifier would, wherever it stands.

Not here: the order of files (``merged`` is given them in order).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from msgspec import Struct, field

from backend_core.errors import AuthorError, quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.changes import Change, Status
from core_runtime.rules.flow.compose import Base
from core_runtime.rules.flow.older.writing import Step, Style, Writing
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.parse_scalars import MAX_STEPS, Path, Supplied, Where, invalid
from core_runtime.rules.flow.parse_steps import FLOW_ID
from core_runtime.rules.flow.plan import plan_flow

VERSION: Final = "2.0"
WORDS: Final = frozenset({"flow_version", "defaults", "pipelines", "description", "metadata"})
STEP_WORDS: Final = frozenset({"id", "description", "optional", "run", "on_error"})
MISSING: Final[Mapping[str, str]] = {"skip": "skip", "error": "fail"}
ACTIONS: Final[Mapping[str, str]] = {"continue": "continue", "abort": "fail", "disable_target": "continue"}
MayModify = Callable[[str, str], bool]
Since = Callable[[str, str], float]
"""When a Pack was approved with a flow, infinity where nobody knows."""


class Piece(Struct, frozen=True):
    """One step of one file. ``disables``: where it fails, what it calls is not called again in that run."""

    step: Step
    at: Path
    disables: bool


class Pipelines(Struct, frozen=True, eq=False):
    """What one file says: pipeline → its steps in order."""

    source: str
    layer: model.Layer
    pack: str
    where: Where
    defaults: Mapping[str, str]
    pieces: Mapping[str, tuple[Piece, ...]]


def read_pipelines(
    document: Mapping[str, Any], *, source: str, where: Where, layer: model.Layer, pack: str
) -> Pipelines:
    """Understand one file, or raise ``AuthorError`` (code ``flow_invalid``) with every problem."""
    reader = _Reader(source, where, pack)
    found = reader.pipelines(document, layer)
    if reader.problems:
        raise invalid(source, reader.problems)
    for name, pieces in found.pieces.items():  # a file that is wrong by itself is refused by itself
        plan_flow(_flow(name, found, [(found, piece) for piece in pieces])[1])
    return found


@dataclass(slots=True)
class _Reader(Writing):
    def pipelines(self, document: Mapping[str, Any], layer: model.Layer) -> Pipelines:
        self.vocabulary(document, (), WORDS, "a document of pipelines")
        version = document.get("flow_version", VERSION)
        if version not in (VERSION, 2, 2.0):
            self.problem(("flow_version",), f"expected {VERSION!r}, got {quote(version, 40)}")
        pieces: dict[str, tuple[Piece, ...]] = {}
        for name, steps in self.map_of(document.get("pipelines"), ("pipelines",)).items():
            at: Path = ("pipelines", name)
            if not FLOW_ID.match(name):
                self.problem(at, f"expected dotted lower-case words as a pipeline's name, got {quote(name, 60)}")
            pieces[name] = self._pieces(self.list_of(steps, at), at)
        return Pipelines(self.source, layer, self.pack, self.where, self._defaults(document), pieces)

    def _defaults(self, document: Mapping[str, Any]) -> Mapping[str, str]:
        at: Path = ("defaults",)
        entry = self.map_of(document.get("defaults", {}), at)
        self.vocabulary(entry, at, {"fail_soft", "on_missing_handler"}, "defaults")
        soft = self.flag(entry.get("fail_soft", True), (*at, "fail_soft"))
        missing = self.choice(entry.get("on_missing_handler", "skip"), (*at, "on_missing_handler"), MISSING)
        return {"on_error": "continue" if soft else "fail", "on_missing": missing}

    def _pieces(self, steps: list[Any], at: Path) -> tuple[Piece, ...]:
        found: list[Piece] = []
        seen: set[str] = set()
        for index, raw in enumerate(steps):
            here: Path = (*at, index)
            piece = self._piece(self.map_of(raw, here), here, index)
            if piece.step["id"] in seen:
                self.problem(here, f"the id {piece.step['id']!r} is used twice in this pipeline")
            seen.add(piece.step["id"])
            found.append(piece)
        if not found:
            self.problem(at, "a pipeline needs at least one step")
        return tuple(found)

    def _piece(self, raw: Mapping[str, Any], at: Path, index: int) -> Piece:
        self.vocabulary(raw, at, STEP_WORDS, "a step of a pipeline")
        run = self.map_of(raw.get("run"), (*at, "run"))
        self.vocabulary(run, (*at, "run"), {"handler", "args"}, "run")
        step: Step = {"id": self.step_id(raw, at, index)}
        if raw.get("description"):
            step["about"] = self.text_of(raw["description"], (*at, "description"))
        handler = run.get("handler")
        if not isinstance(handler, str) or not handler:
            self.problem((*at, "run"), f"expected the name of a handler, got {quote(handler, 60)}")
        step["call"] = handler
        if run.get("args") is not None:
            step["with"] = self.value(run["args"], (*at, "run", "args"))
        if self.flag(raw.get("optional", False), (*at, "optional")):
            step |= {"on_error": "continue", "on_missing": "skip"}
        policy = self.map_of(raw.get("on_error", {}), (*at, "on_error"))
        self.vocabulary(policy, (*at, "on_error"), {"action"}, "on_error")
        action = policy.get("action")
        if action is not None:
            step["on_error"] = self.choice(action, (*at, "on_error", "action"), ACTIONS)
        return Piece(step, at, action == "disable_target")


# --- one flow from several files -------------------------------------------------------------------------------------

_Placed = tuple[Pipelines, Piece]


class Merged(Struct):
    """``bases``: a flow for each pipeline; ``refused``: pipelines that make no flow.

    ``rivals``: files of a pipeline of which none counts, since two Packs hold it without a right to each other's.
    """

    bases: list[Base] = field(default_factory=list)
    rivals: dict[str, list[str]] = field(default_factory=dict)
    refused: dict[str, AuthorError] = field(default_factory=dict)


def merged(
    files: Sequence[Pipelines], may_modify: MayModify, since: Since = lambda _pack, _flow: math.inf
) -> Merged:
    """The flows that files make together, in their order."""
    found = Merged()
    names = dict.fromkeys(name for one in files for name in one.pieces)
    for name in names:
        try:
            base = _merge(name, [one for one in files if name in one.pieces], may_modify, since, found.rivals)
        except AuthorError as error:
            found.refused[name] = error
            continue
        if base is not None:
            found.bases.append(base)
    return found


def _merge(
    name: str, files: Sequence[Pipelines], may_modify: MayModify, since: Since, rivals: dict[str, list[str]]
) -> Base | None:
    owner = _owner(name, files, since)
    strangers = [one for one in files if one.pack and one.pack != owner.pack and not may_modify(one.pack, name)]
    tied = [one for one in strangers if owner.pack and since(one.pack, name) == since(owner.pack, name)]
    if tied:
        rivals[name] = [owner.source, *(one.source for one in tied)]
        return None
    placed: list[_Placed] = []
    numbers: dict[str, int] = {}
    changes: list[Change] = []
    for one in files:
        refused = f"{one.pack} was not granted flow.modify for {name}" if one in strangers else ""
        if not refused and len(placed) + len(one.pieces[name]) > MAX_STEPS:
            refused = f"a flow has at most {MAX_STEPS} steps"
        found = [_placing(one, piece, placed, numbers, refused) for piece in one.pieces[name]]
        changes += found if refused or one is not owner else [change for change in found if change.op == "replace"]
    document, flow = _flow(name, owner, placed)
    plan_flow(flow)
    return Base(document, flow, Style.PIPELINES.value, tuple(changes))


def _owner(name: str, files: Sequence[Pipelines], since: Since) -> Pipelines:
    """The host's or the operator's first file, else that of the Pack which was approved with the pipeline first."""
    ours = next((one for one in files if not one.pack), None)
    return ours or min(files, key=lambda one: since(one.pack, name))


def _placing(one: Pipelines, piece: Piece, placed: list[_Placed], numbers: dict[str, int], refused: str) -> Change:
    """Put a step in its place, unless ``refused``; what became of it."""
    step_id = piece.step["id"]
    at = numbers.get(step_id)
    before = placed[at][1].step if at is not None else None
    if not refused and at is None:
        numbers[step_id] = len(placed)
        placed.append((one, piece))
    elif not refused and at is not None:
        placed[at] = one, piece
    return Change(
        one.source, "insert" if at is None else "replace", step_id, step_id,
        Status.REFUSED if refused else Status.APPLIED, refused, before, piece.step, source=one.source,
        line=one.where(piece.at)[0], pack=one.pack, layer=one.layer.name.lower(),
    )  # fmt: skip


def _flow(name: str, owner: Pipelines, placed: Sequence[_Placed]) -> tuple[Mapping[str, Any], model.Flow]:
    steps: list[Step] = []
    supplied: dict[Path, Supplied] = {}
    disabling: dict[str, str] = {}  # each such step needs the one before, so the last one stands for all
    for number, (one, piece) in enumerate(placed):
        step = dict(piece.step) if one is owner else {**one.defaults, **piece.step}
        if earlier := disabling.get(step["call"]):
            step["needs"] = [earlier]
        if piece.disables:
            disabling[step["call"]] = step["id"]
        steps.append(step)
        origin = model.Origin(one.source, *one.where(piece.at), one.pack, one.layer)
        supplied["steps", number] = Supplied(origin, (one.pack,) if one.pack else ())
    document = {
        "flow": name, "vars": "${input}", "defaults": {**owner.defaults, "on_absent": "run"}, "steps": steps,
    }  # fmt: skip
    at: Path = ("pipelines", name)
    flow = parse_flow(
        document, source=owner.source, where=lambda _path: owner.where(at), layer=owner.layer, supplied=supplied,
        pack=owner.pack,
    )  # fmt: skip
    return document, flow

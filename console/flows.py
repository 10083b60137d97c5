"""Pages about flows and their runs: what there is, why it is so, drawn and as a table; running one, going on with one.

Not here: where a step stands on the drawing (``flow_graph``), the form of a schema (``fields``), the page of a run that
goes on while the run does (``live``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import NotFoundError, RequestError
from console import live
from console.desk import Desk, actor
from console.fields import example_of, fields_of, same, value_of
from console.flow_graph import NARROW, STEPS_MOST, WIDE, draw
from console.live import MARKS
from console.text import argument
from core_runtime.api.operator import View
from core_runtime.rules.flow.parse_steps import FLOW_ID

RUNS: Final = 100
RUNS_OF_ONE: Final = 20
RANKS: Final = ("skipped", "ok", "cancelled", "timeout", "failed")
"""What a step that ran several times is shown as: the last of these that it ever was; under way before all of them."""


async def flows(desk: Desk, request: Request) -> Response:
    return desk.pages.render("flows.html", desk.reader(request), flows=await desk.host.flows())


async def flow(desk: Desk, request: Request) -> Response:
    """``without`` names a modifier: the difference that it makes."""
    found = await desk.host.flow(_flow_id(request))
    names = sorted({change["modifier"] for change in _changes(found)})
    without = request.query_params.get("without", "")
    difference = await desk.host.flow_difference(found["flow"], without) if without in names else None
    runs = [run for run in await desk.host.runs() if run["flow"] == found["flow"]]
    fields = fields_of(found["input"])
    outlined = {step["number"]: step for step in every(found["outline"])}
    steps = [{**step, **outlined[number]} for number, step in enumerate(found["steps"])]
    return desk.pages.render(
        "flow.html", desk.reader(request), flow=found, steps=steps, **_drawings(found["outline"]), states={},
        marks=MARKS, fields=fields, runs=runs[:RUNS_OF_ONE], names=names,
        without=without if difference is not None else "", difference=difference, example=argument(example_of(fields)),
    )  # fmt: skip


async def begin(desk: Desk, request: Request) -> Response:
    """What is refused is a page; a run that begins is shown as it goes."""
    flow_id = _flow_id(request)
    form = await desk.form(request)
    fields = fields_of((await desk.host.flow(flow_id))["input"])
    same(form, fields)
    values = value_of(form, fields)
    begun = await desk.host.begin_run(flow_id, values, actor=actor(request))
    if begun is None:
        return desk.done(request, "run_waits", _page(flow_id))
    return desk.done(request, "run_begun", f"/_rumi/runs/{begun['run_id']}")


async def resume(desk: Desk, request: Request) -> Response:
    await desk.form(request)
    run_id = str(request.path_params["run_id"])
    begun = await desk.host.resume_run(run_id)
    return desk.done(request, "run_waits" if begun is None else "run_resumed", f"/_rumi/runs/{quote(run_id, safe='')}")


async def runs(desk: Desk, request: Request) -> Response:
    found = await desk.host.runs()
    return desk.pages.render("runs.html", desk.reader(request), runs=found[:RUNS])


async def run(desk: Desk, request: Request) -> Response:
    """``live=1``: the page of a run that is under way goes on with it; only on request: it moves the text."""
    found = await desk.host.run(str(request.path_params["run_id"]))
    reader = desk.reader(request)
    going = found["status"] == "running"
    followed = going and request.query_params.get("live") == "1"
    shown = await drawn(desk, found)
    shown["states"] = states(found, shown["numbers"])
    if followed and live.streams(request, reader):
        return live.page(desk, reader, found, shown)
    output = found["output"]
    return desk.pages.render(
        "run.html", reader, run=found, going=going, live=followed, streams=False, marks=MARKS, **shown,
        output="" if output is None else json.dumps(output, ensure_ascii=False, indent=1),
    )  # fmt: skip


async def stylesheet(_desk: Desk, _request: Request) -> Response:
    """What lets a page that goes on change how its drawing looks: a line that comes names the step that it tells of."""
    return Response(STYLES, media_type="text/css", headers={"cache-control": "max-age=3600"})


async def drawn(desk: Desk, found: View) -> dict[str, Any]:
    """The drawing of a run's flow, where it is still the one that ran; ``numbers``: of its steps by path."""
    try:
        known = await desk.host.flow(found["flow"])
    except NotFoundError:
        return {"drawings": {}, "numbers": {}, "undrawn": "flow_graph_gone"}
    if known["digest"] != found["digest"]:
        return {"drawings": {}, "numbers": {}, "undrawn": "flow_graph_changed"}
    numbers = {step["path"]: step["number"] for step in every(known["outline"])}
    return {**_drawings(known["outline"]), "numbers": numbers, "undrawn": "flow_graph_large"}


def _drawings(outline: Sequence[View]) -> dict[str, Any]:
    """One for each width of a screen; which is seen is the stylesheet's."""
    drawn = {"wide": draw(outline, WIDE), "narrow": draw(outline, NARROW)}
    return {"drawings": {name: one for name, one in drawn.items() if one is not None}}


def states(found: View, numbers: Mapping[str, int]) -> dict[int, str]:
    """How each step of the flow itself is to be shown, by its number."""
    told: dict[int, str] = {}
    for step in found["steps"]:
        number = numbers.get(step["step"]) if step["flow"] == found["flow"] else None
        if number is not None:
            told[number] = max(told.get(number, RANKS[0]), step["status"], key=RANKS.index)
    going = (numbers[path] for path in found["going"] if path in numbers)
    return told | dict.fromkeys(going, "going")


def every(blocks: Iterable[View]) -> list[View]:
    """The steps of groups or lanes and all below them, as they are numbered."""
    return [one for block in blocks for step in block["steps"] for one in (step, *every(step["lanes"]))]


def _styles(numbers: Sequence[int]) -> str:
    shown = {
        state: f"--state:var(--{colour});" + "".join(_mark(mark, state) for mark in MARKS)
        for state, colour in (("going", "link"), *zip(RANKS, ("soft", "good", "wait", "bad", "bad"), strict=True))
    }
    plain = [f".node.s-{state}{{{rules}}}" for state, rules in shown.items()]
    told = [f"main:has(.at{n}.s-{state}) .node{n}{{{rules}}}" for state, rules in shown.items() for n in numbers]
    return "\n".join((*plain, *told)) + "\n"


def _mark(mark: str, state: str) -> str:
    return f"--{mark}:{'inline' if mark == state else 'none'};"


STYLES: Final = _styles(range(STEPS_MOST))


def _changes(found: View) -> list[View]:
    return [*found["changes"], *(change for step in found["steps"] for change in step["changes"])]


def _flow_id(request: Request) -> str:
    flow_id = str(request.path_params["flow_id"])
    if FLOW_ID.fullmatch(flow_id):
        return flow_id
    raise RequestError("This can't be a flow's id", code="flow_id_invalid", hint="Look at the list of flows.")


def _page(flow_id: str) -> str:
    return f"/_rumi/flows/{flow_id}"

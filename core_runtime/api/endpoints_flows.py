"""Routes about flows and their runs: what there is, why it is so, running it, going on with what was cut off."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Annotated, Any

import msgspec

from backend_core.errors import AuthorError, HostError, NotFoundError, PackError, RumiError, quote
from core_runtime.api.call import STEP_PATH, Call
from core_runtime.api.context import Api
from core_runtime.api.envelope import failure_body
from core_runtime.api.sse import EventStream, event, event_bytes
from core_runtime.api.table import OBJECT, OBJECTS, Endpoint
from core_runtime.diagnostics import fail_soft
from core_runtime.flow_composer import Says, read_document
from core_runtime.flow_reports import RunReport
from core_runtime.handlers.rehearsal import as_it_stands
from core_runtime.kernel import Kernel
from core_runtime.rules.flow import explain as explained
from core_runtime.rules.flow import model
from core_runtime.rules.flow import outline as outlined
from core_runtime.rules.flow.compose import Composition
from core_runtime.rules.flow.modifier import Modifier
from core_runtime.rules.flow.older.pipelines import Pipelines, merged
from core_runtime.rules.flow.parse_scalars import suggestion
from core_runtime.rules.flow.rehearse import rehearse
from core_runtime.rules.shown import plain
from core_runtime.tracing import entering

TIMEOUT_MOST_S = 86_400.0
_ROUTE = "POST /api/flows/{id}/run"


class RunFlow(msgspec.Struct, forbid_unknown_fields=True):
    """``input`` as the flow's schema asks for it; ``timeout`` in seconds."""

    input: Any = msgspec.field(default_factory=dict)
    timeout: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_MOST_S)] | None = None


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """A flow's or a modifier's text; ``name`` ends with .yaml or .json."""

    text: str
    name: str = "flow.yaml"


def _kernel(api: Api) -> Kernel:
    if api.kernel is None:
        raise HostError("Flows are not there yet", code="starting", detail="The host is still starting.")
    return api.kernel


def _flow_id(call: Call) -> str:
    return call.name("flow_id")


async def flows(api: Api, call: Call) -> Any:
    del call
    return await flows_as_shown(_kernel(api))


async def flows_as_shown(kernel: Kernel) -> list[dict[str, Any]]:
    """Every flow as it would run now."""
    found = await kernel.flows()
    return [_shown(kernel, flow_id, composition) for flow_id, composition in sorted(found.items())]


async def flow_explained(kernel: Kernel, flow_id: str) -> dict[str, Any]:
    """One flow with what it says, each step's origin and changes, and its steps as a tree."""
    found = await kernel.flow(flow_id)
    tree = outlined.as_data(outlined.outline(found))
    return {**_shown(kernel, flow_id, found), **explained.as_data(found), "outline": tree}


async def show(api: Api, call: Call) -> Any:
    kernel = _kernel(api)
    composition = await kernel.flow(_flow_id(call))
    return {**_shown(kernel, _flow_id(call), composition), "document": plain(composition.document)}


async def explain(api: Api, call: Call) -> Any:
    """``step`` narrows to one; ``without`` names a modifier: the difference that it makes.

    ``NotFoundError`` for a step that is not there.
    """
    kernel = _kernel(api)
    composition = await kernel.flow(_flow_id(call))
    found = explained.as_data(composition)
    step, without = call.text("step", STEP_PATH), call.text("without")
    if step:
        found["steps"] = [_step_of(found, step)]
    answer = {**found, "mermaid": explained.as_mermaid(composition)}
    if without:
        answer["difference"] = await kernel.difference(_flow_id(call), without)
    return answer


def _step_of(found: dict[str, Any], path: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {one["path"]: one for one in found["steps"]}
    if path not in paths:
        raise NotFoundError(
            f"The flow {found['flow']} has no step {quote(path, 80)}",
            code="step_unknown",
            detail=suggestion(path, paths).lstrip(),
            hint=f"A step is named by its path: rumi flow explain {found['flow']}",
        )
    return paths[path]


async def plan(api: Api, call: Call) -> Any:
    """What a run would call, with the interfaces, rights and Packs that it needs; nothing is called."""
    kernel = _kernel(api)
    needs = rehearse((await kernel.flow(_flow_id(call))).plan, kernel.plan_of)
    return await asyncio.to_thread(as_it_stands, api.host, needs, kernel.owner_of)


async def validate(api: Api, call: Call) -> Any:
    del api
    body = await call.body(Document)
    try:
        found = read_document(body.text.encode(), source=body.name[:200], layer=model.Layer.USER)
    except AuthorError as problem:
        problems = problem.fields.get("problems") or [
            {"line": problem.fields.get("line", 0), "column": problem.fields.get("column", 0), "text": problem.detail}
        ]
        return {"valid": False, "kind": "", "id": "", "style": "", "as_new": [], "problems": problems}
    return {"valid": True, "problems": [], **_named(found)}


def _named(found: Says) -> dict[str, Any]:
    """What a document is called, and its older style where it has one, with the same in the form of today."""
    if isinstance(found, Modifier):
        written = [plain(found.written)] if found.style else []
        return {"kind": "modifier", "id": found.id, "style": found.style, "as_new": written}
    bases = merged([found], lambda _pack, _flow: False).bases if isinstance(found, Pipelines) else [found]
    documents = [plain(base.document) for base in bases if base.style]
    names = ", ".join(base.flow.id for base in bases)
    return {"kind": "flow", "id": names, "style": bases[0].style, "as_new": documents}


async def run(api: Api, call: Call) -> Any:
    kernel, flow_id, actor = _kernel(api), _flow_id(call), call.actor
    body = await call.body(RunFlow)
    if call.wants_events:
        api.streams.admit()
        return EventStream(api.streams, _events(api, kernel, flow_id, body, actor, call.traceparent))
    work = _limited(kernel.run(flow_id, values=body.input, actor=actor), body.timeout)
    with entering(api.host.tracer, call.traceparent, _ROUTE, rumi_flow=flow_id):
        return _ran(await call.while_connected(work))


async def runs(api: Api, call: Call) -> Any:
    del call
    return await asyncio.to_thread(_kernel(api).runs.listed)


async def run_of(api: Api, call: Call) -> Any:
    report = await asyncio.to_thread(_kernel(api).runs.get, call.name("run_id"))
    return {**_ran(report), "answers": [_answer(api, one) for one in report.answers]}


async def resume(api: Api, call: Call) -> Any:
    return _ran(await call.while_connected(_kernel(api).resume(call.name("run_id"))))


async def cancel(api: Api, call: Call) -> Any:
    _kernel(api).runs.cancel(call.name("run_id"))
    return {"run_id": call.name("run_id"), "cancelled": True}


async def _limited(work: Any, timeout_s: float | None) -> RunReport:
    try:
        async with asyncio.timeout(timeout_s):
            report: RunReport = await work
            return report
    except TimeoutError:
        raise HostError(
            f"The run did not end within {timeout_s:g} s",
            code="timeout",
            detail="It was ended, with its finally steps.",
            hint="Give it more time, or let it be journalled and resume it.",
        ) from None


async def _events(
    api: Api, kernel: Kernel, flow_id: str, body: RunFlow, actor: str, traceparent: str
) -> AsyncGenerator[bytes, None]:
    """``item`` for each that the flow yields, then ``run`` with the report, or ``error``. Leaving ends the run."""
    items: asyncio.Queue[Any] = asyncio.Queue(1)
    run_of_it = _limited(kernel.run(flow_id, values=body.input, actor=actor, emit=items.put), body.timeout)
    work = asyncio.ensure_future(_traced(api, traceparent, flow_id, run_of_it))
    with fail_soft(api.host.diagnostics, "api:runFlow", "api", step_id=flow_id) as outcome:
        try:
            async for item in _until_done(items, work):
                yield event("item", plain(item))
            yield event("run", _ran(await work))
        except RumiError as exc:
            yield event_bytes("error", failure_body(exc))
        finally:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError, RumiError):  # its end is in the history of runs
                await work
    if not outcome.ok:
        yield event_bytes("error", failure_body(HostError("The host could not carry the run", code="internal")))


async def _traced(api: Api, traceparent: str, flow_id: str, work: Coroutine[Any, Any, RunReport]) -> RunReport:
    """``work`` in a task of its own, which the request's span lasts as long as."""
    with entering(api.host.tracer, traceparent, _ROUTE, rumi_flow=flow_id):
        return await work


async def _until_done(items: asyncio.Queue[Any], work: asyncio.Future[RunReport]) -> AsyncGenerator[Any, None]:
    """Every item that comes before ``work`` is done, and those that lie there then."""
    while not work.done():
        getting = asyncio.ensure_future(items.get())
        try:
            await asyncio.wait({getting, work}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                yield getting.result()
        finally:
            getting.cancel()
    while not items.empty():
        yield items.get_nowait()


def _ran(report: RunReport) -> dict[str, Any]:
    return {**report.as_dict(), "output": plain(report.output)}


def _answer(api: Api, answer: dict[str, Any]) -> dict[str, Any]:
    """What a run was answered with, without known secrets; what is no JSON is named."""
    try:
        return dict(plain(api.host.redactions.hide_any_in(answer)))
    except PackError as problem:
        return {"place": answer["place"], "value": {"_omitted": problem.detail}}


def _shown(kernel: Kernel, flow_id: str, composition: Composition) -> dict[str, Any]:
    flow = composition.plan.flow
    return {
        "flow": flow_id,
        "version": flow.version,
        "about": flow.about,
        "layer": flow.layer.name.lower(),
        "source": flow.origin.source,
        "pack": flow.origin.pack,
        "sealed": flow.is_sealed(),
        "journal": flow.journal.value,
        "input": dict(flow.input) if flow.input is not None else None,
        "digest": composition.digest,
        "style": composition.style,
        "on": kernel.triggers.shown(flow_id),
        "modifiers": sorted({change.modifier for change in composition.changes}),
    }


ENDPOINTS = (
    Endpoint("GET", "/api/flows", "listFlows", "Every flow as it would run now", flows, OBJECTS),
    Endpoint(
        "POST", "/api/flows/validate", "validateFlow", "Read the text of a flow or modifier: its problems, with places",
        validate, body=Document, body_required=True,
    ),
    Endpoint("GET", "/api/flows/{flow_id}", "showFlow", "One flow, composed", show, errors=(404,)),
    Endpoint(
        "GET", "/api/flows/{flow_id}/explain", "explainFlow",
        "Each step with its origin, who it acts as, and what modifiers did to it", explain, errors=(404,),
        texts=("step", "without"),
    ),
    Endpoint(
        "GET", "/api/flows/{flow_id}/plan", "planFlow", "What a run would call; calls nothing", plan, errors=(404,)
    ),
    Endpoint(
        "POST", "/api/flows/{flow_id}/run", "runFlow",
        "Run a flow to its end. Accept: text/event-stream: item for each that it yields, then run or error",
        run, OBJECT, body=RunFlow, errors=(400, 404, 409, 413, 422, 502, 504), events=True,
    ),
    Endpoint("GET", "/api/runs", "listRuns", "Runs, newest first; cut-off ones may be resumed", runs, OBJECTS),
    Endpoint("GET", "/api/runs/{run_id}", "showRun", "One run with its steps", run_of, errors=(400, 404)),
    Endpoint(
        "POST", "/api/runs/{run_id}/resume", "resumeRun", "Go on with a journalled run that was cut off", resume,
        errors=(400, 404, 409, 502, 504),
    ),
    Endpoint(
        "POST", "/api/runs/{run_id}/cancel", "cancelRun", "End a run; its finally steps run", cancel, errors=(404,)
    ),
)  # fmt: skip

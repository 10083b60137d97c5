"""Words about flows: what there is, why it is so, running one, what ran, going on with what was cut off."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.interfaces import parsed
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say

_MARGIN_S = 10.0
_RUN_S = 3600.0
_DOCUMENT_LIMIT_BYTES = 1 << 20


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("Flows: list, validate, run, explain, graph, plan, runs"))
def flow() -> None:
    pass


def _path(flow_id: str, word: str = "") -> str:
    return f"/api/flows/{quote(flow_id, safe='')}" + (f"/{word}" if word else "")


@flow.command("list", help=say("Every flow as it would run now."))
@json_option
def list_() -> None:
    found = link.ask("GET", "/api/flows")
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("flow", "version", "layer", "pack", "journal", "starts by", "modifiers"),
        [
            (one.get("flow"), one.get("version"), one.get("layer"), one.get("pack"), one.get("journal"),
             ", ".join(_trigger(trigger) for trigger in one.get("on") or []),
             ", ".join(map(str, one.get("modifiers") or [])))
            for one in found
        ],
    )  # fmt: skip
    show.next_step("./rumi flow explain FLOW")


@flow.command("validate", help=say("Read a flow's or modifier's file: every problem with line and column."))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as-new", is_flag=True, help=say("Print a document of an older style in the form of today."))
@json_option
def validate(file: Path, as_new: bool) -> None:  # noqa: FBT001
    if file.stat().st_size > _DOCUMENT_LIMIT_BYTES:
        raise click.UsageError(say("The file is larger than 1 MB."))
    name = file.name if file.name.endswith((".yaml", ".yml", ".json")) else f"{file.name}.yaml"
    text = file.read_text(encoding="utf-8", errors="replace")
    answer = link.ask("POST", "/api/flows/validate", {"text": text, "name": name})
    if show.wants_json():
        show.data(answer)
    else:
        for problem in answer.get("problems") or []:
            place = f"{file}:{problem.get('line')}:{problem.get('column')}"
            click.echo(f"{place}: {show.safe(problem.get('text'), 500)}")
    if not answer.get("valid"):
        raise Failure(say("{file} is not valid.", file=file), codes.FAILED)
    show.words(
        say("{file} is valid: {kind} {name}.", file=file, kind=answer.get("kind"), name=show.safe(answer.get("id")))
    )
    if as_new and not show.wants_json():
        for document in answer.get("as_new") or []:
            show.data(document)
    elif answer.get("style"):
        _older(answer["style"], f"./rumi flow validate {file} --as-new")


@flow.command("run", help=say("Run a flow with JSON input; `-` reads it from standard input."))
@click.argument("flow_id")
@click.argument("values", default="{}", metavar="[JSON]")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, 86400, min_open=True), help=say("Seconds to wait."))
@click.option("--stream", is_flag=True, help=say("Print items as they come, one JSON document a line."))
@json_option
def run(flow_id: str, values: str, timeout_s: float | None, stream: bool) -> None:  # noqa: FBT001
    body: dict[str, Any] = {"input": parsed(values)}
    if timeout_s is not None:
        body["timeout"] = timeout_s
    wait_s = (timeout_s or _RUN_S) + _MARGIN_S
    if stream:
        for event, item in link.stream(_path(flow_id, "run"), body, timeout_s=wait_s):
            if event == "item":
                show.line(item)
            elif event == "run":
                _ended(item)
        return
    _ended(link.ask("POST", _path(flow_id, "run"), body, timeout_s=wait_s))


@flow.command("explain", help=say("Each step: where it comes from, who it acts as, what modifiers did to it."))
@click.argument("flow_id")
@click.argument("step", default="")
@click.option("--without", metavar="MODIFIER", default="", help=say("Show the difference that one modifier makes."))
@click.option("--as-new", is_flag=True, help=say("Print the flow as it runs, as a document in the form of today."))
@json_option
def explain(flow_id: str, step: str, without: str, as_new: bool) -> None:  # noqa: FBT001
    if as_new:
        show.data(link.ask("GET", _path(flow_id)).get("document"))
        return
    query = "&".join(f"{name}={quote(text, safe='')}" for name, text in (("step", step), ("without", without)) if text)
    found = link.ask("GET", _path(flow_id, "explain") + (f"?{query}" if query else ""))
    if show.wants_json():
        show.data(found)
        return
    if without:
        click.echo("\n".join(show.safe(line, 500) for line in str(found.get("difference", "")).splitlines()))
        return
    show.pairs([("flow", found.get("flow")), ("version", found.get("version")), ("digest", found.get("digest"))])
    for one in found.get("steps") or []:
        origin = one.get("origin") or {}
        what = one.get("handler") or one.get("verb")
        place = show.safe(f"{origin.get('file')}:{origin.get('line')}", 200)
        from_where = f"{place} · {show.safe(origin.get('layer'), 20)} · {_actor(one, origin)}"
        show.section(show.safe(f"{one.get('path')}: {what}", 200), [from_where, *_changes(one)])
    if found.get("changes"):
        show.section(say("Changes that left no step"), _changes(found))
    if found.get("style"):
        _older(found["style"], f"./rumi flow explain {show.safe(flow_id)} --as-new")
    show.next_step(f"./rumi flow graph {show.safe(flow_id)}")


def _actor(one: Any, origin: Any) -> str:
    """Who a step acts as, in the console's words: Packs, the host for an official flow's, else the operator."""
    if packs := one.get("acts_as"):
        return ", ".join(show.safe(pack, 80) for pack in packs)
    return say("the host") if origin.get("layer") == "core" else say("the operator")


def _older(style: Any, command: str) -> None:
    name = show.safe(style)
    show.words(say("Written in an older style ({style}). In the form of today: {command}", style=name, command=command))


def _changes(one: Any) -> list[str]:
    return [
        show.safe(" · ".join(str(c[key]) for key in ("op", "modifier", "status", "why") if c.get(key)), 300)
        for c in one.get("changes") or []
    ]


@flow.command("graph", help=say("The flow as a graph in Mermaid's text form."))
@click.argument("flow_id")
def graph(flow_id: str) -> None:
    text = str(link.ask("GET", _path(flow_id, "explain")).get("mermaid", ""))
    click.echo("\n".join(show.safe(line, 500) for line in text.splitlines()))


@flow.command("plan", help=say("What a run would call, and by whose rights; nothing is called."))
@click.argument("flow_id")
@json_option
def plan(flow_id: str) -> None:
    show.data(link.ask("GET", _path(flow_id, "plan")))


@flow.command("runs", help=say("What ran, newest first; runs that were cut off can be resumed."))
@json_option
def runs() -> None:
    found = link.ask("GET", "/api/runs")
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("run_id", "flow", "status", "started", "seconds"),
        [
            (one.get("run_id"), one.get("flow"), one.get("status"), _moment(one.get("started_at")),
             f"{float(one.get('duration_s') or 0):.3f}")
            for one in found
        ],
    )  # fmt: skip
    cut = next((one for one in found if one.get("resumable")), None)
    show.next_step(f"./rumi flow resume {show.safe(cut.get('run_id'))}" if cut else "./rumi flow run FLOW '{}'")


@flow.command("show", help=say("One run: each step with its status, its time and its error."))
@click.argument("run_id")
@json_option
def show_(run_id: str) -> None:
    _ended(link.ask("GET", f"/api/runs/{quote(run_id, safe='')}"))


@flow.command("resume", help=say("Go on with a journalled run that was cut off, from its last finished step."))
@click.argument("run_id")
@json_option
def resume(run_id: str) -> None:
    _ended(link.ask("POST", f"/api/runs/{quote(run_id, safe='')}/resume", timeout_s=_RUN_S))


@flow.command("cancel", help=say("End a run that is under way; its finally steps run."))
@click.argument("run_id")
@json_option
def cancel(run_id: str) -> None:
    show.data(link.ask("POST", f"/api/runs/{quote(run_id, safe='')}/cancel"))


def _ended(report: Any) -> None:
    """A run's report: as data whole, else its output, and in words how it went. Exit 1 for one that failed."""
    if show.wants_json():
        show.data(report)
    else:
        show.data(report.get("output"))
        steps = [
            (one.get("step"), one.get("status"),
             say("from the journal") if one.get("replayed") else f"{float(one.get('duration_s') or 0):.3f}",
             one.get("reason") or (one.get("error") or {}).get("title", ""))
            for one in report.get("steps") or []
        ]  # fmt: skip
        show.words(say("Run {run_id}: {status}", run_id=report.get("run_id"), status=report.get("status")))
        for step in steps:
            show.words("  " + " · ".join(show.safe(part, 200) for part in step if part))
    if report.get("status") in {"failed", "cancelled"}:
        error = report.get("error") or {}
        raise Failure(show.safe(f"{error.get('type', '')}: {error.get('title', '')}", 300), codes.FAILED)


def _trigger(trigger: Any) -> str:
    """What starts a flow, and that it no longer does."""
    words = show.safe(trigger.get("on"), 100)
    return f"{words} ({say('switched off')})" if trigger.get("off") else words


def _moment(seconds: Any) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) if isinstance(seconds, (int, float)) else ""


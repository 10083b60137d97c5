"""Words about what Packs offer: call, interface, logs."""

from __future__ import annotations

import json
import math
import sys
import time
from functools import partial
from typing import Any
from urllib.parse import quote

import click

from rumi_setup.cli import codes, link, packs, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say

_ARGUMENT_LIMIT_BYTES = 1 << 20
_PIECE_BYTES = 1 << 16
_MARGIN_S = 10.0
_LEVELS = {1: "DEBUG", 2: "INFO", 3: "WARNING", 4: "ERROR", 5: "CRITICAL"}


@click.command(help=say("Call an interface with JSON arguments; `-` reads them from standard input."))
@click.argument("key")
@click.argument("arguments", required=False, metavar="[JSON]")
@click.option("--timeout", "timeout_s", type=click.FloatRange(0, 3600, min_open=True), help=say("Seconds to wait."))
@click.option(
    "--idempotency-key", help=say("Reaches the handler: give the same one again when you try the same call again.")
)
@click.option("--stream", is_flag=True, help=say("Print items as they come, one JSON document a line."))
@click.option(
    "--lines", is_flag=True, help=say("Pass standard input as a stream: one JSON value a line, read as it is used.")
)
@json_option
def call(
    key: str,
    arguments: str | None,
    timeout_s: float | None,
    idempotency_key: str | None,
    stream: bool,  # noqa: FBT001
    lines: bool,  # noqa: FBT001
) -> None:
    path = f"/api/interfaces/{quote(key, safe='')}/call"
    body: Any = {"args": parsed(arguments or "{}")}
    if lines:
        if arguments is not None:
            raise click.UsageError(say("With --lines the argument is what comes on standard input."))
        if idempotency_key is not None:
            raise click.UsageError(say("Lines are read once, so a call with --lines has no idempotency key."))
        source: Any = sys.stdin.buffer
        body = link.Feed(iter(lambda: source.read1(_PIECE_BYTES), b""))  # what is there, not all of it
        path += f"?timeout={math.ceil(timeout_s)}" if timeout_s else ""
    elif timeout_s is not None:
        body["timeout"] = timeout_s
    if idempotency_key is not None and not lines:
        body["idempotency_key"] = idempotency_key
    wait_s = (timeout_s or link.TIMEOUT_S) + _MARGIN_S  # the host's own deadline comes first
    if stream:
        for event, item in link.stream(path, body, timeout_s=wait_s):
            if event in {"item", "result"}:
                show.line(item)
        return
    ask = partial(link.feed, path) if lines else partial(link.ask, "POST", path)
    answer = ask(body, timeout_s=wait_s)
    show.data(answer if show.wants_json() else answer.get("result"))


def parsed(text: str) -> Any:
    """JSON from the command line, or from standard input for `-`."""
    if text == "-":
        text = sys.stdin.read(_ARGUMENT_LIMIT_BYTES + 1)
    if len(text) > _ARGUMENT_LIMIT_BYTES:
        raise click.UsageError(say("The arguments are longer than 1 MB."))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(
            say("The arguments are no JSON: {why}. Write them in single quotes, as in '{example}'.", why=error,
                example='{"name": "Rumi"}')
        ) from error  # fmt: skip


_ELSEWHERE = {"alias": ("aliases", "alias", "Other names for interfaces: list, add, remove")}


@click.group(
    cls=Lazy, table=_ELSEWHERE, context_settings=SETTINGS, help=say("Interfaces: list, show, edges, alias")
)
def interface() -> None:
    pass


@interface.command("list", help=say("Every key that can be called, and who provides it."))
@json_option
def list_() -> None:
    found = link.ask("GET", "/api/interfaces")
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("key", "owner", "available"),
        [(one.get("key"), one.get("owner"), say("yes") if one.get("available") else say("no")) for one in found],
    )
    show.next_step("./rumi call KEY '{}'" if found else "./rumi pack pending")


@interface.command("show", help=say("One key: who provides it and what it takes."))
@click.argument("key")
@json_option
def show_(key: str) -> None:
    show.data(link.ask("GET", f"/api/interfaces/{quote(key, safe='')}"))
    show.next_step(f"./rumi call {show.safe(key)} '{{}}'")


@interface.command("edges", help=say("Who called which key since the host started: calls, errors, latency."))
@click.option("--pack", "pack_id", help=say("Only edges from or to this Pack."))
@json_option
def edges(pack_id: str | None) -> None:
    found = link.ask("GET", "/api/edges" + (f"?pack={packs.checked(pack_id)}" if pack_id else ""))
    if show.wants_json():
        show.data(found)
        return
    show.table(("caller", "key", "calls", "errors", "p50", "p99", "last error"), [_edge(one) for one in found])
    show.next_step("./rumi interface edges --json" if found else "./rumi interface list")


def _edge(edge: dict[str, Any]) -> tuple[object, ...]:
    failures = ", ".join(f"{kind} {count}" for kind, count in (edge.get("failures") or {}).items())
    return (
        edge.get("caller"), edge.get("key"), edge.get("calls"), failures or 0, _ms(edge.get("p50_us")),
        _ms(edge.get("p99_us")), edge.get("last_error") or "",
    )  # fmt: skip


def _ms(microseconds: object) -> str:
    return f"{microseconds / 1000:.3g} ms" if isinstance(microseconds, (int, float)) else ""


@click.command(help=say("What a Pack printed and logged last, oldest first."))
@click.argument("pack_id")
@click.option("--lines", "-n", type=click.IntRange(1, 5000), default=200, show_default=True)
@json_option
def logs(pack_id: str, lines: int) -> None:
    answer = link.ask("GET", f"/api/packs/{packs.checked(pack_id)}/logs?lines={lines}")
    if show.wants_json():
        show.data(answer)
        return
    found = answer.get("lines")
    if not isinstance(found, list):
        raise Failure(say("The host answered in a form that this command does not know."), codes.FAILED)
    for line in found:
        click.echo(_log_line(line))
    if not found:
        show.words(say("{pack} has written nothing yet.", pack=show.safe(pack_id)))
    show.next_step(f"./rumi pack show {pack_id}")


def _log_line(line: Any) -> str:
    if not isinstance(line, dict):
        return show.safe(line, 4000)
    stamp = line.get("ts")
    shown = time.strftime("%H:%M:%S ", time.localtime(stamp)) if isinstance(stamp, (int, float)) else ""
    level = _LEVELS.get(line.get("level", 0) // 10, "") if isinstance(line.get("level"), int) else ""
    return f"{shown}{level} {show.safe(line.get('text', ''), 4000)}".strip()

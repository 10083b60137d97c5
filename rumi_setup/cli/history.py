"""`rumi history`: which flows and sandboxes ran, from when to when and how it ended, over restarts of the host."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

import click

from rumi_setup.cli import link, show
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say


@click.command(help=say("Past runs of flows and of Packs' sandboxes, newest first; of one flow or Pack with its name."))
@click.argument("subject", default="", metavar="[NAME]")
@click.option("--kind", type=click.Choice(["flow", "pack"]), help=say("Only flows, or only Packs."))
@click.option("--count", "-n", type=click.IntRange(1, 2000), default=50, show_default=True)
@json_option
def history(subject: str, kind: str | None, count: int) -> None:
    asked = {"count": count, "kind": kind or "", "subject": subject}
    found = link.ask("GET", f"/api/history?{urlencode({name: value for name, value in asked.items() if value})}")
    if show.wants_json():
        show.data(found)
        return
    show.table(("kind", "name", "run", "started", "took", "status", "detail"), [_row(one) for one in found])
    if not found:
        show.words(say("Nothing ran yet."))
    show.next_step("./rumi events")


def _row(run: dict[str, Any]) -> tuple[object, ...]:
    started, ended = float(run["started_at"]), run.get("ended_at")
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started))
    took = f"{float(ended) - started:.3g} s" if ended is not None else ""
    return run["kind"], run["subject"], run["run"], moment, took, run["status"], run.get("detail", "")

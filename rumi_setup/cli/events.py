"""`rumi events`: what happened, from the journal that the host keeps, and what happens now."""

from __future__ import annotations

import json
from typing import Any

import click

from rumi_setup.cli import link, packs, show
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say

_SILENCE_S = 60.0  # the host says at least every 15 s that it is still there


@click.command(help=say("What happened, as events, oldest first; --follow goes on with what happens."))
@click.option("--count", "-n", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--pack", "pack_id", help=say("Only what this Pack published."))
@click.option("--follow", "-f", is_flag=True, help=say("Go on until interrupted."))
@click.option("--since", default="", help=say("With --follow: from after the event of this id on."))
@json_option
def events(count: int, pack_id: str | None, follow: bool, since: str) -> None:  # noqa: FBT001
    chosen = packs.checked(pack_id) if pack_id else ""
    if not since:
        found = link.ask("GET", f"/api/events/kept?count={count}" + (f"&pack={chosen}" if chosen else ""))
        if show.wants_json() and not follow:
            show.data(found)
            return
        for event in found:
            _print(event)
        since = _last(found, chosen)
    if not follow:
        show.next_step("./rumi events --follow")
        return
    for name, event in link.watch("/api/events", last_id=since, timeout_s=_SILENCE_S):
        if name == "lost":
            show.words(say("Some events in between are no longer kept."))
        elif name == "event" and (not chosen or event.get("source") == f"rumi:pack/{chosen}"):
            _print(event)


def _last(found: list[dict[str, Any]], chosen: str) -> str:
    """Where following begins: after the last one that was shown, unless others were left out."""
    return str(found[-1].get("id", "")) if found and not chosen else ""


def _print(event: dict[str, Any]) -> None:
    if show.wants_json():
        show.line(event)
        return
    about = json.dumps(event.get("data"), ensure_ascii=False) if "omitted" not in event else f"({event['omitted']})"
    stamp = show.safe(event.get("time", ""), 40)
    click.echo(f"{stamp} {show.safe(event.get('id'), 40)} {show.safe(event.get('source'), 80)} "
               f"{show.safe(event.get('type'), 256)} {show.safe(about, 1000)}")  # fmt: skip

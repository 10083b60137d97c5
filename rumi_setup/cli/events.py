"""`rumi events`: what happened, from the journal that the host keeps, and what happens now."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import click

from rumi_setup.cli import codes, link, packs, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say

_COUNT = 50
_SILENCE_S = 60.0  # the host says at least every 15 s that it is still there
_SINCE = re.compile(r"[0-9a-f]{8}-[0-9]{1,15}|oldest", re.ASCII)


@click.command(help=say("What happened, as events, oldest first; --follow goes on with what happens."))
@click.option("--count", "-n", type=click.IntRange(1, 1000), show_default=str(_COUNT),
              help=say("How many of the newest; with --since how many of the oldest, all unless given."))
@click.option("--pack", "pack_id", help=say("Only what this Pack published."))
@click.option("--follow", "-f", is_flag=True, help=say("Go on until interrupted."))
@click.option("--since", default="", help=say("Those after the event of this id; `oldest`: all that is kept."))
@json_option
def events(count: int | None, pack_id: str | None, follow: bool, since: str) -> None:  # noqa: FBT001
    chosen = packs.checked(pack_id) if pack_id else ""
    if since and not _SINCE.fullmatch(since):
        raise Failure(
            say("{since} is no event's id.", since=show.safe(since, 80)), codes.USAGE, "./rumi events",
            code="event_id_invalid",
        )  # fmt: skip
    if not follow:
        _kept(since, count, chosen)
        return
    for event in _watched("/api/events", since, chosen) if since else _newest_and_on(count, chosen):
        _print(event)


def _kept(since: str, count: int | None, chosen: str) -> None:
    """What the journal holds, and then the end."""
    if since:
        shown = list(itertools.islice(_watched("/api/events?kept=1", since, chosen), count))
    else:
        shown = _newest(count, chosen)
    if show.wants_json():
        show.data(shown)
        return
    for event in shown:
        _print(event)
    show.next_step("./rumi events --follow")


def _newest(count: int | None, chosen: str) -> list[dict[str, Any]]:
    asked = f"/api/events/kept?count={count or _COUNT}" + (f"&pack={chosen}" if chosen else "")
    return list(link.ask("GET", asked))


def _newest_and_on(count: int | None, chosen: str) -> Iterator[dict[str, Any]]:
    """The newest, then what happens. It listens before it asks: what is published meanwhile is in both, told once."""
    stream = link.watch("/api/events", last_id="", timeout_s=_SILENCE_S)
    began = next(stream, None)
    newest = _newest(count, chosen)
    yield from newest
    told = {event.get("id") for event in newest}
    rest = itertools.chain([began] if began is not None else [], stream)
    yield from (event for event in _chosen(rest, chosen) if event.get("id") not in told)


def _watched(path: str, since: str, chosen: str) -> Iterator[dict[str, Any]]:
    return _chosen(link.watch(path, last_id=since, timeout_s=_SILENCE_S), chosen)


def _chosen(stream: Iterable[tuple[str, Any]], chosen: str) -> Iterator[dict[str, Any]]:
    for name, event in stream:
        if name == "lost":
            show.words(say("Some events in between are no longer kept."))
        elif name == "event" and (not chosen or event.get("source") == f"rumi:pack/{chosen}"):
            yield event


def _print(event: dict[str, Any]) -> None:
    if show.wants_json():
        show.line(event)
        return
    about = json.dumps(event.get("data"), ensure_ascii=False) if "omitted" not in event else f"({event['omitted']})"
    stamp = show.safe(event.get("time", ""), 40)
    click.echo(f"{stamp} {show.safe(event.get('id'), 40)} {show.safe(event.get('source'), 80)} "
               f"{show.safe(event.get('type'), 256)} {show.safe(about, 1000)}")  # fmt: skip

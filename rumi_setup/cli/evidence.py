"""`rumi audit` and `rumi trust`: what was decided and done, whether the record is whole, and the key that signs it."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import urlencode

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say

_COMMON = frozenset({"seq", "ts", "prev", "event", "pack_id", "actor"})


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("The audit trail: tail, verify, acknowledge"))
def audit() -> None:
    pass


@audit.command(help=say("The last records, oldest first."))
@click.option("--lines", "-n", type=click.IntRange(1, 5000), default=50, show_default=True)
@click.option("--pack", "pack_id", help=say("Only about this Pack."))
@click.option("--event", help=say("Only events whose name begins so."))
@json_option
def tail(lines: int, pack_id: str | None, event: str | None) -> None:
    query = {"lines": str(lines), **({"pack": pack_id} if pack_id else {}), **({"event": event} if event else {})}
    found = link.ask("GET", f"/api/audit?{urlencode(query)}")
    if show.wants_json():
        show.data(found)
        return
    for record in found:
        click.echo(_line(record))
    show.next_step("./rumi audit verify")


@audit.command(help=say("Check that nothing was edited, reordered or taken away."))
@json_option
def verify() -> int:
    found = link.ask("GET", "/api/audit/verify")
    journal = found.get("journal") or {}
    intact = bool(found.get("ok")) and bool(journal.get("ok")) and not found.get("finding")
    if show.wants_json():
        show.data(found)
        return codes.OK if intact else codes.FAILED
    show.pairs([
        ("audit trail", found.get("sentence")), ("install journal", journal.get("sentence")),
        ("finding", found.get("finding")), ("set aside", ", ".join(map(str, found.get("set_aside") or []))),
        ("path", found.get("path")),
    ])  # fmt: skip
    show.next_step("./rumi audit acknowledge" if found.get("finding") else "./rumi audit tail")
    return codes.OK if intact else codes.FAILED


@audit.command(help=say("Go on although the trail was changed; that you did is recorded."))
@click.option("--reason", default="", help=say("Why, for the record."))
@json_option
def acknowledge(reason: str) -> None:
    done = link.ask("POST", "/api/audit/acknowledge", {"reason": reason})
    if show.wants_json():
        show.data(done)
    else:
        show.words(say("Acknowledged. Packs may start and be approved again."))
    show.next_step("./rumi pack list")


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("The signing key: rotate-key"))
def trust() -> None:
    pass


@trust.command("rotate-key", help=say("Prepare a new signing key; the next start signs everything again with it."))
@json_option
def rotate_key() -> None:
    done = link.ask("POST", "/api/trust/rotate-key", {})
    if show.wants_json():
        show.data(done)
    else:
        show.words(say("The new key is ready. Until the host is started again, the old one holds."))
    show.next_step("./rumi down && ./rumi up")


def _line(record: Any) -> str:
    if not isinstance(record, dict):
        return show.safe(record, 1000)
    stamp = record.get("ts")
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stamp)) if isinstance(stamp, (int, float)) else ""
    named = (record.get(name) for name in ("seq", "event", "pack_id", "actor"))
    about = [show.safe(value) for value in named if value is not None]
    more = [f"{show.safe(name, 40)}={show.safe(value)}" for name, value in record.items()
            if name not in _COMMON and value not in (None, "", [], {})]  # fmt: skip
    return "  ".join([when, *about, *more])

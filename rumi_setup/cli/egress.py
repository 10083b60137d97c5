"""`rumi pack egress`: which connections a Pack has, how much of its budgets it used, what it was refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import click

from rumi_setup.cli import link, packs, show
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command(help=say("Connections of a Pack, bytes against budgets, what was refused lately."))
@click.argument("pack_id")
@json_option
def egress(pack_id: str) -> None:
    found = link.ask("GET", f"/api/packs/{packs.checked(pack_id)}/egress")
    if show.wants_json():
        show.data(found)
        return
    budgets = found.get("budgets") or {}
    show.pairs([
        ("pack", found.get("pack_id")),
        ("this hour", f"{size(found.get('bytes_this_hour'))} / {size(budgets.get('bytes_per_hour'))}"),
        ("open", f"{len(found.get('connections') or [])} / {show.safe(budgets.get('connections'))}"),
        ("refused", found.get("refused")),
    ])  # fmt: skip
    show.section("Open connections", _connections(found.get("connections")))
    show.section("Destinations", _destinations(found.get("destinations")))
    show.section("Refused lately", _refusals(found.get("recent_refusals")))
    show.next_step(f"./rumi pack permissions {show.safe(found.get('pack_id'))}")


def size(count: Any) -> str:
    """Bytes for reading: 1536 → `1.5 KiB`."""
    value = float(count) if isinstance(count, (int, float)) else 0.0
    step = 0
    while value >= 1024 and step < len(_UNITS) - 1:
        value, step = value / 1024, step + 1
    return f"{value:.{min(step, 1)}f} {_UNITS[step]}"


def _connections(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else ():
        where, kind = show.safe(item.get("target")), show.safe(item.get("kind"))
        passed = f"↑ {size(item.get('bytes_up'))} ↓ {size(item.get('bytes_down'))}"
        yield f"{where}  {kind}  {passed}  {show.safe(item.get('seconds'))} s"


def _destinations(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else ():
        passed = f"↑ {size(item.get('bytes_up'))} ↓ {size(item.get('bytes_down'))}"
        yield f"{show.safe(item.get('host'))}  {passed}  {say('{n} connections', n=show.safe(item.get('connections')))}"


def _refusals(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else ():
        at = item.get("at")
        when = time.strftime("%H:%M:%S", time.localtime(at)) if isinstance(at, (int, float)) else ""
        reason = show.safe(item.get("reason"), 300)
        yield f"{when}  {show.safe(item.get('target'))}  {show.safe(item.get('code'))}: {reason}"

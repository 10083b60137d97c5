"""`rumi interface alias`: other names for interfaces."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from rumi_setup.cli import link, show
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say

_UNUSABLE = "aliases_json_invalid"


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("Other names for interfaces: list, add, remove"))
def alias() -> None:
    pass


@alias.command("list", help=say("Every other name, and the interface that it means."))
@json_option
def list_() -> None:
    _shown(link.ask("GET", "/api/aliases"))
    if not show.wants_json():
        _tell_of_the_file()
    show.next_step("./rumi interface alias add NAME KEY")


@alias.command(help=say("Let NAME mean the interface KEY, for `rumi call`, calls over HTTP and steps of flows."))
@click.argument("name")
@click.argument("key")
@json_option
def add(name: str, key: str) -> None:
    found = link.ask("PUT", f"/api/aliases/{quote(name, safe='')}", {"means": key})
    _shown(found)
    if not any(one.get("alias") == name and one.get("available") for one in found):
        show.words(say("Nobody provides {key} now.", key=show.safe(key)))
    show.next_step(f"./rumi call {show.safe(name)} '{{}}'")


@alias.command(help=say("Forget NAME; the interface itself stays."))
@click.argument("name")
@json_option
def remove(name: str) -> None:
    _shown(link.ask("DELETE", f"/api/aliases/{quote(name, safe='')}"))
    show.next_step("./rumi interface alias list")


def _shown(found: list[dict[str, Any]]) -> None:
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("name", "key", "available", "hides one of"),
        [(one.get("alias"), one.get("key"), _yes(one.get("available")), one.get("hides") or "") for one in found],
    )
    if not found:
        show.words(say("No interface has another name."))


def _tell_of_the_file() -> None:
    """Where it can't be used, the list is of what was in force before. Asked after the list: that has it looked at."""
    for one in link.ask("GET", "/api/issues"):
        if one.get("code") == _UNUSABLE:
            evidence = one.get("evidence")
            file = show.safe(evidence.get("file") if isinstance(evidence, dict) else "", 500)
            show.words(say("{file} can't be used: {why}", file=file, why=show.safe(one.get("detail"), 1000)))
            show.words(say("Correct it, or have what is in force written, keeping it as a backup: ./rumi doctor --fix"))


def _yes(value: object) -> str:
    return say("yes") if value else say("no")

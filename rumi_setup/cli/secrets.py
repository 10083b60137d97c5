"""`rumi secret`: values that a Pack may receive, such as a password or a key. They are entered, never shown.

Invariant: a value comes from the terminal without echo, or from stdin; it never stands on a command line, where every
user of the machine could read it.
"""

from __future__ import annotations

import sys
import time
from typing import Any
from urllib.parse import quote

import click

from rumi_setup.cli import link, packs, show
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say

VALUE_LIMIT_CHARS = 64 * 1024
"""Only so that a wrong file does not fill the memory; the host has its own, smaller limit and says so."""


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("Passwords and keys for Packs: set, list, remove"))
def secret() -> None:
    pass


@secret.command("set", help=say("Enter a value: typed without echo, or piped into the command."))
@click.argument("pack_id")
@click.argument("name")
@json_option
def set_(pack_id: str, name: str) -> None:
    path = _path(pack_id, name)
    _shown(link.ask("PUT", path, {"value": _value(pack_id, name)}))


@secret.command("list", help=say("Which secrets were entered for a Pack, and when it received them; never the values."))
@click.argument("pack_id")
@json_option
def list_(pack_id: str) -> None:
    _shown(link.ask("GET", _path(pack_id)))


@secret.command(help=say("Delete a secret; a running Pack keeps what it received until it ends."))
@click.argument("pack_id")
@click.argument("name")
@json_option
def remove(pack_id: str, name: str) -> None:
    _shown(link.ask("DELETE", _path(pack_id, name)))


def _path(pack_id: str, name: str = "") -> str:
    path = f"/api/packs/{packs.checked(pack_id)}/secrets"
    return f"{path}/{quote(name, safe='')}" if name else path


def _value(pack_id: str, name: str) -> str:
    """One newline at the end of piped text is the pipe's, not the value's."""
    if sys.stdin.isatty():
        asked = say("Value of {name} for {pack}", name=show.safe(name, 80), pack=pack_id)
        return str(click.prompt(asked, hide_input=True, confirmation_prompt=say("Once more"), err=True))
    text = sys.stdin.read(VALUE_LIMIT_CHARS + 1)
    if len(text) > VALUE_LIMIT_CHARS:
        raise click.UsageError(say("That is too long for a secret."))
    return text[:-1].removesuffix("\r") if text.endswith("\n") else text


def _shown(found: dict[str, Any]) -> None:
    if show.wants_json():
        show.data(found)
        return
    kept = [one for one in found.get("secrets") or [] if isinstance(one, dict)]
    missing = found.get("not_entered") or []
    show.table(
        ("name", "set", "handed over", "granted", "usable"),
        [
            (one.get("name"), _when(one.get("set_at")), _when(one.get("handed_at")), _yes(one.get("granted")),
             show.safe(one.get("cause")) or say("yes"))
            for one in kept
        ],
    )  # fmt: skip
    pack_id = show.safe(found.get("pack_id"))
    for name in missing:
        show.words(say("It asks for {name}, which was not entered.", name=show.safe(name, 80)))
    for one in kept:
        if not one.get("declared"):
            show.words(say("It does not ask for {name}.", name=show.safe(one.get("name"), 80)))
    ungranted = [show.safe(one.get("name"), 80) for one in kept if one.get("declared") and not one.get("granted")]
    if ungranted:
        show.next_step(f"./rumi pack grant {pack_id} secret {' '.join(ungranted)}")
    elif missing:
        show.next_step(f"./rumi secret set {pack_id} {show.safe(missing[0], 80)}")
    else:
        show.next_step(f"./rumi pack show {pack_id}")


def _when(at: Any) -> str:
    if not isinstance(at, (int, float)):
        return say("never")
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _yes(value: Any) -> str:
    return say("yes") if value else say("no")

"""`rumi pack sign|verify` and `rumi publisher`: who a Pack is from. A signature approves nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rumi_setup.cli import author, codes, link, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.packs import checked
from rumi_setup.cli.words import say


@click.command(help=say("Sign a Pack's folder with your key: writes signature.dsse.json into it."))
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--key", "key", required=True, metavar="FILE", help=say("Your private key; see: rumi publisher new."))
@click.option("--as", "publisher", default="", metavar="NAME", help=say("What you call yourself; else the author."))
@json_option
def sign(folder: str, key: str, publisher: str) -> None:
    asked = {"folder": str(Path(folder).absolute()), "key": str(Path(key).absolute()), "publisher": publisher}
    try:
        made = author.ask("sign", **asked)
    except Failure as refused:
        if refused.code != "key_locked" or not sys.stdin.isatty():
            raise
        password = click.prompt(say("Password of the key"), hide_input=True, err=True)
        made = author.ask("sign", **asked, password=password)
    if show.wants_json():
        show.data(made)
        return
    show.pairs([
        ("pack", made["pack_id"]), ("version", made["version"]), ("publisher", made["publisher"]),
        ("public key", made["key"]), ("signed digest", made["signed_digest"]), ("file", made["file"]),
    ])  # fmt: skip
    show.next_step(f"./rumi pack verify {show.safe(folder)}")


@click.command(help=say("Who signed a Pack, and whether the signature is right; needs no host."))
@click.argument("source", metavar="FOLDER|ARCHIVE", type=click.Path(exists=True))
@click.option("--key", "expected", metavar="KEY", help=say("Fail unless it is signed with just this key."))
@json_option
def verify(source: str, expected: str | None) -> int:
    found = author.ask("verify", source=str(Path(source).absolute()))
    if expected is not None and found["key"] != expected:
        title = say("It is not signed with {key}.", key=show.safe(expected))
        raise Failure(title, codes.CONFLICT, say("Ask its publisher."), code="publisher_changed", fields=found)
    if show.wants_json():
        show.data(found)
    else:
        _show_verified(found)
    return codes.OK if found["signed"] else codes.FAILED


def _show_verified(found: dict[str, Any]) -> None:
    state = say("signed; that says whom it is from, not what it does") if found["signed"] else say("not signed")
    show.pairs([
        ("pack", found["pack_id"]), ("version", found["version"]), ("signature", state),
        ("publisher", found["publisher"]), ("public key", found["key"]), ("signed digest", found["signed_digest"]),
        ("digest", found["digest"]),
    ])  # fmt: skip


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("Publishers of signed Packs: list, forget, reset, new"))
def publisher() -> None:
    pass


@publisher.command("list", help=say("Whose signature each Pack was first approved with."))
@json_option
def list_() -> None:
    found = link.ask("GET", "/api/publishers")
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("pack", "publisher", "public key", "since"),
        [(one.get("pack_id"), one.get("publisher"), one.get("key"), one.get("since")) for one in found],
    )
    if not found:
        show.words(say("No Pack was approved with a signature."))
    show.next_step("./rumi pack list")


@publisher.command(help=say("Take the key of one Pack back: its next approval takes another, or none."))
@click.argument("pack_id")
@click.option("--yes", "-y", is_flag=True, help=say("Do not ask."))
@json_option
def forget(pack_id: str, yes: bool) -> None:  # noqa: FBT001 - click's signature
    path = f"/api/publishers/{checked(pack_id)}"
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(say("Whoever signs next is believed. Without a terminal, say --yes."))
        if not click.confirm(say("Believe whoever signs {pack} next?", pack=pack_id), default=False, err=True):
            raise Failure(say("Nothing was changed."), codes.FAILED, code="not_confirmed")
    done = link.ask("DELETE", path)
    if show.wants_json():
        show.data(done)
    else:
        show.words(say("The publisher of {pack} is forgotten.", pack=pack_id))
    show.next_step(f"./rumi pack review {pack_id}")


@publisher.command(help=say("Forget every publisher: for when the list can't be believed."))
@json_option
def reset() -> None:
    done = link.ask("POST", "/api/publishers/reset", {})
    if show.wants_json():
        show.data(done)
    else:
        show.words(say("No publisher is known any more."))
    show.next_step("./rumi publisher list")


@publisher.command(help=say("Make a key to sign your Packs with, in a new file that is yours alone."))
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
def new(file: str) -> None:
    made = author.ask("new_key", file=str(Path(file).absolute()))
    if show.wants_json():
        show.data(made)
        return
    show.pairs([("file", made["file"]), ("public key", made["key"])])
    show.words(say("Keep the file to yourself and keep a copy: without it, nobody takes your next version for yours."))
    show.next_step(f"./rumi pack sign FOLDER --key {show.safe(file)}")

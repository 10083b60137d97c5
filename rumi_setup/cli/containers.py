"""`rumi container`: the running instances."""

from __future__ import annotations

import click

from rumi_setup.cli import link, packs, show
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say


@click.group(cls=Lazy, context_settings=SETTINGS, help=say("Running containers: list, start, stop"))
def container() -> None:
    pass


@container.command("list", help=say("What runs, and how well isolated."))
@json_option
def list_() -> None:
    found = link.ask("GET", "/api/containers")
    if show.wants_json():
        show.data(found)
        return
    keys = ("pack_id", "id", "driver", "level", "state", "restarts", "last_error")
    show.table(
        ("pack", "id", "driver", "level", "state", "restarts", "last error"),
        [[one.get(key) for key in keys] for one in found],
    )
    show.next_step("./rumi logs PACK" if found else "./rumi pack list")


@container.command(help=say("Start the container of an approved Pack."))
@click.argument("pack_id")
@json_option
def start(pack_id: str) -> None:
    packs.show_status(link.ask("POST", f"/api/containers/{packs.checked(pack_id)}/start"))


@container.command(help=say("Stop the container of a Pack."))
@click.argument("pack_id")
@json_option
def stop(pack_id: str) -> None:
    packs.show_status(link.ask("POST", f"/api/containers/{packs.checked(pack_id)}/stop"))

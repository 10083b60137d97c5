"""`rumi privilege`: operations that the host performs for a Pack, each granted by itself."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import click

from rumi_setup.cli import link, packs, show
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.permissions import moment
from rumi_setup.cli.review import risk_word
from rumi_setup.cli.words import say
from rumi_setup.core.words import language


@click.group(cls=Lazy, context_settings=SETTINGS,
             help=say("Operations of the host for Packs: list, grant, revoke, reset, execute"))  # fmt: skip
def privilege() -> None:
    pass


@privilege.command("list", help=say("Every operation with its risk and its parameters, and who may use it."))
@json_option
def list_() -> None:
    found = link.ask("GET", "/api/privileges")
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("id", "risk", "title", "parameters", "options", "granted to", "available"),
        [
            (one.get("id"), risk_word(one.get("risk")), _title(one), _names(one.get("parameters")),
             _names(one.get("options")), ", ".join(map(str, one.get("granted_to") or [])),
             say("yes") if one.get("available") else _why_not(one))
            for one in found
        ],
    )  # fmt: skip
    show.next_step("./rumi privilege grant PACK ID")


@privilege.command(help=say("Let a Pack use an operation that it declares."))
@click.argument("pack_id")
@click.argument("name", metavar="ID")
@click.option("--option", "-o", "options", multiple=True, metavar="NAME=VALUE",
              help=say("What the operation needs to know, such as folder=/home/me/out."))  # fmt: skip
@click.option("--until", metavar="WHEN", help=say("Until then: 90m, 8h, 7d or a date."))
@json_option
def grant(pack_id: str, name: str, options: tuple[str, ...], until: str | None) -> None:
    body: dict[str, Any] = {"options": dict(map(_option, options))}
    if until is not None:
        body["until"] = moment(until)
    _done(link.ask("POST", _path(pack_id, "grant", name), body))


@privilege.command(help=say("Take an operation away from a Pack; it acts at once."))
@click.argument("pack_id")
@click.argument("name", metavar="ID")
@json_option
def revoke(pack_id: str, name: str) -> None:
    _done(link.ask("DELETE", _path(pack_id, "grant", name)))


@privilege.command(help=say("Take every operation from every Pack: for when what is granted can't be believed."))
@json_option
def reset() -> None:
    done = link.ask("POST", "/api/privileges/reset", {})
    if show.wants_json():
        show.data(done)
    else:
        show.words(say("No Pack holds an operation any more."))
    show.next_step("./rumi privilege list")


@privilege.command(help=say("Perform an operation in a Pack's name."))
@click.argument("pack_id")
@click.argument("name", metavar="ID")
@click.argument("parameters", default="{}", metavar="[JSON]")
@json_option
def execute(pack_id: str, name: str, parameters: str) -> None:
    try:
        params = json.loads(parameters)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(say("The parameters are no JSON: {why}", why=error)) from error
    show.data(link.ask("POST", _path(pack_id, "execute", name), {"params": params}))


def _path(pack_id: str, verb: str, name: str) -> str:
    return f"/api/privileges/{packs.checked(pack_id)}/{verb}/{quote(name, safe='')}"


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise click.UsageError(say("{text} is no option: write NAME=VALUE.", text=show.safe(text, 80)))
    if not value.startswith("["):
        return name, value
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(say("The parameters are no JSON: {why}", why=error)) from error


def _title(one: dict[str, Any]) -> Any:
    title = one.get("title")
    return title.get(language()) or title.get("en") if isinstance(title, dict) else title


def _why_not(one: dict[str, Any]) -> str:
    reason = one.get("unavailable")
    told = (reason.get(language()) or reason.get("en")) if isinstance(reason, dict) else ""
    return say("no: {why}", why=told) if told else say("no")


def _names(schema: Any) -> str:
    found = schema.get("properties") if isinstance(schema, dict) else None
    return ", ".join(map(str, found)) if isinstance(found, dict) else ""


def _done(found: dict[str, Any]) -> None:
    if show.wants_json():
        show.data(found)
        return
    state = say("granted") if found.get("granted") else say("not granted")
    show.pairs([("pack", found.get("pack_id")), ("id", found.get("privilege")), ("status", state)])
    show.next_step("./rumi privilege list")

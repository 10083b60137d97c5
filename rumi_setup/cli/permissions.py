"""`rumi pack permissions|grant|revoke|diff`: single rights of a Pack, and what changed since its approval."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import click

from rumi_setup.cli import link, packs, show
from rumi_setup.cli.main import json_option
from rumi_setup.cli.review import (
    addons,
    changed_contracts,
    changed_files,
    changed_packages,
    changed_permissions,
    risk_word,
    words_of,
)
from rumi_setup.cli.words import say

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d{1,6})([smhd])")
_DIFFERENCE = ("pack_id", "state", "version", "approved_version", "digest", "identity_changed", "permission_changes",
               "package_changes", "contract_changes", "file_changes", "addons")  # fmt: skip
_KNOWN = frozenset(
    {"type", "mode", "until", "uses", "last_used_at", "items", "unused", "ended", "instance", "restart_needed"}
)


def moment(text: str) -> float:
    """`90m`, `8h`, `7d` from now, or a date and time in ISO 8601, as seconds since 1970."""
    span = _SPAN.fullmatch(text.strip())
    if span:
        return time.time() + int(span.group(1)) * _UNITS_S[span.group(2)]
    try:
        return datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise click.UsageError(
            say("{text} is no time: write 90m, 8h, 7d, or a date such as 2030-01-31T18:00.", text=show.safe(text, 60))
        ) from None


def choice(kind: str, items: tuple[str, ...], mode: str = "", until: str | None = None) -> Any:
    """One entry of a list of permissions. `kind` may be a JSON object already."""
    if kind.lstrip().startswith("{"):
        return _object(kind)
    made: dict[str, Any] = {"type": kind}
    for item in items:
        made.setdefault(_parameter(kind, item), []).append(item)
    if until is not None:
        made |= {"mode": "until", "until": moment(until)}
    elif mode:
        made["mode"] = mode
    return made


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.UsageError(say("The permission is no JSON: {why}", why=error)) from error


def _parameter(kind: str, item: str) -> str:
    if kind.startswith("userdata."):
        return "paths"
    if kind.startswith("event."):
        return "topics"
    if kind == "network":  # an address has a port behind it; a domain has none
        return "addresses" if ":" in item else "domains"
    return {"http.fetch": "hosts", "secret": "names", "addon.apply": "targets"}.get(kind, "keys")


@click.command(help=say("What a Pack may do, and how much of it it uses."))
@click.argument("pack_id")
@json_option
def permissions(pack_id: str) -> None:
    show_permissions(link.ask("GET", f"/api/packs/{packs.checked(pack_id)}/permissions"))


@click.command(help=say("Grant one more permission that the Pack declared; it acts at once."))
@click.argument("pack_id")
@click.argument("kind", metavar="TYPE")
@click.argument("items", nargs=-1, metavar="[PATH|KEY|TOPIC|NAME]...")
@click.option("--once", "mode", flag_value="once", help=say("For one use."))
@click.option("--restart", "mode", flag_value="restart", help=say("Until the host restarts."))
@click.option("--until", metavar="WHEN", help=say("Until then: 90m, 8h, 7d or a date."))
@json_option
def grant(pack_id: str, kind: str, items: tuple[str, ...], mode: str | None, until: str | None) -> None:
    body = {"permissions": [choice(kind, items, mode or "", until)]}
    show_permissions(link.ask("POST", f"/api/packs/{packs.checked(pack_id)}/permissions", body))


@click.command(help=say("Take a permission away, or only some paths, keys or topics of it; it acts at once."))
@click.argument("pack_id")
@click.argument("kind", metavar="[TYPE]", required=False)
@click.argument("items", nargs=-1, metavar="[PATH|KEY|TOPIC|NAME]...")
@click.option("--unused", is_flag=True, help=say("Also all that was not used since counting began."))
@json_option
def revoke(pack_id: str, kind: str | None, items: tuple[str, ...], unused: bool) -> None:  # noqa: FBT001
    if kind is None and not unused:
        raise click.UsageError(say("Name a type, or say --unused."))
    body: dict[str, Any] = {"permissions": [choice(kind, items)] if kind else [], "unused": unused}
    show_permissions(link.ask("DELETE", f"/api/packs/{packs.checked(pack_id)}/permissions", body))


@click.command(help=say("What changed against the approved version: permissions and files."))
@click.argument("pack_id")
@json_option
def diff(pack_id: str) -> None:
    found = link.ask("GET", f"/api/packs/{packs.checked(pack_id)}/review")
    if show.wants_json():
        show.data({name: found.get(name) for name in _DIFFERENCE})
        return
    show.pairs([
        ("pack", found.get("pack_id")), ("status", found.get("state")), ("version", found.get("version")),
        ("approved version", found.get("approved_version")), ("digest", found.get("digest")),
        ("waiting update", (found.get("pending_update") or {}).get("version")),
    ])  # fmt: skip
    if found.get("identity_changed"):
        show.words(say("WARNING: another identity than the approved version's."))
    permissions_changed = list(changed_permissions(found.get("permission_changes")))
    files_changed = list(changed_files(found.get("file_changes")))
    show.section("Changed permissions", permissions_changed)
    packages_changed = list(changed_packages(found.get("package_changes")))
    show.section("Changed packages", packages_changed)
    contracts_changed = list(changed_contracts(found.get("contract_changes")))
    show.section("Changed contracts", contracts_changed)
    show.section("Changed files", files_changed)
    show.section("Addons", addons(found.get("addons")))
    if found.get("approved_version") is None:
        show.words(say("It was never approved, so there is nothing to compare with."))
    elif not (permissions_changed or files_changed or packages_changed or contracts_changed):
        show.words(say("Nothing changed."))
    if found.get("pending_update"):
        show.next_step(f"./rumi pack update {pack_id} --show")
    else:
        show.next_step(f"./rumi pack review {pack_id}")


def show_permissions(found: dict[str, Any]) -> None:
    """What is granted, what is not, what was asked for."""
    if show.wants_json():
        show.data(found)
        return
    show.pairs([("pack", found.get("pack_id")), ("status", found.get("status"))])
    show.section("Granted", _granted(found.get("granted")))
    show.section("Not granted", _withheld(found.get("withheld")))
    show.section("Asked for while running", _asked(found.get("asked")))
    if found.get("restart_needed"):
        show.words(say("The new limits count from its next start on."))
    pack_id = show.safe(found.get("pack_id"))
    unused = any(isinstance(one, dict) and one.get("unused") for one in found.get("granted") or [])
    show.next_step(f"./rumi pack revoke {pack_id} --unused" if unused else f"./rumi pack show {pack_id}")


def _granted(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else ():
        counts = item.get("items") or {}
        yield f"{show.safe(item.get('type'))}  {_how_long(item)}{_limits(item, counts)}"
        for name, uses in counts.items():
            count = uses.get("count") if isinstance(uses, dict) else None
            used = say("used {n} times", n=count) if count else say("never used")
            yield f"    {show.safe(name)}  {used}"


def _how_long(item: dict[str, Any]) -> str:
    if item.get("ended"):
        return say("over")
    until = item.get("until")
    if isinstance(until, (int, float)):
        return say("until {when}", when=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until)))
    modes = {"always": say("always"), "once": say("once"), "restart": say("until the host restarts")}
    return modes.get(str(item.get("mode")), show.safe(item.get("mode")))


def _limits(item: dict[str, Any], counts: dict[str, Any]) -> str:
    """Parameters that are not counted one by one."""
    counted = list(counts)
    plain = [f"{show.safe(name)}={show.safe(value)}" for name, value in item.items()
             if name not in _KNOWN and value != counted]  # fmt: skip
    return "  " + ", ".join(plain) if plain else ""


def _withheld(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else ():
        yield f"{show.safe(item.get('type'))} [{risk_word(item.get('risk'))}] {words_of(item)}"
        if item.get("note"):
            yield f"    {show.safe(item.get('note'), 300)}"


def _asked(items: Any) -> Iterator[str]:
    for item in items if isinstance(items, list) else ():
        yield f"{show.safe(item.get('type'))} {show.safe(item.get('params'))}"
        yield f"    {say('Its author says:')} {show.safe(item.get('reason'), 300)!r}"

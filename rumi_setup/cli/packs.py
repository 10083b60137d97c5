"""`rumi pack`: what there is, what waits for a decision, the decisions."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import SETTINGS, Lazy, json_option
from rumi_setup.cli.words import say

_PACK_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_START_S = 120.0
_FETCH_S = 420.0
"""Python packages come over a line of unknown speed; the host itself gives up earlier."""
_NEXT = {"running": "./rumi interface list", "approved": "./rumi pack start {id}", "blocked": "./rumi pack list",
         "error": "./rumi logs {id}", "modified": "./rumi pack review {id}"}  # fmt: skip


_NEXT_BY_CAUSE = {
    "dependencies_missing": "./rumi pack fetch {id}",
    "isolation_weaker": "./rumi pack approve {id} --accept-weaker",
    "audit_broken": "./rumi audit verify",
    "gave_up": "./rumi logs {id}",
}


def checked(pack_id: str) -> str:
    """A Pack id that may stand in a path. Raises a usage error otherwise."""
    if not _PACK_ID.fullmatch(pack_id):
        raise click.UsageError(
            say("{id} is no Pack id: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter.", id=show.safe(pack_id, 80))
        )
    return quote(pack_id, safe="")


def show_status(found: dict[str, Any]) -> None:
    """The status of one Pack after a decision or a look."""
    if show.wants_json():
        show.data(found)
        return
    approval = found.get("approval") or {}
    show.pairs([
        ("pack", found.get("pack_id")), ("status", found.get("status")), ("cause", found.get("cause")),
        ("detail", found.get("detail")), ("version", found.get("version")), ("identity", found.get("pack_identity")),
        ("description", found.get("description")), ("digest", found.get("digest")),
        ("approved", approval.get("approved_at")), ("approved by", approval.get("actor")),
        ("isolation", _isolation(approval.get("isolation"))),
        ("waiting update", (found.get("pending_update") or {}).get("version")),
        ("changed files", ", ".join(map(str, (found.get("changed_paths") or [])[:20]))),
        ("effective digest", found.get("effective_digest")),
    ])  # fmt: skip
    if found.get("addons"):
        from rumi_setup.cli.review import addons

        show.section("Addons", addons(found.get("addons")))
    pack_id = show.safe(found.get("pack_id"))
    state = str(found.get("status"))
    step = _NEXT_BY_CAUSE.get(str(found.get("cause"))) or _NEXT.get(state, "./rumi pack review {id}")
    show.next_step(step.format(id=pack_id))


def _isolation(value: Any) -> str:
    return (
        " ".join(str(part) for part in value.values() if isinstance(part, str))
        if isinstance(value, dict)
        else str(value or "")
    )


def _ask_known(method: str, path: str, body: Any = None, *, timeout_s: float = link.TIMEOUT_S) -> Any:
    """Ask about one Pack; a Pack that was put there just now is looked for once."""
    try:
        return link.ask(method, path, body, timeout_s=timeout_s)
    except Failure as found:
        if found.exit_code != codes.NOT_FOUND:
            raise
        link.ask("POST", "/api/packs/scan")
        return link.ask(method, path, body, timeout_s=timeout_s)


# word → (module, attribute, short help); the sentence is the one that the command itself says
_ELSEWHERE = {
    "add": (
        "updates", "add",
        "Bring a Pack in from a folder: a new one, or a new version of an approved one, which goes on running.",
    ),
    "update": (
        "updates", "update",
        "Put the staged version of a Pack in the place of the approved one. One that does not start is taken back.",
    ),
    "reject-update": ("updates", "reject_update", "Throw the staged version of a Pack away."),
    "rollback": ("updates", "rollback", "Return to the version before the last update, with the Pack's data of then."),
    "validate": (
        "authoring", "validate", "What is wrong with a Pack's folder or archive, line by line; nothing of it is run.",
    ),
    "test": (
        "authoring", "test", "Run a Pack's own tests, with the Pack in the embedded sandbox; the rest goes to pytest.",
    ),
    "dev": (
        "developing", "dev",
        "Develop a Pack: approve and start it at each change of its folder, until Ctrl-C.",
    ),
    "sign": ("signing", "sign", "Sign a Pack's folder with your key: writes signature.dsse.json into it."),
    "verify": ("signing", "verify", "Who signed a Pack, and whether the signature is right; needs no host."),
    "sbom": ("sbom", "sbom", "The bill of materials of a Pack as CycloneDX 1.6: files and packages with hashes."),
    "diff": ("permissions", "diff", "What changed against the approved version: permissions and files."),
    "permissions": ("permissions", "permissions", "What a Pack may do, and how much of it it uses."),
    "egress": ("egress", "egress", "Connections of a Pack, bytes against budgets, what was refused lately."),
    "grant": ("permissions", "grant", "Grant one more permission that the Pack declared; it acts at once."),
    "revoke": (
        "permissions", "revoke",
        "Take a permission away, or only some paths, keys or topics of it; it acts at once.",
    ),
}  # fmt: skip


@click.group(cls=Lazy, table=_ELSEWHERE, context_settings=SETTINGS,
             help=say("Packs: list, review, approve, reject, start, stop, new"))  # fmt: skip
def pack() -> None:
    pass


@pack.command("list", help=say("All Packs and their state."))
@json_option
def list_() -> None:
    link.ask("POST", "/api/packs/scan")
    found = link.ask("GET", "/api/packs")
    if show.wants_json():
        show.data(found)
        return
    show.table(
        ("pack", "status", "version", "description"),
        [(one.get("pack_id"), one.get("status"), one.get("version"), _about(one)) for one in found],
    )
    waiting = any(one.get("status") in show.WAITING or one.get("pending_update") for one in found)
    show.next_step("./rumi pack pending" if waiting else "./rumi interface list" if found else "./rumi pack new NAME")


def _about(one: dict[str, Any]) -> str:
    """What an operator must know of it first, then what it says of itself."""
    update = one.get("pending_update") or {}
    marks = [
        say("in development") if one.get("in_development") else "",
        say("update {version} waits", version=show.safe(update.get("version"), 40)) if update else "",
        show.safe(one.get("detail") or one.get("cause") or one.get("description") or ""),
    ]
    return "; ".join(filter(None, marks))


@pack.command(help=say("Packs that wait for a decision."))
@json_option
def pending() -> None:
    found = link.ask("GET", "/api/packs/pending")
    if show.wants_json():
        show.data(found)
        return
    staged = [one for one in link.ask("GET", "/api/packs") if one.get("pending_update")]
    for pack_id in found:
        click.echo(show.safe(pack_id))
    for one in staged:
        click.echo(f"{show.safe(one.get('pack_id'))}  {_about({'pending_update': one['pending_update']})}")
    if found:
        show.next_step(f"./rumi pack review {show.safe(found[0])}")
    elif staged:
        show.next_step(f"./rumi pack update {show.safe(staged[0].get('pack_id'))} --show")
    else:
        show.words(say("Nothing waits for a decision."))
        show.next_step("./rumi pack list")


@pack.command("show", help=say("State of one Pack, and what was approved."))
@click.argument("pack_id")
@json_option
def show_(pack_id: str) -> None:
    found = _ask_known("GET", f"/api/packs/{checked(pack_id)}/status")
    limits = link.ask("GET", f"/api/packs/{checked(pack_id)}/limits")
    components = link.ask("GET", f"/api/packs/{checked(pack_id)}/components")
    if show.wants_json():
        show.data({**found, "limits": limits, "components": components})
        return
    show_status(found)
    show.section("Components", (_component_line(one) for one in components))
    show.section("Limits: used, of which, met how often", (_limit_line(one) for one in limits))


def _component_line(one: dict[str, Any]) -> str:
    cause = f"  {show.safe(one.get('cause'))}" if one.get("cause") else ""
    return f"{show.safe(one.get('id'))}  {show.safe(one.get('state'))}{cause}"


def _limit_line(one: dict[str, Any]) -> str:
    """One limit. Sizes in MiB, since nobody reads eight digits."""
    is_size, used, hits = one.get("unit") == "bytes", one.get("used"), one.get("hits")

    def number(value: Any) -> str:
        return f"{float(value) / 1_048_576:.1f}" if is_size else f"{float(value):.4g}"

    unit = "MiB" if is_size else show.safe(one.get("unit"))
    amount = f"{'–' if used is None else number(used)} / {number(one.get('limit'))} {unit}"
    met = say("met {n} times: {beyond}", n=hits, beyond=show.safe(one.get("beyond"))) if hits else ""
    return f"{show.safe(one.get('name')):14} {amount:24} {met}".rstrip()


@pack.command(help=say("Everything that the decision needs: rights, risks, findings, differences."))
@click.argument("pack_id")
@json_option
def review(pack_id: str) -> None:
    from rumi_setup.cli.review import show_review

    found = _ask_known("GET", f"/api/packs/{checked(pack_id)}/review")
    if show.wants_json():
        show.data(found)
        return
    show_review(found)
    decided = found.get("state") in {"approved", "running"}
    approve_it = f"./rumi pack approve {pack_id} --digest {show.safe(found.get('digest'))}"
    show.next_step(f"./rumi pack show {pack_id}" if decided else approve_it)


def limiting(command: Callable[..., None]) -> Callable[..., None]:
    """The options by which an approval grants other than what is plain; read by ``limits``."""
    chosen = click.option(
        "--permission",
        "-p",
        "chosen",
        multiple=True,
        metavar="TYPE|JSON",
        help=say("Grant only these; each is a type or a JSON object. Name none as --permission ''."),
    )
    replaced = click.option(
        "--replace", "replaced", multiple=True, metavar="KEY", help=say("Let it take over this key of another Pack.")
    )
    until = click.option("--until", metavar="WHEN", help=say("Until then: 90m, 8h, 7d or a date."))
    return chosen(replaced(until(command)))


@pack.command(
    help=say(
        "Approve a Pack. On a terminal it shows the review first and asks; what was shown is what is approved. "
        "Without one and without --digest, it approves what lies on the disk, leaving out the riskiest rights."
    )
)
@click.argument("pack_id")
@click.option("--digest", help=say("Approve exactly this state of the files."))
@click.option("--yes", "-y", is_flag=True, help=say("Do not ask; approve what the review shows."))
@click.option("--accept-weaker", is_flag=True, help=say("Agree to a weaker isolation than approved before."))
@limiting
@json_option
def approve(pack_id: str, digest: str | None, yes: bool, accept_weaker: bool,  # noqa: FBT001
            chosen: tuple[str, ...], replaced: tuple[str, ...], until: str | None) -> None:  # fmt: skip
    path = f"/api/packs/{checked(pack_id)}"
    asks = digest is None and not yes and sys.stdin.isatty() and sys.stderr.isatty() and not show.wants_json()
    if digest is None and (yes or asks):
        found = _ask_known("GET", f"{path}/review")
        digest = str(found.get("digest"))
        if asks:
            _confirm(pack_id, found)
    body = limits(chosen, replaced, until) | ({"accept_weaker": True} if accept_weaker else {})
    if digest is not None:
        body["digest"] = digest
    done = _ask_known("POST", f"{path}/approve", body or None, timeout_s=_FETCH_S)
    show_status(done)
    if done.get("status") not in {"running", "approved"}:
        raise Failure(
            say("{pack} was approved but does not run.", pack=show.safe(pack_id)), codes.PACK_FAILED,
            f"./rumi logs {pack_id}", code="start_failed",
        )  # fmt: skip


def limits(chosen: tuple[str, ...], replaced: tuple[str, ...], until: str | None) -> dict[str, Any]:
    """What the operator narrows the approval to."""
    from rumi_setup.cli.permissions import choice, moment

    body: dict[str, Any] = {}
    if chosen:
        body["permissions"] = [choice(one, ()) for one in chosen if one]
    if replaced:
        body["replace"] = list(replaced)
    if until is not None:
        body["until"] = moment(until)
    return body


def _confirm(pack_id: str, found: dict[str, Any]) -> None:
    from rumi_setup.cli.review import show_review

    show_review(found)
    if not click.confirm(say("Approve {pack}?", pack=show.safe(pack_id)), default=False, err=True):
        raise Failure(say("Nothing was changed."), codes.FAILED, f"./rumi pack reject {pack_id}", code="not_confirmed")


@pack.command(help=say("Reject a Pack, and stop it."))
@click.argument("pack_id")
@click.option("--reason", default="", help=say("Why, for the record."))
@json_option
def reject(pack_id: str, reason: str) -> None:
    show_status(_ask_known("POST", f"/api/packs/{checked(pack_id)}/reject", {"reason": reason}))


@pack.command(help=say("Uninstall a Pack: its folder, what was approved, its copy."))
@click.argument("pack_id")
@click.option("--yes", "-y", is_flag=True, help=say("Do not ask."))
@json_option
def remove(pack_id: str, yes: bool) -> None:  # noqa: FBT001 - click's signature
    path = checked(pack_id)
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(say("This deletes the Pack's folder. Without a terminal, say --yes."))
        if not click.confirm(say("Delete {pack} and its folder?", pack=pack_id), default=False, err=True):
            raise Failure(say("Nothing was changed."), codes.FAILED, code="not_confirmed")
    done = link.ask("DELETE", f"/api/packs/{path}")
    if show.wants_json():
        show.data(done)
    else:
        show.words(say("{pack} is gone.", pack=pack_id))
    show.next_step("./rumi pack list")


@pack.command(help=say("Put the approved files back over changed ones, and start."))
@click.argument("pack_id")
@json_option
def restore(pack_id: str) -> None:
    show_status(link.ask("POST", f"/api/packs/{checked(pack_id)}/restore", timeout_s=_START_S))


@pack.command(help=say("Fetch the Python packages that an approved Pack lacks, and start it."))
@click.argument("pack_id")
@json_option
def fetch(pack_id: str) -> None:
    show_status(link.ask("POST", f"/api/packs/{checked(pack_id)}/fetch", timeout_s=_FETCH_S))


@pack.command(help=say("Run an approved Pack's code afresh, or one component's; no call is lost."))
@click.argument("pack_id")
@click.argument("component", required=False, default="")
@json_option
def reload(pack_id: str, component: str) -> None:
    path = f"/api/packs/{checked(pack_id)}/reload"
    show_status(_ask_known("POST", path, {"component": component}, timeout_s=_START_S))


@pack.command(help=say("Start an approved Pack."))
@click.argument("pack_id")
@json_option
def start(pack_id: str) -> None:
    show_status(link.ask("POST", f"/api/containers/{checked(pack_id)}/start", timeout_s=_START_S))


@pack.command(help=say("Stop a Pack; it stays approved."))
@click.argument("pack_id")
@json_option
def stop(pack_id: str) -> None:
    show_status(link.ask("POST", f"/api/containers/{checked(pack_id)}/stop"))


@pack.command(help=say("Remove the files that a Pack made, as its journal lists them."))
@click.argument("pack_id")
@click.option("--yes", "-y", is_flag=True, help=say("Really remove them; without it, only list them."))
@json_option
def clean(pack_id: str, yes: bool) -> int:  # noqa: FBT001 - click's signature
    found = link.ask("POST", f"/api/packs/{checked(pack_id)}/journal/uninstall", {"dry_run": not yes})
    if show.wants_json():
        show.data(found)
        return codes.OK if found.get("success") else codes.FAILED
    if yes:
        show.section("Removed", map(show.safe, found.get("deleted") or []))
    else:
        show.section("Would be removed", map(show.safe, found.get("planned_delete") or []))
    show.section("Left alone", _paths_with_reasons(found.get("skipped")))
    show.section("Not removable", _paths_with_reasons(found.get("errors")))
    show.next_step("./rumi pack list" if yes else f"./rumi pack clean {pack_id} --yes")
    return codes.OK if found.get("success") else codes.FAILED


def _paths_with_reasons(items: Any) -> list[str]:
    return [f"{show.safe(item.get('path'))}: {show.safe(item.get('reason'))}" for item in items or []]


@pack.command(help=say("Look at the folder of Packs again."))
@json_option
def scan() -> None:
    found = link.ask("POST", "/api/packs/scan")
    if show.wants_json():
        show.data(found)
        return
    show.words(say("{n} Packs.", n=found.get("scanned")))
    show.next_step("./rumi pack pending")


@pack.command(help=say("Make a new Pack that works, to begin with."))
@click.argument("name")
@click.option("--author", default="me", show_default=True, help=say("Your name in its identity."))
@click.option(
    "--into", metavar="DIR", type=click.Path(file_okay=False), help=say("Another folder than ecosystem/packs.")
)
@json_option
def new(name: str, author: str, into: str | None) -> None:
    from pathlib import Path

    from rumi_setup.cli.machine import guarded
    from rumi_setup.core.template import new_pack

    made = guarded(lambda: new_pack(name, author=author, folder=Path(into).absolute() if into else None))
    if show.wants_json():
        show.data({"pack_id": name, "path": str(made)})
    else:
        click.echo(str(made))
    show.next_step(f"./rumi pack approve {name}")

"""`rumi pack add|update|reject-update|rollback`: new versions, and the way back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from rumi_setup.cli import codes, link, show
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import json_option
from rumi_setup.cli.packs import checked, limiting, limits, show_status
from rumi_setup.cli.words import say

_START_S = 420.0  # packages of the new version may have to be fetched


@click.command(
    help=say(
        "Bring a Pack in from a folder, a zip or tar archive, a Git repository, or a registry (oci://HOST/NAME:TAG): a "
        "new one, or a new version of an approved one, which goes on running."
    )
)
@click.argument("source", metavar="FOLDER|ARCHIVE|URL")
@click.option("--ref", default="", help=say("Which branch, tag or commit of a repository."))
@click.option("--publisher", default="", metavar="KEY", help=say("Refuse it unless it is signed with just this key."))
@json_option
def add(source: str, ref: str, publisher: str) -> None:
    asked = _asked(source, ref) | ({"publisher": publisher} if publisher else {})
    if ref and "git" not in asked:
        raise click.UsageError(say("--ref is for Git repositories; {source} is none.", source=show.safe(source)))
    done = link.ask("POST", "/api/packs/add", asked, timeout_s=_START_S)
    if show.wants_json():
        show.data(done)
        return
    if done.get("pinned"):
        show.words(say("It is {pinned}.", pinned=show.safe(done["pinned"], 500)))
    pack_id = show.safe(done.get("pack_id"))
    staged = done.get("pending_update")
    if staged:
        show.words(say("Version {new} of {pack} is staged; what is approved goes on.", pack=pack_id,
                       new=show.safe(staged.get("version"))))  # fmt: skip
        show.next_step(f"./rumi pack update {pack_id}")
    else:
        show.words(say("{pack} is there; it does not run before it is approved.", pack=pack_id))
        show.next_step(f"./rumi pack review {pack_id}")


def _asked(source: str, ref: str) -> dict[str, str]:
    if source.startswith("oci://"):
        return {"oci": source}
    return {"git": source, "ref": ref} if "://" in source else {"path": str(Path(source).absolute())}


@click.command(
    help=say(
        "Put the staged version of a Pack in the place of the approved one. One that does not start is taken back."
    )
)
@click.argument("pack_id")
@click.option("--digest", help=say("Approve exactly this state of the files."))
@click.option("--yes", "-y", is_flag=True, help=say("Do not ask; approve what the review shows."))
@click.option("--show", "only_show", is_flag=True, help=say("Only show the differences."))
@click.option("--accept-weaker", is_flag=True, help=say("Agree to a weaker isolation than approved before."))
@limiting
@json_option
def update(pack_id: str, digest: str | None, yes: bool, only_show: bool, accept_weaker: bool,  # noqa: FBT001
           chosen: tuple[str, ...], replaced: tuple[str, ...], until: str | None) -> None:  # fmt: skip
    path = f"/api/packs/{checked(pack_id)}/update"
    asks = digest is None and not yes and sys.stdin.isatty() and sys.stderr.isatty() and not show.wants_json()
    if only_show or asks or (digest is None and yes):
        found = link.ask("GET", path)
        digest = str(found.get("digest"))
        if only_show:
            _shown(pack_id, found)
            return
        if asks:
            _confirm(pack_id, found)
    body = limits(chosen, replaced, until) | ({"accept_weaker": True} if accept_weaker else {})
    if digest is not None:
        body["digest"] = digest
    show_status(link.ask("POST", f"{path}/approve", body, timeout_s=_START_S))


def _shown(pack_id: str, found: dict[str, Any]) -> None:
    from rumi_setup.cli.review import show_review

    if show.wants_json():
        show.data(found)
        return
    show_review(found, update=True)
    show.next_step(f"./rumi pack update {pack_id} --digest {show.safe(found.get('digest'))}")


def _confirm(pack_id: str, found: dict[str, Any]) -> None:
    from rumi_setup.cli.review import show_review

    show_review(found, update=True)
    if not click.confirm(say("Update {pack}?", pack=show.safe(pack_id)), default=False, err=True):
        hint = f"./rumi pack reject-update {pack_id}"
        raise Failure(say("Nothing was changed."), codes.FAILED, hint, code="not_confirmed")


@click.command("reject-update", help=say("Throw the staged version of a Pack away."))
@click.argument("pack_id")
@json_option
def reject_update(pack_id: str) -> None:
    show_status(link.ask("POST", f"/api/packs/{checked(pack_id)}/update/reject"))


@click.command(help=say("Return to the version before the last update, with the Pack's data of then."))
@click.argument("pack_id")
@json_option
def rollback(pack_id: str) -> None:
    show_status(link.ask("POST", f"/api/packs/{checked(pack_id)}/rollback", timeout_s=_START_S))

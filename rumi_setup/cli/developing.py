"""`rumi pack dev DIR`: each change of one folder becomes what runs, by decisions that this command makes.

Invariants:
  * Nothing outlives the command: the host knows no folder that approves itself, only single decisions, each marked.
  * What wants more than the operator agreed to waits for another yes. Without a terminal it is a refusal.
  * A folder that Packs can write to is none to develop in: it would be a Pack that approves itself. That is looked at
    before each change is taken, since a way into it may have been granted meanwhile.

Not here: how a version takes the place of another (the host's updates), what is wrong with a folder (`authoring`).
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from rumi_setup.cli import author, codes, link, show
from rumi_setup.cli.authoring import show_problem
from rumi_setup.cli.failure import Failure
from rumi_setup.cli.main import json_option
from rumi_setup.cli.words import say
from rumi_setup.core import places

POLL_S = 0.05
_START_S = 420.0
_NOT_PRIVATE = "folder_not_private"
_ASKED = (
    "permissions", "host_keys", "replaces", "aliases", "requires", "uses", "packages", "pack_identity", "flows",
    "addons",
)  # fmt: skip
"""Of a review: what an operator agrees to, beside the files."""

Seen = dict[str, tuple[int, int, int]]


@click.command(help=say("Develop a Pack: approve and start it at each change of its folder, until Ctrl-C."))
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option("--yes", "-y", is_flag=True, help=say("Do not ask, also not when it wants more."))
@click.option("--once", is_flag=True, help=say("Only what lies there now; do not watch."))
@json_option
def dev(folder: str, yes: bool, once: bool) -> int:  # noqa: FBT001 - click's signature
    where = Path(folder).resolve()
    _check_place(where)
    work, seen = _Development(where, yes=yes), look(where)
    done = work.take()
    if once:
        return codes.OK if done else codes.PACK_FAILED
    show.words(say("Watching {folder}; Ctrl-C ends it.", folder=show.safe(str(where))))
    try:
        work.prepare()
        for _ in changes(where, seen):
            work.take()
            work.prepare()
    except KeyboardInterrupt:
        pass
    finally:
        work.close()
    show.words(say("Nothing is approved by itself any more; what runs goes on, marked as in development."))
    show.next_step(f"./rumi pack approve {show.safe(work.pack_id)}")
    return codes.OK


def _check_place(where: Path) -> None:
    """Refuse what a Pack could write to: its own data, or a folder above it."""
    data = (places.home() / "user_data").resolve()
    if _lies_in(where, data) or _lies_in(data, where):
        raise Failure(
            say("{folder} holds what Packs may write, or lies in it.", folder=show.safe(str(where))), codes.DENIED,
            say("Develop in another folder: a Pack must not write what approves it."), code=_NOT_PRIVATE,
        )  # fmt: skip


def _check_exports(where: Path) -> None:
    """Refuse a folder that some Pack may put files into: what it writes there would approve itself."""
    for operation in link.ask("GET", "/api/privileges"):
        for held in operation["grants"]:
            folder = str(held["options"].get("folder", ""))
            if folder and _lies_in(Path(folder), where):
                pack_id, name = show.safe(held["pack_id"]), show.safe(operation["id"])
                raise Failure(
                    say("{pack} may put files into {folder}.", pack=pack_id, folder=show.safe(folder)), codes.DENIED,
                    say("Take that back, look at the folder, and start again: {command}",
                        command=f"./rumi privilege revoke {pack_id} {name}"), code=_NOT_PRIVATE,
                )  # fmt: skip


def _lies_in(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or below it, by whatever name: folders are compared, not their paths."""
    inner = inner.resolve()
    if outer in (inner, *inner.parents):
        return True
    try:
        wanted = outer.stat()
    except OSError:
        return False  # it is not there: nothing lies in it by another name
    for one in (inner, *inner.parents):
        with contextlib.suppress(OSError):  # not there yet: its parents are looked at
            if os.path.samestat(one.stat(), wanted):
                return True
    return False


class _Development:
    """One folder from change to change."""

    def __init__(self, where: Path, *, yes: bool) -> None:
        self._where = where
        self._yes = yes
        self._agreed: set[str] = set()
        self._tool: author.Tool | None = None
        self.pack_id = where.name

    def prepare(self) -> None:
        """Have the tool ready that judges the next change: starting it takes longer than its judgement."""
        self.close()
        self._tool = author.Tool()

    def close(self) -> None:
        """End what was prepared."""
        tool, self._tool = self._tool, None
        if tool is not None:
            tool.close()

    def _validated(self) -> dict[str, Any]:
        if self._tool is None or not self._tool.alive:
            self.prepare()
        assert self._tool is not None
        found: dict[str, Any] = self._tool.ask("validate", source=str(self._where))
        return found

    def take(self) -> bool:
        """Make what lies in the folder what runs; whether that came out well. What went wrong is told.

        Raises ``Failure`` where a Pack may write to the folder.
        """
        began = time.monotonic()
        try:
            found = self._validated()
            self.pack_id = str(found["pack_id"])
            if not found["valid"]:
                for problem in found["problems"]:
                    show_problem(problem)
                return False
            status = self._decide(found["review"])
        except Failure as refused:
            if refused.code == "nothing_new":
                return True
            if refused.code == _NOT_PRIVATE:
                raise  # it ends: what lies in the folder now may be a Pack's, whoever changes it next
            click.echo(f"{say('error')}: {show.safe(str(refused), 2_000)}", err=True)
            if refused.hint:
                click.echo(show.safe(refused.hint), err=True)
            return False
        state = str(status.get("status"))
        if show.wants_json():
            show.line({"pack_id": self.pack_id, "state": state, "seconds": round(time.monotonic() - began, 3)})
        else:
            click.echo(say("{pack} {state} after {s} s: digest {digest}", pack=show.safe(self.pack_id), state=state,
                           s=f"{time.monotonic() - began:.2f}", digest=show.safe(status.get("digest"))))  # fmt: skip
        return state == "running"

    def _decide(self, review: dict[str, Any]) -> Any:
        """The folder's state approved and started. Raises ``Failure``."""
        _check_place(self._where)
        _check_exports(self._where)
        if self._where.parent == places.home().resolve() / "ecosystem" / "packs":
            link.ask("POST", "/api/packs/scan")
            found = link.ask("GET", f"/api/packs/{self.pack_id}/review")
            return self._approve(f"/api/packs/{self.pack_id}/approve", found)
        self._consent(review)
        done = link.ask("POST", "/api/packs/add", {"path": str(self._where)}, timeout_s=_START_S)
        if not done.get("pending_update"):
            found = link.ask("GET", f"/api/packs/{self.pack_id}/review")
            return self._approve(f"/api/packs/{self.pack_id}/approve", found)
        path = f"/api/packs/{self.pack_id}/update"
        return self._approve(f"{path}/approve", link.ask("GET", path))

    def _approve(self, path: str, found: dict[str, Any]) -> Any:
        self._consent(found)
        _check_exports(self._where)  # last: what was written into the folder before was allowed to somebody then
        body = {"digest": found["digest"], "development": True}
        return link.ask("POST", path, body, timeout_s=_START_S)

    def _consent(self, found: dict[str, Any]) -> None:
        """Ask where the review names something that was not agreed to yet."""
        wanted = {
            f"{name}: {json.dumps(one, sort_keys=True, ensure_ascii=False)}"
            for name in _ASKED
            for one in _each(found.get(name))
        }
        fresh = sorted(wanted - self._agreed)
        if fresh and not self._yes:
            for one in fresh:
                click.echo(f"+ {show.safe(one, 500)}", err=True)
            if not sys.stdin.isatty():
                raise Failure(say("It wants what nobody agreed to yet."), codes.CONFLICT,
                              say("Say yes on a terminal, or start with --yes."), code="not_confirmed")  # fmt: skip
            if not click.confirm(say("Let {pack} have this, and run at each change?", pack=show.safe(self.pack_id)),
                                 default=False, err=True):  # fmt: skip
                raise Failure(say("Nothing was changed."), codes.FAILED, code="not_confirmed")
        self._agreed |= wanted


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from ([name, value[name]] for name in value)
    elif isinstance(value, list):
        yield from value
    elif value:
        yield value


def changes(where: Path, before: Seen, *, poll_s: float = POLL_S) -> Iterator[None]:
    """Yields each time when the folder differs from the time before, and has been still for one look."""
    now = before
    while True:
        time.sleep(poll_s)
        last, now = now, look(where)
        if now == last and now != before:
            before = now
            yield


def look(where: Path) -> Seen:
    """Each file below a folder with what changes when it is written; links are not followed."""
    found: Seen = {}
    open_ = [str(where)]
    while open_:
        try:
            with os.scandir(open_.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        open_.append(entry.path)
                    status = entry.stat(follow_symlinks=False)
                    found[entry.path] = (status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError:
            continue  # it changes under our eyes: the next look sees it
    return found

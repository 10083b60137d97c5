"""The setup doctor: finds what is missing or broken in the operator's folders and mends it, keeping what it replaces.

It looks at files only; what the running host knows is the host's own doctor's business.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from rumi_setup.core import files, initializer, places
from rumi_setup.core.process import run
from rumi_setup.core.words import say

_RESTORABLE = "restore_official_files"


@dataclass(frozen=True)
class Issue:
    """A finding. `fix_action` names what `fix` would do; `auto_fix` says whether it may without asking."""

    id: str
    severity: str
    message: str
    auto_fix: bool = False
    fix_action: str = ""
    fix_args: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mended:
    """The outcome of one fix; `backup` is where the replaced file went."""

    id: str
    success: bool
    message: str
    backup: str | None = None


def healthy(issues: list[Issue]) -> bool:
    """Whether the host can work; having no Pack yet is no illness."""
    return all(issue.severity == "info" for issue in issues)


def diagnose(home: str | os.PathLike[str] | None = None, root: Path = places.ROOT) -> list[Issue]:
    """Everything that is wrong, worst first."""
    home_dir = places.home(home)
    found = [*_user_data(home_dir), *_ecosystem(home_dir), *_flow(home_dir, root)]
    return sorted(found, key=lambda i: ("error", "warn", "info").index(i.severity))


def _user_data(home: Path) -> list[Issue]:
    base = home / "user_data"
    if not base.is_dir():
        return [Issue("user_data_missing", "error", say("{path} is missing.", path=base), True, "initialise")]
    found = [
        Issue(f"user_data_{name}_missing", "warn", say("{path} is missing.", path=base / name), True, "initialise")
        for name in initializer.USER_DATA_FOLDERS
        if not (base / name).is_dir()
    ]
    for name, judge in (("mounts", _mounts_problem), ("active_ecosystem", _active_problem)):
        path = base / f"{name}.json"
        wrong = _document_problem(path, judge)
        if wrong:
            found.append(
                Issue(
                    f"{name}_json_invalid", "error", say("{path} can not be used: {why}.", path=path, why=wrong),
                    True, "replace_with_default", {"file": f"user_data/{name}.json"},
                )
            )  # fmt: skip
    return found


def _ecosystem(home: Path) -> list[Issue]:
    base = home / "ecosystem"
    if not all((base / name).is_dir() for name in ("packs", "flows", "docker")):
        text = say("{path} is missing or incomplete.", path=base)
        return [Issue("ecosystem_missing", "error", text, True, "initialise")]
    if not any((base / "packs").glob("*/backend/ecosystem.json")):
        return [Issue("no_packs", "info", say("No Pack is installed yet: `./rumi pack new` makes one."))]
    return []


def _flow(home: Path, root: Path) -> list[Issue]:
    official = root / "flow" / "core"
    arguments = {"path": "flow/core"}
    in_git = (root / ".git").exists() and shutil.which("git") is not None
    if not official.is_dir():
        text = say("{path} is missing.", path=official)
        return [Issue("flow_missing", "error", text, in_git, _RESTORABLE, arguments)]
    if not (home / "flow" / "ecosystem").is_dir():
        missing = home / "flow" / "ecosystem"
        return [Issue("flow_missing", "error", say("{path} is missing.", path=missing), True, "initialise")]
    if not any(official.glob("*.flow.*")):
        text = say("{path} holds no flow: the host would not know how to start.", path=official)
        return [Issue("no_flow_files", "error", text, in_git, _RESTORABLE, arguments)]
    return []


def _document_problem(path: Path, judge: Callable[[dict[str, Any]], str]) -> str:
    if not path.exists():
        return say("it is missing")
    try:
        document = files.read_json(path)
    except ValueError as error:
        return str(error)
    return judge(document) if isinstance(document, dict) else say("an object was expected")


def _mounts_problem(document: dict[str, Any]) -> str:
    mounts = document.get("mounts")
    if not isinstance(mounts, dict) or not all(isinstance(v, str) for v in mounts.values()):
        return say("`mounts` must map names to paths")
    return ""


def _active_problem(document: dict[str, Any]) -> str:
    for name, default in initializer.default_active_ecosystem().items():
        value = document.get(name, default)
        if default is not None and not isinstance(value, type(default)):
            return say("`{name}` has the wrong type", name=name)
    return ""


def fix(
    home: str | os.PathLike[str] | None = None,
    ids: tuple[str, ...] | None = None,
    root: Path = places.ROOT,
) -> list[Mended]:
    """Mends what can be mended without asking; `ids` restricts it. What it replaces is kept beside it."""
    home_dir = places.home(home)
    outcomes = []
    for issue in diagnose(home_dir, root):
        if not issue.auto_fix or (ids is not None and issue.id not in ids):
            continue
        try:
            outcomes.append(_mend(issue, home_dir, root))
        except OSError as error:
            outcomes.append(Mended(issue.id, False, say("could not be mended: {why}", why=error)))
    return outcomes


def _mend(issue: Issue, home: Path, root: Path) -> Mended:
    if issue.fix_action == "initialise":
        made = initializer.initialise(home).created
        return Mended(issue.id, True, say("created: {names}", names=", ".join(made) or "-"))
    if issue.fix_action == "replace_with_default":
        return _replace(issue, home)
    restored = run(["git", "-C", root, "checkout", "HEAD", "--", issue.fix_args["path"]], timeout_s=30)
    return Mended(issue.id, restored.ok, say("restored from git") if restored.ok else restored.why())


def _replace(issue: Issue, home: Path) -> Mended:
    path = home / issue.fix_args["file"]
    backup = set_aside(path)
    content = initializer.default_mounts() if path.name == "mounts.json" else initializer.default_active_ecosystem()
    files.write_json(path, content)
    kept = None if backup is None else str(backup.relative_to(home))
    return Mended(issue.id, True, say("replaced by the default"), kept)


def set_aside(path: Path) -> Path | None:
    """Renames it to `<name>.broken-<time>`, never over something else; None when there is nothing."""
    if not os.path.lexists(path):
        return None
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for number in range(1000):
        target = path.with_name(f"{path.name}.broken-{stamp}" + (f"-{number}" if number else ""))
        if not os.path.lexists(target):
            path.rename(target)
            return target
    raise OSError(f"no free name beside {path}")


def reset(home: str | os.PathLike[str] | None = None) -> Mended:
    """Puts `user_data` aside as a whole and starts with an empty one. Approvals and the signing key go with it."""
    home_dir = places.home(home)
    kept = set_aside(home_dir / "user_data")
    initializer.initialise(home_dir)
    where = None if kept is None else kept.name
    return Mended("reset", True, say("user_data is new; the old one is {name}", name=where or "-"), where)

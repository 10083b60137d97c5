"""Looks at the machine: what is there, what is missing, what to do. Data; changes nothing.

A check never raises: what it could not find out is its finding.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Callable

from rumi_setup.core import installer, places
from rumi_setup.core.docker_http import Engine, EngineError
from rumi_setup.core.process import run
from rumi_setup.core.words import say

_NEEDED_DISK_BYTES = 400 << 20
_BWRAP_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin")
# the shape of what the host starts, without its seccomp filter and mounts
_BWRAP_PROBE = (
    "--unshare-all", "--new-session", "--die-with-parent", "--cap-drop", "ALL", "--ro-bind", "/usr", "/usr",
    "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv", "/usr/bin/true",  # noqa: S108 - inside it
)  # fmt: skip


class Status(Enum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One finding; `id` is stable, the texts are for people."""

    id: str
    title: str
    status: Status
    detail: str
    hint: str = ""


def run_checks(home: str | os.PathLike[str] | None = None, root: Path = places.ROOT) -> list[Check]:
    """Every check in the order in which a person would mend them."""
    home_dir = places.home(home)
    checks: tuple[Callable[[], Check], ...] = (
        check_python,
        lambda: check_disk(root),
        lambda: check_writable("project", root),
        lambda: check_writable("home", home_dir),
        lambda: check_environment(root),
        check_git,
        check_docker,
        check_bubblewrap,
        check_locale,
    )
    found = [check() for check in checks]
    by_id = {c.id: c for c in found}
    found.append(_isolation(by_id["docker_engine"], by_id["bubblewrap"]))
    return found


def check_python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] >= places.OLDEST_HOST_PYTHON:
        return Check("python", "Python", Status.OK, f"{version} ({sys.executable})")
    return Check(
        "python", "Python", Status.WARN, say("{v} runs the setup, the host needs 3.11 or newer", v=version),
        say("`./rumi setup` looks for a newer one, also with uv."),
    )  # fmt: skip


def check_disk(folder: Path) -> Check:
    title = say("Disk space")
    free = shutil.disk_usage(_existing(folder)).free
    detail = say("{n} MiB free", n=free >> 20)
    if free >= _NEEDED_DISK_BYTES:
        return Check("disk", title, Status.OK, detail)
    return Check("disk", title, Status.FAIL, detail, say("Free at least {n} MiB.", n=_NEEDED_DISK_BYTES >> 20))


def check_writable(which: str, folder: Path) -> Check:
    title = say("Project folder") if which == "project" else say("Data folder")
    if os.access(_existing(folder), os.W_OK):
        return Check(f"{which}_writable", title, Status.OK, str(folder))
    return Check(
        f"{which}_writable", title, Status.FAIL, say("{folder} can not be written", folder=folder),
        say("Run this as its owner, or set RUMI_HOME to a folder of your own."),
    )  # fmt: skip


def check_environment(root: Path) -> Check:
    title = say("Environment")
    serving = installer.current("runtime", root)
    if serving is not None:
        return Check("environment", title, Status.OK, say(".venv equals the lock `{lock}`", lock=serving))
    return Check("environment", title, Status.WARN, say(".venv is missing or older than its lock"), "./rumi setup")


def check_git() -> Check:
    found = run(["git", "--version"], timeout_s=10)
    if found.ok:
        return Check("git", "Git", Status.OK, found.text.strip())
    return Check("git", "Git", Status.WARN, say("not found"), say("Needed only to fetch new versions of the host."))


def check_docker() -> Check:
    title = "Docker Engine"
    try:
        engine = Engine.from_environment()
        version = engine.version(timeout_s=5.0)
    except EngineError as error:
        return Check(
            "docker_engine", title, Status.WARN, str(error),
            say("Start Docker, or use the embedded sandbox (bubblewrap, Linux only)."),
        )  # fmt: skip
    return Check("docker_engine", title, Status.OK, f"{version} ({engine.address})")


def find_bubblewrap() -> Path | None:
    """The system's, in folders that only the superuser writes: another user's file must not become the sandbox."""
    for folder in _BWRAP_FOLDERS:
        path = Path(folder) / "bwrap"
        try:
            seen = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(seen.st_mode) and seen.st_uid == 0 and not seen.st_mode & 0o022:
            return path
    return None


def check_bubblewrap() -> Check:
    title = say("Embedded sandbox (bubblewrap)")
    if not sys.platform.startswith("linux"):
        return Check("bubblewrap", title, Status.WARN, say("Linux only"), say("Use Docker here."))
    program = find_bubblewrap()
    if program is None:
        return Check("bubblewrap", title, Status.WARN, say("not found"), "sudo apt install bubblewrap")
    tried = run([program, *_BWRAP_PROBE], timeout_s=15)
    if tried.ok:
        return Check("bubblewrap", title, Status.OK, str(program))
    reason, hint = _why_no_namespaces()
    return Check("bubblewrap", title, Status.WARN, f"{tried.why()}{reason}", hint)


def _why_no_namespaces() -> tuple[str, str]:
    """Explains a failed probe; bubblewrap's own words mislead in each of these cases."""
    mounts = _text("/proc/self/mountinfo").splitlines()
    if mounts and not any(line.split()[4] == "/" for line in mounts):
        return "; " + say("this is a chroot, where the kernel refuses namespaces"), say("Run outside the chroot.")
    if _text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "; " + say("AppArmor keeps programs without a profile from making namespaces"), say(
            "Install Docker, or the distribution's profile for bubblewrap (package apparmor-profiles)."
        )
    if _text("/proc/sys/kernel/unprivileged_userns_clone") == "0" or _text("/proc/sys/user/max_user_namespaces") == "0":
        return "; " + say("the administrator switched user namespaces off"), say("Install Docker, or ask them.")
    if Path("/.dockerenv").exists() or "container" in os.environ:
        return "; " + say("this is inside a container, which may not nest sandboxes"), say(
            "Give it a Docker socket, or run on the host."
        )
    return "", say("Install Docker.")


def check_locale() -> Check:
    title = say("Locale")
    encoding = (sys.stdout.encoding or "").lower().replace("-", "")
    if encoding == "utf8":
        return Check("locale", title, Status.OK, f"{os.environ.get('LC_ALL') or os.environ.get('LANG') or '-'}, utf-8")
    return Check(
        "locale", title, Status.WARN, say("output is {encoding}; Japanese text may not show", encoding=encoding or "?"),
        "export LANG=C.UTF-8",
    )  # fmt: skip


def _isolation(docker: Check, bubblewrap: Check) -> Check:
    title = say("Isolation")
    if docker.status is Status.OK:
        return Check("isolation", title, Status.OK, "docker")
    if bubblewrap.status is Status.OK:
        return Check("isolation", title, Status.OK, say("embedded (Docker ranks above it)"))
    return Check(
        "isolation", title, Status.FAIL, say("Docker is required but not available, and no embedded sandbox works"),
        say("The host starts, but no Pack runs until there is one of them."),
    )  # fmt: skip


def _existing(folder: Path) -> Path:
    return next(p for p in (folder, *folder.parents) if p.exists())


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


_MARKS = {Status.OK: "ok  ", Status.WARN: "warn", Status.FAIL: "FAIL"}


def main() -> int:
    """Prints every check; 1 when one failed."""
    found = run_checks()
    for check in found:
        print(f"{_MARKS[check.status]}  {check.title}: {check.detail}")
        if check.hint and check.status is not Status.OK:
            print(f"      -> {check.hint}")
    return 1 if any(c.status is Status.FAIL for c in found) else 0

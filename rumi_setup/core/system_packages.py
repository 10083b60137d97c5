"""Installs the distribution's packages, as the superuser only and always said first."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import checker
from rumi_setup.core.problem import Attempt
from rumi_setup.core.process import run
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from rumi_setup.core.progress import Progress

_POLICY = Path("/usr/sbin/policy-rc.d")
_OPTIONS = (
    "-y", "-qq", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=3",
)  # fmt: skip
_TRIES = 3


def can_install() -> bool:
    return sys.platform.startswith("linux") and os.geteuid() == 0 and shutil.which("apt-get") is not None


def install(*packages: str, progress: Progress) -> Attempt | None:
    """None when all are installed, else why not. Services that come with them are not started."""
    progress.note(say("Installing {names} with apt-get (system packages).", names=" ".join(packages)))
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    ours = _forbid_service_starts()
    try:
        done = run(["apt-get", "install", *_OPTIONS, *packages], timeout_s=600, env=environment)
        for number in range(_TRIES):
            if done.ok:
                return None
            # the lists may be absent or old; one broken foreign list must not stop us: the install decides
            run(["apt-get", "update", "-qq"], timeout_s=300, env=environment)
            done = run(["apt-get", "install", *_OPTIONS, *packages], timeout_s=600, env=environment)
            if not done.ok and number + 1 < _TRIES:
                run(["dpkg", "--configure", "-a"], timeout_s=300, env=environment)
                time.sleep(1.0 + number)
        return None if done.ok else Attempt(f"apt-get install {' '.join(packages)}", done.why())
    finally:
        if ours:
            _POLICY.unlink(missing_ok=True)


def _forbid_service_starts() -> bool:
    """Debian asks this file before it starts a daemon: an engine that we did not configure must not appear."""
    if _POLICY.exists():
        return False
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    _POLICY.chmod(0o755)
    return True


def offer_isolation(isolation: str, progress: Progress) -> None:
    """Before a start: where neither an engine nor bubblewrap is there, install the latter or say how to."""
    if isolation == "docker" or not sys.platform.startswith("linux") or checker.find_bubblewrap() is not None:
        return
    if isolation == "auto" and checker.check_docker().status is checker.Status.OK:
        return
    if can_install():
        failed = install("bubblewrap", progress=progress)
        if failed is None:
            return
        progress.note(f"{failed.way}: {failed.outcome}")
    progress.note(say("No Docker engine and no bubblewrap: no Pack will run until you `sudo apt install bubblewrap`."))

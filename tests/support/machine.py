"""What this machine lets tests do, asked once a process. Shared by the markers and by fixtures."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

from rumi_setup.core import checker, engine
from rumi_setup.core.docker_http import Engine, EngineError

NODE_MAJOR = 18
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")


@functools.cache
def docker_obstacle() -> str:
    """Empty when an engine answers, else why tests marked `docker` can not run."""
    try:
        Engine.from_environment().version(timeout_s=10.0)
    except EngineError as error:
        return f"no Docker engine: {error} (`./rumi test --with-engine` as root brings one)"
    return ""


@functools.cache
def embedded_obstacle() -> str:
    check = checker.check_bubblewrap()
    return "" if check.status is checker.Status.OK else f"no embedded sandbox: {check.detail} ({check.hint})"


@functools.cache
def browser_obstacle() -> str:
    return "" if any(map(shutil.which, CHROMIUM_NAMES)) else "no Chromium (apt install chromium)"


@functools.cache
def node_obstacle() -> str:
    program = node()
    if program is None:
        return "no Node.js (apt install nodejs)"
    told = subprocess.run([program, "--version"], check=False, capture_output=True, text=True, timeout=30).stdout.strip()
    major = told.removeprefix("v").partition(".")[0]
    return "" if major.isdigit() and int(major) >= NODE_MAJOR else f"Node.js {told or 'of no version'}; {NODE_MAJOR} or newer is needed"


def node() -> str | None:
    """Where Node.js is."""
    return shutil.which("node") or shutil.which("nodejs")


@functools.cache
def netns_obstacle() -> str:
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [tool for tool in ("ip", "nsenter", "unshare", "bash") if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)} (apt install iproute2 util-linux)"
    tried = subprocess.run(["unshare", "--net", "--mount", "true"], check=False, capture_output=True, text=True)
    return f"no network namespaces: {tried.stderr.strip()}" if tried.returncode else ""


@functools.cache
def gvisor_obstacle() -> str:
    """Empty where gVisor runs a program and an engine of our own can be told of it."""
    runsc = shutil.which("runsc")
    if runsc is None:
        return "no gVisor (apt install runsc)"
    if engine.possible():
        return f"no engine of our own: {engine.possible()}"
    tried = subprocess.run([runsc, "--network=none", "--ignore-cgroups", "do", "true"], check=False, capture_output=True, text=True, timeout=60)
    return f"gVisor does not run here: {tried.stderr.strip()[-200:]}" if tried.returncode else ""


def root_obstacle() -> str:
    return "" if os.geteuid() == 0 else "acting as another user, or making what only root may, needs root"


@functools.cache
def mount_obstacle() -> str:
    """Empty where a file system can be mounted, as a full disk of our own needs."""
    if os.geteuid() != 0:
        return "mounting a small file system needs root"
    tried = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"], check=False, capture_output=True, text=True
    )
    return f"this machine refuses to mount a file system: {tried.stderr.strip()}" if tried.returncode else ""


OBSTACLES = {
    "docker": docker_obstacle, "embedded": embedded_obstacle, "browser": browser_obstacle, "netns": netns_obstacle, "node": node_obstacle,
    "root": root_obstacle, "mount": mount_obstacle, "gvisor": gvisor_obstacle,
}  # fmt: skip

"""What this machine has for the embedded sandbox: bubblewrap, a Python, the folders it needs, and why it may not work.

Invariant: a program that a sandbox start runs is owned by root and unchangeable for others, along its whole path.

Not here: starting anything but ``bwrap --version``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

from backend_core.errors import SandboxUnavailable, quote
from core_runtime.drivers.runtime_folder import PythonAbi, probe_python
from core_runtime.rules.bwrap_argv import EmbeddedMachine

PROGRAM_FOLDERS = ("/usr/bin", "/bin", "/usr/local/bin")
PYTHON_NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python3.10", "python3.9")
OLDEST_PYTHON = (3, 9)
SYSTEM_FOLDERS = ("/usr/bin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec", "/usr/share/zoneinfo")
"""Of /usr only what programs need to run: not /usr/local, /usr/src, or documents."""
TOP_FOLDERS = ("/bin", "/lib", "/lib32", "/lib64")
TLS_PLACES = (
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted",
    "/etc/ca-certificates",
)
LOADER_PLACES = ("/etc/ld.so.cache", "/etc/alternatives")
ETC = {"/etc/hosts": "etc/hosts", "/etc/nsswitch.conf": "etc/nsswitch.conf", "/etc/passwd": "etc/passwd"}


def find() -> EmbeddedMachine:
    """Look for everything.

    Raises:
        SandboxUnavailable: naming the first thing that is missing.
    """
    bwrap = _program(("bwrap",))
    if bwrap is None:
        raise SandboxUnavailable(
            "Bubblewrap is not installed", detail=f"no root-owned bwrap in {', '.join(PROGRAM_FOLDERS)}"
        )
    python = _python()
    present = [p for p in (*SYSTEM_FOLDERS, *LOADER_PLACES, *TLS_PLACES) if Path(p).exists()]
    links: list[tuple[str, str]] = []
    for place in TOP_FOLDERS:
        path = Path(place)
        if path.is_symlink():
            links.append((str(path.readlink()), place))
        elif path.is_dir():
            present.append(place)
    return EmbeddedMachine(
        bwrap=bwrap, python=python.executable, binds=tuple(present), links=tuple(links), etc=dict(ETC)
    )


def bwrap_version(bwrap: str) -> str:
    """``0.8.0``; empty when it does not say."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):  # it does not say
        done = subprocess.run([bwrap, "--version"], capture_output=True, timeout=5, check=True, env={}, cwd="/")
        found = re.search(rb"[0-9]+\.[0-9.]+", done.stdout)
        return found.group().decode("ascii") if found else ""
    return ""


def explain(failure: str) -> tuple[str, str]:
    """``(reason, hint)`` for a probe that failed. The causes are looked at only now: the attempt itself decides."""
    for holds, reason, hint in (
        (_in_chroot, "the host runs in a chroot, where the kernel refuses user namespaces", "Run Rumi outside of it."),
        (
            lambda: _sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" and os.geteuid() != 0,
            "AppArmor restricts user namespaces for programs without a profile",
            "Install Docker, or your distribution's AppArmor profile for bubblewrap (package apparmor-profiles).",
        ),
        (
            lambda: _sysctl("kernel/unprivileged_userns_clone") == "0" and os.geteuid() != 0,
            "this kernel lets only root make user namespaces (kernel.unprivileged_userns_clone = 0)",
            "Install Docker, or ask the administrator of this machine.",
        ),
        (
            lambda: _sysctl("user/max_user_namespaces") == "0",
            "user namespaces are switched off (user.max_user_namespaces = 0)",
            "Install Docker, or ask the administrator of this machine.",
        ),
        (
            _in_container,
            "the host itself runs in a container that forbids new namespaces",
            "Give this container access to a Docker engine of its own, or run Rumi on the machine itself.",
        ),
    ):
        if "not installed" not in failure and holds():
            return f"{reason} ({failure})", hint
    return failure, ""


def remove_tree(folder: Path) -> None:
    """Remove a folder that this driver made."""
    shutil.rmtree(folder, ignore_errors=True)


def _python() -> PythonAbi:
    tried: list[str] = []
    for name in PYTHON_NAMES:
        path = _program((name,))
        if path is None:
            continue
        try:
            abi = probe_python(path)
        except OSError as error:
            tried.append(str(error))
            continue
        if abi.version >= OLDEST_PYTHON:
            return abi
        tried.append(f"{path} is {abi.version[0]}.{abi.version[1]}")
    raise SandboxUnavailable(
        "The system has no Python for sandboxes",
        detail=f"expected a root-owned python3 of at least 3.9 in /usr/bin; {quote('; '.join(tried) or 'none found')}",
        hint="apt-get install python3 (or your distribution's equivalent)",
    )


def _program(names: tuple[str, ...]) -> str | None:
    """The first program that only root can change, by its real path below /usr or /bin."""
    for folder in PROGRAM_FOLDERS:
        for name in names:
            real = os.path.realpath(f"{folder}/{name}")
            if real.startswith(("/usr/bin/", "/bin/")) and Path(real).is_file() and _only_root_changes(Path(real)):
                return real
    return None


def _only_root_changes(path: Path) -> bool:
    return all(
        found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        for found in (place.stat() for place in (path, *path.parents))
    )


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii").strip()
    except OSError:  # this kernel has no such setting
        return ""


def _in_chroot() -> bool:
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no proc: other probes refuse
        return False
    return not any(line.split(" ")[4] == "/" for line in lines)


def _in_container() -> bool:
    return Path("/.dockerenv").exists() or Path("/run/.containerenv").exists()

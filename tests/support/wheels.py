"""Wheels made by the tests themselves, with zipfile alone: honest ones, and ones that lie."""

from __future__ import annotations

import base64
import hashlib
import io
import stat
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ELF = b"\x7fELF" + b"\0" * 60


def built(
    name: str,
    version: str,
    files: Mapping[str, bytes | str],
    *,
    extra: Sequence[tuple[zipfile.ZipInfo, bytes]] = (),
    record: Mapping[str, str] | None = None,
    with_record: bool = True,
    tag: str = "py3-none-any",
) -> tuple[str, bytes]:
    """(file name, bytes). ``extra`` members stand as they are and are not in RECORD; ``record`` changes its hashes."""
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    members = {path: data.encode() if isinstance(data, str) else data for path, data in files.items()}
    members[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    members[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode()
    rows = [f"{path},sha256={(record or {}).get(path, digest(data))},{len(data)}" for path, data in members.items()]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in members.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
        for member, data in extra:
            archive.writestr(member, data)
        if with_record:
            archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return f"{stem}-{tag}.whl", out.getvalue()


def digest(data: bytes) -> str:
    """As RECORD writes it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def locked(*pins: tuple[str, str, bytes]) -> str:
    """A lock of (name, version, bytes of its wheel)."""
    return "".join(f"{name}=={version} \\\n    --hash=sha256:{sha256(data)}\n" for name, version, data in pins)


def write_wheels(folder: Path, *wheels: tuple[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in wheels:
        (folder / name).write_bytes(data)

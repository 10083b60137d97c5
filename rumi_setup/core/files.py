"""Whole-file writes that a crash leaves either old or new, for the setup core alone.

The host has its own, richer version in `backend_core`: the two sides never import each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

_JSON_LIMIT_BYTES = 1 << 20


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Writes beside the target, flushes to disk, then takes its name."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def write_json(path: Path, document: dict[str, Any], *, mode: int = 0o644) -> None:
    write_whole(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode(), mode=mode)


def read_json(path: Path) -> Any:
    """Raises ValueError with a sentence for what can not be read, is too large or is no JSON."""
    try:
        with path.open("rb") as source:
            raw = source.read(_JSON_LIMIT_BYTES + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    if len(raw) > _JSON_LIMIT_BYTES:
        raise ValueError(f"larger than {_JSON_LIMIT_BYTES} bytes")
    try:
        return json.loads(raw)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error

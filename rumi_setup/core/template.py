"""Makes a new Pack from `rumi_setup/defaults/pack`: a complete, working one with a component that answers.

Placeholders in its files are `__pack_id__`, `__author__` and `__year__`; a file name may hold the first.

Its files name their JSON Schema for editors, by a path to a folder beside the Pack: copies of the published ones lie
there, so that an editor needs no network, and the Pack itself, with its digest, holds none of them.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from pathlib import Path

from rumi_setup.core import places
from rumi_setup.core.problem import USAGE, SetupError
from rumi_setup.core.words import say

_PACK_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_AUTHOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SOURCE = places.ROOT / "rumi_setup" / "defaults" / "pack"
SCHEMAS = places.ROOT / "backend_core" / "ecosystem" / "spec" / "schema"
BESIDE = ".rumi-schema"
"""Hidden, so that no scan of Packs looks into it."""


def new_pack(
    pack_id: str, *, author: str = "me", home: str | os.PathLike[str] | None = None, folder: Path | None = None
) -> Path:
    """Creates `ecosystem/packs/<pack_id>` (or inside `folder`), complete or not at all; returns it."""
    if not _PACK_ID.fullmatch(pack_id):
        raise SetupError(
            say("{id!r} is no Pack id: 1 to 64 of a-z, 0-9, _ and -, beginning with a letter.", id=pack_id),
            exit_code=USAGE,
        )
    if not _AUTHOR.fullmatch(author):
        raise SetupError(say("{name!r} is no author name: letters, digits, . _ and -.", name=author), exit_code=USAGE)
    parent = folder if folder is not None else places.home(home) / "ecosystem" / "packs"
    target = parent / pack_id
    if os.path.lexists(target):
        raise SetupError(
            say("{path} exists already.", path=target), left=say("Nothing was changed."),
            next_steps=(say("Choose another id, or move that folder away."),), exit_code=USAGE,
        )  # fmt: skip
    parent.mkdir(parents=True, exist_ok=True)
    _put_schemas(parent / BESIDE)
    values = {"__pack_id__": pack_id, "__author__": author, "__year__": time.strftime("%Y")}
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as temporary:
        made = Path(temporary) / pack_id
        for source in sorted(p for p in SOURCE.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            _copy(source, made / _filled(source.relative_to(SOURCE).as_posix(), values), values)
        made.rename(target)
    return target


def _put_schemas(folder: Path) -> None:
    """The schemas as this version publishes them; what is the same stays as it is."""
    folder.mkdir(exist_ok=True)
    for source in sorted(SCHEMAS.glob("*.schema.json")):
        target, data = folder / source.name, source.read_bytes()
        if target.is_file() and target.read_bytes() == data:
            continue
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", delete=False) as file:
            file.write(data)
        fresh = Path(file.name)
        fresh.chmod(0o644)
        fresh.replace(target)


def _copy(source: Path, target: Path, values: dict[str, str]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(_filled(source.read_text(encoding="utf-8"), values).encode())
    shutil.copymode(source, target)


def _filled(text: str, values: dict[str, str]) -> str:
    for place, value in values.items():
        text = text.replace(place, value)
    return text

"""Creates the operator's folders and settings where they are missing; never touches what is there.

`permissions/` holds the signing key and is for the owner alone. `user_data/` and `store/` can be passed through but not
listed (0711): a sandbox under its own user must reach the one approved copy it runs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rumi_setup.core import files, places
from rumi_setup.core.problem import SetupError
from rumi_setup.core.words import say

USER_DATA_FOLDERS: dict[str, int] = {
    "permissions": 0o700,
    "flows": 0o700,
    "settings": 0o700,
    "shared": 0o700,
    "cache": 0o700,
    "store": 0o711,
    "logs": 0o700,
}
OTHER_FOLDERS = ("ecosystem/packs", "ecosystem/flows", "ecosystem/docker", "flow/ecosystem")
_USER_DATA_MODE = 0o711

_README = """# user_data

**What lives here**: everything that is yours: approvals, settings, flows, data of Packs, logs. Data, no code.
**Who writes it**: the host and the setup system. Packs reach only what you granted, through the host.
**May I edit it**: `settings/` and `flows/` yes. `permissions/` no: it is signed, and an edited grant stops its Pack.
Keep a copy of this folder before you move or update. Never publish it: `permissions/` holds your signing key.

あなたのデータです（承認・設定・フロー・Pack のデータ・ログ）。`permissions/` は署名されているため編集しないでください。
"""


def default_mounts() -> dict[str, Any]:
    return {"version": "1.0", "mounts": {"data.user": "./user_data", "data.cache": "./user_data/cache"}}


def default_active_ecosystem() -> dict[str, Any]:
    return {
        "active_pack_identity": None,
        "overrides": {},
        "interface_overrides": {},
        "disabled_components": [],
        "disabled_addons": [],
        "metadata": {},
    }


@dataclass(frozen=True)
class Initialised:
    """What was created now, relative to the home; empty when all was there."""

    home: Path
    created: tuple[str, ...]


def initialise(home: str | os.PathLike[str] | None = None) -> Initialised:
    """Creates what is missing; safe to run again and while the host runs. Raises SetupError."""
    home_dir = places.home(home)
    created: list[str] = []
    try:
        home_dir.mkdir(parents=True, exist_ok=True)
        _folder(home_dir, "user_data", _USER_DATA_MODE, created)
        for name, mode in USER_DATA_FOLDERS.items():
            _folder(home_dir, f"user_data/{name}", mode, created)
        for name in OTHER_FOLDERS:
            _folder(home_dir, name, 0o755, created)
        _document(home_dir, "user_data/mounts.json", default_mounts(), created)
        _document(home_dir, "user_data/active_ecosystem.json", default_active_ecosystem(), created)
        readme = home_dir / "user_data" / "README.md"
        if not readme.exists():
            files.write_whole(readme, _README.encode())
            created.append("user_data/README.md")
    except OSError as error:
        raise SetupError(
            say("The folders under {home} could not be created: {why}.", home=home_dir, why=error),
            left=say("Created so far: {names}.", names=", ".join(created) or "-"),
            next_steps=(
                say("Make {home} writable for you, then run `./rumi setup` again.", home=home_dir),
                say("Choose another folder: `RUMI_HOME=/path ./rumi setup`."),
            ),
        ) from error
    return Initialised(home_dir, tuple(created))


def _folder(home: Path, name: str, mode: int, created: list[str]) -> None:
    path = home / name
    if not path.exists():
        path.mkdir(parents=True)
        created.append(name)
        if sys.platform != "win32":
            path.chmod(mode)
    elif sys.platform != "win32" and mode == USER_DATA_FOLDERS["permissions"] and path.name == "permissions":
        _close_to_others(path)


def _close_to_others(path: Path) -> None:
    """The one folder whose mode is a promise: an archive or a careless copy may have opened it."""
    seen = path.stat()
    if seen.st_mode & 0o077 and seen.st_uid == os.geteuid():
        path.chmod(0o700)


def _document(home: Path, name: str, content: dict[str, Any], created: list[str]) -> None:
    path = home / name
    if not path.exists():
        files.write_json(path, content)
        created.append(name)

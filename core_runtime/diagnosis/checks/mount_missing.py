"""A mount names a folder that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.mounts import load_mounts
from backend_core.errors import HostError, quote
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Folders of mounts"
TITLE_JA = "マウント先のフォルダ"


def look(host: Host) -> Iterator[Found]:
    try:
        mounts = load_mounts(host.settings.user_data / "mounts.json", host.settings.home)
    except HostError:
        return  # another check tells that
    for name in mounts.names():
        path = mounts.path(name)
        if path.is_dir():
            continue
        inside = path.is_relative_to(host.settings.user_data) and not path.exists()
        yield Found(
            name,
            f"The mount {quote(name, 80)} has no folder",
            f"{path} is not there, or is no folder.",
            "Have it made: rumi doctor --fix" if inside else f"Make {path}, or correct user_data/mounts.json.",
            mend="make_mount" if inside else "",
            args={"name": name} if inside else {},
        )

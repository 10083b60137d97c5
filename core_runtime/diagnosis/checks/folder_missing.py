"""A folder that the host keeps its data in was removed while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.initializer import ECOSYSTEM_FOLDERS, USER_DATA_FOLDERS
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Data folders"
TITLE_JA = "データフォルダ"


def look(host: Host) -> Iterator[Found]:
    for parent, names in (("ecosystem", ECOSYSTEM_FOLDERS), ("user_data", USER_DATA_FOLDERS)):
        for name in names:
            if not (host.settings.home / parent / name).is_dir():
                yield Found(
                    f"{parent}/{name}",
                    "A data folder is missing",
                    f"{parent}/{name} is not there, or is no folder.",
                    "Have it made: rumi doctor --fix",
                    Severity.ERROR if name == "permissions" else Severity.WARN,
                    mend="make_folders",
                )

"""Other users of the machine may enter a folder that holds grants, keys, secrets or evidence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import PRIVATE, mode_of
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Folders that are private"
TITLE_JA = "非公開のフォルダ"


def look(host: Host) -> Iterator[Found]:
    if os.name != "posix":
        return
    for name in PRIVATE:
        mode = mode_of(host.settings.user_data / name)
        if mode is not None and mode & 0o077:
            yield Found(
                f"user_data/{name}",
                f"Other users may enter user_data/{name}",
                f"Its mode is {mode:04o}; it should be 0700.",
                "Have it closed: rumi doctor --fix",
                Severity.ERROR,
                {"mode": f"{mode:04o}"},
                mend="close_folder",
                args={"folder": name},
            )

"""Other users of the machine may write where Packs are put. Nothing of theirs would run unapproved; it is still odd."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import mode_of
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Who may put Packs there"
TITLE_JA = "Packを置ける利用者"


def look(host: Host) -> Iterator[Found]:
    mode = mode_of(host.settings.packs_dir)
    if os.name == "posix" and mode is not None and mode & 0o022:
        yield Found(
            "ecosystem/packs",
            "Other users may write into ecosystem/packs",
            f"Its mode is {mode:04o}. Nothing unapproved runs, but others could stop a Pack by editing it.",
            "Have it closed: rumi doctor --fix",
            evidence={"mode": f"{mode:04o}"},
            mend="close_packs_folder",
        )

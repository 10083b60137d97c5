"""The management API's token could have been read by others, so that it counts for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found
from core_runtime.drivers.token import TokenFile

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "The management API's token"
TITLE_JA = "管理APIのトークン"


def look(host: Host) -> Iterator[Found]:
    file = TokenFile(host.settings.token_file)
    if file.current():
        return
    yield Found(
        "api_token",
        "The management API's token is not usable",
        file.problem.detail if file.problem is not None else "It is empty.",
        "Have a new one made: rumi doctor --fix. Programs that use the old one need the new one.",
        mend="renew_token",
    )

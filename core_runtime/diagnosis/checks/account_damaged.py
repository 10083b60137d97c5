"""What a Pack wrote outside its own folder is not known any more: it may write nothing until that is settled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.errors import RumiError
from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Accounts of written files"
TITLE_JA = "書き込んだファイルの記録"


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        try:
            host.userdata.usage(found.pack_id)
        except RumiError as error:
            yield Found(
                found.pack_id,
                error.title,
                error.detail,
                error.hint,
                Severity.ERROR,
                mend="set_account_aside",
                args={"pack_id": found.pack_id},
            )

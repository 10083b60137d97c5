"""An approved Pack lacks Python packages that its lock names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Python packages of Packs"
TITLE_JA = "PackのPythonパッケージ"
CAUSES = frozenset({"dependencies_missing", "dependencies_unfetched"})


def look(host: Host) -> Iterator[Found]:
    for found in statuses(host):
        failure = host.failures.get(found.pack_id)
        if failure is not None and failure.cause in CAUSES:
            yield Found(
                found.pack_id,
                f"Python packages of {found.pack_id} are missing",
                failure.detail,
                f"Fetch them: rumi pack fetch {found.pack_id}",
                Severity.ERROR,
                mend="fetch_packages",
                args={"pack_id": found.pack_id},
            )

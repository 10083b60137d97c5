"""A Pack was approved under a better isolation than this machine has now, so it does not start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core_runtime.diagnosis.facts import statuses
from core_runtime.diagnosis.parts import Found
from core_runtime.rules.decisions import isolation_words
from core_runtime.rules.sandbox import at_least

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Isolation against what was approved"
TITLE_JA = "承認時の隔離との比較"


def look(host: Host) -> Iterator[Found]:
    now = host.isolation
    if now is None:
        return
    for found in statuses(host):
        grant = host.approvals.grant(found.pack_id)
        if found.pack_id in host.failures:
            continue  # the start that failed for it told that
        if grant is not None and not at_least(now, grant.isolation):
            yield Found(
                found.pack_id,
                f"The Pack {found.pack_id} was approved under a better isolation",
                f"Approved: {isolation_words(grant.isolation)}. Available now: {isolation_words(now)}.",
                f"Bring the better one back, or agree: rumi pack approve {found.pack_id} --accept-weaker",
                command=f"rumi pack approve {found.pack_id} --accept-weaker",
            )

"""A mount lies outside ``user_data``, where no Pack can reach it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend_core.ecosystem.mounts import load_mounts
from backend_core.errors import HostError, quote
from core_runtime.diagnosis.parts import Found
from core_runtime.diagnostics import Severity

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Mounts within reach"
TITLE_JA = "マウントの到達範囲"


def look(host: Host) -> Iterator[Found]:
    try:
        mounts = load_mounts(host.settings.user_data / "mounts.json", host.settings.home)
    except HostError:
        return  # another check tells that
    for name in sorted(set(mounts.names()) - set(mounts.prefixes(host.settings.user_data))):
        yield Found(
            name,
            f"No Pack can reach the mount {quote(name, 80)}",
            f"{mounts.path(name)} lies outside user_data; Packs are given prefixes below it and nothing else.",
            "Move it below user_data, or leave it to programs outside the host.",
            Severity.INFO,
        )

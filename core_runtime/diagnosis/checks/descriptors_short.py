"""The host is close to its limit of open files; each Pack costs it some."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Open files of the host"
TITLE_JA = "ホストが開いているファイル"
SHARE = 0.8


def look(host: Host) -> Iterator[Found]:
    del host
    listing = Path("/proc/self/fd")
    if not listing.is_dir():
        return
    import resource  # noqa: PLC0415  not there on Windows

    used, limit = sum(1 for _ in listing.iterdir()), resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit > 0 and used > SHARE * limit:
        yield Found(
            "host",
            "The host will soon run out of open files",
            f"{used} of {limit} are in use.",
            "Raise the limit (ulimit -n) before the host starts, or stop Packs that nobody uses.",
            evidence={"used": used, "limit": limit},
        )

"""Noticing by itself that a Pack's folder came, went or was edited, so that "modified" does not wait for a question.

Invariants:
  * A look only leads to a scan; what is true about a Pack is decided there, by hashing.
  * Looking costs at most a twentieth of the time, however many Packs there are.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from backend_core.errors import RumiError
from core_runtime.drivers.folder_watch import FolderWatch
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.handlers.table import handler
from core_runtime.rules.flow.values import parse_duration_s

ONE_BY_ONE = 20
"""Changed folders beyond this are read together: each single reading looks at all names again."""
SHARE = 20
"""A look that took t seconds is followed by at least this many times t of rest."""


@handler("packs.watch")
async def watch_step(host: Host, args: Mapping[str, Any]) -> None:
    """Begin to watch the folder of Packs; what changes from now on is scanned."""
    every_s = parse_duration_s(args.get("every", "2s"))
    watch = await asyncio.to_thread(FolderWatch, host.settings.packs_dir)
    host.in_background(_watch(host, watch, every_s), "watching the folders of Packs")


async def _watch(host: Host, watch: FolderWatch, every_s: float) -> None:
    rest_s = every_s
    while not host.closing:
        await asyncio.sleep(rest_s)
        begun = time.monotonic()
        changed = await asyncio.to_thread(watch.changed)
        rest_s = max(every_s, SHARE * (time.monotonic() - begun))
        for name in sorted(changed) if len(changed) <= ONE_BY_ONE else [""]:
            await _scan(host, name)


async def _scan(host: Host, name: str) -> None:
    """Scan one folder, or all when the name can't say which Pack it is, as "" can't. A failing scan is an issue."""
    try:
        if packs.is_pack_id(name):
            async with host.exclusively(name):
                await packs.scan(host, name)
        else:
            await packs.scan(host)
    except RumiError as error:
        if error.code != "not_found":  # a folder that went, of a Pack that nobody decided about
            host.note_error(name if packs.is_pack_id(name) else "packs", error)

"""The machine has little memory left: the kernel will end sandboxes, or the host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import psutil

from core_runtime.diagnosis.facts import mebibytes
from core_runtime.diagnosis.parts import Found

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

TITLE = "Memory of the machine"
TITLE_JA = "コンピュータのメモリ"
ENOUGH_BYTES = 256 << 20


def look(host: Host) -> Iterator[Found]:
    del host
    free = psutil.virtual_memory().available
    if free < ENOUGH_BYTES:
        yield Found(
            "memory",
            "The machine has little memory left",
            f"{mebibytes(free)} are available; below {mebibytes(ENOUGH_BYTES)} new sandboxes may not start.",
            "Stop Packs that nobody uses (rumi pack stop ID), or let idle ones sleep with RUMI_IDLE_STOP=10m.",
            evidence={"available_bytes": free},
        )

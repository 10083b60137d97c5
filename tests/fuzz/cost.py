"""What one input costs at its worst: peak memory against its length, and processor time against plain work of that size."""

from __future__ import annotations

import gc
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1024 * 1024
SIZE = MIB - 64
BYTES_PER_BYTE = 128
SLACK_BYTES = 4 * MIB
TIMES = 25.0
"""So often the processor time of making as many empty lists as a mebibyte has bytes; nothing seen needs five times."""


def array(size: int) -> bytes:
    return b"\xdd" + struct.pack(">I", size)


def map_(size: int) -> bytes:
    return b"\xdf" + struct.pack(">I", size)


def _filled(head: bytes, item: bytes) -> bytes:
    return head + item * ((SIZE - len(head)) // len(item))


BOMBS: dict[str, bytes] = {
    "empty maps": _filled(array(SIZE - 5), b"\x80"),
    "empty arrays": _filled(array(SIZE - 5), b"\x90"),
    "pairs of nothing": _filled(map_(SIZE // 2 - 4), b"\x00\xc0"),
    "arrays that each announce a million": array(1_000_000) * 1000 + b"\xc0" * (SIZE - 5_000),
    "arrays that announce and end": _filled(b"", array(1_000_000)),
    "maps that announce": map_(500_000) * 400 + b"\xc0" * (SIZE - 2_000),
    "nested to the moon": b"\x91" * (SIZE - 1) + b"\xc0",
    "moments": _filled(array(SIZE // 6 - 1), b"\xd6\xff\x00\x00\x00\x01"),
    "dates": _filled(array((SIZE - 5) // 13), b"\xc7\x0a\x022031-05-06"),
    "references": _filled(array((SIZE - 5) // 3), b"\xd4\x01\x00"),
    "texts of nothing": _filled(array(SIZE - 5), b"\xa0"),
    "large numbers": _filled(array((SIZE - 5) // 9), b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff"),
    "one text": b"\xdb" + struct.pack(">I", SIZE - 5) + b"x" * (SIZE - 5),
    "one text of four-byte letters": b"\xdb" + struct.pack(">I", (SIZE - 8) // 4 * 4) + "😀".encode() * ((SIZE - 8) // 4),
    "keys with one hash": map_(10) + b"".join(b"\xcf" + struct.pack(">Q", n * (2**61 - 1)) + b"\xc0" for n in range(8)) + b"\x00\xc0\x01\xc0",
}


def frames_of(body: bytes) -> list[bytes]:
    """The bomb as a frame's body, and in its header."""
    return [b"\x95\x02\x01\x00\x90" + body, b"\x95\x02\x01\x00" + body + b"\xc0", b"\x93\x10\x00" + body, body]


def measured(work: Callable[[], object]) -> tuple[float, int]:
    """(processor time as a multiple of plain work's, peak of resident memory above what was there before)."""
    plain = _processor_time(lambda: [[] for _ in range(SIZE)])
    gc.collect()
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _kib(status, "VmRSS")
    took = _processor_time(work)
    return took / plain, (_kib(status, "VmHWM") - before) * 1024


def _processor_time(work: Callable[[], object]) -> float:
    gc.collect()
    began = time.thread_time()
    work()
    return time.thread_time() - began


def _kib(status: Path, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", status.read_text())
    assert found is not None
    return int(found[1])


def problem(size: int, times: float, peak_bytes: int) -> str:
    """What is wrong with that cost, empty when nothing is."""
    if peak_bytes > BYTES_PER_BYTE * size + SLACK_BYTES:
        return f"{size} bytes took {peak_bytes} bytes of memory"
    if times > TIMES * (0.1 + size / MIB):
        return f"{size} bytes took {times:.1f} times the plain work of a mebibyte"
    return ""

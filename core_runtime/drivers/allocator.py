"""How the C library's allocator treats what a large value needed: the host keeps some of it for the next one.

Not here: limits of memory (``rules.frames``, the control groups).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Final

KEPT_BYTES: Final = 16 * 1024 * 1024
"""Freed memory at the end of the heap that is not given back to the kernel."""
MAPPED_BYTES: Final = 4 * 1024 * 1024
"""What takes at least this has a mapping of its own, as the protection of the heap from being torn to pieces."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


def keep_freed_memory() -> bool:
    """Call once for the process, at its start. Whether the allocator knows the request: glibc's does, others do not.

    By default glibc gives freed memory back as soon as there are a few megabytes, so that each frame of a megabyte is
    written into pages that the kernel has just made and filled with zeros: half of what such a frame costs the loop.
    Numbers of the options: ``malloc.h``.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is None:
        return False
    # both: one that is set switches the automatic choice of the other off
    return bool(mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)) and bool(mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES))

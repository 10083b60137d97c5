"""Tests that measure have the machine to themselves.

The suite runs in two workers on two cores, so what a test measures depends on what the other worker happens to do. A
test with the mark ``alone`` waits until the other worker's test has ended, and the next one waits for it. Who waits
for the room holds the door meanwhile, so that nobody slips in before and a measuring test is never put off for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def room(folder: Path, *, alone: bool) -> Iterator[None]:
    """Held by everybody together, or by one ``alone``; among all processes that name the same existing folder.

    Ends with the process at the latest: the kernel's lock goes with it. Raises OSError where the folder can't be written.
    """
    with (folder / "door.lock").open("w") as door, (folder / "room.lock").open("w") as inside:
        with _held(door, fcntl.LOCK_EX):
            fcntl.flock(inside, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            yield
        finally:
            fcntl.flock(inside, fcntl.LOCK_UN)  # by name: a process forked meanwhile may still hold the file


@contextlib.contextmanager
def _held(file: IO[str], kind: int) -> Iterator[None]:
    fcntl.flock(file, kind)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)

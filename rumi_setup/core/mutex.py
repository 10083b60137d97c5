"""One setup at a time in one folder.

The lock is on an open descriptor that every installer child inherits: after `kill -9` of the setup process an orphaned
installer still holds it, so the next run waits instead of building into a folder that is being written.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rumi_setup.core.progress import Progress

_POLL_S = 0.1
LIMIT_S = 600.0


@contextmanager
def only_one(path: Path, progress: Progress, *, limit_s: float = LIMIT_S) -> Iterator[int]:
    """Holds the lock at `path` and yields its descriptor, to be kept open in every child."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        raise SetupError(
            say("The folder {folder} can not be written: {why}.", folder=path.parent, why=error.strerror),
            left=say("Nothing was changed."),
            next_steps=(
                say("Run this as the owner of the folder."),
                say("Copy the project into a folder of your own."),
                say("Let the owner run `./rumi setup` once; afterwards everybody can use it."),
            ),
        ) from error
    try:
        _wait(descriptor, progress, limit_s)
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(descriptor: int, progress: Progress, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    told = False
    while not _take(descriptor):
        if not told:
            progress.note(say("Another setup is working in this folder; waiting for it."))
            told = True
        if time.monotonic() > deadline:
            raise SetupError(
                say("Another setup has been working in this folder for {n} s.", n=round(limit_s)),
                attempts=(Attempt("lock", say("still held")),),
                left=say("Nothing was changed."),
                next_steps=(say("End that process, then run this again."),),
            )
        time.sleep(_POLL_S)


def _take(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

"""Journals of runs under a new installation's key, so that what was cut off can still be gone on with.

Invariants:
  * Only an account that the old key proves from its first line to its last complete one is sealed again; what neither
    key proves is left as it is, and stays refused. So a rotation makes nothing believable that was not.
  * One journal at a time, whole or not at all: a crash leaves each under one of the two keys, and doing it again
    finishes. Nothing is kept of the old key.
  * A journal is no newer for it: what is thrown away by age goes when it would have gone.

Not here: seals (``run_seals``), what the lines say (``run_journal``), when a key is replaced (``keys``).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from backend_core.errors import HostError, quote
from backend_core.files import TEMPORARY_PREFIX, fsync_folder, write_all
from core_runtime.drivers.faults import hit
from core_runtime.drivers.run_journal import HIDDEN_WORDS, MAX_JOURNAL_BYTES, SUFFIX
from core_runtime.drivers.run_seals import RunSeals

_BUFFER_BYTES: Final = 1 << 20


class _Unproven(Exception):  # noqa: N818 - says what is so, and never leaves this module
    """The journal is no account under the old key."""


def reseal(folder: Path, old: str, new: str) -> int:
    """Seal every journal in ``folder`` under ``new`` that ``old`` proves; how many.

    No run may be writing one meanwhile. ``HostError`` where the disk does not take it; then all are whole still.
    """
    if not folder.is_dir():
        return 0
    for left in folder.glob(f"{TEMPORARY_PREFIX}*"):  # of a crash
        left.unlink(missing_ok=True)
    count = sum(_one(path, RunSeals(old), RunSeals(new)) for path in sorted(folder.glob(f"*{SUFFIX}")))
    if count:
        fsync_folder(folder)
    return count


def _one(path: Path, old: RunSeals, new: RunSeals) -> int:
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        with contextlib.ExitStack() as opened:
            source = opened.enter_context(_opened(path))
            status = os.fstat(source.fileno())
            made = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, made)
            for line in _lines(source, path.name.removesuffix(SUFFIX), old, new):
                write_all(made, line)
            os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))
            os.fsync(made)
        hit("rotate.run_sealed")
        temporary.rename(path)
    except _Unproven:
        temporary.unlink(missing_ok=True)
        return 0
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostError(
            "A run's journal can't be sealed with the new key",
            code="storage",
            detail=f"{quote(path.name)}: {error.strerror or error}",
            hint="Make room on the disk that holds user_data, then start the host again.",
        ) from error
    return 1


def _opened(path: Path) -> Any:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:  # a link, or nothing that this host can read: no run can be resumed from it either
        raise _Unproven from error
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_JOURNAL_BYTES:
        os.close(fd)
        raise _Unproven
    return os.fdopen(fd, "rb", buffering=_BUFFER_BYTES)


def _lines(source: Any, run_id: str, old: RunSeals, new: RunSeals) -> Iterator[bytes]:
    """Each complete line, proven and sealed again; a torn last one, which no reader takes, is left out."""
    before_old, before_new = old.begin(run_id), new.begin(run_id)
    any_line = False
    while (line := source.readline(MAX_JOURNAL_BYTES)).endswith(b"\n"):
        proven = old.checked(line[:-1], before_old)
        if proven is None:
            raise _Unproven
        body, before_old = proven
        marked, before_new = new.marked(_hidden_again(body, old, new), before_new)
        yield marked + b"\n"
        any_line = True
    if not any_line:
        raise _Unproven


def _hidden_again(body: bytes, old: RunSeals, new: RunSeals) -> bytes:
    try:
        record = json.loads(body)
        for word in HIDDEN_WORDS & record.keys():
            shown = old.shown(base64.b64decode(record[word], validate=True))
            record[word] = base64.b64encode(new.hidden(shown)).decode("ascii")
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise _Unproven from error
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()

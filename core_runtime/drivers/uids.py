"""One operating-system user id per Pack, for ever: what separates sandboxes of different Packs from each other.

Invariants:
  * An id is written durably before it is used, and is never given to a second Pack, not even after the first was
    removed: whatever the first left behind stays unreachable for the second.
  * Ids lie in one range that this host's user namespace maps and that no account of the machine uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import secrets
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from backend_core.errors import HostError, TrustError
from backend_core.files import private_folder, read_bounded, write_atomic

PREFERRED_FIRST: Final = 0x6000_0000
"""Above the ranges of ordinary accounts and subordinate ids, below those of container managers (0x70000000)."""
COUNT: Final = 100_000
BLOCKS: Final = (0x7000_0000 - PREFERRED_FIRST) // COUNT
"""Each installation takes one block at random: two on one machine should not give different Packs one id."""
SMALL_COUNT: Final = 4_000
FILE_LIMIT_BYTES: Final = 16 * 1024 * 1024


class Uids:
    """Allocates from a range; call it with a pack id. Thread- and process-safe."""

    def __init__(self, path: Path, *, first: int | None = None, count: int | None = None) -> None:
        """``path`` is the durable table. Without a range one is chosen for this machine, and kept in the table."""
        self._path = path
        self._range = (first, count or COUNT) if first is not None else None
        self._mutex = threading.Lock()
        self._known: dict[str, int] = {}

    def __call__(self, pack_id: str) -> int:
        """The id of ``pack_id``, allocated at the first call."""
        found = self._known.get(pack_id)
        return found if found is not None else self._allocate(pack_id)

    def _allocate(self, pack_id: str) -> int:
        with self._exclusive():
            first, count, table = self._load()
            if pack_id not in table:
                table[pack_id] = _next_free(first, count, table)
                document = {"first": first, "count": count, "uids": table}
                write_atomic(self._path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
            self._known = table
            return table[pack_id]

    def _load(self) -> tuple[int, int, dict[str, int]]:
        try:
            document = json.loads(read_bounded(self._path, FILE_LIMIT_BYTES))
            table = {str(name): int(uid) for name, uid in document["uids"].items()}
            first, count = int(document["first"]), int(document["count"])
        except FileNotFoundError:
            first, count = self._range or choose_range(Path("/proc/self/uid_map"))
            return first, count, {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrustError(
                "The table of user ids is damaged",
                code="uids_damaged",
                detail=f"{self._path.name}: {error}",
                hint="Put it back from a backup; without it two Packs could get one user id.",
            ) from error
        if len(set(table.values())) != len(table) or any(
            uid not in range(first, first + count) for uid in table.values()
        ):
            raise TrustError("The table of user ids is damaged", code="uids_damaged", detail="An id is used twice.")
        return first, count, table

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._mutex:
            private_folder(self._path.parent)
            fd = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)


def choose_range(uid_map: Path) -> tuple[int, int]:
    """``(first, count)`` within what this user namespace maps; the preferred range where it fits."""
    spans: list[tuple[int, int]] = []
    with contextlib.suppress(OSError):  # no user namespaces: the preferred range
        for line in uid_map.read_text(encoding="ascii").splitlines():
            inside, _, length = (int(field) for field in line.split())
            spans.append((inside, length))
    first = PREFERRED_FIRST + COUNT * secrets.randbelow(BLOCKS)
    if not spans or any(first >= start and first + COUNT <= start + n for start, n in spans):
        return first, COUNT
    start, length = max(spans, key=lambda span: span[1])
    if length < SMALL_COUNT * 4:  # a host without root maps itself only; its sandboxes use user namespaces instead
        return first, COUNT
    return start + length - 2 * SMALL_COUNT, SMALL_COUNT


def _next_free(first: int, count: int, table: Mapping[str, int]) -> int:
    used = set(table.values())
    for uid in range(max(used, default=first - 1) + 1, first + count):
        if not _is_account(uid):
            return uid
    raise HostError(
        "No user id is left for another Pack",
        code="uids_exhausted",
        detail=f"All ids from {first} to {first + count - 1} were given out.",
        hint="Install into a fresh folder; ids are never used twice.",
    )


def _is_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True

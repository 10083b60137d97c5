"""Counters that only rise: what makes an older, validly signed grant worthless. One preallocated, signed file.

The file holds two slots of equal size, each a complete signed document; a change overwrites one slot, syncs,
overwrites the other, syncs. So it needs no free space (revoking works on a full disk), a torn write leaves the other
slot, and damaging one slot does not take a change back.

Invariants:
  * A counter never falls. A lost or unverifiable file is replaced only by an operator's decision, under a new
    ``epoch``: grants of another epoch count for nothing.
  * Several users of the same file (threads, processes) exclude each other by ``flock``; each change starts from the
    file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import replace

from backend_core.errors import TrustError
from backend_core.files import private_folder, read_bounded, write_atomic
from core_runtime.drivers.faults import hit
from core_runtime.drivers.keys import DOCUMENT_LIMIT_BYTES, SIGNED_FILES, Keyring, slot_text
from core_runtime.rules.approval import Mark
from core_runtime.rules.seals import Fault

FILE = ".counters"
FIRST_SLOT_BYTES: Final = 64 * 1024


class SlotFile:
    """A signed document that is overwritten in place. ``seq`` in the document tells which slot is newer."""

    def __init__(self, path: Path, keyring: Keyring, *, slot_bytes: int) -> None:
        self._path = path
        self._keyring = keyring
        self._slot_bytes = slot_bytes
        self._purpose = SIGNED_FILES[path.name]

    def load(self) -> dict[str, Any] | Fault | None:
        """The newest document that verifies; None without a file; the fault when no slot verifies."""
        try:
            raw = read_bounded(self._path, DOCUMENT_LIMIT_BYTES)
        except FileNotFoundError:
            return None
        except Exception as error:  # noqa: BLE001 - what can't be read is a refusal with a cause
            return Fault(f"{self._purpose}_unreadable", str(error))
        half = len(raw) // 2
        opened = [self._keyring.open(part.strip(), self._purpose, self._purpose) for part in (raw[:half], raw[half:])]
        valid = [document for document in opened if isinstance(document, dict) and isinstance(document.get("seq"), int)]
        if valid:
            return max(valid, key=lambda document: int(document["seq"]))
        faults = [document for document in opened if isinstance(document, Fault)]
        return next((f for f in faults if not f.cause.endswith("_truncated")), Fault(f"{self._purpose}_truncated"))

    def store(self, document: Mapping[str, Any], *, both: bool, sync: bool = True) -> None:
        """Write ``document`` (with its new ``seq``) over the older slot; with ``both`` over the other one as well."""
        sealed = self._keyring.seal(document, self._purpose)
        size = self._path.stat().st_size // 2 if self._path.exists() else 0
        text = slot_text(sealed, size) if size else None
        if text is None:
            self._rewrite(sealed)
            return
        first = int(document["seq"]) % 2
        fd = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _overwrite(fd, text, first * size, sync=sync)
            if both:
                hit("counters.first_slot")
                _overwrite(fd, text, (1 - first) * size, sync=sync)
                hit("counters.second_slot")
        finally:
            os.close(fd)

    def _rewrite(self, sealed: Mapping[str, Any]) -> None:
        """First file, or one that has outgrown its slots: both slots alike, with room."""
        private_folder(self._path.parent)
        size = self._slot_bytes
        while (text := slot_text(sealed, size // 2)) is None:
            size *= 2
        write_atomic(self._path, (text.rstrip().ljust(size - 1) + b"\n") * 2)


def _overwrite(fd: int, text: bytes, offset: int, *, sync: bool) -> None:
    view = memoryview(text)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count
    if sync:
        os.fsync(fd)


class Entry(Struct, frozen=True):
    """One Pack's line: the counter, what was decided last beside granting, which one-use permissions are spent.

    ``identity`` is the fingerprint of the identity that was approved last; it survives rejection and removal, so that
    another Pack under the same id is noticed.
    """

    counter: int = 0
    mark: Mark = Mark.NONE
    used: frozenset[int] = frozenset()
    identity: str = ""


class Counters(Struct, frozen=True):
    """A reading of the file. ``clock`` is the latest wall time that was ever persisted here."""

    epoch: str = ""
    seq: int = 0
    clock: float = 0.0
    entries: Mapping[str, Entry] = field(default_factory=lambda: MappingProxyType({}))

    def of(self, subject: str) -> Entry:
        """The line of one Pack; the zero line when there is none."""
        return self.entries.get(subject, Entry())


class Ledger:
    """The counters file of one installation."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring
        self._folder = keyring.folder
        self._file = SlotFile(keyring.folder / FILE, keyring, slot_bytes=FIRST_SLOT_BYTES)
        self._mutex = threading.RLock()

    def read(self) -> Counters | Fault:
        """What the file says; ``counters_missing`` without one."""
        document = self._file.load()
        if document is None:
            return Fault("counters_missing", "There is no counters file.")
        return document if isinstance(document, Fault) else _decode(document)

    def ensure(self) -> str:
        """Make the file where it is missing or unverifiable, under a new epoch; the fault that was there, or ``""``.

        Only an operator's decision calls this. An unverifiable file is kept beside, for the operator to look at.
        """
        with self._exclusive():
            found = self.read()
            if isinstance(found, Counters):
                return ""
            path = self._folder / FILE
            if path.exists():
                path.rename(self._folder / f"{FILE}.lost-{secrets.token_hex(4)}")
            self._store(Counters(epoch=secrets.token_hex(16)))
            return found.cause

    def change(self, subject: str, decide: Callable[[Entry], Entry]) -> Entry:
        """Replace one line durably by what ``decide`` makes of it. ``TrustError`` when the file can't be trusted."""
        with self._exclusive():
            counters = self.trusted()
            before = counters.of(subject)
            after = decide(before)
            if after == before:
                return after
            if after.counter < before.counter:
                raise ValueError(f"counter of {subject!r} would fall from {before.counter} to {after.counter}")
            self._store(replace(counters, entries={**counters.entries, subject: after}))
            return after

    def advance_clock(self, now: float) -> float:
        """Persist ``now`` if it is later than what was persisted; the later of both."""
        with self._exclusive():
            counters = self.trusted()
            if now > counters.clock:
                self._store(replace(counters, clock=now))
            return max(now, counters.clock)

    def trusted(self) -> Counters:
        """``read`` for those who can't go on without it."""
        found = self.read()
        if isinstance(found, Fault):
            raise TrustError(
                "The counters file can't be trusted",
                code=found.cause,
                detail=found.detail,
                hint="Approve the Packs again; until then none of them runs.",
            )
        return found

    def _store(self, counters: Counters) -> None:
        self._file.store(_encode(replace(counters, seq=counters.seq + 1)), both=True)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._mutex:
            private_folder(self._folder)
            fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                yield
            finally:
                os.close(fd)


def _encode(counters: Counters) -> dict[str, Any]:
    lines = {
        name: [e.counter, e.mark.value, sorted(e.used), e.identity] for name, e in sorted(counters.entries.items())
    }
    return {"epoch": counters.epoch, "seq": counters.seq, "clock": counters.clock, "counters": lines}


def _decode(document: Mapping[str, Any]) -> Counters | Fault:
    """The document is signed by us; a shape that is wrong all the same is a refusal."""
    try:
        entries = {
            str(name): Entry(int(line[0]), Mark(line[1]), frozenset(int(i) for i in line[2]), str(line[3]))
            for name, line in document["counters"].items()
        }
        return Counters(str(document["epoch"]), int(document["seq"]), float(document["clock"]), entries)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        return Fault("counters_malformed", str(error))

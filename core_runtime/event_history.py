"""What is kept of events, so that somebody who was away can be told: which, how much, and for whom.

Publishing only appends to a bounded list. One thread takes what has gathered every ``WRITE_EVERY_S``, hides known
secrets, seals, and writes it in one transaction (``drivers.event_journal``).

Invariants:
  * Neither publishing nor the loop ever waits for the disk. What comes faster than it can be written, or from one
    source faster than ``SOURCE_EVENTS`` in one interval, is not kept; whoever asks later is told that some are missing.
  * On the disk no known secret stands in clear: the operator's form is concealed, and the form that Packs are told
    again is sealed. Packs are never told the concealed form: what was blanked out in it would tell them what others'
    secrets are.
  * Payloads above ``PAYLOAD_BYTES`` and callables are not kept; the operator still sees that there was an event.
  * ``NOT_KEPT``: what happens thousands of times a second and is kept elsewhere (steps, in the account of their run).

Not here: who may be told what (``bus.pack_events``, ``api``).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from backend_core.errors import RumiError, TrustError
from core_runtime.diagnostics import Diagnostics, Severity, fail_soft
from core_runtime.drivers.event_journal import EventJournal, Page, Place, Retention, Row, Sealer
from core_runtime.event_bus import NO_REPLAY, Event, RawPayload, Replay
from core_runtime.rules.routing import matches
from core_runtime.rules.shown import encode, plain
from core_runtime.rules.subscriptions import OLDEST, place_of
from core_runtime.rules.values import ValueProblem, pack, unpack

FOLDER: Final = "events"
FILE: Final = "journal.db"
NOT_KEPT: Final = frozenset({"flow.step"})
PAYLOAD_BYTES: Final = 16 * 1024
WRITE_EVERY_S: Final = 0.25
SOURCE_EVENTS: Final = 128
PENDING_EVENTS: Final = 4_096
PENDING_BYTES: Final = 8 * 1024 * 1024
PAGE: Final = 256
_CLOSE_S: Final = 5.0


class EventHistory:
    """That of one run of the host. ``note`` may be called before ``open`` and from any thread."""

    def __init__(self, diagnostics: Diagnostics, conceal: Callable[[Any], Any]) -> None:
        self.run = secrets.token_hex(4)
        self._diagnostics = diagnostics
        self._conceal = conceal
        self._mutex = threading.Lock()
        self._written = threading.Condition(self._mutex)
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._pending: list[Event] = []
        self._pending_bytes = 0
        self._by_source: dict[str, int] = {}
        self._missed = False
        self._noted = 0
        self._done = 0
        self._closing = False
        self._journal: EventJournal | None = None
        self._key: Callable[[], str] = _no_key
        self._sealer: tuple[str, Sealer] | None = None
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="event-journal-reader")
        self.unkept = 0
        """Events that came too fast to be kept."""

    def open(self, home: Path, key: Callable[[], str], retention: Retention | None = None) -> None:
        """Begin to write. Blocks. A journal that can't be used is an issue: nothing is kept then, nothing else fails.

        ``key`` gives the installation's key; without one, events are kept for the operator alone.
        """
        self._key = key
        try:
            self._journal = EventJournal(home / "user_data" / FOLDER / FILE, self.run, retention)
        except (OSError, sqlite3.Error) as error:
            self._unusable(error)
            return
        if self._journal.put_aside:
            self._diagnostics.issue(
                "event_journal_damaged", Severity.WARN, "events", "The event journal could not be read",
                f"It was put aside as user_data/{FOLDER}/{self._journal.put_aside}, and a new one was begun.",
                "Nothing needs to be done; past events can't be shown again.",
            )  # fmt: skip
        self._thread = threading.Thread(target=self._work, name="event-journal", daemon=True)
        self._thread.start()

    def keeps(self, topic: str) -> bool:
        """``event_bus.History``."""
        return topic not in NOT_KEPT

    def note(self, event: Event) -> None:
        """``event_bus.History``."""
        if event.type in NOT_KEPT:
            return
        size = event.size_bytes
        with self._mutex:
            count = self._by_source.get(event.source, 0)
            room = len(self._pending) < PENDING_EVENTS and self._pending_bytes + size <= PENDING_BYTES
            if count >= SOURCE_EVENTS or not room:
                self.unkept += 1
                self._missed = True
                return
            self._by_source[event.source] = count + 1
            self._pending.append(event)
            self._pending_bytes += size
            self._noted += 1
        if not self._wake.is_set():
            self._wake.set()

    async def replay(self, since: str, accepts: Callable[[str], object]) -> Replay:
        """``event_bus.History``. An id of no known run replays nothing, and is not complete."""
        place = await self._read(partial(self._place, since))
        sealer = await self._read(self._sealer_now)
        if place is None or sealer is None:
            return NO_REPLAY
        return _Kept(self, place, sealer, accepts)

    async def rows(self, since: str) -> Rows | None:
        """What is kept after ``since``, as the operator may see it; None for an id of no known run."""
        place = await self._read(partial(self._place, since))
        return None if place is None else Rows(self, place)

    async def newest(self, source: str, count: int) -> list[Row]:
        """The last events (of one source, if it is not ``""``) as the operator may see them, oldest first."""
        return await self._read(lambda journal: journal.newest(source, count)) or []

    async def older(self, before: str, count: int, *, source: str = "", topic: str = "") -> list[Row] | None:
        """Up to ``count`` events from before the one with this id (``""``: from the end), newest first.

        As the operator may see them; ``topic``: exact or a glob, ``""`` for all. None for an id of no known run.
        """
        found: list[Row] | None = await self._read(partial(_older, before, count, source, topic))
        return [] if found is None and not before else found

    def flush(self, timeout_s: float = _CLOSE_S) -> None:
        """Wait until everything that was noted so far is written. Blocks."""
        with self._written:
            if self._thread is None:
                return
            wanted = self._noted
            self._hurry.set()
            self._wake.set()
            self._written.wait_for(lambda: self._done >= wanted, timeout_s)

    def close(self) -> None:
        """Write what is left, and end. Blocks, for a bounded time."""
        self._closing = True
        self._hurry.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)
        self._readers.shutdown(wait=True, cancel_futures=True)
        if self._journal is not None and (self._thread is None or not self._thread.is_alive()):
            self._journal.close()

    def totals(self) -> tuple[int, int]:
        """How many events are kept, and their bytes."""
        return (0, 0) if self._journal is None else self._journal.totals()

    # --- reading

    async def page(self, after_seq: int) -> Page:
        """The next rows; what was published by now is among them."""
        return await self._read(lambda journal: journal.read(after_seq, PAGE)) or Page([], complete=False)

    async def unsealed(self, rows: list[Row], sealer: Sealer, accepts: Callable[[str], object]) -> list[Event]:
        """The rows that open, and whose topics are accepted, as events."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, _opened, rows, sealer, accepts)

    async def _read(self, question: Callable[[EventJournal], Any]) -> Any:
        journal = self._journal
        if journal is None or self._closing:
            return None

        def asked() -> Any:
            self.flush()
            return question(journal)

        answer: Any = None
        with fail_soft(self._diagnostics, "event journal", "events") as outcome:
            answer = await asyncio.get_running_loop().run_in_executor(self._readers, asked)
        return answer if outcome.ok else None

    @staticmethod
    def _place(since: str, journal: EventJournal) -> Place | None:
        if since == OLDEST:
            return journal.oldest()
        place = place_of(since)
        return None if place is None else journal.place(*place)

    # --- writing, in the thread

    def _work(self) -> None:
        while True:
            self._wake.wait()
            if not self._closing:
                self._hurry.wait(WRITE_EVERY_S)
            with self._mutex:
                self._wake.clear()
                self._hurry.clear()
                batch, missed = self._pending, self._missed
                self._pending, self._pending_bytes, self._missed = [], 0, False
                self._by_source.clear()
            if batch or missed:
                self._write(batch, missed=missed)
            with self._written:
                self._done += len(batch)
                self._written.notify_all()
                if self._closing and not self._pending:
                    return

    def _write(self, batch: list[Event], *, missed: bool) -> None:
        assert self._journal is not None
        sealer = self._sealer_now(self._journal)
        rows = []
        for event in batch:
            with fail_soft(self._diagnostics, "event journal", "events", step_id=event.id):
                rows.append(self._row(event, sealer))
        try:
            self._journal.append(rows, missed=missed)
        except (OSError, sqlite3.Error) as error:
            with self._mutex:
                self.unkept += len(rows)
                self._missed = True
            self._unusable(error)

    def _row(self, event: Event, sealer: Sealer | None) -> Row:
        place = place_of(event.id)
        assert place is not None
        row = Row(*place, event.source, event.time_s, shown_event(event, self._conceal))
        body = _body(event)
        if sealer is None or body is None:
            return row
        return replace(row, sealed=sealer.seal(event.type, body, _bound(row)))

    def _sealer_now(self, _journal: EventJournal) -> Sealer | None:
        with contextlib.suppress(TrustError, OSError):  # without a key, for the operator alone
            text = self._key()
            if self._sealer is None or self._sealer[0] != text:
                self._sealer = (text, Sealer(text))
            return self._sealer[1]
        return None

    def _unusable(self, error: Exception) -> None:
        self._diagnostics.issue(
            "event_journal_unwritable", Severity.WARN, "events", "Events are not kept", str(error)[:300],
            "Make room on the disk that holds user_data, and see who owns user_data/events.", None, error,
        )  # fmt: skip


class Rows:
    """Rows after a place, page by page, until none is left. ``complete``: as far as was read, none had gone."""

    def __init__(self, history: EventHistory, place: Place) -> None:
        self._history = history
        self._seq = place.seq
        self.complete = place.complete

    async def pages(self) -> AsyncIterator[list[Row]]:
        """Up to what was published when the last page was read."""
        while True:
            page = await self._history.page(self._seq)
            self.complete = self.complete and page.complete
            if not page.rows:
                return
            self._seq = page.rows[-1].seq
            yield page.rows


class _Kept(Rows):
    """``event_bus.Replay``."""

    def __init__(
        self, history: EventHistory, place: Place, sealer: Sealer, accepts: Callable[[str], object]
    ) -> None:
        super().__init__(history, place)
        self._sealer = sealer
        self._accepts = accepts

    async def events(self, until: int) -> AsyncIterator[Event]:
        run = self._history.run
        async for page in self.pages():
            past = [row for row in page if row.run != run or row.number <= until]
            for event in await self._history.unsealed(past, self._sealer, self._accepts):
                yield event
            if len(past) < len(page):
                return


class _Typed(Struct):
    type: str


def _older(before: str, count: int, source: str, topic: str, journal: EventJournal) -> list[Row] | None:
    upto: int | None = None
    if before:
        place = place_of(before)
        known = journal.place(place[0], place[1] - 1) if place is not None else None
        if known is None:
            return None
        upto = known.seq
    found: list[Row] = []
    while len(found) < count:
        page = journal.newest(source, PAGE, upto)
        found += [row for row in reversed(page) if not topic or matches(topic, _topic(row))]
        if len(page) < PAGE:
            break
        upto = page[0].seq - 1
    return found[:count]


def _topic(row: Row) -> str:
    """As the operator sees it: the search must not tell a secret that is hidden in it."""
    return msgspec.json.decode(row.shown, type=_Typed).type


class _Load(Struct, frozen=True):
    body: bytes

    def __call__(self) -> Any:
        return unpack(self.body)


def shown_event(event: Event, conceal: Callable[[Any], Any]) -> bytes:
    """JSON of an event for the operator: attributes and payload without known secrets, or why there is no payload."""
    attributes: dict[str, Any] = conceal(dict(event.attributes))
    try:
        shown = encode({**attributes, "data": conceal(plain(event.data))})
    except RumiError as error:
        return encode({**attributes, "data": None, "omitted": error.code})
    except ValueProblem as problem:
        return encode({**attributes, "data": None, "omitted": problem.type})
    return shown if len(shown) <= PAYLOAD_BYTES else encode({**attributes, "data": None, "omitted": "too_large"})


def _body(event: Event) -> bytes | None:
    """The payload as bytes that mean the same in any run of the host; None where it has no such form."""
    raw = event.raw
    if raw is not None:
        return raw.body if not raw.refs and len(raw.body) <= PAYLOAD_BYTES else None
    try:
        body = pack(event.data)
    except ValueProblem:
        return None
    return body if len(body) <= PAYLOAD_BYTES else None


def _opened(rows: list[Row], sealer: Sealer, accepts: Callable[[str], object]) -> list[Event]:
    found = []
    for row in rows:
        opened = sealer.open(row.sealed, _bound(row)) if row.sealed is not None else None
        if opened is not None and accepts(opened[0]):
            raw = RawPayload(None, [], opened[1])
            found.append(Event(f"{row.run}-{row.number}", row.source, opened[0], row.time_s, _Load(opened[1]), raw))
    return found


def _bound(row: Row) -> str:
    return f"{row.run}-{row.number}\0{row.source}\0{row.time_s!r}"


def _no_key() -> str:
    raise TrustError("There is no key yet", code="key_missing")

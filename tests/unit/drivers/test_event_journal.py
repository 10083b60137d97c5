from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from core_runtime.drivers import event_journal
from core_runtime.drivers.event_journal import EventJournal, Place, Retention, Row, Sealer

RUN, NEXT = "aaaaaaaa", "bbbbbbbb"


def row(number: int, run: str = RUN, source: str = "rumi:host", size: int = 10, time_s: float = 2e9) -> Row:
    return Row(run, number, source, time_s, b"x" * size)


def numbers(journal: EventJournal, after: int = 0) -> list[int]:
    return [found.number for found in journal.read(after, 1000).rows]


def test_rows_come_back_in_order_and_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "events" / "journal.db"
    journal = EventJournal(path, RUN)
    journal.append([row(1), row(5)])
    journal.append([row(6, source="rumi:pack/a")])
    journal.close()
    journal = EventJournal(path, NEXT)
    journal.append([row(2, NEXT)])
    assert [(found.run, found.number, found.source) for found in journal.read(0, 10).rows] == [
        (RUN, 1, "rumi:host"), (RUN, 5, "rumi:host"), (RUN, 6, "rumi:pack/a"), (NEXT, 2, "rumi:host"),
    ]  # fmt: skip
    assert [found.number for found in journal.read(2, 1).rows] == [6]
    assert [found.number for found in journal.newest("rumi:host", 2)] == [5, 2]
    assert [found.number for found in journal.newest("", 2)] == [6, 2]
    assert journal.totals()[0] == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    for beside in path.parent.iterdir():
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    journal.close()


def test_places_of_ids_that_are_kept_and_of_those_that_are_not(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    journal = EventJournal(path, RUN)
    journal.append([row(3), row(7)])
    journal.close()
    journal = EventJournal(path, NEXT)
    assert journal.place(RUN, 3) == Place(1, complete=True)
    assert journal.place(RUN, 5) == Place(1, complete=True)
    assert journal.place(RUN, 1) == Place(0, complete=True)
    assert journal.place(RUN, 99) == Place(2, complete=True)
    assert journal.place(NEXT, 0) == Place(2, complete=True)
    assert journal.place("cccccccc", 1) is None
    assert journal.oldest() == Place(0, complete=True)
    journal.close()


def test_a_source_pushes_out_its_own_events_only(tmp_path: Path) -> None:
    journal = EventJournal(tmp_path / "j.db", RUN, Retention(source_events=20, source_bytes=10_000))
    journal.append([row(1), row(2)])
    for number in range(3, 103):
        journal.append([row(number, source="rumi:pack/loud")])
    kept = journal.read(0, 1000).rows
    assert [found.number for found in kept if found.source == "rumi:host"] == [1, 2]
    loud = [found.number for found in kept if found.source != "rumi:host"]
    assert 18 <= len(loud) <= 20
    assert loud[-1] == 102
    first = journal.place(RUN, 2)
    last = journal.place(RUN, loud[0])
    assert first is not None
    assert last is not None
    assert (first.complete, last.complete) == (False, True)
    assert not journal.oldest().complete
    journal.append([row(200, source="rumi:pack/large", size=8_000), row(201, source="rumi:pack/large", size=8_000)])
    assert [found.number for found in journal.newest("rumi:pack/large", 9)] == [201]
    assert journal.totals() == (len(journal.read(0, 1000).rows), sum(found.size_bytes for found in journal.read(0, 1000).rows))
    journal.close()


def test_the_whole_is_bounded_in_number_bytes_and_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = EventJournal(tmp_path / "a.db", RUN, Retention(events=10))
    for number in range(1, 40):
        journal.append([row(number, source=f"s{number}")])
    assert 9 <= journal.totals()[0] <= 10
    assert numbers(journal)[-1] == 39
    journal.close()
    journal = EventJournal(tmp_path / "b.db", RUN, Retention(size_bytes=1_000))
    for number in range(1, 40):
        journal.append([row(number, source=f"s{number}", size=97)])
    assert 0 < journal.totals()[1] <= 1_000
    journal.close()
    monkeypatch.setattr(event_journal, "_AGE_CHECK_S", 0.0)
    journal = EventJournal(tmp_path / "c.db", RUN, Retention(age_s=1e9))
    journal.append([row(1, time_s=1.0), row(2, time_s=4e9)])
    assert numbers(journal) == [2]
    assert not journal.oldest().complete
    journal.close()


def test_what_was_missed_shows_as_a_gap(tmp_path: Path) -> None:
    journal = EventJournal(tmp_path / "j.db", RUN)
    journal.append([], missed=True)
    assert not journal.oldest().complete
    journal.append([row(1)])
    journal.append([row(2)])
    place = journal.place(RUN, 1)
    assert place is not None
    assert place.complete
    journal.append([row(3)], missed=True)
    assert [place.complete for n in (1, 2, 3) if (place := journal.place(RUN, n))] == [False, False, False]
    journal.close()


def test_bytes_are_bounded_as_documented(tmp_path: Path) -> None:
    """8 MiB of one source and 48 MiB together, with payloads of 15 KiB; who publishes little keeps what it has."""
    journal = EventJournal(tmp_path / "j.db", RUN)
    journal.append([row(1, source="quiet")])
    for source in range(8):
        for batch in range(6):
            first = 2 + source * 600 + batch * 100
            journal.append([row(first + n, source=f"loud{source}", size=15 * 1024) for n in range(100)])
            kept = [found.size_bytes for found in journal.newest(f"loud{source}", 1000)]
            assert sum(kept) <= 8 << 20
            if source == 0:
                assert [found.number for found in journal.newest("quiet", 10)] == [1]
    assert 40 << 20 < journal.totals()[1] <= 48 << 20
    gone, last = journal.place(RUN, 1), journal.place(RUN, 4801)
    assert gone is not None
    assert last is not None
    assert (gone.complete, last.complete) == (False, True)
    journal.close()


def test_what_was_missed_after_everything_aged_is_a_gap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_journal, "_AGE_CHECK_S", 0.0)
    journal = EventJournal(tmp_path / "j.db", RUN, Retention(age_s=1e9))
    journal.append([row(number, time_s=1.0) for number in range(1, 10)])
    assert numbers(journal) == []
    journal.close()
    journal = EventJournal(tmp_path / "j.db", "11111111")
    place = journal.place("11111111", 0)
    assert place is not None
    assert place.complete, "of this run nothing has gone"
    journal.append([], missed=True)
    place = journal.place("11111111", 0)
    assert place is not None
    assert not place.complete
    journal.close()


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    path.write_bytes(b"no database at all" * 100)
    journal = EventJournal(path, RUN)
    assert journal.put_aside
    assert (tmp_path / journal.put_aside).read_bytes().startswith(b"no database")
    journal.append([row(1)])
    assert numbers(journal) == [1]
    journal.close()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "j.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        EventJournal(tmp_path / "j.db", RUN)
    assert (tmp_path / "elsewhere").stat().st_size == 0


def test_a_failed_change_leaves_what_was(tmp_path: Path) -> None:
    journal = EventJournal(tmp_path / "j.db", RUN)
    journal.append([row(1)])
    with pytest.raises(sqlite3.IntegrityError):
        journal.append([row(2), Row(None, 3, "s", 1.0, b"")])  # type: ignore[arg-type]
    assert numbers(journal) == [1]
    journal.append([row(4)])
    assert numbers(journal) == [1, 4]
    journal.close()


def test_sealing_binds_a_payload_to_its_event_and_its_installation() -> None:
    sealer = Sealer("ab" * 32)
    sealed = sealer.seal("tópic", b"\x01\x02", "aaaaaaaa-1")
    assert b"pic" not in sealed
    assert sealer.open(sealed, "aaaaaaaa-1") == ("tópic", b"\x01\x02")
    assert sealer.open(sealed, "aaaaaaaa-2") is None
    assert Sealer("cd" * 32).open(sealed, "aaaaaaaa-1") is None
    assert sealer.open(sealed[:-1], "aaaaaaaa-1") is None
    assert sealer.open(b"", "aaaaaaaa-1") is None
    assert sealer.seal("t", b"", "x") != sealer.seal("t", b"", "x")

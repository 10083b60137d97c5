"""The doctor itself: slow and broken checks, what is resolved, what may be mended, what is told and kept."""

from __future__ import annotations

import asyncio
import sqlite3
import threading

import pytest

from backend_core.errors import ConflictError, HostError, NotFoundError
from core_runtime.diagnosis.doctor import CHECK_FAILED, MOST_FOUND, Doctor, current_issues
from core_runtime.diagnosis.parts import Check, Fixup, Found
from core_runtime.diagnosis.record import CHANGED, IssueRecord
from core_runtime.diagnostics import Diagnostics, Severity, Suggestion
from core_runtime.drivers import issue_history
from core_runtime.drivers.issue_history import IssueHistory, Row
from tests.support.hosts import opened_host


def run(story, tmp_path) -> None:
    async def whole() -> None:
        host = await opened_host(tmp_path)
        try:
            await story(host)
        finally:
            await host.close()

    asyncio.run(whole())


def check(look, code="thing_wrong", *, on_loop=False) -> Check:
    return Check(code, "Things", "もの", look, on_loop)


def fixup(perform, name="mend_it", *, automatic=True) -> Fixup:
    return Fixup(name, "Mend it", "直す", automatic, perform)


def codes(host) -> set[tuple[str, str]]:
    return {(issue.code, issue.subject) for issue in host.diagnostics.issues()}


def test_what_is_no_longer_found_is_resolved(tmp_path) -> None:
    async def story(host) -> None:
        wrong = ["a", "b"]
        doctor = Doctor(host, {"thing_wrong": check(lambda _host: [Found(one, "It is wrong") for one in wrong])}, {})
        await doctor.examine()
        assert codes(host) == {("thing_wrong", "a"), ("thing_wrong", "b")}
        wrong.remove("a")
        await doctor.examine()
        assert codes(host) == {("thing_wrong", "b")}

    run(story, tmp_path)


def test_what_is_read_is_as_it_is_now(tmp_path) -> None:
    async def story(host) -> None:
        wrong, looked = ["a"], []

        def look(_host):
            looked.append(1)
            return [Found(one, "It is wrong") for one in wrong]

        quiet = check(lambda _host: looked.append("quiet") or [], "quiet")
        host.doctor = Doctor(host, {"thing_wrong": check(look), "quiet": quiet}, {})
        await host.doctor.examine()
        wrong.clear()
        assert await current_issues(host) == []
        await current_issues(host)
        assert looked == [1, "quiet", 1], "only what stands is looked at again, and not at each question"

    run(story, tmp_path)


def test_a_check_that_fails_is_named_and_keeps_what_was_found(tmp_path) -> None:
    async def story(host) -> None:
        broken = False

        def look(_host):
            if broken:
                raise RuntimeError("no such luck")
            yield Found("a", "It is wrong")

        others = check(lambda _host: [Found("o", "Another")], "other_wrong")
        doctor = Doctor(host, {"thing_wrong": check(look), "other_wrong": others}, {})
        await doctor.examine()
        broken = True
        looked = await doctor.examine()
        assert [one.status for one in looked] == ["unfinished", "found"]
        assert codes(host) == {("thing_wrong", "a"), ("other_wrong", "o"), (CHECK_FAILED, "thing_wrong")}
        [failed] = [issue for issue in host.diagnostics.issues() if issue.code == CHECK_FAILED]
        assert failed.cause == ("RuntimeError: no such luck",)
        broken = False
        await doctor.examine()
        assert (CHECK_FAILED, "thing_wrong") not in codes(host)

    run(story, tmp_path)


def test_a_check_that_hangs_holds_up_no_other_and_is_not_started_twice(tmp_path) -> None:
    async def story(host) -> None:
        release, begun = threading.Event(), []

        def hang(_host):
            begun.append(1)
            release.wait(30)
            return []

        others = check(lambda _host: [Found("o", "Another")], "other_wrong")
        doctor = Doctor(host, {"thing_wrong": check(hang), "other_wrong": others}, {}, check_s=0.05)
        for _ in range(3):
            assert [one.status for one in await doctor.examine()] == ["unfinished", "found"]
        assert begun == [1]
        release.set()
        for task in list(doctor._running.values()):
            await task
        assert (await doctor.examine())[0].status == "ok"
        assert (CHECK_FAILED, "thing_wrong") not in codes(host)

    run(story, tmp_path)


def test_a_check_may_look_on_the_loop(tmp_path) -> None:
    async def story(host) -> None:
        async def look(_host):
            await asyncio.sleep(0)
            yield Found("a", "It is wrong")

        await Doctor(host, {"thing_wrong": check(look, on_loop=True)}, {}).examine()
        assert codes(host) == {("thing_wrong", "a")}

    run(story, tmp_path)


def test_what_one_check_reports_is_bounded_and_counted(tmp_path) -> None:
    async def story(host) -> None:
        many = [Found(str(number), "Wrong", "So.") for number in range(MOST_FOUND + 7)]
        [looked] = await Doctor(host, {"thing_wrong": check(lambda _host: many)}, {}).examine()
        assert looked.found == MOST_FOUND + 7
        shown = host.diagnostics.issues()
        assert len(shown) == MOST_FOUND
        assert shown[-1].detail == "So. And 7 more."

    run(story, tmp_path)


def test_mending_takes_its_arguments_from_the_host_and_looks_again(tmp_path) -> None:
    async def story(host) -> None:
        wrong, asked = ["a"], []

        async def perform(_host, args, actor):
            asked.append((dict(args), actor))
            wrong.clear()
            return "it is right now"

        look = check(lambda _host: [Found(one, "Wrong", mend="mend_it", args={"which": one}) for one in wrong])
        doctor = Doctor(host, {"thing_wrong": look}, {"mend_it": fixup(perform)})
        await doctor.examine()
        done = await doctor.mend("thing_wrong:a", actor="operator:9")
        assert (done.success, done.message, asked) == (True, "it is right now", [({"which": "a"}, "operator:9")])
        assert codes(host) == set()
        record = host.audit.tail(1)[0]
        assert (record["event"], record["actor"], record["fixup"]) == ("fixup.performed", "operator:9", "mend_it")
        with pytest.raises(NotFoundError) as caught:
            await doctor.mend("thing_wrong:a", actor="operator:9")
        assert caught.value.code == "issue_unknown"

    run(story, tmp_path)


def test_nothing_is_mended_that_is_not_as_it_was_seen(tmp_path) -> None:
    async def story(host) -> None:
        found, broken, done = [Found("a", "It is wrong", mend="mend_it", args={"n": 1})], [], []

        def look(_host):
            if broken:
                raise RuntimeError("no such luck")
            return list(found)

        async def perform(_host, args, _actor):
            done.append(dict(args))
            return "done"

        doctor = Doctor(host, {"thing_wrong": check(look)}, {"mend_it": fixup(perform)})
        await doctor.examine()
        found[:] = [Found("a", "It is wrong", mend="mend_it", args={"n": 2})]
        changed = await doctor.mend("thing_wrong:a", actor="operator")
        broken.append(1)
        unknown = await doctor.mend("thing_wrong:a", actor="operator")
        broken.clear()
        found.clear()
        gone = await doctor.mend("thing_wrong:a", actor="operator")
        assert [one.success for one in (changed, unknown, gone)] == [False, False, True]
        assert "not as it was found" in changed.message
        assert "nothing was done" in gone.message
        assert done == []

    run(story, tmp_path)


def test_a_decision_is_not_forgotten_when_its_pack_came_back(tmp_path) -> None:
    """The issue was seen while the folder was away; forgetting would now uninstall a Pack that is there."""

    async def story(host) -> None:
        there, removed = [], []

        def look(_host):
            return [] if there else [Found("p", "Gone", mend="remove_pack", args={"pack_id": "p"})]

        async def perform(_host, args, _actor):
            removed.append(args["pack_id"])
            return "forgotten"

        doctor = Doctor(host, {"grant_without_pack": check(look, "grant_without_pack")},
                        {"remove_pack": fixup(perform, "remove_pack", automatic=False)})  # fmt: skip
        await doctor.examine()
        there.append("p")
        assert "nothing was done" in (await doctor.mend("grant_without_pack:p", actor="operator")).message
        assert removed == []

    run(story, tmp_path)


def test_what_a_pack_reports_names_no_fixup_of_the_host(tmp_path) -> None:
    async def story(host) -> None:
        doctor = Doctor(host, {}, {})
        host.diagnostics.issue("pack_notice", "info", "evil", "Mend me", suggestions=(Suggestion("x"),))
        with pytest.raises(ConflictError) as caught:
            await doctor.mend("pack_notice:evil", "remove_pack", actor="operator")
        assert caught.value.code == "fixup_unknown"

    run(story, tmp_path)


def test_all_at_once_performs_only_what_decides_nothing(tmp_path) -> None:
    async def story(host) -> None:
        done = []

        async def perform(_host, args, _actor):
            done.append(args["which"])
            if args["which"] == "b":
                raise HostError("No room", code="storage")
            return "done"

        offers = [Found(one, "Wrong", mend="mend_it", args={"which": one}) for one in "abc"]
        offers.append(Found("d", "A decision", mend="decide_it", args={"which": "d"}))
        doctor = Doctor(
            host,
            {"thing_wrong": check(lambda _host: offers)},
            {"mend_it": fixup(perform), "decide_it": fixup(perform, "decide_it", automatic=False)},
        )
        mended = await doctor.mend_all(actor="operator")
        assert (done, [one.success for one in mended]) == (["a", "b", "c"], [True, False, True])
        assert "No room" in mended[1].message

    run(story, tmp_path)


def test_an_issue_that_stands_is_told_once_and_counted_when_it_comes_again() -> None:
    diagnostics = Diagnostics(clock=lambda: 5.0)
    told, gone = [], []
    diagnostics.watch(told.append, gone.append)
    for _ in range(3):
        diagnostics.standing("c", "warn", "s", "Title")
    assert len(told) == 1
    diagnostics.standing("c", "warn", "s", "Another title")
    assert [(issue.title, issue.count) for issue in told] == [("Title", 1), ("Another title", 1)]
    diagnostics.issue("c", "warn", "s", "Another title")
    assert told[-1].count == 2
    assert diagnostics.resolve("c", "s")
    assert not diagnostics.resolve("c", "s")
    assert [issue.count for issue in gone] == [2]


def test_changes_are_events_and_rows_that_outlive_the_host(tmp_path) -> None:
    events = []

    async def first(host) -> None:
        host.events.subscribe(CHANGED, events.append)
        record = host.issues = IssueRecord(host)
        host.diagnostics.issue("one", Severity.ERROR, "s", "First", "d", "h", cause=ValueError("why"))
        host.diagnostics.issue("one", Severity.ERROR, "s", "First", "d", "h")
        await record.tell()
        host.diagnostics.resolve("one", "s")
        await record.tell()
        host.diagnostics.issue("two", Severity.WARN, "s", "Second")

    async def later(host) -> None:
        found = IssueRecord(host).history.read(limit=10)
        assert [(row.code, row.gone_ts is None) for row in found] == [("two", True), ("one", False)]
        assert (found[1].count, found[1].title, found[1].severity) == (2, "First", "error")

    run(first, tmp_path)
    assert [(event["code"], event["change"]) for event in events] == [("one", "found"), ("one", "gone"), ("two", "found")]
    run(later, tmp_path)


def row(number: int, last_ts: float) -> Row:
    return Row(f"c:{number}", "c", "warn", str(number), "t", "", "", (), 1, last_ts, last_ts)


def test_the_history_is_bounded_in_rows_and_age(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(issue_history, "MAX_ROWS", 10)
    history = IssueHistory(tmp_path / "logs")
    now = 1e9
    history.write([row(1, now - issue_history.KEPT_S - 1)], now)
    assert history.read(limit=100) == []
    history.write([row(number, now + number) for number in range(25)], now)
    assert [one.subject for one in history.read(limit=100)] == [str(number) for number in range(24, 14, -1)]
    assert [one.subject for one in history.read(limit=100, subject="20")] == ["20"]
    assert (tmp_path / "logs").stat().st_mode & 0o077 == 0
    assert (tmp_path / "logs" / issue_history.FILE).stat().st_mode & 0o077 == 0
    history.close()


def test_a_damaged_history_is_set_aside_and_begun_anew(tmp_path) -> None:
    history = IssueHistory(tmp_path)
    (tmp_path / issue_history.FILE).write_bytes(b"not a database at all" * 100)
    history.write([row(1, 5.0)], 5.0)
    assert [one.subject for one in history.read(limit=5)] == ["1"]
    [kept] = tmp_path.glob("*.broken-*")
    assert kept.read_bytes().startswith(b"not a database")
    history.close()


def test_text_that_is_no_unicode_does_not_end_the_history(tmp_path) -> None:
    """A file name of a Pack, quoted in an issue, may hold half a character."""
    history = IssueHistory(tmp_path)
    odd = "x\udcff"
    history.write([Row("c:" + odd, "c", "warn", odd, odd, odd, odd, (odd,), 1, 1.0, 1.0, None)], 2.0)
    [found] = history.read(limit=5)
    history.close()
    assert (found.subject, found.cause) == ("x?", ("x?",))


def test_a_history_may_be_read_while_it_is_written(tmp_path) -> None:
    history = IssueHistory(tmp_path)
    opened, release, order = threading.Event(), threading.Event(), []

    def write() -> None:
        with history._guarded():
            opened.set()
            release.wait(30)
            order.append("written")

    def read() -> None:
        history.read(limit=5)
        order.append("read")

    writer, reader = threading.Thread(target=write), threading.Thread(target=read)
    writer.start()
    assert opened.wait(30)
    reader.start()
    reader.join(0.2)
    release.set()
    writer.join()
    reader.join()
    history.close()
    assert order == ["written", "read"]


def test_a_history_that_can_not_be_written_is_an_issue_and_no_end(tmp_path, monkeypatch) -> None:
    async def story(host) -> None:
        record = host.issues = IssueRecord(host)
        host.diagnostics.issue("one", "warn", "s", "First")

        def full(*_args):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(record.history, "_opened", full)
        await record.tell()
        assert ("history_unusable", "issues") in codes(host)
        monkeypatch.undo()
        await record.tell()
        assert ("history_unusable", "issues") not in codes(host)

    run(story, tmp_path)

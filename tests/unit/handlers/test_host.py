"""The host as one value: parts that are not there say so, Packs' use cases exclude each other, logs are bounded."""

from __future__ import annotations

import asyncio
import sys

import pytest

from backend_core.errors import ConflictError, HostError
from core_runtime.handlers import host as host_module
from core_runtime.handlers.interfaces import interfaces
from core_runtime.handlers.logs import LINES, PackLogs
from tests.support.hosts import bare_host, with_bus


def test_a_part_that_is_not_built_yet_answers_starting(tmp_path):
    async def story():
        host = bare_host(tmp_path)
        for name in ("bus", "audit", "approvals", "lifecycle", "sandboxes"):
            with pytest.raises(HostError) as caught:
                getattr(host, name)
            assert (caught.value.code, caught.value.http_status) == ("starting", 503)
        assert not host.built("bus")
        await with_bus(host)
        assert host.built("bus")
        await host.close()

    asyncio.run(story())


def test_use_cases_about_one_pack_exclude_each_other_with_a_bounded_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(host_module, "BUSY_WAIT_S", 0.05)

    async def story():
        host = bare_host(tmp_path)
        async with host.exclusively("a"), host.exclusively("b"):
            with pytest.raises(ConflictError) as caught:
                async with host.exclusively("a"):
                    pass
            assert caught.value.code == "busy"
        async with host.exclusively("a"):
            pass

    asyncio.run(story())


def test_background_work_that_fails_is_an_issue(tmp_path):
    async def story():
        host = bare_host(tmp_path)

        async def fail():
            raise HostError("Disk full", code="storage")

        await asyncio.wait({host.in_background(fail(), "writing of x")})
        await asyncio.sleep(0)
        [issue] = host.diagnostics.issues()
        assert (issue.code, issue.subject, issue.title) == ("storage", "writing of x", "Disk full")
        hanging = host.in_background(asyncio.Event().wait(), "hanging")
        await host.close()
        assert hanging.cancelled()

    asyncio.run(story())


def test_logs_are_a_bounded_ring():
    logs = PackLogs(clock=lambda: 1.0)
    for number in range(LINES + 10):
        logs.write("a", 1, 20, "stdout", f"line {number}")
    logs.write("b", 1, 20, "stdout", "two\nlines")
    assert [line.text for line in logs.tail("a", 2)] == [f"line {LINES + 8}", f"line {LINES + 9}"]
    assert len(logs.tail("a", 10**6)) == LINES
    assert [line.text for line in logs.tail("b", 5)] == ["two", "lines"]
    assert logs.tail("c", 5) == []
    assert logs.tail("a", 0) == []
    logs.forget("a")
    assert logs.tail("a", 5) == []


@pytest.mark.parametrize(
    ("line", "times", "fewest"),
    [("x" * 7_900, 1_000, 120), ("\U0001f600" * 7_900, 1_000, 30), ("", 3_000, LINES), ("\n" * 7_900, 3, LINES)],
)
def test_what_is_kept_of_a_log_takes_no_more_memory_than_its_limit(line, times, fewest):
    logs = PackLogs(kept_bytes=1 << 20)
    for number in range(times):
        logs.write("a", 1, 20, "stdout", line)
        if number % 500 == 0:
            logs.write("a", 1, 20, "stdout", f"line {number}")
    kept = logs.tail("a", 10**6)
    assert fewest <= len(kept) <= LINES
    assert logs.held_bytes("a") == sum(200 + sys.getsizeof(one.text) + sys.getsizeof(one.source) for one in kept) <= 1 << 20
    assert logs.held_bytes("b") == 0
    logs.forget("a")
    assert logs.held_bytes("a") == 0


def test_one_line_longer_than_all_that_is_kept_is_kept():
    logs = PackLogs(kept_bytes=1_000)
    logs.write("a", 1, 20, "stdout", "before")
    logs.write("a", 1, 20, "stdout", "x" * 5_000)
    assert [len(one.text) for one in logs.tail("a", 9)] == [5_000]


def test_interfaces_tell_owner_and_providers(tmp_path):
    async def story():
        host = bare_host(tmp_path)
        host.registry.set_owner("k", "a")
        host.registry.add("k", 1, pack="b")
        host.registry.register("h", lambda args, ctx: None)
        found = {item["key"]: item for item in await interfaces(host)}
        assert (found["k"]["owner"], found["k"]["available"], found["k"]["providers"]) == ("a", False, ["b"])
        assert (found["h"]["callable"], found["h"]["providers"]) == (True, ["host"])

    asyncio.run(story())

"""Markers that depend on the machine, and a summary that names what could not run and why.

RUMI_TEST_REQUIRE=docker,embedded turns every skip of a test with one of these markers into a failure: a run that must
be complete can not pass by leaving things out.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from typing import TYPE_CHECKING

import hypothesis
import pytest

from tests.support import machine

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUIRED = frozenset(filter(None, os.environ.get("RUMI_TEST_REQUIRE", "").replace(" ", "").split(",")))

# two cores shared with engines and sandboxes: a slow example is no finding
hypothesis.settings.register_profile("rumi", deadline=None, print_blob=True)
hypothesis.settings.load_profile("rumi")


def pytest_configure(config: pytest.Config) -> None:
    unknown = REQUIRED - machine.OBSTACLES.keys()
    if unknown:
        raise pytest.UsageError(f"RUMI_TEST_REQUIRE names {sorted(unknown)}; there are {sorted(machine.OBSTACLES)}")


LEFT_OUT = pytest.StashKey[bool]()
"""For want of something that was not required, whatever else of it was."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, obstacle in machine.OBSTACLES.items():
            if item.get_closest_marker(name) and name not in REQUIRED and obstacle():
                item.add_marker(pytest.mark.skip(reason=f"[{name}] {obstacle()}"))
                item.stash[LEFT_OUT] = True


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside pytest-timeout's: waiting for one's turn is no test's time
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[object]:
    workers = getattr(item.config, "workerinput", None)
    if workers is None or sys.platform == "win32":  # one process has the machine to itself; Windows has no such lock
        return (yield)
    from tests.support import quiet

    shared = item.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]
    with quiet.room(shared, alone=item.get_closest_marker("alone") is not None):
        return (yield)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for name in sorted(REQUIRED):
        if item.get_closest_marker(name) and machine.OBSTACLES[name]():
            pytest.fail(f"RUMI_TEST_REQUIRE names {name}, but: {machine.OBSTACLES[name]()}", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]
    required = sorted(name for name in REQUIRED if item.get_closest_marker(name))
    if report.skipped and required and not hasattr(report, "wasxfail") and not item.stash.get(LEFT_OUT, False):
        report.outcome = "failed"
        report.longrepr = f"skipped, but RUMI_TEST_REQUIRE names {', '.join(required)}: {report.longrepr}"
    return report  # type: ignore[return-value]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(_reason(report) for report in skipped)
    terminalreporter.section("could not run here, and why")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:4}  {reason}")


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")

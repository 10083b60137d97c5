"""What counted says that a limit was met, and what the operator is told."""

from __future__ import annotations

import pytest

from core_runtime.rules.frames import BusLimits
from core_runtime.rules.limits_seen import LIMITS, exceeded, said
from core_runtime.rules.limits_shown import rows
from core_runtime.rules.sandbox import Limits


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ({}, {}, set()),
        ({}, {"pids_refused": 2.0}, {"processes"}),
        ({"pids_refused": 2.0}, {"pids_refused": 2.0}, set()),
        ({"cpu_periods": 100.0, "cpu_throttled": 90.0}, {"cpu_periods": 200.0, "cpu_throttled": 139.0}, set()),
        ({"cpu_periods": 100.0, "cpu_throttled": 90.0}, {"cpu_periods": 200.0, "cpu_throttled": 140.0}, {"cpu"}),
        ({}, {"oom_kills": 1.0}, {"memory"}),
        ({"oom_kills": 1.0}, {"oom_kills": 1.0}, set()),
        ({}, {"pids": 128.0, "pids_full": 1.0}, {"processes"}),
        ({}, {"files_refused": 1.0}, {"files"}),
        ({"files": 9.0, "files_full": 0.0}, {"files": 256.0, "files_full": 1.0}, {"files"}),
        ({"files_full": 1.0}, {"files_full": 1.0}, set()),
        ({"message_refused": 1.0}, {"message_refused": 3.0}, {"message"}),
        ({}, {"cpu_periods": 0.0, "cpu_throttled": 0.0}, set()),
        ({}, {"cpu_periods": 9.0, "cpu_throttled": 9.0}, set()),
        ({}, {"cpu_periods": 10.0, "cpu_throttled": 10.0}, {"cpu"}),
        ({"tmp_full": 0.0}, {"tmp_bytes": 9.0, "tmp_full": 1.0}, {"tmp"}),
        ({"tmp_full": 1.0}, {"tmp_bytes": 9.0, "tmp_full": 1.0}, set()),
    ],
)
def test_what_was_counted_since_the_last_look_tells(before, now, found):
    assert set(exceeded(before, now)) == found


@pytest.mark.parametrize(
    ("pong", "counted"),
    [
        ({}, {}),
        ({"refused": {"files": 2, "message": 0, "memory": 9}}, {"files_refused": 2.0, "message_refused": 0.0}),
        ({"refused": {"files": True, "message": -1}}, {}),
        ({"refused": {"files": 1 << 60, "message": 1.5}}, {}),
        ({"refused": [1]}, {}),
        ({"refused": "files"}, {}),
    ],
)
def test_what_an_agent_says_is_believed_in_its_form_only(pong, counted):
    assert said(pong) == counted


@pytest.mark.parametrize("row", rows(Limits(), BusLimits(), quota_bytes=1, used={}, hits={}), ids=lambda row: row.name)
def test_every_limit_that_is_shown_can_be_told_of(row):
    # a log that is full lets its oldest lines go all the time: that is how it works, and nothing to do about
    assert (row.name in LIMITS) is (row.name != "log_kept")


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_says_what_to_do(name):
    hint = LIMITS[name].hint.format(pack_id="alpha")
    assert "{" not in hint
    assert len(hint) > 20
    assert LIMITS[name].what

"""What counted says that a limit was met, and what the operator is told."""

from __future__ import annotations

import pytest

from core_runtime.rules.limits_seen import LIMITS, exceeded


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
        ({}, {"cpu_periods": 0.0, "cpu_throttled": 0.0}, set()),
        ({"tmp_full": 0.0}, {"tmp_bytes": 9.0, "tmp_full": 1.0}, {"tmp"}),
        ({"tmp_full": 1.0}, {"tmp_bytes": 9.0, "tmp_full": 1.0}, set()),
    ],
)
def test_what_was_counted_since_the_last_look_tells(before, now, found):
    assert set(exceeded(before, now)) == found


@pytest.mark.parametrize("name", LIMITS)
def test_each_limit_says_what_to_do(name):
    hint = LIMITS[name].hint.format(pack_id="alpha")
    assert "{" not in hint
    assert len(hint) > 20
    assert LIMITS[name].what

"""Hundreds of ``kill -9`` at random steps and at random moments of every decision that is persisted.

Afterwards the state is the one before or the one after, never a third; what was answered stays. The seed is printed,
and ``RUMI_KILL_SEED`` repeats a run.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from core_runtime.drivers import faults
from tests.support.kills import ACTIONS, CUT_RUNS, NEWER_SECRET, SECRET, Killer

SEED = int(os.environ.get("RUMI_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
KILLS = 45
"""For each action: 630 together."""

OLD = ["approved", "1.0.0", 1]
NEW = ["approved", "2.0.0", 1]
LEGAL = {
    "approve": [["modified", "1.0.0", 1], ["approved", "2.0.0", 1]],
    "signed": [["modified", "1.0.0", 1], ["approved", "2.0.0", 1]],
    "reject": [OLD, ["blocked", "", 0]],
    "narrow": [OLD, ["approved", "1.0.0", 0]],
    "widen": [OLD, ["approved", "1.0.0", 2]],
    "restore": [["modified", "1.0.0", 1], OLD],
    "remove": [OLD, ["absent", "", 0]],
    "rotate": [OLD],
    "secret": [OLD],
    "add": [OLD],
    "update": [OLD, NEW],
    "takeover": [OLD, NEW],
    "return": [OLD],
    "rollback": [NEW, OLD],
}
DONE = {"approve": LEGAL["approve"][1], "signed": LEGAL["signed"][1], "reject": ["blocked", "", 0], "narrow": ["approved", "1.0.0", 0],
        "widen": ["approved", "1.0.0", 2],
        "restore": OLD, "remove": ["absent", "", 0], "rotate": OLD, "secret": OLD, "add": OLD, "update": NEW, "takeover": NEW, "return": OLD,
        "rollback": OLD}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_killed_at_random_steps_and_moments(tmp_path, action):
    print(f"RUMI_KILL_SEED={SEED}")
    chance = random.Random(f"{SEED}/{action}")
    kills, answered = 0, 0
    deadline = time.monotonic() + 90
    with Killer(tmp_path) as killer:
        whole = killer.kill(action)
        points, took_s = whole["points"], whole["took_s"]
        assert whole["answered"], whole
        assert whole["seen"] == DONE[action]
        while kills < KILLS:
            assert time.monotonic() < deadline, f"only {kills} kills in time"
            if kills < len(points) or chance.random() < 0.6:
                at = kills if kills < len(points) else chance.randrange(len(points))
                told = f"{action} at step {at} ({points[at]})"
                found = killer.kill(action, at=at)
                assert found["killed"], (told, found)
            else:
                delay_s = chance.random() * took_s
                told = f"{action} after {delay_s * 1000:.1f} ms"
                found = killer.kill(action, delay_s=delay_s)
                if not found["killed"]:  # it was faster this time: it must have ended well
                    assert found["answered"], (told, found)
            kills += found["killed"]
            answered += found["answered"]
            check(action, found, told)
    print(f"{action}: {kills} kills over {len(points)} steps, {answered} answered before the end")


def test_every_point_is_passed_by_some_decision(tmp_path):
    with Killer(tmp_path) as killer:
        passed = {point for action in ACTIONS for point in killer.kill(action)["points"]}
    assert passed == set(faults.POINTS) - {"run.answered"}  # runs of flows: test_flow_kills


def check(action, found, told):
    assert not found["failed"], (told, found)
    assert found["seen"] in LEGAL[action], (told, found)
    assert found["again"] == found["seen"], (told, found)
    if found["answered"]:
        assert found["seen"] == DONE[action], (told, found)
    assert not found["evidence"], (told, found)
    assert not found["litter"], (told, found)
    if found["runs"]:
        assert found["runs"] == found["seen"][1], (told, found)
    if action == "signed" and found["seen"][1] == "2.0.0":
        assert found["publishers"] == ["alpha"], (told, found)  # known before it is approved
    if action in {"update", "takeover", "return", "rollback"}:
        extra, version = found["extra"], found["seen"][1]
        assert extra["data"] == {"1.0.0": "old", "2.0.0": "new"}[version], (told, found)
        # a version that was not answered for waits on; one that was, does not; one taken back is gone
        assert extra["staged"] == ("2.0.0" if version == "1.0.0" and action != "rollback" else ""), (told, found)
        assert bool(extra["left"]) == (version == "2.0.0"), (told, found)  # the way back
    if found["secret"]:
        expected = {SECRET, NEWER_SECRET} if action == "secret" and not found["answered"] else {SECRET}
        assert found["secret"] in ({NEWER_SECRET} if action == "secret" and found["answered"] else expected), (told, found)
    if action == "remove":  # with its secrets and privileges, or without any of them: nobody inherits what was left
        assert found["kept"] == (["other", "token", "notify"] if found["seen"] == OLD else []), (told, found)
    if action == "rotate":
        assert found["cut_runs"] == list(CUT_RUNS), (told, found)
    if action == "add":
        assert found["extra"]["staged"] in ({"2.0.0"} if found["answered"] else {"", "2.0.0"}), (told, found)

"""``kill -9`` while a journalled flow runs, hundreds of times: after resuming, the result is that of a run that nobody
disturbed, and what acts under a ``once`` key has acted exactly once.
"""

from __future__ import annotations

import os
import random
import time

import pytest

from tests.support.flow_kills import FlowKiller

SEED = int(os.environ.get("RUMI_KILL_SEED", "0")) or random.SystemRandom().getrandbits(32)
KILLS = 500
ACTS = ["a", "f", "x1", "x2", "x3", "x4", "y", "z"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_runs_resume_to_the_same_end_and_act_once(tmp_path):
    print(f"RUMI_KILL_SEED={SEED}")
    chance = random.Random(SEED)
    kills = 0
    deadline = time.monotonic() + 360
    with FlowKiller(tmp_path) as killer:
        whole = killer.kill(at=[])
        assert (whole["status"], sorted(whole["acts"])) == ("ok", ACTS), whole
        answers = whole["answers"]
        while kills < KILLS:
            assert time.monotonic() < deadline, f"only {kills} kills in time"
            timed = chance.random() < 0.3
            at = [chance.randrange(answers) for _ in range(chance.choice([1, 1, 2, 3]))]
            if timed:
                at = [answers + 1] * len(at)
            found = killer.kill(at=at, delay_s=chance.random() * whole["took_s"] if timed else 0.0)
            told = (at, timed, found)
            assert found.get("status") == "ok", told
            assert found["output"] == whole["output"], told
            assert sorted(found["acts"]) == ACTS, told
            kills += found["kills"]
    print(f"{kills} kills over {answers} answers")

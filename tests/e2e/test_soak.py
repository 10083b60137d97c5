"""A short soak (the long one: `python -m tests.soak`): nothing is lost, nothing grows, whoever is killed or hostile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.run import Sample, Soak, run, slope

pytestmark = [pytest.mark.timeout(420)]


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.embedded
def test_nothing_is_lost_and_nothing_grows(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    soak = run(tmp_path / "home", 30, int(request.config.getoption("randomly_seed", 1)) % (1 << 20), print)
    print(soak.report())
    assert soak.problems() == []


def test_the_soak_notices_what_must_not_be() -> None:
    """A lost reply, one given twice, and each way to grow are problems."""
    good = Soak(100)
    long = dict.fromkeys(("echo", "large", "read whole", "read in part"), 10)
    good.answers.update({"value": 5_000, **long})
    good.ledger.update(long)
    good.files["p00", 1] = 10, 10
    good.kills.update(["exit"])
    good.attacks.update(["forged answers"])
    good.samples = [Sample(float(at), 50 << 20, 90, 12, 300) for at in range(100)]
    assert good.problems() == []
    for change in (
        lambda s: s.answers.update({"LOST": 1}), lambda s: s.never.append(7), lambda s: s.twice.append([1, "value", "timeout"]),
        lambda s: s.strange.append([9, "item"]), lambda s: s.answers.pop("value"), lambda s: s.kills.clear(), lambda s: s.api_s.append(60.0),
        lambda s: s.pace.extend((float(at), 0.001, 0.1 if at < 60 else 0.6) for at in range(100)),
        lambda s: s.samples.__setitem__(slice(None), [Sample(float(at), (50 + at) << 20, 90, 12, 300) for at in range(100)]),
        lambda s: s.samples.__setitem__(slice(None), [Sample(float(at), 50 << 20, 90 + at, 12, 300) for at in range(100)]),
        lambda s: s.samples.__setitem__(slice(None), [Sample(float(at), 50 << 20, 90, 12 + at // 4, 300) for at in range(100)]),
        lambda s: s.samples.__setitem__(slice(None), [Sample(float(at), 50 << 20, 90, 12, 300 + at) for at in range(100)]),
        lambda s: s.answers.update({"WRONG": 1}), lambda s: s.wrong.append([3, "echo", "b''"]), lambda s: s.answers.update({"LEFT OPEN": 1}),
        lambda s: setattr(s, "open", 1), lambda s: s.answers.pop("echo"), lambda s: s.ledger.pop("read whole"), lambda s: s.files.clear(),
        lambda s: s.faults.append("a driver never came back"),
    ):  # fmt: skip
        bad = Soak(100, answers=good.answers.copy(), ledger=good.ledger.copy(), files={**good.files}, kills=good.kills.copy(), attacks=good.attacks.copy(), samples=[*good.samples])
        change(bad)
        assert len(bad.problems()) == 1
    assert slope([(0, 1.0), (1, 3.0), (2, 5.0)]) == 2

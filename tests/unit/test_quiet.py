"""Who measures is alone, and nobody who came later goes first (`tests/support/quiet.py`)."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.support.quiet import room

WAIT_S = 20.0
LOOK_S = 0.5


class Visitor(threading.Thread):
    def __init__(self, folder: Path, *, alone: bool) -> None:
        super().__init__(daemon=True)
        self._folder, self._alone = folder, alone
        self.inside, self.leave = threading.Event(), threading.Event()
        self.start()

    def run(self) -> None:
        with room(self._folder, alone=self._alone):
            self.inside.set()
            self.leave.wait(WAIT_S)

    def left(self) -> None:
        self.leave.set()
        self.join(WAIT_S)
        assert not self.is_alive()


def test_others_share_the_room(tmp_path: Path) -> None:
    visitors = [Visitor(tmp_path, alone=False) for _ in range(3)]
    assert all(one.inside.wait(WAIT_S) for one in visitors)
    for one in visitors:
        one.left()


def test_one_who_measures_waits_for_those_inside_and_keeps_later_ones_out(tmp_path: Path) -> None:
    first = Visitor(tmp_path, alone=False)
    assert first.inside.wait(WAIT_S)
    measuring = Visitor(tmp_path, alone=True)
    assert not measuring.inside.wait(LOOK_S)
    later = Visitor(tmp_path, alone=False)
    assert not later.inside.wait(LOOK_S), "who waits to measure would be put off for ever"
    first.left()
    assert measuring.inside.wait(WAIT_S)
    assert not later.inside.wait(LOOK_S)
    measuring.left()
    assert later.inside.wait(WAIT_S)
    later.left()


def test_a_fault_inside_opens_the_room(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), room(tmp_path, alone=True):
        _ = 1 / 0
    with room(tmp_path, alone=True):
        pass

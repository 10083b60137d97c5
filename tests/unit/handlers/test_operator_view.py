"""The operator's view is written by whoever comes: many at the same time leave one view, whole."""

from __future__ import annotations

import sys
import threading

from core_runtime.handlers import operator_view


def test_many_that_write_at_the_same_time_leave_one_view(tmp_path):
    target = tmp_path / "alpha"
    errors: list[OSError] = []

    def often(writer: int) -> None:
        for number in range(60):
            fresh = tmp_path / f".alpha.{writer}-{number}"
            fresh.mkdir()
            (fresh / "README.md").write_text("whole")
            try:
                operator_view._swap(fresh, target)
            except OSError as error:
                errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        writers = [threading.Thread(target=often, args=(writer,)) for writer in range(8)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
    finally:
        sys.setswitchinterval(before)
    assert errors == []
    assert [path.name for path in tmp_path.iterdir()] == ["alpha"]
    assert (target / "README.md").read_text() == "whole"

"""The semantics table of the reference shows what the machine does: each verb, each way in which it can end."""

from __future__ import annotations

import pytest

from tests.support import flow_semantics
from tests.support.flow_semantics import FORMS, NONE, PAGES, cells


@pytest.mark.parametrize("page", PAGES)
def test_the_table_is_current(page: str) -> None:
    found = (flow_semantics.FOLDER / page).read_text(encoding="utf-8")
    assert found == flow_semantics.rendered(page), "run: python -m tests.support.flow_semantics"


@pytest.mark.parametrize("verb", FORMS)
def test_what_holds_for_every_verb(verb: str) -> None:
    success, failure, timeout, cancel, missing = cells(verb)
    assert success in {"ok → ok", "ok → ok, ends", NONE}
    assert failure.startswith("failed"), "a failure is told as such"
    assert failure.endswith("degraded"), "and the next step runs"
    assert timeout in {"timeout → degraded", NONE}
    assert cancel in {"cancelled → cancelled, ends", NONE}, "nothing runs after a cancellation"
    assert "ok → ok" not in missing, "what is not there is never told as done"

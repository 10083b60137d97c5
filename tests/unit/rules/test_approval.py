"""The state of a Pack from facts alone: every rule with the ones that come before it."""

from __future__ import annotations

import pytest

from core_runtime.rules.approval import TRANSITIONS, UNDECIDED, Event, Facts, Mark, State, Verdict, following, judge

VALID, NONE, FAULTY, IMPORTED = Verdict.VALID, Verdict.NONE, Verdict.FAULTY, Verdict.IMPORTED


@pytest.mark.parametrize(
    ("facts", "state", "cause"),
    [
        (Facts(NONE), State.INSTALLED, ""),
        (Facts(NONE, reviewed=True), State.PENDING, ""),
        (Facts(NONE, cause="grant_missing"), State.PENDING, "grant_missing"),
        (Facts(IMPORTED, cause="grant_imported"), State.PENDING, "grant_imported"),
        (Facts(IMPORTED), State.PENDING, ""),
        (Facts(NONE, folder_fault="broken", reviewed=True, cause="x"), State.ERROR, "broken"),
        (Facts(IMPORTED, folder_fault="broken"), State.ERROR, "broken"),
        (Facts(NONE, mark=Mark.BLOCKED, folder_fault="broken"), State.BLOCKED, "rejected"),
        (Facts(FAULTY, cause="grant_forged", mark=Mark.BLOCKED), State.BLOCKED, "rejected"),
        (Facts(IMPORTED, mark=Mark.BLOCKED), State.BLOCKED, "rejected"),
        (Facts(NONE, mark=Mark.REVOKED), State.INSTALLED, ""),
        (Facts(NONE, mark=Mark.REMOVING), State.ERROR, "removal_unfinished"),
        (Facts(FAULTY, cause="grant_forged", mark=Mark.REMOVING), State.ERROR, "removal_unfinished"),
        (Facts(VALID, mark=Mark.REMOVING), State.APPROVED, ""),
        (Facts(NONE, mark=Mark.MODIFIED), State.INSTALLED, ""),
        (Facts(FAULTY, cause="grant_forged"), State.ERROR, "grant_forged"),
        (Facts(FAULTY, cause="grant_forged", folder_fault="broken", reviewed=True), State.ERROR, "grant_forged"),
        (Facts(VALID), State.APPROVED, ""),
        (Facts(VALID, mark=Mark.BLOCKED), State.APPROVED, ""),
        (Facts(VALID, running=True), State.RUNNING, ""),
        (Facts(VALID, differs=False, running=True), State.RUNNING, ""),
        (Facts(VALID, running=True, run_fault="crashed"), State.ERROR, "crashed"),
        (Facts(VALID, mark=Mark.MODIFIED, running=True, run_fault="crashed"), State.MODIFIED, "files_changed_before"),
        (Facts(VALID, mark=Mark.MODIFIED, differs=True), State.MODIFIED, "files_changed"),
        (Facts(VALID, differs=True, folder_fault="broken"), State.MODIFIED, "files_changed"),
        (Facts(VALID, folder_fault="broken"), State.APPROVED, ""),
        (Facts(VALID, ambiguous=True, folder_fault="pack_id_shared", differs=True), State.ERROR, "pack_id_shared"),
        (Facts(NONE, ambiguous=True), State.INSTALLED, ""),
    ],
    ids=str,
)
def test_earlier_rules_win(facts, state, cause):
    assert judge(facts) == (state, cause)


S, E = State, Event
TABLE = {
    S.INSTALLED: {E.REVIEWED: S.PENDING, E.BROKEN: S.ERROR, E.APPROVED: S.APPROVED, E.REJECTED: S.BLOCKED},
    S.PENDING: {E.APPROVED: S.APPROVED, E.REJECTED: S.BLOCKED},
    S.APPROVED: {E.APPROVED: S.APPROVED, E.STARTED: S.RUNNING, E.EDITED: S.MODIFIED, E.REJECTED: S.BLOCKED},
    S.RUNNING: {
        E.APPROVED: S.RUNNING,
        E.STOPPED: S.APPROVED,
        E.EDITED: S.MODIFIED,
        E.GAVE_UP: S.ERROR,
        E.REJECTED: S.BLOCKED,
    },
    S.MODIFIED: {E.APPROVED: S.APPROVED, E.RESTORED: S.APPROVED, E.REJECTED: S.BLOCKED},
    S.BLOCKED: {E.APPROVED: S.APPROVED},
    S.ERROR: {E.APPROVED: S.APPROVED, E.STARTED: S.RUNNING},
}


def test_the_table_of_states_is_the_documented_one():
    assert {state: dict(events) for state, events in TRANSITIONS.items()} == TABLE
    for state in State:
        for event in Event:
            assert following(state, event) == TABLE[state].get(event)
    assert {"installed", "pending", "modified"} == UNDECIDED
    assert Facts(NONE) == Facts(NONE, "", Mark.NONE, "", False, None, False, False, "")

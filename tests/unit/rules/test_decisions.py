"""Every refusal of a decision or a start: when, with which code, and what the operator is told."""

from __future__ import annotations

import pytest

from backend_core.errors import ConflictError, DeniedError, RumiError, TrustError
from core_runtime.rules.approval import TRANSITIONS, Event, State
from core_runtime.rules.decisions import (
    check_digest,
    check_identity,
    check_isolation,
    check_startable,
    check_transition,
    isolation_words,
)
from core_runtime.rules.grants import Grant
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, at_least

DIGEST, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def refused(kind: type[RumiError], call, *arguments, **named) -> RumiError:
    with pytest.raises(kind) as caught:
        call(*arguments, **named)
    assert type(caught.value) is kind
    return caught.value


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_events_that_a_state_does_not_know(state, event):
    if event in TRANSITIONS[state]:
        check_transition("alpha", state, event)
        return
    error = refused(ConflictError, check_transition, "alpha", state, event)
    assert error.code == "state_conflict"
    assert error.detail == f"'alpha' is {state.value}; it can't be {event.value} now."
    assert error.hint == "See its state and cause: rumi pack show alpha."
    assert dict(error.fields) == {"state": state.value, "event": event.value}


def test_the_digest_that_was_shown():
    check_digest(None, DIGEST)
    check_digest(DIGEST, DIGEST)
    check_digest("A" * 64, DIGEST)
    for shown in (OTHER, "", "x"):
        error = refused(ConflictError, check_digest, shown, DIGEST)
        assert error.code == "digest_stale"
        assert error.detail == f"Expected {shown!r}, found {DIGEST} on disk."
        assert dict(error.fields) == {"digest": DIGEST}


@pytest.mark.parametrize(
    ("same", "explicit", "passes"),
    [(True, True, True), (True, False, True), (False, True, True), (False, False, False)],
)
def test_another_identity_needs_its_digest_named(same, explicit, passes):
    if passes:
        check_identity("alpha", same=same, explicit=explicit, now="x")
        return
    error = refused(TrustError, check_identity, "alpha", same=same, explicit=explicit, now="local:x")
    assert error.code == "identity_changed"
    assert error.detail == "Another identity was approved as 'alpha' before; the files now say 'local:x'."
    assert error.hint.startswith("If you mean this Pack: review it")


def grant(driver: DriverKind, level: Level) -> Grant:
    return Grant("alpha", "i", "1", DIGEST, 1, "e", Isolation(driver, level), 0.0, 0.0, "me")


@pytest.mark.parametrize("driver", DriverKind)
@pytest.mark.parametrize("level", [level for level in Level if level is not Level.NONE])
@pytest.mark.parametrize("before_driver", DriverKind)
@pytest.mark.parametrize("before_level", [level for level in Level if level is not Level.NONE])
def test_isolation_is_as_good_in_driver_and_level_or_refused(driver, level, before_driver, before_level):
    now, before = Isolation(driver, level), grant(before_driver, before_level)
    good = (driver is DriverKind.DOCKER or before_driver is DriverKind.EMBEDDED) and level >= before_level
    assert at_least(now, before.isolation) is good
    check_isolation(None, now, accept_weaker=False)
    check_isolation(before, now, accept_weaker=True)
    if good:
        check_isolation(before, now, accept_weaker=False)
        return
    error = refused(TrustError, check_isolation, before, now, accept_weaker=False)
    approved, available = f"{before_driver.value}/{before_level.name.lower()}", f"{driver.value}/{level.name.lower()}"
    assert error.code == "isolation_weaker"
    assert error.detail == f"Approved: {approved}. Available now: {available}."
    assert error.hint.endswith("rumi pack approve alpha --accept-weaker")
    assert dict(error.fields) == {"approved": approved, "available": available}
    assert isolation_words(now) == available


def test_no_isolation_is_never_enough():
    for before in (None, grant(DriverKind.EMBEDDED, Level.REDUCED)):
        for accept in (True, False):
            error = refused(
                TrustError, check_isolation, before, Isolation(DriverKind.DOCKER, Level.NONE), accept_weaker=accept
            )
            assert (error.code, error.detail, error.hint) == (
                "isolation_none", "This machine can't isolate a Pack now.", "Run: rumi doctor.",
            )  # fmt: skip


@pytest.mark.parametrize("state", [State.APPROVED, State.RUNNING])
def test_approved_packs_start(state):
    check_startable("alpha", state, "", "", [])
    check_startable("alpha", state, "cause", "detail", ["x"])


@pytest.mark.parametrize("state", [State.INSTALLED, State.PENDING, State.BLOCKED])
def test_undecided_and_rejected_packs_do_not(state):
    error = refused(DeniedError, check_startable, "alpha", state, "grant_missing", "", [])
    assert error.code == "not_approved"
    assert error.detail == f"'alpha' is {state.value} (grant_missing)."
    assert error.hint == "Review it (rumi pack review alpha), then approve it."
    assert refused(DeniedError, check_startable, "alpha", state, "", "", []).detail == f"'alpha' is {state.value}."


@pytest.mark.parametrize("state", [State.MODIFIED, State.ERROR])
def test_packs_to_be_decided_again_name_their_cause(state):
    error = refused(TrustError, check_startable, "alpha", state, "some_cause", "What happened.", ["a", "b"])
    assert (error.code, error.detail) == ("some_cause", "What happened.")
    assert dict(error.fields) == {"paths": ["'a'", "'b'"]}
    assert error.hint.startswith("See the difference (rumi pack diff alpha)")
    error = refused(TrustError, check_startable, "alpha", state, "some_cause", "", ["a", "b"])
    assert error.detail == "Files differ from the approved ones: 'a', 'b'."
    error = refused(TrustError, check_startable, "alpha", state, "", "", [])
    assert (error.code, error.detail) == (state.value, f"The Pack is {state.value}: .")
    error = refused(TrustError, check_startable, "alpha", state, "some_cause", "", [])
    assert error.detail == f"The Pack is {state.value}: some_cause."

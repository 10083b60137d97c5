"""What stands against a decision or a start, each as one check that raises the error the operator sees. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend_core.errors import ConflictError, DeniedError, TrustError, quote
from core_runtime.rules.approval import REMOVAL_UNFINISHED, Event, Mark, State, following
from core_runtime.rules.digest import normal_digest
from core_runtime.rules.grants import Grant
from core_runtime.rules.sandbox import Isolation, Level, at_least


def check_transition(pack_id: str, state: State, event: Event) -> None:
    """``ConflictError`` where the table of states has no such edge."""
    if following(state, event) is None:
        raise ConflictError(
            "Not possible in this state",
            code="state_conflict",
            detail=f"{quote(pack_id)} is {state.value}; it can't be {event.value} now.",
            hint=f"See its state and cause: rumi pack show {pack_id}.",
            fields={"state": state.value, "event": event.value},
        )


def check_removed(pack_id: str, mark: Mark) -> None:
    """``ConflictError`` ``removal_unfinished`` while something of a removed Pack may be left: nobody may find it."""
    if mark is Mark.REMOVING:
        raise ConflictError(
            "The removal of this Pack did not come to its end",
            code=REMOVAL_UNFINISHED,
            detail=f"{quote(pack_id)} was removed, and something of it may be left.",
            hint=f"Finish it first: rumi pack remove {pack_id}",
        )


def check_digest(shown: str | None, found: str) -> None:
    """``ConflictError`` ``digest_stale`` when the operator was shown other files than those on disk."""
    if shown is not None and normal_digest(shown) != found:
        raise ConflictError(
            "The files are not the ones that were shown",
            code="digest_stale",
            detail=f"Expected {quote(shown)}, found {found} on disk.",
            hint="Review the Pack again, then approve with the digest shown there.",
            fields={"digest": found},
        )


def check_identity(pack_id: str, *, same: bool, explicit: bool, now: str) -> None:
    """``TrustError`` ``identity_changed`` unless the operator named the digest of the other Pack."""
    if not same and not explicit:
        raise TrustError(
            "Another Pack under the same id",
            code="identity_changed",
            detail=f"Another identity was approved as {quote(pack_id)} before; the files now say {quote(now)}.",
            hint="If you mean this Pack: review it, then approve with the digest shown. It gets none of the old data.",
        )


def check_isolation(before: Grant | None, now: Isolation, *, accept_weaker: bool) -> None:
    """``TrustError`` when there is no isolation, or less than was approved and the operator did not agree to less."""
    if now.level is Level.NONE:
        raise TrustError(
            "No isolation",
            code="isolation_none",
            detail="This machine can't isolate a Pack now.",
            hint="Run: rumi doctor.",
        )
    if before is not None and not accept_weaker and not at_least(now, before.isolation):
        raise TrustError(
            "The isolation is weaker than what was approved",
            code="isolation_weaker",
            detail=f"Approved: {isolation_words(before.isolation)}. Available now: {isolation_words(now)}.",
            hint="Bring the stronger one back (rumi doctor), or agree to the weaker one: "
            f"rumi pack approve {before.pack_id} --accept-weaker",
            fields={"approved": isolation_words(before.isolation), "available": isolation_words(now)},
        )


def check_startable(pack_id: str, state: State, cause: str, detail: str, changed_paths: Sequence[str]) -> None:
    """``DeniedError`` for an undecided or rejected Pack, ``TrustError`` with the cause for one to be decided again."""
    if state in {State.APPROVED, State.RUNNING}:
        return
    if state in {State.INSTALLED, State.PENDING, State.BLOCKED}:
        raise DeniedError(
            "The Pack is not approved",
            code="not_approved",
            detail=f"{quote(pack_id)} is {state.value}{f' ({cause})' if cause else ''}.",
            hint=f"Review it (rumi pack review {pack_id}), then approve it.",
        )
    raise TrustError(
        "The Pack must be approved again",
        code=cause or state.value,
        detail=detail or _changes(changed_paths) or f"The Pack is {state.value}: {cause}.",
        hint=f"See the difference (rumi pack diff {pack_id}), then approve, or restore the approved files.",
        fields={"paths": [quote(path) for path in changed_paths[:50]]},
    )


def isolation_words(isolation: Isolation) -> str:
    """``docker/standard`` and the like."""
    return f"{isolation.driver.value}/{isolation.level.name.lower()}"


def _changes(paths: Sequence[str]) -> str:
    if not paths:
        return ""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return f"Files differ from the approved ones: {', '.join(quote(path) for path in paths[:5])}{more}."


DEVELOPMENT: Final = " (development)"


def deciding(actor: str, *, development: bool) -> str:
    """Who is on record for a decision; one that ``rumi pack dev`` makes at each change of a folder is marked."""
    return f"{actor.removesuffix(DEVELOPMENT)}{DEVELOPMENT}" if development else actor


def in_development(actor: str) -> bool:
    """Whether a decision of this actor's is one of development mode."""
    return actor.endswith(DEVELOPMENT)

"""Runs the checks, keeps the issues that they found in step with what is true, and performs fixups.

Invariants:
  * What a check no longer finds is resolved; what it could not look at stays as it was.
  * A check that fails or takes longer than ``CHECK_S`` is an issue of its own and holds up no other. One that never
    returns is not started a second time.
  * A fixup is performed for an issue that stands now: its check is run right before, and nothing is done where it finds
    nothing any more, something else, or does not end. The arguments are those that the host itself suggested, and the
    check is run again at once. Each is on record in the audit trail before it acts.

Not here: single checks and fixups (their folders), showing (``api``, ``console``), issues that other parts report.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import asdict

from backend_core.errors import ConflictError, HostError, NotFoundError, RumiError, quote
from core_runtime.diagnosis.parts import Check, Fixup, Found, load_checks, load_fixups, suggestions_of
from core_runtime.diagnostics import Issue, Severity, Suggestion, record_failure

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host

CHECK_S: Final = 20.0
RENEW_S: Final = 1.0
MOST_FOUND: Final = 100
"""Subjects that one check may report; the rest is counted in the last one's detail."""
CHECK_FAILED: Final = "check_failed"
PERFORMED: Final = "fixup.performed"


class Looked(Struct, frozen=True):
    """How one check went: ``status`` is ``ok``, ``found`` or ``unfinished``."""

    code: str
    title: str
    title_ja: str
    status: str
    found: int
    took_s: float


class Mended(Struct, frozen=True):
    """What became of one fixup."""

    issue: str
    fixup: str
    success: bool
    message: str


class Doctor:
    """One per host. On the event loop's thread."""

    def __init__(
        self,
        host: Host,
        checks: Mapping[str, Check] | None = None,
        fixups: Mapping[str, Fixup] | None = None,
        *,
        check_s: float = CHECK_S,
    ) -> None:
        self._host = host
        self.checks = load_checks() if checks is None else checks
        self.fixups = load_fixups() if fixups is None else fixups
        self._check_s = check_s
        self._standing: dict[str, set[str]] = {}
        self._running: dict[str, asyncio.Task[list[Found]]] = {}
        self._one_at_a_time = asyncio.Lock()
        self._renewed_at = -RENEW_S

    async def examine(self) -> list[Looked]:
        """Run every check, one after the other."""
        async with self._one_at_a_time:
            return [await self._examine(check) for check in self.checks.values()]

    async def renew(self) -> None:
        """Run those checks again of which something stands, unless that was just now or is being done."""
        if self._one_at_a_time.locked() or time.monotonic() < self._renewed_at + RENEW_S:
            return
        async with self._one_at_a_time:
            self._renewed_at = time.monotonic()
            for code in [code for code, subjects in self._standing.items() if subjects]:
                await self._examine(self.checks[code])

    async def look_again(self, code: str) -> None:
        """Run one check: something happened that it looks at."""
        async with self._one_at_a_time:
            await self._examine(self.checks[code])

    async def mend(self, issue_id: str, fixup: str = "", *, actor: str) -> Mended:
        """Perform the fixup that an issue suggests (``fixup`` chooses one of several).

        ``NotFoundError`` for an unknown issue, ``ConflictError`` when nothing that the host can perform is suggested.
        """
        issue = next((found for found in self._host.diagnostics.issues() if found.id == issue_id), None)
        if issue is None:
            raise NotFoundError(
                "No such issue",
                code="issue_unknown",
                detail=f"{quote(issue_id, 300)} is not among the issues that stand now.",
                hint="List them: rumi doctor",
            )
        chosen = [offer for offer in issue.suggestions if offer.fixup and fixup in {"", offer.fixup}]
        if not chosen:
            raise ConflictError(
                "Nothing here that the host can mend by itself",
                code="fixup_unknown",
                detail=f"{quote(issue_id, 300)} offers {_offers(issue)}; asked for: {quote(fixup or 'any', 60)}.",
                hint=issue.hint or "See what to do: rumi doctor",
            )
        return await self._perform(issue, chosen[0], actor=actor)

    async def mend_all(self, *, actor: str) -> list[Mended]:
        """Look, and perform every fixup that decides nothing for the operator. A failing one ends no other."""
        await self.examine()
        done = []
        for issue in self._host.diagnostics.issues():
            for offer in issue.suggestions:
                known = self.fixups.get(offer.fixup)
                if known is not None and known.automatic:
                    done.append(await self._perform(issue, offer, actor=actor))
                    break
        return done

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _examine(self, check: Check) -> Looked:
        begun = time.monotonic()
        try:
            found = await self._look(check)
        except TimeoutError:
            self._unfinished(check, f"It did not end within {self._check_s:g} s.", None)
            return _looked(check, begun, "unfinished", 0)
        except Exception as error:  # noqa: BLE001  the boundary: a broken check is a finding of its own
            self._unfinished(check, str(error)[:500], error)
            return _looked(check, begun, "unfinished", 0)
        self._host.diagnostics.resolve(CHECK_FAILED, check.code)
        self._settle(check, found)
        return _looked(check, begun, "found" if found else "ok", len(found))

    async def _look(self, check: Check) -> list[Found]:
        task = self._running.get(check.code)
        if task is None or task.done():
            work = _gathered(check.look(self._host)) if check.on_loop else asyncio.to_thread(_listed, check, self._host)
            task = self._running[check.code] = asyncio.create_task(work, name=f"check {check.code}")
        done, _ = await asyncio.wait({task}, timeout=self._check_s)
        if not done:
            raise TimeoutError
        del self._running[check.code]
        return task.result()

    def _settle(self, check: Check, found: list[Found]) -> None:
        shown, left_out = found[:MOST_FOUND], len(found) - MOST_FOUND
        subjects = {one.subject for one in shown}
        for one in shown:
            more = f" And {left_out} more." if left_out > 0 and one is shown[-1] else ""
            self._host.diagnostics.standing(
                check.code, one.severity, one.subject, one.title, one.detail + more, one.hint, one.evidence,
                suggestions=suggestions_of(one, self.fixups),
            )  # fmt: skip
        for gone in self._standing.get(check.code, set()) - subjects:
            self._host.diagnostics.resolve(check.code, gone)
        self._standing[check.code] = subjects

    def _unfinished(self, check: Check, detail: str, error: Exception | None) -> None:
        if error is not None:
            record_failure(self._host.diagnostics, error, f"check {check.code}", "diagnosis", quiet=True)
        self._host.diagnostics.standing(
            CHECK_FAILED,
            Severity.WARN,
            check.code,
            f"The check “{check.title}” could not be finished",
            detail,
            "What it found before stays as it is. Look again later: rumi doctor",
            cause=error,
        )

    async def _perform(self, issue: Issue, offer: Suggestion, *, actor: str) -> Mended:
        fixup = self.fixups[offer.fixup]
        check = self.checks.get(issue.code)
        if check is not None and not await self._still(check, issue, offer):
            if not self._stands(issue) and not self._stands_for(CHECK_FAILED, check.code):
                return Mended(issue.id, fixup.name, success=True, message="it is in order by now; nothing was done")
            changed = ConflictError(
                "That is not as it was found any more",
                code="issue_changed",
                detail=f"{quote(issue.id, 300)} was looked at again first; nothing was done.",
                hint="See what stands now: rumi doctor",
            )
            return Mended(issue.id, fixup.name, success=False, message=str(changed))
        await asyncio.to_thread(
            self._host.audit.append, PERFORMED, actor=actor, issue=quote(issue.id, 300), fixup=fixup.name
        )
        try:
            message = await fixup.perform(self._host, offer.args, actor)
        except RumiError as error:
            return Mended(issue.id, fixup.name, success=False, message=str(error))
        except OSError as error:
            problem = HostError("It could not be mended", code="fixup_failed", detail=str(error))
            return Mended(issue.id, fixup.name, success=False, message=str(problem))
        if check is not None:
            async with self._one_at_a_time:
                await self._examine(check)
        return Mended(issue.id, fixup.name, success=True, message=message)

    def _stands(self, issue: Issue) -> bool:
        return any(found.id == issue.id for found in self._host.diagnostics.issues())

    def _stands_for(self, code: str, subject: str) -> bool:
        return any((found.code, found.subject) == (code, subject) for found in self._host.diagnostics.issues())

    async def _still(self, check: Check, issue: Issue, offer: Suggestion) -> bool:
        """Whether the check finds it now, with the same to do about it. Minutes may lie between seeing and mending."""
        async with self._one_at_a_time:
            looked = await self._examine(check)
        if looked.status != "found":
            return False
        return any(found.id == issue.id and offer in found.suggestions for found in self._host.diagnostics.issues())


async def current_issues(host: Host) -> list[Issue]:
    """What is wrong as it is now: what the checks found before and is mended meanwhile does not stand any more."""
    if host.built("doctor"):
        await host.doctor.renew()
    return host.diagnostics.issues()


def as_documents(items: Iterable[Looked | Mended]) -> list[dict[str, Any]]:
    """JSON for the API."""
    return [asdict(item) for item in items]


def _looked(check: Check, begun: float, status: str, found: int) -> Looked:
    return Looked(check.code, check.title, check.title_ja, status, found, time.monotonic() - begun)


def _listed(check: Check, host: Host) -> list[Found]:
    found = check.look(host)
    assert not isinstance(found, AsyncIterable)
    return list(found)


async def _gathered(found: Iterable[Found] | AsyncIterable[Found]) -> list[Found]:
    assert isinstance(found, AsyncIterable)
    return [one async for one in found]


def _offers(issue: Issue) -> str:
    return ", ".join(sorted({offer.fixup for offer in issue.suggestions if offer.fixup})) or "none"

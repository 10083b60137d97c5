"""What the console may ask of the host: the API's use cases under one narrow port, as plain views.

Each method is one use case with the same checks as its route; errors are ``RumiError``. Every one that decides takes
the actor that the gate established, for the audit trail.

Not here: HTTP, forms and pages (the console), the use cases themselves (``handlers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import msgspec

from backend_core.errors import HostError, NotFoundError
from core_runtime.api import views
from core_runtime.api.console_access import Opened
from core_runtime.api.context import Api
from core_runtime.api.endpoints_flows import flow_explained, flows_as_shown
from core_runtime.api.endpoints_interfaces import Invoke, answers
from core_runtime.diagnosis.doctor import Mended, current_issues
from core_runtime.event_bus import PACK_SOURCE
from core_runtime.handlers import components, evidence, limits, metric_history, packs, permissions, secrets, updates
from core_runtime.handlers.interfaces import data, edges
from core_runtime.kernel import Kernel
from core_runtime.rules.identity import Refuse
from core_runtime.rules.permissions import KINDS
from core_runtime.rules.routing import matches
from core_runtime.rules.sessions import Session, code_of
from core_runtime.rules.shown import plain

AUDIT_LINES_MOST = 5000
TOLD_AT_ONCE = 50
_CODE_REFUSED = "console_code_refused"

View = dict[str, Any]


class Followed(msgspec.Struct, frozen=True):
    """Events that were chosen, in their order. ``last``: the id of the last one that was looked at.

    ``lost`` instead of events: how many are missing here, None for an unknown number.
    """

    events: list[View]
    last: str
    lost: int | None = 0


class _Named(msgspec.Struct):
    source: str
    type: str


class Operator:
    """One per host; stateless."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._host = api.host

    # --- the session -------------------------------------------------------------------------------------------------

    async def open(self, body: bytes, cookies: tuple[bytes, ...], *, proven: bool) -> Opened | Refuse:
        """Use a one-time code up; the session that this browser had before ends with it."""
        access = self._api.access
        found = access.open(code_of(body), proven=proven)
        if isinstance(found, Refuse):
            who = "the owner's connection" if proven else "a connection that nobody was proven on"
            self._host.diagnostics.issue(
                _CODE_REFUSED, "info", f"console:{'owner' if proven else 'unproven'}",
                "A code that does not open the console was offered", f"Over {who}: {found.title}", found.hint,
            )  # fmt: skip
            return found
        before = access.cookie_session(cookies)
        if before is not None:
            access.end(before)
        carrier = found.session.carrier.value
        await asyncio.to_thread(self._host.audit.append, "console.opened", actor="operator", carrier=carrier)
        return found

    async def close(self, session: Session, *, actor: str) -> None:
        """The session ends now."""
        self._api.access.end(session)
        await asyncio.to_thread(self._host.audit.append, "console.closed", actor=actor)

    # --- looking -----------------------------------------------------------------------------------------------------

    async def status(self, pack_id: str) -> View:
        """State of one Pack, and what was approved."""
        return views.pack_status(await packs.status(self._host, pack_id))

    async def review(self, pack_id: str, *, update: bool) -> View:
        """Everything that the decision needs, about what lies in the folder or about the staged version."""
        await packs.status(self._host, pack_id)
        if update:
            found = await updates.review(self._host, pack_id)
        else:
            found = await packs.review(self._host, pack_id)
        return {**found.as_dict(), "isolation": views.isolation(self._host.isolation)}

    async def bill(self, pack_id: str, *, update: bool) -> View:
        """The bill of materials of what ``review`` shows."""
        return await packs.bill(self._host, pack_id, update=update)

    async def permissions(self, pack_id: str) -> View:
        """What is granted, and how much of it was used."""
        return await permissions.view(self._host, pack_id)

    async def limits(self, pack_id: str) -> list[View]:
        """Every limit of a Pack: what it is, what is used, how often it was met."""
        return await limits.limits(self._host, pack_id)

    async def interfaces(self) -> list[View]:
        """Every key with its owner, its providers and its contract, by key."""
        return await packs.interfaces(self._host)

    async def interface(self, key: str) -> View:
        """One key, with who needs it. ``NotFoundError``."""
        found = await packs.interface(self._host, key)
        if found is None:
            raise NotFoundError("No such interface", detail=f"nothing is registered under {key}")
        return found

    def data(self, key: str) -> Any:
        """What is registered under a key that is no function, as it is; None for a function or nothing."""
        return data(self._host, key)

    def conceal(self, text: str) -> str:
        """``text`` without any known secret."""
        return self._host.redactions.hide_any(text)

    def edges(self, pack_id: str = "") -> list[View]:
        """Who called the Pack, and whom it called (all, for ``""``): how often, how it ended, how long it took."""
        return edges(self._host, pack_id)

    async def minutes(self, pack_id: str, count: int) -> list[View]:
        """The last minutes of a Pack that were measured, oldest first; none where they can't be read."""
        try:
            return [sample.as_dict() for sample in await metric_history.history(self._host, pack_id, count)]
        except (OSError, sqlite3.Error):  # what keeps them from being written is an issue of its own
            return []

    async def has_previous(self, pack_id: str) -> bool:
        """Whether ``rollback`` has a version to go back to."""
        return await asyncio.to_thread(self._host.approvals.has_previous, pack_id)

    async def privileges(self) -> list[View]:
        """Operations that the host performs for Packs, and for which."""
        return await asyncio.to_thread(self._host.privileges.list)

    async def secrets(self, pack_id: str) -> View:
        """Which secrets were entered and which the Pack asks for; never their values."""
        return await secrets.view(self._host, pack_id)

    def logs(self, pack_id: str, lines: int) -> list[View]:
        """What the Pack printed and logged last."""
        return packs.logs(self._host, pack_id, lines)

    async def audit(self, lines: int, pack_id: str) -> list[View]:
        """The last records, newest first; ``pack_id`` ``""`` for all."""
        found = await asyncio.to_thread(self._host.audit.tail, AUDIT_LINES_MOST if pack_id else lines)
        kept = [record for record in found if not pack_id or record.get("pack_id") == pack_id]
        return kept[-lines:][::-1]

    async def audit_check(self) -> View:
        """Whether the audit trail and the journal are unchanged and complete."""
        return await asyncio.to_thread(evidence.describe, self._host)

    def audit_finding(self) -> str:
        """What the start found wrong with the trail and nobody has acknowledged, or ``""``."""
        return self._host.evidence_fault

    async def events(self, before: str, count: int, *, topic: str, pack_id: str) -> list[View]:
        """Kept events older than the one with the id ``before`` (``""``: the newest), newest first.

        ``topic``: exact, a glob, or ``""`` for all; ``pack_id`` ``""`` for everybody's. ``NotFoundError`` for an id of
        no run of the host that is known.
        """
        source = f"{PACK_SOURCE}{pack_id}" if pack_id else ""
        found = await self._host.history.older(before, count, source=source, topic=topic)
        if found is None:
            raise NotFoundError("No event of this id is known", code="event_unknown", hint="rumi events")
        return [{**msgspec.json.decode(row.shown), "time_s": row.time_s} for row in found]

    async def following(self, after: str, *, topic: str, pack_id: str) -> AsyncGenerator[Followed, None]:
        """Waits: what is published from now on, or after the event of the id ``after``; chosen as in ``events``.

        The first is empty: what happens after its ``last`` (the newest, for an ``after`` that nobody knows) is told by
        those that follow. They hold ``TOLD_AT_ONCE`` at most, so that others have their turn. What is never kept (steps
        of flows) is told only where ``topic`` asks for it.
        """
        source = f"{PACK_SOURCE}{pack_id}" if pack_id else ""
        keeps = self._host.history.keeps

        def wanted(shown: bytes) -> bool:
            named = msgspec.json.decode(shown, type=_Named)
            if source and named.source != source:
                return False
            return matches(topic, named.type) if topic else keeps(named.type)

        async with contextlib.aclosing(self._api.live().news(after)) as found:
            await anext(found)
            newest = f"{self._host.events.run}-{self._host.events.last_number}"
            known = after and await self._host.history.rows(after) is not None
            yield Followed([], after if known else newest)
            async for news in found:
                if news.lost != 0:
                    yield Followed([], "", news.lost)
                for at in range(0, len(news.events), TOLD_AT_ONCE):
                    part = news.events[at : at + TOLD_AT_ONCE]
                    chosen = [seen for seen in part if wanted(seen.shown)]
                    shown = [{**msgspec.json.decode(seen.shown), "time_s": seen.time_s} for seen in chosen]
                    yield Followed(shown, part[-1].id)

    async def issues(self) -> list[View]:
        """What is wrong, newest first."""
        return [issue.as_dict() for issue in reversed(await current_issues(self._host))]

    def fixups(self, language: str) -> dict[str, str]:
        """What the host can mend by itself: title by name."""
        known = self._host.doctor.fixups.values() if self._host.built("doctor") else ()
        return {fixup.name: fixup.title_ja if language == "ja" else fixup.title for fixup in known}

    async def flows(self) -> list[View]:
        """Every flow as it would run now, with what starts it."""
        return await flows_as_shown(self._kernel())

    async def flow(self, flow_id: str) -> View:
        """One flow, why it is so, and its steps as a tree. ``NotFoundError``."""
        return await flow_explained(self._kernel(), flow_id)

    async def flow_difference(self, flow_id: str, modifier: str) -> str:
        """What one modifier makes of a flow."""
        return await self._kernel().difference(flow_id, modifier)

    async def runs(self) -> list[View]:
        """Runs of flows, newest first."""
        return await asyncio.to_thread(self._kernel().runs.listed)

    async def run(self, run_id: str) -> View:
        """One run with its steps so far, the paths of those that are under way, and its output."""
        report = await asyncio.to_thread(self._kernel().runs.get, run_id)
        return {**report.as_dict(), "going": report.going(), "output": plain(report.output)}

    async def news(self, run_id: str, seen: int) -> tuple[View, int, list[View]]:
        """Waits: a run, how many of its steps are over, and those behind the first ``seen`` (the newest of many)."""
        report, steps = await self._kernel().runs.news(run_id, seen)
        return {**report.summary(), "going": report.going()}, report.ended, [step.as_dict() for step in steps]

    # --- deciding ----------------------------------------------------------------------------------------------------

    async def approve(
        self,
        pack_id: str,
        *,
        actor: str,
        digest: str,
        permissions: Sequence[Any],
        isolation: str | None,
    ) -> View:
        """Approve exactly what was shown; ``isolation`` None: whatever is not weaker than approved before."""
        done = await packs.approve(
            self._host, pack_id, digest=digest, permissions=permissions, actor=actor, isolation=isolation
        )  # fmt: skip
        return views.pack_status(done)

    async def approve_update(
        self, pack_id: str, *, actor: str, digest: str, permissions: Sequence[Any], accept_weaker: bool
    ) -> View:
        """Put the staged version that was shown in the old one's place."""
        done = await updates.approve(
            self._host, pack_id, digest=digest, permissions=permissions, actor=actor, accept_weaker=accept_weaker
        )
        return views.pack_status(done)

    async def reject(self, pack_id: str, *, reason: str, actor: str) -> View:
        """Reject, and stop."""
        return views.pack_status(await packs.reject(self._host, pack_id, reason=reason, actor=actor))

    async def reject_update(self, pack_id: str, *, actor: str) -> View:
        """Throw the staged version away."""
        return views.pack_status(await updates.reject(self._host, pack_id, actor=actor))

    async def rollback(self, pack_id: str, *, actor: str) -> View:
        """Return to the version before the last update."""
        return views.pack_status(await updates.rollback(self._host, pack_id, actor=actor))

    async def restore(self, pack_id: str, *, actor: str) -> View:
        """Put the approved bytes back, and start."""
        return views.pack_status(await packs.restore(self._host, pack_id, actor=actor))

    async def reload(self, pack_id: str, *, actor: str) -> View:
        """Run its approved code afresh, in a sandbox beside the one that serves."""
        return views.pack_status(await components.reload(self._host, pack_id, actor=actor))

    async def start(self, pack_id: str) -> View:
        """Start an approved Pack."""
        return views.pack_status(await packs.start(self._host, pack_id))

    async def stop(self, pack_id: str) -> View:
        """Stop a Pack; it stays approved."""
        return views.pack_status(await packs.stop(self._host, pack_id))

    async def scan(self) -> None:
        """Look at the folder of Packs again."""
        await packs.scan(self._host)

    async def grant(self, pack_id: str, choice: Mapping[str, Any], *, actor: str) -> View:
        """Grant one more of what was declared."""
        return await permissions.grant(self._host, pack_id, [choice], actor=actor)

    async def revoke(self, pack_id: str, kind: str, item: str, *, actor: str) -> View:
        """Take a permission away, or one item of it."""
        known = KINDS.get(kind)
        target = {known.required: [item]} if item and known is not None and known.required else {}
        return await permissions.revoke(self._host, pack_id, [{"type": kind, **target}], actor=actor)

    async def revoke_unused(self, pack_id: str, *, actor: str) -> View:
        """Take away whatever was never used."""
        return await permissions.revoke(self._host, pack_id, [], unused=True, actor=actor)

    async def grant_privilege(self, pack_id: str, privilege: str, options: Mapping[str, str], *, actor: str) -> None:
        """Let the host perform an operation for the Pack."""
        await packs.status(self._host, pack_id)
        self._host.require_evidence()
        await asyncio.to_thread(self._host.privileges.grant, pack_id, privilege, actor=actor, options=options)

    async def revoke_privilege(self, pack_id: str, privilege: str, *, actor: str) -> None:
        """Take an operation back."""
        await packs.status(self._host, pack_id)
        await asyncio.to_thread(self._host.privileges.revoke, pack_id, privilege, actor=actor)

    async def put_secret(self, pack_id: str, name: str, value: str, *, actor: str) -> None:
        """Store or replace a value; it is shown nowhere again."""
        await secrets.put(self._host, pack_id, name, value, actor=actor)

    async def remove_secret(self, pack_id: str, name: str, *, actor: str) -> None:
        """Delete a value."""
        await secrets.remove(self._host, pack_id, name, actor=actor)

    def call(
        self, key: str, args: Any, timeout_s: float | None, *, actor: str, route: str
    ) -> AsyncGenerator[tuple[str, Any], None]:
        """Call an interface, as the API's route does; ``route`` is what the trace is named by. See ``answers``."""
        return answers(self._api, key, Invoke(args, timeout_s), actor, route=route)

    async def begin_run(self, flow_id: str, values: Any, *, actor: str) -> View | None:
        """A run that goes on by itself, or None where it waits for another one's end."""
        begun = await self._kernel().begin(flow_id, values=values, actor=actor)
        return None if begun is None else begun.summary()

    async def resume_run(self, run_id: str) -> View | None:
        """Go on with a run that was cut off; as ``begin_run``."""
        begun = await self._kernel().begin_resuming(run_id)
        return None if begun is None else begun.summary()

    def cancel_run(self, run_id: str) -> None:
        """End a run that is under way; its ``finally`` steps run."""
        self._kernel().runs.cancel(run_id)

    async def mend(self, issue_id: str, fixup: str, *, actor: str) -> Mended:
        """Perform what the host suggested for an issue that stands now."""
        return await self._host.doctor.mend(issue_id, fixup, actor=actor)

    def _kernel(self) -> Kernel:
        if self._api.kernel is None:
            raise HostError("Flows are not there yet", code="starting", detail="The host is still starting.")
        return self._api.kernel

    async def acknowledge(self, reason: str, *, actor: str) -> None:
        """Go on although the audit trail was changed, on record."""
        await asyncio.to_thread(evidence.acknowledge, self._host, actor=actor, reason=reason)

"""Use cases about Packs, as the API, the command line and the startup flow call them.

Each reads as: look, decide by the managers, act, tell. Errors are ``RumiError``; a Pack that was approved but can't
start is not an error of the approval: its state, cause and Issue tell.

Invariants:
  * Decisions (approve, reject) are recorded by the approval manager before anything starts or after nothing of it may
    start any more; stopping is bounded.
  * Nothing of a Pack starts except from ``starting.start_one``, which takes the verified copy from the approvals.

Not here: how a Pack starts (``starting``), interface calls (``interfaces``), trust decisions (``approval_manager``).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from backend_core.errors import ConflictError, DeniedError, RequestError, RumiError, quote
from core_runtime.approval_manager import PackStatus
from core_runtime.containers import ContainerState
from core_runtime.diagnostics import Suggestion
from core_runtime.handlers import dependencies, operator_view, removal, starting
from core_runtime.handlers.host import Host
from core_runtime.handlers.interfaces import call, interface, interfaces
from core_runtime.handlers.isolation import expected_isolation
from core_runtime.handlers.table import handler
from core_runtime.rules.approval import State
from core_runtime.rules.decisions import in_development, isolation_words
from core_runtime.rules.flow.values import parse_duration_s
from core_runtime.rules.review import Review
from core_runtime.rules.settings import ON_MODIFIED

__all__ = [
    "approve", "bill", "call", "clean", "fetch", "interface", "interfaces", "list_packs", "logs", "reject", "remove",
    "restore", "scan", "start", "status", "stop",
]  # fmt: skip

APPROVE_WAIT_S = 30.0
MODIFIED = "pack_modified"
KEPT = "kept_running"
KEPT_BANNER = "The approved copy goes on running until it ends; it is not started again from the changed files."
_PACK_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}\Z")
_STARTABLE = frozenset({State.APPROVED, State.RUNNING, State.ERROR})


async def list_packs(host: Host) -> list[PackStatus]:
    """Every known Pack, by id; as of the last scan."""
    return [_told(host, found) for found in await asyncio.to_thread(host.approvals.list)]


async def status(host: Host, pack_id: str) -> PackStatus:
    """One Pack; ``NotFoundError`` when unknown."""
    _check_id(pack_id)
    return _told(host, await asyncio.to_thread(host.approvals.status, pack_id))


async def scan(host: Host, pack_id: str | None = None) -> list[PackStatus]:
    """Read the folders' metadata and compare files with grants; what was changed in place is stopped."""
    if pack_id is not None:
        _check_id(pack_id)
    found = await asyncio.to_thread(host.approvals.scan, pack_id)
    for entry in found:
        await _react(host, entry)
    return [_told(host, entry) for entry in found]


async def review(host: Host, pack_id: str) -> Review:
    """Everything that the decision about a Pack's folder needs."""
    _check_id(pack_id)
    flows = await host.flow_joins()
    aliases = host.aliases.list_all_mappings()
    return await asyncio.to_thread(host.approvals.review, pack_id, flows=flows, aliases=aliases)


async def bill(host: Host, pack_id: str, *, update: bool = False) -> dict[str, Any]:
    """The bill of materials of the Pack's folder, or of its staged version."""
    _check_id(pack_id)
    return await asyncio.to_thread(host.approvals.bill_of_update if update else host.approvals.bill, pack_id)


async def approve(
    host: Host,
    pack_id: str,
    *,
    digest: str | None = None,
    permissions: Sequence[Any] | None = None,
    actor: str = "operator",
    until: float | None = None,
    accept_weaker: bool = False,
    replaces: Sequence[str] = (),
    isolation: str | None = None,
) -> PackStatus:
    """Approve what lies on the disk (or exactly ``digest``), then start it; waits up to ``APPROVE_WAIT_S`` for that.

    ``replaces``: keys of other Packs that it may take over, beside ``permissions``. ``isolation`` is the one that the
    operator was shown (``docker/standard``): agreeing to it is agreeing to no other.
    """
    _check_id(pack_id)
    host.require_evidence()
    weaker = accept_weaker or _agreed(host, isolation)
    async with host.exclusively(pack_id):
        [now] = await asyncio.to_thread(host.approvals.scan, pack_id)
        plain = permissions is None and until is None and not weaker and not replaces
        if not (plain and _stands(now, digest, host.approvals.base_runtime)):
            async with dependencies.fetched(host, pack_id, digest=digest) as wheels:
                await asyncio.to_thread(
                    host.approvals.approve, pack_id, digest=digest, permissions=permissions, replaces=replaces,
                    isolation=expected_isolation(host), actor=actor, until=until, accept_weaker=weaker,
                    target=wheels.target, fetched=wheels.folder,
                )  # fmt: skip
            host.diagnostics.resolve(MODIFIED, pack_id)
            host.permissions.forget(pack_id)
            starting.settle_owners(host)
            await asyncio.to_thread(_keep_own_secrets, host, pack_id, actor)
            await _stop_quietly(host, pack_id, "approved anew")
        if not starting.is_running(host, pack_id):
            await starting.start_and_wait(host, pack_id, APPROVE_WAIT_S)
    await asyncio.to_thread(operator_view.write, host, pack_id)
    return await status(host, pack_id)


async def reject(host: Host, pack_id: str, *, reason: str = "", actor: str = "operator") -> PackStatus:
    """Reject with a reason. The decision is on disk before the sandbox is stopped, so it holds whatever comes."""
    _check_id(pack_id)
    async with host.exclusively(pack_id):
        try:
            await asyncio.to_thread(host.approvals.reject, pack_id, reason=reason, actor=actor)
        finally:  # also where not all of the decision could be written
            await stop_without_grant(host, pack_id, "rejected")
    await asyncio.to_thread(operator_view.write, host, pack_id)
    return await status(host, pack_id)


async def stop_without_grant(host: Host, pack_id: str, reason: str) -> None:
    """What has lost its grant does not run, however the decision that took it came out."""
    if host.approvals.grant(pack_id) is None:
        await starting.stop_one(host, pack_id, reason=reason)
        starting.settle_owners(host)


async def restore(host: Host, pack_id: str, *, actor: str = "operator") -> PackStatus:
    """Put the approved bytes back over a modified folder, and start."""
    _check_id(pack_id)
    host.require_evidence()
    async with host.exclusively(pack_id):
        await asyncio.to_thread(host.approvals.restore, pack_id, actor=actor)
        host.diagnostics.resolve(MODIFIED, pack_id)
        await starting.start_and_wait(host, pack_id, APPROVE_WAIT_S)
    return await status(host, pack_id)


async def remove(host: Host, pack_id: str, *, actor: str = "operator") -> None:
    """Uninstall: stop, then grant, secrets, privileges, folder, copy and what the host wrote about it."""
    _check_id(pack_id)
    async with host.exclusively(pack_id):
        await asyncio.to_thread(host.approvals.status, pack_id)
        await starting.stop_one(host, pack_id, reason="removed")
        await asyncio.to_thread(
            removal.remove, host.approvals, host.secrets, host.privileges, pack_id, actor=actor
        )
        await asyncio.to_thread(operator_view.remove, host, pack_id)
        starting.forget(host, pack_id)
        host.permissions.forget(pack_id, uses=True)
        starting.settle_owners(host)


async def clean(host: Host, pack_id: str, *, dry_run: bool, actor: str = "operator") -> dict[str, Any]:
    """Remove the files that the journal says were made for the Pack. A running one would go on making them."""
    _check_id(pack_id)
    async with host.exclusively(pack_id):
        if not dry_run and starting.is_running(host, pack_id):
            raise ConflictError(
                f"The Pack {pack_id} runs",
                code="pack_running",
                detail="What it made is removed only while it does not run.",
                hint=f"Stop it first: rumi pack stop {pack_id}",
            )
        report = await asyncio.to_thread(host.journal.uninstall, pack_id, dry_run=dry_run)
        if not dry_run:
            deleted = len(report["deleted"])
            await asyncio.to_thread(
                host.audit.append, "pack.files_removed", pack_id=pack_id, actor=actor, deleted=deleted
            )
    return report


async def fetch(host: Host, pack_id: str, *, actor: str = "operator") -> PackStatus:
    """Fetch and unpack the Python packages of what is approved, and start it if it does not run."""
    _check_id(pack_id)
    host.require_evidence()
    async with host.exclusively(pack_id):
        await dependencies.renew(host, pack_id, actor=actor)
        if not starting.is_running(host, pack_id):
            await starting.start_and_wait(host, pack_id, APPROVE_WAIT_S)
    return await status(host, pack_id)


async def start(host: Host, pack_id: str) -> PackStatus:
    """Start an approved Pack; ``DeniedError`` for any other. One that runs stays as it is."""
    _check_id(pack_id)
    async with host.exclusively(pack_id):
        [now] = await asyncio.to_thread(host.approvals.scan, pack_id)
        await _react(host, now)
        if now.state not in _STARTABLE:
            raise DeniedError(
                f"The Pack {pack_id} is not approved",
                code="not_approved",
                detail=f"Its state is {now.state.value}{f' ({now.cause})' if now.cause else ''}.",
                hint=f"Review it, then: rumi pack approve {pack_id}",
            )
        if not starting.is_running(host, pack_id):
            await starting.start_one(host, pack_id)
    return await status(host, pack_id)


async def stop(host: Host, pack_id: str) -> PackStatus:
    """Stop a Pack's sandbox. It stays approved; one that does not run stays as it is."""
    _check_id(pack_id)
    async with host.exclusively(pack_id):
        await asyncio.to_thread(host.approvals.status, pack_id)
        await starting.stop_one(host, pack_id, reason="stopped by the operator")
    return await status(host, pack_id)


def logs(host: Host, pack_id: str, lines: int) -> list[dict[str, Any]]:
    """The newest lines of what the Pack printed and logged, oldest first."""
    return [line.as_dict() for line in host.log.tail(pack_id, lines)]


# -- steps of the startup flow ----------------------------------------------------------------------------------------


@handler("packs.scan")
async def scan_step(host: Host, args: Mapping[str, Any]) -> dict[str, int]:
    """Scan everything; ``on_modified: keep`` lets an already running verified copy go on until it ends.

    The setting of the same name (``RUMI_ON_MODIFIED``) goes before what the flow says.
    """
    chosen = host.settings.on_modified or str(args.get("on_modified", "stop"))
    if chosen not in ON_MODIFIED:
        raise RequestError(
            "Unknown choice for modified Packs",
            code="on_modified_unknown",
            detail=f"on_modified is one of {', '.join(ON_MODIFIED)}; got {quote(chosen, 60)}.",
            hint="Correct the step packs.scan of the startup flow.",
        )
    host.policy.keep_modified = host.approvals.keep_modified = chosen == "keep"
    found = await scan(host)
    counts: dict[str, int] = {}
    for entry in found:
        counts[entry.state.value] = counts.get(entry.state.value, 0) + 1
    return counts


@handler("packs.start_approved")
async def start_step(host: Host, args: Mapping[str, Any]) -> dict[str, Any]:
    """Start the sandboxes of approved Packs, providers first, some at a time."""
    host.policy.parallel = int(args.get("parallel", 4))
    host.policy.start_timeout_s = parse_duration_s(args.get("each_timeout", "60s"))
    return await starting.start_approved(host, await asyncio.to_thread(host.approvals.list))


# -- inside -----------------------------------------------------------------------------------------------------------


def is_pack_id(name: str) -> bool:
    """Whether a folder of that name can be a Pack's."""
    return _PACK_ID.match(name) is not None


def _check_id(pack_id: str) -> None:
    if not is_pack_id(pack_id):
        raise RequestError(
            "That is not a Pack id",
            code="pack_id_invalid",
            detail=f"Expected a lower-case letter, then up to 63 of a-z, 0-9, _ and -; got {quote(pack_id, 80)}.",
            hint="List the ids with: rumi pack list",
        )


def _agreed(host: Host, isolation: str | None) -> bool:
    """Whether the operator agreed to what there is by naming it. ``ConflictError`` when it is another one."""
    now = isolation_words(expected_isolation(host))
    if isolation in {None, now}:
        return isolation is not None
    raise ConflictError(
        "The isolation is not the one that was shown",
        code="isolation_changed",
        detail=f"Agreed to: {quote(isolation, 80)}. This machine offers now: {now}.",
        hint="Review the Pack again, then approve with the isolation shown there.",
        fields={"available": now},
    )


def _keep_own_secrets(host: Host, pack_id: str, actor: str) -> None:
    """Another identity under the id was approved: the secrets of the one before are not for it."""
    grant = host.approvals.grant(pack_id)
    if grant is not None:
        host.secrets.drop_others(pack_id, grant.pack_identity, actor=actor)


def _told(host: Host, found: PackStatus) -> PackStatus:
    """The status with what only the running host knows: why an approved Pack does not run, or a modified one does."""
    if found.state is State.MODIFIED and _is_kept(host, found.pack_id):
        return replace(found, cause=KEPT, detail=KEPT_BANNER)
    if found.state is not State.APPROVED or found.cause:
        return found
    if found.pack_id in host.starting:
        return replace(found, cause="starting")
    if host.built("bus") and found.pack_id in host.bus.sleep:
        return replace(found, cause="asleep")
    if found.pack_id in host.held_off:
        return replace(found, cause="held_off", detail="A bisect looks for what breaks a call; it starts again after.")
    waiting = host.waiting.get(found.pack_id)
    if waiting:
        return replace(found, cause=waiting.reason)
    failure = host.failures.get(found.pack_id)
    return replace(found, cause=failure.cause, detail=failure.detail) if failure else found


def _stands(now: PackStatus, digest: str | None, base_runtime: str) -> bool:
    """Whether exactly these files are approved already, on what sandboxes run on now: asking again is no new decision,
    only a wish that it runs.
    """
    approved = now.approval.get("digest")
    if base_runtime and now.approval.get("base_runtime") not in {"", base_runtime}:
        return False
    if in_development(str(now.approval.get("actor", ""))):
        return False  # the same files, but nobody has decided about just them yet
    return now.state in {State.APPROVED, State.RUNNING} and digest in {None, approved, now.digest_on_disk}


async def _react(host: Host, found: PackStatus) -> None:
    """Stop what was changed in place; forget the issue once that is no longer so."""
    if found.state is not State.MODIFIED:
        host.diagnostics.resolve(MODIFIED, found.pack_id)
        return
    running = starting.is_running(host, found.pack_id)
    keep = _is_kept(host, found.pack_id)
    if keep:
        host.sandboxes.let_end(found.pack_id, "Its files were changed after its approval, so it is not started again.")
    elif running:
        await _stop_quietly(host, found.pack_id, "its files were changed")
    paths = list(found.changed_paths)
    host.diagnostics.issue(
        MODIFIED,
        "warn",
        found.pack_id,
        f"Files of the Pack {found.pack_id} were changed after its approval",
        f"Changed: {', '.join(quote(path, 120) for path in paths[:10])}{' …' if len(paths) > 10 else ''}. "
        + (KEPT_BANNER if keep else "It does not run."),
        f"Look at the difference, then: rumi pack approve {found.pack_id}, or: rumi pack restore {found.pack_id}",
        {"paths": paths[:200], "kept_running": keep},
        suggestions=(
            Suggestion(
                "Put the approved files back",
                f"rumi pack restore {found.pack_id}",
                "restore_pack",
                {"pack_id": found.pack_id},
            ),
        ),
    )


def _is_kept(host: Host, pack_id: str) -> bool:
    """Whether an approved copy serves now and may go on; one that is starting or coming back may not."""
    info = host.orchestrator.get(pack_id) if host.orchestrator is not None else None
    return host.policy.keep_modified and info is not None and info.state is ContainerState.RUNNING


async def _stop_quietly(host: Host, pack_id: str, reason: str) -> None:
    """Stop; a sandbox that can't be stopped is an issue here, since the caller's decision stands all the same."""
    try:
        await starting.stop_one(host, pack_id, reason=reason)
    except RumiError as error:
        host.note_error(pack_id, error)

"""Use cases about updates: bring a new version in, look at it, put it in the old one's place, go back.

A new version is tried beside the old one, which goes on serving, and takes over when it works (``takeover``). Where
that can't be, it is tried in the old one's place: stopped, started, and put back if it fails; who calls the Pack
meanwhile waits instead of failing.

Invariants:
  * What can be refused is refused before anything starts or stops.
  * The new version counts as an update only after its sandbox said HELLO and none of its components failed. Otherwise
    the old one serves on, or again, code and data.

Not here: decisions and files (``approval_manager``), how a Pack starts (``starting``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from backend_core.errors import PackError, RumiError, SandboxUnavailable
from core_runtime.approval_manager import PackStatus
from core_runtime.component_lifecycle import ComponentState
from core_runtime.drivers import git_source
from core_runtime.drivers.dialer import this_machine
from core_runtime.handlers import dependencies, operator_view, packs, starting, takeover
from core_runtime.handlers.host import Host
from core_runtime.handlers.isolation import DOCKER_TITLE, expected_isolation, no_isolation_issue
from core_runtime.handlers.takeover import Verdict
from core_runtime.rules.oci import Reference
from core_runtime.rules.review import Review
from core_runtime.rules.settings import DEFAULT_API_PORT, DEFAULT_WEB_PORT
from core_runtime.rules.sources import GitSource

MARGIN_S = 10.0
"""Beyond the start's own limit, so that a start that came too late has been taken back when it is judged."""
OPERATOR = "operator"


async def add(host: Host, path: str, *, actor: str = OPERATOR, publisher: str = "") -> PackStatus:
    """Copy a folder or an archive in: a new Pack, or a staged version of an approved one, which goes on as it is.

    ``publisher``, here and below: the key that it must be signed with, ``""`` where the operator demands none.
    """
    host.require_evidence()
    return await asyncio.to_thread(host.approvals.add, Path(path), actor=actor, publisher=publisher)


async def add_from_git(host: Host, source: GitSource, *, actor: str = OPERATOR, publisher: str = "") -> PackStatus:
    """Fetch one commit of a repository and bring it in like a folder; which one it was is on record."""
    host.require_evidence()
    return await asyncio.to_thread(_add_from_git, host, source, actor, publisher)


def _add_from_git(host: Host, source: GitSource, actor: str, publisher: str) -> PackStatus:
    with host.approvals.fetching() as folder:
        fetched = git_source.fetch(source, folder)
        found = host.approvals.add(fetched.archive, actor=actor, fetched=True, publisher=publisher)
    host.audit.append(
        "pack.fetched", pack_id=found.pack_id, actor=actor, source=source.shown, commit=fetched.commit
    )
    return found


async def add_from_registry(
    host: Host, reference: Reference, *, actor: str = OPERATOR, publisher: str = ""
) -> tuple[PackStatus, str]:
    """Fetch what a registry has there and bring it in like a folder. Second: the reference that names just that."""
    host.require_evidence()
    return await asyncio.to_thread(_add_from_registry, host, reference, actor, publisher)


def _add_from_registry(host: Host, reference: Reference, actor: str, publisher: str) -> tuple[PackStatus, str]:
    from core_runtime.drivers import oci_source  # noqa: PLC0415  with h11, which no start needs

    ports = {DEFAULT_API_PORT, DEFAULT_WEB_PORT, host.settings.api_port, host.settings.web_port}
    machine = this_machine(ports)  # a registry is never the host itself
    with host.approvals.fetching() as folder:
        fetched = oci_source.fetch(reference, folder, machine)
        found = host.approvals.add(fetched.archive, actor=actor, fetched=True, publisher=publisher)
    host.audit.append(
        "pack.fetched", pack_id=found.pack_id, actor=actor, source=reference.shown, manifest=fetched.manifest,
        layer=fetched.layer, as_user=fetched.as_user,
    )  # fmt: skip
    return found, reference.pinned(fetched.manifest)


async def review(host: Host, pack_id: str) -> Review:
    """What the decision about the staged version needs."""
    flows = await host.flow_joins()
    aliases = host.aliases.list_all_mappings()
    return await asyncio.to_thread(partial(host.approvals.review_update, pack_id, flows=flows, aliases=aliases))


async def reject(host: Host, pack_id: str, *, actor: str = OPERATOR) -> PackStatus:
    """Throw the staged version away."""
    async with host.exclusively(pack_id):
        await asyncio.to_thread(host.approvals.reject_update, pack_id, actor=actor)
    return await packs.status(host, pack_id)


async def approve(
    host: Host,
    pack_id: str,
    *,
    digest: str | None = None,
    permissions: Sequence[Any] | None = None,
    replaces: Sequence[str] = (),
    actor: str = OPERATOR,
    until: float | None = None,
    accept_weaker: bool = False,
) -> PackStatus:
    """Put the staged version in the old one's place. ``replaces``: keys of other Packs that it may take over.

    Raises:
        PackError: ``update_failed``: it did not start, or a component failed; the old version serves again.
    """
    host.require_evidence()
    options: dict[str, Any] = {
        "digest": digest, "permissions": permissions, "replaces": replaces, "isolation": expected_isolation(host),
        "actor": actor, "until": until, "accept_weaker": accept_weaker,
    }  # fmt: skip
    async with host.exclusively(pack_id), dependencies.fetched(host, pack_id, digest=digest, update=True) as wheels:
        options |= {"target": wheels.target, "fetched": wheels.folder}
        await asyncio.to_thread(partial(host.approvals.check_update, pack_id, **options))
        _need_isolation(host)
        if wheels.error is not None:
            raise wheels.error  # what is approved goes on; the new version stays staged
        runs = starting.is_running(host, pack_id)
        served = runs or pack_id in host.bus.sleep
        if not (runs and await _beside(host, pack_id, options)):
            with host.bus.holding(pack_id):
                await _in_its_place(host, pack_id, options, served)
    starting.settle_owners(host)
    await asyncio.to_thread(operator_view.write, host, pack_id)
    return await packs.status(host, pack_id)


async def rollback(host: Host, pack_id: str, *, actor: str = OPERATOR) -> PackStatus:
    """Return to the version approved before the last update, code and the Pack's data together.

    By stop and start, since the data has to be still; who calls it meanwhile waits.
    """
    host.require_evidence()
    async with host.exclusively(pack_id):
        await asyncio.to_thread(host.approvals.check_rollback, pack_id)
        served = starting.is_running(host, pack_id) or pack_id in host.bus.sleep
        with host.bus.holding(pack_id):
            await starting.stop_one(host, pack_id, reason="the version before takes its place again")
            try:
                await asyncio.to_thread(host.approvals.rollback, pack_id, actor=actor)
            finally:
                _forget_rights(host, pack_id)
                await _serve_again(host, pack_id, served)
    starting.settle_owners(host)
    await asyncio.to_thread(operator_view.write, host, pack_id)
    return await packs.status(host, pack_id)


# -- inside -----------------------------------------------------------------------------------------------------------


def _need_isolation(host: Host) -> None:
    if host.isolation is None:
        no_isolation_issue(host)
        raise SandboxUnavailable(
            DOCKER_TITLE,
            detail="A new version is tried in its sandbox before it takes the old one's place.",
            hint="See what each driver says with: rumi doctor",
        )


async def _beside(host: Host, pack_id: str, options: Mapping[str, Any]) -> bool:
    """Try it while the old one serves; False when it has to be tried in the old one's place."""
    copy = await asyncio.to_thread(partial(host.approvals.open_trial, pack_id, **options))
    begin = partial(host.approvals.begin_update, pack_id, **{**options, "digest": copy.digest})
    try:
        outcome = await takeover.beside(host, copy, copy.grant, begin)
    finally:
        await asyncio.to_thread(host.approvals.close_trial, pack_id)
    if outcome.verdict is Verdict.TOOK_OVER:
        await starting.mark(host, pack_id, "started", "")
        starting.tell_addons(host, copy)
        cause = await _finish(host, pack_id)
        if cause:
            with host.bus.holding(pack_id):
                await _return(host, pack_id, cause, served=True)
        return True
    if outcome.verdict is Verdict.BEGUN:
        try:
            await asyncio.to_thread(partial(host.approvals.return_update, pack_id, cause=outcome.cause))
        finally:
            outcome.older.serve()
            _forget_rights(host, pack_id)
        await starting.mark(host, pack_id, "started", "")
    if outcome.verdict is Verdict.STOP_FIRST:
        host.diagnostics.record(
            phase="containers",
            status="success",
            step_id="update_in_place",
            target={"kind": "pack", "id": pack_id},
            meta={"why": outcome.cause[:500]},
        )
        return False
    raise _failed(pack_id, outcome.cause)


async def _in_its_place(host: Host, pack_id: str, options: Mapping[str, Any], served: bool) -> None:  # noqa: FBT001
    """Stop the old one, then try the new one in its place."""
    await starting.stop_one(host, pack_id, reason="a new version takes its place")
    try:
        await asyncio.to_thread(partial(host.approvals.begin_update, pack_id, **options))
    except RumiError as error:
        if await asyncio.to_thread(host.approvals.on_trial, pack_id):
            await _return(host, pack_id, str(error), served)
        await _serve_again(host, pack_id, served)
        raise
    _forget_rights(host, pack_id)
    cause = await _try(host, pack_id, served) or await _finish(host, pack_id)
    if cause:
        await _return(host, pack_id, cause, served)


async def _finish(host: Host, pack_id: str) -> str:
    """The trial is over, it is the approved version; else why that could not be written."""
    try:
        await asyncio.to_thread(host.approvals.finish_update, pack_id)
    except RumiError as error:
        return str(error)
    return ""


async def _try(host: Host, pack_id: str, served: bool) -> str:  # noqa: FBT001 - read at its three calls
    """Start what was approved on trial; ``""`` when it serves, else why it does not count."""
    if not await starting.start_and_wait(host, pack_id, host.policy.start_timeout_s + MARGIN_S):
        failure = host.failures.get(pack_id)
        if failure is not None:
            return f"It did not start: {failure.detail}"
        waiting = host.waiting.get(pack_id)
        if waiting is not None and not served:
            return ""  # it waits as the version before did
        return f"Nothing of it can start: {waiting.reason}" if waiting else "It did not start in time."
    off = host.active.disabled_components
    failed = [
        record
        for record in host.lifecycle.records(pack_id)
        if record.state is ComponentState.DISABLED and record.full_id not in off
    ]
    return f"Its component {failed[0].full_id} failed: {failed[0].cause}" if failed else ""


async def _return(host: Host, pack_id: str, cause: str, served: bool) -> None:  # noqa: FBT001
    """Take the trial back; always raises."""
    await starting.stop_one(host, pack_id, reason="the new version failed its trial")
    await asyncio.to_thread(partial(host.approvals.return_update, pack_id, cause=cause))
    _forget_rights(host, pack_id)
    takeover.forget_components(host, pack_id)
    host.diagnostics.resolve(starting.START_FAILED, pack_id)
    await _serve_again(host, pack_id, served)
    raise _failed(pack_id, cause)


def _failed(pack_id: str, cause: str) -> PackError:
    return PackError(
        f"The new version of {pack_id} does not work; the old one serves",
        code="update_failed",
        detail=cause,
        hint=f"It stays staged. Read its log (rumi logs {pack_id}), then: rumi pack reject-update {pack_id}",
        fields={"pack_id": pack_id},
    )


async def _serve_again(host: Host, pack_id: str, served: bool) -> None:  # noqa: FBT001
    if served:
        await starting.start_and_wait(host, pack_id, host.policy.start_timeout_s + MARGIN_S)


def _forget_rights(host: Host, pack_id: str) -> None:
    """Rights of the version before are not remembered for this one."""
    host.permissions.forget(pack_id)
    host.userdata.forget(pack_id)
    host.show_rights(pack_id)

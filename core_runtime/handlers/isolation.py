"""Steps "is an engine available" and "container orchestrator": what isolates Packs on this machine.

Invariants:
  * Without a driver that passes its probe nothing of any Pack starts; that is an Issue with what to do, not an end.
  * What an earlier run of this installation left behind is removed before the first start.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from backend_core.ecosystem.mounts import load_mounts
from backend_core.errors import AuthorError, HostError, RumiError, quote
from backend_core.files import private_folder, read_bounded, write_atomic
from core_runtime.approval_manager import VerifiedCopy
from core_runtime.component_lifecycle import ComponentLifecycle
from core_runtime.container_orchestrator import ContainerOrchestrator
from core_runtime.containers import ContainerEvent, LaunchRequest
from core_runtime.diagnostics import Suggestion
from core_runtime.drivers.bubblewrap import BubblewrapDriver
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.drivers.uids import Uids
from core_runtime.handlers import operator_view
from core_runtime.handlers.host import Host
from core_runtime.handlers.rights import SessionRights
from core_runtime.handlers.table import handler
from core_runtime.rules.contracts import Terms
from core_runtime.rules.egress import proxy_settings
from core_runtime.rules.limits_seen import LIMITS
from core_runtime.rules.permissions import resources_of
from core_runtime.rules.sandbox import (
    PACK_MOUNT,
    PACKAGES_MOUNT,
    DriverKind,
    Isolation,
    Level,
    MachineLimits,
    limits_from_grant,
)
from core_runtime.rules.wheels import Target, target_of

DOCKER_REQUIRED = "docker_required"
DOCKER_TITLE = "Docker is required but not available"
PACK_GAVE_UP = "pack_gave_up"
ISOLATION_LOST = "isolation_lost"


@handler("isolation.probe")
async def probe_step(host: Host, _args: Mapping[str, Any]) -> dict[str, Any]:
    """Probe the isolation drivers that the operator admits and choose the best."""
    settings = host.settings
    installation = await asyncio.to_thread(_installation_id, settings.permissions_dir)
    state_dir = settings.bus_dir
    docker = DockerDriver(installation, state_dir, runtime=settings.docker_runtime, transport=settings.docker_transport)
    orchestrator = ContainerOrchestrator(
        [docker, BubblewrapDriver(installation, state_dir)],
        host.bus,
        installation_id=installation,
        state_dir=state_dir,
        runtime_dir=settings.user_data / "runtime",
        uids=Uids(settings.permissions_dir / ".uids.json"),
        on_event=lambda event: _container_event(host, event),
        preference=settings.isolation,
        report=host.diagnostics.mishap,
    )
    host.isolation = await orchestrator.choose()
    host.prepared_orchestrator = orchestrator
    if host.isolation is None:
        no_isolation_issue(host)
        return {"driver": None}
    host.diagnostics.resolve(DOCKER_REQUIRED, "isolation")
    return {"driver": host.isolation.driver.value, "level": host.isolation.level.name.lower()}


@handler("containers.open")
async def open_step(host: Host, _args: Mapping[str, Any]) -> dict[str, Any]:
    """Put the orchestrator and the component lifecycle in place; remove what an earlier run left."""
    orchestrator = host.prepared_orchestrator
    if orchestrator is None:
        raise HostError("No orchestrator was prepared", code="starting", detail="The engine check did not complete.")
    mounts = await asyncio.to_thread(load_mounts, host.settings.user_data / "mounts.json", host.settings.home)
    prefixes = mounts.prefixes(host.settings.user_data)
    host.lifecycle = ComponentLifecycle(
        host.registry,
        host.diagnostics,
        withdraw=lambda pack_id, keys: _withdraw(host, pack_id, keys),
        disabled=lambda: host.active.disabled_components,
        mounts=lambda: prefixes,
    )
    removed = await orchestrator.remove_leftovers()
    host.orchestrator = orchestrator
    return {"removed": removed}


def expected_isolation(host: Host) -> Isolation:
    """What a grant made now binds: the isolation of this machine, else the least that a start will ask for."""
    if host.isolation is not None:
        return host.isolation
    kind = DriverKind.DOCKER if host.settings.isolation == "docker" else DriverKind.EMBEDDED
    return Isolation(kind, Level.STANDARD, source="required", findings=("no isolation was available at approval",))


async def sandbox_target(host: Host) -> Target | None:
    """The Python for which a Pack's packages are chosen; None where no sandbox can run, or for an unusual Python."""
    orchestrator = host.orchestrator or host.prepared_orchestrator
    try:
        python = await orchestrator.python() if orchestrator is not None else None
    except HostError:
        return None  # an engine that went away: the start itself will say so
    return target_of(python.version, python.micro, python.extension_suffix, python.libc) if python else None


async def base_runtime(host: Host) -> str:
    """What runs in every sandbox beside its Pack: the base image's id, else the Python with its C library."""
    orchestrator = host.orchestrator or host.prepared_orchestrator
    if orchestrator is None or host.isolation is None:
        return ""
    kind = host.isolation.driver
    base = next((status.base for status in host.statuses if status.kind is kind), "")
    if base:
        return base
    try:
        python = await orchestrator.python()
    except HostError:
        return ""  # an engine that went away: the start itself will say so
    version = ".".join(map(str, (*python.version, python.micro))) if python else ""
    return f"python-{version} {python.libc}".strip() if python else ""


def launch_request(host: Host, copy: VerifiedCopy) -> LaunchRequest:
    """Everything of a grant that a sandbox needs. Rights are asked anew at each use, so a revocation acts at once."""
    import psutil  # noqa: PLC0415  a tenth of what a start imports, and it needs none of it

    machine = MachineLimits(psutil.virtual_memory().total, os.cpu_count() or 1)
    try:
        limits = limits_from_grant(resources_of(copy.grant, now=host.approvals.latest.now()), machine)
    except ValueError as error:
        raise AuthorError(
            f"The granted resources of {copy.pack_id} can't be used",
            code="resources_invalid",
            detail=quote(str(error)),
            hint="Correct the resources entry of permissions.json, then approve again.",
        ) from error
    return LaunchRequest(
        pack_id=copy.pack_id,
        path=copy.path,
        digest=copy.effective_digest,
        rights=SessionRights(host, copy.pack_id),
        granted=copy.grant.isolation,
        limits=limits,
        packages=copy.packages,
        settings={**proxy_settings(copy.metadata), **_paths(copy)},
        conceal=partial(host.redactions.hide, copy.pack_id),
        terms=Terms.of(copy.metadata),
    )


def tell_limit(host: Host, pack_id: str, limit: str, detail: str) -> None:
    """A Pack met one of its limits: an Issue that says which, when (its times) and what to do."""
    told = LIMITS[limit]
    host.diagnostics.issue(
        f"limit_{limit}",
        "warn",
        pack_id,
        f"The Pack {pack_id} met its limit of {told.what}",
        detail,
        told.hint.format(pack_id=pack_id),
        {"limit": limit},
    )


def no_isolation_issue(host: Host) -> None:
    """Nothing of any Pack runs on this machine: say what each driver answered and what to do."""
    hints = [status.hint for status in host.statuses if status.hint]
    host.diagnostics.issue(
        DOCKER_REQUIRED,
        "error",
        "isolation",
        DOCKER_TITLE,
        "; ".join(f"{status.kind.value}: {status.reason or 'not available'}" for status in host.statuses)
        or "The engine check did not complete.",
        " Or: ".join(hints) or "Start Docker or install bubblewrap, then start Rumi again.",
        {"drivers": {status.kind.value: status.reason for status in host.statuses}},
        suggestions=(Suggestion("Look for an isolation again", fixup="probe_isolation"),),
    )


# -- inside -----------------------------------------------------------------------------------------------------------


def _paths(copy: VerifiedCopy) -> dict[str, Any]:
    """Where things lie inside, for a Pack with Python packages; without any the bus tells the usual places."""
    return {"paths": {"pack": PACK_MOUNT, "packages": PACKAGES_MOUNT}} if copy.packages else {}


def _installation_id(folder: Path) -> str:
    """A random name of this installation, made once: what labels everything that it starts."""
    path = private_folder(folder) / ".installation"
    try:
        found = read_bounded(path, 64).decode("ascii", "replace").strip()
    except FileNotFoundError:
        found = ""
    if len(found) == 16 and found.isalnum():
        return found
    fresh = secrets.token_hex(8)
    write_atomic(path, fresh.encode() + b"\n")
    return fresh


def _withdraw(host: Host, pack_id: str, keys: Any) -> None:
    """Take back what a failed component registered."""
    for key in keys:
        slot = host.registry.slot(key)
        if slot is not None:
            host.registry.remove({entry.number for entry in slot.entries if entry.pack == pack_id}, key)


def _container_event(host: Host, event: ContainerEvent) -> None:
    """What happens to containers, as diagnostics and events; a Pack that is given up changes its state."""
    failed = event.kind in {"engine_gone", "crashed", "gave_up", "weaker", "degraded", "unhealthy", "limited"}
    host.diagnostics.record(
        phase="containers",
        status="failed" if failed else "success",
        step_id=event.kind,
        target={"kind": "pack", "id": event.pack_id},
        error={"type": event.kind, "message": event.detail} if failed else None,
        meta={"generation": event.generation, "detail": event.detail},
    )
    host.events.publish(
        f"container.{event.kind}",
        {"pack_id": event.pack_id, "generation": event.generation, "detail": event.detail, "at": event.at},
    )
    if event.kind in {"engine_gone", "engine_back"} and host.built("doctor") and not host.closing:
        host.in_background(host.doctor.look_again(ISOLATION_LOST), "look at the isolation")
    if event.kind == "limited":
        tell_limit(host, event.pack_id, event.cause, event.detail)
    if event.kind == "started" and not host.closing and _is_restarted(host, event.pack_id):
        view = asyncio.to_thread(operator_view.write, host, event.pack_id)
        host.in_background(view, f"operator view of {event.pack_id}")
    if event.kind in {"gave_up", "weaker"} and not host.closing:
        host.in_background(_gave_up(host, event), f"end of {event.pack_id}")


def _is_restarted(host: Host, pack_id: str) -> bool:
    """Whether its sandbox ended by itself and another one serves: nobody that started it comes to show that."""
    found = host.orchestrator.get(pack_id) if host.orchestrator is not None else None
    return found is not None and found.restarts > 0


async def _gave_up(host: Host, event: ContainerEvent) -> None:
    host.lifecycle.detach(event.pack_id)
    host.diagnostics.issue(
        PACK_GAVE_UP,
        "error",
        event.pack_id,
        f"The Pack {event.pack_id} could not be kept running",
        event.detail,
        f"Read its log (rumi logs {event.pack_id}); then start it again (rumi container start {event.pack_id}), "
        f"or approve a corrected version (rumi pack approve {event.pack_id}).",
        {"generation": event.generation, "kind": event.kind},
    )
    try:
        await asyncio.to_thread(host.approvals.mark, event.pack_id, "gave_up", event.kind)
    except RumiError as error:
        host.note_error(event.pack_id, error)

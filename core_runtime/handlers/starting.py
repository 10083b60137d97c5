"""From "approved" to "a generation serves", and back: the only code that starts something of a Pack.

Invariants:
  * What is started is the verified copy that the approval manager hands out, under the isolation of this machine.
  * A Pack of which no component could start, or that depends on a Pack that does not serve, waits without a sandbox,
    and starts by itself when what it waits for appears.
  * One Pack's failing start is an Issue of that Pack; at startup it delays nobody beyond its own place in the queue.

Not here: decisions of the operator (``packs``), the order (``rules.resolve``), restarts (``container_orchestrator``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from backend_core.ecosystem.addon_manager import Outcome
from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import HostError, RumiError, SandboxUnavailable, quote
from core_runtime.approval_manager import PackStatus, VerifiedCopy
from core_runtime.bus.sessions import Session
from core_runtime.component_lifecycle import ComponentState
from core_runtime.containers import ContainerState
from core_runtime.diagnostics import Suggestion, fail_soft
from core_runtime.handlers import operator_view, owners
from core_runtime.handlers.host import Failure, Host, Waiting
from core_runtime.handlers.isolation import DOCKER_TITLE, launch_request, no_isolation_issue, sandbox_target
from core_runtime.rules.approval import State
from core_runtime.rules.component_work import pack_key, pack_of, units_of
from core_runtime.rules.next_step import next_step
from core_runtime.rules.resolve import NOTHING, Blocked, Unit, resolve

START_FAILED = "pack_start_failed"
RUNTIME_CHANGED = "runtime_changed"
ADDONS_IDLE = "addons_not_applied"
_IDLE = frozenset({Outcome.REFUSED, Outcome.CONFLICT, Outcome.FAILED})
DECIDED = "pack.decided"
"""Published by the host after each decision about a Pack, once it is in force."""


async def start_approved(host: Host, statuses: Sequence[PackStatus]) -> dict[str, Any]:
    """Start every approved Pack, providers first, ``policy.parallel`` at a time; what failed and what waits."""
    outcome = await _start_approved(host, statuses)
    idle = sorted({found.pack_id for found in statuses}.difference(outcome["started"]))
    host.in_background(asyncio.to_thread(operator_view.refresh, host, idle), "operator views of what does not run")
    return outcome


async def _start_approved(host: Host, statuses: Sequence[PackStatus]) -> dict[str, Any]:
    approved = {found.pack_id: found.metadata for found in statuses if found.state is State.APPROVED and found.metadata}
    if host.isolation is None:
        no_isolation_issue(host)
        return {"started": [], "waiting": [], "failed": sorted(approved)}
    owners.settle(host)
    order, blocked = _order(host, approved, statuses)
    for pack_id, reasons in blocked.items():
        host.waiting[pack_id] = _waiting(host, units_of(approved[pack_id]), reasons[0])
    places = asyncio.Semaphore(max(1, host.policy.parallel))
    starts: dict[str, asyncio.Task[bool]] = {}

    async def start(pack_id: str) -> bool:
        before = {starts[name] for name in approved[pack_id].dependencies if name in starts}
        if before:
            await asyncio.wait(before)
        async with places, host.exclusively(pack_id):
            return await attempt(host, pack_id, host.policy.start_timeout_s, ordered=True)

    for pack_id in order:  # what it depends on has a task already: the order has no circle
        starts[pack_id] = asyncio.create_task(start(pack_id), name=f"start of {pack_id}")
    started = await asyncio.gather(*starts.values())
    failed = [pack_id for pack_id, done in zip(order, started, strict=True) if not done and pack_id in host.failures]
    return {
        "started": [pack_id for pack_id, done in zip(order, started, strict=True) if done],
        "waiting": sorted(host.waiting),
        "failed": failed,
    }


async def start_and_wait(host: Host, pack_id: str, wait_s: float) -> bool:
    """Start; after ``wait_s`` it goes on in the background. False when it failed or waits, with the reason kept."""
    if host.isolation is None:
        no_isolation_issue(host)
        host.failures[pack_id] = Failure(DOCKER_TITLE, "No isolation driver passed its probe on this machine.")
        return False
    task = host.in_background(attempt(host, pack_id, host.policy.start_timeout_s), f"start of {pack_id}")
    done, _ = await asyncio.wait({task}, timeout=wait_s)
    return bool(done) and not task.cancelled() and task.exception() is None and task.result()


async def attempt(host: Host, pack_id: str, timeout_s: float, *, ordered: bool = False) -> bool:
    """``start_one`` with its failure as an Issue instead of an exception."""
    done = False
    with fail_soft(host.diagnostics, pack_id, "start", quiet=True) as outcome:
        async with asyncio.timeout(timeout_s):
            done = await start_one(host, pack_id, ordered=ordered)
    if isinstance(outcome.error, TimeoutError):
        late = HostError(
            f"The Pack {pack_id} did not start within {timeout_s:g} s",
            code=START_FAILED,
            detail="Its sandbox or one of its components took too long.",
            hint=f"Read its log: rumi logs {pack_id}",
        )
        await _failed(host, pack_id, late)
    elif outcome.error is not None:
        await _failed(host, pack_id, outcome.error)
    return done


async def start_one(host: Host, pack_id: str, *, ordered: bool = False) -> bool:
    """Start one Pack now; raises ``RumiError``. False when nothing of it can start yet (it waits then).

    ``ordered``: the order over all Packs already found that something of it can start once its providers did, and
    what it depends on was started before.
    """
    host.require_evidence()
    if host.isolation is None:
        no_isolation_issue(host)
        raise SandboxUnavailable(
            "Docker is required but not available",
            detail="No isolation driver passed its probe on this machine.",
            hint="See what each driver says with: rumi doctor",
        )
    target = await sandbox_target(host)
    copy = await asyncio.to_thread(host.approvals.open_for_start, pack_id, isolation=host.isolation, target=target)
    if _must_wait(host, copy.metadata, ordered=ordered):
        return False
    host.waiting.pop(pack_id, None)
    host.held_off.discard(pack_id)
    host.starting.add(pack_id)
    try:
        await _launch(host, copy)
    finally:
        host.starting.discard(pack_id)
    host.bus.sleep.end(pack_id)
    host.failures.pop(pack_id, None)
    host.diagnostics.resolve(START_FAILED, pack_id)
    if await park_idle(host, pack_id):
        return False
    _wake(host)
    _tell_waiting(host)
    return True


async def stop_one(host: Host, pack_id: str, *, reason: str) -> None:
    """Stop what runs of a Pack; nothing happens when nothing does."""
    host.held_off.discard(pack_id)
    host.waiting.pop(pack_id, None)
    host.failures.pop(pack_id, None)
    served = is_running(host, pack_id)
    await _drop_container(host, pack_id, reason)
    if served:  # otherwise the trail would tell of an end that nothing had
        await mark(host, pack_id, "stopped", reason)


async def stop_asleep(host: Host, pack_id: str) -> None:
    """Stop what nobody uses. What it answered for stays, and starts it again (``bus.sleeping``)."""
    if host.orchestrator is not None and host.orchestrator.get(pack_id) is not None:
        await host.orchestrator.stop(pack_id, reason="nobody uses it")
    host.lifecycle.detach(pack_id)
    await mark(host, pack_id, "stopped", "nobody uses it")


async def start_again(host: Host, pack_id: str) -> None:
    """Stop and start again; who calls it meanwhile waits."""
    with host.bus.holding(pack_id):
        await stop_one(host, pack_id, reason="restart")
        await attempt(host, pack_id, host.policy.start_timeout_s)


async def park_idle(host: Host, pack_id: str) -> bool:
    """Stop the sandbox of a Pack whose components all wait; True when it was stopped."""
    if not host.lifecycle.declared:
        return False
    records = host.lifecycle.records(pack_id)
    if not records or any(record.state is not ComponentState.WAITING for record in records):
        return False
    found = await asyncio.to_thread(host.approvals.status, pack_id)
    reason = records[0].cause or "waiting for an interface that is not there"
    await stop_one(host, pack_id, reason=reason)
    if found.metadata is not None:
        host.waiting[pack_id] = Waiting(tuple(units_of(found.metadata)), reason)
        _tell_waiting(host)
    return True


def is_running(host: Host, pack_id: str) -> bool:
    """Whether a generation serves, or comes back by itself."""
    info = host.orchestrator.get(pack_id) if host.orchestrator is not None else None
    return info is not None and info.state not in {ContainerState.ERROR, ContainerState.STOPPED}


def settle_owners(host: Host) -> None:
    """A decision about a Pack is in force: keys go to whom they belong now, and everybody is told."""
    owners.settle(host)
    host.events.publish(DECIDED)


async def mark(host: Host, pack_id: str, event: str, cause: str) -> None:
    """Tell the approval manager what became of a start.

    An edge that the table of states lacks (stopped while stopped) changes nothing.
    """
    try:
        await asyncio.to_thread(host.approvals.mark, pack_id, event, cause)
    except RumiError as error:
        host.diagnostics.record(
            phase="containers",
            status="skipped",
            target={"kind": "pack", "id": pack_id},
            error=error,
            meta={"event": event},
        )


def forget(host: Host, pack_id: str) -> None:
    """The Pack was removed: nothing of it is kept in memory."""
    host.waiting.pop(pack_id, None)
    host.failures.pop(pack_id, None)
    host.log.forget(pack_id)
    for key in tuple(host.registry.keys()):
        if host.registry.owner(key) == pack_id:
            host.registry.set_owner(key, None)
    for issue in host.diagnostics.issues(pack_id):
        host.diagnostics.resolve(issue.code, issue.subject)


def show(host: Host, pack_id: str) -> None:
    """Write the operator's view of what runs now, in the background."""
    host.in_background(asyncio.to_thread(operator_view.write, host, pack_id), f"operator view of {pack_id}")


def watch_keys(host: Host) -> None:
    """From now on a waiting Pack is started when a key appears that lets something of it start."""
    loop = asyncio.get_running_loop()

    def changed(_key: str) -> None:
        if host.waiting and not loop.is_closed():
            loop.call_soon_threadsafe(_wake, host)

    host.registry.listen(changed)


# -- inside -----------------------------------------------------------------------------------------------------------


async def _failed(host: Host, pack_id: str, error: Exception) -> None:
    known = error if isinstance(error, RumiError) else None
    detail = str(known or f"{type(error).__name__}: {error}")[:500]
    host.failures[pack_id] = Failure(known.code if known else START_FAILED, detail)
    host.diagnostics.issue(
        START_FAILED,
        "error",
        pack_id,
        f"The Pack {pack_id} could not be started",
        detail,
        (known.hint if known else "") or f"Correct the cause, then: rumi container start {pack_id}",
        {"code": known.code, **dict(known.fields)} if known else None,
        error,
        (Suggestion("Start it", f"rumi container start {pack_id}", "start_pack", {"pack_id": pack_id}),),
    )
    await _drop_container(host, pack_id, "its start failed")


async def _drop_container(host: Host, pack_id: str, reason: str) -> None:
    """End what is there of a Pack, whatever its state; nothing happens when nothing is."""
    if host.built("bus"):
        host.bus.sleep.end(pack_id)
    if host.orchestrator is not None and host.orchestrator.get(pack_id) is not None:
        await host.orchestrator.stop(pack_id, reason=reason)
    if host.built("lifecycle"):
        host.lifecycle.detach(pack_id)


async def _launch(host: Host, copy: VerifiedCopy) -> None:
    async def prepare(session: Session) -> None:
        await host.lifecycle.prepare(session, copy.metadata)

    owners.appoint(host, sorted(copy.metadata.provides()), copy.pack_id)
    await host.sandboxes.start(launch_request(host, copy), prepare)
    await mark(host, copy.pack_id, "started", "")
    _tell_base(host, copy)
    tell_addons(host, copy)
    show(host, copy.pack_id)


def _tell_base(host: Host, copy: VerifiedCopy) -> None:
    """An approval was made for what sandboxes ran on then: another base is told, for as long as it is another."""
    then, now = copy.grant.base_runtime, host.approvals.base_runtime
    if not now or then in {"", now}:
        host.diagnostics.resolve(RUNTIME_CHANGED, copy.pack_id)
        return
    host.diagnostics.issue(
        RUNTIME_CHANGED,
        "info",
        copy.pack_id,
        f"{copy.pack_id} runs on another base than it was approved on",
        f"Approved on {quote(then, 100)}; sandboxes run on {quote(now, 100)} now.",
        f"If you changed it (an update of the machine or of the host), approve on it: rumi pack approve {copy.pack_id}",
    )


def tell_addons(host: Host, copy: VerifiedCopy) -> None:
    """Addons that do nothing though somebody brought them for this Pack, each with the reason; until one start has
    none.
    """
    idle = [result for result in copy.patched.results if result.outcome in _IDLE]
    if not idle:
        host.diagnostics.resolve(ADDONS_IDLE, copy.pack_id)
        return
    refused = all(result.outcome is Outcome.REFUSED for result in idle)
    guests = sorted({result.addon.split(":")[0] for result in idle} - {copy.pack_id})[:5]
    host.diagnostics.issue(
        ADDONS_IDLE,
        "info" if refused else "warn",
        copy.pack_id,
        f"Addons are not applied to {copy.pack_id}",
        "; ".join(f"{one.addon} ({one.outcome.value}): {quote(one.reason, 300)[1:-1]}" for one in idle[:10]),
        " Or: ".join(f"rumi pack grant {guest} addon.apply" for guest in guests)
        or f"Correct them, then approve {copy.pack_id} again.",
        {"addons": [{"addon": one.addon, "target": one.target, "outcome": one.outcome.value} for one in idle[:100]]},
    )


def _must_wait(host: Host, metadata: PackMetadata, *, ordered: bool) -> bool:
    """Whether every component of it lacks something; it is kept waiting then.

    ``ordered``: interfaces are waited for inside the sandbox, so only Packs count.
    """
    units = units_of(metadata)
    looked_at = (
        [replace(unit, requires=frozenset(filter(pack_of, unit.requires))) for unit in units] if ordered else units
    )
    blocked = _blocked(host, looked_at)
    if len(blocked) < len(units):
        return False
    host.waiting[metadata.pack_id] = _waiting(host, units, blocked[0])
    _tell_waiting(host)
    return True


def _blocked(host: Host, units: Iterable[Unit], elsewhere: Mapping[str, str] = NOTHING) -> tuple[Blocked, ...]:
    """What can't start, given what is there."""
    units = list(units)
    wanted = {key for unit in units for key in unit.requires}
    return resolve(units, available=_available(host, wanted), elsewhere=elsewhere).blocked


def _available(host: Host, keys: Iterable[str]) -> dict[str, tuple[str]]:
    """Those keys that are there, with the version that their provider states; of Packs, those that serve or sleep."""
    found: dict[str, tuple[str]] = {}
    for key in keys:
        pack_id = pack_of(key)
        if pack_id:
            grant = host.approvals.grant(pack_id) if _serves(host, pack_id) else None
            if grant is not None:
                found[key] = (grant.version,)
        elif (entry := host.registry.resolve(key)) is not None:
            found[key] = (entry.version,)
    return found


def _serves(host: Host, pack_id: str) -> bool:
    return is_running(host, pack_id) or (host.built("bus") and pack_id in host.bus.sleep)


def _order(
    host: Host, approved: dict[str, PackMetadata], statuses: Sequence[PackStatus]
) -> tuple[list[str], dict[str, list[Blocked]]]:
    """Pack ids in the order of their first component, and those of which nothing can start."""
    units = [unit for metadata in approved.values() for unit in units_of(metadata)]
    wanted = {key for unit in units for key in unit.requires}
    resolution = resolve(units, available=_available(host, wanted), elsewhere=_elsewhere(statuses))
    order = dict.fromkeys(unit.pack_id for unit in resolution.order())
    blocked: dict[str, list[Blocked]] = {}
    for item in resolution.blocked:
        if item.unit.pack_id not in order:
            blocked.setdefault(item.unit.pack_id, []).append(item)
    return list(order), blocked


def _elsewhere(statuses: Sequence[PackStatus]) -> dict[str, str]:
    """For what is not there: which Pack would provide it, and why that one does not run."""
    found: dict[str, str] = {}
    for status in statuses:
        if status.state in {State.APPROVED, State.RUNNING}:
            continue
        found[pack_key(status.pack_id)] = f"which is {status.state.value}"
        if status.metadata is not None:
            told = f"which the Pack {quote(status.pack_id)} would provide, but it is {status.state.value}"
            found.update(dict.fromkeys(status.metadata.provides(), told))
    return found


def _wake(host: Host) -> None:
    """Start what waits and could start now. On the loop's thread, so a Pack is taken out of the queue once."""
    if host.closing:
        return
    for pack_id, waiting in list(host.waiting.items()):
        if len(_blocked(host, waiting.units)) < len(waiting.units):
            del host.waiting[pack_id]
            host.in_background(_start_woken(host, pack_id), f"start of {pack_id}")


def _tell_waiting(host: Host) -> None:
    """Why each of those that wait does so now: another Pack serves, or one more waits."""
    if not host.waiting:
        return
    units = [unit for waiting in host.waiting.values() for unit in waiting.units]
    first: dict[str, Blocked] = {}
    for blocked in _blocked(host, units, _elsewhere(host.approvals.list())):
        first.setdefault(blocked.unit.pack_id, blocked)
    for pack_id, blocked in first.items():
        host.waiting[pack_id] = _waiting(host, host.waiting[pack_id].units, blocked)


def _waiting(host: Host, units: Iterable[Unit], blocked: Blocked) -> Waiting:
    def owner(key: str) -> str:
        entry = host.registry.resolve(key)
        return entry.pack if entry is not None else ""

    return Waiting(tuple(units), blocked.reason, next_step(blocked, owner))


async def _start_woken(host: Host, pack_id: str) -> None:
    async with host.exclusively(pack_id):
        if not is_running(host, pack_id):
            await attempt(host, pack_id, host.policy.start_timeout_s)

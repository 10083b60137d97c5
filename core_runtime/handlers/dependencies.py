"""Python packages of Packs, as use cases: what is missing is fetched once the operator has decided, before the start.

Invariants:
  * Nothing is fetched for a Pack that nobody decided about: approving is the decision, or ``fetch`` by the operator.
  * A fetch that fails undoes no decision. The Pack is approved, can't start, and its cause says what to do.
  * While something is fetched no lock of the approvals is held: the host goes on with everything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

from msgspec import Struct

from backend_core.ecosystem.requirements import LockedPackage
from backend_core.errors import HostError, RumiError, TrustError
from core_runtime.drivers.wheel_fetch import WheelFetcher
from core_runtime.handlers.host import Host
from core_runtime.handlers.isolation import sandbox_target
from core_runtime.rules.wheels import Target

FETCH_FAILED = "dependencies_unfetched"


class Fetched(Struct, frozen=True):
    """For whom wheels are chosen, and where those lie that were fetched; ``error`` tells why they were not."""

    target: Target | None
    folder: Path | None = None
    error: RumiError | None = None


@contextlib.asynccontextmanager
async def fetched(
    host: Host, pack_id: str, *, digest: str | None = None, update: bool = False
) -> AsyncIterator[Fetched]:
    """The wheels that an approval (of exactly ``digest``) would lack; gone after the block."""
    target = await sandbox_target(host)
    ask = host.approvals.wanted_packages_of_update if update else host.approvals.wanted_packages
    wanted: Sequence[LockedPackage] = await asyncio.to_thread(partial(ask, pack_id, target, digest=digest))
    if not wanted or target is None:
        yield Fetched(target)
        return
    fetcher = WheelFetcher()
    with host.approvals.fetching() as folder:
        try:
            wheels = await asyncio.to_thread(fetcher.fetch, pack_id, wanted, target, folder)
        except asyncio.CancelledError:
            fetcher.cancel()  # a host that stops waits for its threads
            raise
        except HostError as error:
            _tell(host, pack_id, error)
            yield Fetched(target, error=error)
            return
        host.diagnostics.resolve(FETCH_FAILED, pack_id)
        await asyncio.to_thread(
            host.audit.append, "pack.packages_fetched", pack_id=pack_id, packages=[one.pin for one in wanted]
        )
        yield Fetched(target, wheels)


async def renew(host: Host, pack_id: str, *, actor: str) -> None:
    """Fetch what the approved version lacks and unpack it; raises why that failed."""
    async with fetched(host, pack_id) as found:
        if found.error is not None:
            raise found.error
        await asyncio.to_thread(
            host.approvals.renew_packages, pack_id, target=found.target, fetched=found.folder, actor=actor
        )
    if found.target is None:
        raise TrustError(
            "No Python to choose packages for",
            code="dependencies_missing",
            detail="No sandbox can run on this machine now, or its Python is of an unusual kind.",
            hint="See what each isolation driver says with: rumi doctor",
        )


def _tell(host: Host, pack_id: str, error: RumiError) -> None:
    host.diagnostics.issue(
        FETCH_FAILED,
        "error",
        pack_id,
        error.title,
        error.detail,
        error.hint,
        {"code": error.code, **dict(error.fields)},
    )

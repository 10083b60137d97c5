"""Step "approval manager": what there is, what was decided, and what each Pack may do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import Any

from backend_core.ecosystem.registry import PackRegistry
from backend_core.errors import quote
from core_runtime.approval_manager import ApprovalManager
from core_runtime.drivers.grants import identity_fingerprint
from core_runtime.drivers.secret_store import SecretStore
from core_runtime.handlers import egress, operator_view, removal, takeover
from core_runtime.handlers.host import Host
from core_runtime.handlers.isolation import base_runtime
from core_runtime.handlers.table import handler
from core_runtime.host_privilege_manager import HostPrivilegeManager
from core_runtime.permission_manager import PermissionManager
from core_runtime.secret_manager import SecretManager
from core_runtime.userdata_manager import UserdataManager

KEEP_USES_EVERY_S = 30.0


@handler("trust.open")
async def open_step(host: Host, _args: Mapping[str, Any]) -> None:
    """Open grants, keys and counters. Any part that can't be opened fails the step, and with it its sealed phase."""
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(_open, host, HostEffects(host, loop))
    host.approvals.base_runtime = await base_runtime(host)
    host.egress = egress.open_broker(host)
    host.in_background(_keep_uses(host), "keeping what was counted")


async def _keep_uses(host: Host) -> None:
    """A crash loses at most what was counted since the last time."""
    while not host.closing:
        await asyncio.sleep(KEEP_USES_EVERY_S)
        await asyncio.to_thread(host.permissions.keep_uses)


def _open(host: Host, effects: HostEffects) -> None:
    registry = PackRegistry(host.settings.packs_dir)
    approvals = ApprovalManager(host.settings.home, registry, host.audit, report=host.diagnostics.mishap)
    approvals.active = host.active
    permissions = PermissionManager(
        approvals.grant, host.audit, files=approvals.grants, latest=approvals.latest, report=host.diagnostics.mishap
    )
    host.userdata = UserdataManager(host.settings.home, permissions)
    host.privileges = HostPrivilegeManager(
        host.settings.home, permissions, host.audit, effects=effects, latest=approvals.latest
    )
    store = SecretStore(
        host.settings.user_data, approvals.grants.keyring, partial(_approved_identity, approvals), host.redactions
    )
    store.load()
    host.secrets = SecretManager(store, permissions, host.audit)
    for pack_id, error in removal.resume(approvals, host.secrets, host.privileges).items():
        if error is None:
            operator_view.remove(host, pack_id)
        else:
            host.note_error(pack_id, error)
    host.permissions = permissions
    host.packs = registry
    host.approvals = approvals


def _approved_identity(approvals: ApprovalManager, pack_id: str) -> str:
    grant = approvals.grant(pack_id)
    return identity_fingerprint(grant.pack_identity) if grant is not None else ""


class HostEffects:
    """What privileged operations may do to the running host. Called from threads."""

    def __init__(self, host: Host, loop: asyncio.AbstractEventLoop) -> None:
        self._host = host
        self._loop = loop

    def notify(self, pack_id: str, title: str, text: str) -> None:
        """Show a notice to the operator, marked with the Pack that sent it."""
        title, text = self._host.redactions.hide_in(pack_id, [title, text])
        self._host.diagnostics.issue(
            "pack_notice", "info", pack_id, f"The Pack {pack_id} says: {quote(title, 120)}", quote(text, 500)
        )
        self._loop.call_soon_threadsafe(
            self._host.events.publish, "pack.notice", {"pack_id": pack_id, "title": title, "text": text}
        )

    def restart(self, pack_id: str) -> None:
        """Have the Pack's sandbox restarted, after the answer was sent."""
        self._loop.call_soon_threadsafe(self._restart, pack_id)

    def _restart(self, pack_id: str) -> None:
        self._host.in_background(takeover.restart(self._host, pack_id), f"restart of {pack_id}")

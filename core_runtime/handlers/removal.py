"""Uninstalling, step by step, so that a crash anywhere leaves a Pack that is there or one that is gone.

What the operator entered or granted for a Pack goes after its grant is void and before its files are: what is left
could otherwise serve whoever is approved under that id later. A removal that was cut off is finished when the host
opens, before anything can be decided or started.

Not here: grant, folder and copies (``approval_manager``), stopping what runs (``packs``).
"""

from __future__ import annotations

from functools import partial

from backend_core.errors import RumiError
from core_runtime.approval_manager import ApprovalManager
from core_runtime.host_privilege_manager import HostPrivilegeManager
from core_runtime.secret_manager import SecretManager


def remove(
    approvals: ApprovalManager, secrets: SecretManager, privileges: HostPrivilegeManager, pack_id: str, *, actor: str
) -> None:
    """Uninstall; may be repeated after any interruption."""
    approvals.remove(pack_id, actor=actor, forget=partial(_forget, secrets, privileges, pack_id, actor))


def resume(
    approvals: ApprovalManager, secrets: SecretManager, privileges: HostPrivilegeManager
) -> dict[str, RumiError | None]:
    """Finish every removal that was cut off: the Packs, each with what stands against it.

    One that can't be finished is an error of that Pack alone: nobody can approve it, and the next start tries again.
    """
    found: dict[str, RumiError | None] = {}
    for pack_id in approvals.unfinished_removals():
        try:
            remove(approvals, secrets, privileges, pack_id, actor="host")
        except RumiError as error:
            found[pack_id] = error
        else:
            found[pack_id] = None
    return found


def _forget(secrets: SecretManager, privileges: HostPrivilegeManager, pack_id: str, actor: str) -> None:
    secrets.drop(pack_id, actor=actor)
    privileges.drop(pack_id, actor=actor)

"""Approval of Packs: what may run, decided by the operator, bound to bytes, signed, and checked again at each start.

Each layer stands on the one before: ``standing`` (reading and judging) · ``drafting`` (bytes, drafts, persisting) ·
``packages`` · ``deciding`` (decisions and starts); ``core_runtime.approval_manager`` adds updates and is what the host
holds.
"""

from core_runtime.approvals.deciding import Approvals, VerifiedCopy
from core_runtime.approvals.standing import MAX_REASON_CHARS, Known
from core_runtime.drivers.status import PackStatus

__all__ = ["MAX_REASON_CHARS", "Approvals", "Known", "PackStatus", "VerifiedCopy"]

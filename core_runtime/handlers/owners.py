"""Who owns which interface key, in the registry as it was decided: by approvals, grants and the operator's overrides.

Invariants:
  * What a decision changes acts at once; what a time ends, ends by itself in ``LOOK_S``, whatever the wall clock says.
  * A key that nobody is approved for keeps its owner: it is missing, and never the runner-up's.

Not here: who may own what (``approvals``), what readers of a key get (``interface_registry``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from core_runtime.handlers.host import Host

LOOK_S = 1.0


def appoint(host: Host, keys: Iterable[str], pack_id: str) -> None:
    """The operator's override decides who owns a key, else the Pack approved for it first."""
    chosen = host.active.interface_overrides
    free = [key for key in keys if key in chosen or host.registry.owner(key) is None]
    decided = {**host.approvals.owners(), **chosen} if free else chosen
    for key in free:
        host.registry.set_owner(key, decided.get(key, pack_id))


def settle(host: Host) -> None:
    """Bring the registry to what is decided now, and look again while a replacement ends by time.

    For the event loop's thread.
    """
    change_in_s = host.approvals.owners_change_in()  # first: what ends between the two is seen to end
    decided = {**host.approvals.owners(), **host.active.interface_overrides}
    for key, pack_id in decided.items():
        if host.registry.owner(key) not in {None, pack_id}:
            host.registry.set_owner(key, pack_id)
    _look_again(host, change_in_s)


def _look_again(host: Host, change_in_s: float | None) -> None:
    if host.owners_timer is not None:
        host.owners_timer.cancel()
        host.owners_timer = None
    if change_in_s is not None and not host.closing:
        host.owners_timer = asyncio.get_running_loop().call_later(min(change_in_s, LOOK_S), settle, host)

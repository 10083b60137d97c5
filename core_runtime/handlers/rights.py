"""What the bus asks about one Pack's rights, answered from the grant in force at that moment.

Invariants:
  * A revocation acts on the next use: nothing is remembered beyond the very grant it was computed from.
  * While two generations of a Pack exist, each is judged by its own grant (``standing``).
  * Looking is no use. ``may_see`` decides what a Pack is shown; only ``may_call``, asked once for each real call,
    counts it and spends a one-use edge. What is refused was refused by ``may_see`` already, so the audit trail gets it
    from the bus, which knows what was really tried, and not twice.
"""

from __future__ import annotations

from collections.abc import Callable

from core_runtime.generations import Stage, Standing, acting
from core_runtime.handlers.host import Host
from core_runtime.rules.grants import Grant, Mode
from core_runtime.rules.permissions import Allow, Rights, rights_of

NO_RIGHTS = Rights()
_SERVING = Stage.SERVING


class SessionRights:
    """The rights of one Pack, judged anew at each question. For the event loop's thread."""

    def __init__(self, host: Host, pack_id: str) -> None:
        self.standing = Standing(pack_id)
        self._host = host
        self._permissions = host.permissions
        self._pack_id = pack_id
        self._grant: Grant | None = None
        self._rights = NO_RIGHTS
        self._visible = host.permissions.visible_keys(pack_id)
        self._live = host.permissions.rights_source(pack_id)()

    def may_call(self, key: str) -> bool:
        """One real call of ``key``: it is counted, and spends an edge that was granted for one use.

        Spending is durable before the call goes on (a sync of one small file), since a crash must not give it back.
        """
        # most calls of a whole host come through here: one that is covered needs no further step
        if self.standing.stage is _SERVING:
            return self._permissions.calls_freely(self._pack_id, key) or self._may_call(key)
        with acting(self.standing):
            return self._permissions.calls_freely(self._pack_id, key) or self._may_call(key)

    def may_see(self, key: str) -> bool:
        """Whether the edge to ``key`` is granted now."""
        return self._asked(self._visible, key)

    def may_register(self, key: str) -> bool:
        """Whether the Pack declared ``key`` and holds what the key means to the host."""
        return self._asked(self._may_register, key)

    def may_publish(self, topic: str) -> bool:
        """Whether the Pack may publish ``topic`` now."""
        return self._asked(self._live.may_publish, topic)

    def may_subscribe(self, topic: str) -> bool:
        """Whether the Pack may receive ``topic`` now; also asked with the pattern itself."""
        return self._asked(self._live.may_subscribe, topic)

    def since_s(self) -> float:
        """When the decision was made that these rights stand on; none: never."""
        if self.standing.stage is Stage.SERVING:
            grant = self._permissions.grant(self._pack_id)
        else:
            with acting(self.standing):
                grant = self._permissions.grant(self._pack_id)
        return float("inf") if grant is None else grant.approved_at

    def _asked(self, question: Callable[[str], bool], subject: str) -> bool:
        if self.standing.stage is _SERVING:
            return question(subject)
        with acting(self.standing):
            return question(subject)

    def _may_call(self, key: str) -> bool:
        """Where a permission has to be looked at: a timed one, one for a single use, or none."""
        if not self._visible(key):
            return False
        answer = self._permissions.may_call(self._pack_id, key)
        if isinstance(answer, Allow) and answer.index >= 0 and self._was_last(answer.index):
            self._host.show_rights(self._pack_id)
        return isinstance(answer, Allow)

    def _may_register(self, key: str) -> bool:
        grant = self._host.permissions.grant(self._pack_id)
        if grant is not self._grant:
            self._grant, self._rights = grant, NO_RIGHTS if grant is None else rights_of(None, grant)
        return self._rights.may_register(key)

    def _was_last(self, index: int) -> bool:
        grant = self._host.permissions.grant(self._pack_id)
        return grant is not None and index < len(grant.permissions) and grant.permissions[index].mode is Mode.ONCE

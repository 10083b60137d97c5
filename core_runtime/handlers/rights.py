"""What the bus asks about one Pack's rights, answered from the grant in force at that moment.

A revocation acts on the next use: nothing is remembered beyond the very grant it was computed from.

Looking is no use: the bus also asks in order to decide what a Pack *sees*. So the answers about calls and registrations
record nothing; real refusals reach the audit trail through the bus, which knows what was really tried.
"""

from __future__ import annotations

from core_runtime.handlers.host import Host
from core_runtime.rules.grants import Grant
from core_runtime.rules.permissions import Rights, rights_of

NO_RIGHTS = Rights()


class SessionRights:
    """The rights of one Pack, judged anew at each question. For the event loop's thread."""

    def __init__(self, host: Host, pack_id: str) -> None:
        self._host = host
        self._pack_id = pack_id
        self._grant: Grant | None = None
        self._rights = NO_RIGHTS
        self._visible = host.permissions.visible_keys(pack_id)
        self._live = host.permissions.rights_source(pack_id)()

    def may_call(self, key: str) -> bool:
        """Whether the edge to ``key`` is granted now."""
        return self._visible(key)

    def may_register(self, key: str) -> bool:
        """Whether the Pack declared ``key`` and holds what the key means to the host."""
        grant = self._host.approvals.grant(self._pack_id)
        if grant is not self._grant:
            self._grant, self._rights = grant, NO_RIGHTS if grant is None else rights_of(None, grant)
        return self._rights.may_register(key)

    def may_publish(self, topic: str) -> bool:
        """Whether the Pack may publish ``topic`` now."""
        return self._live.may_publish(topic)

    def may_subscribe(self, topic: str) -> bool:
        """Whether the Pack may receive ``topic`` now; also asked with the pattern itself."""
        return self._live.may_subscribe(topic)

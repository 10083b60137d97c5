"""What a session needs of the bus it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from core_runtime.bus.channels import Serve as ServeChannel
from core_runtime.bus.router import Router
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.redactions import Redactions
from core_runtime.event_bus import EventBus

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session


class Owner(Protocol):
    """What a session needs of its bus."""

    router: Router
    events: EventBus
    diagnostics: Diagnostics
    redactions: Redactions

    def denied(self, pack_id: str, operation: str, subject: str) -> None:
        """Record a refusal."""

    def limited(self, pack_id: str, limit: str, detail: str) -> None:
        """A Pack met a limit; names as in ``rules.limits_seen``."""

    def log(self, pack_id: str, generation: int, level: int, source: str, text: str) -> None:
        """A line that the Pack printed or logged."""

    def ended(self, session: Session, reason: str) -> None:
        """The session is over."""

    def welcomed(self, session: Session) -> None:
        """The session serves from now on."""

    def take_over(self, session: Session) -> None:
        """The session takes the place of the one that serves."""

    async def request(self, session: Session, operation: str, args: Any) -> Any:
        """Serve an operation of kind 64."""

    @property
    def channels(self) -> Mapping[str, ServeChannel]:
        """Operations of kind 64 that open a channel."""

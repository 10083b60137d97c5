"""What endpoints share: the host, its phase of life, the running streams, who has the console open, what was called."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from core_runtime.api.called import Called
from core_runtime.api.console_access import ConsoleAccess
from core_runtime.api.live import Live
from core_runtime.api.sse import Streams
from core_runtime.rules.settings import Settings

if TYPE_CHECKING:
    from core_runtime.handlers.host import Host
    from core_runtime.kernel import Kernel


class Phase(StrEnum):
    """``starting``: served, Packs start behind it. ``ready``: the startup flow has ended. ``failed``: it broke off."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"
    STOPPING = "stopping"


@dataclass(slots=True)
class Api:
    """One per host. ``web_port`` is the one really bound."""

    host: Host
    settings: Settings
    web_port: int
    kernel: Kernel | None = None
    phase: Phase = Phase.STARTING
    cause: str = ""
    streams: Streams = field(default_factory=Streams)
    started_at_s: float = field(default_factory=time.time)
    access: ConsoleAccess = field(init=False)
    called: Called = field(init=False)
    _live: Live | None = None

    def __post_init__(self) -> None:
        self.access = ConsoleAccess(self.settings.redirect_dir, self.web_port)
        self.called = Called(self.host, stops=self.streams.closing.is_set)

    def live(self) -> Live:
        """The event stream's ring; made when first asked for."""
        if self._live is None:
            self._live = Live(self.host.events, self.host.redactions.hide_any_in, self.host.history)
        return self._live

    def describe(self) -> dict[str, Any]:
        """What ``GET /api/health`` says of the host itself."""
        return {
            "phase": self.phase.value,
            "cause": self.cause or None,
            "started_at": self.started_at_s,
            "api": f"http://localhost:{self.settings.api_port}",
            "web": f"http://localhost:{self.web_port}",
        }

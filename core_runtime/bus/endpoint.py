"""Where one generation of a Pack connects to the bus: its listener, its first words, its end.

Not here: what is said on the connection (``sessions``), the socket itself (``drivers.link``).
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from backend_core.errors import HostError, PackTimeout
from core_runtime.bus.sessions import Session
from core_runtime.diagnostics import Severity
from core_runtime.drivers.link import Listener, attach
from core_runtime.ports import BusConnection

if TYPE_CHECKING:
    from core_runtime.bus.hub import Bus


class Endpoint:
    """Where one generation of a Pack connects."""

    def __init__(self, bus: Bus, session: Session, path: str, uid: int | None, gid: int | None) -> None:
        self._bus = bus
        self._listener = Listener(path, uid=uid, gid=gid) if path else None
        self.session = session
        self.path = path

    async def connected(self, timeout_s: float, conn: BusConnection | None = None) -> Session:
        """Wait for the connection and its HELLO. Raises ``PackTimeout``, ``TrustError``, ``PackError``.

        ``conn`` is a connection that the sandbox was started with: whose it is, is certain. Without it, the one that
        arrives at the path.
        """
        session = self.session
        try:
            async with asyncio.timeout(timeout_s):
                found: socket.socket | BusConnection | None = conn
                if found is None:
                    found = await self._expected().accept(self._stranger)
                    session.memory.direct = True
                session.attach(await attach(found, session, self._bus.limits, self._bus.turn))
                both: tuple[asyncio.Future[Any], ...] = (session.greeted, session.closed)
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            session.abort("no HELLO in time")
            raise PackTimeout(
                f"{session.pack_id} did not connect in time",
                code="start_timeout",
                detail=f"No HELLO within {timeout_s:g} s.",
                hint=f"`rumi logs {session.pack_id}` shows the output of its start.",
                pack_id=session.pack_id,
            ) from None
        if session.dead:
            raise session.gone(session.closed.result())
        return session

    def stop_listening(self) -> None:
        """Take the socket back; a connection that exists stays."""
        if self._listener is not None:
            self._listener.close()

    async def close(self) -> None:
        """Stop listening and cut the connection."""
        self.stop_listening()
        self.session.abort("stopped")
        self._bus.forget(self)

    def _expected(self) -> Listener:
        if self._listener is None:
            raise HostError("This sandbox brought no connection", code="not_attached", hint="Start the Pack again.")
        return self._listener

    def _stranger(self, problem: str) -> None:
        self._bus.diagnostics.issue(
            "socket_stranger",
            Severity.ERROR,
            self.session.pack_id,
            "A stranger knocked on a sandbox socket",
            problem,
            "Find out which process it was; nothing was answered.",
        )

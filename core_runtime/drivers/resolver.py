"""Names to addresses by the system's resolver, in threads of its own.

Invariants:
  * The name is asked as an absolute one (with its trailing dot), so no search list turns it into another name.
  * What the system answers is returned whole; judging it is the caller's business.
  * A look-up that hangs occupies one of few threads, never the event loop.

Not here: which addresses may be used (``rules.addresses``), how often a Pack may ask (``rules.budgets``).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from ipaddress import ip_address

from backend_core.errors import HostError
from core_runtime.rules.addresses import Address

THREADS = 8
MAX_ADDRESSES = 16
Answer = tuple[Address, ...] | OSError | UnicodeError


class SystemResolver:
    """``ports.Resolver`` over ``getaddrinfo``."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(THREADS)

    async def resolve(self, name: str, timeout_s: float) -> tuple[Address, ...]:
        """See ``ports.Resolver``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._places.acquire()
                found = await asyncio.shield(self._asked(name))
        except TimeoutError:
            raise HostError(
                f"The name {name} could not be looked up in time",
                code="name_timeout",
                detail=f"The system's resolver gave no answer within {timeout_s:g} s.",
                hint="Check this machine's name servers.",
            ) from None
        if isinstance(found, OSError | UnicodeError):
            raise HostError(
                f"The name {name} has no address",
                code="name_unknown",
                detail=f"The system's resolver says: {found}",
                hint="Check the name, and this machine's connection.",
            ) from found
        return found

    def _asked(self, name: str) -> asyncio.Future[Answer]:
        """The answer, some time. A daemon thread: a name server that is silent must not keep the host from ending."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def arrived(found: Answer) -> None:
            self._places.release()
            if not answer.done():
                answer.set_result(found)

        def ask() -> None:
            try:
                found: Answer = look_up(name)
            except (OSError, UnicodeError) as exc:
                found = exc
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(arrived, found)

        threading.Thread(target=ask, name=f"look-up of {name}", daemon=True).start()
        return answer


def look_up(name: str) -> tuple[Address, ...]:
    """Ask the system. Blocks; raises ``OSError``."""
    rows = socket.getaddrinfo(f"{name}.", None, type=socket.SOCK_STREAM)
    texts = dict.fromkeys(str(row[4][0]).partition("%")[0] for row in rows)
    if not texts or len(texts) > MAX_ADDRESSES:
        raise OSError(f"{len(texts)} addresses (1 to {MAX_ADDRESSES} are usable)")
    return tuple(ip_address(text) for text in texts)

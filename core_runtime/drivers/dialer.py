"""Connections to addresses that were checked, and what this machine's own addresses are.

Invariants:
  * ``dial`` gets addresses, never names: what was checked is what is connected to.

Not here: the check (``rules.addresses.dial_fault``).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address

from backend_core.errors import HostError
from core_runtime.rules.addresses import Address, Machine

MAX_TRIED = 4


async def dial(addresses: Sequence[Address], port: int, timeout_s: float) -> tuple[socket.socket, Address]:
    """A socket and the address it leads to: the first that answers. Raises ``HostError`` (``unreachable``)."""
    tried = addresses[:MAX_TRIED]
    causes: list[str] = []
    for address in tried:
        try:
            async with asyncio.timeout(timeout_s / len(tried)):
                return await _connect(address, port), address
        except TimeoutError:
            causes.append(f"{address}: no answer")
        except OSError as exc:
            causes.append(f"{address}: {exc.strerror or exc}")
    raise HostError(
        "No connection could be made",
        code="unreachable",
        detail="; ".join(causes)[:500],
        hint="Try again later; the other side may be down.",
    )


def this_machine(ports: Iterable[int]) -> Machine:
    """What belongs to this machine now; ``ports`` are those on which the host itself listens."""
    import psutil  # noqa: PLC0415  a tenth of what a start imports, and it needs none of it

    items = (item for group in psutil.net_if_addrs().values() for item in group)
    found = ((item.address, item.netmask) for item in items if item.family in _INTERNET)
    return Machine.of(found, ports)


_INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})


async def _connect(address: Address, port: int) -> socket.socket:
    family = socket.AF_INET6 if isinstance(address, IPv6Address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (str(address), port))
    except BaseException:
        sock.close()
        raise
    return sock

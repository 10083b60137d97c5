"""Ports for hosts and peers that a bench or a test starts.

A port that is only asked of the system is free at that moment and no longer: between the question and the start of the
host that is to use it, any connection of this machine may get it as its own end. So each process takes a block of ports
for itself, below those that systems give to connections (Linux from 32768, ``net.ipv4.ip_local_port_range``; others
from 49152, RFC 6335), and holds it by listening on its first port, which the system ends with the process.
"""

from __future__ import annotations

import itertools
import os
import random
import socket
from collections.abc import Iterator

from backend_core.errors import HostError
from core_runtime.drivers import loopback

FIRST, LAST, BLOCK = 10_000, 32_000, 100

_held: dict[int, Iterator[int]] = {}
"""This process's number → its block, as long as it runs: the child of a fork takes one of its own."""


def free_port() -> int:
    """A port that nobody listens on, on any loopback address; no other caller gets it soon (98 others come before)."""
    if os.getpid() not in _held:
        _held[os.getpid()] = _block()
    for port in itertools.islice(_held[os.getpid()], BLOCK):
        if _is_free(port):
            return port
    raise RuntimeError(f"every port of a block of {BLOCK} is in use: something started here was not ended")


def _block() -> Iterator[int]:
    starts = list(range(FIRST, LAST, BLOCK))
    random.shuffle(starts)
    for start in starts:
        guard = socket.socket()
        try:
            guard.bind(("127.0.0.1", start))
            guard.listen(1)
        except OSError:  # another process's block, or somebody's port: the next
            guard.close()
        else:
            guard.detach()  # stays open as long as the process
            return itertools.cycle(range(start + 1, start + BLOCK))
    raise RuntimeError(f"no block of ports is free from {FIRST} to {LAST}")


def _is_free(port: int) -> bool:
    try:
        bound = loopback.bind_port(port)
    except HostError:
        return False
    for sock in bound:
        sock.close()
    return True

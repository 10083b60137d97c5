"""The host as on a system that does not tell which user opened a connection to its web port; otherwise as it is."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import app  # noqa: E402 - the path is made above
from core_runtime.drivers import peer  # noqa: E402
from core_runtime.rules.identity import Door, Peer  # noqa: E402

_prove = peer.prove_tcp


def untold(sock: socket.socket, door: Door) -> Peer:
    return Peer(door, unproven="this system does not tell") if door is Door.WEB else _prove(sock, door)


if __name__ == "__main__":
    peer.prove_tcp = untold
    sys.exit(app.main(sys.argv[1:]))

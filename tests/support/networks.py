"""A small internet of its own: two network namespaces, a wire between them, addresses that are public by every rule.

The host under test lives in one namespace, servers in the other: nothing leaves this machine, and no rule about
addresses has to be weakened for a test. Tests that use it carry the marker ``netns``.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.running_host import RunningHost

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
HOST, GATEWAY = "11.7.0.2", "11.7.0.1"
WEB, OTHER, DATA, KEYED, NAMES = "11.8.0.10", "11.8.0.11", "11.8.0.12", "11.8.0.13", "11.8.0.53"
"""The gateway is the host's neighbour; everybody else is behind it."""
PRIVATE, METADATA, WEB6, NEIGHBOUR6 = "10.9.0.1", "169.254.169.254", "2a0b:8::10", "2a0b:7::1"


class Internet:
    """``with Internet() as net``: ``net.in_host(fn)`` and ``net.in_world(fn)`` run a function on either side."""

    def __init__(self) -> None:
        name = f"rt{secrets.token_hex(3)}"
        self.host_side, self.world_side = f"{name}h", f"{name}w"
        self._in_host = _threads(self.host_side)
        self._in_world = _threads(self.world_side)

    def __enter__(self) -> Self:
        host, world = self.host_side, self.world_side
        for line in (
            f"netns add {host}",
            f"netns add {world}",
            f"link add veth0 netns {host} type veth peer name veth0 netns {world}",
            *(f"-n {side} link set {device} up" for side in (host, world) for device in ("lo", "veth0")),
            f"-n {host} addr add {HOST}/24 dev veth0",
            f"-n {host} addr add 2a0b:7::2/64 dev veth0 nodad",
            f"-n {world} addr add {GATEWAY}/24 dev veth0",
            f"-n {world} addr add {NEIGHBOUR6}/64 dev veth0 nodad",
            f"-n {host} route add default via {GATEWAY}",
            f"-n {host} -6 route add default via {NEIGHBOUR6}",
            *(f"-n {world} addr add {a}/32 dev lo" for a in (WEB, OTHER, DATA, KEYED, NAMES, PRIVATE, METADATA)),
            f"-n {world} addr add {WEB6}/128 dev lo",
        ):
            subprocess.run(["ip", *line.split()], check=True, capture_output=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._in_host.shutdown()
        self._in_world.shutdown()
        for side in (self.host_side, self.world_side):
            subprocess.run(["ip", "netns", "del", side], check=True, capture_output=True)

    def in_host(self, work: Callable[..., T], *args: Any) -> T:
        return self._in_host.submit(work, *args).result(120)

    def in_world(self, work: Callable[..., T], *args: Any) -> T:
        return self._in_world.submit(work, *args).result(120)

    def listen(self, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A bound socket on the world's side."""
        return self.in_world(_bound, address, port, kind)


def _bound(address: str, port: int, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    return sock


def _threads(side: str) -> ThreadPoolExecutor:
    def enter() -> None:
        fd = os.open(f"/run/netns/{side}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)

    return ThreadPoolExecutor(4, initializer=enter)


class NameServer:
    """A DNS server of the tests' own, UDP: ``zone`` maps a name to addresses, or to lists of them that take turns."""

    def __init__(self, net: Internet) -> None:
        self.zone: dict[str, list[str] | list[list[str]]] = {}
        self.asked: list[str] = []
        self._sock = net.listen(NAMES, 53, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._sock.recvfrom(4096)
                if not query:
                    return
                self._sock.sendto(self._answer(query), peer)
            except OSError:
                return

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode("latin-1"))
            at += 1 + query[at]
        name = ".".join(labels).lower()
        (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
        self.asked.append(name)
        found = self.zone.get(name)
        if found and isinstance(found[0], list):
            # the two questions of one look-up (A, AAAA) see the same answer: the turn is over with AAAA
            current = found[0]
            if kind == 28 and len(found) > 1:
                found.pop(0)
            found = current
        records = b""
        count = 0
        for text in found or []:
            family = socket.AF_INET6 if ":" in str(text) else socket.AF_INET
            if (family == socket.AF_INET6) == (kind == 28) and kind in {1, 28}:
                data = socket.inet_pton(family, str(text))
                records += b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 0, len(data)) + data
                count += 1
        flags = 0x8180 if found is not None else 0x8183
        return query[:2] + struct.pack("!HHHHH", flags, 1, count, 0, 0) + query[12 : at + 5] + records


def with_name_server(net: Internet, folder: Path) -> tuple[str, ...]:
    """What a command line is started by to run on the host's side, with this net's name server as the system's."""
    folder.mkdir(parents=True, exist_ok=True)
    resolv = folder / "resolv.conf"
    resolv.write_text(f"nameserver {NAMES}\noptions timeout:2 attempts:1\nsearch example.com\n")
    script = 'mount --bind "$0" /etc/resolv.conf && exec nsenter --net="$1" "${@:2}"'
    return ("unshare", "--mount", "bash", "-c", script, str(resolv), f"/run/netns/{net.host_side}")


class NetworkedHost(RunningHost):
    """A host process inside the namespace, with this net's name server; requests to its API are made from in there."""

    def __init__(self, net: Internet, home: Path, isolation: str, environment: dict[str, str] | None = None) -> None:
        super().__init__(home, isolation, environment)
        self._net = net
        self.prefix = with_name_server(net, home)

    def request(self, *args: Any, **options: Any) -> tuple[int, Any]:
        ask = super().request
        return self._net.in_host(lambda: ask(*args, **options))

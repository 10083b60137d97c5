"""Which user is at the other end of an accepted connection, asked of the kernel at accept, before anything is read.

Loopback TCP on Linux: exactly one socket in the kernel's tables whose two ends are this connection's, seen from the
other side, in state ESTABLISHED and owned by a live socket. Afterwards our own end must still be ESTABLISHED: only
then does that row describe *this* connection and not a later one between the same two ports. A connection that its
client has closed shows user 0 (the row of a TIME_WAIT), so it proves nothing, and neither does a half-closed one.
The kernel is asked by socket diagnostics (7 µs, measured) and only where it does not offer that by reading
``/proc/net/tcp`` and ``tcp6``: their size is that of the hash table, 9 ms here, which any user could make the host
spend on each connection.
Unix sockets: the credentials that the kernel took at connect.

Invariant: every doubt (no row, two rows, another state, an unreadable table, the overflow uid) gives ``uid=None``
with a reason.

Not here: what a proven or unproven user may do (``rules.identity``).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import struct
import sys
from functools import cache
from pathlib import Path

from core_runtime.rules.identity import Door, Peer

_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_ESTABLISHED = 1
_TCP_INFO = getattr(socket, "TCP_INFO", 11)
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES = 0, 1, 76  # macOS: <sys/un.h>, <sys/ucred.h>
_OVERFLOW_UID = 65534

# <linux/netlink.h>, <linux/sock_diag.h>, <linux/inet_diag.h>
_NETLINK_SOCK_DIAG = 4
_NETLINK_HEADER = 16
_NLMSG_ERROR = 2
_NLM_F_REQUEST = 1
_SOCK_DIAG_BY_FAMILY = 20
_ALL_STATES = 0xFFFFFFFF
_NO_COOKIE = (0xFFFFFFFF, 0xFFFFFFFF)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
End = tuple[object, ...]
Row = tuple[int, int, int]
"""State, user id, inode."""


def prove(door: Door, sock: socket.socket) -> Peer:
    """Who is at the other end of a connection that came in at ``door``. Never raises."""
    return prove_unix(sock) if door is Door.SOCKET else prove_tcp(sock, door)


def prove_tcp(sock: socket.socket, door: Door) -> Peer:
    """Never raises. ``sock`` is the accepted socket."""
    if not sys.platform.startswith("linux"):
        return Peer(door, unproven="this operating system does not tell which user opened a connection")
    try:
        rows = find_rows(sock.getpeername(), sock.getsockname())
        alive = sock.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, 1)[0] == _ESTABLISHED
    except (OSError, ValueError) as exc:
        return Peer(door, unproven=f"the table of connections could not be read ({type(exc).__name__})")
    if len(rows) != 1 or not alive:
        return Peer(
            door, unproven="the connection was not open any more, or not from this machine, when it was accepted"
        )
    state, uid, inode = rows[0]
    if state != _ESTABLISHED or inode == 0:
        return Peer(door, unproven="the connection was already closed at the other end when it was accepted")
    if uid == _overflow_uid():
        return Peer(door, unproven="the user at the other end has no number in this container")
    return Peer(door, uid=uid)


def find_rows(client: End, server: End) -> list[Row]:
    """Every socket from ``client`` to ``server``, by diagnostics where the kernel has them."""
    if not all(_is_loopback(_address(end)) for end in (client, server)):
        return []
    try:
        return ask_kernel(client, server)
    except OSError:  # the kernel refuses or lacks it
        return read_tables(client, server)


def ask_kernel(client: End, server: End) -> list[Row]:
    """One exact look-up (``sock_diag(7)``, ``inet_diag_req_v2``). ``OSError`` where the kernel refuses or lacks it."""
    source, target = _plain(_address(client)), _plain(_address(server))
    family = socket.AF_INET if source.version == 4 else socket.AF_INET6
    ports = struct.pack("!HH", _port(client), _port(server))
    ends = ports + source.packed.ljust(16, b"\0") + target.packed.ljust(16, b"\0")
    request = (
        struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES)
        + ends
        + struct.pack("=I2I", 0, *_NO_COOKIE)
    )
    header = struct.pack("=IHHII", _NETLINK_HEADER + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as kernel:
        kernel.setblocking(False)  # the answer is there when the request has been sent
        kernel.send(header + request)
        answer = kernel.recv(8192)
    return _diagnosed(answer, ports, source, target)


def _diagnosed(answer: bytes, ports: bytes, source: Address, target: Address) -> list[Row]:
    _, kind, _, _, _ = struct.unpack_from("=IHHII", answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _NETLINK_HEADER)
        if -code == errno.ENOENT:
            return []
        raise OSError(-code, os.strerror(-code))
    _, state, _, _ = struct.unpack_from("=BBBB", answer, _NETLINK_HEADER)
    found = answer[_NETLINK_HEADER + 4 :]
    _, _, _, uid, inode = struct.unpack_from("=5I", found, 48)
    same = found[:4] == ports and found[4:20] in _packed(source) and found[20:36] in _packed(target)
    return [(state, uid, inode)] if same else []


def read_tables(client: End, server: End) -> list[Row]:
    """The same from ``/proc``, in both spellings of an IPv4 address."""
    patterns = [re.compile(rb"^ *\d+: " + ends + rb" (.*)$", re.MULTILINE) for ends in _spellings(client, server)]
    rows = []
    for table in _TABLES:
        try:
            text = Path(table).read_bytes()
        except FileNotFoundError:
            continue  # a machine without IPv6 has no second table
        for pattern in patterns:
            # state tx:rx tr:when retransmits uid timeout inode …
            found = (match.group(1).split() for match in pattern.finditer(text))
            rows += [(int(row[0], 16), int(row[4]), int(row[6])) for row in found]
    return rows


def prove_unix(sock: socket.socket) -> Peer:
    """Never raises."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            size = struct.calcsize("3i")
            _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        else:
            _, uid = struct.unpack_from("=II", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_BYTES))
    except (OSError, struct.error) as exc:
        return Peer(Door.SOCKET, unproven=f"the system did not tell who connected ({type(exc).__name__})")
    return Peer(Door.SOCKET, uid=uid)


def own_uid() -> int | None:
    """This process's user, or None where the system has no such number."""
    return os.getuid() if hasattr(os, "getuid") else None


def _address(end: End) -> Address:
    return ipaddress.ip_address(str(end[0]).partition("%")[0])


def _port(end: End) -> int:
    return int(str(end[1]))


def _spellings(client: End, server: End) -> list[bytes]:
    pairs = [[(_plain(_address(end)), _port(end)) for end in (client, server)]]
    if all(host.version == 4 for host, _ in pairs[0]):
        pairs.append([(ipaddress.IPv6Address(f"::ffff:{host}"), port) for host, port in pairs[0]])
    return [b" ".join(_hex(host) + b":%04X" % port for host, port in pair) for pair in pairs]


def _packed(host: Address) -> tuple[bytes, ...]:
    """As diagnostics spell it: sixteen bytes, an IPv4 address alone or mapped."""
    if host.version == 6:
        return (host.packed,)
    return host.packed.ljust(16, b"\0"), ipaddress.IPv6Address(f"::ffff:{host}").packed


def _plain(host: Address) -> Address:
    return (host.ipv4_mapped or host) if isinstance(host, ipaddress.IPv6Address) else host


def _is_loopback(host: Address) -> bool:
    return _plain(host).is_loopback


def _hex(host: Address) -> bytes:
    """The kernel prints each 32-bit word of an address in the machine's byte order."""
    words = struct.unpack(f">{len(host.packed) // 4}I", host.packed)
    return b"".join(b"%08X" % struct.unpack("=I", struct.pack(">I", word))[0] for word in words)


@cache
def _overflow_uid() -> int:
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_bytes())
    except (OSError, ValueError):  # the kernel's default
        return _OVERFLOW_UID

"""How a container's bus travels: over a mounted Unix socket, or over the container's attached stdio. Pure.

A socket of this machine can be mounted only by an engine whose containers share this machine's kernel: one behind a
local Unix socket that is not a virtual machine's, with a runtime that gives them no kernel of their own. Everywhere
else the same frames go through the engine's connection, and the Pack's bytes are carried into the container instead of
being mounted.

Invariant: an engine is spoken to in clear text only over a Unix socket or the loopback. Whoever speaks for the engine
is root of its machine, and decides what runs there.

Not here: trying whether a mounted socket works (``drivers.docker_trial``).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

from core_runtime.rules.isolation import SANDBOXED_RUNTIMES
from core_runtime.rules.permissions import Deny

CHOICES = ("auto", "socket", "stdio")
VIRTUAL_MACHINES = ("docker desktop", "docker-desktop", "rancher desktop", "orbstack", "colima")
"""Products whose local socket leads into a virtual machine, by what the engine says of its system or its name."""


class Transport(StrEnum):
    """``stdio`` costs several times as much for each call: it is what remains where no socket can be mounted."""

    SOCKET = "socket"
    STDIO = "stdio"


class Candidate(Struct, frozen=True):
    """A transport to try, and the sentence that says why it would be taken."""

    transport: Transport
    reason: str = ""


def refused_address(url: str, *, tls: bool) -> Deny | None:
    """Why an engine at ``url`` is not spoken to, else ``None``. ``tls``: a client certificate is configured."""
    parts = urlsplit(url)
    if parts.scheme == "unix" and parts.path.startswith("/"):
        return None
    if parts.scheme not in {"tcp", "http", "https"} or not parts.hostname:
        return Deny(
            f"expected unix:///path or tcp://host:port, got {url!r:.120}",
            "Set DOCKER_HOST to such an address; an engine behind ssh can be reached through ssh -L.",
        )
    if tls or _is_loopback(parts.hostname):
        return None
    return Deny(
        f"{url!r:.120} is an unauthenticated address on a network: whoever answers there would decide what runs",
        "Protect the engine with TLS, then set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH (ca.pem, cert.pem, key.pem).",
    )


def candidates(setting: str, url: str, info: Mapping[str, Any], runtime: str = "") -> tuple[Candidate, ...]:
    """What to try, in order.

    Args:
        setting: the operator's choice, one of ``CHOICES``.
        url: the engine's address.
        info: what the engine says of itself.
        runtime: the operator's choice; empty = the engine's default.
    """
    if setting == "socket":
        return (Candidate(Transport.SOCKET, "chosen by RUMI_DOCKER_TRANSPORT"),)
    if setting == "stdio":
        return (Candidate(Transport.STDIO, "chosen by RUMI_DOCKER_TRANSPORT"),)
    if not url.startswith("unix://"):
        return (Candidate(Transport.STDIO, "the engine is reached over a network"),)
    system = f"{info.get('OperatingSystem', '')} {info.get('Name', '')}".lower()
    for product in VIRTUAL_MACHINES:
        if product in system:
            return (Candidate(Transport.STDIO, "the engine runs in a virtual machine"),)
    used = runtime or info.get("DefaultRuntime")
    if used in SANDBOXED_RUNTIMES:
        # A kernel of its own has no use for a socket of this one, unless its runtime was told to pass it on. To find
        # that out costs a start that fails, after which an engine may keep its helper process for ever.
        why = f"the runtime {used} has a kernel of its own"
        return Candidate(Transport.STDIO, why), Candidate(Transport.SOCKET, "attached stdio does not work here")
    return Candidate(Transport.SOCKET), Candidate(Transport.STDIO, "a mounted socket does not work here")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

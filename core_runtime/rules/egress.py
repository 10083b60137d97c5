"""Where a Pack wants to connect to: parsed once, and decided on the parsed value that is dialled. Pure.

Invariants:
  * ``parse_target`` is the only way from a Pack's text to a ``Target``; what two programs could read differently is
    refused, never repaired: other number bases, short and integer addresses, percent and user parts, control
    characters, scopes, anything that is not ASCII. The one exception is a single trailing dot, which changes nothing.
  * A name is never an address and an address never a name.
  * What a grant says is checked by the same parser, so a grant can't mean something that no target can be.

Not here: which addresses a name may lead to (``rules.addresses``), resolving and dialling (``drivers``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any, Final

from msgspec import Struct

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import quote
from core_runtime.rules.addresses import Address, Reach, judge

DEFAULT_PORTS: Final = (443,)
TLS_PORTS: Final = frozenset(
    {443, 465, 563, 636, 853, 989, 990, 992, 993, 994, 995, 5061, 5223, 5349, 6697, 8443, 8883}
)
"""Ports on which a client that was granted a name must open with TLS for that name."""

WAYS_OUT: Final = frozenset({"network", "http.fetch"})
MAX_NAME_CHARS = 253
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_QUAD = re.compile(r"(0|[1-9][0-9]{0,2})(\.(0|[1-9][0-9]{0,2})){3}")
_LOCAL_SUFFIXES: Final = (
    "localhost", "local", "localdomain", "internal", "intranet", "lan", "onion", "arpa",
)  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """A name or an address, and a port. Exactly one of ``name`` and ``address`` is set."""

    port: int
    name: str = ""
    address: Address | None = None

    @property
    def host(self) -> str:
        """As it is shown and counted."""
        return self.name or str(self.address)

    def __str__(self) -> str:
        bracketed = f"[{self.address}]" if isinstance(self.address, IPv6Address) else self.host
        return f"{bracketed}:{self.port}"

    __repr__ = __str__


class Refused(Struct, frozen=True):
    """Why something is not done: ``code`` never changes, ``reason`` and ``hint`` are sentences."""

    code: str
    reason: str
    hint: str = ""


def parse_target(host: Any, port: Any) -> Target | Refused:
    """What a Pack asked to be connected to."""
    if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
        return Refused("target_invalid", f"{quote(port, 20)} is no port number")
    found = parse_host(host)
    if isinstance(found, Refused):
        return found
    return Target(port, name=found) if isinstance(found, str) else Target(port, address=found)


def parse_host(host: Any) -> str | Address | Refused:
    """A name in lower case without a trailing dot, an address, or why it is neither."""
    fault = _text_fault(host)
    if fault:
        return Refused("target_invalid", fault)
    text = host.lower()
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
        return _ipv6(text) if ":" in text else Refused("target_invalid", f"{quote(host, 60)} is no address")
    if ":" in text:
        return _ipv6(text)
    text = text.removesuffix(".")
    if _NUMBER.fullmatch(text.rpartition(".")[2]):
        return _ipv4(text)
    fault = name_fault(text)
    return Refused("target_invalid", f"{quote(host, 80)} {fault}") if fault else text


def name_fault(text: str) -> str:
    """Why ``text`` (lower case) is no public name, or ``""``."""
    labels = text.split(".")
    if len(text) > MAX_NAME_CHARS or not all(_LABEL.fullmatch(label) for label in labels):
        return "is no host name"
    if len(labels) < 2:
        return "has no dot: such names mean something else on each network"
    if any(text == suffix or text.endswith("." + suffix) for suffix in _LOCAL_SUFFIXES):
        return "is a name that only a local network knows"
    return ""


def _text_fault(host: Any) -> str:
    if not isinstance(host, str) or not host:
        return "there is no host"
    if len(host) > MAX_NAME_CHARS + 2:
        return f"the host has more than {MAX_NAME_CHARS} characters"
    if not host.isascii():
        return f"{quote(host, 60)} is not ASCII; write a name in its xn-- form"
    bad = next((char for char in host if not (char.isalnum() or char in "-._:[]")), "")
    return f"{quote(host, 60)} holds {quote(bad)}, which no host name has" if bad else ""


def _ipv4(text: str) -> IPv4Address | Refused:
    """Four decimal numbers and nothing else: programs differ over 010.0.0.1, 0x7f.1, 127.1 and 2130706433."""
    if _QUAD.fullmatch(text):
        try:
            return IPv4Address(text)
        except AddressValueError:
            pass
    return Refused("target_invalid", f"{quote(text, 60)} is no IPv4 address of four decimal numbers")


def _ipv6(text: str) -> IPv6Address | Refused:
    try:
        return IPv6Address(text)
    except AddressValueError:
        return Refused("target_invalid", f"{quote(text, 60)} is no IPv6 address")


# --- what is granted -------------------------------------------------------------------------------------------------


def domain_fault(text: str, _pack_id: str = "") -> str:
    """Why ``text`` can't be granted as a domain (``name`` or ``*.name``), or ``""``."""
    name = text.removeprefix("*.")
    if name != name.lower():
        return "is not in lower case"
    if name.endswith("."):
        return "ends with a dot"
    found = parse_host(name)
    if isinstance(found, Refused):
        return f"is no domain: {found.reason}"
    return "" if isinstance(found, str) else "is an address; name it in addresses, as ip:port"


def host_fault(text: str, _pack_id: str = "") -> str:
    """Why ``text`` can't be granted as an exact host, or ``""``."""
    return "is a pattern; hosts are named one by one" if "*" in text else domain_fault(text)


def parse_address(text: str) -> Target | Refused:
    """``ip:port`` or ``[ip]:port`` of a literal grant."""
    host, colon, port = text.rpartition(":")
    bare = ":" in host and not host.startswith("[")
    if not colon or bare or not (port.isascii() and port.isdigit()) or port.startswith("0") or len(port) > 5:
        return Refused("target_invalid", "is no ip:port (write an IPv6 address in brackets)")
    found = parse_target(host, int(port))
    if isinstance(found, Target) and found.address is None:
        return Refused("target_invalid", "is a name; name it in domains")
    return found


def address_fault(text: str, _pack_id: str = "") -> str:
    """Why ``text`` can't be granted as a literal address, or ``""``."""
    found = parse_address(text)
    if isinstance(found, Refused):
        return found.reason
    assert found.address is not None
    reach, words = judge(found.address)
    if reach is Reach.NEVER:
        return f"is {words}"
    return "" if str(found) == text else f"is not in its plain form, {found}"


def private_addresses(texts: Sequence[str]) -> tuple[str, ...]:
    """Those literal addresses that lead into the operator's own network or machine."""
    parsed = ((text, parse_address(text)) for text in texts)
    return tuple(
        text
        for text, found in parsed
        if isinstance(found, Target) and found.address is not None and judge(found.address)[0] is not Reach.PUBLIC
    )


def target_of(params: Mapping[str, Any]) -> Target | Refused:
    """What a Pack's own question names: ``domain`` and ``port`` (443 unless said), or ``address`` as ``ip:port``."""
    if "address" in params:
        return parse_address(str(params["address"]))
    return parse_target(params.get("domain"), params.get("port", DEFAULT_PORTS[0]))


def covering_domain(domains: Sequence[str], name: str) -> str:
    """The granted domain that covers ``name``, exact ones first, or ``""``."""
    if not name:
        return ""
    if name in domains:
        return name
    return next((d for d in domains if d.startswith("*.") and name.endswith(d[1:]) and len(name) > len(d) - 1), "")


def covering_network(
    domains: Sequence[str], addresses: Sequence[str], ports: Sequence[int], target: Target
) -> str:
    """The granted domain or address that covers ``target``, or ``""``. Ports count for domains only."""
    if target.address is not None:
        return str(target) if str(target) in addresses else ""
    return covering_domain(domains, target.name) if target.port in (ports or DEFAULT_PORTS) else ""


def proxy_settings(metadata: PackMetadata) -> dict[str, Any]:
    """What WELCOME says of the proxy inside; nothing for a Pack whose approved version declares no way out.

    Declared, not granted: a right given later needs no restart, and a missing one is refused with a sentence.
    """
    declared = [request for request in metadata.permissions if request.type in WAYS_OUT]
    if not declared:
        return {}
    texts = [str(text) for request in declared for text in request.params.get("addresses", ())]
    wanted = {found.host for found in map(parse_address, texts) if isinstance(found, Target)}
    # what a Pack asks to reach on the host's loopback goes through the proxy; its own loopback does not
    own = () if wanted & {*_LOOPBACK} else _LOOPBACK
    return {"egress": {"no_proxy": ",".join(own)}}

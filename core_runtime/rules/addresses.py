"""Which addresses a Pack's connection may lead to. Pure.

Invariants:
  * A name may lead to public addresses only: what is not known to be public is refused.
  * A private address is reached by a grant that says ``ip:port`` literally, and by nothing else.
  * What hands out credentials of the machine (metadata services), forms that hide another address inside (mapped,
    translated, tunnelled) and addresses that are nobody's alone (multicast, broadcast) are reached by no grant at all.

The tables are written out (IANA's special-purpose registries, RFC 6890 and its successors, and the metadata services
that are known): what a library calls "global" changes with its version.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from msgspec import Struct, field

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


class Reach(Enum):
    """What may lead to an address."""

    PUBLIC = "public"
    """A granted name, or a literal grant."""
    PRIVATE = "private"
    """A literal grant only."""
    NEVER = "never"
    """Nothing."""


_NEVER: Final[tuple[tuple[str, str], ...]] = (
    ("169.254.169.254/32", "a metadata service, which hands out this machine's credentials"),
    ("169.254.170.2/32", "a metadata service, which hands out this machine's credentials"),
    ("100.100.100.200/32", "a metadata service, which hands out this machine's credentials"),
    ("168.63.129.16/32", "a metadata service, which hands out this machine's credentials"),
    ("192.0.0.192/32", "a metadata service, which hands out this machine's credentials"),
    ("fd00:ec2::254/128", "a metadata service, which hands out this machine's credentials"),
    ("fd20:ce::254/128", "a metadata service, which hands out this machine's credentials"),
    ("0.0.0.0/8", "an unspecified address, which means this machine"),
    ("::/128", "an unspecified address, which means this machine"),
    ("169.254.0.0/16", "a link-local address"),
    ("fe80::/10", "a link-local address"),
    ("fec0::/10", "a site-local address"),
    ("224.0.0.0/4", "a multicast address"),
    ("ff00::/8", "a multicast address"),
    ("255.255.255.255/32", "a broadcast address"),
    ("240.0.0.0/4", "a reserved address"),
    ("192.88.99.0/24", "a relay of translated addresses"),
    ("::ffff:0:0/96", "another address in IPv6 form"),
    ("::ffff:0:0:0/96", "another address in IPv6 form"),
    ("64:ff9b::/96", "another address behind a translator"),
    ("64:ff9b:1::/48", "another address behind a translator"),
    ("2002::/16", "another address inside a 6to4 tunnel"),
    ("2001::/32", "another address inside a Teredo tunnel"),
    ("2001:20::/28", "an identifier, not a place"),
    ("2001:10::/28", "an identifier, not a place"),
    ("100::/64", "an address that discards everything"),
    ("5f00::/16", "a segment identifier, not a place"),
)

_PRIVATE: Final[tuple[tuple[str, str], ...]] = (
    ("127.0.0.0/8", "this machine's own loopback"),
    ("::1/128", "this machine's own loopback"),
    ("10.0.0.0/8", "a private address"),
    ("172.16.0.0/12", "a private address"),
    ("192.168.0.0/16", "a private address"),
    ("fc00::/7", "a private address"),
    ("100.64.0.0/10", "a shared address of a provider's network"),
    ("198.18.0.0/15", "an address for measurements in a laboratory"),
    ("192.0.2.0/24", "an address for documentation"),
    ("198.51.100.0/24", "an address for documentation"),
    ("203.0.113.0/24", "an address for documentation"),
    ("2001:db8::/32", "an address for documentation"),
    ("3fff::/20", "an address for documentation"),
)

_RESERVED: Final[tuple[tuple[str, str], ...]] = (
    ("192.0.0.0/24", "a reserved address"),
    ("2001::/23", "a reserved address"),
)


def _table(rows: tuple[tuple[str, str], ...]) -> tuple[tuple[Network, str], ...]:
    return tuple((ip_network(text), words) for text, words in rows)


_RULES: Final = (
    *((network, Reach.NEVER, words) for network, words in _table(_NEVER)),
    *((network, Reach.PRIVATE, words) for network, words in _table(_PRIVATE)),
    *((network, Reach.NEVER, words) for network, words in _table(_RESERVED)),
)
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
ENGINE_PORTS: Final = frozenset({2375, 2376, 2377})
"""A container engine over TCP: whoever reaches it owns the machine."""


def judge(address: Address) -> tuple[Reach, str]:
    """What may lead to ``address``, and what it is in words (``""`` where it is public)."""
    for network, reach, words in _RULES:
        if address.version == network.version and address in network:
            return reach, words
    if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST:
        return Reach.NEVER, "a reserved address"
    return Reach.PUBLIC, ""


class Machine(Struct, frozen=True):
    """What belongs to this machine: its addresses, the networks that it is connected to without a router in between,
    and the ports on which the host or an engine listens.
    """

    addresses: frozenset[Address] = frozenset()
    networks: frozenset[Network] = frozenset()
    ports: frozenset[int] = field(default=ENGINE_PORTS)

    @classmethod
    def of(cls, interfaces: Iterable[tuple[str, str | None]], ports: Iterable[int]) -> Machine:
        """From each interface's address and mask as the system writes them (a scope after ``%`` is dropped)."""
        pairs = [(ip_address(text.partition("%")[0]), mask) for text, mask in interfaces]
        networks = (_network(address, mask) for address, mask in pairs if mask)
        known = frozenset(network for network in networks if network is not None and network.prefixlen)
        return cls(frozenset(address for address, _ in pairs), known, ENGINE_PORTS | frozenset(ports))

    def owns(self, address: Address) -> bool:
        """Whether a connection to ``address`` would come back to this machine."""
        loopback = isinstance(address, IPv4Address) and address in IPv4Network("127.0.0.0/8")
        return loopback or address == IPv6Address("::1") or address in self.addresses

    def beside(self, address: Address) -> bool:
        """Whether ``address`` is a neighbour's: a printer at home has a public IPv6 address as well."""
        return any(address.version == network.version and address in network for network in self.networks)


def _network(address: Address, mask: str) -> Network | None:
    """None for a mask that is none."""
    try:
        return ip_network(f"{address}/{int(ip_address(mask)).bit_count()}", strict=False)
    except ValueError:
        return None


def dial_fault(address: Address, port: int, machine: Machine, *, literal: bool) -> str:
    """Why a connection to ``address`` may not be made, or ``""``. ``literal``: a grant names this very ip and port."""
    reach, words = judge(address)
    if reach is Reach.NEVER or (reach is Reach.PRIVATE and not literal):
        return f"{address} is {words}"
    if machine.owns(address):
        if port in machine.ports:
            return f"port {port} of this machine belongs to its host"
        if not literal:
            return f"{address} is an address of this machine"
    if machine.beside(address) and not literal:
        return f"{address} is on a network that this machine is part of"
    return ""

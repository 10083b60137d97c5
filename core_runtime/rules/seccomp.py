"""Our system-call policy, rendered twice: as the engine's profile and as a classic BPF program for bubblewrap. Pure.

Policy: allow what Python needs (``seccomp_tables.ALLOWED``), answer EPERM for what is dangerous and known, ENOSYS for
everything else, so that a call of a newer kernel is refused before anyone knows its name.

Invariants:
  * Both renderings come from the same tables and the same families, flags and requests below.
  * Arguments are compared in the width in which the kernel uses them: an ``int`` by its low 32 bits, so that bits
    above them can't smuggle a refused number through (that was CVE-2019-10063).
  * The program first checks the architecture; x32 numbers and foreign architectures kill the process.

Not here: Landlock (the agent applies it inside) and loading the program (bubblewrap and the engine do).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from functools import cache
from typing import Any

from msgspec import Struct

from core_runtime.rules.seccomp_tables import AARCH64, ALLOWED, REFUSED, X86_64

EPERM = 1
ENOSYS = 38

NAMESPACE_FLAGS = 0x7E020000
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
AF_UNIX = 1
INTERNET_FAMILIES = (2, 10)
"""AF_INET, AF_INET6. Beside these and AF_UNIX none: AF_VSOCK ignores network namespaces and must never be here."""
INTERNET_PROTOCOLS = (0, 6, 17)
"""The family's default, TCP, UDP. Others (SCTP, DCCP, MPTCP, …) lead into kernel code that is rarely used, often loaded
on demand and of no use without a network."""
AF_NETLINK = 16
"""Only with protocol 0 (NETLINK_ROUTE), which ``getifaddrs`` uses."""
REFUSED_IOCTLS = (0x5412, 0x541C, 0x5423)
"""TIOCSTI and TIOCLINUX: typing into the terminal that somebody else will read. TIOCSETD: it loads line disciplines,
old kernel modules that anybody's pseudo-terminal reaches."""

RET_KILL_PROCESS = 0x80000000
RET_ERRNO = 0x00050000
RET_ALLOW = 0x7FFF0000

X32_BIT = 0x40000000


class Architecture(Struct, frozen=True):
    """One machine type: its audit number, its engine name and its system-call numbers."""

    machine: str
    audit: int
    engine: str
    numbers: dict[str, int]


ARCHITECTURES: dict[str, Architecture] = {
    "x86_64": Architecture("x86_64", 0xC000003E, "SCMP_ARCH_X86_64", X86_64),
    "aarch64": Architecture("aarch64", 0xC00000B7, "SCMP_ARCH_AARCH64", AARCH64),
}

CONDITIONAL = frozenset({"clone", "socket", "socketpair", "ioctl"})


def allowed(*, memfd: bool = True) -> frozenset[str]:
    """Names allowed whatever the arguments. ``memfd=False`` where nothing counts its memory (level ``reduced``)."""
    return ALLOWED - CONDITIONAL - (frozenset() if memfd else frozenset({"memfd_create"}))


def refused(*, memfd: bool = True) -> frozenset[str]:
    """Names answered with EPERM whatever their arguments are."""
    return REFUSED | (frozenset() if memfd else frozenset({"memfd_create"}))


# ---- the engine's profile


def docker_profile() -> dict[str, Any]:
    """The profile in the engine's format, for every architecture: names that one lacks are skipped by the engine."""
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "architectures": [arch.engine for arch in ARCHITECTURES.values()],
        "syscalls": [
            {"names": sorted(allowed()), "action": "SCMP_ACT_ALLOW"},
            _when("clone", _masked(0, NAMESPACE_FLAGS, 0)),
            _when("socket", _low32(0, AF_UNIX)),
            *(
                _when("socket", _low32(0, family), _low32(2, protocol))
                for family in INTERNET_FAMILIES
                for protocol in INTERNET_PROTOCOLS
            ),
            _when("socket", _low32(0, AF_NETLINK), _low32(2, 0)),
            # the kernel makes a socket of *any* family before it finds out that the family has no pairs
            _when("socketpair", _low32(0, AF_UNIX)),
            *(_when("ioctl", _masked(1, mask, value)) for mask, value in complement_prefixes(REFUSED_IOCTLS)),
            {"names": sorted(refused()), "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
            # Engines before 23 ignore defaultErrnoRet, and glibc falls back from clone3 to clone on ENOSYS only.
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS},
        ],
    }


@cache
def docker_profile_json() -> str:
    """The profile as text: what ``docker/core/base/seccomp.json`` holds and what each container is created with."""
    return json.dumps(docker_profile(), indent=1, sort_keys=True) + "\n"


def complement_prefixes(excluded: Iterable[int], bits: int = 32) -> list[tuple[int, int]]:
    """Pairs ``(mask, value)`` whose union is every ``bits``-wide number except ``excluded``, without overlap.

    The engine's library can't say "neither A nor B" in one rule, and its ``<`` and ``>`` compare all 64 bits. A masked
    equality compares exactly the bits that the kernel reads, so the complement is cut into binary prefixes.
    """
    wanted = sorted(set(excluded))

    def cut(prefix: int, depth: int, inside: list[int]) -> Iterable[tuple[int, int]]:
        if not inside:
            yield ((1 << depth) - 1) << (bits - depth), prefix << (bits - depth)
        elif depth < bits:
            shift = bits - depth - 1
            for bit in (0, 1):
                child = (prefix << 1) | bit
                yield from cut(child, depth + 1, [n for n in inside if n >> shift == child])

    return list(cut(0, 0, wanted))


def _when(name: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}


def _low32(index: int, value: int) -> dict[str, Any]:
    return _masked(index, 0xFFFFFFFF, value)


# ---- the BPF program

LD_ABS, JEQ, JGE, JSET, JA, RET = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06
OFFSET_NR, OFFSET_ARCH, OFFSET_ARGS = 0, 4, 16


class _Jump(Struct, frozen=True):
    """A jump whose target is a label; the assembler turns it into a distance."""

    label: str


_Item = tuple[int, int, int, int] | _Jump | str


def bpf_program(machine: str, *, memfd: bool = True) -> bytes:
    """The filter as an array of ``struct sock_filter``, little endian, as ``bwrap --seccomp FD`` reads it.

    Args:
        machine: ``x86_64`` or ``aarch64``, as ``uname -m`` says.
        memfd: whether ``memfd_create`` is allowed.

    Raises:
        KeyError: no table for this machine; the embedded sandbox is then not available.
    """
    arch = ARCHITECTURES[machine]
    items: list[_Item] = [
        (LD_ABS, 0, 0, OFFSET_ARCH),
        (JEQ, 1, 0, arch.audit),
        (RET, 0, 0, RET_KILL_PROCESS),
        (LD_ABS, 0, 0, OFFSET_NR),
        (JGE, 0, 1, X32_BIT),
        (RET, 0, 0, RET_KILL_PROCESS),
    ]
    items += _search(_intervals(arch, memfd=memfd), 0)
    items += _clone_rule() + _socket_rule() + _socketpair_rule() + _ioctl_rule()
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in _assemble(items))


def _intervals(arch: Architecture, *, memfd: bool) -> list[tuple[int, str | int]]:
    """``(first number, action)`` sorted, neighbours differing; an action is a return value or a rule's label."""
    actions: dict[int, str | int] = {}
    for names, result in ((refused(memfd=memfd), RET_ERRNO | EPERM), (allowed(memfd=memfd), RET_ALLOW)):
        actions |= {arch.numbers[name]: result for name in names if name in arch.numbers}
    actions |= {arch.numbers[name]: name for name in CONDITIONAL}
    out: list[tuple[int, str | int]] = []
    for number in range(max(actions) + 2):
        action = actions.get(number, RET_ERRNO | ENOSYS)
        if not out or out[-1][1] != action:
            out.append((number, action))
    return out


def _search(intervals: list[tuple[int, str | int]], base: int) -> list[_Item]:
    """Binary search over intervals: about eight comparisons for a call instead of two hundred."""
    if len(intervals) == 1:
        action = intervals[0][1]
        return [_Jump(action)] if isinstance(action, str) else [(RET, 0, 0, action)]
    middle = len(intervals) // 2
    upper = f"search{base + middle}"
    return [
        (JGE, 0, 1, intervals[middle][0]),
        _Jump(upper),  # its distance may exceed a comparison's eight bits
        *_search(intervals[:middle], base),
        upper,
        *_search(intervals[middle:], base + middle),
    ]


def _argument(index: int) -> tuple[int, int, int, int]:
    """Load the low half of an argument (little endian)."""
    return (LD_ABS, 0, 0, OFFSET_ARGS + 8 * index)


def _clone_rule() -> list[_Item]:
    refuse, allow = (RET, 0, 0, RET_ERRNO | EPERM), (RET, 0, 0, RET_ALLOW)
    return ["clone", _argument(0), (JSET, 0, 1, NAMESPACE_FLAGS), refuse, allow]


def _socket_rule() -> list[_Item]:
    allow, refuse = (RET, 0, 0, RET_ALLOW), (RET, 0, 0, RET_ERRNO | EPERM)
    rule: list[_Item] = ["socket", _argument(0), (JEQ, 0, 1, AF_UNIX), allow]
    for family in INTERNET_FAMILIES:
        rule += [(JEQ, 0, 1, family), _Jump("internet")]
    rule += [(JEQ, 0, 3, AF_NETLINK), _argument(2), (JEQ, 0, 1, 0), allow, refuse]
    rule += ["internet", _argument(2)]
    for protocol in INTERNET_PROTOCOLS:
        rule += [(JEQ, 0, 1, protocol), allow]
    return [*rule, refuse]


def _socketpair_rule() -> list[_Item]:
    return ["socketpair", _argument(0), (JEQ, 0, 1, AF_UNIX), (RET, 0, 0, RET_ALLOW), (RET, 0, 0, RET_ERRNO | EPERM)]


def _ioctl_rule() -> list[_Item]:
    rule: list[_Item] = ["ioctl", _argument(1)]
    for request in REFUSED_IOCTLS:
        rule += [(JEQ, 0, 1, request), (RET, 0, 0, RET_ERRNO | EPERM)]
    return [*rule, (RET, 0, 0, RET_ALLOW)]


def _assemble(items: list[_Item]) -> list[tuple[int, int, int, int]]:
    """Give labels their addresses and jumps their distances."""
    address: dict[str, int] = {}
    position = 0
    for item in items:
        if isinstance(item, str):
            address[item] = position
        else:
            position += 1
    out: list[tuple[int, int, int, int]] = []
    for item in items:
        if isinstance(item, _Jump):
            out.append((JA, 0, 0, address[item.label] - len(out) - 1))
        elif not isinstance(item, str):
            out.append(item)
    return out

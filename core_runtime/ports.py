"""Ports: what the kernel needs from the machine, as Protocols. Drivers implement them; contract suites bind both.

The error contract of every port: foreign exceptions never pass; a driver raises ``HostError`` (the machine can't),
``SandboxUnavailable`` (this isolation can't) or ``TrustError`` (what it was given does not verify), always ``from``
the cause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from msgspec import Struct, field

from core_runtime.rules.addresses import Address
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, SandboxSpec

TRIAL_PREFIX = "probe-"
"""Folders below a driver's state folder that exist while it probes. What a killed host left goes at the next boot."""


class DriverStatus(Struct, frozen=True):
    """Outcome of a driver's probe. ``reason`` and ``hint`` are sentences for the operator when not available."""

    kind: DriverKind
    available: bool
    level: Level
    version: str = ""
    reason: str = ""
    hint: str = ""
    transport: str = ""
    """How the bus reaches its sandboxes, and why so, where a driver has more than one way."""
    source: str = "measured"
    """``reported`` where the host can't look into the driver's sandboxes itself."""
    base: str = ""
    """What every sandbox is made from beside its Pack, where the driver has such a thing: the base image's id."""


class Exit(Struct, frozen=True):
    """How a sandbox ended. ``cause``: ``exited``, ``signal``, ``oom``, ``killed`` (by us) or ``lost`` (engine gone)."""

    code: int | None
    cause: str
    detail: str = ""
    counted: Mapping[str, float] = field(default_factory=dict)
    """``Sandbox.usage`` as it was last, just before the counters went: what a look at regular times has not seen."""


class BusReader(Protocol):
    """What reads a bus that travels inside of another connection: an ``asyncio.BufferedProtocol``, but for
    ``carried``.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The bus's own transport; it pauses and ends the bus alone."""

    def get_buffer(self, sizehint: int) -> memoryview:
        """Room for the next read; never empty."""

    def carried(self, nbytes: int, *, full: bool, began: float) -> None:
        """So much was put there. ``full``: more may lie in the connection; ``began``: when carrying it began, by the
        processor's time of this thread, 0.0 where that is too little to count.
        """

    def connection_lost(self, exc: Exception | None) -> None:
        """The bus has ended. Called once."""

    def pause_writing(self) -> None:
        """What was written is above the transport's limit."""

    def resume_writing(self) -> None:
        """It is below."""


class BusConnection(Protocol):
    """The bus of a sandbox whose driver ``attaches``. Nothing is read from it before it is served."""

    def serve(self, reader: BusReader) -> None:
        """From now on, once. ``reader`` ends it by its transport."""


class Sandbox(Protocol):
    """One started sandbox. All methods are safe after it ended."""

    @property
    def id(self) -> str:
        """Stable identifier for logs and the API: the container id, or ``embedded-<pack>-<generation>``."""

    def connection(self) -> BusConnection | None:
        """The host's end of the bus where the driver ``attaches``. Else ``None``."""

    async def measure(self, probe: Mapping[str, Any]) -> Isolation:
        """Compare what the host sees with what the agent reported in HELLO, before any Pack byte runs."""

    async def wait(self) -> Exit:
        """Return when the sandbox has ended. Several waiters are allowed."""

    async def stop(self, grace_s: float) -> Exit:
        """TERM, then KILL after ``grace_s``; returns when nothing of it is left (processes, cgroup, container)."""

    async def usage(self) -> Mapping[str, float]:
        """``{memory_bytes, cpu_s, pids, tmp_bytes, …}`` where the machine can tell; absent keys otherwise."""

    async def output_tail(self) -> str:
        """Last bytes that the sandbox wrote outside the bus (start-up failures), bounded, undecoded text escaped."""


class SandboxDriver(Protocol):
    """An isolation driver: renders a ``SandboxSpec`` and runs it."""

    @property
    def kind(self) -> DriverKind:
        """Which driver this is."""

    @property
    def attaches(self) -> bool:
        """Whether the bus is the sandbox's own stream (``Sandbox.connection``) instead of a socket file."""

    async def probe(self) -> DriverStatus:
        """Try the production settings on this machine and say what came of it. Never raises."""

    async def start(self, spec: SandboxSpec) -> Sandbox:
        """Start the agent under ``spec``. Raises ``HostError``; nothing is left behind then."""

    def render(self, spec: SandboxSpec) -> Mapping[str, str]:
        """File name → text, for the operator: exactly what ``start`` gives to the engine or to bubblewrap."""

    async def remove_leftovers(self, installation_id: str) -> list[str]:
        """Remove what an earlier run of this installation left; the identifiers removed. Never touches another's."""

    async def close(self) -> None:
        """Give back connections. Running sandboxes are not stopped."""


class Resolver(Protocol):
    """Turns a public name into addresses, on the host and nowhere else."""

    async def resolve(self, name: str, timeout_s: float) -> tuple[Address, ...]:
        """Every address of ``name``, in the order to try them; at least one.

        The name is taken as it is: no search list is tried. Raises ``HostError`` (``name_unknown``, ``name_timeout``).
        """


Clock = Callable[[], float]
"""Seconds; wall or monotonic as the parameter name says."""

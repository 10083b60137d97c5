"""A host for the faces alone: the use cases' signatures over a few Packs in memory, and a place to look at what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from msgspec.structs import replace

from backend_core.ecosystem.spec.models import PackMetadata
from backend_core.errors import DeniedError, HostError, NotFoundError, PackError
from core_runtime.approval_manager import PackStatus
from core_runtime.containers import ContainerInfo, ContainerState
from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.redactions import Redactions
from core_runtime.event_bus import EventBus
from core_runtime.function_alias import FunctionAlias
from core_runtime.ports import DriverStatus
from core_runtime.rules.approval import State
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from core_runtime.rules.settings import Settings


def metadata(pack_id: str, **changes: Any) -> PackMetadata:
    return PackMetadata(pack_id=pack_id, pack_identity=f"local:{pack_id}", version="1.0.0", uuid="0" * 8, **changes)


@dataclass
class Stream:
    """An async iterator that tells whether it was closed."""

    items: list[Any]
    after: Exception | None = None
    endless: bool = False
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if self.items:
            return self.items.pop(0)
        if self.endless:
            await self.closed.wait()
        if self.after is not None:
            raise self.after
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed.set()


class FakePacks:
    """Stands where ``core_runtime.handlers.packs`` stands."""

    def __init__(self) -> None:
        self.known: dict[str, PackStatus] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.keys: dict[str, Callable[[Any], Any]] = {}
        self.cancelled = asyncio.Event()
        self.scans_find: dict[str, PackStatus] = {}
        self.idempotency_key: str | None = None

    def add(self, pack_id: str, state: State = State.PENDING, **changes: Any) -> None:
        self.known[pack_id] = PackStatus(pack_id, state, **{"metadata": metadata(pack_id), **changes})

    async def list_packs(self, _host: Any) -> list[PackStatus]:
        return [self.known[pack_id] for pack_id in sorted(self.known)]

    async def status(self, _host: Any, pack_id: str) -> PackStatus:
        if pack_id not in self.known:
            raise NotFoundError(f"There is no Pack {pack_id}", hint="rumi pack list")
        return self.known[pack_id]

    async def scan(self, host: Any, pack_id: str | None = None) -> list[PackStatus]:
        self.asked.append(("scan", pack_id))
        self.known |= self.scans_find
        return await self.list_packs(host)

    async def approve(self, host: Any, pack_id: str, **how: Any) -> PackStatus:
        found = await self.status(host, pack_id)
        self.asked.append(("approve", pack_id, how))
        self.known[pack_id] = replace(found, state=State.RUNNING, approval={"digest": "sha256:00"})
        return self.known[pack_id]

    async def reject(self, host: Any, pack_id: str, *, reason: str = "", actor: str) -> PackStatus:
        found = await self.status(host, pack_id)
        self.asked.append(("reject", pack_id, reason, actor))
        self.known[pack_id] = replace(found, state=State.BLOCKED, cause=reason)
        return self.known[pack_id]

    async def review(self, _host: Any, pack_id: str) -> Any:
        if pack_id != "p":
            raise NotFoundError("There is no such Pack")
        return SimpleNamespace(as_dict=lambda: {"pack_id": pack_id, "digest": "sha256:00"})

    async def restore(self, host: Any, pack_id: str, *, actor: str) -> PackStatus:
        self.asked.append(("restore", pack_id, actor))
        return await self.status(host, pack_id)

    async def remove(self, host: Any, pack_id: str, *, actor: str) -> None:
        await self.status(host, pack_id)
        self.asked.append(("remove", pack_id, actor))
        del self.known[pack_id]

    async def start(self, host: Any, pack_id: str) -> PackStatus:
        found = await self.status(host, pack_id)
        if found.state is State.PENDING:
            raise DeniedError(f"The Pack {pack_id} is not approved", code="not_approved", hint=f"rumi pack approve {pack_id}")
        return replace(found, state=State.RUNNING)

    async def stop(self, host: Any, pack_id: str) -> PackStatus:
        self.asked.append(("stop", pack_id))
        return replace(await self.status(host, pack_id), state=State.APPROVED)

    def logs(self, _host: Any, pack_id: str, lines: int) -> list[dict[str, Any]]:
        return [{"ts": 0.0, "text": f"line of {pack_id}"}][:lines]

    async def interfaces(self, _host: Any) -> list[dict[str, Any]]:
        return [{"key": key, "owner": "p", "providers": ["p"], "available": True, "callable": True} for key in sorted(self.keys)]

    async def interface(self, host: Any, key: str) -> dict[str, Any] | None:
        return next((one for one in await self.interfaces(host) if one["key"] == key), None)

    async def call(self, _host: Any, key: str, args: Any, timeout_s: float | None, *, idempotency_key: str | None = None) -> Any:
        self.idempotency_key = idempotency_key
        self.asked.append(("call", key, args, timeout_s))
        if key not in self.keys:
            raise NotFoundError(f"Nothing provides {key}", code="missing")
        try:
            result = self.keys[key](args)
            return await result if asyncio.iscoroutine(result) else result
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class FakePrivileges:
    def __init__(self) -> None:
        self.granted: set[tuple[str, str]] = set()

    def list(self) -> list[dict[str, Any]]:
        return [{"id": "notify", "granted_to": sorted(pack for pack, _ in self.granted)}]

    def grant(self, pack_id: str, privilege: str, *, actor: str, options: Any, until: float | None) -> None:
        self.granted.add((pack_id, privilege))

    def revoke(self, pack_id: str, privilege: str, *, actor: str) -> None:
        self.granted.discard((pack_id, privilege))

    def execute(self, pack_id: str, privilege: str, params: Any, *, actor: str) -> Any:
        if (pack_id, privilege) not in self.granted:
            raise DeniedError("Not granted", code="not_granted")
        return {"did": params}


def fake_host(settings: Settings) -> Any:
    diagnostics = Diagnostics()
    happened: list[dict[str, Any]] = []
    isolation = Isolation(DriverKind.EMBEDDED, Level.STANDARD, findings=("no user namespace",))
    containers = [
        ContainerInfo("embedded-p-1", "p", 1, "embedded", Level.STANDARD, ContainerState.RUNNING, 1.0, 0, "", isolation, 42)
    ]
    return SimpleNamespace(
        settings=settings,
        diagnostics=diagnostics,
        built=lambda _part: False,
        events=EventBus(diagnostics), history=None, tracer=None,
        redactions=Redactions(),
        isolation=isolation,
        privileges=FakePrivileges(),
        require_evidence=lambda: None,
        aliases=FunctionAlias(),
        audit=SimpleNamespace(
            tail=lambda count: [{"event": "approve", "seq": 1}][:count],
            happened=lambda event, **fields: happened.append({"event": event, **fields}), records=happened,
        ),
        in_background=lambda work, name: asyncio.get_running_loop().create_task(work, name=name),
        registry=SimpleNamespace(resolve=lambda _key: None, owner=lambda key: "p" if key == "service.hello" else None),
        orchestrator=SimpleNamespace(list=lambda: containers),
        bus=SimpleNamespace(large_values=lambda pack_id: {"way": "chunks", "detail": f"{pack_id} is a test's"}),
        lost_driver=None,
        statuses=(
            DriverStatus(DriverKind.DOCKER, False, Level.NONE, reason="no engine answers", hint="start it"),
            DriverStatus(DriverKind.EMBEDDED, True, Level.STANDARD, "0.8.0"),
        ),
    )


def not_built() -> HostError:
    return HostError("The approval manager is not there yet", code="starting")


def pack_failure() -> PackError:
    return PackError("The handler raised", code="error/ValueError", detail="'boom'", retryable=True, pack_id="p")

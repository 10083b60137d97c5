"""The broker: the one place that decides about ways out, resolves names, and makes connections for Packs.

Invariants:
  * Order of an opening: parsed → budget → right (counted, spent) → look-up → every address checked → recorded →
    dialled, to an address that was checked. A refusal is recorded, and nothing of the steps behind it happens.
  * What can't be recorded is not opened. An end is recorded with the bytes that passed.
  * A right that goes ends what was opened with it, at once; a right bound to a time ends it within a second of that.
  * Which generation's right counts is that of the one that asked, at the opening and as long as it is open.
  * A host whose requests the host makes (``http.fetch``) is reached in no other way by that Pack.

Not here: bytes (``tunnel``, ``fetching``), which rights there are, secrets (both come in).
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import Any, Protocol, TypeVar

from msgspec import Struct

from backend_core.errors import DeniedError, HostError, PackError, PackTimeout, RumiError
from core_runtime.bus.channels import Channel, ChannelReset
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.drivers.dialer import dial, this_machine
from core_runtime.egress import tunnel
from core_runtime.egress.accounts import Accounts, Copy
from core_runtime.egress.connections import Connection, CutError
from core_runtime.ports import Resolver
from core_runtime.rules.addresses import Address, dial_fault
from core_runtime.rules.budgets import BudgetTable
from core_runtime.rules.egress import Refused, Target, parse_target
from core_runtime.rules.fetch import HTTPS_PORT, Injection, Request, header_clash, injections, parse_request
from core_runtime.rules.grants import Grant
from core_runtime.rules.permissions import Allow, Deny, fetches

_T = TypeVar("_T")
SWEEP_S = 1.0
CLOSE_S = 5.0
RECENT = 20
REFUSALS_PER_MINUTE = 60
LOOKUPS_AT_ONCE = 2
ISSUE_INTERVAL_S = 10.0
_CLOSED = Refused("closed", "it was closed")
_REVOKED = Refused("revoked", "the permission was taken away")
_STOPPING = Refused("stopping", "the host stops")


class Permissions(Protocol):
    """What the broker asks of the permission manager."""

    def check(self, pack_id: str, kind: str, /, **params: Any) -> Allow | Deny:
        """Judge one use, count it, spend it."""

    def still(self, pack_id: str, kind: str, /, **params: Any) -> bool:
        """Whether something that was allowed may go on."""

    def grant(self, pack_id: str) -> Grant | None:
        """The grant in force."""


class Trail(Protocol):
    """Where connections are recorded."""

    def note(self, event: str, **fields: Any) -> None:
        """Record; raises ``HostError`` when it can't be written."""

    def happened(self, event: str, *, sync: bool = True, **fields: Any) -> None:
        """Record what is so already; never raises for want of room."""


Secrets = Callable[[str, str], str]
"""``(pack_id, name)`` → the secret's value; raises ``DeniedError`` where there is none for that Pack."""


class Means(Struct, frozen=True):
    """What the broker works with."""

    permissions: Permissions
    audit: Trail
    diagnostics: Diagnostics
    resolver: Resolver
    budgets: Callable[[], BudgetTable]
    secrets: Secrets
    own_ports: Callable[[], frozenset[int]]
    work: Executor
    """Where what blocks is done; the operator's own work is done elsewhere."""
    spent: Copy
    clock: Callable[[], float] = time.monotonic


class Broker:
    """See the module docstring. Belongs to the event loop's thread."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._accounts = Accounts(means.spent, means.diagnostics, means.work, clock=means.clock)
        self._opening: dict[str, int] = {}
        self._open: dict[str, dict[int, Connection]] = {}
        self._numbers = itertools.count(1)
        self._recent: dict[str, deque[dict[str, Any]]] = {}
        self._issued: dict[tuple[str, str], float] = {}
        self._told: dict[str, tuple[float, int]] = {}
        self._asking: dict[str, asyncio.Semaphore] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closing = False

    # --- operations of the bus

    async def network(self, channel: Channel, _operation: str, args: Mapping[str, Any]) -> None:
        """``network.connect {host, port}``: a tunnel."""
        target = parse_target(args.get("host"), args.get("port"))
        if isinstance(target, Refused):
            raise await self._refuse(channel.pack_id, "network", str(args.get("host"))[:100], target)
        grant = self._means.permissions.grant(channel.pack_id)
        if grant is not None and target.name and fetches(grant.permissions, target.name):
            why = Refused("fetch_only", f"the host makes the requests to {target.name}",
                          f"Use http://{target.name}/ or context['http'].")  # fmt: skip
            raise await self._refuse(channel.pack_id, "network", str(target), why)
        connection, _ = await self._admit(channel.pack_id, "network", target, {"target": target})
        await self._serve(connection, lambda sock: tunnel.carry(channel, connection, sock))

    async def fetch(self, channel: Channel, _operation: str, args: Mapping[str, Any]) -> None:
        """``http.fetch {method, url, headers, length, plain}``: one request that the host makes."""
        pack_id = channel.pack_id
        request = parse_request(args)
        if isinstance(request, Refused):
            raise await self._refuse(pack_id, "http.fetch", str(args.get("url"))[:100], request)
        grant = self._means.permissions.grant(pack_id)
        if grant is None or not fetches(grant.permissions, request.host):
            if args.get("plain"):  # asked by the proxy inside, which goes on with `network`
                raise DeniedError("Not fetched by the host", code="not_fetched", detail=request.host)
            why = Refused("denied", f"http.fetch for {request.host} is not granted", _see(pack_id))
            raise await self._refuse(pack_id, "http.fetch", request.host, why)
        target = Target(HTTPS_PORT, name=request.host)
        use = {"host": request.host, "method": request.method, "url_path": request.path}
        connection, index = await self._admit(pack_id, "http.fetch", target, use)
        with self._ledger(connection):
            granted = injections(grant.permissions[index].texts("secrets"))
            headers = await self._secret_headers(connection, request, granted)
            hosts = tuple(host for p in grant.of_type("http.fetch") for host in p.texts("hosts"))
            from core_runtime.egress import fetching  # noqa: PLC0415  with h11, which no start needs

            rewrite = fetching.for_plain_clients(hosts if args.get("plain") else ())
        await self._serve(
            connection, lambda sock: fetching.fetch(channel, connection, sock, request, headers, rewrite)
        )

    # --- for the host

    def recheck(self, pack_id: str) -> None:
        """Rights may have changed: end what is no longer granted."""
        for connection in tuple(self._open.get(pack_id, {}).values()):
            still = partial(self._means.permissions.still, pack_id, connection.kind, **connection.params)
            if not connection.context.run(still):
                connection.finish(_REVOKED)

    def view(self, pack_id: str) -> dict[str, Any]:
        """Connections, bytes against budgets, and what was refused lately."""
        now = self._means.clock()
        budgets = self._means.budgets().of(pack_id)
        account = self._accounts.of(pack_id)
        return {
            "pack_id": pack_id,
            "budgets": budgets.as_dict(),
            "bytes_this_hour": account.hour.value(now),
            "hour_ends_in_s": round(account.hour.left_s(now)),
            "connections": [item.view(now) for item in self._open.get(pack_id, {}).values()],
            "destinations": [
                {"host": host, "connections": found.connections, "bytes_up": found.bytes_up,
                 "bytes_down": found.bytes_down, "bytes_this_hour": found.hour.value(now)}
                for host, found in sorted(account.destinations.items())
            ],
            "refused": account.refused,
            "recent_refusals": list(self._recent.get(pack_id, ())),
        }  # fmt: skip

    def totals(self) -> dict[str, tuple[int, int]]:
        """Pack → bytes up and down since the host started."""
        return self._accounts.totals()

    async def close(self) -> None:
        """End every connection, and open no more."""
        self._closing = True
        if self._sweep is not None:
            self._sweep.cancel()
        tasks = []
        for connection in [c for items in self._open.values() for c in items.values()]:
            connection.finish(_STOPPING)
            if connection.task is not None:
                tasks.append(connection.task)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_S)
        await self._apart(self._accounts.close)

    # --- opening

    async def _admit(
        self, pack_id: str, kind: str, target: Target, params: Mapping[str, Any]
    ) -> tuple[Connection, int]:
        """Budget, then right. The connection is counted from here on; whoever gets it hands it to ``_serve``."""
        if self._closing:
            raise _error(_STOPPING)
        now = self._means.clock()
        account = self._accounts.of(pack_id)
        budgets = self._means.budgets().of(pack_id)
        mine = self._open.setdefault(pack_id, {})
        over = account.open(target.host, len(mine) + self._opening.get(pack_id, 0), budgets, now)
        if over is not None:
            raise await self._refuse(pack_id, kind, str(target), over)
        self._opening[pack_id] = self._opening.get(pack_id, 0) + 1
        try:
            await self._accounts.keep(account, target.host, budgets)
            answer = await self._apart(partial(self._means.permissions.check, pack_id, kind, **params))
            if isinstance(answer, Deny):
                raise await self._refuse(pack_id, kind, str(target), Refused("denied", answer.reason, answer.hint))
        finally:
            self._opening[pack_id] -= 1
        connection = Connection(
            next(self._numbers), pack_id, kind, params, target, budgets, account, self._means.clock,
            self._accounts.keep, now, now,
        )  # fmt: skip
        mine[connection.number] = connection
        self._arm()
        return connection, answer.index

    def _ledger(self, connection: Connection) -> _Ledger:
        return _Ledger(self._open, connection)

    async def _serve(self, connection: Connection, carry: Callable[[socket.socket], Any]) -> None:
        """Resolve, check, record, dial, carry, record."""
        began = False
        cause: Refused = _CLOSED
        with self._ledger(connection):
            try:
                addresses = await self._addresses(connection)
                await self._note(connection, "egress.opened", addresses=[str(item) for item in addresses])
                began = True
                sock, connection.address = await dial(addresses, connection.target.port, connection.budgets.connect_s)
                await carry(sock)
            except CutError as exc:
                cause = exc.why
                raise self._cut(connection, cause) from None
            except asyncio.CancelledError:
                cause = connection.ended_by or Refused("given_up", "the Pack gave it up")
                if connection.ended_by is not None and not _cancelled_by_others():
                    raise self._cut(connection, cause) from None
                raise
            except ChannelReset as exc:
                cause = Refused("given_up", exc.detail)
                raise
            except RumiError as exc:
                cause = Refused(exc.code, exc.detail or exc.title)
                if isinstance(exc, HostError):
                    self._remember(connection.pack_id, connection.kind, str(connection.target), cause)
                raise
            finally:
                if began:
                    await self._ended(connection, cause)

    async def _addresses(self, connection: Connection) -> tuple[Address, ...]:
        """Every address of the target, each of them checked. Raises the refusal."""
        target, pack_id = connection.target, connection.pack_id
        if target.address is not None:
            found: tuple[Address, ...] = (target.address,)
        else:
            over = connection.account.lookup(connection.budgets, self._means.clock())
            if over is not None:
                raise await self._refuse(pack_id, connection.kind, str(target), over)
            await connection.kept()
            async with self._asking.setdefault(pack_id, asyncio.Semaphore(LOOKUPS_AT_ONCE)):
                found = await self._means.resolver.resolve(target.name, connection.budgets.connect_s)
        machine = await self._apart(partial(this_machine, self._means.own_ports()))
        literal = target.address is not None
        faults = (dial_fault(address, target.port, machine, literal=literal) for address in found)
        fault = next((fault for fault in faults if fault), "")
        if fault:
            why = Refused("address_refused", fault, "A private address needs a literal ip:port permission.")
            raise await self._refuse(pack_id, connection.kind, str(target), why)
        return found

    async def _secret_headers(
        self, connection: Connection, request: Request, granted: tuple[Injection, ...]
    ) -> list[tuple[str, str]]:
        clash = header_clash(request, granted)
        if clash:
            why = Refused("secret_header", f"the header {clash} is filled by the host", "Leave it out.")
            raise await self._refuse(connection.pack_id, connection.kind, str(connection.target), why)
        headers = []
        for item in granted:
            value = item.value(await self._apart(partial(self._means.secrets, connection.pack_id, item.secret)))
            if not value.isascii() or not value.isprintable():
                raise HostError(
                    f"The secret {item.secret} can't be sent in a header",
                    code="secret_unusable",
                    detail="It holds a line end or another character that no header has.",
                    hint="Enter it again, on one line.",
                )
            headers.append((item.header, value))
        return headers

    # --- endings and evidence

    def _cut(self, connection: Connection, why: Refused) -> RumiError:
        """What a connection that the host ended is told, and the operator with it."""
        self._remember(connection.pack_id, connection.kind, str(connection.target), why)
        if why.code.startswith("budget."):
            self._budget_issue(connection.pack_id, str(connection.target), why)
        return _error(why)

    async def _refuse(self, pack_id: str, kind: str, target: str, why: Refused) -> RumiError:
        """Record a refusal: each of the first ones of a minute, then their number. Returns what to raise."""
        account = self._accounts.of(pack_id)
        account.refused += 1
        self._remember(pack_id, kind, target, why)
        if why.code.startswith("budget."):
            self._budget_issue(pack_id, target, why)
        now = self._means.clock()
        since, count = self._told.get(pack_id, (now, 0))
        if now - since >= 60:
            since, count = now, 0
        self._told[pack_id] = (since, count + 1)
        if count < REFUSALS_PER_MINUTE or not count % 1_000:
            await self._apart(partial(
                self._means.audit.note, "egress.refused", pack_id=pack_id, kind=kind, target=target[:200],
                code=why.code, reason=why.reason[:300], refused=account.refused,
            ))  # fmt: skip
        return _error(why)

    def _remember(self, pack_id: str, kind: str, target: str, why: Refused) -> None:
        self._recent.setdefault(pack_id, deque(maxlen=RECENT)).append(
            {"at": time.time(), "kind": kind, "target": target[:200], "code": why.code, "reason": why.reason[:300]}
        )

    def _budget_issue(self, pack_id: str, target: str, why: Refused) -> None:
        budget = why.code.removeprefix("budget.")
        now = self._means.clock()
        if now - self._issued.get((pack_id, budget), float("-inf")) < ISSUE_INTERVAL_S:
            return
        self._issued[pack_id, budget] = now
        self._means.diagnostics.issue(
            "egress_budget",
            Severity.WARN,
            pack_id,
            f"The Pack {pack_id} used up a budget of its connections",
            f"{budget}: {why.reason} (last: {target}). {why.hint}",
            f"See: rumi pack egress {pack_id}. To allow more, set {budget} in user_data/egress.json.",
            {"budget": budget, "target": target[:200]},
        )

    async def _note(
        self, connection: Connection, event: str, record: Callable[..., None] | None = None, **fields: Any
    ) -> None:
        await self._apart(partial(
            record or self._means.audit.note, event, pack_id=connection.pack_id, kind=connection.kind,
            id=connection.number, target=str(connection.target), **fields,
        ))  # fmt: skip

    async def _apart(self, work: Callable[[], _T]) -> _T:
        """In a thread of ``Means.work``, in whose right it is done here."""
        apart = partial(contextvars.copy_context().run, work)
        return await asyncio.get_running_loop().run_in_executor(self._means.work, apart)

    async def _ended(self, connection: Connection, cause: Refused) -> None:
        seconds = round(self._means.clock() - connection.started, 3)
        ended = self._note(
            connection, "egress.ended", self._means.audit.happened, address=str(connection.address or ""),
            bytes_up=connection.bytes_up, bytes_down=connection.bytes_down, seconds=seconds, cause=cause.code,
            detail=cause.reason[:300], sync=False,
        )  # fmt: skip
        await asyncio.shield(ended)

    # --- time

    def _arm(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(SWEEP_S, self._look)

    def _look(self) -> None:
        """End what is overdue or no longer granted; goes on while anything is open."""
        self._sweep = None
        now = self._means.clock()
        for pack_id, items in tuple(self._open.items()):
            for connection in tuple(items.values()):
                late = connection.overdue(now)
                if late is not None:
                    connection.finish(late)
            self.recheck(pack_id)
        if any(self._open.values()):
            self._arm()


class _Ledger:
    """Keeps a connection in the table of open ones while the block runs."""

    def __init__(self, table: dict[str, dict[int, Connection]], connection: Connection) -> None:
        self._table = table
        self._connection = connection

    def __enter__(self) -> None:
        self._table.setdefault(self._connection.pack_id, {})[self._connection.number] = self._connection

    def __exit__(self, *_exc: object) -> None:
        self._table.get(self._connection.pack_id, {}).pop(self._connection.number, None)


def _cancelled_by_others() -> bool:
    """Whether the session's end cancelled the task as well: then the cancellation must go on."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 1


def _error(why: Refused) -> RumiError:
    """A refusal as the error that its Pack gets."""
    if why.code in {"idle", "too_long"}:
        return PackTimeout("The connection was ended", code="timeout", detail=f"{why.code}: {why.reason}")
    if why.code in {"reset", "answer_malformed"}:
        return PackError("The connection failed", code=why.code, detail=why.reason, retryable=True)
    code = why.code if why.code in {"denied", "revoked", "fetch_only"} else f"egress.{why.code}"
    return DeniedError(why.reason, code=code, detail=why.hint)


def _see(pack_id: str) -> str:
    return f"See: rumi pack permissions {pack_id}."

"""The ways out of the sandboxes, put together: the broker and the operator's budgets.

Invariants:
  * Budgets that can't be read open nothing: a broken file is an Issue, and a refusal until it is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend_core.errors import RumiError, TrustError, quote
from backend_core.files import read_bounded
from backend_core.parsing import parse_json
from core_runtime.bus.channels import Channel, Serve
from core_runtime.drivers.resolver import SystemResolver
from core_runtime.drivers.spent_file import SpentFile
from core_runtime.egress.broker import Broker, Means
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.handlers.requests import by_right_of
from core_runtime.rules.budgets import BudgetTable, parse_budgets
from core_runtime.rules.settings import DEFAULT_API_PORT, DEFAULT_WEB_PORT

BUDGETS_FILE = "egress.json"
BUDGETS_LIMIT_BYTES = 256 * 1024
NO_BUDGETS = "egress_budgets_unusable"


def open_broker(host: Host) -> Broker:
    """The broker, bound to the bus."""
    broker = Broker(
        Means(
            permissions=host.permissions,
            audit=host.audit,
            diagnostics=host.diagnostics,
            resolver=SystemResolver(),
            budgets=BudgetFile(host),
            secrets=host.secrets.store.reveal,
            own_ports=lambda: frozenset(
                {DEFAULT_API_PORT, DEFAULT_WEB_PORT, host.settings.api_port, host.settings.web_port}
            ),
            work=host.pack_work,
            spent=SpentFile(host.approvals.grants.keyring),
        )
    )
    host.bus.channels.update({"network.connect": _by_right(broker.network), "http.fetch": _by_right(broker.fetch)})
    return broker


def _by_right(serve: Serve) -> Serve:
    """Served by the right of the generation that asks; none for a version on trial, which can't take it back."""

    async def served(channel: Channel, operation: str, args: Mapping[str, Any]) -> None:
        with by_right_of(channel.session, operation):
            await serve(channel, operation, args)

    return served


async def view(host: Host, pack_id: str) -> dict[str, Any]:
    """One Pack's connections and budgets; ``NotFoundError`` for a Pack that is not there."""
    await packs.status(host, pack_id)
    return host.egress.view(pack_id)


class BudgetFile:
    """``user_data/egress.json``, read again when it changes. Without the file: the defaults."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._path = host.settings.user_data / BUDGETS_FILE
        self._seen: object = None
        self._found: BudgetTable | str = BudgetTable()

    def __call__(self) -> BudgetTable:
        """The table in force. Raises ``TrustError`` while the file can't be used."""
        try:
            stat = self._path.stat()
            seen: object = (stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
        except OSError as exc:
            seen = type(exc)
        if seen != self._seen:
            self._seen, self._found = seen, self._read()
            self._tell()
        if isinstance(self._found, str):
            raise TrustError(
                "The budgets of connections can't be read", code=NO_BUDGETS, detail=f"{BUDGETS_FILE}: {self._found}",
                hint=f"Correct user_data/{BUDGETS_FILE}; no connection is opened until then.",
            )  # fmt: skip
        return self._found

    def _read(self) -> BudgetTable | str:
        try:
            return parse_budgets(parse_json(read_bounded(self._path, BUDGETS_LIMIT_BYTES), source=BUDGETS_FILE))
        except FileNotFoundError:
            return BudgetTable()
        except (OSError, ValueError, RumiError) as exc:
            return quote(str(exc), 300)

    def _tell(self) -> None:
        diagnostics = self._host.diagnostics
        if isinstance(self._found, str):
            diagnostics.issue(
                NO_BUDGETS, "error", BUDGETS_FILE, "The budgets of connections can't be read", self._found,
                f"Correct user_data/{BUDGETS_FILE}; no connection is opened until then.",
            )  # fmt: skip
        else:
            diagnostics.resolve(NO_BUDGETS, BUDGETS_FILE)

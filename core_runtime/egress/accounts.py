"""The accounts of all Packs, and their copy on disk: whoever ends the host, what was spent stays spent.

Invariants:
  * Nothing passes, is opened or is looked up before the copy says at least as much (``keep``); where that can't be
    written, it does not happen.
  * The copy is written once for each ``STEPS``-th of a budget, and exactly at an orderly end. A host that was killed
    costs a Pack up to one step, and gains it nothing.
  * A copy that can't be believed is an Issue, and the budgets begin anew: no Pack reaches the file.

Not here: what is counted (``rules.budgets``), the file (``drivers.spent_file``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Protocol

from backend_core.errors import HostError, TrustError
from core_runtime.diagnostics import Diagnostics, Severity
from core_runtime.rules.budgets import Account, Budgets, Spent

SUBJECT = "egress"


class Copy(Protocol):
    """Where what was spent is kept."""

    def load(self, wall_s: float) -> dict[str, Spent]:
        """By Pack. Raises ``TrustError``."""

    def store(self, spent: Mapping[str, Spent], wall_s: float) -> None:
        """Replace it durably. Raises ``OSError`` or ``TrustError``."""


class Accounts:
    """See the module docstring. Belongs to the event loop's thread, but for the making."""

    def __init__(
        self,
        copy: Copy,
        diagnostics: Diagnostics,
        work: Executor,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._copy = copy
        self._diagnostics = diagnostics
        self._work = work
        self._clock = clock
        self._wall = wall
        self._accounts: dict[str, Account] = {}
        self._writing = asyncio.Lock()
        self._load()

    def of(self, pack_id: str) -> Account:
        """The account of one Pack."""
        return self._accounts.setdefault(pack_id, Account())

    def totals(self) -> dict[str, tuple[int, int]]:
        """Pack → bytes up and down since the host started."""
        return {
            pack_id: (
                sum(d.bytes_up for d in account.destinations.values()),
                sum(d.bytes_down for d in account.destinations.values()),
            )
            for pack_id, account in self._accounts.items()
        }

    async def keep(self, account: Account, host: str, budgets: Budgets) -> None:
        """See to it that the copy says what was just counted. Raises ``HostError`` where it can't be written."""
        if account.is_kept(host, self._clock()):
            return
        async with self._writing:
            now = self._clock()
            if account.is_kept(host, now):  # another one that waited has seen to it
                return
            copies = {
                pack_id: one.ahead(budgets, now) if one is account else one.spent(now)
                for pack_id, one in self._accounts.items()
            }
            wall_s = self._wall()
            try:
                await asyncio.get_running_loop().run_in_executor(self._work, self._copy.store, copies, wall_s)
            except (OSError, TrustError) as error:
                raise self._unwritable(error) from error
            for pack_id, copy in copies.items():
                self._accounts[pack_id].kept(copy, now)

    def close(self) -> None:
        """Write down what was spent, exactly. What can't be written stays as it was: never less."""
        now = self._clock()
        try:
            spent = {pack_id: one.spent(now, exactly=True) for pack_id, one in self._accounts.items()}
            self._copy.store(spent, self._wall())
        except (OSError, TrustError) as error:
            self._unwritable(error)

    def _load(self) -> None:
        now = self._clock()
        try:
            for pack_id, spent in self._copy.load(self._wall()).items():
                self.of(pack_id).restore(spent, now)
        except TrustError as error:
            self._diagnostics.issue(
                "egress_budgets_lost", Severity.WARN, SUBJECT, error.title, f"{error.code}: {error.detail}", error.hint
            )

    def _unwritable(self, error: Exception) -> HostError:
        told = HostError(
            "What a Pack spends of its budgets can't be written down",
            code="egress_budgets_unwritable",
            detail=str(error),
            hint="Free space below user_data/permissions; no connection goes on until then.",
        )
        self._diagnostics.issue(told.code, Severity.ERROR, SUBJECT, told.title, told.detail, told.hint)
        return told

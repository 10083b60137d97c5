"""How much a Pack may send and receive: connections, bytes, lookups, times, as the operator set them. Pure.

Invariants:
  * Bytes count when they pass, both ways, for the Pack and for the destination; a window of time starts with its first
    byte and ends by itself.
  * What a Pack is charged for is bounded in memory: destinations beyond ``MAX_DESTINATIONS`` are counted together.
  * What was spent is kept ahead of the spending (``ahead``): the copy that a killed host leaves says as much as was
    spent, or one ``STEPS``-th of the budget more, never less.

Not here: clocks (``now`` comes in, monotonic seconds), cutting connections and the copy itself (``egress``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from backend_core.errors import quote
from core_runtime.rules.egress import Refused

MAX_DESTINATIONS: Final = 256
OTHERS: Final = "(other hosts)"
BURST_S: Final = 0.05
HOUR_S: Final = 3_600.0
MINUTE_S: Final = 60.0
STEPS: Final = 16
HOUR: Final = "bytes"
MINUTE: Final = "connections"
LOOKUPS: Final = "lookups"
TO: Final = "to "
"""Before a host: the window of bytes that passed to and from it."""
Spent: TypeAlias = dict[str, tuple[float, int]]
"""By window: how many seconds ago it began, and its sum."""


class Budgets(Struct, frozen=True):
    """Limits of one Pack's connections, each changeable in ``user_data/egress.json``."""

    connections: int = 32
    connections_per_minute: int = 600
    lookups_per_minute: int = 120
    bytes_per_s: int = 64 << 20
    bytes_per_hour: int = 1 << 30
    bytes_per_hour_and_host: int = 1 << 30
    connect_s: float = 15.0
    idle_s: float = 120.0
    total_s: float = 6 * HOUR_S
    response_bytes: int = 256 << 20
    request_bytes: int = 64 << 20

    def as_dict(self) -> dict[str, float]:
        """By name, for the API."""
        return asdict(self)


_WHOLE: Final = frozenset(name for name in Budgets.__struct_fields__ if not name.endswith("_s"))
_MOST: Final[Mapping[str, float]] = {
    "connections": 256, "connections_per_minute": 1e6, "lookups_per_minute": 1e6, "connect_s": 300, "idle_s": 86_400,
    "total_s": 30 * 86_400,
}  # fmt: skip
"""``connections`` is bounded by what one bus connection carries."""


class BudgetTable(Struct, frozen=True):
    """The operator's choices: for all Packs, and for single ones."""

    common: Budgets = field(default_factory=Budgets)
    packs: Mapping[str, Budgets] = field(default_factory=dict)

    def of(self, pack_id: str) -> Budgets:
        """What holds for one Pack."""
        return self.packs.get(pack_id, self.common)


def parse_budgets(document: Any) -> BudgetTable | str:
    """``{"budgets": {name: number}, "packs": {id: {name: number}}}``, or why it can't be used."""
    if not isinstance(document, Mapping) or set(document) - {"budgets", "packs"}:
        return 'expected an object with "budgets" and "packs" only'
    common = _parse(document.get("budgets", {}), Budgets())
    if isinstance(common, str):
        return f"budgets: {common}"
    packs = document.get("packs", {})
    if not isinstance(packs, Mapping):
        return "packs: expected an object"
    chosen: dict[str, Budgets] = {}
    for pack_id, values in packs.items():
        found = _parse(values, common)
        if isinstance(found, str):
            return f"packs/{quote(pack_id, 80)}: {found}"
        chosen[str(pack_id)] = found
    return BudgetTable(common, chosen)


def _parse(values: Any, base: Budgets) -> Budgets | str:
    if not isinstance(values, Mapping):
        return "expected an object"
    known = set(Budgets.__struct_fields__)
    for name, value in values.items():
        if name not in known:
            return f"{quote(name, 60)} is none of {', '.join(sorted(known))}"
        most, whole = _MOST.get(name, 1 << 50), name in _WHOLE
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not 0 < value <= most or (whole and not isinstance(value, int)):
            return f"{name} must be a {'whole ' * whole}number above 0 and at most {most:.0f}"
    return replace(base, **{str(name): value for name, value in values.items()})


class Window:
    """A sum over a span of time that starts with its first entry."""

    __slots__ = ("kept", "span_s", "started", "total")

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self.started = -math.inf
        self.total = 0
        self.kept = 0
        """The sum that the copy of this span holds."""

    def value(self, now: float) -> int:
        """The sum of the current span."""
        if now - self.started >= self.span_s:
            self.total = 0
        return self.total

    def add(self, amount: int, now: float) -> int:
        """Count; the sum afterwards."""
        if now - self.started >= self.span_s:
            self.started, self.total, self.kept = now, 0, 0
        self.total += amount
        return self.total

    def begin_again(self, age_s: float, total: int, now: float) -> None:
        """As it was left; one whose time is over stays empty."""
        if 0 <= age_s < self.span_s and total > 0:
            self.started, self.total, self.kept = now - age_s, total, total

    def left_s(self, now: float) -> float:
        """Seconds until it starts anew."""
        return max(0.0, self.started + self.span_s - now)


class Destination(Struct):
    """What went to one host and came from it since the host started."""

    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0
    hour: Window = field(default_factory=lambda: Window(HOUR_S))


class Account:
    """One Pack's use of its budgets. It outlives the Pack's restarts: starting anew buys nothing."""

    __slots__ = ("_free_at", "_lookups", "_minute", "destinations", "hour", "refused")

    def __init__(self) -> None:
        self._free_at = 0.0
        self.destinations: dict[str, Destination] = {}
        self.hour = Window(HOUR_S)
        self._minute = Window(MINUTE_S)
        self._lookups = Window(MINUTE_S)
        self.refused = 0

    def open(self, host: str, open_now: int, budgets: Budgets, now: float) -> Refused | None:
        """Count one more connection, if the budgets leave room for it."""
        if open_now >= budgets.connections:
            return _over("connections", f"{budgets.connections} connections are open already", "Close one first.")
        if self._minute.value(now) >= budgets.connections_per_minute:
            return _over("connections_per_minute", f"{budgets.connections_per_minute} connections were opened within a "
                         "minute", "Keep connections open, or wait.")  # fmt: skip
        over = self.exceeded(host, budgets, now)
        if over is not None:
            return over
        self._minute.add(1, now)
        self.destination(host).connections += 1
        return None

    def lookup(self, budgets: Budgets, now: float) -> Refused | None:
        """Count one look-up of a name."""
        if self._lookups.value(now) >= budgets.lookups_per_minute:
            return _over("lookups_per_minute", f"{budgets.lookups_per_minute} names were looked up within a minute",
                         "Keep connections open, or wait.")  # fmt: skip
        self._lookups.add(1, now)
        return None

    def count(self, host: str, up: int, down: int, now: float) -> None:
        """Bytes that passed."""
        found = self.destination(host)
        found.bytes_up += up
        found.bytes_down += down
        found.hour.add(up + down, now)
        self.hour.add(up + down, now)

    def wait_s(self, count: int, budgets: Budgets, now: float) -> float:
        """How long ``count`` bytes have to wait, so that all of the Pack's together keep to ``bytes_per_s``: the loop
        that moves them belongs to everybody.
        """
        self._free_at = max(self._free_at, now - BURST_S) + count / budgets.bytes_per_s
        return max(0.0, self._free_at - now)

    def exceeded(self, host: str, budgets: Budgets, now: float) -> Refused | None:
        """Which budget of bytes is used up, if any."""
        if self.hour.value(now) >= budgets.bytes_per_hour:
            return _over("bytes_per_hour", f"{budgets.bytes_per_hour} bytes passed within an hour",
                         f"The next hour begins in {self.hour.left_s(now):.0f} s.")  # fmt: skip
        window = self.destination(host).hour
        if window.value(now) >= budgets.bytes_per_hour_and_host:
            return _over("bytes_per_hour_and_host", f"{budgets.bytes_per_hour_and_host} bytes passed to and from "
                         f"{host} within an hour", f"The next hour begins in {window.left_s(now):.0f} s.")  # fmt: skip
        return None

    def is_kept(self, host: str, now: float) -> bool:
        """Whether the copy says what was spent: of one host, and of what is counted for all of them."""
        windows = (self.hour, self.destination(host).hour, self._minute, self._lookups)
        return all(window.value(now) <= window.kept for window in windows)

    def ahead(self, budgets: Budgets, now: float) -> Spent:
        """What the copy has to say before more may pass: a step more than was spent, where it says too little now."""
        found: Spent = {}
        for name, window, limit in self._windows(budgets):
            spent = window.value(now)
            step = min(limit, spent + max(1, int(limit) // STEPS)) if spent > window.kept else window.kept
            if spent:
                found[name] = (now - window.started, max(spent, int(step)))
        return found

    def spent(self, now: float, *, exactly: bool = False) -> Spent:
        """What the copy says, or (``exactly``) what was spent."""
        windows = ((name, window, window.value(now)) for name, window, _ in self._windows(Budgets()))
        return {n: (now - w.started, spent if exactly else max(w.kept, spent)) for n, w, spent in windows if spent}

    def kept(self, copy: Spent, now: float) -> None:
        """The copy says this now. A window that began anew in the meantime was not meant."""
        for name, window, _ in self._windows(Budgets()):
            if name in copy and window.value(now) and abs(now - window.started - copy[name][0]) < window.span_s / 2:
                window.kept = max(window.kept, copy[name][1])

    def restore(self, copy: Spent, now: float) -> None:
        """Go on from a copy."""
        for name, (age_s, total) in copy.items():
            if name.startswith(TO):
                self.destination(name.removeprefix(TO)).hour.begin_again(age_s, total, now)
        for name, window in ((HOUR, self.hour), (MINUTE, self._minute), (LOOKUPS, self._lookups)):
            if name in copy:
                window.begin_again(*copy[name], now)

    def _windows(self, budgets: Budgets) -> Iterator[tuple[str, Window, float]]:
        yield HOUR, self.hour, budgets.bytes_per_hour
        yield MINUTE, self._minute, budgets.connections_per_minute
        yield LOOKUPS, self._lookups, budgets.lookups_per_minute
        for host, found in self.destinations.items():
            yield TO + host, found.hour, budgets.bytes_per_hour_and_host

    def destination(self, host: str) -> Destination:
        """The counters of one host."""
        if host not in self.destinations and len(self.destinations) >= MAX_DESTINATIONS:
            host = OTHERS
        return self.destinations.setdefault(host, Destination())


def _over(budget: str, reason: str, hint: str) -> Refused:
    return Refused(f"budget.{budget}", reason, hint)

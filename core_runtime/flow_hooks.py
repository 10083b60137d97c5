"""Hooks of Packs around the steps of flows: who is asked, within which time, and what becomes of one that fails.

Invariants:
  * A Pack's hook is asked about steps of its own flows and of those that it may modify (``flow.modify``), judged at
    each step; of others it learns nothing, not even that they run.
  * Each has ``HOOK_S``. One that fails or is late says nothing, and the run goes on; after ``OFF_AFTER`` failures in a
    row it is no longer asked until it is registered anew, with an Issue.
  * Asked in the order of Pack ids; of several answers the first one counts.

Not here: what an answer means, and which steps are closed to hooks (``rules.flow.hooks``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Protocol

from backend_core.errors import DeniedError, RumiError, quote
from core_runtime.bus.calls import KERNEL, CallContext
from core_runtime.diagnostics import Severity
from core_runtime.handlers.host import Host
from core_runtime.interface_registry import Entry
from core_runtime.rules.flow.asking import Consult
from core_runtime.rules.flow.hooks import Hook, Word, word_of
from core_runtime.rules.values import ValueProblem, pack

HOOK_S: Final = 2.0
OFF_AFTER: Final = 3
MAX_TOLD_BYTES: Final = 256 * 1024
"""Of a run's variables; more is left out, and said to be."""


class Owners(Protocol):
    """What hooks ask their kernel."""

    host: Host

    def owner_of(self, flow_id: str) -> str:
        """The Pack that a flow belongs to, or ``""``."""


class FlowHooks:
    """Those of one kernel. For the event loop's thread."""

    def __init__(self, kernel: Owners) -> None:
        self._kernel = kernel
        self._failures: dict[int, int] = {}

    def present(self) -> frozenset[str]:
        """The hooks that somebody provides now. Asked once for each run."""
        registry = self._kernel.host.registry
        return frozenset(hook.value for hook in Hook if registry.slot(hook.value) is not None)

    async def ask(self, effect: Consult, run_id: str) -> str:
        """What the hooks say, as a ``Word``."""
        hook = Hook(effect.hook)
        said = Word.NONE
        told = None
        for entry in self._asked(hook, effect.flow):
            told = told or _told(effect, run_id)
            word = await self._one(hook, entry, effect, told)
            said = said or word
        return said.value

    def _asked(self, hook: Hook, flow_id: str) -> list[Entry]:
        """Who may hear of a step of that flow, one of each Pack: the newest."""
        slot = self._kernel.host.registry.slot(hook.value)
        entries = {entry.pack: entry for entry in slot.entries} if slot is not None else {}
        return [
            entry
            for pack, entry in sorted(entries.items())
            if self._failures.get(entry.number, 0) < OFF_AFTER and self._may_hear(pack, flow_id)
        ]

    def _may_hear(self, pack: str, flow_id: str) -> bool:
        if not pack or pack == self._kernel.owner_of(flow_id):
            return True
        host = self._kernel.host
        return host.built("permissions") and host.permissions.has(pack, "flow.modify", flow=flow_id)

    async def _one(self, hook: Hook, entry: Entry, effect: Consult, told: Mapping[str, Any]) -> Word:
        try:
            if not callable(entry.value):
                raise DeniedError("A hook is a function", detail=f"{hook.value} holds data.")
            async with asyncio.timeout(HOOK_S):
                answer = await entry.value(told, CallContext(caller=KERNEL, flow=effect.flow), timeout_s=HOOK_S)
        except (RumiError, TimeoutError) as error:
            self._failed(hook, entry, effect, error)
            return Word.NONE
        self._failures.pop(entry.number, None)
        return word_of(hook, answer)

    def _failed(self, hook: Hook, entry: Entry, effect: Consult, error: Exception) -> None:
        count = self._failures[entry.number] = self._failures.get(entry.number, 0) + 1
        off = " It is not asked any more until it is registered anew." if count >= OFF_AFTER else ""
        why = str(error) or f"no answer within {HOOK_S:g} s"
        self._kernel.host.diagnostics.issue(
            "flow_hook_failed", Severity.WARN, f"{entry.pack or 'host'} {hook.value}", "A hook of a flow failed",
            f"At {quote(effect.flow, 80)}, {quote(effect.path, 120)}: {quote(why, 300)}.{off}",
            f"The run goes on without it. Its log: rumi logs {entry.pack}",
        )  # fmt: skip


def _told(effect: Consult, run_id: str) -> dict[str, Any]:
    """What a hook is given: ``{step, ctx, meta, …}``; variables only where they are plain and not too large."""
    ctx: Any = effect.variables
    try:
        if len(pack(ctx)) > MAX_TOLD_BYTES:
            ctx = {"_omitted": f"more than {MAX_TOLD_BYTES} bytes"}
    except ValueProblem as problem:
        ctx = {"_omitted": str(problem)[:200]}
    return {"ctx": ctx, "meta": {"run_id": run_id, "flow": effect.flow, "path": effect.path}, **effect.told}

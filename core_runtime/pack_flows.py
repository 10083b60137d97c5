"""Flows that Packs start from their own code: the host's key ``flows.run``, called over the bus like any other.

``{"flow": id, "input": …}`` → ``{"run_id", "flow", "status", "output", "error"}``; the call lasts as long as the run,
ends it when it is given up, and its deadline is the run's.

Invariants:
  * The Pack must hold ``flow.run`` for the flow, also for its own; it gains nothing else: each step acts as whoever
    supplied it. Official flows (``flow/core``) are nobody's to start.
  * The steps' calls belong to the Pack's call, so that depth and deadline are those of the whole tree. Within it flows
    start flows at most ``MAX_DEPTH`` deep, and a Pack has at most ``MAX_AT_ONCE`` such runs under way.
  * A version on trial starts nothing.

Not here: runs (``flow_runs``), who sees the key (``permission_manager``).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final, Protocol

from backend_core.errors import ConflictError, DeniedError, NotFoundError, RequestError, quote
from core_runtime.bus.calls import Call, HostContext
from core_runtime.flow_reports import RunReport
from core_runtime.handlers.host import Host
from core_runtime.handlers.requests import by_right_of
from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Composition
from core_runtime.rules.permission_kinds import FLOWS_RUN
from core_runtime.rules.permissions import Deny

MAX_DEPTH: Final = 8
MAX_AT_ONCE: Final = 16
OPERATION: Final = "flow.run"


class Starting(Protocol):
    """What this asks the kernel."""

    host: Host

    async def flows(self) -> Mapping[str, Composition]:
        """Every flow as it would run now."""

    async def start(self, composition: Composition, *, values: Any, actor: str, parent: Call | None) -> RunReport:
        """Run a flow to its end."""


class PackFlows:
    """Those of one kernel. For the event loop's thread."""

    def __init__(self, kernel: Starting) -> None:
        self._kernel = kernel
        self._at_once: Counter[str] = Counter()

    def offer(self) -> None:
        """Register the key; whatever Packs register under it answers nobody."""

        async def run(args: Any, ctx: HostContext) -> dict[str, Any]:
            return await self._run(args, ctx)

        self._kernel.host.registry.add(FLOWS_RUN, run, override=True, meta={"about": "starts a flow"})

    async def _run(self, args: Any, ctx: HostContext) -> dict[str, Any]:
        flow_id, values = _asked(args)
        call = ctx.call
        if call.caller is None:
            raise RequestError(
                "This key is for Packs", code="not_for_the_host", detail="The operator runs flows directly.",
                hint="rumi flow run FLOW",
            )  # fmt: skip
        pack_id = call.caller.pack_id
        with by_right_of(call.caller, OPERATION):
            answer = await asyncio.to_thread(self._kernel.host.permissions.check, pack_id, "flow.run", flow=flow_id)
        if isinstance(answer, Deny):
            raise answer.error()
        if _depth(call) > MAX_DEPTH:
            raise ConflictError(
                f"Flows start each other deeper than {MAX_DEPTH}", code="depth",
                detail=f"{pack_id} asks for {quote(flow_id, 80)}.", hint="Let the innermost one return instead.",
            )  # fmt: skip
        if self._at_once[pack_id] >= MAX_AT_ONCE:
            raise ConflictError(
                f"{MAX_AT_ONCE} runs that {pack_id} began are under way", code="limit", detail="One has to end first.",
                hint="Wait for them, or end them: rumi flow runs",
            )  # fmt: skip
        self._at_once[pack_id] += 1
        try:
            return await self._started(pack_id, flow_id, values, call)
        finally:
            self._at_once[pack_id] -= 1

    async def _started(self, pack_id: str, flow_id: str, values: Any, call: Call) -> dict[str, Any]:
        composition = (await self._kernel.flows()).get(flow_id)
        if composition is None:
            raise NotFoundError(f"There is no flow {quote(flow_id, 80)}", code="flow_unknown")
        if composition.plan.flow.layer is model.Layer.CORE:
            raise DeniedError("Official flows are the host's own", detail=f"{pack_id} asks for {flow_id}.")
        report = await self._kernel.start(composition, values=values, actor=f"pack: {pack_id}", parent=call)
        return {
            "run_id": report.run_id,
            "flow": flow_id,
            "status": report.status.value if report.status else "",
            "output": report.output,
            "error": report.error.as_dict() if report.error else None,
        }


def _asked(args: Any) -> tuple[str, Any]:
    if isinstance(args, Mapping) and set(args) <= {"flow", "input"}:
        flow_id = args.get("flow")
        if isinstance(flow_id, str) and 0 < len(flow_id) <= 600:
            return flow_id, args.get("input", {})
    raise RequestError(
        "flows.run got the wrong arguments", code="arguments", detail="Expected {flow: id, input: its input}.",
        hint="See the reference of flows.",
    )  # fmt: skip


def _depth(call: Call) -> int:
    """How many calls of this key lead here, itself included."""
    depth = 0
    one: Call | None = call
    while one is not None:
        depth, one = depth + (one.key == FLOWS_RUN), one.parent
    return depth

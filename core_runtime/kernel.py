"""The kernel: binds names to handlers and runs flows. It knows no feature and no phase.

Two kinds of names can be called by a step: ``kernel:<name>``, a handler of the host (from official flows only), and an
interface key, whoever provides it. Everything else about a flow is decided in ``rules.flow``.

Not here: reading flow files (``flow_composer``), runs (``flow_runs``), performing their effects (``flow_run``), what
starts them by itself (``flow_triggers``), what handlers do (``handlers``), order and meaning (``rules.flow``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, Final

from backend_core.errors import HostError, NotFoundError, RumiError, quote
from core_runtime.bus.calls import Call
from core_runtime.drivers import cel
from core_runtime.drivers.flow_view import FlowView
from core_runtime.drivers.keys import Keyring
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.flow_calls import KernelHandler
from core_runtime.flow_composer import FlowComposer, PackDocuments
from core_runtime.flow_hooks import FlowHooks
from core_runtime.flow_reports import RunReport
from core_runtime.flow_run import Emit
from core_runtime.flow_runs import Began, FlowRuns
from core_runtime.flow_triggers import FlowTriggers
from core_runtime.handlers import table
from core_runtime.handlers.aliases import meant
from core_runtime.handlers.host import Host
from core_runtime.pack_flows import PackFlows
from core_runtime.rules.combination import PackNode
from core_runtime.rules.flow import model, values
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Composition, World
from core_runtime.rules.flow.explain import as_diff
from core_runtime.rules.flow.parse_scalars import suggestion
from core_runtime.rules.flow.plan import Plan, handler_of, plan_flow, walk_steps
from core_runtime.rules.flow.run import Surroundings
from core_runtime.rules.permissions import Allow

RUNS_FOLDER = "runs"
BEGIN_S: Final = 2.0
"""How long somebody who only begins a run waits for another one's end before he is told that it waits."""
MAX_ALONE: Final = 100


class Kernel:
    """Runs flows on behalf of one host."""

    def __init__(self, host: Host, packs: PackDocuments = lambda: ()) -> None:
        """``packs`` gives the flow documents of every approved Pack."""
        self.host = host
        self.composer = FlowComposer(
            core=host.settings.project_root / "flow" / "core",
            ecosystem=(host.settings.project_root / "flow" / "ecosystem",),
            user=(host.settings.project_root / "flow", host.settings.home / "user_data" / "flows"),
            packs=packs,
            diagnostics=host.diagnostics,
        )
        self.last_runs: dict[str, RunReport] = {}
        self._handlers: dict[str, KernelHandler] = dict(table.registered())
        self._plans: dict[str, Plan] = {}
        self._digests: dict[str, str] = {}
        self._alone = 0
        surroundings = Surroundings(self._plans.get, self._may_run, random.random)  # noqa: S311 - jitter, no secret
        data = host.settings.home / "user_data"
        seals = partial(RunSeals.of, Keyring(data / "permissions"))
        self.runs = FlowRuns(self, data / RUNS_FOLDER, surroundings, seals)
        self.hooks = FlowHooks(self)
        self._view = FlowView(host.settings.home / "ecosystem" / "flows")
        self._viewed: dict[tuple[str, str], dict[str, str]] | None = None
        self.triggers = FlowTriggers(self)
        PackFlows(self).offer()
        host.flow_joins = self.joins
        values.use(None if cel.available() else cel.compile_expression)

    async def joins(self) -> list[PackNode]:
        """Every flow as it would run now: the keys that it calls, and the Packs that supplied its steps."""
        await self.flows()
        return [self._joins(flow_id, plan) for flow_id, plan in sorted(self._plans.items())]

    def register_handler(self, name: str, fn: KernelHandler) -> None:
        """Bind ``kernel:<name>``. A name that is bound already is a programming error."""
        if name in self._handlers:
            raise ValueError(f"the kernel handler {name!r} is registered twice")
        self._handlers[name] = fn

    def kernel_handler(self, name: str) -> KernelHandler | None:
        """The host's own handler ``kernel:<name>``."""
        return self._handlers.get(name)

    def has_handler(self, name: str) -> bool:
        """Whether a step could call ``name`` now."""
        if name.startswith(model.KERNEL_PREFIX):
            return name.removeprefix(model.KERNEL_PREFIX) in self._handlers
        return self.host.registry.resolve(meant(self.host, name)) is not None

    def plan_of(self, flow_id: str) -> Plan | None:
        """A flow as of the last look."""
        return self._plans.get(flow_id)

    def owner_of(self, flow_id: str) -> str:
        """The Pack that a flow belongs to, as of the last look; ``""`` for one of the host or the operator."""
        plan = self._plans.get(flow_id)
        return plan.flow.origin.pack if plan else ""

    async def flows(self) -> Mapping[str, Composition]:
        """Every flow as it would run now: files and Packs are read anew."""
        found = await asyncio.to_thread(self.composer.load, self._world())
        self._plans.clear()
        self._plans.update({flow_id: composition.plan for flow_id, composition in found.items()})
        self._digests = {flow_id: composition.digest for flow_id, composition in found.items()}
        self.triggers.adopt(found)
        self.runs.end_orphans(found)
        return found

    async def settle(self, *, decided: bool) -> None:
        """What files and Packs bring counts, or ends, and the operator's view says so.

        ``decided``: after a decision about a Pack; the view is then looked after even where no flow is another one.
        """
        found = await self.flows()
        owned = ((flow_id, one.plan.flow.origin.pack, one) for flow_id, one in found.items())
        said = {(flow_id, pack): _said(one) for flow_id, pack, one in owned if pack}
        if said == self._viewed and not decided:
            return
        self._viewed = None
        wanted = {place: (plain(found[place[0]].document), words) for place, words in said.items()}
        try:
            await asyncio.to_thread(self._view.write, wanted)
        except HostError as error:
            self.host.note_error("ecosystem/flows", error)
        else:
            self._viewed = said
            self.host.diagnostics.resolve("flow_view", "ecosystem/flows")

    async def flow(self, flow_id: str) -> Composition:
        """One flow as it would run now. ``NotFoundError`` when there is none."""
        found = await self.flows()
        if flow_id not in found:
            known = f"Known flows: {', '.join(sorted(found)[:50]) or 'none'}."
            raise NotFoundError(
                f"There is no flow {quote(flow_id, 80)}",
                code="flow_unknown",
                detail=f"{suggestion(flow_id, found)} {known}".lstrip(),
                hint="A flow's file may have been refused; see the issues (rumi doctor).",
            )
        return found[flow_id]

    async def difference(self, flow_id: str, modifier: str) -> str:
        """What one modifier makes of a flow, as a unified diff of the composed documents."""
        after = await self.flow(flow_id)
        without = await asyncio.to_thread(partial(self.composer.load, self._world(), without=modifier))
        return as_diff(without[flow_id], after, (f"without {modifier}", f"with {modifier}"))

    async def run(
        self, flow_id: str, *, values: Any = None, actor: str = "", emit: Emit | None = None,
        began: Began | None = None,
    ) -> RunReport:  # fmt: skip
        """Run the flow of that name as it is now. Cancelling this coroutine cancels the run."""
        return await self.start(await self.flow(flow_id), values=values, actor=actor, emit=emit, began=began)

    async def begin(self, flow_id: str, *, values: Any, actor: str) -> RunReport | None:
        """Let a run go on by itself: its report once it has begun, None where it waits for another one's end."""
        return await self._begun(flow_id, partial(self.run, flow_id, values=values, actor=actor))

    async def begin_resuming(self, run_id: str) -> RunReport | None:
        """As ``begin``, for a run that was cut off."""
        return await self._begun(run_id, partial(self.resume, run_id))

    async def _begun(self, name: str, work: Callable[..., Coroutine[Any, Any, RunReport]]) -> RunReport | None:
        """What is refused before it begins is raised here; what ends it later is told by its report."""
        if self._alone >= MAX_ALONE:
            raise HostError(
                "Too many runs are under way that nobody waits for", code="busy", detail=f"There are {self._alone}.",
                hint="End some of them: rumi flow runs, rumi flow cancel RUN",
            )  # fmt: skip
        told: asyncio.Future[RunReport] = asyncio.get_running_loop().create_future()

        def began(report: RunReport) -> None:
            if not told.done():
                told.set_result(report)

        async def going() -> None:
            self._alone += 1
            try:
                began(await work(began=began))
            except RumiError as exc:
                if told.cancelled():  # it had to wait, and nobody else is told
                    raise
                if not told.done():
                    told.set_exception(exc)
            finally:
                self._alone -= 1

        self.host.in_background(going(), f"run {name}")
        try:
            async with asyncio.timeout(BEGIN_S):
                return await told
        except TimeoutError:
            return None

    async def start(
        self, composition: Composition, *, values: Any = None, actor: str = "", emit: Emit | None = None,
        parent: Call | None = None, began: Began | None = None, unattended: bool = False,
    ) -> RunReport:  # fmt: skip
        """As ``run``, for a flow that was just looked up; ``parent`` is the Pack's call that began it."""
        parts = self._parts(composition.plan)
        report = await self.runs.run(
            composition.plan, composition.digest, values, actor=actor, emit=emit, parts=parts, parent=parent,
            document=plain(composition.document) if composition.plan.flow.is_journalled() else None, began=began,
            unattended=unattended,
        )  # fmt: skip
        self.last_runs[composition.plan.flow.id] = report
        return report

    async def close(self) -> None:
        """Start nothing any more, and end every run."""
        await self.triggers.close()
        await self.runs.close()

    async def resume(self, run_id: str, *, began: Began | None = None) -> RunReport:
        """Go on with a journalled run that was cut off; what it has done is not done again."""
        with self.runs.claim(run_id):
            account = await asyncio.to_thread(self.runs.account, run_id)
            composition = await self.flow(str(account.head["flow"]))
            parts = self._parts(composition.plan)
            document = plain(composition.document)
            return await self.runs.resume(
                run_id, composition.plan, composition.digest, account, parts, document, began
            )

    async def run_flow(self, flow: model.Flow | Plan, *, values: Any = None) -> RunReport:
        """Run a flow that no file holds."""
        plan = flow if isinstance(flow, Plan) else plan_flow(flow)
        return await self.runs.run(plan, "", values)

    def _parts(self, plan: Plan) -> dict[str, str]:
        """The digest of every flow that a journalled run can come to run, ``""`` where there is none of that name."""
        found: dict[str, str] = {}
        pending = [plan] if plan.flow.is_journalled() else []
        while pending:
            for block in pending.pop().flow.own_blocks():
                for step in walk_steps(block):
                    if isinstance(step.action, model.Subflow) and step.action.flow not in found:
                        name = step.action.flow
                        found[name] = self._digests.get(name, "")
                        pending += [self._plans[name]] if name in self._plans else []
        return found

    def _joins(self, flow_id: str, plan: Plan) -> PackNode:
        steps = [step for block in plan.flow.own_blocks() for step in walk_steps(block)]
        called = {handler_of(step.action) for step in steps} - {""}
        keys = (meant(self.host, name) for name in called if not name.startswith(model.KERNEL_PREFIX))
        return PackNode.flow(flow_id, keys, {pack for step in steps for pack in step.acts_as})

    def _world(self) -> World:
        registry, aliases = self.host.registry, self.host.aliases
        return World(
            has_interface=lambda name: registry.resolve(aliases.resolve(name)) is not None,
            handlers_of=aliases.find_all,
            may_modify=self._may_modify,
            may_run=self._may_extend,
        )

    def _may_modify(self, pack_id: str, flow_id: str) -> bool:
        return self.host.built("permissions") and self.host.permissions.has(pack_id, "flow.modify", flow=flow_id)

    def _may_extend(self, pack_id: str, flow_id: str) -> bool:
        return self.host.built("permissions") and self.host.permissions.has(pack_id, "flow.run", flow=flow_id)

    def _may_run(self, actors: tuple[str, ...], flow_id: str) -> bool:
        """Each Pack that supplied the step owns the flow or was granted to run it. Once for each run: it is counted."""
        plan = self._plans.get(flow_id)
        if actors and plan is not None and plan.flow.layer is model.Layer.CORE:
            return False  # its steps are the host's own handlers
        owner = self.owner_of(flow_id)
        return all(pack == owner or self._uses_run(pack, flow_id) for pack in actors)

    def _uses_run(self, pack_id: str, flow_id: str) -> bool:
        return isinstance(self.host.permissions.check(pack_id, "flow.run", flow=flow_id), Allow)


def plain(value: Any) -> Any:
    """A document without the frozen containers that it is kept in."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _said(composition: Composition) -> dict[str, str]:
    flow = composition.plan.flow
    changed = sorted({change.modifier for change in composition.changes if change.status is Status.APPLIED})
    return {
        "flow": flow.id, "from": flow.origin.source, "digest": composition.digest,
        "changed by": ", ".join(changed) or "nobody",
    }  # fmt: skip

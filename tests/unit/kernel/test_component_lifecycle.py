"""Components run when their keys are there, side by side across Packs, one at a time within one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from backend_core.ecosystem.spec.models import ComponentManifest, Connectivity, HandlerFile, PackMetadata
from backend_core.errors import ConflictError, NotFoundError, PackError
from core_runtime.component_lifecycle import ComponentLifecycle, ComponentState
from core_runtime.component_phases import PhaseSpec
from core_runtime.diagnostics import Diagnostics
from core_runtime.interface_registry import InterfaceRegistry

PHASES = [PhaseSpec("first", "one.py", 5.0)]
HANDLERS = PhaseSpec("files", "", 5.0)


@dataclass
class Done:
    ok: bool = True
    error: Any = None
    registered: tuple[str, ...] = ()


@dataclass
class Sandbox:
    """A session that registers what its component provides, or does what its plan says."""

    pack_id: str
    registry: InterfaceRegistry
    plan: dict[str, Any] = field(default_factory=dict)
    generation: int = 1
    ran: list[tuple[str, str, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def run_phase(self, component, file, context, timeout_s):
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            self.ran.append((component["id"], file, context["phase"]))
            act = self.plan.get(context.get("reload") or component["id"], ())
            if isinstance(act, asyncio.Event):
                await act.wait()
                act = ()
            if isinstance(act, Exception):
                raise act
            if isinstance(act, Done):
                return act
            keys = (context["register"],) if context["register"] else act
            for key in keys:
                self.registry.add(key, 1, pack=self.pack_id)
            await asyncio.sleep(0)
            return Done(registered=tuple(keys))
        finally:
            self.running -= 1


def metadata(pack_id, components, *, handlers=(), provides=(), requires=(), pack_type="pack"):
    return PackMetadata(
        pack_id=pack_id,
        pack_identity=f"local:{pack_id}",
        version="1.0.0",
        uuid="",
        pack_type=pack_type,
        connectivity=Connectivity(provides=tuple(provides), requires=tuple(requires)),
        components=tuple(
            ComponentManifest(
                "s", name, "1.0.0", f"{pack_id}:s:{name}", "", f"backend/components/{name}",
                Connectivity(provides=tuple(gives), requires=tuple(needs)),
            )
            for name, gives, needs in components
        ),
        handlers=tuple(HandlerFile(name, f"backend/handlers/{name}.py") for name in handlers),
    )  # fmt: skip


class Stage:
    def __init__(self, **options):
        self.registry = InterfaceRegistry()
        self.diagnostics = Diagnostics()
        self.withdrawn: list[tuple[str, tuple[str, ...]]] = []
        self.lifecycle = ComponentLifecycle(
            self.registry,
            self.diagnostics,
            withdraw=lambda pack, keys: self.withdrawn.append((pack, tuple(keys))),
            **options,
        )

    def sandbox(self, pack_id, **plan):
        return Sandbox(pack_id, self.registry, plan)

    def states(self, pack_id=None):
        return {record.full_id: record.state.value for record in self.lifecycle.records(pack_id)}


def play(story, **options):
    async def run():
        async with asyncio.timeout(10):
            stage = Stage(**options)
            try:
                await story(stage)
            finally:
                await stage.lifecycle.close()

    asyncio.run(run())


def test_nothing_runs_before_the_flow_declares_its_phases():
    async def story(stage):
        a = stage.sandbox("a", x=("k",))
        await stage.lifecycle.prepare(a, metadata("a", [("x", ["k"], [])]))
        assert (a.ran, stage.states()) == ([], {"a:s:x": "waiting"})
        stage.lifecycle.declare(PHASES, HANDLERS)
        await stage.lifecycle.settled()
        assert (a.ran, stage.states()) == ([("x", "one.py", "first")], {"a:s:x": "loaded"})

    play(story)


def test_providers_first_across_packs():
    async def story(stage):
        order: list[str] = []
        stage.registry.listen(order.append)
        b, a = stage.sandbox("b", y=("k2",)), stage.sandbox("a", x=("k1",))
        stage.lifecycle.attach(b, metadata("b", [("y", ["k2"], ["k1"])]))
        stage.lifecycle.attach(a, metadata("a", [("x", ["k1"], [])]))
        stage.lifecycle.declare(PHASES, HANDLERS)
        await stage.lifecycle.settled()
        assert order == ["k1", "k2"]

    play(story)


def test_a_waiting_component_starts_when_its_key_appears_later():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        b = stage.sandbox("b", y=("k2",))
        await stage.lifecycle.prepare(b, metadata("b", [("y", ["k2"], ["k1"])]))
        [record] = stage.lifecycle.records("b")
        assert (record.state, record.waits_for) == (ComponentState.WAITING, ("k1",))
        assert record.cause.startswith("waiting for k1, which nothing")
        stage.registry.register("k1", "from the host")
        while stage.states() != {"b:s:y": "loaded"}:  # noqa: ASYNC110 - one turn of the loop at a time
            await asyncio.sleep(0)

    play(story)


def test_one_pack_runs_one_component_at_a_time():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a")
        await stage.lifecycle.prepare(a, metadata("a", [(name, [], []) for name in "uvwxyz"]))
        assert (a.most, len(a.ran)) == (1, 6)

    play(story)


def test_packs_run_side_by_side_and_one_that_hangs_holds_up_nobody_else():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        gate = asyncio.Event()
        hanging = stage.sandbox("a", x=gate)
        stage.lifecycle.attach(hanging, metadata("a", [("x", ["k"], [])]))
        fine = stage.sandbox("b")
        await stage.lifecycle.prepare(fine, metadata("b", [("y", [], [])]))
        assert stage.states() == {"a:s:x": "starting", "b:s:y": "loaded"}
        gate.set()
        await stage.lifecycle.settled()
        assert stage.states()["a:s:x"] == "loaded"

    play(story)


def test_a_key_counts_only_once_its_provider_has_finished():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        gate = asyncio.Event()
        stage.lifecycle.attach(stage.sandbox("a", x=gate), metadata("a", [("x", ["k"], [])]))
        stage.registry.add("k", 1, pack="a")
        b = stage.sandbox("b")
        await stage.lifecycle.prepare(b, metadata("b", [("y", [], ["k"])]))
        assert b.ran == []
        gate.set()
        await stage.lifecycle.settled()
        assert b.ran

    play(story)


@pytest.mark.parametrize(
    "failure",
    [
        Done(ok=False, error=["error/ValueError", "no", "no way", False, "Traceback"], registered=("half",)),
        PackError("The sandbox is gone", code="unavailable"),
    ],
)
def test_a_component_that_fails_is_disabled_recorded_and_withdrawn(failure):
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a", bad=failure, good=("k",))
        await stage.lifecycle.prepare(a, metadata("a", [("bad", ["half"], []), ("good", ["k"], [])]))
        assert stage.states() == {"a:s:bad": "disabled", "a:s:good": "loaded"}
        [issue] = stage.diagnostics.issues()
        assert (issue.code, issue.subject) == ("component_disabled", "a:s:bad")
        assert issue.evidence["file"] == "one.py"
        assert stage.diagnostics.as_dict()["summary"]["disabled"] == 1
        expected = [("a", ("half",))] if isinstance(failure, Done) else []
        assert stage.withdrawn == expected
        await stage.lifecycle.prepare(stage.sandbox("a"), metadata("a", [("bad", [], [])]))
        assert (stage.states("a"), stage.diagnostics.issues()) == ({"a:s:bad": "loaded"}, [])

    play(story)


def test_a_component_without_the_phases_file_is_loaded():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a", x=Done(ok=False, error=["missing_file", "one.py", "", False, ""]))
        await stage.lifecycle.prepare(a, metadata("a", [("x", [], [])]))
        assert stage.states() == {"a:s:x": "loaded"}

    play(story)


def test_several_phases_run_in_order():
    async def story(stage):
        stage.lifecycle.declare([*PHASES, PhaseSpec("second", "two.py")], HANDLERS)
        a = stage.sandbox("a")
        await stage.lifecycle.prepare(a, metadata("a", [("x", [], [])]))
        assert a.ran == [("x", "one.py", "first"), ("x", "two.py", "second")]

    play(story)


def test_handler_files_are_registered_when_declared():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a")
        found = metadata("a", [("x", [], ["a.go"])], handlers=("go", "hidden"), provides=("a.go",))
        await stage.lifecycle.prepare(a, found)
        assert a.ran == [("go", "go.py", "files"), ("x", "one.py", "first")]

    play(story)


def test_libraries_load_first():
    async def story(stage):
        a, z = stage.sandbox("a"), stage.sandbox("z")
        stage.lifecycle.attach(a, metadata("a", [("x", [], [])]))
        gate = asyncio.Event()
        z.plan["l"] = gate
        stage.lifecycle.attach(z, metadata("z", [("l", [], [])], pack_type="library"))
        stage.lifecycle.declare(PHASES, HANDLERS)
        for _ in range(5):
            await asyncio.sleep(0)
        assert (len(z.ran), a.ran) == (1, [])
        gate.set()
        await stage.lifecycle.settled()
        assert a.ran

    play(story)


def test_switched_off_components_do_not_run():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a")
        await stage.lifecycle.prepare(a, metadata("a", [("x", [], []), ("y", [], [])]))
        assert [name for name, _, _ in a.ran] == ["y"]
        assert stage.lifecycle.records("a")[0].cause == "switched off by the operator"

    play(story, disabled=lambda: frozenset({"a:s:x"}))


def test_a_new_generation_runs_everything_again_and_gives_up_the_old():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        old = stage.sandbox("a", x=asyncio.Event())
        stage.lifecycle.attach(old, metadata("a", [("x", [], [])]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert old.running == 1
        new = stage.sandbox("a")
        await stage.lifecycle.prepare(new, metadata("a", [("x", [], [])]))
        assert (stage.states(), old.running, len(new.ran)) == ({"a:s:x": "loaded"}, 0, 1)
        stage.lifecycle.detach("a")
        assert stage.states() == {}

    play(story)


def test_pack_requirements_hold_for_each_component():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a")
        await stage.lifecycle.prepare(a, metadata("a", [("x", [], [])], requires=("k",)))
        assert a.ran == []
        stage.registry.register("k", 1)
        while not a.ran:  # noqa: ASYNC110 - one turn of the loop at a time
            await asyncio.sleep(0)

    play(story)


def loaded_again(plan, story):
    """``story(stage, sandbox)`` with one component that was loaded; then its plan is ``plan``."""

    async def run(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        a = stage.sandbox("a", x=("k",))
        await stage.lifecycle.prepare(a, metadata("a", [("x", ["k"], [])]))
        assert stage.states() == {"a:s:x": "loaded"}
        a.plan |= plan
        await story(stage, a)

    play(run)


MISSING = Done(ok=False, error=["missing_file", "no such file", "", False, ""])


def test_a_component_is_loaded_again_between_begin_and_keep():
    async def story(stage, a):
        record = await stage.lifecycle.reload("a", "a:s:x")
        assert (record.state, record.registered) == (ComponentState.LOADED, ("new",))
        assert [phase for _, _, phase in a.ran[1:]] == ["reload: begin", "first", "reload: keep"]

    loaded_again({"x": ("new",)}, story)


def test_files_that_fail_are_undone():
    async def story(stage, a):
        with pytest.raises(PackError) as caught:
            await stage.lifecycle.reload("a", "a:s:x")
        assert caught.value.code == "component_failed"
        assert [phase for _, _, phase in a.ran[1:]] == ["reload: begin", "first", "reload: undo"]
        assert (stage.states(), stage.withdrawn) == ({"a:s:x": "loaded"}, [])

    loaded_again({"x": PackError("no", code="error/ValueError")}, story)


def test_an_agent_that_knows_no_reload_is_left_alone():
    async def story(stage, a):
        with pytest.raises(PackError, match="reload the whole Pack"):
            await stage.lifecycle.reload("a", "a:s:x")
        assert [phase for _, _, phase in a.ran[1:]] == ["reload: begin"]
        assert (stage.states(), stage.withdrawn) == ({"a:s:x": "loaded"}, [])

    loaded_again({"begin": MISSING}, story)


@pytest.mark.parametrize(("word", "files"), [("keep", ("new",)), ("undo", PackError("no", code="error/ValueError"))])
def test_where_nobody_can_say_what_serves_nothing_does(word, files):
    async def story(stage, _):
        with pytest.raises(PackError):
            await stage.lifecycle.reload("a", "a:s:x")
        assert stage.states() == {"a:s:x": "disabled"}
        assert {key for _, keys in stage.withdrawn for key in keys} >= {"k"}

    loaded_again({"x": files, word: PackError("gone", code="unavailable")}, story)


def test_a_reload_waits_for_what_its_pack_is_loading_and_two_come_one_after_another():
    async def story(stage, a):
        await asyncio.gather(*(stage.lifecycle.reload("a", "a:s:x") for _ in range(3)))
        words = [phase for _, _, phase in a.ran[1:]]
        assert words == ["reload: begin", "first", "reload: keep"] * 3
        assert a.most == 1

    loaded_again({}, story)


def test_only_what_was_loaded_is_loaded_again():
    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        await stage.lifecycle.prepare(stage.sandbox("a"), metadata("a", [("x", [], ["nobody"])]))
        with pytest.raises(ConflictError, match="waiting"):
            await stage.lifecycle.reload("a", "a:s:x")
        for pack_id, full_id in (("a", "a:s:y"), ("b", "b:s:x")):
            with pytest.raises(NotFoundError):
                await stage.lifecycle.reload(pack_id, full_id)

    play(story)


def test_one_that_is_switched_off_stays_so():
    off: set[str] = set()

    async def story(stage):
        stage.lifecycle.declare(PHASES, HANDLERS)
        await stage.lifecycle.prepare(stage.sandbox("a", x=("k",)), metadata("a", [("x", ["k"], [])]))
        off.add("a:s:x")
        with pytest.raises(ConflictError, match="switched off"):
            await stage.lifecycle.reload("a", "a:s:x")
        assert stage.states() == {"a:s:x": "loaded"}

    play(story, disabled=lambda: frozenset(off))

"""What an alias means where the host resolves a name for somebody: calls, steps of flows, selectors, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from core_runtime.function_alias import FunctionAlias
from core_runtime.handlers import interfaces
from core_runtime.handlers.host import Host
from core_runtime.handlers.rehearsal import as_it_stands
from core_runtime.kernel import Kernel
from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.rehearse import rehearse
from tests.support.hosts import bare_host, with_bus

Story = Callable[[Host, Kernel], Awaitable[None]]


def told(tmp_path: Path, story: Story) -> None:
    async def all_of_it() -> None:
        host = await with_bus(bare_host(tmp_path))
        host.aliases.register_aliases("db.get", ["store.get", "old.get"])
        host.registry.register("db.get", lambda args, ctx: ["db", args, ctx["caller"]])
        try:
            await story(host, Kernel(host))
        finally:
            await host.close()

    asyncio.run(all_of_it())


def flow(*steps: dict[str, Any], **document: Any) -> model.Flow:
    return parse_flow({"flow": "t", "steps": list(steps), **document}, source="t", layer=model.Layer.USER)


def write(host: Host, name: str, text: str) -> None:
    folder = host.settings.user_data / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")


def test_a_step_that_names_an_alias_reaches_the_provider(tmp_path: Path) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        report = await kernel.run_flow(flow({"id": "a", "call": "store.get", "with": {"n": 1}, "as": "r"}, output="${r}"))
        assert report.output == ["db", {"n": 1}, "kernel"]
        assert report.as_dict()["steps"][0]["handler"] == "store.get", "told as it stands in the flow"

    told(tmp_path, story)


def test_a_step_takes_the_items_behind_an_alias(tmp_path: Path) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        async def three(_args: Any, _ctx: Any) -> Any:
            for number in range(3):
                yield number

        host.registry.register("db.get", three)
        step = {"id": "a", "call": "old.get", "stream": {"collect": "${acc + [item]}", "start": [], "as": "all"}}
        report = await kernel.run_flow(flow(step, output="${all}"))
        assert report.output == [0, 1, 2], report.error
        each = {"id": "e", "each": {"in": {"call": "store.get"}, "as": "n", "collect": "${n}"}, "do": [{"id": "s", "set": {"x": 1}}], "as": "all"}
        report = await kernel.run_flow(flow(each, output="${all}"))
        assert report.output == [0, 1, 2], report.error

    told(tmp_path, story)


def test_the_name_means_its_key_whoever_registers_something_under_it(tmp_path: Path) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        host.registry.add("store.get", lambda _args, _ctx: "not me", pack="evil")
        report = await kernel.run_flow(flow({"id": "a", "call": "store.get", "as": "r"}, output="${r[0]}"))
        assert report.output == "db"
        host.registry.unregister("db.get")
        step = {"id": "a", "call": "store.get", "on_missing": "fail"}
        report = await kernel.run_flow(flow(step))
        [ended] = report.steps
        assert ended.result.error is not None
        assert (ended.result.error.type, "'store.get', which means 'db.get'" in ended.result.error.title) == ("missing", True)

    told(tmp_path, story)


def test_a_step_that_reaches_nobody_tells_that_the_file_may_be_why(tmp_path: Path) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        for unusable in (False, True):
            if unusable:
                host.diagnostics.issue("aliases_json_invalid", "error", "aliases.json", "it can't be used")
            for step in ({"call": "new.get"}, {"call": "new.get", "stream": {"collect": "${item}", "start": [], "as": "all"}}):
                report = await kernel.run_flow(flow({"id": "a", "on_missing": "fail", **step}))
                [ended] = report.steps
                assert ended.result.error is not None
                assert ended.result.error.type == "missing"
                assert ("aliases.json can't be used" in ended.result.error.cause) is unusable

    told(tmp_path, story)


@pytest.mark.parametrize("order", ["key first", "alias later"])
def test_a_step_that_waits_goes_on_when_its_alias_can_be_called(tmp_path: Path, order: str) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        if order == "key first":
            host.aliases.add_alias("late.key", "late.alias")
        step = {"id": "a", "call": "late.alias", "on_missing": "wait", "timeout": "20s", "as": "r"}
        running = asyncio.create_task(kernel.run_flow(flow(step, output="${r}")))
        while not host.registry._observers:  # noqa: ASYNC110 - one turn of the loop at a time
            await asyncio.sleep(0)
        host.registry.register("late.key", lambda _args, _ctx: "here")
        if order == "alias later":
            for _ in range(20):
                await asyncio.sleep(0)
            assert not running.done()
            host.aliases.add_alias("late.key", "late.alias")
            host.events.publish("alias.changed", {})
        report = await running
        assert report.output == "here"
        assert (host.registry._observers, host.events.list_subscribers().get("alias.changed")) == ({}, None)

    told(tmp_path, story)


@pytest.mark.parametrize("name", ["store.get", "old.get", "db.get"])
def test_modifiers_find_steps_by_what_names_mean(tmp_path: Path, name: str) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        write(host, "a.flow.yaml", "flow: my.flow\nsteps: [{id: one, call: old.get}, {id: two, call: db.put}, {id: three, call: db.get}]\n")
        write(host, "a.modifier.yaml", f"modify: my.flow\nid: my.change\nrequires: {{interfaces: [{name}]}}\nops: [{{remove: '@alias:{name}'}}]\n")
        composed = await kernel.flow("my.flow")
        assert [step["id"] for step in composed.document["steps"]] == ["two"]
        host.aliases = FunctionAlias()
        composed = await kernel.flow("my.flow")
        left = ["one", "two"] if name == "db.get" else ["one", "two", "three"]
        assert [step["id"] for step in composed.document["steps"]] == left, "at the next look"

    told(tmp_path, story)


def test_what_a_flow_joins_and_needs_is_told_by_the_key(tmp_path: Path) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        write(host, "a.flow.yaml", "flow: my.flow\nsteps: [{id: one, call: old.get}, {id: two, call: store.get}]\n")
        [node] = await kernel.joins()
        assert node.calls == {"db.get"}
        plan = (await kernel.flow("my.flow")).plan

        class Permissions:
            def visible_keys(self, _pack: str) -> Callable[[str], bool]:
                return lambda key: key == "db.get"

        host.permissions = Permissions()  # type: ignore[assignment]
        needs = rehearse(plan, kernel.plan_of)
        needs["permissions"] = [{"pack": "p", "type": "interface.call", "key": key} for key in ("old.get", "store.get", "x.y")]
        found = as_it_stands(host, needs, kernel.owner_of)
        assert found["interfaces"] == [
            {"key": "old.get", "means": "db.get", "provided_by": "host"}, {"key": "store.get", "means": "db.get", "provided_by": "host"},
        ]  # fmt: skip
        assert [(one["key"], one["held"]) for one in found["permissions"]] == [("db.get", True), ("x.y", False)]
        del host.__dict__["_part_permissions"]

    told(tmp_path, story)


def test_a_flow_joins_also_whose_items_it_goes_through(tmp_path: Path) -> None:
    async def story(host: Host, kernel: Kernel) -> None:
        each = "{id: one, each: {in: {call: old.get}}, do: [{id: two, set: {x: 1}}]}"
        write(host, "a.flow.yaml", f"flow: my.flow\nsteps: [{each}]\n")
        [node] = await kernel.joins()
        assert node.calls == {"db.get"}

    told(tmp_path, story)


def test_an_interface_is_described_with_its_other_names(tmp_path: Path) -> None:
    async def story(host: Host, _kernel: Kernel) -> None:
        host.registry.add("store.get", 1, pack="evil")
        rows = {row["key"]: (row["aliases"], row["alias_of"]) for row in await interfaces.interfaces(host)}
        assert (rows["db.get"], rows["store.get"]) == ((["old.get", "store.get"], None), ([], "db.get"))
        for name in ("db.get", "store.get", "old.get"):
            found = await interfaces.interface(host, name)
            assert found is not None
            assert (found["key"], found["providers"]) == ("db.get", ["host"])

    told(tmp_path, story)

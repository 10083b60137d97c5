"""The kernel performs what the machine asks for: real calls, real time limits, reports, cancellation."""

from __future__ import annotations

import asyncio

import pytest

from backend_core.errors import ConflictError, NotFoundError
from core_runtime.kernel import Kernel
from core_runtime.rules.flow.endings import RunStatus
from core_runtime.rules.flow.model import Layer
from core_runtime.rules.flow.parse import parse_flow
from tests.support.hosts import bare_host, with_bus


def flow(*steps, layer=Layer.CORE, **document):
    return parse_flow({"flow": "t", "steps": list(steps), **document}, source="t", layer=layer)


def run(tmp_path, document, handlers=None, interfaces=None):
    async def story():
        host = await with_bus(bare_host(tmp_path))
        kernel = Kernel(host)
        for name, fn in (handlers or {}).items():
            kernel.register_handler(name, fn)
        for key, fn in (interfaces or {}).items():
            host.registry.register(key, fn)
        report = await kernel.run_flow(document)
        await host.close()
        return host, report

    return asyncio.run(story())


def test_kernel_handlers_plain_and_async_get_host_and_args(tmp_path):
    async def later(host, args):
        await asyncio.sleep(0)
        return {"home": str(host.settings.home), **args}

    document = flow(
        {"id": "a", "call": "kernel:plain", "with": {"x": 1}, "as": "a"},
        {"id": "b", "call": "kernel:later", "with": {"y": "${a.x}"}, "as": "b"},
        output={"b": "${b}"},
    )
    _, report = run(tmp_path, document, {"plain": lambda _host, args: dict(args), "later": later})
    assert (report.status, report.output) == (RunStatus.OK, {"b": {"home": str(tmp_path), "y": 1}})
    assert [step.result.path for step in report.steps] == ["a", "b"]
    assert report.as_dict()["steps"][1]["handler"] == "kernel:later"


def test_interfaces_are_called_over_the_bus(tmp_path):
    document = flow({"id": "a", "call": "some.key", "with": {"n": 2}, "as": "r"}, output="${r}")
    _, report = run(tmp_path, document, interfaces={"some.key": lambda args, ctx: [args["n"] * 2, ctx["caller"]]})
    assert report.output == [4, "kernel"]


def test_known_errors_are_data_and_no_issue(tmp_path):
    def refuse(_host, _args):
        raise ConflictError("Not now", code="busy", detail="Somebody else.", hint="Later.")

    host, report = run(tmp_path, flow({"id": "a", "call": "kernel:refuse"}), {"refuse": refuse})
    error = report.steps[0].result.error
    assert error is not None
    assert (report.status, error.type, error.title, error.instance) == (RunStatus.DEGRADED, "busy", "Not now", "a")
    assert host.diagnostics.issues() == []
    assert host.diagnostics.as_dict()["summary"]["failed"] == 1


def test_a_bug_in_a_handler_is_an_issue_and_fails_its_step_only(tmp_path):
    document = flow({"id": "a", "call": "kernel:bug"}, {"id": "b", "call": "kernel:fine"})
    host, report = run(tmp_path, document, {"bug": lambda _h, args: args["no"], "fine": lambda _h, _a: 1})
    assert [step.result.status.value for step in report.steps] == ["failed", "ok"]
    assert report.steps[0].result.error is not None
    assert report.steps[0].result.error.type == "error/KeyError"
    [issue] = host.diagnostics.issues()
    assert (issue.subject, "trace" in issue.evidence) == ("kernel:bug", True)


def test_a_time_limit_cancels_the_handler(tmp_path):
    ended = []

    async def hang(_host, _args):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    _, report = run(tmp_path, flow({"id": "a", "call": "kernel:hang", "timeout": "50ms"}), {"hang": hang})
    assert (report.steps[0].result.status.value, ended) == ("timeout", [True])
    assert 0.04 < report.duration_s < 5


def test_unknown_names(tmp_path):
    document = flow(
        {"id": "a", "call": "kernel:nobody", "on_missing": "fail"}, {"id": "b", "call": "no.key"}, defaults={}
    )
    _, report = run(tmp_path, document)
    assert [(s.result.status.value, s.result.error.type) for s in report.steps if s.result.error] == [
        ("failed", "missing"), ("skipped", "missing"),
    ]  # fmt: skip


def test_on_missing_wait_binds_when_the_key_appears(tmp_path):
    async def story():
        host = await with_bus(bare_host(tmp_path))
        document = flow(
            {"id": "a", "call": "late.key", "on_missing": "wait", "timeout": "20s", "as": "r"}, output="${r}"
        )
        running = asyncio.create_task(Kernel(host).run_flow(document))
        while not host.registry._observers:  # noqa: ASYNC110 - one turn of the loop at a time
            await asyncio.sleep(0)
        host.registry.register("late.key", lambda args, ctx: "here")
        report = await running
        await host.close()
        return report, host.registry._observers

    report, observers = asyncio.run(story())
    assert (report.output, observers) == ("here", {})


def test_cancelling_a_run_cancels_its_work_and_runs_finally(tmp_path):
    seen = []

    async def story():
        host = await with_bus(bare_host(tmp_path))
        kernel = Kernel(host)
        started = asyncio.Event()

        async def hang(_host, _args):
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cancelled")

        kernel.register_handler("hang", hang)
        kernel.register_handler("clean", lambda _h, _a: seen.append("cleaned"))
        document = flow({"id": "a", "call": "kernel:hang", "finally": [{"call": "kernel:clean"}]})
        running = asyncio.create_task(kernel.run_flow(document))
        await started.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await host.close()

    asyncio.run(story())
    assert sorted(seen) == ["cancelled", "cleaned"]


def test_flows_by_name(tmp_path):
    folder = tmp_path / "flow" / "core"
    folder.mkdir(parents=True)
    (folder / "x.flow.yaml").write_text("flow: a.b\nsteps: [{set: {x: 1}}]\noutput: '${x}'\n")

    async def story():
        kernel = Kernel(await with_bus(bare_host(tmp_path)))
        assert (await kernel.run("a.b")).output == 1
        assert kernel.last_runs["a.b"].output == 1
        with pytest.raises(NotFoundError, match=r"a\.b"):
            await kernel.run("a.c")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("shop.oder", "Did you mean 'shop.order'? Known flows: "),
        ("zzz", "Known flows: "),
        ("shop.order\x1b[2J" + "x" * 100_000, "Known flows: "),
    ],
)
def test_an_unknown_flow_is_answered_with_the_nearest_one(tmp_path, asked, told):
    folder = tmp_path / "flow" / "core"
    folder.mkdir(parents=True)
    (folder / "order.flow.yaml").write_text("flow: shop.order\nsteps: [{set: {x: 1}}]\n")
    for number in range(60):  # more than are listed
        (folder / f"{number}.flow.yaml").write_text(f"flow: a.{'b' * 20}{number}\nsteps: [{{set: {{x: 1}}}}]\n")

    async def story():
        kernel = Kernel(await with_bus(bare_host(tmp_path)))
        for ask in (kernel.flow, kernel.run):
            with pytest.raises(NotFoundError) as refused:
                await ask(asked)
            assert refused.value.detail.startswith(told)
            assert "\x1b" not in str(refused.value)

    asyncio.run(story())


def test_a_name_is_bound_once(tmp_path):
    async def story():
        kernel = Kernel(bare_host(tmp_path))
        assert kernel.has_handler("kernel:security.serve")
        with pytest.raises(ValueError, match="registered twice"):
            kernel.register_handler("security.serve", lambda _h, _a: None)

    asyncio.run(story())

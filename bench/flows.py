"""A step of a flow: alone, with a call, a condition, branches and a journal, beside a loop written by hand and beside
other engines; composing a large flow; and the journal's lines beside a database.

Every step of ours goes the whole way: limits, record in the diagnostics, report of the run. The floor is what somebody
would write instead: a loop that calls a function, takes the time, catches, and keeps a record of each step.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench.harness import Report, Subject, added, measure, rows_of, samples_of
from core_runtime.bus.hub import Bus
from core_runtime.drivers import cel
from core_runtime.drivers.run_journal import RunJournal
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.handlers.host import Host
from core_runtime.kernel import Kernel
from core_runtime.rules.flow import endings, model
from core_runtime.rules.flow.compose import Base, World, compose
from core_runtime.rules.flow.modifier import parse_modifier
from core_runtime.rules.flow.parse import parse_flow
from core_runtime.rules.flow.plan import Plan, plan_flow
from core_runtime.rules.settings import settings_from

LOOP = "floor: a loop written by hand"
BARE = "floor: a call of the host's interface"
NOTHING = "step, nothing to do"
PATH = "step, a condition that is a path"
IN_CEL = "step, a condition in CEL"
WIDE = "step, a condition that is a path, 10,000 names beside"
WIDE_BARE = "step, nothing to do, 10,000 names beside"
STEPS = 4_000
ROUNDS = 7
COMPOSED = (1_000, 200)
KERNEL_STEP = [{"call": "kernel:bench"}]
HEAD = {"run": "bench", "flow": "bench", "digest": "", "started_at": 0.0, "actor": ""}


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; an engine or a package that this environment lacks is named under ``missing``."""
    share = 10 if quick else 1
    with ExitStack() as opened:
        runner = opened.enter_context(asyncio.Runner(loop_factory=uvloop.new_event_loop))
        home = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        kernel = runner.run(_kernel(home))
        opened.callback(lambda: runner.run(kernel.host.close()))
        _steps(report, runner, kernel, STEPS // share)
        _peers(report, runner, kernel, STEPS // share // 4)
        _journals(report, runner, kernel, home, STEPS // share // 4)
        _composition(report, 1 if quick else 3)


async def _kernel(home: Path) -> Kernel:
    settings = settings_from({"RUMI_HOME": str(home)}, [], project_root=home, working_dir=home, uid=os.getuid())
    host = Host(settings)
    host.bus = Bus(host.registry, host.events, host.diagnostics)
    await host.bus.start()
    kernel = Kernel(host)
    kernel.register_handler("bench", lambda _host, args: args)

    async def echo(args: Any, _ctx: Any) -> Any:
        return args

    host.registry.register("bench.echo", echo)
    return kernel


# --- steps -----------------------------------------------------------------------------------------------------------


def _steps(report: Report, runner: asyncio.Runner, kernel: Kernel, n: int) -> None:
    branches = {"one": [{"set": {"x": 1}}], "two": [{"set": {"y": 1}}]}
    bodies: dict[str, list[Any]] = {
        NOTHING: [{"set": {"x": 1}}],
        "step, a handler of the host's own": KERNEL_STEP,
        PATH: [{"set": {"x": 1}, "when": "${input.a.b}"}],
        "step, a call of the host's interface": [{"call": "bench.echo", "with": {"n": 1}}],
        "block of two branches side by side, three steps": [{"parallel": {"branches": branches}}],
    }
    if cel.available():
        report.missing[IN_CEL] = cel.available()
    else:
        bodies[IN_CEL] = [{"set": {"x": 1}, "when": "${input.a.b > 0 && input.a.c == 'x'}"}]
    subjects: dict[str, Subject] = {LOOP: by_hand, BARE: _bare(runner, kernel)}
    subjects |= {name: _flow(runner, kernel, looped(body)) for name, body in bodies.items()}
    wide = {"a": {"b": 1, "c": "x"}, **{f"n{number}": {"text": "x" * 40} for number in range(10_000)}}
    subjects[WIDE] = _flow(runner, kernel, looped(bodies[PATH]), wide)
    subjects[WIDE_BARE] = _flow(runner, kernel, looped(bodies[NOTHING]), wide)
    reference = dict.fromkeys((*bodies, WIDE), (LOOP, 1.0)) | {"step, a call of the host's interface": (BARE, 1.0)}
    for subject in subjects.values():
        subject(max(1, n // 10))
    samples = samples_of(subjects, n=n, rounds=ROUNDS)
    report.rows += rows_of(samples, reference, {NOTHING: "must ≤ 5 µs, aim ≤ 3 µs"})
    pairs = {"what a path as condition adds": (PATH, NOTHING), "what it adds in a wide context": (WIDE, WIDE_BARE)}
    must = dict.fromkeys(pairs, "must ≤ 1 µs, aim ≤ 0.6 µs")
    if IN_CEL in samples:
        pairs["what a condition in CEL adds"] = (IN_CEL, NOTHING)
        must["what a condition in CEL adds"] = "must ≤ 20 µs, aim ≤ 8 µs"
    report.rows += added(samples, pairs, must)


def by_hand(n: int) -> float:
    """What a step costs where nobody composes, limits or explains it."""
    record: deque[dict[str, Any]] = deque(maxlen=10_000)
    values: dict[str, Any] = {}

    def step(state: dict[str, Any]) -> Any:
        state["x"] = 1
        return None

    start = time.perf_counter()
    for number in range(n):
        began = time.monotonic()
        status, error = "ok", None
        try:
            result = step(values)
        except Exception as exc:  # noqa: BLE001  as such a loop does
            status, error, result = "failed", str(exc), None
        values["last"] = result
        took = time.monotonic() - began
        record.append({"step": number, "status": status, "error": error, "at": time.time(), "took": took})
    return time.perf_counter() - start


def _bare(runner: asyncio.Runner, kernel: Kernel) -> Subject:
    async def calls(n: int) -> float:
        bus, args = kernel.host.bus, {"n": 1}
        start = time.perf_counter()
        for _ in range(n):
            await bus.call("bench.echo", args, caller="kernel")
        return time.perf_counter() - start

    return lambda n: runner.run(calls(n))


def looped(body: list[Any], **words: Any) -> Callable[[int], Plan]:
    """A flow that does ``body`` n times."""
    plans: dict[int, Plan] = {}

    def plan(n: int) -> Plan:
        if n not in plans:
            steps = [{"id": "loop", "loop": {"max": n}, "do": body}]
            document = {"flow": "bench", "limits": {"steps": 1_000_000}, "steps": steps, **words}
            plans[n] = plan_flow(parse_flow(document, source="bench"))
        return plans[n]

    return plan


SMALL = {"a": {"b": 1, "c": "x"}}


def _flow(
    runner: asyncio.Runner, kernel: Kernel, plan: Callable[[int], Plan], values: dict[str, Any] = SMALL
) -> Subject:
    async def once(n: int) -> float:
        wanted = plan(n)
        start = time.perf_counter()
        ended = await kernel.run_flow(wanted, values=values)
        took = time.perf_counter() - start
        if ended.status is not endings.RunStatus.OK:
            raise RuntimeError(f"the flow ended {ended.status}: {ended.error}")
        return took

    return lambda n: runner.run(once(n))


# --- others ----------------------------------------------------------------------------------------------------------


def _peers(report: Report, runner: asyncio.Runner, kernel: Kernel, n: int) -> None:
    ours = "step of ours, a handler of the host's own, beside other engines"
    subjects: dict[str, Subject] = {ours: _flow(runner, kernel, looped(KERNEL_STEP))}
    peers = {"peer: step of LangGraph": langgraph_subject, "peer: step of pydantic-graph": pydantic_subject}
    for name, make in peers.items():
        try:
            subjects[name] = make(runner)
        except ImportError as error:
            report.missing[name] = f"{error.name} is not installed here (locks/bench.lock)"
    report.rows += measure(subjects, n=n, rounds=5, reference={name: (ours, 1.0) for name in subjects if name != ours})


def langgraph_subject(runner: asyncio.Runner) -> Subject:
    """One node that comes round until it was there n times, as a compiled graph."""
    from langgraph.graph import END, START, StateGraph  # noqa: PLC0415 - for this row only
    from typing_extensions import TypedDict  # noqa: PLC0415

    class State(TypedDict):
        left: int

    def step(state: State) -> State:
        return {"left": state["left"] - 1}

    graph = StateGraph(State)
    graph.add_node("step", step)
    graph.add_edge(START, "step")
    graph.add_conditional_edges("step", lambda state: "step" if state["left"] > 0 else END)
    compiled = graph.compile()

    async def whole(n: int) -> float:
        start = time.perf_counter()
        await compiled.ainvoke({"left": n}, {"recursion_limit": n + 10})
        return time.perf_counter() - start

    return lambda n: runner.run(whole(n))


def pydantic_subject(runner: asyncio.Runner) -> Subject:
    """The same with pydantic-graph."""
    from bench.pydantic_peer import steps  # noqa: PLC0415 - its node is found by its annotations, in its own module

    async def whole(n: int) -> float:
        start = time.perf_counter()
        await steps(n)
        return time.perf_counter() - start

    return lambda n: runner.run(whole(n))


# --- journals --------------------------------------------------------------------------------------------------------


def _journals(report: Report, runner: asyncio.Runner, kernel: Kernel, home: Path, n: int) -> None:
    none = "journalled step, beside none: journal none"
    runs = {
        "journalled step: file": _flow(runner, kernel, looped(KERNEL_STEP, journal="file")),
        "journalled step: memory": _flow(runner, kernel, looped(KERNEL_STEP, journal="memory")),
    }
    subjects: dict[str, Subject] = {none: _flow(runner, kernel, looped(KERNEL_STEP)), **runs}
    for subject in subjects.values():
        subject(max(1, n // 10))
    samples = samples_of(subjects, n=n, rounds=ROUNDS)
    report.rows += rows_of(samples, dict.fromkeys(runs, (none, 1.0)), {})
    kept = {"what a journal in a file adds to a step": ("journalled step: file", none)}
    report.rows += added(samples, kept, dict.fromkeys(kept, "must ≤ 30 µs, aim ≤ 15 µs"))
    fresh = itertools.count()
    lines, synced = "journal: an answer as a line", "journal: an answer as a line, on the disk"
    normal, full = "journal: an answer in SQLite (WAL, normal)", "journal: an answer in SQLite (WAL, full), on the disk"
    subjects = {
        lines: lambda n: _lines(home / f"l{next(fresh)}", n, sync=False),
        normal: lambda n: _database(home / f"d{next(fresh)}", n, "NORMAL"),
    }
    reference = {normal: (lines, 1.0)}
    report.rows += measure(subjects, n=n, rounds=5, reference=reference)
    subjects = {
        synced: lambda n: _lines(home / f"l{next(fresh)}", n, sync=True),
        full: lambda n: _database(home / f"d{next(fresh)}", n, "FULL"),
    }
    reference = {full: (synced, 1.0)}
    report.rows += measure(subjects, n=max(20, n // 10), rounds=5, reference=reference)


def _lines(folder: Path, n: int, *, sync: bool) -> float:
    journal = RunJournal.create(folder, "bench", HEAD, {}, RunSeals("0" * 64), sync=sync)
    start = time.perf_counter()
    for number in range(n):
        journal.answer(f"step#{number}", {"n": number, "text": "x" * 80}, None)
    took = time.perf_counter() - start
    journal.close()
    return took


def _database(path: Path, n: int, synchronous: str) -> float:
    """What the lines say, as rows, as sealed; each is committed, since an answer counts only once it is written."""
    from core_runtime.rules.values import pack  # noqa: PLC0415

    seals = RunSeals("0" * 64)
    last = seals.begin("bench")
    with _connected(path, synchronous) as database:
        start = time.perf_counter()
        for number in range(n):
            value = seals.hidden(pack({"n": number, "text": "x" * 80}))
            _, last = seals.marked(b'{"p":"step#' + str(number).encode() + value + b"}", last)
            database.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", ("bench", f"step#{number}", value, last))
            database.commit()
        return time.perf_counter() - start


class _connected:  # noqa: N801 - reads as a word of the statement that uses it
    def __init__(self, path: Path, synchronous: str) -> None:
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(f"PRAGMA synchronous={synchronous}")
        self._database.execute("CREATE TABLE answers (run TEXT, place TEXT, value BLOB, mark BLOB)")
        self._database.commit()

    def __enter__(self) -> sqlite3.Connection:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.close()


# --- composition -----------------------------------------------------------------------------------------------------


def _composition(report: Report, n: int) -> None:
    steps, modifiers = COMPOSED
    document = {"flow": "bench.large", "steps": [{"id": f"s{one}", "call": f"k.{one}"} for one in range(steps)]}
    base = Base(document, parse_flow(document, source="bench"))
    changes = [
        parse_modifier(
            {"modify": "bench.large", "id": f"m.n{one}",
             "ops": [{"insert": {"before": f"s{one * 5}"}, "steps": [{"id": f"i{one}", "call": "k.x"}]}]},
            source=f"m{one}", where=lambda _at: (0, 0), layer=model.Layer.USER, pack="",
        )
        for one in range(modifiers)
    ]  # fmt: skip

    def subject(times: int) -> float:
        start = time.perf_counter()
        for _ in range(times):
            compose(base, changes, World())
        return time.perf_counter() - start

    name = f"composing {steps:,} steps with {modifiers} modifiers"
    report.rows += measure({name: subject}, n=n, rounds=3, must={name: "must ≤ 0.3 s"})

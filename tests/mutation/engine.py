"""Runs mutants inside one warm pytest process: each in a fork of its own, against the tests that reach it.

1. pytest collects the tests and imports everything once; this process runs no test itself, so that it stays without
   threads and without state.
2. One fork runs all tests and writes down which lines of the rules each of them reaches, and how long it took.
3. A second fork runs them once more, quickest first, as the mutants will see them: what fails there proves nothing later
   and is left out.
4. One fork for each mutant. A fault inside a function is put into the function that is loaded already, by its code
   object. One that acts when its module is loaded needs the modules loaded again, and so does one in a function that
   ran while the tests were collected, if no test has noticed it so far: a table of cases may hold what it answered.
   The first test that fails ends the fork. A fork that takes far longer than its tests should is ended: the mutant made a loop, and counts as found.
"""

from __future__ import annotations

import functools
import gc
import importlib
import importlib.abc
import importlib.util
import inspect
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import coverage
import hypothesis
import pytest

from tests.mutation.operators import Mutant, mutated

ROOT = Path(__file__).resolve().parents[2]
KILLED, SURVIVED, UNREACHED, TIMEOUT, BROKEN = "killed", "survived", "unreached", "timeout", "broken"
RELOADED = ("core_runtime", "backend_core", "tests")
HOT_BUDGET_S, COLD_BUDGET_S, SLOW_S = 4.0, 5.0, 1.5
"""Test time for one mutant, beyond which its slowest tests are left out; a test that is slow alone is never used."""


@dataclass
class Baseline:
    """What the tests do without a fault: seconds by test, tests by (file, line), tests that can't be used."""

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    loading: set[tuple[str, int]] = field(default_factory=set)
    """Lines that ran while the tests were collected."""

    holders: dict[str, set[str]] = field(default_factory=dict)
    """By name of a module: the files of tests that hold it, or something of it."""

    def ran_at_load(self, mutant: Mutant) -> bool:
        """Whether the function that holds the fault was called then."""
        return any((str(mutant.path), line) in self.loading for line in _ends(mutant.path)[mutant.owner])

    def tests_of(self, path: Path, lines: range) -> set[str]:
        """The tests that reach any of ``lines``."""
        found: set[str] = set()
        for line in lines:
            found |= self.reached.get((str(path), line), frozenset())
        return found - self.failed

    def ordered(self, tests: set[str], budget_s: float) -> list[str]:
        """Quickest first, as many as fit."""
        chosen: list[str] = []
        spent = 0.0
        for test in sorted(tests, key=lambda name: (self.seconds.get(name, 1.0), name)):
            spent += self.seconds.get(test, 1.0)
            if self.seconds.get(test, 1.0) > SLOW_S or (chosen and spent > budget_s):
                break
            chosen.append(test)
        return chosen


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant; ``by`` is the test that found it."""

    mutant: Mutant
    result: str
    by: str = ""


class Plugin:
    """Takes the place of pytest's run loop."""

    def __init__(
        self,
        mutants: Callable[[], list[Mutant]],
        *,
        jobs: int,
        tell: Callable[[Outcome, int, int], None],
        note: Callable[[str], None],
        until: float,
    ) -> None:
        """``note`` hears which part of the work begins; after ``until`` (monotonic seconds) no mutant is begun."""
        self._mutants = mutants
        self._jobs = jobs
        self._tell = tell
        self._note = note
        self._until = until
        self.outcomes: list[Outcome] = []
        self.baseline = Baseline()
        self._at_load = _recorder()
        self._at_load.start()

    def pytest_sessionstart(self) -> None:
        quick = hypothesis.settings(
            hypothesis.settings.get_profile("rumi"),
            max_examples=60,
            derandomize=True,
            database=None,
            phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
            print_blob=False,
        )
        hypothesis.settings.register_profile("mutation", quick)
        hypothesis.settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._at_load.stop()
        items = {item.nodeid: item for item in session.items}
        self._note(f"{len(items)} tests run without a fault, to see which lines each of them reaches")
        self.baseline = _in_fork(session.config, lambda: _measure(items))
        self.baseline.holders = _holders(session.items)
        self.baseline.loading = _lines(self._at_load)
        order = self.baseline.ordered(set(items) - self.baseline.failed, float("inf"))
        self._note("once more, as the mutants will see them")
        self.baseline.failed |= _in_fork(session.config, lambda: _failures(items, order))
        mutants = self._mutants()
        self._note(f"{len(mutants)} mutants")
        _caches()
        gc.collect()
        gc.freeze()  # forks share what is never collected
        for outcome in _run_all(mutants, items, self.baseline, self._jobs, self._until):
            self.outcomes.append(outcome)
            self._tell(outcome, len(self.outcomes), len(mutants))
        return True


# --- before the mutants ----------------------------------------------------------------------------------------------


def _in_fork(config: pytest.Config, work: Callable[[], Any]) -> Any:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            _silence(config)
            data = pickle.dumps(work())
        except BaseException:  # noqa: BLE001 - told to the parent
            data = pickle.dumps(traceback.format_exc())
        with os.fdopen(write, "wb") as out:
            out.write(data)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as source:
        data = source.read()
    os.waitpid(pid, 0)
    result = pickle.loads(data)
    if isinstance(result, str):
        raise RuntimeError(result)  # noqa: TRY004 - the fork's traceback
    return result


def _recorder() -> coverage.Coverage:
    return coverage.Coverage(data_file=None, config_file=False, include=[f"{ROOT}/core_runtime/rules/*"])


def _lines(recorder: coverage.Coverage) -> set[tuple[str, int]]:
    data = recorder.get_data()
    return {(path, line) for path in data.measured_files() for line in data.lines(path) or ()}


def _holders(items: Sequence[pytest.Item]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for item in {item.nodeid.partition("::")[0]: item for item in items}.values():
        for held in getattr(getattr(item, "module", None), "__dict__", {}).values():
            name = held.__name__ if isinstance(held, ModuleType) else getattr(held, "__module__", None)
            found.setdefault(str(name), set()).add(item.nodeid.partition("::")[0])
    return found


def _measure(items: dict[str, pytest.Item]) -> Baseline:
    recorder = _recorder()
    found = Baseline()
    recorder.start()
    for name, item in items.items():
        recorder.switch_context(name)
        start = time.perf_counter()
        if not _passes(item):
            found.failed.add(name)
        found.seconds[name] = time.perf_counter() - start
    recorder.stop()
    data = recorder.get_data()
    for path in data.measured_files():
        for line, contexts in data.contexts_by_lineno(path).items():
            found.reached[path, line] = frozenset(contexts) & items.keys()
    return found


def _failures(items: dict[str, pytest.Item], order: Sequence[str]) -> set[str]:
    return {name for name in order if not _passes(items[name])}


class _Watch:
    """Notes whether the running test failed or was skipped."""

    def __init__(self) -> None:
        self.bad = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.bad |= report.outcome != "passed"


def _passes(item: pytest.Item) -> bool:
    watch = _Watch()
    item.config.pluginmanager.register(watch)
    try:
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
    finally:
        item.config.pluginmanager.unregister(watch)
    return not watch.bad


def _silence(config: pytest.Config) -> None:
    """No fork writes anything: the report is the parent's."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    config.pluginmanager.unregister(reporter)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)


# --- the mutants -----------------------------------------------------------------------------------------------------


def _run_all(
    mutants: Sequence[Mutant], items: dict[str, pytest.Item], baseline: Baseline, jobs: int, until: float
) -> Iterator[Outcome]:
    running: dict[int, tuple[Mutant, float, list[str], int]] = {}
    waiting = list(reversed(mutants))
    while waiting or running:
        if time.monotonic() > until:
            waiting.clear()
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            tests, reloading = _tests_for(mutant, baseline)
            loading = not mutant.owner or baseline.ran_at_load(mutant)
            if not tests and not (loading and reloading):
                yield Outcome(mutant, UNREACHED)
                continue
            expected = sum(baseline.seconds.get(test, 1.0) for test in (*tests, *reloading))
            pid, pipe = _start(mutant, items, tests, reloading, loading=loading)
            running[pid] = (mutant, time.monotonic() + 10 + 10 * expected, tests, pipe)
        pid, status = os.waitpid(-1, os.WNOHANG) if running else (0, 0)
        if pid in running:
            mutant, _, tests, pipe = running.pop(pid)
            yield _outcome(mutant, status, tests, _drain(pipe))
            continue
        for late in [number for number, (_, deadline, _, _) in running.items() if time.monotonic() > deadline]:
            mutant, _, _, pipe = running.pop(late)
            os.killpg(late, signal.SIGKILL)
            os.waitpid(late, 0)
            _drain(pipe)
            yield Outcome(mutant, TIMEOUT)
        if running:
            time.sleep(0.002)


def _drain(pipe: int) -> str:
    with os.fdopen(pipe, "rb") as source:
        return source.read().decode(errors="replace")


def _outcome(mutant: Mutant, status: int, tests: list[str], text: str) -> Outcome:
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        return Outcome(mutant, SURVIVED, f"{len(tests)} tests")
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
        return Outcome(mutant, KILLED, text)
    if os.WIFSIGNALED(status):
        return Outcome(mutant, KILLED, f"signal {os.WTERMSIG(status)}")
    return Outcome(mutant, BROKEN, text)


@functools.cache
def _ends(path: Path) -> dict[str, range]:
    """The lines of each function."""
    import ast

    found: dict[str, range] = {}

    def visit(node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                name = f"{scope}.{child.name}".lstrip(".")
                if not isinstance(child, ast.ClassDef):
                    found[name] = range(child.body[0].lineno, (child.end_lineno or 0) + 1)
                visit(child, name)

    visit(ast.parse(path.read_text(encoding="utf-8")), "")
    return found


def _tests_for(mutant: Mutant, baseline: Baseline) -> tuple[list[str], list[str]]:
    """The tests that reach the line, for the loaded function; and those for which the modules are loaded again."""
    reloading = baseline.ordered(_tests_of_module(mutant.path, baseline), COLD_BUDGET_S)
    if not mutant.owner:
        return [], reloading
    tests = baseline.tests_of(mutant.path, range(mutant.line, mutant.line + 1))
    if not tests:  # a node inside a statement of several lines: what enters the function
        tests = baseline.tests_of(mutant.path, _ends(mutant.path)[mutant.owner])
    return baseline.ordered(tests, HOT_BUDGET_S), reloading


@functools.cache
def _users(path: Path) -> list[Path]:
    """Rules modules that import the one at ``path``."""
    name = _module_name(path).encode()
    return [other for other in sorted((ROOT / "core_runtime/rules").rglob("*.py")) if name in other.read_bytes()]


def _tests_of_module(path: Path, baseline: Baseline) -> set[str]:
    """Whole test modules: a test that only compares a constant reaches no line. Who holds the package looks at each."""
    modules = {*baseline.holders.get(_module_name(path), ()), *baseline.holders.get("core_runtime.rules", ())}
    for source in (path, *_users(path)):
        for (reached, _), names in baseline.reached.items():
            if reached == str(source):
                modules |= {name.partition("::")[0] for name in names}
    return {name for name in baseline.seconds if name.partition("::")[0] in modules} - baseline.failed


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _start(
    mutant: Mutant, items: dict[str, pytest.Item], tests: list[str], reloading: list[str], *, loading: bool
) -> tuple[int, int]:
    read, write = os.pipe()
    pid = os.fork()
    if pid:
        os.close(write)
        return pid, read
    code = 3
    try:
        os.setpgid(0, 0)
        gc.disable()
        _silence(next(iter(items.values())).config)
        os.close(read)
        found = _hot(mutant, items, tests, loading) if tests else None
        if found is None:
            found = _cold(mutant, reloading) if reloading else ""
        os.write(write, found.encode()[:4000])
        code = 1 if found else 0
    except BaseException:  # noqa: BLE001 - told to the parent
        os.write(write, traceback.format_exc().encode()[-4000:])
    finally:
        os._exit(code)


# --- a fault inside a function ---------------------------------------------------------------------------------------


def _hot(mutant: Mutant, items: dict[str, pytest.Item], tests: list[str], loading: bool) -> str | None:
    """The test that fails, ``""`` for none; None when the answer needs the modules loaded again."""
    module = sys.modules[_module_name(mutant.path)]
    code = _compiled(mutant)
    function = _function(module, mutant.owner)
    new = _code(code, mutant.owner)
    if len(new.co_freevars) != len(function.__code__.co_freevars):
        return None  # does not fit into the loaded function
    function.__code__ = new
    for cached in _caches():
        cached.cache_clear()
    for name in tests:
        if not _passes(items[name]):
            return name
    return None if loading else ""


def _compiled(mutant: Mutant) -> CodeType:
    return compile(mutated(mutant), str(mutant.path), "exec", dont_inherit=True)


@functools.cache
def _caches() -> list[Any]:
    """Every ``lru_cache`` of the rules: what it remembers was computed without the fault."""
    return [
        found
        for found in gc.get_objects()
        if isinstance(found, functools._lru_cache_wrapper) and str(found.__module__).startswith("core_runtime.rules")
    ]


def _function(module: ModuleType, owner: str) -> FunctionType:
    found: Any = module
    for part in owner.split("."):
        found = inspect.getattr_static(found, part)
    if isinstance(found, property):
        found = found.fget
    if isinstance(found, staticmethod | classmethod):
        found = found.__func__
    found = inspect.unwrap(found)
    assert isinstance(found, FunctionType), owner
    return found


def _code(module: CodeType, owner: str) -> CodeType:
    found = module
    for part in owner.split("."):
        found = next(c for c in found.co_consts if isinstance(c, CodeType) and c.co_name == part)
    return found


# --- a fault at load -------------------------------------------------------------------------------------------------


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads the one module from its mutated code."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        del path, target
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: Any) -> None:
        del spec

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)


class _Only:
    """Keeps the chosen tests, quickest first, and remembers the one that fails."""

    def __init__(self, tests: list[str]) -> None:
        self._order = {name: index for index, name in enumerate(tests)}
        self.failed = ""
        self.ran = 0

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self._order), key=lambda i: self._order[i.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:  # a test module that can't be loaded any more
            self.failed = self.failed or f"collecting {report.nodeid}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.ran += report.when == "call"
        if report.outcome == "failed":
            self.failed = self.failed or report.nodeid


def _cold(mutant: Mutant, tests: list[str]) -> str:
    name = _module_name(mutant.path)
    code = _compiled(mutant)
    for loaded in [m for m in sys.modules if m.split(".")[0] in RELOADED and not m.startswith("tests.mutation")]:
        del sys.modules[loaded]
    sys.meta_path.insert(0, _Finder(name, mutant.path, code))
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a module that does not load is noticed by everybody
        return f"loading: {type(error).__name__}"
    only = _Only(tests)
    files = sorted({test.partition("::")[0] for test in tests})
    status = pytest.main([*options(), "-x", *files], plugins=[only, _Profile()])
    if only.failed:
        return only.failed
    if status in {pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR, pytest.ExitCode.USAGE_ERROR}:
        return f"collecting: {status!r}"
    if not only.ran:
        raise RuntimeError(f"no test ran: {status!r}")
    return ""


class _Profile:
    def pytest_sessionstart(self) -> None:
        hypothesis.settings.load_profile("mutation")


def options() -> list[str]:
    """pytest's arguments for every run here."""
    ignored = ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # what is loaded already stays loaded, on purpose
    return [
        "-q",
        *ignored,
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-o",
        "timeout=0",
        f"--rootdir={ROOT}",
    ]

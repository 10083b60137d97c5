"""A host of its own for one Pack under test, in a thread of the test's process and in a home that is removed.

Invariants:
  * The Pack takes the way that any Pack takes: scanned, approved, copied, verified, started in the embedded sandbox.
  * Its folder is read only; what it writes stays in the temporary home.
  * Whatever happens, the host is closed and its home removed when the stage is left.

Not here: fixtures (``plugin``), what the Pack's tests are.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import uvloop

from backend_core.errors import HostError, quote
from core_runtime.diagnosis.doctor import current_issues
from core_runtime.diagnostics import Issue, Severity
from core_runtime.event_bus import Event
from core_runtime.handlers import packs
from core_runtime.handlers.host import Host
from core_runtime.kernel import Kernel
from core_runtime.pack_check import Level, check_pack
from core_runtime.rules.settings import settings_from

ROOT = Path(__file__).resolve().parent.parent
ACTOR = "test"
START_S = 60.0
CALL_S = 30.0
MAX_EVENTS = 10_000
LOOK_S = 0.05
STILL = 6
LEFT_OUT = shutil.ignore_patterns("__pycache__", ".pytest_cache", ".git")
"""Of the folder: what a test run or a checkout puts there, and a Pack would otherwise be approved with."""

T = TypeVar("T")
Interface = Callable[[Any, Any], Any]


class NotStarted(HostError):  # noqa: N818 - named as its sentence reads
    """The Pack does not run; ``detail`` says why, with what it printed."""

    default_code = "pack_not_started"


class Stage:
    """``with Stage(folder) as rumi: rumi.call("my_pack.hello", {})``."""

    def __init__(
        self,
        folder: Path,
        *,
        interfaces: Mapping[str, Interface] | None = None,
        permissions: Sequence[Any] | None = None,
    ) -> None:
        """``interfaces``: what other Packs would provide, ``fn(args, ctx)`` by key, run in this process.

        ``permissions``: as in the API's ``approve``; None grants what a plain approval grants.
        """
        self._folder = folder.resolve()
        self._interfaces = dict(interfaces or {})
        self._permissions = permissions
        self._stack = contextlib.ExitStack()
        self._heard: list[Event] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._host: Host | None = None
        self.pack_id = ""
        self.home = Path()
        """The folder that the host of the test lives in, while the stage is entered."""

    # --- from beginning to end

    def __enter__(self) -> Self:
        """Raises ``NotStarted``, and whatever refuses the Pack."""
        try:
            self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _begin(self) -> None:
        checked = check_pack(self._folder)
        if not checked.valid:
            raise NotStarted(
                "The Pack is refused as it is",
                detail="; ".join(
                    f"{one.file}:{one.line}: {one.title} ({one.found})" for one in checked.problems
                    if one.level is Level.ERROR
                ),
                hint=f"rumi pack validate {self._folder}",
            )  # fmt: skip
        self.pack_id = checked.pack_id
        home = self.home = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="rumi-test-")))
        home.chmod(0o755)  # the sandbox's own user must pass through
        shutil.copytree(
            self._folder, home / "ecosystem" / "packs" / self.pack_id, symlinks=True, ignore=LEFT_OUT
        )
        self._loop = self._stack.enter_context(_loop_in_thread())
        self._run(self._open(home), START_S)

    async def _open(self, home: Path) -> None:
        environment = {**os.environ, "RUMI_HOME": str(home), "RUMI_ISOLATION": "embedded"}
        settings = settings_from(environment, [], project_root=ROOT, working_dir=home, uid=os.getuid())
        host = self._host = Host(settings)
        kernel = Kernel(host)
        self._stack.callback(lambda: self._run(_close(kernel, host), START_S))
        await kernel.run("rumi.startup")
        if host.isolation is None:
            raise NotStarted(
                "The embedded sandbox does not work here",
                detail=". ".join(one.detail for one in host.diagnostics.issues("isolation")),
                hint="A Pack is tested on Linux with bubblewrap (apt install bubblewrap); ./rumi doctor tells more.",
            )
        host.events.subscribe_events("**", self._hear)
        for key, function in self._interfaces.items():
            host.registry.register_handler(key, function)
        status = await packs.approve(host, self.pack_id, permissions=self._permissions, actor=ACTOR)
        if status.state.value != "running" or self._failures(host):
            await self._printed(host)
            raise NotStarted(
                f"{self.pack_id} does not run",
                detail=". ".join(filter(None, (status.cause, *self._complaints(host)))),
                hint=f"rumi pack validate {self._folder}; what it printed is above.",
            )

    async def _printed(self, host: Host) -> None:
        """What a Pack prints takes another way than its failure: wait until nothing more of it came for a moment."""
        before, still = 0, 0
        while still < STILL:
            await asyncio.sleep(LOOK_S)
            now = len(self._lines(host))
            before, still = now, still + 1 if now == before else 0

    def _complaints(self, host: Host) -> list[str]:
        return [*(f"{one.title}: {one.detail}" for one in self._failures(host)), *map(quote, self._lines(host))]

    def _failures(self, host: Host) -> list[Issue]:
        """Also of a component: the others of the Pack go on without one that failed, a test must not."""
        return [one for one in host.diagnostics.issues() if self._is_own(one) and one.severity is Severity.ERROR]

    def _is_own(self, issue: Issue) -> bool:
        return issue.subject.partition(":")[0] == self.pack_id

    # --- for tests

    def call(self, key: str, args: Any = None, *, timeout_s: float = CALL_S) -> Any:
        """Call an interface as the operator. What the Pack streams comes as a list. Raises ``RumiError``."""

        async def ask() -> Any:
            found = await self._ready.bus.call(key, args, timeout_s=timeout_s)
            return [item async for item in found] if hasattr(found, "__aiter__") else found

        return self._run(ask(), timeout_s + 5)

    def publish(self, topic: str, payload: Any = None) -> None:
        """Publish an event as the host."""

        async def tell() -> None:
            self._ready.events.publish(topic, payload)

        self._run(tell(), CALL_S)

    def events(self, topic: str) -> list[Any]:
        """Payloads of the Pack's own events under one topic, oldest first; the newest 10,000 of all are kept."""
        return [one.data for one in tuple(self._heard) if one.type == topic]

    def log(self) -> list[str]:
        """What the Pack printed and logged."""
        return self._lines(self._ready)

    def issues(self) -> list[Mapping[str, Any]]:
        """What is wrong with the Pack now: ``{code, title, detail, hint, …}`` each."""
        found = self._run(current_issues(self._ready), CALL_S)
        return [one.as_dict() for one in found if self._is_own(one)]

    def restart(self) -> None:
        """Stop and start it, as an operator does. Raises ``NotStarted``."""
        host = self._ready
        self._run(packs.stop(host, self.pack_id), START_S)
        status = self._run(packs.start(host, self.pack_id), START_S)
        if status.state.value != "running":
            raise NotStarted(f"{self.pack_id} does not run", detail=status.cause, hint="See log().")

    # --- inside

    @property
    def _ready(self) -> Host:
        if self._host is None:
            raise NotStarted("The stage is not entered", detail="It is a context.", hint="with Stage(…) as rumi:")
        return self._host

    def _hear(self, event: Event) -> None:
        self._heard.append(event)
        del self._heard[:-MAX_EVENTS]

    def _lines(self, host: Host) -> list[str]:
        return [line.text for line in host.log.tail(self.pack_id, 200)]

    def _run(self, work: Coroutine[Any, Any, T], within_s: float) -> T:
        assert self._loop is not None
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result(within_s)
        except concurrent.futures.TimeoutError:
            waiting.cancel()
            raise NotStarted(
                "The host of the test did not answer", detail=f"Nothing came within {within_s:g} s.", hint="See log()."
            ) from None


async def _close(kernel: Kernel, host: Host) -> None:
    await kernel.close()
    await host.close()


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """A running loop; what still runs on it at the end is cancelled."""
    running: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = concurrent.futures.Future()

    async def live() -> None:
        over = asyncio.Event()
        running.set_result((asyncio.get_running_loop(), over))
        await over.wait()

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live())

    thread = threading.Thread(target=run, name="rumi-testing", daemon=True)
    thread.start()
    loop, over = running.result()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(START_S)

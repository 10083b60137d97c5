"""One run of the host from bound ports to the last closed socket: the order of effects that ``app.py`` starts.

Order: bind every address → build the host → run the startup flow in a task → serve as soon as the security phase is
done → wait for a signal → close faces, then the host. A startup flow that breaks off after the security phase leaves
the API alive, with the cause in ``/api/health`` and in the issues; one that breaks off before it ends the run, since
nothing may be asked of a host whose trust is not established.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from starlette.types import ASGIApp

from backend_core.errors import HostError, RumiError
from core_runtime.api.app import build_api
from core_runtime.api.context import Api, Phase
from core_runtime.drivers.allocator import keep_freed_memory
from core_runtime.drivers.peer import own_uid
from core_runtime.handlers import flows
from core_runtime.handlers.host import Host
from core_runtime.kernel import Kernel
from core_runtime.pack_api_server import PackApiServer, RenderRefusal
from core_runtime.rules.settings import Settings, settings_from

STARTUP_FLOW = "rumi.startup"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_host(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    *,
    project_root: Path,
    web: Callable[[Api], ASGIApp],
    web_refused: RenderRefusal,
) -> int:
    """The exit code: 0 after a signal, 1 when the host could not start, 2 for unusable settings."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        settings = settings_from(
            environment, arguments, project_root=project_root, working_dir=Path.cwd(), uid=own_uid() or 0
        )
    except RumiError as exc:
        return _say(exc, 2)
    keep_freed_memory()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_Run(settings, web, web_refused).live())
    except RumiError as exc:
        return _say(exc, 1)
    return 0


class _Run:
    def __init__(self, settings: Settings, web: Callable[[Api], ASGIApp], web_refused: RenderRefusal) -> None:
        self._settings = settings
        self._web = web
        self._web_refused = web_refused

    async def live(self) -> None:
        stop = asyncio.Event()
        with _signals(stop):
            faces = PackApiServer(self._settings)
            faces.bind()
            api: Api | None = None
            try:
                host = Host(self._settings)
                _conceal_in_log(host)
                registered = flows.Registered(host)
                kernel = Kernel(host, lambda: [*flows.documents(host), *registered.documents()])
                api = Api(host, self._settings, faces.web_port, kernel)
                await self._start_and_wait(api, kernel, faces, stop)
            finally:
                if api is not None:
                    api.phase = Phase.STOPPING
                await faces.close(api)
                if api is not None:
                    await api.called.close()
                    if api.kernel is not None:
                        await api.kernel.close()
                    await api.host.close()

    async def _start_and_wait(self, api: Api, kernel: Kernel, faces: PackApiServer, stop: asyncio.Event) -> None:
        startup = asyncio.create_task(_startup(api, kernel), name="startup flow")
        stopping = asyncio.create_task(stop.wait(), name="stop signal")
        secure = asyncio.create_task(api.host.ready_to_serve.wait(), name="security phase")
        try:
            await asyncio.wait({startup, stopping, secure}, return_when=asyncio.FIRST_COMPLETED)
            if not api.host.ready_to_serve.is_set() and not stopping.done():
                raise HostError(
                    "The security phase did not complete",
                    code="startup_failed",
                    detail=api.cause or "no cause was given",
                    hint="./rumi doctor",
                )
            if not stopping.done():
                await faces.serve(api, build_api(api), self._web(api), self._web_refused)
                _announce(api, self._settings)
                await stopping
        finally:
            for task in (startup, stopping, secure):
                task.cancel()
            await asyncio.gather(startup, stopping, secure, return_exceptions=True)


class _Concealing(logging.Formatter):
    """Lines of the host's own log without known secrets: a fault's traceback may quote what a Pack wrote."""

    def __init__(self, inner: logging.Formatter | None, conceal: Callable[[str], str]) -> None:
        super().__init__()
        self._inner = inner or logging.Formatter()
        self._conceal = conceal

    def format(self, record: logging.LogRecord) -> str:
        return self._conceal(self._inner.format(record))


def _conceal_in_log(host: Host) -> None:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Concealing(handler.formatter, host.redactions.hide_any))


async def _startup(api: Api, kernel: Kernel) -> None:
    """The fail-soft boundary of the start: whatever ends it is a phase, a cause and an issue."""
    try:
        report = await kernel.run(STARTUP_FLOW)
    except RumiError as exc:
        api.phase, api.cause = Phase.FAILED, str(exc)
        api.host.diagnostics.issue(exc.code, "error", "startup", exc.title, exc.detail, exc.hint, None, exc)
        return
    status = report.status.value if report.status else "cancelled"
    failed = status in {"failed", "cancelled"}
    _settle_memory()
    api.phase = Phase.FAILED if failed else Phase.READY
    if failed:
        api.cause = report.error.title if report.error is not None else f"the startup flow {status}"
    else:
        kernel.triggers.begin()


def _settle_memory() -> None:
    """What the start built lives as long as the process: no collection needs to walk it again.

    Measured with 1,000 Packs: each full collection stopped the loop for 30 ms, about once in a hundred requests.
    """
    gc.collect()
    gc.freeze()


def _announce(api: Api, settings: Settings) -> None:
    if api.web_port != settings.web_port:
        print(f"Port {settings.web_port} is taken; the pages are at {api.web_port}.", file=sys.stderr)  # noqa: T201
    print(f"API  http://localhost:{settings.api_port}/api/packs", file=sys.stderr)  # noqa: T201
    print(f"Web  http://localhost:{api.web_port}/", file=sys.stderr, flush=True)  # noqa: T201


def _say(exc: RumiError, code: int) -> int:
    print(f"Error: {exc}", file=sys.stderr)  # noqa: T201 - the one place where the process speaks to its terminal
    if exc.hint:
        print(f"Next: {exc.hint}", file=sys.stderr)  # noqa: T201
    return code


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    if sys.platform == "win32":
        previous = {
            number: signal.signal(number, lambda *_: loop.call_soon_threadsafe(stop.set)) for number in _SIGNALS
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.name == "nt":
        return None
    import uvloop  # noqa: PLC0415 - not made for Windows

    return uvloop.new_event_loop

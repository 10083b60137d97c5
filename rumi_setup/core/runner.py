"""Starts the host, waits until it answers, says where it is; stops it by pid and start time.

The host is told where to listen by RUMI_API_PORT and RUMI_WEB_PORT, where its data is by RUMI_HOME and how to isolate
by RUMI_ISOLATION. This module knows nothing else about it: readiness is `GET /api/health` on loopback.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rumi_setup.core import files, initializer, places, process
from rumi_setup.core.problem import SOFTWARE, USAGE, SetupError
from rumi_setup.core.progress import Progress, reporting
from rumi_setup.core.system_packages import offer_isolation
from rumi_setup.core.words import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

API_PORT = 8765
WEB_PORT = 5000
ISOLATIONS = ("auto", "docker", "embedded")
_READY_LIMIT_S = 60.0
_POLL_S = 0.05
_STOP_GRACE_S = 30.0
_PORTS_TRIED = 50
_LOG_KEPT_BYTES = 10 << 20
_TAIL_LINES = 20
_LOOPBACK = "127.0.0.1"
# hosts that outlive the call: their handles must not be collected, which would count as forgetting a process
_LEFT_RUNNING: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Running:
    """A host that runs, as its pid file names it."""

    pid: int
    started: str
    api_port: int
    web_port: int

    @property
    def api_url(self) -> str:
        return f"http://{_LOOPBACK}:{self.api_port}"

    @property
    def web_url(self) -> str:
        return f"http://localhost:{self.web_port}"


def running(home: str | os.PathLike[str] | None = None) -> Running | None:
    """The host that serves this home; None when none does, whatever an old pid file says."""
    path = places.pid_file(places.home(home))
    try:
        seen: Any = files.read_json(path)
        found = Running(int(seen["pid"]), str(seen["started"]), int(seen["api_port"]), int(seen["web_port"]))
    except (ValueError, KeyError, TypeError):
        return None
    return found if process.alive(found.pid, found.started) else None


def up(
    home: str | os.PathLike[str] | None = None,
    detach: bool = False,  # noqa: FBT001, FBT002 - the published signature; callers name it
    api_port: int = API_PORT,
    web_port: int = WEB_PORT,
    isolation: str = "auto",
    progress: Progress | None = None,
) -> int:
    """Initialises, starts and waits for the host; returns the exit code. Foreground: returns when the host ends."""
    if isolation not in ISOLATIONS:
        raise SetupError(
            say("isolation must be one of {names}, not {given!r}.", names=", ".join(ISOLATIONS), given=isolation),
            exit_code=USAGE,
        )
    home_dir = places.home(home)
    with reporting(progress) as reporter:
        already = running(home_dir)
        if already is not None:
            reporter.note(say("The host runs already (process {pid}).", pid=already.pid))
            _announce(already)
            return 0
        initializer.initialise(home_dir)
        offer_isolation(isolation, reporter)
        _need_free(api_port)
        ports = (api_port, _free_port(web_port, reporter, (api_port,)))
        environment = _environment(home_dir, ports, isolation)
        reporter.step(say("Starting the host"), 1, 1)
        with _spawn(home_dir, environment, detach=detach) as child:
            return _serve(child, home_dir, ports, reporter, detach=detach)


def down(home: str | os.PathLike[str] | None = None, progress: Progress | None = None) -> bool:
    """Stops the host that serves this home; False when none did."""
    home_dir = places.home(home)
    found = running(home_dir)
    with reporting(progress) as reporter:
        if found is None:
            reporter.note(say("No host runs for {home}.", home=home_dir))
            places.pid_file(home_dir).unlink(missing_ok=True)
            return False
        reporter.step(say("Stopping the host (process {pid})", pid=found.pid), 1, 1)
        gently = process.stop(found.pid, found.started, grace_s=_STOP_GRACE_S)
        places.pid_file(home_dir).unlink(missing_ok=True)
        reporter.note(say("Stopped.") if gently else say("It did not stop by itself and was killed."))
    return True


def _environment(home: Path, ports: tuple[int, int], isolation: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    return {
        **kept,
        "RUMI_HOME": str(home),
        "RUMI_API_PORT": str(ports[0]),
        "RUMI_WEB_PORT": str(ports[1]),
        "RUMI_ISOLATION": isolation,
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
    }


@contextlib.contextmanager
def _spawn(home: Path, environment: dict[str, str], *, detach: bool) -> Iterator[subprocess.Popen[bytes]]:
    application = places.ROOT / "app.py"
    if not application.exists():
        raise SetupError(
            say("{path} is missing: this is no complete copy of the project.", path=application),
            left=say("Nothing was started."),
            next_steps=(say("Fetch the project again, or `git checkout HEAD -- app.py`."),),
        )
    argv = [str(places.venv_python()), str(application)]
    if not detach:
        yield subprocess.Popen(argv, cwd=places.ROOT, env=environment, stdin=subprocess.DEVNULL)
        return
    log = places.log_file(home)
    if log.exists() and log.stat().st_size > _LOG_KEPT_BYTES:
        log.replace(log.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(log, flags, 0o600), "ab") as out:
        apart: dict[str, Any] = (
            {"creationflags": 0x00000208}  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
            if sys.platform == "win32"
            else {"start_new_session": True}
        )
        yield subprocess.Popen(
            argv, cwd=places.ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, **apart
        )


def _serve(
    child: subprocess.Popen[bytes], home: Path, ports: tuple[int, int], progress: Progress, *, detach: bool
) -> int:
    host = Running(child.pid, process.start_time(child.pid) or "", *ports)
    previous = {s: signal.signal(s, _interrupt) for s in (signal.SIGINT, signal.SIGTERM)}
    files.write_json(places.pid_file(home), asdict(host), mode=0o600)
    keep = False
    try:
        _wait_ready(child, host, home, detach=detach)
        progress.finish()
        _announce(host)
        if detach:
            keep = True
            _LEFT_RUNNING.append(child)
            return 0
        print(say("Stop it with Ctrl-C."), file=sys.stderr, flush=True)
        return child.wait()
    except KeyboardInterrupt:
        progress.finish()
        print(say("Stopping."), file=sys.stderr, flush=True)
        return 0
    finally:
        if not keep:
            for number in previous:
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave the host behind
            _end(child)
            places.pid_file(home).unlink(missing_ok=True)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _wait_ready(child: subprocess.Popen[bytes], host: Running, home: Path, *, detach: bool) -> None:
    deadline = time.monotonic() + _READY_LIMIT_S
    while time.monotonic() < deadline:
        code = child.poll()
        if code is not None:
            raise SetupError(
                say("The host ended at once, with exit code {code}.", code=code)
                + (_tail(home) if detach else ""),
                left=say("Nothing runs."),
                next_steps=(say("./rumi doctor --fix"), say("Start it in the foreground to see why: ./rumi up")),
                exit_code=SOFTWARE,
            )
        if healthy(host.api_port):
            return
        time.sleep(_POLL_S)
    raise SetupError(
        say("The host did not answer on {url}/api/health in {n} s.", url=host.api_url, n=round(_READY_LIMIT_S))
        + (_tail(home) if detach else ""),
        left=say("It was stopped again."),
        next_steps=(say("./rumi doctor --fix"),),
        exit_code=SOFTWARE,
    )


def healthy(api_port: int) -> bool:
    """Whether something answers `GET /api/health` there with 200."""
    connection = http.client.HTTPConnection(_LOOPBACK, api_port, timeout=2.0)
    try:
        connection.request("GET", "/api/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _tail(home: Path) -> str:
    log = places.log_file(home)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:] if log.exists() else []
    return "\n" + say("Last lines of {log}:", log=log) + "".join(f"\n  {line[:300]}" for line in lines)


def _need_free(api_port: int) -> None:
    """The management API never moves by itself: whoever asks the usual port must not reach a stranger's program."""
    if not _is_free(api_port):
        raise SetupError(
            say("Port {port}, where the management API listens, is taken by another program.", port=api_port),
            left=say("Nothing was started."),
            next_steps=(
                say("See who holds it: ss -ltnp 'sport = :{port}'", port=api_port),
                say("Or choose another: ./rumi up --api-port {port}", port=api_port + 1 if api_port < 65535 else 8765),
            ),
        )


def _free_port(wanted: int, progress: Progress, taken: tuple[int, ...]) -> int:
    for port in range(wanted, wanted + _PORTS_TRIED):
        if port not in taken and _is_free(port):
            if port != wanted:
                progress.note(say("Port {a} is taken by another program; using {b}.", a=wanted, b=port))
            return port
    raise SetupError(
        say("No free port from {a} to {b}.", a=wanted, b=wanted + _PORTS_TRIED - 1),
        next_steps=(say("Name free ones: ./rumi up --api-port N --web-port M"),),
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the host: closing connections don't count
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
    return True


def _announce(host: Running) -> None:
    print(say("Console and Packs: {url}", url=host.web_url))
    print(say("Management API:    {url}", url=host.api_url))
    print(say("Next: ./rumi pack pending   (what waits for your decision)"), flush=True)

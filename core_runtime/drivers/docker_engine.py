"""Sandboxes in a Docker Engine, over its API.

Invariants:
  * A container is found by its three exact labels or by its id, never by a name or part of one.
  * The base image is named once, at the probe; what runs is its pinned id.
  * Every query has a deadline: an engine that hangs becomes a ``HostError``, never a hanging host.
  * Foreign exceptions end here. The client library is imported on first use (it costs 160 ms).

Not here: the create document (``rules.docker_config``), levels (``rules.isolation``), restarts (orchestrator).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import io
import itertools
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend_core.errors import HostError, SandboxUnavailable, quote
from core_runtime.drivers import cgroups, proc_view
from core_runtime.drivers.runtime_folder import ABI_QUESTION, HOST_ABI, PythonAbi, compiler_for, parse_abi
from core_runtime.drivers.tail import SHOWN_LIMIT_BYTES, escape
from core_runtime.ports import TRIAL_PREFIX, DriverStatus, Exit
from core_runtime.rules import docker_config, seccomp
from core_runtime.rules.isolation import SANDBOXED_RUNTIMES, judge
from core_runtime.rules.sandbox import DriverKind, Isolation, Level, SandboxSpec

if TYPE_CHECKING:
    import aiodocker
    from aiodocker.containers import DockerContainer

DEFAULT_IMAGE = "rumi-pack-base:1"
BASE_FOLDER = Path(__file__).resolve().parents[2] / "docker/core/base"
DEFAULT_SOCKET = "/var/run/docker.sock"
QUERY_S = 30.0
PROBE_S = 5.0
BUILD_S = 300.0
TRIAL_S = 60.0
TRIAL_UID = 65534
NOT_CONNECTED = 900
"""The client library's own status for "no connection"; no engine sends it."""
TRIAL_COMMAND = ["-I", "-S", "-c", f"{ABI_QUESTION}; print(open('/proc/self/status').read())"]
START_HINT = "Start Docker (for example: systemctl start docker), or set DOCKER_HOST, then: rumi doctor"


class DockerDriver:
    """Port ``SandboxDriver`` over a Docker Engine.

    Args:
        installation_id: value of the label that makes a container ours.
        state_dir: folder for the probe's files; the engine must see it under the same path.
        url: ``unix:///…`` or ``tcp://…``; by default ``DOCKER_HOST``, then the usual sockets.
        image: name of the base image; by default ``RUMI_BASE_IMAGE``, then ``rumi-pack-base:1``.
        runtime: an engine runtime chosen by the operator (``runsc``); empty = the engine's default.
    """

    kind = DriverKind.DOCKER

    def __init__(
        self, installation_id: str, state_dir: Path, *, url: str = "", image: str = "", runtime: str = ""
    ) -> None:
        self._installation_id = installation_id
        self._state_dir = state_dir
        self._url = url or _engine_url()
        self._image = image or os.environ.get("RUMI_BASE_IMAGE") or DEFAULT_IMAGE
        self._runtime = runtime
        self._client: aiodocker.Docker | None = None
        self._image_id = ""
        self._abi: PythonAbi | None = None
        self._apparmor = False
        self._trials = itertools.count(1)
        self.live: set[str] = set()
        """Ids of containers that this process started and that have not ended."""

    # ---- port

    async def probe(self) -> DriverStatus:
        """Ask the engine, make the base image when it is missing, and run it once under the production settings."""
        try:
            async with asyncio.timeout(PROBE_S):
                info = await self._info()
            level, lacks = _engine_level(info, self._runtime)
            async with asyncio.timeout(BUILD_S):
                self._image_id = await self._ensure_image()
            await self._trial()
        except TimeoutError:
            return self._unavailable(f"the engine at {self._url} did not answer within {PROBE_S:g} s", START_HINT)
        except (HostError, OSError) as error:
            return self._unavailable(str(error), getattr(error, "hint", "") or START_HINT)
        version = f"{info.get('ServerVersion', '')} image {self._image_id[7:19]}"
        return DriverStatus(self.kind, available=True, level=level, version=quote(version)[1:-1], reason=lacks)

    async def python(self) -> PythonAbi:
        """The image's Python.

        Raises:
            SandboxUnavailable: the probe has not passed.
        """
        if self._abi is None:
            status = await self.probe()
            if self._abi is None:
                raise SandboxUnavailable("Docker can't run sandboxes", detail=status.reason, hint=status.hint)
        return self._abi

    async def start(self, spec: SandboxSpec) -> DockerSandbox:
        """Create, attach, start. Raises ``HostError``; the container is removed then."""
        await self.python()
        document = docker_config.create_document(spec, self._image_id, runtime=self._runtime, apparmor=self._apparmor)
        return await self._run(spec, document)

    def render(self, spec: SandboxSpec) -> Mapping[str, str]:
        """The create document and the profile that it carries."""
        image = self._image_id or self._image
        document = docker_config.create_document(spec, image, runtime=self._runtime, apparmor=self._apparmor)
        # the profile stands beside, readable, instead of as one line of two thousand characters
        options = document["HostConfig"]["SecurityOpt"]
        document["HostConfig"]["SecurityOpt"] = [
            "seccomp=seccomp.json" if option.startswith("seccomp=") else option for option in options
        ]
        return {
            "container.json": json.dumps(document, indent=1, sort_keys=True) + "\n",
            "seccomp.json": seccomp.docker_profile_json(),
        }

    async def remove_leftovers(self, installation_id: str) -> list[str]:
        """Remove containers whose label equals ``installation_id`` and that this process did not start."""
        wanted = f"{docker_config.LABEL_INSTALLATION}={installation_id}"
        removed: list[str] = []
        async with self._translated("list containers"):
            found = await (await self._docker()).containers.list(
                all=True, filters=json.dumps({"label": [wanted]}), timeout=QUERY_S
            )
        for container in found:
            # judged again here: a proxy or another engine may read filters as substrings
            ours = _labels(container).get(docker_config.LABEL_INSTALLATION) == installation_id
            if ours and container.id not in self.live:
                async with self._translated("remove a container"):
                    await _delete(container)
                removed.append(container.id)
        return removed

    async def close(self) -> None:
        """Close the connection; containers go on."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # ---- engine

    async def _docker(self) -> aiodocker.Docker:
        if self._client is None:
            await asyncio.to_thread(importlib.import_module, "aiodocker")  # 160 ms: not on the loop
            self._client = _connect(self._url)
        return self._client

    async def _info(self) -> Mapping[str, Any]:
        async with self._translated("ask the engine"):
            info: Mapping[str, Any] = await (await self._docker()).system.info()
        options = info.get("SecurityOptions") or []
        self._apparmor = any("name=apparmor" in str(option) for option in options)
        return info

    async def _ensure_image(self) -> str:
        from aiodocker.exceptions import DockerError  # noqa: PLC0415 - see the module's docstring

        docker = await self._docker()
        async with self._translated("look at the base image"):
            try:
                return str((await docker.images.inspect(self._image))["Id"])
            except DockerError as error:
                if error.status != 404:
                    raise
        if self._image != DEFAULT_IMAGE:
            raise HostError(
                "The base image is missing",
                code="image_missing",
                detail=f"the engine has no image {quote(self._image)} (RUMI_BASE_IMAGE)",
                hint="Build or load it, or unset RUMI_BASE_IMAGE.",
            )
        return await self._build()

    async def _build(self) -> str:
        docker = await self._docker()
        context = await asyncio.to_thread(_build_context)
        try:
            async with self._translated("build the base image"):
                await docker.images.build(
                    fileobj=context, encoding="gzip", tag=self._image, rm=True, forcerm=True, timeout=BUILD_S
                )
                return str((await docker.images.inspect(self._image))["Id"])
        except HostError as error:
            raise HostError(
                "The base image can't be built",
                code="image_build_failed",
                detail=error.detail,
                hint="rumi setup --local-base   (builds it from this machine's own Python, without a network)",
            ) from error

    async def _trial(self) -> None:
        """Run the image under the production settings; what it prints proves them and names its Python."""
        folder = await asyncio.to_thread(_trial_folder, self._state_dir)
        try:
            spec = SandboxSpec(
                pack_id="probe",
                generation=os.getpid() * 1_000_000 + next(self._trials),
                installation_id=self._installation_id,
                uid=TRIAL_UID,
                gid=TRIAL_UID,
                pack_dir=f"{folder}/pack",
                runtime_dir=f"{folder}/runtime",
                socket_path=f"{folder}/bus.sock",
                digest="0" * 64,
            )
            document = docker_config.create_document(
                spec, self._image_id, runtime=self._runtime, apparmor=self._apparmor
            )
            sandbox = await self._run(spec, document | {"Cmd": TRIAL_COMMAND})
            try:
                ended = await asyncio.wait_for(sandbox.wait(), TRIAL_S)
            except TimeoutError:
                ended = await sandbox.stop(0)
            output = await sandbox.output_tail()
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        first, _, rest = output.partition("\n")
        lines = dict(line.partition(":\t")[::2] for line in rest.splitlines())
        try:
            abi = parse_abi(first, "")
        except ValueError as error:
            raise _trial_failed(ended, output) from error
        if ended.code != 0 or lines.get("Seccomp") != "2" or lines.get("NoNewPrivs") != "1":
            raise _trial_failed(ended, output)
        self._abi = compiler_for(abi, (HOST_ABI,))

    async def _run(self, spec: SandboxSpec, document: Mapping[str, Any]) -> DockerSandbox:
        docker = await self._docker()
        async with self._translated("create a container"):
            container = await docker.containers.create(dict(document), name=docker_config.container_name(spec))
        self.live.add(container.id)
        sandbox = DockerSandbox(self, spec, container)
        try:
            async with self._translated("start a container"):
                await sandbox.begin()
        except BaseException:
            self.live.discard(container.id)
            with contextlib.suppress(HostError):
                async with self._translated("remove a container"):
                    await _delete(container)
            raise
        return sandbox

    @contextlib.asynccontextmanager
    async def _translated(self, doing: str) -> AsyncIterator[None]:
        """The border of this port: the library's exceptions become ``HostError``."""
        import aiohttp  # noqa: PLC0415 - see the module's docstring
        from aiodocker.exceptions import DockerError  # noqa: PLC0415

        try:
            yield
        except DockerError as error:
            if error.status == NOT_CONNECTED:
                raise self._gone(doing, error.message) from error
            raise HostError(
                f"The engine refused to {doing}",
                code="engine_refused",
                detail=f"{error.status}: {quote(error.message, 500)}",
                hint="rumi doctor",
                fields={"status": error.status},
            ) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._gone(doing, str(error) or type(error).__name__) from error

    def _gone(self, doing: str, why: str) -> HostError:
        return HostError(
            f"The engine did not answer when asked to {doing}",
            code="engine_unavailable",
            detail=f"{self._url}: {quote(why, 300)}",
            hint=START_HINT,
        )

    def _unavailable(self, reason: str, hint: str) -> DriverStatus:
        return DriverStatus(self.kind, available=False, level=Level.NONE, reason=reason, hint=hint)


class DockerSandbox:
    """One container. Made by the driver."""

    def __init__(self, driver: DockerDriver, spec: SandboxSpec, container: DockerContainer) -> None:
        self.id = container.id
        self.pid = 0
        """Of the container's init, as the engine's machine counts; 0 where that is not this machine."""
        self._driver = driver
        self._spec = spec
        self._container = container
        self._runtime = ""
        self._killed = False
        self._tail = b""
        self._reader: asyncio.Task[None] | None = None
        self._end: asyncio.Task[Exit] | None = None

    async def begin(self) -> None:
        """Attach first, so that no output is lost, then start."""
        stream = self._container.attach(stdout=True, stderr=True, logs=False)
        try:
            await stream._init()  # noqa: SLF001 - the library connects on first read only, which would be too late
        except BaseException:
            await stream.close()
            raise
        self._reader = asyncio.ensure_future(self._read(stream))
        await self._container.start(timeout=QUERY_S)
        shown = await self._container.show()
        self._runtime = str(shown["HostConfig"].get("Runtime") or "")
        pid = int(shown["State"].get("Pid") or 0)
        self.pid = pid if await asyncio.to_thread(_is_local, pid, self.id) else 0
        self._end = asyncio.ensure_future(self._finish())

    async def measure(self, probe: Mapping[str, Any]) -> Isolation:
        """The host's look at the agent's process, where the engine runs on this machine."""
        view = await asyncio.to_thread(self._look) if self.pid else None
        return judge(DriverKind.DOCKER, self._spec, view, probe)

    async def wait(self) -> Exit:
        """When the container is gone."""
        assert self._end is not None, "begin() precedes"
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> Exit:
        """TERM, KILL after ``grace_s``, remove."""
        assert self._end is not None, "begin() precedes"
        self._killed = True
        if grace_s > 0 and not self._end.done():
            await self._signal("SIGTERM")
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), grace_s)
        if not self._end.done():
            await self._signal("SIGKILL")
        return await self.wait()

    async def usage(self) -> Mapping[str, float]:
        """From the container's cgroup, where this machine can read it."""
        if not self.pid or self._end is None or self._end.done():
            return {}
        with contextlib.suppress(OSError, ValueError):
            return await asyncio.to_thread(cgroups.read_usage, self.pid)
        return {}

    async def output_tail(self) -> str:
        """What the container wrote outside the bus."""
        if self._end is not None and self._end.done() and self._reader is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        return escape(self._tail)

    async def _signal(self, name: str) -> None:
        with contextlib.suppress(HostError):  # it has ended, or the engine is gone: `wait` tells which
            async with self._driver._translated("signal a container"):  # noqa: SLF001 - one border for both classes
                await self._container.kill(signal=name, timeout=QUERY_S)

    async def _finish(self) -> Exit:
        try:
            async with self._driver._translated("wait for a container"):  # noqa: SLF001
                await self._container.wait(timeout=None)
                state = (await self._container.show())["State"]
                await _delete(self._container)
        except HostError as error:
            return Exit(None, "lost", error.detail)
        finally:
            self._driver.live.discard(self.id)
            if self._reader is not None and not self._reader.done():
                await asyncio.wait([self._reader], timeout=0.5)
                self._reader.cancel()
        code = int(state.get("ExitCode", 0))
        if state.get("OOMKilled"):
            return Exit(code, "oom", "the memory limit was exceeded")
        if self._killed:
            return Exit(code, "killed")
        if code > 128:
            return Exit(code, "signal", f"signal {code - 128}")
        return Exit(code, "exited", quote(state["Error"]) if state.get("Error") else "")

    async def _read(self, stream: Any) -> None:
        """Always drained, so that a Pack's flood of output can't block it; only the end is kept."""
        try:
            while (message := await stream.read_out()) is not None:
                self._tail = (self._tail + message.data)[-SHOWN_LIMIT_BYTES:]
        except (OSError, RuntimeError):
            return  # the connection broke with its engine; `wait` reports that
        finally:
            await stream.close()

    def _look(self) -> Any:
        below = proc_view.descendants(self.pid)
        return proc_view.host_view(below[0] if below else self.pid, runtime=self._runtime)


def _connect(url: str) -> aiodocker.Docker:
    import aiodocker  # noqa: PLC0415 - see the module's docstring
    import aiohttp  # noqa: PLC0415

    return aiodocker.Docker(url=url, timeout=aiohttp.ClientTimeout(total=QUERY_S, connect=PROBE_S))


def _engine_url() -> str:
    named = os.environ.get("DOCKER_HOST")
    if named:
        return named
    own = f"{os.environ.get('XDG_RUNTIME_DIR', '/nonexistent')}/docker.sock"
    return f"unix://{own if Path(own).is_socket() and not Path(DEFAULT_SOCKET).is_socket() else DEFAULT_SOCKET}"


def _engine_level(info: Mapping[str, Any], runtime: str) -> tuple[Level, str]:
    """What the engine itself says it can enforce, and a sentence about what it lacks."""
    if info.get("OSType", "linux") != "linux":
        raise SandboxUnavailable("The engine runs no Linux containers", detail=f"it is for {quote(info.get('OSType'))}")
    if runtime and runtime not in (info.get("Runtimes") or {}):
        raise SandboxUnavailable("The engine lacks the chosen runtime", detail=f"no runtime {quote(runtime)}")
    lacks = [name for name, key in (("memory", "MemoryLimit"), ("process", "PidsLimit")) if not info.get(key)]
    if not any("seccomp" in str(option) for option in info.get("SecurityOptions") or []):
        lacks.append("system-call")
    if lacks:
        return Level.REDUCED, f"the engine can't enforce {' and '.join(lacks)} limits"
    return (Level.STRONG if runtime in SANDBOXED_RUNTIMES else Level.STANDARD), ""


def _trial_failed(ended: Exit, output: str) -> SandboxUnavailable:
    return SandboxUnavailable(
        "A trial container did not run under our settings",
        detail=f"{ended.cause} {ended.code} {ended.detail}; it said {quote(output.strip()[-300:], 300)}",
        hint="rumi doctor",
    )


def _trial_folder(state_dir: Path) -> Path:
    state_dir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=TRIAL_PREFIX, dir=state_dir))
    for name in ("pack", "runtime"):
        (folder / name).mkdir(mode=0o755)
    (folder / "bus.sock").touch()
    return folder


def _build_context() -> io.BytesIO:
    """The Dockerfile alone, as a gzipped tar: nothing else of this machine can get into the image."""
    data = (BASE_FOLDER / "Dockerfile").read_bytes()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size, entry.mode = len(data), 0o644
        tar.addfile(entry, io.BytesIO(data))
    out.seek(0)
    return out


def _is_local(pid: int, container_id: str) -> bool:
    """Whether ``pid`` is that container on this machine: a remote engine's number may name any process here."""
    if pid <= 0:
        return False
    try:
        return container_id in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False


def _labels(container: DockerContainer) -> Mapping[str, str]:
    try:
        labels = container["Labels"]
    except KeyError:
        return {}
    return labels if isinstance(labels, dict) else {}


async def _delete(container: DockerContainer) -> None:
    from aiodocker.exceptions import DockerError  # noqa: PLC0415 - see the module's docstring

    try:
        await container.delete(force=True, v=True, timeout=QUERY_S)
    except DockerError as error:
        if error.status not in {404, 409}:  # gone, or its removal is already under way
            raise

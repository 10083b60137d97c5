"""Sandboxes in a Docker Engine, over its API.

Invariants:
  * A container is found by its three exact labels or by its id, never by a name or part of one.
  * The base image is named once, at the probe; what runs is its pinned id, or over stdio a pinned image made from it.
  * Every query has a deadline: an engine that hangs becomes a ``HostError``, never a hanging host.
  * A runtime that the operator chose is used or nothing is started: never the engine's default in its place.

Not here: the create document (``rules.docker_config``), one container's life (``docker_sandbox``), which transport
(``rules.docker_transport``), levels (``rules.isolation``), restarts (supervision).
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from backend_core.errors import HostError, SandboxUnavailable, quote
from core_runtime.drivers import docker_parcel, docker_trial
from core_runtime.drivers.docker_client import START_HINT, EngineClient, delete_container
from core_runtime.drivers.docker_sandbox import DockerSandbox
from core_runtime.drivers.orphans import end_orphans
from core_runtime.drivers.runtime_folder import HOST_ABI, PythonAbi, compiler_for, parse_abi
from core_runtime.ports import DriverStatus
from core_runtime.rules import docker_config, seccomp
from core_runtime.rules.docker_transport import Candidate, Transport, candidates
from core_runtime.rules.isolation import SANDBOXED_RUNTIMES, has_own_kernel
from core_runtime.rules.sandbox import (
    PACK_MOUNT,
    PACKAGES_MOUNT,
    RUNTIME_MOUNT,
    DriverKind,
    Level,
    MachineLimits,
    SandboxSpec,
    within,
)

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

DEFAULT_IMAGE = "rumi-pack-base:1"
BASE_FOLDER = Path(__file__).resolve().parents[2] / "docker/core/base"
QUERY_S = 30.0
PROBE_S = 5.0
BUILD_S = 300.0
TRIAL_UID = 65534


class DockerDriver:
    """Port ``SandboxDriver`` over a Docker Engine.

    Args:
        installation_id: value of the label that makes a container ours.
        state_dir: folder for the probe's files; an engine of this machine must see it under the same path.
        url: ``unix:///…`` or ``tcp://…``; by default ``DOCKER_HOST``, then the usual sockets.
        image: name of the base image; by default ``RUMI_BASE_IMAGE``, then ``rumi-pack-base:1``.
        runtime: an engine runtime chosen by the operator (``runsc``); empty = the engine's default.
        transport: ``auto``, ``socket`` or ``stdio``.
    """

    kind = DriverKind.DOCKER

    def __init__(
        self,
        installation_id: str,
        state_dir: Path,
        *,
        url: str = "",
        image: str = "",
        runtime: str = "",
        transport: str = "auto",
    ) -> None:
        self._installation_id = installation_id
        self._state_dir = state_dir
        self._engine = EngineClient(url)
        self._image = image or os.environ.get("RUMI_BASE_IMAGE") or DEFAULT_IMAGE
        self._runtime = runtime
        self._wanted = transport
        self._chosen = Candidate(Transport.SOCKET)
        self._image_id = ""
        self._abi: PythonAbi | None = None
        self._apparmor = False
        self._visible = False
        self._kernel = ""
        self._machine: MachineLimits | None = None
        """The engine's own, where it says."""
        self._guest = False
        self._trials = itertools.count(1)
        self.live: set[str] = set()
        """Ids of containers that this process started and that have not ended."""
        self._starting: set[tuple[str, str]] = set()
        """Pack and generation, as their labels say, of what is being made and has no id yet."""

    @property
    def attaches(self) -> bool:
        """Whether a sandbox's bus is its own stdio."""
        return self._chosen.transport is Transport.STDIO

    # ---- port

    async def probe(self) -> DriverStatus:
        """Ask the engine, make the base image when it is missing, and run it once under the production settings."""
        try:
            async with asyncio.timeout(PROBE_S):
                info = await self._info()
            level, lacks = _engine_level(info, self._runtime)
            async with asyncio.timeout(BUILD_S):
                self._image_id = await self._ensure_image()
            self._kernel = str(info.get("KernelVersion") or "")
            await self._choose(candidates(self._wanted, self._engine.url, info, self._runtime))
        except TimeoutError:
            late = f"the engine at {self._engine.url} did not answer within {PROBE_S:g} s"
            return self._unavailable(late, START_HINT)
        except (HostError, OSError) as error:
            return self._unavailable(str(error), getattr(error, "hint", "") or START_HINT)
        if level is Level.STANDARD and self._guest:
            level = Level.STRONG
        elif self._runtime in SANDBOXED_RUNTIMES:
            lacks = lacks or f"the runtime {self._runtime} shows the engine's own kernel inside"
        version = f"{info.get('ServerVersion', '')} image {self._image_id[7:19]}"
        transport = ": ".join(filter(None, (self._chosen.transport.value, self._chosen.reason)))
        return DriverStatus(
            self.kind,
            available=True,
            level=level,
            version=quote(version)[1:-1],
            reason=lacks,
            transport=quote(transport)[1:-1],
            source="measured" if self._visible else "reported",
            base=self._image_id,
        )

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
        """Create, attach, start. Raises ``HostError`` or ``TrustError``; the container is removed then."""
        await self.python()
        return await self._run(spec, self._chosen.transport, approved=spec.digest)

    def render(self, spec: SandboxSpec) -> Mapping[str, str]:
        """The create document and the profile that it carries."""
        document = self._document(spec, self._image_id or self._image, self._chosen.transport)
        # the profile stands beside, readable, instead of as one line of two thousand characters
        options = document["HostConfig"]["SecurityOpt"]
        document["HostConfig"]["SecurityOpt"] = [
            "seccomp=seccomp.json" if option.startswith("seccomp=") else option for option in options
        ]
        out = {
            "container.json": json.dumps(document, indent=1, sort_keys=True) + "\n",
            "seccomp.json": seccomp.docker_profile_json(),
        }
        if self.attaches:
            out["carried.json"] = json.dumps(_carried(spec), indent=1, sort_keys=True) + "\n"
        return out

    async def remove_leftovers(self, installation_id: str) -> list[str]:
        """Remove containers whose label equals ``installation_id`` and that this process did not start."""
        wanted = f"{docker_config.LABEL_INSTALLATION}={installation_id}"
        removed: list[str] = []
        async with self._engine.translated("list containers"):
            found = await (await self._engine.docker()).containers.list(
                all=True, filters=json.dumps({"label": [wanted]}), timeout=QUERY_S
            )
        for container in found:
            # judged again here: a proxy or another engine may read filters as substrings
            labels = _labels(container)
            ours = labels.get(docker_config.LABEL_INSTALLATION) == installation_id
            if ours and container.id not in self.live and _generation(labels) not in self._starting:
                local = self._engine.url.startswith("unix://")  # another machine's engine names nothing here
                if local:  # first, too: what the engine's runtime can't end would keep it waiting
                    await asyncio.to_thread(end_orphans, container.id)
                async with self._engine.translated("remove a container"):
                    await delete_container(container)
                if local:
                    await asyncio.to_thread(end_orphans, container.id)
                removed.append(container.id)
        for image, labels in await docker_parcel.leftovers(self._engine, installation_id):
            if _generation(labels) not in self._starting:
                await docker_parcel.discard(self._engine, image)  # one in use is refused by the engine, and stays
        return removed

    async def close(self) -> None:
        """Close the connection; containers go on."""
        await self._engine.close()

    # ---- engine

    async def _info(self) -> Mapping[str, Any]:
        info = await self._engine.info()
        options = info.get("SecurityOptions") or []
        memory, cpus = info.get("MemTotal"), info.get("NCPU")
        if isinstance(memory, int) and memory > 0 and isinstance(cpus, int) and cpus > 0:
            self._machine = MachineLimits(memory, cpus)
        self._apparmor = any("name=apparmor" in str(option) for option in options)
        return info

    async def _ensure_image(self) -> str:
        from aiodocker.exceptions import DockerError  # noqa: PLC0415 - imported on first use: it costs 160 ms

        docker = await self._engine.docker()
        async with self._engine.translated("look at the base image"):
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
        docker = await self._engine.docker()
        context = await asyncio.to_thread(_build_context)
        try:
            async with self._engine.translated("build the base image"):
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

    async def _choose(self, possible: tuple[Candidate, ...]) -> None:
        """Take the first transport whose trial passes. Raises what the first one failed with when none does."""
        failed: HostError | OSError | None = None
        for candidate in possible:
            try:
                await self._trial(candidate.transport)
            except (HostError, OSError) as error:
                failed = failed or error
                continue
            why = f"{candidate.reason} ({failed})" if failed is not None else candidate.reason
            self._chosen = replace(candidate, reason=why)
            return
        assert failed is not None, "there is always a candidate"
        raise failed

    async def _trial(self, transport: Transport) -> None:
        """Run the image under the production settings; what it says proves them and names its Python."""
        async with docker_trial.place(self._state_dir, transport) as place:
            spec = SandboxSpec(
                pack_id="probe",
                generation=os.getpid() * 1_000_000 + next(self._trials),
                installation_id=self._installation_id,
                uid=TRIAL_UID,
                gid=TRIAL_UID,
                pack_dir=f"{place.folder}/pack",
                runtime_dir=f"{place.folder}/runtime",
                socket_path=place.socket_path,
                digest="0" * 64,
            )
            sandbox = await self._run(spec, transport, approved="", command=docker_trial.command(transport))
            answer = await place.ask(sandbox)
        guest = has_own_kernel(self._runtime, self._kernel, answer.kernel)
        if not answer.passed(guest=guest):
            raise answer.failure()
        try:
            abi = parse_abi(answer.abi, "")
        except ValueError as error:
            raise answer.failure() from error
        self._abi, self._visible, self._guest = compiler_for(abi, (HOST_ABI,)), answer.visible, guest

    async def _run(
        self, spec: SandboxSpec, transport: Transport, *, approved: str, command: list[str] | None = None
    ) -> DockerSandbox:
        making = _generation(docker_config.labels(spec))
        self._starting.add(making)
        try:
            sandbox, parcel = await self._make(spec, transport, approved, command)
        finally:
            self._starting.discard(making)
        try:
            if parcel is not None:
                await docker_parcel.verify(self._engine, spec, sandbox.id, parcel)
            async with self._engine.translated("start a container"):
                await sandbox.begin(transport, self._runtime)
        except BaseException:
            await sandbox.abandon()
            raise
        return sandbox

    async def _make(
        self, spec: SandboxSpec, transport: Transport, approved: str, command: list[str] | None
    ) -> tuple[DockerSandbox, docker_parcel.Parcel | None]:
        """The container, not started; over stdio with an image of its own."""
        parcel = None
        if transport is Transport.STDIO:
            parcel = await docker_parcel.send(self._engine, spec, self._image_id, approved=approved)
        image = parcel.image_id if parcel is not None else self._image_id
        document = self._document(spec, image, transport) | ({"Cmd": command} if command else {})
        try:
            container = await self._create(spec, document)
        except BaseException:
            if parcel is not None:
                await docker_parcel.discard(self._engine, image)
            raise
        own = image if parcel is not None else ""
        return DockerSandbox(self._engine, spec, container, self.live, image=own, kernel=self._kernel), parcel

    async def _create(self, spec: SandboxSpec, document: Mapping[str, Any]) -> DockerContainer:
        docker = await self._engine.docker()
        async with self._engine.translated("create a container"):
            return await docker.containers.create(dict(document), name=docker_config.container_name(spec))

    def _document(self, spec: SandboxSpec, image_id: str, transport: Transport) -> dict[str, Any]:
        if self._machine is not None:
            spec = replace(spec, limits=within(spec.limits, self._machine))
        return docker_config.create_document(
            spec, image_id, runtime=self._runtime, apparmor=self._apparmor, transport=transport
        )

    def _unavailable(self, reason: str, hint: str) -> DriverStatus:
        return DriverStatus(self.kind, available=False, level=Level.NONE, reason=reason, hint=hint)


def _carried(spec: SandboxSpec) -> dict[str, Any]:
    """Over stdio nothing is mounted: what becomes a read-only layer over the base image instead."""
    packages = {PACKAGES_MOUNT: {"from": spec.packages_dir}} if spec.packages_dir else {}
    return {
        "carried as a layer over the base image, read back and compared before each start": {
            PACK_MOUNT: {"from": spec.pack_dir, "digest": spec.digest},
            RUNTIME_MOUNT: {"from": spec.runtime_dir},
            **packages,
        },
        "bus": "the container's attached stdio",
    }


def _engine_level(info: Mapping[str, Any], runtime: str) -> tuple[Level, str]:
    """What the engine itself says it can enforce, and a sentence about what it lacks."""
    if info.get("OSType", "linux") != "linux":
        raise SandboxUnavailable("The engine runs no Linux containers", detail=f"it is for {quote(info.get('OSType'))}")
    known = sorted(info.get("Runtimes") or {})
    if runtime and runtime not in known:
        raise SandboxUnavailable(
            "The engine lacks the runtime that was chosen",
            detail=f"RUMI_DOCKER_RUNTIME is {quote(runtime)}, the engine has {quote(', '.join(known))}",
            hint="Install it and name it in the engine's daemon.json, or unset RUMI_DOCKER_RUNTIME.",
        )
    lacks = [name for name, key in (("memory", "MemoryLimit"), ("process", "PidsLimit")) if not info.get(key)]
    if not any("seccomp" in str(option) for option in info.get("SecurityOptions") or []):
        lacks.append("system-call")
    if lacks:
        return Level.REDUCED, f"the engine can't enforce {' and '.join(lacks)} limits"
    return Level.STANDARD, ""  # more than that is measured


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


def _generation(labels: Mapping[str, str]) -> tuple[str, str]:
    return labels.get(docker_config.LABEL_PACK, ""), labels.get(docker_config.LABEL_GENERATION, "")


def _labels(container: DockerContainer) -> Mapping[str, str]:
    try:
        labels = container["Labels"]
    except KeyError:
        return {}
    return labels if isinstance(labels, dict) else {}

"""``SandboxSpec`` → the engine's create-container document. Pure.

Invariants:
  * Every key of the document is written here; no part of a Pack's metadata becomes an engine option. The only value
    that a Pack chose is its id, whose form ``SandboxSpec`` has checked.
  * Nothing in the document names a host path except the read-only mounts (three, a fourth for a Pack with packages),
    and over stdio none at all; the environment is a constant.

Not here: talking to an engine (``drivers.docker_engine``).
"""

from __future__ import annotations

from typing import Any

from core_runtime.rules import seccomp
from core_runtime.rules.docker_transport import Transport
from core_runtime.rules.sandbox import (
    AGENT_COMMAND,
    AGENT_COMMAND_STDIO,
    ENVIRONMENT,
    PACK_MOUNT,
    PACKAGES_MOUNT,
    RUNTIME_MOUNT,
    SOCKET_MOUNT,
    Limits,
    SandboxSpec,
)

LABEL_INSTALLATION = "rumi.installation"
LABEL_PACK = "rumi.pack"
LABEL_GENERATION = "rumi.generation"

SHM_BYTES = 16 * 1024 * 1024
TMP_FILES = 16384
NANO = 1_000_000_000

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys",
)
"""Covered by something empty. The engine's own list leaves ``/sys`` and the machine's hardware readable, and
``/proc/pressure`` open for triggers that wake the kernel."""
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def container_name(spec: SandboxSpec) -> str:
    """Name for people. Never used to find a container: labels are, exactly."""
    return f"rumi-{spec.installation_id[:12]}-{spec.pack_id}-{spec.generation}"


def tmp_options(limits: Limits) -> str:
    """How ``/tmp`` is mounted."""
    return f"rw,noexec,nosuid,nodev,size={limits.tmp_bytes},mode=1777,nr_inodes={TMP_FILES}"


def labels(spec: SandboxSpec) -> dict[str, str]:
    """The three labels by which this installation finds its own containers after a crash."""
    return {
        LABEL_INSTALLATION: spec.installation_id,
        LABEL_PACK: spec.pack_id,
        LABEL_GENERATION: str(spec.generation),
    }


def create_document(
    spec: SandboxSpec,
    image_id: str,
    *,
    runtime: str = "",
    apparmor: bool = False,
    transport: Transport = Transport.SOCKET,
) -> dict[str, Any]:
    """Body of ``POST /containers/create``.

    Args:
        spec: what to run.
        image_id: the pinned id (``sha256:…``) of the base image, or over stdio of the one that also holds the Pack;
            never a name that can be moved.
        runtime: an engine runtime that the operator chose, such as ``runsc``; empty = the engine's default.
        apparmor: whether the engine's own AppArmor profile exists on this machine.
        transport: how the bus gets in and out.
    """
    attached = transport is Transport.STDIO
    host = _host_config(spec, apparmor=apparmor, mounts=not attached)
    if runtime:
        host["Runtime"] = runtime
    return {
        "Image": image_id,
        "User": f"{spec.uid}:{spec.gid}",
        "Entrypoint": ["python3"],
        "Cmd": list(AGENT_COMMAND_STDIO if attached else AGENT_COMMAND),
        "Env": [f"{name}={value}" for name, value in sorted(ENVIRONMENT.items())],
        "WorkingDir": "/",
        "Hostname": "pack",
        "Tty": False,
        "OpenStdin": attached,
        "StdinOnce": attached,  # the bus ends with the connection: no second one can take it over
        "AttachStdin": attached,
        "NetworkDisabled": True,
        "Labels": labels(spec),
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},  # an image's own check would run as an extra process
        "HostConfig": host,
    }


def carrier_document(spec: SandboxSpec, image_id: str) -> dict[str, Any]:
    """A container that never runs: files are put into it, and it is made an image. Its labels become the image's."""
    return {
        "Image": image_id,
        "Entrypoint": ["/nothing-of-this-image-runs"],
        "Cmd": [],
        "Env": [],
        "NetworkDisabled": True,
        "Labels": labels(spec),
        "HostConfig": {"NetworkMode": "none", "LogConfig": {"Type": "none", "Config": {}}},
    }


def _host_config(spec: SandboxSpec, *, apparmor: bool, mounts: bool) -> dict[str, Any]:
    limits = spec.limits
    security = ["no-new-privileges:true", f"seccomp={seccomp.docker_profile_json()}"]
    if apparmor:
        security.append("apparmor=docker-default")
    return {
        "Privileged": False,
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "SecurityOpt": security,
        "NetworkMode": "none",
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "Init": True,
        "Mounts": [
            _read_only(spec.pack_dir, PACK_MOUNT),
            _read_only(spec.runtime_dir, RUNTIME_MOUNT),
            *([_read_only(spec.packages_dir, PACKAGES_MOUNT)] if spec.packages_dir else []),
            _read_only(spec.socket_path, SOCKET_MOUNT),
        ]
        if mounts
        else [],
        "Tmpfs": {
            "/tmp": tmp_options(limits),  # noqa: S108 - inside the sandbox
        },
        "MaskedPaths": list(MASKED_PATHS),
        "ReadonlyPaths": list(READONLY_PATHS),
        "ShmSize": SHM_BYTES,
        "Memory": limits.memory_bytes,
        "MemorySwap": limits.memory_bytes,  # equal: no swap at all
        "MemorySwappiness": 0,
        "NanoCpus": round(limits.cpus * NANO),
        "PidsLimit": limits.pids,
        "Ulimits": [
            {"Name": "nofile", "Soft": limits.files, "Hard": limits.files},
            {"Name": "core", "Soft": 0, "Hard": 0},
        ],
        "LogConfig": {"Type": "none", "Config": {}},
        "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        "AutoRemove": False,  # the exit state must still be readable when the sandbox has ended
        "OomScoreAdj": 500,
    }


def _read_only(source: str, target: str) -> dict[str, Any]:
    return {
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rprivate", "NonRecursive": True},
    }

"""``SandboxSpec`` → the engine's create-container document. Pure.

Invariants:
  * Every key of the document is written here; no part of a Pack's metadata becomes an engine option. The only value
    that a Pack chose is its id, whose form ``SandboxSpec`` has checked.
  * Nothing in the document names a host path except the three read-only mounts; the environment is a constant.

Not here: talking to an engine (``drivers.docker_engine``).
"""

from __future__ import annotations

from typing import Any

from core_runtime.rules import seccomp
from core_runtime.rules.sandbox import (
    AGENT_COMMAND,
    ENVIRONMENT,
    PACK_MOUNT,
    RUNTIME_MOUNT,
    SOCKET_MOUNT,
    SandboxSpec,
)

LABEL_INSTALLATION = "rumi.installation"
LABEL_PACK = "rumi.pack"
LABEL_GENERATION = "rumi.generation"

SHM_BYTES = 16 * 1024 * 1024
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


def labels(spec: SandboxSpec) -> dict[str, str]:
    """The three labels by which this installation finds its own containers after a crash."""
    return {
        LABEL_INSTALLATION: spec.installation_id,
        LABEL_PACK: spec.pack_id,
        LABEL_GENERATION: str(spec.generation),
    }


def create_document(spec: SandboxSpec, image_id: str, *, runtime: str = "", apparmor: bool = False) -> dict[str, Any]:
    """Body of ``POST /containers/create``.

    Args:
        spec: what to run.
        image_id: the pinned id of the base image (``sha256:…``), never a name that can be moved.
        runtime: an engine runtime that the operator chose, such as ``runsc``; empty = the engine's default.
        apparmor: whether the engine's own AppArmor profile exists on this machine.
    """
    host = _host_config(spec, apparmor=apparmor)
    if runtime:
        host["Runtime"] = runtime
    return {
        "Image": image_id,
        "User": f"{spec.uid}:{spec.gid}",
        "Entrypoint": ["python3"],
        "Cmd": list(AGENT_COMMAND),
        "Env": [f"{name}={value}" for name, value in sorted(ENVIRONMENT.items())],
        "WorkingDir": "/",
        "Hostname": "pack",
        "Tty": False,
        "OpenStdin": False,
        "AttachStdin": False,
        "NetworkDisabled": True,
        "Labels": labels(spec),
        "StopSignal": "SIGTERM",
        "Healthcheck": {"Test": ["NONE"]},  # an image's own check would run as an extra process
        "HostConfig": host,
    }


def _host_config(spec: SandboxSpec, *, apparmor: bool) -> dict[str, Any]:
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
            _read_only(spec.socket_path, SOCKET_MOUNT),
        ],
        "Tmpfs": {
            "/tmp": f"rw,noexec,nosuid,nodev,size={limits.tmp_bytes},mode=1777,nr_inodes=16384",  # noqa: S108
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

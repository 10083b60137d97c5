"""``SandboxSpec`` → bubblewrap's arguments. Pure.

Invariants:
  * Every namespace is unshared, always; there is no parameter that keeps one of the host's.
  * Nothing of the host is bound writable. Writable are exactly two size-limited tmpfs: ``/tmp`` and ``/dev/shm``.
  * The arguments travel by ``--args FD`` and the process's own environment is empty: ``/proc/1/cmdline`` and
    ``/proc/1/environ`` inside show nothing of the host.

Bubblewrap 0.8 can't mount a tmpfs noexec. Executing from ``/tmp`` is refused by the Landlock rules that the agent
applies before any Pack byte; no_new_privs and the filter make a foreign binary no more powerful than Python itself.

Not here: dropping the uid, cgroups and rlimits (the launcher does these before bubblewrap starts).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from core_runtime.rules.sandbox import (
    AGENT_COMMAND,
    ENVIRONMENT,
    PACK_MOUNT,
    PACKAGES_MOUNT,
    RUNTIME_MOUNT,
    SOCKET_MOUNT,
    SandboxSpec,
)

SHM_BYTES = 16 * 1024 * 1024


class EmbeddedMachine(Struct, frozen=True):
    """What the driver found on this machine. All paths are root-owned system paths, never below a home.

    ``binds`` are shown read-only where they are, ``links`` are symbolic links to re-create (``/bin`` → ``usr/bin``),
    ``etc`` maps a place below ``/etc`` to a file of the runtime folder that stands in for the host's own; a link to it,
    since each mount costs a start half a millisecond.
    """

    bwrap: str
    python: str
    binds: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    etc: Mapping[str, str] | None = None


def command_line(machine: EmbeddedMachine, args_fd: int, command: Sequence[str] = AGENT_COMMAND) -> list[str]:
    """The real command line, visible from inside; bubblewrap takes no command from the options."""
    return [machine.bwrap, "--args", str(args_fd), "--", machine.python, *command]


def options(spec: SandboxSpec, machine: EmbeddedMachine, *, seccomp_fd: int, status_fd: int) -> list[str]:
    """Options for ``bwrap --args FD``."""
    out = [
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup",
        "--hostname",
        "pack",
        "--new-session",
        "--die-with-parent",
        "--clearenv",
    ]
    for name, value in sorted(ENVIRONMENT.items()):
        out += ["--setenv", name, value]
    out += _file_system(spec, machine)
    return [*out, "--chdir", "/", "--json-status-fd", str(status_fd), "--seccomp", str(seccomp_fd)]


def _file_system(spec: SandboxSpec, machine: EmbeddedMachine) -> list[str]:
    out: list[str] = []
    for path in machine.binds:
        out += ["--ro-bind", path, path]
    for target, link in machine.links:
        out += ["--symlink", target, link]
    for place, source in sorted((machine.etc or {}).items()):
        out += ["--symlink", f"{RUNTIME_MOUNT}/{source}", place]
    tmp, shm = str(spec.limits.tmp_bytes), str(SHM_BYTES)
    return [
        *out,
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *("--perms", "1777", "--size", shm, "--tmpfs", "/dev/shm"),  # noqa: S108 - inside the sandbox
        *("--perms", "1777", "--size", tmp, "--tmpfs", "/tmp"),  # noqa: S108
        *("--ro-bind", spec.pack_dir, PACK_MOUNT),
        *("--ro-bind", spec.runtime_dir, RUNTIME_MOUNT),
        *(("--ro-bind", spec.packages_dir, PACKAGES_MOUNT) if spec.packages_dir else ()),
        *("--ro-bind", spec.socket_path, SOCKET_MOUNT),
        # the root and /dev are tmpfs of bubblewrap's own, without a size limit: read-only closes that way round it
        *("--remount-ro", "/dev"),
        # /proc/pressure takes triggers from everybody, which wake the kernel; nobody inside needs to write to /proc
        *("--remount-ro", "/proc"),
        *("--remount-ro", "/"),
    ]

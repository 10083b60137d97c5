"""Commands that start a bare Python as others would: in bubblewrap, in a container.

What this machine lacks raises ``RuntimeError``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from bench.harness import Subject

PYTHON = "/usr/bin/python3"


def bubblewrap_command(code: str) -> list[str]:
    """Python with ``code`` in namespaces of its own: no seccomp filter, no limits, no agent."""
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise RuntimeError("bubblewrap is not installed")
    folders = [path for path in ("/usr", "/lib", "/lib64", "/bin") if Path(path).exists()]
    binds = [word for path in folders for word in ("--ro-bind", path, path)]
    places = [*binds, "--proc", "/proc", "--dev", "/dev"]
    return [bwrap, "--unshare-all", "--die-with-parent", *places, PYTHON, "-I", "-S", "-c", code]


def docker_command(code: str, *options: str) -> list[str]:
    """``docker run`` of the Packs' base image with ``code``, as an engine starts it by default."""
    image = os.environ.get("RUMI_BASE_IMAGE", "rumi-pack-base:1")
    bare = ["run", "--rm", "--network", "none", "--entrypoint", "python3", *options]
    return [_docker(), *bare, image, "-I", "-S", "-c", code]


class DockerExec:
    """A peer: one ``docker exec`` for each call, into a container that runs already."""

    def __init__(self) -> None:
        sleeping = docker_command("import time; time.sleep(3600)", "--detach")
        started = subprocess.run(sleeping, check=True, capture_output=True, text=True, timeout=120)
        self._container = started.stdout.strip()

    def __call__(self, n: int) -> float:
        """Seconds for ``n`` calls."""
        command = [_docker(), "exec", self._container, "python3", "-I", "-S", "-c", "print(1)"]
        start = time.perf_counter()
        for _ in range(n):
            subprocess.run(command, check=True, capture_output=True, timeout=120)
        return time.perf_counter() - start

    def close(self) -> None:
        """Remove the container."""
        subprocess.run([_docker(), "rm", "--force", self._container], check=False, capture_output=True, timeout=120)


def sparse(subject: Subject, one_in: int) -> Subject:
    """For what is so slow that ``n`` operations would take minutes: measures few and answers for ``n``."""

    def few(n: int) -> float:
        done = max(1, n // one_in)
        return subject(done) * n / done

    return few


def _docker() -> str:
    docker = shutil.which("docker")
    if docker is None:
        raise RuntimeError("no docker command to compare with")
    return docker

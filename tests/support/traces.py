"""What a host and its sandboxes leave on the machine: exact sets, by installation id, uid of a process and path."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import Counter
from pathlib import Path
from urllib.parse import quote

from core_runtime.drivers import proc_view
from core_runtime.rules.settings import run_dir_for
from rumi_setup.core.docker_http import Engine
from tests.support.running_host import RunningHost

LABEL = "rumi.installation"
GROUPS = Path("/sys/fs/cgroup")


class Traces:
    """Of one installation. ``look`` often: only a process that was seen while it lived can be missed later."""

    def __init__(self, host: RunningHost, engine: Engine | None = None) -> None:
        self._host = host
        self._engine = engine
        self.installation = (host.home / "user_data/permissions/.installation").read_text().strip()
        self._bus = run_dir_for(host.home, os.environ.get("XDG_RUNTIME_DIR", ""), os.geteuid())
        self._bus = self._bus.with_name(self._bus.name + "-bus")
        self._seen: set[tuple[int, int]] = set()

    def look(self) -> None:
        """Remember every process of this host and of its sandboxes."""
        pids = {self._host.pid, *proc_view.descendants(self._host.pid)}
        for group in self.groups():
            pids |= set(self.processes_in(group))
        for container in self._listed():
            pids |= self.processes_of(str(container["Id"]))
        for pid in pids:
            started = proc_view.start_time(pid)
            if started is not None:
                self._seen.add((pid, started))

    def alive(self) -> set[int]:
        """Processes that were seen at any time and still run, zombies left out."""
        return {pid for pid, started in self._seen if proc_view.start_time(pid) == started and not _zombie(pid)}

    def alive_after(self, seconds: float) -> dict[int, str]:
        """Those that are there so long after, with what they are: one that was killed may take a moment to go."""
        until = time.monotonic() + seconds
        while self.alive() and time.monotonic() < until:
            time.sleep(0.02)
        return {pid: _command_of(pid) for pid in self.alive()}

    def groups(self) -> set[str]:
        """Names of control groups of the embedded sandbox."""
        found = set()
        for folder in self._folders():
            with contextlib.suppress(OSError):
                found |= {group.name for group in folder.iterdir() if group.is_dir()}
        return found

    def parents(self) -> set[str]:
        """Folders of those groups."""
        return {str(folder) for folder in self._folders()}

    def spare_groups(self) -> set[str]:
        """Those that hold a process which waits for a Pack, and nothing else."""
        return {
            group for group in self.groups() if (pids := self.processes_in(group)) and all(map(_is_launcher, pids))
        }

    def processes_in(self, group: str) -> list[int]:
        """Those in one control group, by pid."""
        for folder in self._folders():
            try:
                return sorted(int(pid) for pid in (folder / group / "cgroup.procs").read_text().split())
            except OSError:
                continue
        return []

    def containers(self) -> dict[str, str]:
        """Id → ``pack-generation`` of containers with exactly this installation's label, whatever their state."""
        return {
            str(one["Id"]): f"{one['Labels'].get('rumi.pack')}-{one['Labels'].get('rumi.generation')}"
            for one in self._listed()
        }

    def images(self) -> set[str]:
        """``pack-generation`` of images with this installation's label: what is carried over stdio, one a container."""
        return {f"{one['Labels'].get('rumi.pack')}-{one['Labels'].get('rumi.generation')}" for one in self._labelled("/images/json?")}

    def processes_of(self, container: str) -> set[int]:
        """Those inside a container, by pid on this machine."""
        found = set()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    inside = container in (entry / "cgroup").read_text()
                except OSError:
                    continue
                if inside:
                    found.add(int(entry.name))
        return found

    def sockets(self) -> set[str]:
        """Bus sockets."""
        return {path.name for path in self._bus.glob("*.sock")} if self._bus.is_dir() else set()

    def temporary(self) -> set[str]:
        """Files and folders that exist for a moment only."""
        home = self._host.home
        patterns = ("**/.rumi-tmp-*", "**/.incoming-*", "user_data/packs/.trials/*", "user_data/staging/.*")
        found = {str(path) for pattern in patterns for path in home.glob(pattern)}
        stage = Path("/run/rumi-sandbox")
        found |= {str(path) for path in stage.iterdir()} if stage.is_dir() else set()
        return found | ({str(path) for path in self._bus.glob("probe-*")} if self._bus.is_dir() else set())

    def mounts(self) -> set[str]:
        """Mounts in the machine's namespace that lie in, or come from, a place of this installation."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        places = (str(self._host.home), str(self._bus), "/run/rumi-sandbox")
        return {line for line in lines if any(place in line for place in places)}

    def descriptors(self) -> Counter[str]:
        """What the host's process has open, by kind: names without the numbers in them."""
        found: Counter[str] = Counter()
        for link in (Path("/proc") / str(self._host.pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                found[re.sub(r"[0-9]+", "", str(link.readlink()))] += 1
        return found

    def threads(self) -> int:
        """Of the host's process."""
        return len(list((Path("/proc") / str(self._host.pid) / "task").iterdir()))

    def _folders(self) -> list[Path]:
        """Where its control groups are: below each controller, at most three deep. Others' come and go meanwhile."""
        name, found = f"rumi-{self.installation}", []
        for where, folders, _ in os.walk(GROUPS):
            if name in folders:
                found.append(Path(where) / name)
            deep = len(Path(where).relative_to(GROUPS).parts)
            folders[:] = [] if deep >= 3 else [one for one in folders if not one.startswith("rumi-")]
        return found

    def _listed(self) -> list[dict[str, dict[str, str]]]:
        return self._labelled("/containers/json?all=1&")

    def _labelled(self, question: str) -> list[dict[str, dict[str, str]]]:
        if self._engine is None:
            return []
        wanted = quote(json.dumps({"label": [f"{LABEL}={self.installation}"]}))
        status, raw = self._engine._request("GET", f"{question}filters={wanted}", timeout_s=20)
        assert status == 200, raw
        return [one for one in json.loads(raw) if one["Labels"].get(LABEL) == self.installation]


def _is_launcher(pid: int) -> bool:
    try:
        return b"launcher.py" in (Path("/proc") / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:300]
    except OSError:
        return "it has ended"


def _zombie(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

"""Packs that call each other all the time, callers that keep account of every call, and faults that happen to them."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Self

from core_runtime.drivers import proc_view
from core_runtime.drivers import spares as spares_module
from tests.support.own_engine import OwnEngine
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.traces import Traces

PACKS = ("p0", "p1", "p2", "p3")
DEADLINE_S = 4.0
GRACE_S = 4.0
"""Beyond the deadline: two cores are shared with engines, sandboxes and whatever else runs."""
QUIET_S = 90.0
ANSWERS = 10
"""Which each caller gets while everything serves, however slow the machine is."""

WORKER = """
import os, socket, time
NAME, NEXT = {name!r}, {next!r}
def run(context):
    ir, store = context["interface_registry"], context["userdata_manager"]
    slow = "packs/" + NAME + "/slow"
    if store.exists(slow):
        time.sleep(1.0)
    {extra}
    def work(args, ctx):
        if args["hops"] == 0:
            return [NAME]
        following = ir.get(NEXT + ".work")
        if following is None:
            raise LookupError(NEXT + " is not there")
        return [NAME] + following({{"hops": args["hops"] - 1}}, ctx)
    def fill(args, ctx):
        with open("/tmp/full", "wb") as file:
            while True:
                file.write(bytes(1 << 20))
    def close(args, ctx):
        os.closerange(3, 200)
    def leave(args, ctx):
        os._exit(7)
    ir.register(NAME + ".work", work)
    ir.register(NAME + ".fill", fill)
    ir.register(NAME + ".close", close)
    ir.register(NAME + ".leave", leave)
"""
WATCHER = """
import threading, time
def run(context):
    ir = context["interface_registry"]
    account = {"begun": 0, "ended": 0, "longest_s": 0.0, "outcomes": {}}
    lock = threading.Lock()
    def call(name, deadline_s):
        with lock:
            account["begun"] += 1
        begun, outcome = time.monotonic(), "ok"
        try:
            fn = ir.get(name + ".work")
            if fn is None:
                outcome = "missing"
            else:
                fn({"hops": 2}, timeout_s=deadline_s)
        except Exception as error:
            outcome = str(getattr(error, "type", "")) or "UNTYPED " + repr(error)[:200]
        with lock:
            account["ended"] += 1
            account["longest_s"] = max(account["longest_s"], time.monotonic() - begun)
            account["outcomes"][outcome] = account["outcomes"].get(outcome, 0) + 1
    def again(name, deadline_s):
        while True:
            call(name, deadline_s)
            time.sleep(0.01)
    for name in NAMES:
        threading.Thread(target=again, args=(name, DEADLINE_S), daemon=True).start()
    ir.register("watcher.account", lambda args, ctx: dict(account))
""".replace("NAMES", repr(PACKS)).replace("DEADLINE_S", str(DEADLINE_S))


def worker(name: str, version: str = "1.0.0", extra: str = "pass") -> dict[str, str]:
    following = PACKS[(PACKS.index(name) + 1) % len(PACKS)]
    keys = tuple(f"{name}.{what}" for what in ("work", "fill", "close", "leave"))
    source = WORKER.format(name=name, next=following, extra=extra)
    files = one_component_pack(name, source, provides=keys, uses=(f"{following}.work",))
    files["backend/ecosystem.json"] = json.dumps({"pack_id": name, "version": version})
    return files


class Caller(threading.Thread):
    """An HTTP client: every call ends once, within its deadline and grace, with a result or a typed error."""

    def __init__(self, host: RunningHost, key: str) -> None:
        super().__init__(daemon=True)
        self._host, self._key = host, key
        self.over = threading.Event()
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest_s = 0.0

    def run(self) -> None:
        while not self.over.wait(0.005):
            begun = time.monotonic()
            try:
                status, envelope = self._host.call(self._key, {"hops": 3}, timeout_s=DEADLINE_S)
            except (OSError, http.client.HTTPException, ValueError):
                self.outcomes["no host"] += 1  # it was killed: there is nobody who could answer
                self.over.wait(0.05)
                continue
            took_s = time.monotonic() - begun
            self.longest_s = max(self.longest_s, took_s)
            code = "ok" if status == 200 else str(envelope.get("code") or "")
            self.outcomes[code] += 1
            if took_s > DEADLINE_S + GRACE_S or not code or code.startswith(("unexpected", "internal")):
                self.wrong.append(f"{took_s:.1f} s, {status}, {json.dumps(envelope)[:300]}")


class Restless:
    """A running system under load, and what may befall it."""

    def __init__(self, host: RunningHost, traces: Callable[[], Traces], engine: OwnEngine | None, seed: int) -> None:
        self.host, self.engine = host, engine
        self.chance = random.Random(seed)
        self.callers = [Caller(host, f"{name}.work") for name in ("p0", "p2")]
        for name in PACKS:
            host.put_pack(name, worker(name))
        host.put_pack("watcher", one_component_pack(
            "watcher", WATCHER, provides=("watcher.account",), uses=tuple(f"{name}.work" for name in PACKS)
        ))  # fmt: skip
        for name in (*PACKS, "watcher"):
            host.approve(name)
        self.traces = traces()
        self._versions = itertools.count(2)
        self.told: list[str] = []

    def __enter__(self) -> Self:
        self.quiet()
        for caller in self.callers:
            caller.start()
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self.callers:
            caller.over.set()
        for caller in self.callers:
            caller.join(60)

    def quiet(self) -> None:
        """Everything approved serves again. What was given up is started by its operator, as its issue says."""

        def serving() -> bool:
            found = {one["pack_id"]: one for one in self.host.ok("GET", "/api/containers")}
            for name in (*PACKS, "watcher"):
                if found.get(name, {}).get("state") in {None, "error"}:
                    self.host.request("POST", f"/api/containers/{name}/start")
                    return False
            if any(one["state"] != "running" for one in found.values()):
                return False
            return all(self.host.call(f"{name}.work", {"hops": 3}, timeout_s=DEADLINE_S)[0] == 200 for name in PACKS)

        self.host.until(serving, QUIET_S, "everything approved to serve again")
        wanted = {caller: caller.outcomes["ok"] + ANSWERS for caller in self.callers if caller.is_alive()}
        self.host.until(lambda: all(c.outcomes["ok"] >= n for c, n in wanted.items()), QUIET_S, "the callers' answers")

    def nothing_leaks(self) -> None:
        """What exists is exactly what serves. Older generations may be ending their calls yet."""
        wanted = {f"{one['pack_id']}-{one['generation']}" for one in self.host.ok("GET", "/api/containers")}
        embedded = self.engine is None
        looks: dict[str, Callable[[], Any]] = {
            "groups": lambda: self._groups(len(wanted) if embedded else 0),
            "containers": lambda: set(self.traces.containers().values()) == (set() if embedded else wanted),
            "images": lambda: self.traces.images() == (wanted if self.host.isolation == "docker-stdio" else set()),
            "sockets": lambda: not self.traces.sockets(),  # each goes when its agent has connected
            "temporary files": lambda: not self.traces.temporary(),
            "mounts": lambda: not self.traces.mounts(),
        }
        for what, look in looks.items():
            self.host.until(look, 45, f"{what} to be those of {sorted(wanted)}: {self._seen()}")

    def _groups(self, serving: int) -> bool:
        groups, spares = self.traces.groups(), self.traces.spare_groups()
        return len(groups - spares) == serving and len(spares) <= spares_module.COUNT

    def _seen(self) -> Any:
        return self.traces.groups(), self.traces.containers(), self.traces.images(), self.traces.sockets(), self.traces.temporary()

    # --- faults

    def agent(self) -> int:
        """A process of a Pack that is not the watcher; 0 when there is none just now."""
        name = self.chance.choice(PACKS)
        inits = [one["pid"] for one in self.host.ok("GET", "/api/containers") if one["pack_id"] == name and one["pid"]]
        pids = [pid for init in inits for pid in (init, *proc_view.descendants(init))]
        return self.chance.choice(pids) if pids else 0

    def kill_an_agent(self) -> None:
        pid = self.agent()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop_an_agent_for_a_while(self) -> None:
        pid = self.agent()
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self.chance.uniform(0.1, 1.5))
                os.kill(pid, signal.SIGCONT)

    def kill_the_launcher(self) -> None:
        for pid in self._children("launcher.py"):
            os.kill(pid, signal.SIGKILL)

    def kill_a_shim(self) -> None:
        ids = sorted(self.traces.containers())
        wanted = self.chance.choice(ids) if ids else "none"
        for pid in _processes(lambda words: bool(words) and "containerd-shim" in words[0] and wanted in words):
            os.kill(pid, signal.SIGKILL)

    def kill_the_engine(self) -> None:
        assert self.engine is not None
        self.engine.kill()
        time.sleep(self.chance.uniform(0.0, 1.0))
        self.engine.start()

    def kill_the_host(self) -> None:
        self.traces.look()
        self.host.kill()
        time.sleep(self.chance.uniform(0.0, 0.3))
        self.host.start()

    def fill_tmp(self) -> None:
        self.host.call(f"{self.chance.choice(PACKS)}.fill", timeout_s=2)

    def close_the_socket(self) -> None:
        self.host.call(f"{self.chance.choice(PACKS)}.close", timeout_s=2)

    def leave_in_a_call(self) -> None:
        self.host.call(f"{self.chance.choice(PACKS)}.leave", timeout_s=2)

    def start_slowly(self) -> None:
        name = self.chance.choice(PACKS)
        mark = self.host.home / "user_data/packs" / name / "slow"
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        self.leave_in_a_call()
        self.kill_an_agent()
        time.sleep(0.3)
        mark.unlink()

    def fail_a_trial(self) -> None:
        bad = self.chance.choice(("raise ValueError('bad')", "os._exit(9)", "import nothing_there"))
        status, envelope = self._update(bad)
        assert status != 200, envelope

    def update(self) -> None:
        self._update("pass")

    def restart_by_the_operator(self) -> None:
        name = self.chance.choice(PACKS)
        self.host.request("POST", f"/api/containers/{name}/stop")
        if self.chance.random() < 0.5:
            self.kill_an_agent()
        self.host.request("POST", f"/api/containers/{name}/start")

    def _update(self, extra: str) -> tuple[int, Any]:
        name = self.chance.choice(PACKS)
        folder = self.host.home / "next" / f"{name}-{next(self._versions)}"
        for path, text in worker(name, f"1.0.{next(self._versions)}", extra).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        self.host.request("POST", "/api/packs/add", {"path": str(folder)})
        return self.host.request("POST", f"/api/packs/{name}/update/approve", {})

    def _children(self, program: str) -> Iterator[int]:
        for pid in _processes(lambda words: any(word.endswith(program) for word in words)):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123
                if int(stat.read().rpartition(")")[2].split()[1]) == self.host.pid:
                    yield pid


def _processes(wanted: Callable[[list[str]], bool]) -> Iterator[int]:
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            with contextlib.suppress(OSError):
                with open(f"/proc/{entry}/cmdline", "rb") as file:  # noqa: PTH123
                    words = file.read().decode(errors="replace").split("\0")
                if wanted(words):
                    yield int(entry)

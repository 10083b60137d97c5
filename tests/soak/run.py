"""One soak: a real host with embedded sandboxes, drivers, a killer and an attacker for a bounded time, and what was seen.

Invariants that a run checks (``problems``):
  * every call ended exactly once: no Pack waited for an answer that never came, and the ledgers that read raw frames saw
    neither a call without an end nor one with two;
  * the host's memory, descriptors and threads do not grow after the warm-up;
  * two Packs that nobody troubles keep calling each other at a bounded pace, and the management API answers;
  * afterwards nothing is in flight and everybody serves.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak import packs
from tests.support.inside import hostile
from tests.support.running_host import RunningHost

MIB = 1024 * 1024
CALLS = 30
KILL_EVERY_S = 4.0
SAMPLE_S = 1.0
DRIVERS = 8
WARM_UP = 0.25
"""Of the whole time; what is measured comes behind it."""
GROWTH_BYTES = 24 * MIB
GROWTH_BYTES_SHORT = 64 * MIB
"""Of a run of less than ``LONG_S``: caches and the allocator fill for a minute or two."""
LONG_S = 300.0
GROWTH_DESCRIPTORS = 24
GROWTH_THREADS = 8
SLOWEST_ANSWER_S = 10.0
PACE = 3.0
PACE_S = 0.25
"""The undisturbed pair may be so many times slower in the last third than in the first, and up to this in any case."""
ATTACKS = [kind for kind in hostile.ATTACKS if kind != "nothing"]


@dataclass(frozen=True)
class Sample:
    """The host's process at one moment."""

    at_s: float
    resident_bytes: int
    descriptors: int
    threads: int


@dataclass
class Soak:
    """What a run saw."""

    seconds: float
    answers: Counter[str] = field(default_factory=Counter)
    ledger: Counter[str] = field(default_factory=Counter)
    twice: list[Any] = field(default_factory=list)
    never: list[Any] = field(default_factory=list)
    strange: list[Any] = field(default_factory=list)
    drives: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    pace: list[tuple[float, float, float]] = field(default_factory=list)
    api_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What must not be; empty after a good run."""
        found = list(self.faults)
        if self.answers["LOST"] or self.never:
            found.append(f"calls without an end: {self.answers['LOST']} waited in vain, ledger {self.never[:10]}")
        if self.twice or self.strange:
            found.append(f"answered twice or unasked: {self.twice[:10]} {self.strange[:10]}")
        if sum(self.answers.values()) + sum(self.ledger.values()) < 5 * self.seconds:
            found.append(f"too few calls to mean anything: {sum(self.answers.values())}")
        if not self.kills or not self.attacks:
            found.append("nobody was killed, or nobody attacked")
        growth_bytes = GROWTH_BYTES if self.seconds >= LONG_S else GROWTH_BYTES_SHORT
        for name, limit in (("resident_bytes", growth_bytes), ("descriptors", GROWTH_DESCRIPTORS), ("threads", GROWTH_THREADS)):
            grown = self.growth(name)
            if grown > limit:
                found.append(f"{name} grew by {grown:.0f} after the warm-up")
        if self.api_s and max(self.api_s) > SLOWEST_ANSWER_S:
            found.append(f"the management API took {max(self.api_s):.1f} s")
        first, last = self.paces()
        if last > max(PACE * first, PACE_S):
            found.append(f"p99 of the undisturbed pair went from {first * 1e3:.1f} to {last * 1e3:.1f} ms")
        return found

    def measured(self) -> list[Sample]:
        """The samples behind the warm-up."""
        return [sample for sample in self.samples if sample.at_s >= self.seconds * WARM_UP]

    def growth(self, name: str) -> float:
        """By how much a value grew from the first to the last moment behind the warm-up, by a line through all."""
        return slope([(s.at_s, float(getattr(s, name))) for s in self.measured()]) * self.seconds * (1 - WARM_UP)

    def trend(self, name: str, unit: int = 1) -> str:
        """From what to what, and by a line through all."""
        values = [getattr(sample, name) / unit for sample in self.measured() or self.samples]
        return f"{values[0]:.1f} to {values[-1]:.1f} (trend {self.growth(name) / unit:+.1f})"

    def paces(self) -> tuple[float, float]:
        """The median p99 of the first and the last third behind the warm-up."""
        behind = [p99 for at_s, _, p99 in self.pace if at_s >= self.seconds * WARM_UP]
        third = max(1, len(behind) // 3)
        if not behind:
            return 0.0, 0.0
        return statistics.median(behind[:third]), statistics.median(behind[-third:])

    def report(self) -> str:
        """For people."""
        p50 = statistics.median([p for _, p, _ in self.pace]) if self.pace else 0
        first, last = self.paces()
        lines = [
            f"{self.seconds:.0f} s, {len(packs.NAMES)} Packs; {sum(self.drives.values())} drives: {dict(self.drives)}",
            f"calls by agents: {sum(self.answers.values())} {dict(self.answers.most_common())}",
            f"calls by raw ledgers: {sum(self.ledger.values())} {dict(self.ledger.most_common())}",
            f"without an end: {self.answers['LOST']} and {len(self.never)}; ended twice: {len(self.twice)}; unasked: {len(self.strange)}",
            f"kills: {dict(self.kills)}; attacks: {sum(self.attacks.values())}",
            f"host: {self.trend('resident_bytes', MIB)} MiB resident, {self.trend('descriptors')} descriptors, {self.trend('threads')} threads",
            f"undisturbed pair: p50 {p50 * 1e3:.2f} ms, p99 {first * 1e3:.1f} ms in the first third, {last * 1e3:.1f} ms in the last",
            f"management API: median {statistics.median(self.api_s or [0]) * 1e3:.0f} ms, slowest {max(self.api_s or [0]) * 1e3:.0f} ms",
        ]
        return "\n".join([*lines, *(f"PROBLEM: {problem}" for problem in self.problems())])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Of the line with the least squares; 0 for fewer than three points."""
    if len(points) < 3:
        return 0.0
    return statistics.linear_regression([at for at, _ in points], [value for _, value in points]).slope


def run(home: Path, seconds: float, seed: int, say: Callable[[str], None] = lambda _: None) -> Soak:
    """Hold it."""
    soak = Soak(seconds)
    with RunningHost(home, "embedded") as host:
        for name in packs.NAMES:
            host.put_pack(name, packs.files(name))
        for name in packs.NAMES:
            host.approve(name)
        for name in packs.NAMES:
            host.until(lambda name=name: host.status(name)["status"] == "running", 60, f"{name} to run")
        _Troupe(host, soak, seed, say).play()
    return soak


class _Troupe:
    """The threads of one run."""

    def __init__(self, host: RunningHost, soak: Soak, seed: int, say: Callable[[str], None]) -> None:
        self.host = host
        self.soak = soak
        self.say = say
        self.seed = seed
        self.over = threading.Event()
        self.lock = threading.Lock()
        self.driven: set[str] = set()
        self.began = time.monotonic()

    def play(self) -> None:
        parts = [self.killer, self.attacker, self.meter, *(self.driver for _ in range(DRIVERS)), self.impatient]
        threads = [threading.Thread(target=self.guarded, args=(part, number)) for number, part in enumerate(parts)]
        for thread in threads:
            thread.start()
        self.watch()
        self.over.set()
        for thread in threads:
            thread.join(180)
            if thread.is_alive():
                self.soak.faults.append("a driver never came back: a call of the operator was never answered")
        self.afterwards()

    def guarded(self, part: Callable[[random.Random], None], number: int) -> None:
        try:
            part(random.Random(self.seed * 100 + number))
        except Exception as exc:  # noqa: BLE001 - whatever it is, the run failed
            self.soak.faults.append(f"{getattr(part, '__name__', part)}: {exc!r}")

    def watch(self) -> None:
        status = Path(f"/proc/{self.host.pid}/status")
        told = 0.0
        while (now := time.monotonic() - self.began) < self.soak.seconds:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            descriptors = len(os.listdir(f"/proc/{self.host.pid}/fd"))  # noqa: PTH208 - a name each, no paths
            self.soak.samples.append(Sample(now, int(fields["VmRSS"].split()[0]) * 1024, descriptors, int(fields["Threads"])))
            asked = time.monotonic()
            self.host.ok("GET", "/api/health")
            self.soak.api_s.append(time.monotonic() - asked)
            if now - told > 20:
                told = now
                last = self.soak.samples[-1]
                calls = sum(self.soak.answers.values()) + sum(self.soak.ledger.values())
                self.say(f"{now:.0f} s: {calls} calls, {last.resident_bytes / MIB:.1f} MiB, {last.descriptors} descriptors, {last.threads} threads")
            self.over.wait(SAMPLE_S)

    def driver(self, chance: random.Random) -> None:
        """The operator has one Pack after the other call others."""
        while not self.over.is_set():
            with self.lock:
                name = chance.choice(sorted({*packs.DRIVERS} - self.driven))
                self.driven.add(name)
            told = {"calls": CALLS, "targets": chance.sample(packs.WORK, 6), "seed": chance.randrange(1 << 30)}
            status, envelope = self.host.call(f"{name}.drive", told, 55)
            with self.lock:
                self.driven.discard(name)
                self.take(name, status, envelope)
            if status != 200:
                self.over.wait(0.05)

    def take(self, name: str, status: int, envelope: dict[str, Any]) -> None:
        if status != 200:
            self.soak.drives[str(envelope.get("code"))] += 1
            return
        told = envelope["data"]["result"]
        self.soak.drives["whole"] += 1
        if name in packs.LEDGERS:
            self.soak.ledger.update(told["answers"])
            self.soak.twice += told["twice"]
            self.soak.never += told["never"]
            self.soak.strange += told["strange"]
        else:
            self.soak.answers.update(told["answers"])

    def impatient(self, chance: random.Random) -> None:
        """An operator who asks and hangs up."""
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.host.api_port, timeout=30)
            with contextlib.suppress(OSError):
                body = json.dumps({"args": {"depth": 2, "seed": chance.randrange(1 << 30), "size": 10, "nap": 0.2, "how": "value"}, "timeout": 5})
                headers = {"Content-Type": "application/json", "Host": f"localhost:{self.host.api_port}"}
                connection.request("POST", f"/api/interfaces/{chance.choice(packs.WORK)}/call", body, headers)
                self.over.wait(chance.choice((0.0, 0.01, 0.05)))
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
            self.over.wait(0.1)

    def killer(self, chance: random.Random) -> None:
        """Packs die: by their own hand, by the kernel's, by the operator's."""
        while not self.over.wait(KILL_EVERY_S * (0.5 + chance.random())):
            name = chance.choice(packs.MORTAL)
            how = chance.choice(("exit", "kill", "stop"))
            if how == "exit":
                self.host.call(f"{name}.die", None, 5)
            elif how == "kill":
                for one in self.host.ok("GET", "/api/containers"):
                    if one["pack_id"] == name and one.get("pid"):
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(one["pid"], signal.SIGKILL)
            else:
                self.host.request("POST", f"/api/containers/{name}/stop")
                self.host.request("POST", f"/api/containers/{name}/start")
            self.soak.kills[how] += 1
            self.revive()

    def revive(self) -> None:
        """What supervision gave up, an operator starts again."""
        for name in packs.NAMES:
            if self.host.status(name)["status"] in {"error", "approved"}:
                self.host.request("POST", f"/api/containers/{name}/start")

    def attacker(self, chance: random.Random) -> None:
        """The hostile Pack does its worst, one way after the other; it is started anew whenever it was cut off."""
        while not self.over.wait(0.2):
            if self.host.call("hostile.alive", None, 2)[0] != 200:
                self.host.request("POST", "/api/containers/hostile/stop")
                self.host.request("POST", "/api/containers/hostile/start")
                continue
            kind = chance.choice(ATTACKS)
            self.host.call("hostile.attack", {"kind": kind, "s": 1.5}, 4)
            self.soak.attacks[kind] += 1

    def meter(self, _chance: random.Random) -> None:
        """Two Packs that nobody troubles."""
        while not self.over.wait(1.0):
            p50, p99 = self.host.result("meter.p99", {"n": 200})
            self.soak.pace.append((time.monotonic() - self.began, p50, p99))

    def afterwards(self) -> None:
        """Nothing is owed, and everybody serves."""
        self.revive()
        for name in (*packs.MORTAL, *packs.LEDGERS):
            what = f"{name} to serve at the end"
            quiet = {"calls": 0, "targets": [], "seed": 1}
            self.host.until(lambda name=name, quiet=quiet: self.host.call(f"{name}.drive", quiet, 5)[0] == 200, 60, what)
        assert self.host.result("keeper.echo", 1) == 1

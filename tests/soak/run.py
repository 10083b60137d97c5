"""One soak: a real host with embedded sandboxes, drivers, a killer and an attacker for a bounded time, and what was seen.

Invariants that a run checks (``problems``):
  * every call ended exactly once: no Pack waited for an answer that never came, and the ledgers that read raw frames saw
    neither a call without an end nor one with two;
  * long values came back as they were sent, streams in arguments were read in order and none was left open by its call;
  * the host's memory, descriptors, mappings and threads do not grow after the warm-up;
  * two Packs that nobody troubles keep calling each other at a bounded pace, and the management API answers;
  * nobody is restarted whom nobody killed;
  * afterwards nothing is in flight, no memory file is open or mapped, and everybody serves.
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

from core_runtime.drivers import memory_file
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
LONG = ("echo", "large", "read whole", "read in part")
"""How calls end that carried a long value (there and back, or back) or a stream in their arguments."""
GROWTH_DESCRIPTORS = 24
GROWTH_MAPPINGS = 48
"""Long values that are on their way are mapped, and the allocator maps its arenas one after the other."""
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
    mappings: int


@dataclass
class Soak:
    """What a run saw."""

    seconds: float
    answers: Counter[str] = field(default_factory=Counter)
    ledger: Counter[str] = field(default_factory=Counter)
    twice: list[Any] = field(default_factory=list)
    never: list[Any] = field(default_factory=list)
    strange: list[Any] = field(default_factory=list)
    wrong: list[Any] = field(default_factory=list)
    open: int = 0
    """Streams of the ledgers in arguments of which the host kept the number."""
    files: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)
    """Memory files handed to and taken from each generation of a Pack, as last seen."""
    drives: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    attacks: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    pace: list[tuple[float, float, float]] = field(default_factory=list)
    api_s: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        """What must not be; empty after a good run."""
        return [*self.faults, *self.of_calls(), *self.of_values(), *self.of_growth(), *self.of_pace()]

    def of_calls(self) -> list[str]:
        found = []
        if self.answers["LOST"] or self.never:
            found.append(f"calls without an end: {self.answers['LOST']} waited in vain, ledger {self.never[:10]}")
        if self.twice or self.strange:
            found.append(f"answered twice or unasked: {self.twice[:10]} {self.strange[:10]}")
        if sum(self.answers.values()) + sum(self.ledger.values()) < 5 * self.seconds:
            found.append(f"too few calls to mean anything: {sum(self.answers.values())}")
        if not self.kills or not self.attacks:
            found.append("nobody was killed, or nobody attacked")
        return found

    def of_values(self) -> list[str]:
        """Of long values and streams in arguments."""
        found = []
        if self.answers["WRONG"] or self.wrong:
            found.append(f"not the value that had to come: {self.answers['WRONG']} and {self.wrong[:5]}")
        if self.answers["LEFT OPEN"] or self.open:
            found.append(f"streams in arguments that their calls left open: {self.answers['LEFT OPEN']} and {self.open}")
        missing = [how for how in LONG if not (self.answers[how] and self.ledger[how])]
        if missing:
            found.append(f"no call ended as {missing}")
        if not (self.handed() and self.taken()) and not memory_file.why_not():
            found.append(f"no memory files went: {self.handed()} handed, {self.taken()} taken")
        return found

    def of_growth(self) -> list[str]:
        growth_bytes = GROWTH_BYTES if self.seconds >= LONG_S else GROWTH_BYTES_SHORT
        limits = {"resident_bytes": growth_bytes, "descriptors": GROWTH_DESCRIPTORS, "threads": GROWTH_THREADS, "mappings": GROWTH_MAPPINGS}
        grown = {name: self.growth(name) for name in limits}
        return [f"{name} grew by {grown[name]:.0f} after the warm-up" for name, limit in limits.items() if grown[name] > limit]

    def of_pace(self) -> list[str]:
        found = []
        if self.api_s and max(self.api_s) > SLOWEST_ANSWER_S:
            found.append(f"the management API took {max(self.api_s):.1f} s")
        first, last = self.paces()
        if last > max(PACE * first, PACE_S):
            found.append(f"p99 of the undisturbed pair went from {first * 1e3:.1f} to {last * 1e3:.1f} ms")
        return found

    def handed(self) -> int:
        """Memory files that the host handed to Packs."""
        return sum(handed for handed, _ in self.files.values())

    def taken(self) -> int:
        """Memory files that the host took from Packs."""
        return sum(taken for _, taken in self.files.values())

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
            f"wrong values: {self.answers['WRONG']} and {len(self.wrong)}; streams left open: {self.answers['LEFT OPEN']} and {self.open}; memory files: {self.handed()} handed, {self.taken()} taken",
            f"kills: {dict(self.kills)}; attacks: {sum(self.attacks.values())} of {len(self.attacks)} kinds",
            f"host: {self.trend('resident_bytes', MIB)} MiB resident, {self.trend('descriptors')} descriptors, {self.trend('threads')} threads, {self.trend('mappings')} mappings",
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
        self.generations = self.immortal()
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
        told = looked = 0.0
        while (now := time.monotonic() - self.began) < self.soak.seconds:
            self.soak.samples.append(self.sample(now))
            asked = time.monotonic()
            self.host.ok("GET", "/api/health")
            self.soak.api_s.append(time.monotonic() - asked)
            if now - looked > 3:
                looked = now
                self.look()
            if now - told > 20:
                told = now
                last = self.soak.samples[-1]
                calls = sum(self.soak.answers.values()) + sum(self.soak.ledger.values())
                numbers = f"{last.descriptors} descriptors, {last.mappings} mappings, {last.threads} threads"
                self.say(f"{now:.0f} s: {calls} calls, {last.resident_bytes / MIB:.1f} MiB, {numbers}")
            self.over.wait(SAMPLE_S)
        self.look()

    def sample(self, now: float) -> Sample:
        of = Path(f"/proc/{self.host.pid}")
        fields = dict(line.split(":", 1) for line in (of / "status").read_text().splitlines())
        mappings = (of / "maps").read_text().count("\n")
        descriptors = len(os.listdir(of / "fd"))  # noqa: PTH208 - a name each, no paths
        return Sample(now, int(fields["VmRSS"].split()[0]) * 1024, descriptors, int(fields["Threads"]), mappings)

    def look(self) -> None:
        """How many memory files went, of each Pack."""
        for one in self.host.ok("GET", "/api/containers"):
            values = one["large_values"]
            if values is not None:
                self.soak.files[one["pack_id"], one["generation"]] = values["handed"], values["taken"]

    def immortal(self) -> dict[str, int]:
        """The generations of those whom nobody kills."""
        spared = {*packs.NAMES} - {*packs.MORTAL, *packs.HOSTILE}
        return {one["pack_id"]: one["generation"] for one in self.host.ok("GET", "/api/containers") if one["pack_id"] in spared}

    def files(self) -> list[str]:
        """Memory files that the host has open, and those that it has mapped."""
        found = []
        for entry in Path(f"/proc/{self.host.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found.append(str(entry.readlink()))
        found += Path(f"/proc/{self.host.pid}/maps").read_text().splitlines()
        return [one for one in found if "/memfd:" in one]

    def in_flight(self) -> list[str]:
        """What the host counts as going on."""
        told = self.host.ok("GET", "/api/containers")
        held = [f"{one['pack_id']} holds {one['large_values']['held_bytes']} bytes" for one in told if (one["large_values"] or {}).get("held_bytes")]
        counts = ("rumi_pack_calls_in_flight", "rumi_pack_calls_made_in_flight", "rumi_pack_calls_abandoned")
        return held + [line for line in self.numbers() if line.startswith(counts) and not line.endswith(" 0")]

    def numbers(self) -> list[str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.host.api_port, timeout=30)
        connection.request("GET", "/metrics", headers={"Host": f"localhost:{self.host.api_port}"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        assert answer.status == 200, text
        return text.splitlines()

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
            self.soak.wrong += told["wrong"]
            self.soak.open += told["open"]
        else:
            self.soak.answers.update(told["answers"])

    def impatient(self, chance: random.Random) -> None:
        """An operator who asks and hangs up, with a value or in the middle of lines that are read as they come."""
        while not self.over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.host.api_port, timeout=30)
            with contextlib.suppress(OSError):
                if chance.random() < 0.5:
                    self.ask(connection, chance)
                else:
                    self.pour(connection, chance)
                self.over.wait(chance.choice((0.0, 0.01, 0.05)))
                if connection.sock is not None:
                    connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
            self.over.wait(0.1)

    def ask(self, connection: http.client.HTTPConnection, chance: random.Random) -> None:
        body = json.dumps({"args": {"depth": 2, "seed": chance.randrange(1 << 30), "size": 10, "nap": 0.2, "how": "value"}, "timeout": 5})
        headers = {"Content-Type": "application/json", "Host": f"localhost:{self.host.api_port}"}
        connection.request("POST", f"/api/interfaces/{chance.choice(packs.WORK)}/call", body, headers)

    def pour(self, connection: http.client.HTTPConnection, chance: random.Random) -> None:
        connection.putrequest("POST", f"/api/interfaces/{chance.choice(packs.COUNT)}/call?timeout=5", skip_host=True)
        for name, value in (("Host", f"localhost:{self.host.api_port}"), ("Content-Type", "application/x-ndjson"), ("Transfer-Encoding", "chunked")):
            connection.putheader(name, value)
        connection.endheaders()
        for _ in range(chance.randrange(40)):
            line = json.dumps("z" * chance.choice((10, 1000, 50_000))).encode() + b"\n"
            connection.send(b"%x\r\n%s\r\n" % (len(line), line))

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
        """Nothing is owed, nothing is kept, and everybody serves."""
        if self.immortal() != self.generations:
            self.soak.faults.append(f"somebody was restarted whom nobody killed: {self.generations} became {self.immortal()}")
        self.host.request("POST", "/api/containers/hostile/stop")  # what it keeps goes with it
        for what, found in (("nothing to be in flight", self.in_flight), ("memory files to be let go of", self.files)):
            self.reached(what, lambda found=found: not found(), lambda found=found: found()[:20])
        self.revive()
        quiet = {"calls": 0, "targets": [], "seed": 1}
        for name in (*packs.MORTAL, *packs.LEDGERS):
            self.reached(f"{name} to serve", lambda name=name: self.host.call(f"{name}.drive", quiet, 5)[0] == 200, lambda name=name: self.host.status(name))
        assert self.host.result("keeper.echo", 1) == 1

    def reached(self, what: str, holds: Callable[[], Any], told: Callable[[], Any]) -> None:
        """It comes to hold, or is a fault."""
        try:
            self.host.until(holds, 60, what)
        except AssertionError:
            self.soak.faults.append(f"waited in vain afterwards for {what}: {told()}")

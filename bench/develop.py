"""``rumi pack dev`` as its author meets it: from the moment a file is saved to the first answer of what it says now.

Host, command and client are three processes, as they are for an author. Beside it stands, in turn, the same Pack
stopped, started and asked: what a change costs that nobody has to look at. Both are asked over HTTP until it answers.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.harness import Report, Subject, measure
from bench.ports import free_port
from bench.served import running_host
from bench.stand import ROOT, BenchPack, write_pack

ANSWERS = """
def run(context):
    context["interface_registry"].register("saved.number", lambda args, ctx: {number})
"""
ROUNDS = {"embedded": 15, "docker": 7}
LIMIT_S = 60.0


def run(report: Report, *, quick: bool) -> None:
    """Adds the rows; what this machine lacks is named under ``missing``."""
    for isolation, rounds in ROUNDS.items():
        try:
            _one(report, isolation, rounds // (3 if quick else 1))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            report.missing[f"pack dev, {isolation}"] = str(error)


def _one(report: Report, isolation: str, rounds: int) -> None:
    name, floor = f"saved file to its new answer, {isolation}", f"floor: stop, start, first answer, {isolation}"
    with tempfile.TemporaryDirectory(prefix="rumi-bench-") as folder:
        place = Path(folder)
        place.chmod(0o755)
        home, author = place / "home", place / "author"
        (home / "ecosystem" / "packs").mkdir(parents=True)
        write_pack(author, "saved", BenchPack(ANSWERS.format(number=0), ["saved.number"]))
        source = author / "ecosystem" / "packs" / "saved"
        port = free_port()
        with running_host(home, port, isolation=isolation), _developed(home, source) as alive:
            asked = _Asked(port, alive, home / "dev.log")
            asked.until(0)

            def save(n: int) -> float:
                return sum(asked.saved(source) for _ in range(n))

            def start(n: int) -> float:
                return sum(asked.started() for _ in range(n))

            subjects: dict[str, Subject] = {floor: start, name: save}
            report.rows += measure(
                subjects, n=1, rounds=rounds, reference={name: (floor, 1.0)}, must={name: "must ≤ 1 s"}
            )


class _Asked:
    """The author's other window: calls the Pack until it says what is expected."""

    def __init__(self, port: int, alive: subprocess.Popen[bytes], log: Path) -> None:
        self._log = log
        self._http = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        self._alive = alive
        self._number = 0

    def saved(self, source: Path) -> float:
        """Write another number into the Pack, as an editor saves, and wait for it as an answer."""
        self._number += 1
        file = source / "backend" / "components" / "main" / "setup.py"
        fresh = file.with_suffix(".tmp")
        fresh.write_text(ANSWERS.format(number=self._number))
        begun = time.perf_counter()
        fresh.replace(file)
        self.until(self._number)
        return time.perf_counter() - begun

    def started(self) -> float:
        """The same Pack, stopped and started by hand."""
        begun = time.perf_counter()
        for what in ("stop", "start"):
            self._ask("POST", f"/api/containers/saved/{what}")
        self.until(self._number)
        return time.perf_counter() - begun

    def until(self, number: int) -> None:
        deadline = time.perf_counter() + LIMIT_S
        while (self._ask("POST", "/api/interfaces/saved.number/call", {}) or {}).get("result") != number:
            if self._alive.poll() is not None or time.perf_counter() > deadline:
                said = " ".join(self._log.read_text(errors="replace").split())[-300:]
                raise RuntimeError(f"the answer {number} did not come within {LIMIT_S:g} s: {said}")
            time.sleep(0.002)

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        headers = {} if body is None else {"Content-Type": "application/json"}
        self._http.request(method, path, None if body is None else json.dumps(body), headers)
        return json.loads(self._http.getresponse().read())["data"]


@contextmanager
def _developed(home: Path, source: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``rumi pack dev`` of that folder, ended afterwards as by Ctrl-C."""
    command = [sys.executable, "-I", str(ROOT / "rumi_setup" / "__main__.py"), "pack", "dev", "--yes", str(source)]
    environment = {**os.environ, "RUMI_HOME": str(home)}
    with (home / "dev.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)

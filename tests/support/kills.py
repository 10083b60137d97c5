"""Ending a process with ``kill -9`` in the middle of a decision, hundreds of times a minute.

A *zygote* imports everything once and forks for each kill: the child takes the decision and dies at the step it was
told to, or whenever the parent's timer says so; the zygote then opens what is left, as a restarted host would.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from core_runtime.drivers import faults
from core_runtime.drivers.run_journal import SUFFIX, RunJournal, read_account
from core_runtime.drivers.run_seals import RunSeals
from core_runtime.generations import Standing, acting
from core_runtime.rules.grants import Grant
from core_runtime.userdata_manager import UserdataManager
from tests.support.signing import Publisher
from tests.support.trust_home import SETUP, STANDARD, TrustHome

ROOT = Path(__file__).resolve().parents[2]
ASKED = [{"type": "userdata.read", "paths": ["shared/**"], "reason": "needs it"}]
DECLARED = [{"type": "host.notify", "reason": "tells when it is done"}]
WIDER = {"type": "userdata.read", "paths": ["shared/one.txt"]}
SECRET, NEWER_SECRET = "the value before", "the value after"
DATA = "user_data/packs/alpha/state.txt"
CUT_RUNS = ("aa", "bb")


def _approve(home: TrustHome) -> None:
    home.approve()


def _reject(home: TrustHome) -> None:
    home.approvals.reject("alpha", reason="no", actor="tester")


def _narrow(home: TrustHome) -> None:
    home.approvals.narrow("alpha", permissions=[], actor="tester")


def _widen(home: TrustHome) -> None:
    home.approvals.widen("alpha", permissions=[{**WIDER, "mode": "once"}], actor="tester")


def _restore(home: TrustHome) -> None:
    home.approvals.restore("alpha", actor="tester")


def _remove(home: TrustHome) -> None:
    home.remove()


def _rotate(home: TrustHome) -> None:
    home.approvals.grants.keyring.rotate()


def _secret(home: TrustHome) -> None:
    home.vault.set("alpha", "token", NEWER_SECRET, identity="github:author/alpha", actor="tester")


def _add(home: TrustHome) -> None:
    home.approvals.add(newer(home), actor="tester")


def _begin(home: TrustHome) -> None:
    home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    (home.home / DATA).write_text("new")  # what the new version makes of its data while it is on trial


def _update(home: TrustHome) -> None:
    _begin(home)
    home.approvals.finish_update("alpha")


def _takeover(home: TrustHome) -> None:
    """As an update beside the version that serves: what the new one writes on trial is kept aside until it counts."""
    copy = home.approvals.open_trial("alpha", isolation=STANDARD, actor="tester")
    trial = home.userdata.trial("alpha")
    with acting(_trying(copy.grant, trial)):
        trial.write("alpha", "packs/alpha/state.txt", b"new")
        trial.write("alpha", "packs/alpha/more.txt", b"new")
    begin = partial(home.approvals.begin_update, "alpha", isolation=STANDARD, actor="tester", digest=copy.digest)
    home.userdata.settle("alpha", trial, begin)
    home.approvals.finish_update("alpha")
    home.userdata.drop("alpha", trial)
    home.approvals.close_trial("alpha")


def _trying(grant: Grant, files: UserdataManager) -> Standing:
    standing = Standing("alpha")
    standing.try_out(grant, files)
    return standing


def _return(home: TrustHome) -> None:
    _begin(home)
    home.approvals.return_update("alpha", cause="it did not start")


def _rollback(home: TrustHome) -> None:
    home.approvals.rollback("alpha", actor="tester")


def newer(home: TrustHome) -> Path:
    """The folder of version 2.0.0, outside of the installation."""
    elsewhere = TrustHome(home.home / "elsewhere")
    return elsewhere.add(version="2.0.0", permissions=ASKED)


ACTIONS: dict[str, Callable[[TrustHome], None]] = {
    "approve": _approve,
    "signed": _approve,
    "reject": _reject,
    "narrow": _narrow,
    "widen": _widen,
    "restore": _restore,
    "remove": _remove,
    "rotate": _rotate,
    "secret": _secret,
    "add": _add,
    "update": _update,
    "takeover": _takeover,
    "return": _return,
    "rollback": _rollback,
}


def prepare(home: TrustHome, action: str) -> None:
    """The state in which ``action`` is decided."""
    home.add(permissions=[*ASKED, *DECLARED] if action == "remove" else ASKED)
    home.approve()
    home.vault.set("alpha", "token", SECRET, identity="github:author/alpha", actor="tester")
    if action == "remove":
        home.vault.set("alpha", "other", SECRET, identity="github:author/alpha", actor="tester")
        home.privileges.grant("alpha", "notify", actor="tester")
    if action == "approve":
        home.add(version="2.0.0", permissions=ASKED)
    if action == "signed":
        Publisher().sign(home.add(version="2.0.0", permissions=ASKED))
    if action == "restore":
        (home.packs_dir / "alpha" / SETUP).write_text("import os\n")
    if action in {"update", "takeover", "return", "rollback"}:
        data = home.home / DATA
        data.parent.mkdir(parents=True)
        data.write_text("old")
        _add(home)
    if action == "rollback":
        _update(home)
    if action == "add":
        newer(home)
    if action == "rotate":
        cut_runs(home)
    home.scan()


def cut_runs(home: TrustHome) -> None:
    """Journals of two runs that were cut off after an answer, sealed with the key of now."""
    for run_id in CUT_RUNS:
        head = {"run": run_id, "flow": "t.flow", "digest": "d", "started_at": 1.0, "actor": ""}
        seals = RunSeals.of(home.approvals.grants.keyring)
        journal = RunJournal.create(home.user_data / "runs", run_id, head, {"of": run_id}, seals, sync=False)
        journal.answer("one", {"value": run_id}, None)
        journal.close()


def runs_left(home: TrustHome) -> list[str]:
    """The cut-off runs whose account the key of now proves, with what they were answered."""
    seals = RunSeals.of(home.approvals.grants.keyring)
    accounts = [read_account(path, seals) for path in sorted((home.user_data / "runs").glob(f"*{SUFFIX}"))]
    return [str(account.answers[0].value["value"]) for account in accounts]


def describe(home: TrustHome) -> list[Any]:
    """What the operator would see: state, approved version, number of granted permissions."""
    found = {status.pack_id: status for status in home.approvals.scan()}
    if "alpha" not in found:
        return ["absent", "", 0]
    status = found["alpha"]
    granted = [p for p in status.approval.get("permissions", ()) if p["type"] == "userdata.read"]
    return [status.state.value, str(status.approval.get("version", "")), len(granted)]


def look(folder: Path, action: str) -> dict[str, Any]:
    """Open what a kill left, twice: the second opening must find nothing more to mend."""
    home = TrustHome(folder)
    seen = describe(home)
    report = home.audit.verify()
    runs = ""
    if seen[0] in {"approved", "error"}:
        copy = home.approvals.open_for_start("alpha", isolation=STANDARD)
        runs = copy.metadata.version
    secret = home.vault.store.reveal("alpha", "token") if seen[0] == "approved" else ""
    again = describe(TrustHome(folder))
    litter = [path.name for path in (folder / "user_data/store/trees").glob(".incoming-*")]
    litter += [path.name for path in (folder / "user_data/runs").glob(".*")]
    litter += [path.name for path in (folder / "ecosystem/packs").iterdir() if path.name.startswith(".alpha")]
    return {
        "seen": seen, "again": again, "runs": runs, "evidence": report.sentence() if not report.ok else "",
        "litter": litter, "secret": secret, "extra": extra(folder), "kept": kept(home),
        "cut_runs": runs_left(home) if action == "rotate" else [],
        "publishers": sorted(home.approvals.publishers()),
    }  # fmt: skip


def kept(home: TrustHome) -> list[str]:
    """What the operator entered and granted beside the approval, as an approval of now would find it."""
    secrets = home.vault.entries("alpha", identity="github:author/alpha")
    privileges = [one["id"] for one in home.privileges.list() if "alpha" in one["granted_to"]]
    return [str(one["name"]) for one in secrets] + privileges


def extra(folder: Path) -> dict[str, str]:
    """What else of the Pack the two legal states differ in."""
    data = folder / DATA
    staged = folder / "user_data/staging/alpha/backend/ecosystem.json"
    places = [folder / "user_data" / where for where in ("staging", "rollback", "packs/.trials")]
    left = [path.name for place in places if place.is_dir() for path in place.iterdir()]
    return {
        "data": data.read_text() if data.exists() else "",
        "staged": json.loads(staged.read_text())["version"] if staged.exists() else "",
        "left": ",".join(sorted(name for name in left if name != "alpha")),
    }


class Killer:
    """Drives a zygote: one prepared home for each action, copied for every kill."""

    def __init__(self, base: Path) -> None:
        self._base = base
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._zygote = subprocess.Popen(
            [sys.executable, "-c", "from tests.support.kills import serve; serve()", str(base)],
            cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._zygote.stdin
        self._zygote.stdin.close()
        self._zygote.wait(10)
        assert self._zygote.stdout
        self._zygote.stdout.close()

    def steps(self, action: str) -> list[str]:
        """The points that ``action`` passes, in order; this also measures how long it takes."""
        return list(self._ask(action=action, at=-1, delay_s=0.0)["points"])

    def kill(self, action: str, *, at: int = -1, delay_s: float = 0.0) -> dict[str, Any]:
        """Kill at the ``at``-th point, or after ``delay_s``; what was left."""
        return self._ask(action=action, at=at, delay_s=delay_s)

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._zygote.stdin.write(json.dumps(order) + "\n")
        self._zygote.stdin.flush()
        answer = self._zygote.stdout.readline()
        assert answer, "the zygote ended"
        return dict(json.loads(answer))


def serve() -> None:
    """The zygote's loop: an order a line, an answer a line."""
    base = Path(sys.argv[1])
    for number, line in enumerate(sys.stdin):
        print(json.dumps(_serve_one(base, number, json.loads(line))), flush=True)


def _serve_one(base: Path, number: int, order: dict[str, Any]) -> dict[str, Any]:
    action = order["action"]
    prepared = base / f"prepared-{action}"
    if not prepared.exists():
        prepare(TrustHome(prepared), action)
    folder = base / f"{action}-{number}"
    shutil.copytree(prepared, folder, symlinks=True)
    read, write = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(read)
        _child(folder, order, write)
    os.close(write)
    if order["delay_s"]:
        time.sleep(order["delay_s"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read, "rb") as pipe:
        lines = pipe.read().decode().splitlines()
    _, status = os.waitpid(child, 0)
    took_s = time.monotonic() - begun
    found = look(folder, action)
    shutil.rmtree(folder)
    return {
        **found, "points": [line for line in lines if not line.startswith("!")], "took_s": took_s,
        "answered": "!answered" in lines, "failed": next((line for line in lines if line.startswith("!failed")), ""),
        "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
    }  # fmt: skip


def _child(folder: Path, order: dict[str, Any], pipe: int) -> None:
    passed = 0

    def hook(name: str) -> None:
        nonlocal passed
        os.write(pipe, f"{name}\n".encode())
        if passed == order["at"]:
            os.kill(os.getpid(), signal.SIGKILL)
        passed += 1

    try:
        home = TrustHome(folder)
        home.approvals.scan()
        faults.install(hook)
        ACTIONS[order["action"]](home)
        os.write(pipe, b"!answered\n")
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - told to the test, which asserts that there was none
        os.write(pipe, f"!failed {type(error).__name__}: {error}\n".replace("\n", " ").encode() + b"\n")
        os._exit(1)

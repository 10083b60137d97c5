"""Words about flows: who a step acts as, and how a run's steps went, in both languages."""

from __future__ import annotations

import os
import tempfile

import pytest

from rumi_setup.cli import link
from rumi_setup.cli.main import main
from tests.support.socket_host import SocketHost, serving

EVIL = "\x1b[2J\u202egpj[red]"


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="r") as short:  # a socket's path has 107 bytes at most
        for name, value in {"XDG_RUNTIME_DIR": short, "RUMI_HOME": str(tmp_path), "RUMI_LANG": "en", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        yield


@pytest.fixture
def host(tmp_path):
    folder = link.run_folders(tmp_path, os.environ, os.getuid())[0]
    with serving(folder / "api.sock", SocketHost()) as found:
        yield found


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def step(path: str, layer: str, *acts_as: str) -> dict[str, object]:
    return {"path": path, "verb": "set", "handler": "", "origin": {"file": "f", "line": 2, "layer": layer},
            "acts_as": list(acts_as), "changes": []}  # fmt: skip


@pytest.mark.parametrize(("language", "told"), [("en", "from the journal"), ("ja", "記録から")])
def test_a_resumed_run_shows_which_steps_its_journal_told(host, capsys, monkeypatch, language, told) -> None:
    monkeypatch.setenv("RUMI_LANG", language)
    ended = {"status": "ok", "duration_s": 0.25, "reason": "", "error": None}
    steps = [{"step": "a", **ended, "replayed": True}, {"step": "b", **ended, "replayed": False}, {"step": "c", **ended}]
    host.answers["POST /api/runs/r1/resume"] = {"run_id": "r1", "status": "ok", "output": 1, "steps": steps}
    _, out, err = run(capsys, "flow", "resume", "r1")
    assert out == "1\n"
    assert [line.strip() for line in err.splitlines()[1:4]] == [f"a · ok · {told}", "b · ok · 0.250", "c · ok · 0.250"]


@pytest.mark.parametrize(
    ("language", "core", "user"), [("en", "the host", "the operator"), ("ja", "ホスト", "運用者")]
)
def test_a_step_of_an_official_flow_acts_as_the_host(host, capsys, monkeypatch, language, core, user) -> None:
    monkeypatch.setenv("RUMI_LANG", language)
    steps = [step("a", "core"), step("b", "user"), step("c", "core", "acme", EVIL), step("d", "ecosystem", "acme")]
    host.answers["GET /api/flows/start/explain"] = {"flow": "start", "steps": steps}
    _, out, _ = run(capsys, "flow", "explain", "start")
    actors = [line.rpartition("· ")[2] for line in out.splitlines() if "f:2 · " in line]
    assert actors[:2] == [core, user]
    assert actors[2].startswith("acme, ")
    assert actors[3] == "acme"
    assert "\x1b" not in out
    assert "\u202e" not in out

"""The entries as a person starts them: real processes, from another folder, with hostile surroundings."""

import os
import subprocess
import sys

import pytest

from rumi_setup.cli import machine
from rumi_setup.core import entry, places, testing

HOSTILE = ("json.py", "argparse.py", "rumi_setup.py", "runpy.py")


def _bootstrap(home, *arguments: str, python: str = sys.executable, **extra: str):
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "RUMI_HOME": str(home), "LANG": "C.UTF-8", **extra}
    argv = [python, "-I", str(places.ROOT / "bootstrap.py"), *arguments]
    return subprocess.run(argv, env=environment, cwd=home, capture_output=True, text=True, timeout=60, check=False)


def test_doctor_then_recover_then_doctor(tmp_path) -> None:
    ill = _bootstrap(tmp_path, "--cli", "doctor")
    assert (ill.returncode, "user_data_missing" in ill.stdout) == (1, True)
    mended = _bootstrap(tmp_path, "--cli", "recover")
    assert "ok    user_data_missing" in mended.stdout
    assert _bootstrap(tmp_path, "--cli", "doctor").stdout == mended.stdout.rpartition("ok ")[2].partition("\n")[2]


def test_init_is_what_happens_without_a_word(tmp_path) -> None:
    done = _bootstrap(tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "user_data/permissions").is_dir()
    assert "./rumi up" in done.stdout


def test_check_lists_what_the_machine_has(tmp_path) -> None:
    done = _bootstrap(tmp_path, "--cli", "check")
    assert "Python" in done.stdout
    assert done.returncode in {0, 1}


def test_reset_asks_and_without_a_terminal_changes_nothing(tmp_path) -> None:
    _bootstrap(tmp_path)
    (tmp_path / "user_data/shared/mine").write_text("mine")
    refused = _bootstrap(tmp_path, "--cli", "reset")
    assert (refused.returncode, (tmp_path / "user_data/shared/mine").exists()) == (64, True)
    assert _bootstrap(tmp_path, "--cli", "reset", "--yes").returncode == 0
    assert not (tmp_path / "user_data/shared/mine").exists()
    assert list(tmp_path.glob("user_data.broken-*/shared/mine"))


def test_it_speaks_japanese(tmp_path) -> None:
    assert "準備完了" in _bootstrap(tmp_path, LANG="ja_JP.UTF-8", PYTHONUTF8="1").stdout


def test_an_unknown_word_is_refused(tmp_path) -> None:
    assert _bootstrap(tmp_path, "--cli", "explode").returncode == 2


@pytest.mark.parametrize(
    ("told", "words", "used"),
    [
        ({"RUMI_API_PORT": "1111", "RUMI_WEB_PORT": "2222", "RUMI_ISOLATION": "embedded"}, [], (1111, 2222, "embedded")),
        ({"RUMI_API_PORT": "1111", "RUMI_WEB_PORT": "2222"}, ["--api-port", "3333"], (3333, 2222, "auto")),
        ({"RUMI_API_PORT": "", "RUMI_WEB_PORT": "", "RUMI_ISOLATION": ""}, [], (8765, 5000, "auto")),
    ],
)
def test_where_the_host_listens_is_said_in_the_environment_too(monkeypatch, told, words, used) -> None:
    for name in ("RUMI_API_PORT", "RUMI_WEB_PORT", "RUMI_ISOLATION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    asked = []

    def up(home=None, detach=False, api_port=0, web_port=0, isolation=""):
        asked.append((api_port, web_port, isolation))
        return 0

    monkeypatch.setattr("rumi_setup.core.installer.ensure", lambda *_: None)
    monkeypatch.setattr("rumi_setup.core.runner.up", up)
    assert entry.bootstrap(["--cli", "run", *words]) == 0
    assert machine.up.main(words, standalone_mode=False) == 0
    assert asked == [used, used]


@pytest.mark.parametrize("words", [("setup", "--help"), ("test", "--version")])
def test_neither_the_current_folder_nor_pythonpath_reaches_in(tmp_path, words) -> None:
    for name in HOSTILE:
        (tmp_path / name).write_text("raise SystemExit('hijacked')\n")
    (tmp_path / "link").symlink_to(places.ROOT / "rumi")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "RUMI_HOME": str(tmp_path), "DOCKER_HOST": "unix:///none"}
    done = subprocess.run(
        [tmp_path / "link", *words, *(["--no-engine"] if words[0] == "test" else [])],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "hijacked" not in done.stdout + done.stderr


def test_our_flags_do_not_reach_pytest(monkeypatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    options = testing.parse(["--with-engine", "-k", "x"])
    assert (options.with_engine, options.pytest) == (True, ("-k", "x"))
    assert testing.parse([]).with_engine is False
    monkeypatch.setenv("CI", "true")
    assert testing.parse([]).with_engine is True


def test_an_error_becomes_text_and_a_code(capsys) -> None:
    assert entry.inside(["setup", "--offline", "/nonexistent", "--wheelhouse", "/proc/nowhere"]) != 0
    assert "Traceback" not in capsys.readouterr().err

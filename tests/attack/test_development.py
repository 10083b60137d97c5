"""Development mode: a standing yes of one operator, for one folder, as long as one command runs; and not a step further."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rumi_setup.cli import codes
from rumi_setup.cli.main import main
from rumi_setup.core.template import new_pack
from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = [pytest.mark.slow, pytest.mark.embedded, pytest.mark.timeout(180)]

OTHER = """
def run(context):
    context["interface_registry"].register("other.echo", lambda args, ctx: args)
"""
MORE = {"pack_id": "fresh", "permissions": [{"type": "event.publish", "topics": ["fresh.*"], "reason": "for the test"}]}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("dev") / "home", "embedded") as running:
        running.put_pack("other", one_component_pack("other", OTHER, provides=("other.echo",)))
        running.approve("other")
        yield running


@pytest.fixture
def folder(host: RunningHost, tmp_path: Path) -> Iterator[Path]:
    yield new_pack("fresh", folder=tmp_path)
    host.request("DELETE", "/api/packs/fresh")


def dev(host: RunningHost, *arguments: str | Path, output: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    words = [sys.executable, "-I", str(ROOT / "rumi_setup" / "__main__.py"), "pack", "dev", *map(str, arguments)]
    environment = {**os.environ, "RUMI_HOME": str(host.home), "RUMI_LANG": "en", "NO_COLOR": "1"}
    return subprocess.Popen(
        words, cwd=host.home, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, text=True
    )


def once(host: RunningHost, *arguments: str | Path) -> tuple[int, str]:
    process = dev(host, "--once", *arguments)
    said, _ = process.communicate(timeout=60)
    print(said)
    return process.returncode, said


def says(host: RunningHost) -> Any:
    status, envelope = host.call("fresh.hello", {"name": "Ada"})
    return envelope["data"]["result"]["message"] if status == 200 else None


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "backend/components/hello/setup.py"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def generation(host: RunningHost, pack_id: str) -> int:
    return next(int(one["generation"]) for one in host.ok("GET", "/api/containers") if one["pack_id"] == pack_id)


def marks(host: RunningHost) -> list[str]:
    """Packs that `rumi doctor` tells of."""
    host.ok("GET", "/api/doctor")
    return [one["subject"] for one in host.ok("GET", "/api/issues") if one["code"] == "pack_in_development"]


def test_each_change_runs_and_ends_with_the_command(host: RunningHost, folder: Path) -> None:
    before = generation(host, "other")
    said = host.home / "dev.log"
    with said.open("w") as output:
        process = dev(host, folder, "--yes", output=output)
    try:
        host.until(lambda: says(host) == "Hello, Ada!", 60, "the first version")
        edit(folder, "Hello, ", "Good day, ")
        host.until(lambda: says(host) == "Good day, Ada!", 60, "the change")
        edit(folder, "def hello", "def def hello")
        edit(folder, "def def hello", "def hello")
        edit(folder, "Good day, ", "Bye, ")
        host.until(lambda: says(host) == "Bye, Ada!", 60, "the next change")
        edit(folder, '    context["interface_registry"]', '    1 / 0\n    context["interface_registry"]')
        host.until(lambda: "ZeroDivisionError" in said.read_text(), 60, "the failed trial")
        assert says(host) == "Bye, Ada!", "what works goes on"
        edit(folder, "    1 / 0\n", "")
        edit(folder, "Bye, ", "Welcome, ")
        host.until(lambda: says(host) == "Welcome, Ada!", 60, "the mended one")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
        print(said.read_text())
    assert process.returncode == 0
    edit(folder, "Welcome, ", "Evil, ")
    assert host.status("fresh")["status"] == "running"
    assert says(host) == "Welcome, Ada!"
    assert generation(host, "other") == before, "nobody else was touched"


def test_it_is_marked_wherever_one_looks_until_somebody_decides(host: RunningHost, folder: Path) -> None:
    code, said = once(host, folder, "--yes")
    assert (code, "fresh running" in said) == (0, True)
    digest = host.status("fresh")["digest"]
    assert host.status("fresh")["approval"]["actor"].endswith("(development)")
    assert marks(host) == ["fresh"]
    assert [one["pack_id"] for one in host.ok("GET", "/api/packs") if one["in_development"]] == ["fresh"]
    records = host.ok("GET", "/api/audit?lines=200")
    decided = [one for one in records if one["event"] == "pack.approved" and one.get("pack_id") == "fresh"]
    assert decided[-1]["actor"].endswith("(development)")
    host.ok("POST", "/api/packs/fresh/approve", {"digest": digest})
    assert not host.status("fresh")["approval"]["actor"].endswith("(development)")
    assert marks(host) == []
    assert not any(one["in_development"] for one in host.ok("GET", "/api/packs"))


def test_what_wants_more_than_was_agreed_to_is_not_approved(host: RunningHost, folder: Path) -> None:
    code, said = once(host, folder)
    assert (code, "nobody agreed" in said) == (codes.PACK_FAILED, True)
    assert host.request("GET", "/api/packs/fresh/status")[0] == 404, "not even copied"
    assert once(host, folder, "--yes")[0] == 0
    edit(folder, "Hello, ", "Evil, ")
    (folder / "backend/permissions.json").write_text(json.dumps(MORE))
    code, said = once(host, folder)
    assert (code, "event.publish" in said) == (codes.PACK_FAILED, True)
    assert says(host) == "Hello, Ada!"
    assert host.status("fresh")["approval"]["permissions"] == []


@pytest.mark.parametrize("place", ["user_data/packs/other/src", "user_data", "."])
def test_no_folder_that_a_pack_can_write_to_approves_itself(host: RunningHost, place: str) -> None:
    where = host.home / place
    where.mkdir(parents=True, exist_ok=True)
    code, said = once(host, where, "--yes")
    assert (code, "what Packs may write" in said) == (codes.DENIED, True)


def test_a_link_to_such_a_folder_is_seen_through(host: RunningHost, tmp_path: Path) -> None:
    where = host.home / "user_data/packs/other/linked"
    where.mkdir(parents=True, exist_ok=True)
    (tmp_path / "innocent").symlink_to(where)
    assert once(host, tmp_path / "innocent", "--yes")[0] == codes.DENIED


def test_user_data_that_is_a_link_itself_is_seen_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "packs/other").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home/user_data").symlink_to(elsewhere)
    monkeypatch.setenv("RUMI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RUMI_LANG", "en")
    assert main(["pack", "dev", "--once", "--yes", str(elsewhere / "packs/other")]) == codes.DENIED
    assert main(["pack", "dev", "--once", "--yes", str(tmp_path / "home/user_data/packs/other")]) == codes.DENIED

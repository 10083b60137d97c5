"""Development mode: a standing yes of one operator, for one folder, as long as one command runs; and not a step further."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
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
EXPORTER = OTHER.replace("other.echo", "exporter.put")
EXPORTS = {"pack_id": "exporter", "permissions": [{"type": "host.file.export", "reason": "for the test"}]}
EXPORT = "/api/privileges/exporter/grant/file.export"
MORE = {"pack_id": "fresh", "permissions": [{"type": "event.publish", "topics": ["fresh.*"], "reason": "for the test"}]}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("dev") / "home", "embedded") as running:
        running.put_pack("other", one_component_pack("other", OTHER, provides=("other.echo",)))
        running.approve("other")
        exporter = one_component_pack("exporter", EXPORTER, provides=("exporter.put",))
        running.put_pack("exporter", {**exporter, "backend/permissions.json": json.dumps(EXPORTS)})
        running.approve("exporter")
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


@pytest.fixture
def exports(host: RunningHost) -> Iterator[Callable[[Path], Any]]:
    """``exports(folder)``: ``exporter`` may put files there, until the test is over."""
    yield lambda folder: host.ok("POST", EXPORT, {"options": {"folder": str(folder)}})
    host.ok("DELETE", EXPORT)


@pytest.mark.parametrize("place", ["", "backend/components/hello", "backend/not/there/yet", "by a link"])
def test_a_folder_that_a_pack_exports_into_is_refused(
    host: RunningHost, folder: Path, tmp_path: Path, exports: Callable[[Path], Any], place: str
) -> None:
    (tmp_path / "by a link").symlink_to(folder)
    exports(tmp_path / place if place == "by a link" else folder / place)
    code, said = once(host, folder, "--yes")
    assert (code, "exporter may put files into" in said) == (codes.DENIED, True)
    assert host.request("GET", "/api/packs/fresh/status")[0] == 404, "not even copied"


def test_an_export_beside_the_folder_is_nobodys_business(
    host: RunningHost, folder: Path, tmp_path: Path, exports: Callable[[Path], Any]
) -> None:
    exports(tmp_path / "fresh-exports")
    assert once(host, folder, "--yes")[0] == 0


def test_what_a_pack_exports_while_the_command_runs_is_not_approved(
    host: RunningHost, folder: Path, exports: Callable[[Path], Any]
) -> None:
    said = host.home / "exported.log"
    with said.open("w") as output:
        process = dev(host, folder, "--yes", output=output)
    try:
        host.until(lambda: says(host) == "Hello, Ada!", 60, "the first version")
        before = host.status("fresh")["digest"]
        exports(folder / "backend/components/hello")
        evil = {"params": {"name": "evil.py", "text": "EVIL = True"}}
        host.ok("POST", "/api/privileges/exporter/execute/file.export", evil)
        assert process.wait(timeout=60) == codes.DENIED, "it ends, and takes no later change along either"
    finally:
        end(process)
        print(said.read_text())
    assert host.status("fresh")["digest"] == before


@pytest.mark.parametrize("inside", [False, True], ids=["a folder elsewhere", "a folder below ecosystem/packs"])
def test_a_command_that_is_killed_approves_nothing_more_and_a_restart_neither(
    host: RunningHost, folder: Path, inside: bool
) -> None:
    if inside:
        folder = Path(shutil.copytree(folder, host.packs / "fresh"))
    process = dev(host, folder, "--yes", output=subprocess.DEVNULL)
    try:
        host.until(lambda: says(host) == "Hello, Ada!", 60, "the first version")
    finally:
        process.kill()
        process.wait(timeout=30)
    approved = host.status("fresh")["approval"]
    edit(folder, "Hello, ", "Evil, ")
    host.ok("POST", "/api/packs/scan")
    assert host.status("fresh")["approval"] == approved
    host.kill()
    host.start()
    host.ok("POST", "/api/packs/scan")
    assert host.status("fresh")["approval"] == approved
    assert approved["actor"].endswith("(development)")
    assert says(host) != "Evil, Ada!"
    if inside:
        assert host.status("fresh")["status"] == "modified", "it waits for somebody"
    else:
        host.until(lambda: says(host) == "Hello, Ada!", 60, "what was approved")
        assert marks(host) == ["fresh"]


def test_a_killed_host_takes_no_change_along_that_nobody_decided_about(host: RunningHost, folder: Path) -> None:
    """Both are killed, the host first: what the next one starts is what was decided about, with its mark."""
    process = dev(host, folder, "--yes", output=subprocess.DEVNULL)
    try:
        host.until(lambda: says(host) == "Hello, Ada!", 60, "the first version")
        host.kill()
        end(process)
        edit(folder, "Hello, ", "Evil, ")
        host.start()
        host.until(lambda: says(host) == "Hello, Ada!", 60, "what was approved")
        assert host.status("fresh")["approval"]["actor"].endswith("(development)")
    finally:
        end(process)


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(timeout=30)

"""Packs with Python packages of their own, in real sandboxes: each sees its own set, and nothing of the host's."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.support import wheels
from tests.support.package_index import PackageIndex
from tests.support.running_host import RunningHost, one_component_pack

USER = """
import colours


def run(context):
    context["interface_registry"].register("{pack}.which", lambda args, ctx: [colours.VERSION, colours.__file__])
"""


def with_wheels(host: RunningHost, pack_id: str, setup: str, *made: tuple[str, str, str, bytes]) -> Path:
    """A Pack that brings its wheels: (package, version, file name, bytes) each."""
    folder = host.put_pack(pack_id, one_component_pack(pack_id, setup, provides=(f"{pack_id}.which",)))
    lock = wheels.locked(*((name, version, data) for name, version, _, data in made))
    (folder / "backend/requirements.lock").write_text(lock, encoding="utf-8")
    wheels.write_wheels(folder / "backend/wheels", *((filename, data) for _, _, filename, data in made))
    return folder


def colours(version: str) -> tuple[str, str, str, bytes]:
    return ("colours", version, *wheels.built("colours", version, {"colours/__init__.py": f"VERSION = {version!r}\n"}))


def test_two_packs_use_two_versions_of_one_package_at_once(host: RunningHost) -> None:
    for pack_id, version in (("first", "1.0"), ("second", "2.0")):
        with_wheels(host, pack_id, USER.format(pack=pack_id), colours(version))
        assert host.approve(pack_id)["status"] == "running"
    assert host.result("first.which") == ["1.0", "/packages/colours/__init__.py"]
    assert host.result("second.which") == ["2.0", "/packages/colours/__init__.py"]
    packages = host.status("first")["approval"]["packages"]
    assert packages["locked"] == ["colours==1.0"]
    assert packages["missing"] == []
    assert packages["target"].startswith("cpython-3.")


def test_a_missing_wheel_leaves_the_pack_approved_and_everything_else_going(host: RunningHost) -> None:
    folder = with_wheels(host, "first", USER.format(pack="first"), colours("1.0"))
    shutil.rmtree(folder / "backend/wheels")
    with_wheels(host, "second", USER.format(pack="second"), colours("2.0"))
    found = host.approve("first")
    assert (found["status"], found["cause"]) == ("approved", "dependencies_missing")
    assert "colours==1.0" in found["detail"]
    assert host.approve("second")["status"] == "running"
    assert host.result("second.which")[0] == "2.0"


def test_what_the_pack_does_not_bring_is_fetched_once_it_is_approved(tmp_path: Path, isolation: str) -> None:
    _, _, filename, data = colours("3.0")
    with PackageIndex({filename: data}) as index, RunningHost(tmp_path / "home", isolation, index.environment) as host:
        folder = with_wheels(host, "first", USER.format(pack="first"), colours("3.0"))
        shutil.rmtree(folder / "backend/wheels")
        host.ok("GET", "/api/packs/first/review")
        assert index.asked == [], "nothing is fetched before a decision"
        assert host.approve("first")["status"] == "running"
        assert host.result("first.which")[0] == "3.0"
        asked = len(index.asked)
        host.ok("POST", "/api/containers/first/stop")
        host.ok("POST", "/api/containers/first/start")
        assert len(index.asked) == asked, "a start asks nobody"


def test_a_registry_that_comes_back_is_asked_again_by_the_operator(tmp_path: Path, isolation: str) -> None:
    _, _, filename, data = colours("3.0")
    with PackageIndex({}) as index, RunningHost(tmp_path / "home", isolation, index.environment) as host:
        folder = with_wheels(host, "first", USER.format(pack="first"), colours("3.0"))
        shutil.rmtree(folder / "backend/wheels")
        assert host.approve("first")["cause"] == "dependencies_missing"
        status, refused = host.request("POST", "/api/packs/first/fetch")
        assert (status, refused["code"]) == (503, "dependencies_not_found"), refused
        index.files[filename] = data
        assert host.ok("POST", "/api/packs/first/fetch")["status"] == "running"
        assert host.result("first.which")[0] == "3.0"

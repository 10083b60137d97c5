"""Updates on a running host: staged beside the approved version, tried, taken over, taken back, rolled back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.archives import repository, zipped
from tests.support.registry import Registry
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

SETUP = """
def run(context):
    store = context["userdata_manager"]
    if {version!r} == "2.0.0":
        store.write_text("packs/mover/format.txt", "two")
    {extra}
    context["interface_registry"].register("mover.version", lambda args, ctx: {version!r})
    context["interface_registry"].register(
        "mover.data", lambda args, ctx: store.read_text("packs/mover/format.txt")
    )
"""


def version(number: str, extra: str = "pass", pack_id: str = "mover") -> dict[str, str]:
    files = one_component_pack(
        pack_id, SETUP.format(version=number, extra=extra), provides=("mover.version", "mover.data")
    )
    files["backend/ecosystem.json"] = json.dumps({"pack_id": pack_id, "version": number})
    return files


def folder(where: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(where)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


def test_an_update_is_staged_tried_taken_over_and_rolled_back(tmp_path: Path, host: RunningHost) -> None:
    # a new Pack comes in the same way, and waits like any other
    added = host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v1", version("1.0.0"))})
    assert (added["pack_id"], added["status"], added["pending_update"]) == ("mover", "installed", None)
    host.approve("mover")
    assert host.result("mover.version") == "1.0.0"
    data = host.home / "user_data/packs/mover/format.txt"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("one")

    staged = host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v2", version("2.0.0"))})
    assert staged["status"] == "running", "the approved version goes on"
    assert staged["pending_update"]["version"] == "2.0.0"
    assert host.result("mover.version") == "1.0.0"
    review = host.ok("GET", "/api/packs/mover/update")
    assert review["version"] == "2.0.0"
    assert review["approved_version"] == "1.0.0"
    assert "backend/components/main/setup.py" in review["file_changes"]["changed"]
    assert host.request("POST", "/api/packs/mover/update/approve", {"digest": "sha256:" + "0" * 64})[0] == 409
    assert host.result("mover.version") == "1.0.0"

    done = host.ok("POST", "/api/packs/mover/update/approve", {"digest": review["digest"]})
    assert (done["status"], done["version"], done["pending_update"]) == ("running", "2.0.0", None)
    assert host.result("mover.version") == "2.0.0"
    assert data.read_text() == "two"
    assert "2.0.0" in (host.packs / "mover/backend/ecosystem.json").read_text()
    host.ok("POST", "/api/packs/scan")
    assert host.ok("GET", "/api/packs/mover/status")["status"] == "running"

    back = host.ok("POST", "/api/packs/mover/rollback")
    assert (back["status"], back["version"]) == ("running", "1.0.0")
    assert host.result("mover.version") == "1.0.0"
    assert data.read_text() == "one"
    status, refused = host.request("POST", "/api/packs/mover/rollback")
    assert (status, refused["code"]) == (409, "no_previous_version")
    assert host.request("POST", "/api/packs/mover/update/approve")[0] == 404


@pytest.mark.parametrize(
    ("extra", "said"),
    [("raise ValueError('no such luck')", "no such luck"), ("import os; os._exit(3)", "failed in phase setup")],
    ids=["a component fails", "the sandbox dies"],
)
def test_a_version_that_fails_its_trial_is_taken_back_with_its_data(
    tmp_path: Path, host: RunningHost, extra: str, said: str
) -> None:
    host.put_pack("mover", version("1.0.0"))
    host.approve("mover")
    data = host.home / "user_data/packs/mover/format.txt"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("one")
    host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v2", version("2.0.0", extra))})
    status, answer = host.request("POST", "/api/packs/mover/update/approve", {})
    assert (status, answer["code"]) == (502, "update_failed"), answer
    assert said in json.dumps(answer)
    assert host.result("mover.version") == "1.0.0"
    assert data.read_text() == "one"
    seen = host.ok("GET", "/api/packs/mover/status")
    assert (seen["status"], seen["version"]) == ("running", "1.0.0")
    about = {issue["code"] for issue in host.ok("GET", "/api/issues") if "mover" in json.dumps(issue)}
    assert about <= {"update_undecided"}, "nothing but that the staged version waits"
    # it stays staged until it is thrown away
    rejected = host.ok("POST", "/api/packs/mover/update/reject")
    assert rejected["pending_update"] is None
    assert host.request("GET", "/api/packs/mover/update")[0] == 404


def test_an_archive_and_a_repository_come_in_as_a_folder_does(tmp_path: Path, host: RunningHost) -> None:
    first = zipped(tmp_path / "mover-1.0.zip", {f"mover-1.0/{name}": text for name, text in version("1.0.0").items()})
    added = host.ok("POST", "/api/packs/add", {"path": str(first)})
    assert (added["pack_id"], added["status"], added["version"]) == ("mover", "installed", "1.0.0")
    assert host.approve("mover")["status"] == "running"
    assert host.result("mover.version") == "1.0.0"

    origin = repository(tmp_path / "origin", version("2.0.0"))
    staged = host.ok("POST", "/api/packs/add", {"git": f"file://{origin}", "ref": "main"})
    assert staged["pending_update"]["version"] == "2.0.0"
    assert host.ok("POST", "/api/packs/mover/update/approve", {})["version"] == "2.0.0"
    assert host.result("mover.version") == "2.0.0"
    [fetched] = [one for one in host.ok("GET", "/api/audit?event=pack.fetched") if one["pack_id"] == "mover"]
    assert (fetched["source"], len(fetched["commit"])) == (f"file://{origin} main", 40)


def test_what_can_not_be_added_is_refused_with_a_sentence(tmp_path: Path, host: RunningHost) -> None:
    archive = tmp_path / "pack.zip"
    archive.write_bytes(b"PK")
    status, answer = host.request("POST", "/api/packs/add", {"path": str(archive)})
    assert (status, answer["code"]) == (422, "archive_refused")
    assert "pack.zip" in answer["error"] + json.dumps(answer)
    for unclear in ({}, {"path": "/a", "git": "https://example.org/x"}, {"path": "/a", "ref": "v1"}):
        status, answer = host.request("POST", "/api/packs/add", unclear)
        assert (status, answer["code"]) == (400, "source_unclear")
    status, answer = host.request("POST", "/api/packs/add", {"git": "ext::sh -c evil"})
    assert (status, answer["code"]) == (400, "source_refused")
    assert host.request("POST", "/api/packs/add", {"path": "relative/folder"})[0] == 400
    assert host.request("POST", "/api/packs/add", {"path": str(host.home / "user_data" / "permissions")})[0] == 400
    link = tmp_path / "link"
    link.symlink_to(folder(tmp_path / "real", version("1.0.0")))
    assert host.request("POST", "/api/packs/add", {"path": str(link)})[0] == 400
    (tmp_path / "real" / "out").symlink_to("/etc/passwd")
    status, answer = host.request("POST", "/api/packs/add", {"path": str(tmp_path / "real")})
    assert (status, answer["code"]) == (409, "tree_refused")
    assert list((host.home / "user_data/staging").iterdir()) == []
    assert list(host.packs.iterdir()) == []


def test_a_pack_and_its_next_version_come_from_a_registry(tmp_path: Path, host: RunningHost) -> None:
    with Registry(token="a-token") as registry:
        first = registry.push("team/mover", "latest", zipped(tmp_path / "v1.zip", version("1.0.0")).read_bytes())
        added = host.ok("POST", "/api/packs/add", {"oci": f"oci://{registry.at}/team/mover:latest"})
        assert added["pinned"] == f"oci://{registry.at}/team/mover@{first}"
        assert (added["pack_id"], added["status"]) == ("mover", "installed")
        host.approve("mover")
        assert host.result("mover.version") == "1.0.0"
        second = registry.push("team/mover", "latest", zipped(tmp_path / "v2.zip", version("2.0.0")).read_bytes())
        staged = host.ok("POST", "/api/packs/add", {"oci": f"oci://{registry.at}/team/mover:latest"})
        assert (staged["pending_update"]["version"], staged["pinned"].rpartition("@")[2]) == ("2.0.0", second)
        again, answer = host.request("POST", "/api/packs/add", {"oci": f"oci://{registry.at}/team/mover@{first}"})
        assert (again, answer["code"]) == (409, "nothing_new"), "the digest still names the first one"
        assert host.request("POST", "/api/packs/add", {"oci": f"oci://127.0.0.1:{host.api_port}/a:1"})[0] == 503
        assert host.request("POST", "/api/packs/add", {"oci": "oci://x/a:1", "path": "/x"})[0] == 400
    records = [one for one in host.ok("GET", "/api/audit?lines=200") if one["event"] == "pack.fetched"]
    assert [(one["source"], one["manifest"]) for one in records] == [
        (f"oci://{registry.at}/team/mover:latest", first), (f"oci://{registry.at}/team/mover:latest", second),
    ]  # fmt: skip

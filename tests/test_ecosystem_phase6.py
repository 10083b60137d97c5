"""Acceptance, phase 6: the management API as the README lists it, with its envelope and its refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.packs import MINIMAL_ECOSYSTEM, MINIMAL_MANIFEST, MINIMAL_SETUP
from tests.support.running_host import RunningHost

MINIMAL = {
    "backend/ecosystem.json": MINIMAL_ECOSYSTEM,
    "backend/components/hello/manifest.json": MINIMAL_MANIFEST,
    "backend/components/hello/setup.py": MINIMAL_SETUP,
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ],
)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("phase6"), request.param) as running:
        yield running


def put(host: RunningHost, pack_id: str) -> None:
    """A Pack like the README's, under an id of its own."""
    texts = {name: text.replace("my_pack", pack_id).replace("service.hello", f"service.{pack_id}") for name, text in MINIMAL.items()}
    if pack_id == "asks":
        wanted = [{"type": "host.notify", "reason": "tells"}]
        texts["backend/permissions.json"] = json.dumps({"pack_id": pack_id, "permissions": wanted})
    host.put_pack(pack_id, texts)
    host.ok("POST", "/api/packs/scan")


def envelope(status: int, answer: Any, *, success: bool) -> Any:
    assert set(answer) >= {"success", "data", "error"}, answer
    assert answer["success"] is success
    assert (answer["error"] is None) is success
    assert success or isinstance(answer["error"], str)
    assert success or answer["data"] is None
    assert (status < 400) is success
    return answer["data"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404), ("PUT", "/api/packs", 405), ("GET", "/api/packs/Bad.Id/status", 400),
        ("GET", f"/api/packs/{'a' * 65}/status", 400), ("POST", "/api/packs/1abc/approve", 400),
        ("POST", "/api/packs/unknown/approve", 404), ("POST", "/api/packs/unknown/reject", 404),
        ("DELETE", "/api/packs/unknown", 404), ("GET", "/api/packs/unknown/status", 404),
    ],
)  # fmt: skip
def test_refusals_come_in_the_envelope(host: RunningHost, method: str, path: str, status: int) -> None:
    found, answer = host.request(method, path)
    assert found == status, answer
    envelope(found, answer, success=False)


def test_packs_from_being_found_to_being_gone(host: RunningHost) -> None:
    put(host, "my_pack")
    scanned = host.ok("POST", "/api/packs/scan")
    assert scanned["scanned"] == len(scanned["packs"])
    listed = {one["pack_id"]: one["status"] for one in host.ok("GET", "/api/packs")}
    assert listed["my_pack"] == "installed"
    assert "my_pack" in host.ok("GET", "/api/packs/pending")
    status, answer = host.request("POST", "/api/containers/my_pack/start")
    assert status == 403
    envelope(status, answer, success=False)

    host.ok("POST", "/api/packs/my_pack/approve")
    found = host.ok("GET", "/api/packs/my_pack/status")
    assert (found["pack_id"], found["status"]) == ("my_pack", "running")
    assert found["approval"]["digest"]
    assert "my_pack" not in host.ok("GET", "/api/packs/pending")
    assert host.result("service.my_pack", {"name": "Rumi"}) == {"message": "Hello, Rumi!"}

    assert "my_pack" in {one["pack_id"] for one in host.ok("GET", "/api/containers")}
    host.ok("POST", "/api/containers/my_pack/stop")
    assert host.ok("GET", "/api/packs/my_pack/status")["status"] == "approved"
    host.ok("POST", "/api/containers/my_pack/start")
    assert host.ok("GET", "/api/packs/my_pack/status")["status"] == "running"

    host.ok("POST", "/api/packs/my_pack/reject", {"reason": "no"})
    assert host.ok("GET", "/api/packs/my_pack/status")["status"] == "blocked"
    assert host.request("POST", "/api/containers/my_pack/start")[0] == 403
    host.ok("DELETE", "/api/packs/my_pack")
    assert host.request("GET", "/api/packs/my_pack/status")[0] == 404


def test_docker_and_what_isolates(host: RunningHost) -> None:
    found = host.ok("GET", "/api/docker/status")
    assert isinstance(found["available"], bool)
    assert isinstance(found["required"], bool)


def test_privileges_are_granted_one_by_one_and_an_ungranted_one_is_403(host: RunningHost) -> None:
    put(host, "asks")
    host.ok("POST", "/api/packs/asks/approve")
    assert host.ok("GET", "/api/privileges")
    body = {"params": {"title": "t"}}
    status, answer = host.request("POST", "/api/privileges/asks/execute/notify", body)
    assert status == 403
    envelope(status, answer, success=False)
    host.ok("POST", "/api/privileges/asks/grant/notify")
    host.ok("POST", "/api/privileges/asks/execute/notify", body)


def test_a_changed_file_invalidates_the_pack_until_it_is_approved_again(host: RunningHost) -> None:
    put(host, "edited")
    host.ok("POST", "/api/packs/edited/approve")
    (host.packs / "edited/backend/components/hello/setup.py").write_text(
        MINIMAL_SETUP.replace("service.hello", "service.edited") + "# changed\n"
    )
    host.ok("POST", "/api/packs/scan")
    assert host.ok("GET", "/api/packs/edited/status")["status"] == "modified"
    assert host.call("service.edited")[0] != 200
    assert "edited" in host.ok("GET", "/api/packs/pending")
    host.ok("POST", "/api/packs/edited/approve")
    assert host.result("service.edited", {}) == {"message": "Hello, World!"}

"""``on_modified: keep``: the verified copy that runs goes on beside edited files, and nothing ever starts from those."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import isolation  # noqa: F401 - the same two drivers as the end-to-end tests
from tests.support.running_host import RunningHost, one_component_pack

SETUP = """
import os

def run(context):
    ir, files = context["interface_registry"], context["userdata_manager"]
    ir.register("kept.hello", lambda args, ctx: files.write_text("packs/kept/said", "approved") or "approved")
    ir.register("kept.end", lambda args, ctx: os._exit(3))
"""
FOREIGN = SETUP.replace('"approved"', '"foreign"')
FILE = "backend/components/main/setup.py"


@pytest.fixture
def host(tmp_path: Path, isolation: str) -> Iterator[RunningHost]:  # noqa: F811
    with RunningHost(tmp_path / "home", isolation, {"RUMI_ON_MODIFIED": "keep"}) as running:
        yield running


def edited(host: RunningHost) -> None:
    folder = host.put_pack("kept", one_component_pack("kept", SETUP, provides=("kept.hello", "kept.end")))
    assert host.approve("kept")["status"] == "running"
    (folder / FILE).write_text(FOREIGN)
    host.ok("POST", "/api/packs/scan")


def test_the_approved_copy_goes_on_with_its_rights_and_a_banner(host: RunningHost) -> None:
    edited(host)
    shown = host.status("kept")
    assert (shown["status"], shown["cause"], shown["kept_running"]) == ("modified", "kept_running", True)
    assert "not started again" in shown["detail"]
    assert shown["changed_paths"] == [FILE]
    assert host.result("kept.hello") == "approved"
    assert (host.home / "user_data/packs/kept/said").read_text() == "approved"
    [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "pack_modified"]
    assert issue["evidence"]["kept_running"] is True
    assert host.request("POST", "/api/containers/kept/start")[0] == 403
    assert host.result("kept.hello") == "approved"


def test_a_crash_while_kept_is_the_end(host: RunningHost) -> None:
    edited(host)
    assert host.call("kept.end")[0] == 502
    host.until(lambda: not host.status("kept")["kept_running"], 30, "the end")
    host.until(lambda: host.call("kept.hello")[0] in {404, 502}, 10, "nobody to serve")
    [container] = host.ok("GET", "/api/containers")
    assert (container["state"], container["restarts"]) == ("error", 0)
    host.ok("POST", "/api/packs/scan")
    assert host.status("kept")["status"] == "modified"
    assert host.call("kept.hello")[0] != 200
    assert host.ok("POST", "/api/packs/kept/restore")["status"] == "running"
    assert host.result("kept.hello") == "approved"


def test_a_restart_of_the_host_does_not_start_it(host: RunningHost) -> None:
    edited(host)
    host.stop()
    host.start()
    shown = host.status("kept")
    assert (shown["status"], shown["kept_running"]) == ("modified", False)
    assert host.ok("GET", "/api/containers") == []
    assert host.call("kept.hello")[0] != 200


def test_rejecting_ends_what_was_kept(host: RunningHost) -> None:
    edited(host)
    host.ok("POST", "/api/packs/kept/reject", {"reason": "no"})
    assert host.status("kept")["status"] == "blocked"
    assert host.call("kept.hello")[0] != 200


def test_the_sandbox_that_is_killed_from_outside_stays_dead(host: RunningHost) -> None:
    edited(host)
    [container] = host.ok("GET", "/api/containers")
    if not container["pid"]:
        pytest.skip("the engine does not tell the process")
    os.kill(container["pid"], signal.SIGKILL)
    host.until(lambda: not host.status("kept")["kept_running"], 30, "the end")
    assert host.call("kept.hello")[0] != 200


def test_uses_are_counted_over_a_restart_of_the_host(host: RunningHost) -> None:
    """Beside the rest, since it needs the same host: what was used stays known, so that the unused can be told."""
    files = one_component_pack("kept", SETUP, provides=("kept.hello", "kept.end"))
    asks = [{"type": "userdata.read", "paths": ["shared/a", "shared/b"], "reason": "r"}]
    files["backend/components/main/setup.py"] = SETUP.replace(
        'files.write_text("packs/kept/said", "approved")', 'files.read_text("shared/a")'
    )
    host.put_pack("kept", files | {"backend/permissions.json": json.dumps({"pack_id": "kept", "permissions": asks})})
    host.approve("kept")
    (host.home / "user_data/shared").mkdir()
    (host.home / "user_data/shared/a").write_text("x")
    assert host.result("kept.hello") == "x"
    before = host.ok("GET", "/api/packs/kept/permissions")
    host.stop()
    host.start()
    after = host.ok("GET", "/api/packs/kept/permissions")
    assert after["counted_since"] == before["counted_since"]
    [reads] = [one for one in after["granted"] if one["type"] == "userdata.read"]
    assert (reads["uses"], reads["unused"]) == (1, ["shared/b"])

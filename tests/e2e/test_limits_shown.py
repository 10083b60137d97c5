"""What an operator sees of a Pack's limits: each with its measure, what is used now, and what was granted beyond it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.running_host import RunningHost, one_component_pack

MIB = 1 << 20
SETUP = """
HELD = []
def run(context):
    def use(args, ctx):
        HELD.append(bytearray(args["memory"]))
        with open("/tmp/used", "wb") as file:
            file.write(bytes(args["tmp"]))
        context["userdata_manager"].write_text("packs/user/data.txt", "x" * args["disk"])
        return "used"
    def fill(args, ctx):
        try:
            with open("/tmp/all", "wb") as file:
                while True:
                    file.write(bytes(65_536))
                    file.flush()
        except OSError as error:
            return str(error)
    context["interface_registry"].register("user.use", use)
    context["interface_registry"].register("user.fill", fill)
"""


def limits_of(host: RunningHost, pack_id: str = "user") -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in host.ok("GET", f"/api/packs/{pack_id}/limits")}


def test_limits_show_what_is_used_and_what_was_granted(host: RunningHost) -> None:
    files = one_component_pack("user", SETUP, provides=("user.use", "user.fill"))
    wanted = {"type": "resources", "memory_mb": 300, "pids": 77, "tmp_mb": 32, "reason": "measures"}
    files["backend/permissions.json"] = json.dumps({"pack_id": "user", "permissions": [wanted]})
    host.put_pack("user", files)
    assert host.request("GET", "/api/packs/nobody/limits")[0] == 404
    host.ok("POST", "/api/packs/scan")
    before = limits_of(host)
    assert (before["memory"]["limit"], before["memory"]["used"]) == (256 * MIB, None), "not decided: the defaults"

    host.approve("user")
    assert host.result("user.use", {"memory": 40 * MIB, "tmp": 5 * MIB, "disk": 100_000}) == "used"
    now = limits_of(host)
    assert [now[name]["limit"] for name in ("memory", "processes", "tmp")] == [300 * MIB, 77, 32 * MIB]
    assert now["memory"]["used"] > 40 * MIB
    assert 1 <= now["processes"]["used"] <= 77
    assert 5 * MIB <= now["tmp"]["used"] < 6 * MIB
    assert now["disk"]["used"] >= 100_000
    assert now["registrations"]["used"] == 2
    assert now["cpu"]["used"] > 0
    assert {row["hits"] for row in now.values()} == {0}
    assert all(row["beyond"] for row in now.values())
    assert now["memory"]["raised_by"] == "memory_mb"

    # a limit that is met is counted, and an issue that says what to do
    assert "No space" in host.result("user.fill")
    host.until(lambda: limits_of(host)["tmp"]["hits"] == 1, 30, "the full /tmp to be seen")
    [issue] = [issue for issue in host.ok("GET", "/api/issues") if issue["code"] == "limit_tmp"]
    assert issue["subject"] == "user"
    assert "tmp_mb" in issue["hint"]
    assert limits_of(host)["tmp"]["last_hit_at"] == issue["last_ts"]
    assert host.result("user.fill")

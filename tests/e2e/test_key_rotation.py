"""A new signing key: prepared while the host runs, taken at its next start, whatever kills it in between; a way out of forgery."""

from __future__ import annotations

import json

import pytest

from tests.support.running_host import RunningHost, one_component_pack

KEEPER = """
def run(context):
    token = context["secrets"].get("token")
    context["interface_registry"].register("keeper.length", lambda args, ctx: len(token))
"""


@pytest.mark.parametrize("killed", [False, True], ids=["ended", "killed"])
def test_everything_goes_on_with_the_new_key(host: RunningHost, killed: bool) -> None:
    files = one_component_pack("keeper", KEEPER, provides=("keeper.length",))
    asks = [{"type": "secret", "names": ["token"], "reason": "to show that it still has it"}]
    files["backend/permissions.json"] = json.dumps({"pack_id": "keeper", "permissions": asks})
    host.put_pack("keeper", files)
    host.ok("PUT", "/api/packs/keeper/secrets/token", {"value": "seventeen letters"})
    host.ok("POST", "/api/packs/keeper/approve", {"permissions": ["secret"]})
    folder = host.home / "user_data" / "permissions"
    key, grant = (folder / ".secret_key").read_text(), (folder / "keeper.grants.json").read_bytes()

    assert host.ok("POST", "/api/trust/rotate-key", {}) == {"prepared": True, "takes_effect": "next_start"}
    assert (folder / ".secret_key").read_text() == key, "until the next start the old one holds"
    assert host.result("keeper.length") == 17
    if killed:
        host.kill()
    else:
        host.stop()
    host.start()

    assert (folder / ".secret_key").read_text() != key
    assert (folder / "keeper.grants.json").read_bytes() != grant
    assert not (folder / ".secret_key.next").exists()
    host.until(lambda: host.status("keeper")["status"] == "running", 30, "the Pack to run again")
    assert host.result("keeper.length") == 17
    assert host.ok("GET", "/api/audit/verify")["ok"]
    assert [one["actor"] for one in host.ok("GET", "/api/audit?lines=200&event=trust.key_rotation")] == ["operator:uid:0"]

    (folder / "keeper.grants.json").write_bytes(grant)  # what the old key signed is worth nothing any more
    host.stop()
    host.start()
    status = host.status("keeper")
    assert (status["status"], status["cause"]) == ("error", "grant_forged"), status


def test_granted_privileges_that_can_not_be_believed_are_reset(host: RunningHost) -> None:
    (host.home / "user_data" / "permissions" / "privileges.json").write_text("{}")
    assert all(one["fault"] for one in host.ok("GET", "/api/privileges"))
    assert host.ok("POST", "/api/privileges/reset", {}) == {"granted": []}
    assert not any(one["fault"] for one in host.ok("GET", "/api/privileges"))

"""Addons in both sandboxes: what the target finds inside is what was approved, for as long as it is."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.support.running_host import RunningHost

READS = """
import json, os

def run(context):
    ir = context["interface_registry"]
    folder = context["paths"]["component_runtime_dir"]

    def look(args, ctx):
        with open(os.path.join(folder, "data/limits.json")) as file:
            limits = json.load(file)
        with open(os.path.join(folder, "manifest.json")) as file:
            extensions = json.load(file)["extensions"]
        return {"limits": limits, "extensions": extensions}

    def overwrite(args, ctx):
        tried = []
        for name in ("data/limits.json", "manifest.json", "data/new.json"):
            try:
                with open(os.path.join(folder, name), "w") as file:
                    file.write("{}")
                tried.append(name)
            except OSError:
                pass
        return tried

    ir.register("base.look", look)
    ir.register("base.overwrite", overwrite)
"""
ASKS = """
import os

def run(context):
    ir, rights = context["interface_registry"], context["permission_manager"]
    ir.register("guest.has", lambda args, ctx: rights.has("addon.apply", target=args["target"]))
    ir.register("guest.sees", lambda args, ctx: sorted(
        os.path.join(where, name) for where, _, names in os.walk("/") if not where.startswith(("/proc", "/sys"))
        for name in names if name == "limits.json"))
"""
TARGET = "base:service:core"
POLICY = {"allowed_manifest_paths": ["/extensions"],
          "editable_files": [{"path_glob": "data/*.json", "allowed_json_pointer_prefixes": ["/loudness"]}]}  # fmt: skip


def base_files(loudness: int = 5, *, fixed: bool = True) -> dict[str, str]:
    manifest = {"type": "service", "id": "core", "version": "1.0.0", "extensions": {}, "addon_policy": POLICY,
                "connectivity": {"provides": ["base.look", "base.overwrite"]}}  # fmt: skip
    return {
        "backend/ecosystem.json": json.dumps({"pack_id": "base", "version": "1.0.0"}),
        "backend/components/core/manifest.json": json.dumps(manifest),
        "backend/components/core/data/limits.json": json.dumps({"loudness": loudness, "fixed": fixed}),
        "backend/components/core/setup.py": READS,
    }


def guest_files(value: Any = 0, pack_id: str = "guest") -> dict[str, str]:
    addon = {"addon_id": "quiet", "version": "1.0.0", "targets": [{
        "pack_identity": "local:base", "component": {"type": "service", "id": "core"}, "apply": [
            {"kind": "manifest_json_patch", "patch": [{"op": "add", "path": "/extensions/by", "value": pack_id}]},
            {"kind": "file_json_patch", "file": "data/limits.json",
             "patch": [{"op": "replace", "path": "/loudness", "value": value}]}]}]}  # fmt: skip
    manifest = {"type": "service", "id": "main", "version": "1.0.0",
                "connectivity": {"provides": ["guest.has", "guest.sees"] if pack_id == "guest" else []}}  # fmt: skip
    asks = {"type": "addon.apply", "targets": [TARGET], "reason": "quieter"}
    return {
        "backend/ecosystem.json": json.dumps({"pack_id": pack_id, "version": "1.0.0"}),
        "backend/permissions.json": json.dumps({"pack_id": pack_id, "permissions": [asks]}),
        "backend/addons/quiet.addon.json": json.dumps(addon),
        "backend/components/main/manifest.json": json.dumps(manifest),
        "backend/components/main/setup.py": ASKS if pack_id == "guest" else "def run(context):\n    pass\n",
    }


def again(host: RunningHost) -> None:
    host.ok("POST", "/api/containers/base/stop")
    host.ok("POST", "/api/containers/base/start")


def shows_what_runs(host: RunningHost, *, patched: bool) -> None:
    """``ecosystem/docker/base/`` tells the bytes that the sandbox really has."""
    view, approved = host.home / "ecosystem/docker/base", host.status("base")["digest"]
    effective = host.status("base")["effective_digest"] or approved

    def told() -> bool:
        return bool(json.loads((view / "grants/effective.json").read_text())["effective_digest"] == effective)

    host.until(told, 20, "the view of this start")
    addons = json.loads((view / "handlers/addons.json").read_text())
    assert (addons["digest"], addons["effective_digest"]) == (approved, effective)
    assert addons["addons"] == host.status("base")["addons"], "refused ones and their reasons too"
    runs = host.home / "user_data/store/trees" / effective.removeprefix("sha256:")
    rows = {row["path"]: row for row in addons["files"]}
    changed = {f"backend/components/core/{name}" for name in ("manifest.json", "data/limits.json")}
    assert set(rows) == (changed if patched else set())
    for path, row in rows.items():
        assert row["sha256"] == hashlib.sha256((runs / path).read_bytes()).hexdigest()
        assert row["approved_sha256"] == hashlib.sha256((host.packs / "base" / path).read_bytes()).hexdigest()
    [setup] = json.loads((view / "handlers/handlers.json").read_text())
    assert setup["path"] == "backend/components/core/setup.py"


def issue(host: RunningHost) -> Any:
    found = host.ok("GET", "/api/issues")
    return next((one for one in found if one["code"] == "addons_not_applied"), None)


def test_an_addon_from_its_review_to_its_end(host: RunningHost) -> None:
    folder = host.put_pack("base", base_files())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    host.approve("base")
    assert host.result("base.look") == {"limits": {"loudness": 5, "fixed": True}, "extensions": {}}

    host.put_pack("guest", guest_files())
    host.ok("POST", "/api/packs/scan")
    (shown,) = host.ok("GET", "/api/packs/guest/review")["addons"]
    assert (shown["target"], shown["outcome"]) == (TARGET, "applied")
    assert {(one["path"], one["before"], one["value"]) for one in shown["changes"]} == {
        ("/loudness", "5", "0"), ("/extensions/by", "", '"guest"'),
    }  # fmt: skip

    host.approve("guest")  # a plain approval leaves the right out
    again(host)
    assert host.result("base.look")["limits"]["loudness"] == 5
    assert host.result("guest.has", {"target": TARGET}) is False
    assert "rumi pack grant guest addon.apply" in issue(host)["hint"]

    host.ok("POST", "/api/packs/guest/permissions", {"permissions": ["addon.apply"]})
    assert host.result("guest.has", {"target": TARGET}) is True
    assert host.result("guest.has", {"target": "base:service:other"}) is False
    assert host.result("base.look")["limits"]["loudness"] == 5, "what runs goes on as it started"
    again(host)
    assert host.result("base.look") == {"limits": {"loudness": 0, "fixed": True}, "extensions": {"by": "guest"}}
    assert host.result("base.overwrite") == [], "the copy with addons is as read-only as any other"
    assert host.result("guest.sees") == [], "who patches a Pack sees nothing of it"
    status = host.status("base")
    assert status["status"] == "running"
    assert status["effective_digest"] not in {None, status["digest"]}
    assert [(one["addon"], one["outcome"]) for one in status["addons"]] == [("guest:quiet", "applied")]
    assert status["addons"][0]["effective_digest"] == shown["effective_digest"]
    assert status["addons"][0]["effective_digest"] == host.status("guest")["approval"]["effects"][TARGET]
    assert issue(host) is None
    shows_what_runs(host, patched=True)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    host.stop()
    host.start()
    host.until(lambda: host.status("base")["status"] == "running", 30, "the target to run again")
    assert host.result("base.look")["limits"]["loudness"] == 0, "it is there after a restart of the host"
    shows_what_runs(host, patched=True)

    host.ok("DELETE", "/api/packs/guest/permissions", {"permissions": ["addon.apply"]})
    again(host)
    assert host.result("base.look") == {"limits": {"loudness": 5, "fixed": True}, "extensions": {}}
    assert host.status("base")["effective_digest"] is None
    shows_what_runs(host, patched=False)


def test_what_changed_on_either_side_waits_for_a_decision_and_conflicts_are_told(host: RunningHost) -> None:
    host.put_pack("base", base_files())
    host.approve("base")
    host.put_pack("guest", guest_files())
    host.ok("POST", "/api/packs/guest/approve", {"permissions": ["addon.apply"]})
    again(host)
    assert host.result("base.look")["limits"]["loudness"] == 0

    host.put_pack("guest", guest_files(9))
    host.ok("POST", "/api/packs/scan")
    assert host.status("guest")["status"] == "modified"
    again(host)
    assert host.result("base.look")["limits"]["loudness"] == 5, "a changed addon does nothing"
    host.ok("POST", "/api/packs/guest/approve", {"permissions": ["addon.apply"]})
    again(host)
    assert host.result("base.look")["limits"]["loudness"] == 9

    host.put_pack("base", base_files(7))
    host.approve("base")
    assert host.result("base.look")["limits"]["loudness"] == 9, "the result is the one that was approved"
    host.put_pack("base", base_files(7, fixed=False))
    host.approve("base")
    assert host.result("base.look")["limits"]["loudness"] == 7, "a changed target runs as it was approved"
    assert "is not what was approved" in issue(host)["detail"]
    host.ok("POST", "/api/packs/guest/permissions", {"permissions": ["addon.apply"]})
    again(host)
    assert host.result("base.look")["limits"]["loudness"] == 9

    host.put_pack("other", guest_files(3, "other"))
    host.ok("POST", "/api/packs/other/approve", {"permissions": ["addon.apply"]})
    again(host)
    assert host.result("base.look")["limits"]["loudness"] == 9
    found = issue(host)
    assert found["severity"] == "warn"
    assert {(one["addon"], one["outcome"]) for one in found["evidence"]["addons"]} == {("other:quiet", "conflict")}

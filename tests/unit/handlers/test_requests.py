"""Operations that a Pack may ask of the host: named, shaped, bounded, in its own name only."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend_core.ecosystem.registry import PackRegistry
from backend_core.errors import RequestError, RumiError
from core_runtime.approval_manager import ApprovalManager
from core_runtime.drivers.audit import AuditLog
from core_runtime.handlers import requests
from core_runtime.handlers.host import Host
from core_runtime.install_journal import InstallJournal
from core_runtime.permission_manager import PermissionManager
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from core_runtime.userdata_manager import UserdataManager
from tests.support.hosts import bare_host
from tests.support.packs import minimal_pack


@pytest.fixture
def host(tmp_path) -> Host:
    minimal_pack(tmp_path / "ecosystem" / "packs", permissions=True)

    async def build() -> Host:
        return bare_host(tmp_path)

    host = asyncio.run(build())
    host.audit, host.journal = AuditLog(tmp_path), InstallJournal(tmp_path)
    approvals = ApprovalManager(tmp_path, PackRegistry(tmp_path / "ecosystem" / "packs"), host.audit)
    approvals.approve("my_pack", isolation=Isolation(DriverKind.EMBEDDED, Level.STANDARD), actor="test")
    host.approvals = approvals
    host.permissions = PermissionManager(approvals.grant, host.audit, files=approvals.grants)
    host.userdata = UserdataManager(tmp_path, host.permissions)
    return host


def ask(host: Host, operation: str, **args: Any) -> Any:
    return asyncio.run(requests.serve(host, "my_pack", operation, args))


def test_a_pack_keeps_its_own_files(host):
    ask(host, "userdata.write", path="packs/my_pack/a.txt", data=b"hello")
    assert ask(host, "userdata.read", path="packs/my_pack/a.txt") == b"hello"
    assert ask(host, "userdata.exists", path="packs/my_pack/a.txt") is True
    assert ask(host, "userdata.stat", path="packs/my_pack/a.txt")["size_bytes"] == 5
    assert ask(host, "userdata.list", prefix="packs/my_pack/") == ["packs/my_pack/a.txt"]
    assert ask(host, "userdata.delete", path="packs/my_pack/a.txt") is True
    assert ask(host, "userdata.exists", path="packs/my_pack/a.txt") is False


def test_granted_paths_and_no_others(host, tmp_path):
    (tmp_path / "user_data" / "settings").mkdir()
    (tmp_path / "user_data" / "settings" / "my_config.json").write_text("{}")
    assert ask(host, "userdata.read", path="settings/my_config.json") == b"{}"
    for path in ("permissions/.secret_key", "packs/other/x", "settings/else.json", "../x", "packs/my_pack/../../x"):
        with pytest.raises(RumiError):
            ask(host, "userdata.read", path=path)
        with pytest.raises(RumiError):
            ask(host, "userdata.write", path=path, data=b"x")


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("userdata.read", {}),
        ("userdata.read", {"path": 5}),
        ("userdata.read", {"path": "x" * 3000}),
        ("userdata.write", {"path": "packs/my_pack/x", "data": 5}),
        ("journal.record", {"created": "x"}),
        ("journal.record", {"created": [1]}),
        ("permission.has", {"type": "userdata.read", "params": 3}),
        ("permission.has", {}),
        ("shell.run", {"command": "id"}),
        ("", {}),
    ],
)
def test_wrong_requests_are_named(host, operation, args):
    with pytest.raises(RequestError) as caught:
        ask(host, operation, **args)
    assert caught.value.code in {"arguments", "unknown_operation"}


def test_arguments_must_be_a_map(host):
    with pytest.raises(RequestError):
        asyncio.run(requests.serve(host, "my_pack", "userdata.read", ["x"]))


def test_permissions_can_be_asked_for_but_not_taken(host):
    assert ask(host, "permission.has", type="userdata.read", params={"path": "settings/my_config.json"}) is True
    assert ask(host, "permission.has", type="userdata.write", params={"path": "settings/my_config.json"}) is False
    assert (
        ask(host, "permission.request", type="userdata.read", params={"path": "settings/my_config.json"}) == "granted"
    )
    answer = ask(host, "permission.request", type="network", params={"domain": "x.test", "reason": "\x1b[31mplease"})
    assert answer == "asked"
    [issue] = host.diagnostics.issues("my_pack")
    assert issue.code == "permission_requested"
    assert "\x1b" not in issue.detail
    assert [item.type for item in host.permissions.asks()] == ["network"]


def test_an_argument_can_not_name_another_pack(host):
    assert (
        ask(host, "permission.has", type="userdata.read", params={"pack_id": "other", "path": "packs/other/x"}) is False
    )
    ask(host, "diagnostics.record", phase="setup", status="failed", target={"kind": "pack", "id": "other"}, error="no")
    [event] = host.diagnostics.events()
    assert event["target"] == {"kind": "pack", "id": "my_pack"}


def test_the_journal_takes_what_a_pack_made(host):
    ask(host, "userdata.write", path="packs/my_pack/a.txt", data=b"x")
    ask(host, "journal.record", created=["packs/my_pack/a.txt"])
    [entry] = [item for item in host.journal.entries() if "packs/my_pack/a.txt" in str(item["paths"]["created"])]
    assert entry["ref"] == "my_pack"

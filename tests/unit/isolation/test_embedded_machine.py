from pathlib import Path

import pytest

from backend_core.errors import SandboxUnavailable
from core_runtime.drivers import embedded_machine


def test_a_program_that_others_can_change_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_machine, "PROGRAM_FOLDERS", (str(tmp_path),))
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    assert embedded_machine._program(("bwrap",)) is None, "it lies below a home or a temporary folder"
    assert not embedded_machine._only_root_changes(Path("/tmp"))
    assert embedded_machine._only_root_changes(Path("/usr/bin/env").resolve())


def test_missing_bubblewrap_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_machine, "PROGRAM_FOLDERS", (str(tmp_path),))
    with pytest.raises(SandboxUnavailable) as caught:
        embedded_machine.find()
    assert "Bubblewrap is not installed" in str(caught.value)
    assert embedded_machine.explain(str(caught.value)) == (str(caught.value), "")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"kernel/apparmor_restrict_unprivileged_userns": "1"}, "AppArmor"),
        ({"kernel/unprivileged_userns_clone": "0"}, "only root"),
        ({"user/max_user_namespaces": "0"}, "switched off"),
    ],
)
def test_the_reason_of_a_failure_is_looked_for(settings, expected, monkeypatch):
    monkeypatch.setattr(embedded_machine, "_sysctl", lambda name: settings.get(name, ""))
    monkeypatch.setattr(embedded_machine, "_in_chroot", lambda: False)
    monkeypatch.setattr(embedded_machine, "_in_container", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    reason, hint = embedded_machine.explain("bwrap: No permissions to create new namespace")
    assert expected in reason
    assert hint
    assert "switch" not in hint.lower(), "never lead with switching a protection off"


def test_a_chroot_is_recognised_first(monkeypatch):
    monkeypatch.setattr(embedded_machine, "_in_chroot", lambda: True)
    assert "chroot" in embedded_machine.explain("bwrap: misleading")[0]


def test_only_system_folders_are_shown(tmp_path):
    machine = embedded_machine.find()
    assert not [path for path in machine.binds if path.startswith(("/home", "/root", "/usr/local/lib", "/var", "/run"))]
    assert "/etc" not in machine.binds
    assert machine.python.startswith("/usr/bin/")

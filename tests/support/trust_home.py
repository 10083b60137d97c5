"""A whole installation in a folder, for tests of trust: real registry, real audit, real managers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend_core.ecosystem.registry import PackRegistry
from core_runtime.approval_manager import ApprovalManager, PackStatus
from core_runtime.drivers.audit import AuditLog
from core_runtime.drivers.grants import identity_fingerprint
from core_runtime.drivers.redactions import Redactions
from core_runtime.drivers.secret_store import SecretStore
from core_runtime.handlers import removal
from core_runtime.host_privilege_manager import HostPrivilegeManager
from core_runtime.permission_manager import PermissionManager
from core_runtime.rules.grants import Grant
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from core_runtime.secret_manager import SecretManager
from core_runtime.userdata_manager import UserdataManager

STANDARD = Isolation(DriverKind.EMBEDDED, Level.STANDARD)
DOCKER = Isolation(DriverKind.DOCKER, Level.STANDARD)
REDUCED = Isolation(DriverKind.EMBEDDED, Level.REDUCED)
SETUP = "backend/components/main/setup.py"


class Clock:
    """Wall and monotonic time under the test's control."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now
        self.mono = 1000.0

    def __call__(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.mono

    def advance(self, passed_s: float) -> None:
        self.now += passed_s
        self.mono += passed_s


class TrustHome:
    """``home/ecosystem/packs`` and ``home/user_data`` with the managers over them."""

    def __init__(self, home: Path, *, clock: Clock | None = None) -> None:
        self.home = home
        self.clock = clock or Clock()
        self.packs_dir = home / "ecosystem" / "packs"
        self.packs_dir.mkdir(parents=True, exist_ok=True)
        self.user_data = home / "user_data"
        self.secrets = self.user_data / "permissions"
        self.reopen()

    def reopen(self) -> TrustHome:
        """As after a restart of the host: nothing but the files is left."""
        self.registry = PackRegistry(self.packs_dir)
        self.audit = AuditLog(self.home, clock=self.clock)
        self.approvals = ApprovalManager(
            self.home, self.registry, self.audit, clock=self.clock, monotonic=self.clock.monotonic
        )
        self.permissions = PermissionManager(
            self.approvals.grant,
            self.audit,
            clock=self.clock,
            monotonic=self.clock.monotonic,
            files=self.approvals.grants,
            latest=self.approvals.latest,
        )
        self.userdata = UserdataManager(self.home, self.permissions)
        self.redactions = Redactions()
        store = SecretStore(
            self.user_data, self.approvals.grants.keyring, self._identity, self.redactions, clock=self.clock
        )
        self.vault = SecretManager(store, self.permissions, self.audit)
        self.privileges = HostPrivilegeManager(
            self.home, self.permissions, self.audit, clock=self.clock, latest=self.approvals.latest
        )
        unfinished = removal.resume(self.approvals, self.vault, self.privileges)
        assert not any(unfinished.values()), unfinished
        return self

    def _identity(self, pack_id: str) -> str:
        grant = self.approvals.grant(pack_id)
        return identity_fingerprint(grant.pack_identity) if grant else ""

    def add(
        self,
        pack_id: str = "alpha",
        *,
        identity: str = "",
        version: str = "1.0.0",
        provides: Sequence[Any] = ("service.alpha",),
        requires: Sequence[Any] = (),
        uses: Sequence[Any] = (),
        permissions: Sequence[Mapping[str, Any]] = (),
        files: Mapping[str, str] | None = None,
    ) -> Path:
        """Write (or overwrite) a Pack's folder."""
        root = self.packs_dir / pack_id
        document = {"pack_id": pack_id, "pack_identity": identity or f"github:author/{pack_id}", "version": version}
        manifest = {
            "type": "service",
            "id": "main",
            "version": "1.0.0",
            "connectivity": {"provides": list(provides), "requires": list(requires), "uses": list(uses)},
        }
        texts = {
            "backend/ecosystem.json": json.dumps(document),
            "backend/components/main/manifest.json": json.dumps(manifest),
            SETUP: "def run(context):\n    pass\n",
            **(files or {}),
        }
        if permissions:
            texts["backend/permissions.json"] = json.dumps({"pack_id": pack_id, "permissions": list(permissions)})
        for name, text in texts.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return root

    def approve(self, pack_id: str = "alpha", **options: Any) -> Grant:
        """Approve with sensible defaults."""
        return self.approvals.approve(pack_id, **{"isolation": STANDARD, "actor": "tester", **options})

    def approved(self, pack_id: str = "alpha", **options: Any) -> Path:
        """Add and approve; the Pack's folder."""
        root = self.add(pack_id, **options)
        self.approve(pack_id)
        return root

    def remove(self, pack_id: str = "alpha") -> None:
        """Uninstall, as the operator's command does."""
        removal.remove(self.approvals, self.vault, self.privileges, pack_id, actor="tester")

    def scan(self, pack_id: str = "alpha") -> PackStatus:
        """A fresh look at one Pack."""
        return self.approvals.scan(pack_id)[0]

    def grant_file(self, pack_id: str = "alpha") -> Path:
        """The signed document of one Pack."""
        return self.secrets / f"{pack_id}.grants.json"

    def start(self, pack_id: str = "alpha", isolation: Isolation = STANDARD) -> Path:
        """Open the verified copy and report the start; the copy's folder."""
        copy = self.approvals.open_for_start(pack_id, isolation=isolation)
        self.approvals.mark(pack_id, "started")
        return copy.path

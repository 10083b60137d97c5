"""Somebody manages to change a Pack's files without the listing noticing. What is listed may be old; nothing is trusted by it.

The cache of readings goes by device, inode, size and both times, of which nobody who only writes files can set the last. Who can
(the machine's clock, the raw disk) is imitated here: the cache is told that what it sees now is what it has read.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import force_setattr

from backend_core.ecosystem.folder import witness
from backend_core.errors import ConflictError, TrustError
from core_runtime.rules.approval import State
from tests.support.packs import pack
from tests.support.trust_home import SETUP, STANDARD, TrustHome


@pytest.fixture
def home(tmp_path: Path) -> TrustHome:
    found = TrustHome(tmp_path)
    pack(found.packs_dir, "p", files={"components/main/manifest.json": _manifest(), "components/main/setup.py": "# one\n"})
    found.registry._clock = lambda: 4e9  # what was written just now counts as settled
    found.approvals.scan()
    return found


def _manifest(**connectivity: list[str]) -> str:
    return json.dumps({"type": "service", "id": "main", "version": "1.0.0", "connectivity": connectivity})


def fooled(home: TrustHome) -> None:
    """Every change is hidden from the cache."""
    root = home.packs_dir / "p"
    kept = home.registry._cache["p"]
    force_setattr(kept, "witnesses", {
        path: witness((root / path).lstat()) if (root / path).exists() else None for path in kept.witnesses
    })  # fmt: skip


def rewrite(home: TrustHome) -> None:
    """Another version, and more rights than before."""
    backend = home.packs_dir / "p" / "backend"
    (backend / "ecosystem.json").write_text(json.dumps({"pack_id": "p", "version": "6.6.6"}))
    asked = [{"type": "network", "domains": ["evil.example"], "reason": "r"}]
    (backend / "permissions.json").write_text(json.dumps({"pack_id": "p", "permissions": asked}))
    fooled(home)


def listed(home: TrustHome) -> str:
    metadata = home.registry.scan()["p"].metadata
    assert metadata is not None
    return metadata.version


def test_the_listing_is_old_and_the_review_is_not(home: TrustHome) -> None:
    rewrite(home)
    assert listed(home) == "1.0.0", "the cache was fooled, else this shows nothing"
    review = home.approvals.review("p").as_dict()
    assert review["version"] == "6.6.6"
    assert [one["type"] for one in review["permissions"]] == ["network"]


def test_what_was_reviewed_before_is_not_approved(home: TrustHome) -> None:
    shown = home.approvals.review("p").digest
    home.registry.scan()
    rewrite(home)
    with pytest.raises((ConflictError, TrustError)):
        home.approvals.approve("p", digest=shown, isolation=STANDARD, actor="operator")
    assert home.approvals.grant("p") is None


def test_a_plain_approval_binds_what_it_reads_itself(home: TrustHome) -> None:
    rewrite(home)
    assert listed(home) == "1.0.0"
    grant = home.approvals.approve("p", isolation=STANDARD, actor="operator")
    assert grant.version == "6.6.6"
    copy = home.approvals.open_for_start("p", isolation=STANDARD)
    assert copy.metadata.version == "6.6.6"
    assert copy.digest == grant.digest


@pytest.mark.parametrize("changed", ["metadata", "code"])
def test_a_change_after_approval_stops_it_whatever_the_cache_says(home: TrustHome, changed: str) -> None:
    home.approvals.approve("p", isolation=STANDARD, actor="operator")
    home.registry.scan()
    if changed == "metadata":
        rewrite(home)
    else:
        (home.packs_dir / "p" / SETUP).write_text("# two\n")
        fooled(home)
    [found] = home.approvals.scan()
    assert found.state is State.MODIFIED
    with pytest.raises(TrustError):
        home.approvals.open_for_start("p", isolation=STANDARD)

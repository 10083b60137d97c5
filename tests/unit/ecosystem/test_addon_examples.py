"""The guide's example of an addon does what the guide says, in both languages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from backend_core.ecosystem.addon_manager import AddonManager, Outcome
from backend_core.ecosystem.registry import PackRegistry
from tests.support.documents import ROOT
from tests.support.packs import manifest, pack


@pytest.mark.parametrize(("guide", "title"), [("ecosystem.md", "## Addons"), ("ecosystem.ja.md", "## アドオン")])
def test_the_example_of_the_guide(tmp_path: Path, guide: str, title: str) -> None:
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    section = text.split(f"{title}\n", 1)[1].split("\n## ", 1)[0]
    addon, policy = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL))
    asks = json.loads(re.findall(r"`(\{.*addon\.apply.*\})`", section)[0])
    core = manifest("service", "core", extensions={}, **policy)
    pack(tmp_path, "base", files={"components/core/manifest.json": core})
    pack(tmp_path, "guest", files={
        "addons/quiet.addon.json": addon, "permissions.json": {"pack_id": "guest", "permissions": [asks]},
    })  # fmt: skip

    def read(pack_id: str, path: str) -> bytes | None:
        file = tmp_path / pack_id / path
        return file.read_bytes() if file.is_file() else None

    folders = PackRegistry(tmp_path).scan().values()
    packs = [folder.metadata for folder in folders if folder.metadata]
    assert len(packs) == 2
    effective = AddonManager(read, lambda _guest, name: "" if name in asks["targets"] else "no").apply(packs)
    assert [result.outcome for result in effective.results] == [Outcome.APPLIED]
    component = effective.components["base:service:core"]
    assert component.manifest["extensions"] == {"quiet": True}
    assert json.loads(component.files["backend/components/core/data/limits.json"]) == {"loudness": 0}

"""Names that an engine of our own gives to containerd: whatever the folder was called by chance."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rumi_setup.core import engine

NAMESPACE = re.compile(r"[A-Za-z0-9]+(?:[._-](?:[A-Za-z0-9]+))*")
"""As containerd validates an identifier; it takes 76 characters."""


@given(st.text("az09_", min_size=8, max_size=8))
def test_every_folder_gives_a_namespace(suffix: str) -> None:
    name = engine._Place(Path(f"/tmp/rumi-eng.{suffix}")).cgroup
    assert NAMESPACE.fullmatch(name)
    assert len(f"{name}-plugins") <= 76

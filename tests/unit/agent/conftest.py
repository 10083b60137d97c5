from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import msgpack
import pytest

from tests.support.fake_host import AGENT, FakeHost, Peer

Start = Callable[..., Peer]


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runtime folder as the sandbox has it: the agent, and msgpack with its C extension beside it."""
    folder = tmp_path_factory.mktemp("runtime")
    shutil.copy(AGENT, folder / "container_agent.py")
    shutil.copytree(Path(msgpack.__file__).parent, folder / "msgpack", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def host() -> Iterator[FakeHost]:
    with FakeHost() as fake:
        yield fake


@pytest.fixture
def start(host: FakeHost, runtime: Path, tmp_path: Path) -> Start:
    """``start(source)``: an agent whose Pack has one component ``one`` with this ``setup.py``, already run."""

    def begin(source: str, *, pack_id: str = "alpha", run: bool = True, **options: Any) -> Peer:
        files = {"backend/components/one/setup.py": dedent(source)}
        options.setdefault("agent", runtime / "container_agent.py")
        peer = host.start(files, tmp_path / pack_id, pack_id=pack_id, **options)
        if run:
            peer.good_phase("one")
        return peer

    return begin

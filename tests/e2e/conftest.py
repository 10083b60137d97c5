"""One parameter for all: each end-to-end test runs against real Docker and against the real embedded sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_host import RunningHost


@pytest.fixture(
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
        pytest.param("embedded", marks=pytest.mark.embedded),
    ]
)
def isolation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def host(tmp_path: Path, isolation: str) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", isolation) as running:
        yield running

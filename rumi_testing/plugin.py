"""The pytest plugin: ``rumi`` is the Pack under test, running in its sandbox.

Override ``rumi_interfaces`` and ``rumi_permissions`` in a ``conftest.py`` or a test module, as any fixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rumi_testing.stage import Interface, Stage

MARKS = ("backend/ecosystem.json", "ecosystem.json")


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--rumi-pack DIR``, or ``rumi_pack`` in the configuration."""
    parser.addoption("--rumi-pack", metavar="DIR", help="the Pack under test; else the folder that holds the tests")
    parser.addini("rumi_pack", "the Pack under test, relative to the configuration's folder", default="")


@pytest.fixture(scope="session")
def rumi_folder(request: pytest.FixtureRequest) -> Path:
    """The folder of the Pack under test."""
    config = request.config
    named = config.getoption("--rumi-pack") or config.getini("rumi_pack")
    if named:
        return Path(config.rootpath, str(named))
    places = [config.invocation_params.dir, *config.invocation_params.dir.parents]
    for place in places:
        if any((place / mark).is_file() for mark in MARKS):
            return place
    raise pytest.UsageError(
        f"No Pack: neither {places[0]} nor a folder above it has {' or '.join(MARKS)}. Name it with --rumi-pack DIR."
    )


@pytest.fixture(scope="module")
def rumi_interfaces() -> Mapping[str, Interface]:
    """What other Packs would provide: ``{key: fn(args, ctx)}``, run in the test's process."""
    return {}


@pytest.fixture(scope="module")
def rumi_permissions() -> Sequence[Any] | None:
    """What the operator grants, as in the API's ``approve``; None: what a plain approval grants."""
    return None


@pytest.fixture(scope="module")
def rumi(
    rumi_folder: Path, rumi_interfaces: Mapping[str, Interface], rumi_permissions: Sequence[Any] | None
) -> Iterator[Stage]:
    """The Pack, approved and running; one start for each module."""
    with Stage(rumi_folder, interfaces=rumi_interfaces, permissions=rumi_permissions) as stage:
        yield stage

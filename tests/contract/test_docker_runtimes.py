"""A runtime that the operator chose is used, or nothing is started: never the engine's default in its place."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import HostError
from core_runtime.drivers.docker_client import EngineClient
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.rules.sandbox import Level
from tests.support import sandboxes
from tests.support.running_host import RunningHost
from tests.support.sandboxes import cell

pytestmark = pytest.mark.docker


def probe(tmp_path, **options):
    async def main():
        driver = DockerDriver("0123456789abcdef", tmp_path, **options)
        try:
            return await driver.probe()
        finally:
            await driver.close()

    return asyncio.run(main())


@pytest.fixture
def claimed(monkeypatch):
    """The engine's list of runtimes names one that it does not have; ``runsc`` it may have."""
    info = EngineClient.info

    async def more(self):
        found = dict(await info(self))
        return found | {"Runtimes": {**found["Runtimes"], "kata-runtime": {"path": "kata-runtime"}}}

    monkeypatch.setattr(EngineClient, "info", more)


@pytest.fixture
def replaced(claimed, monkeypatch):
    """And it runs its default runtime when that one is asked for."""
    create = DockerDriver._create

    async def other(self, spec, document):
        host = {**document["HostConfig"], "Runtime": "runc"}
        return await create(self, spec, {**document, "HostConfig": host})

    monkeypatch.setattr(DockerDriver, "_create", other)


@pytest.fixture
def hidden(replaced, monkeypatch):
    """And it does not admit that."""
    from aiodocker.containers import DockerContainer

    show = DockerContainer.show

    async def told(self, **options: Any):
        found = await show(self, **options)
        found["HostConfig"]["Runtime"] = "kata-runtime"
        return found

    monkeypatch.setattr(DockerContainer, "show", told)


def test_a_runtime_that_the_engine_does_not_list_is_refused_by_name(tmp_path):
    status = probe(tmp_path, runtime="kata-runtime")
    assert (status.available, status.level) == (False, Level.NONE)
    assert "RUMI_DOCKER_RUNTIME is 'kata-runtime'" in status.reason
    assert "runc" in status.reason
    assert "daemon.json" in status.hint


def test_a_runtime_that_the_engine_lists_and_does_not_have_starts_nothing(tmp_path, claimed):
    status = probe(tmp_path, runtime="kata-runtime")
    assert not status.available
    assert "kata-runtime" in status.reason


def test_the_engines_default_in_place_of_the_chosen_one_is_refused(tmp_path, replaced):
    status = probe(tmp_path, runtime="kata-runtime")
    assert not status.available
    assert "asked for 'kata-runtime', the container has 'runc'" in status.reason


def test_the_engines_word_alone_makes_nothing_strong(hidden):
    with sandboxes.yard("docker", runtime="kata-runtime") as yard:
        assert (yard.status.available, yard.status.level) == (True, Level.STANDARD)
        assert "the engine's own kernel" in yard.status.reason
        with cell(yard) as one:
            got = yard.run(one.sandbox.measure(one.probe))
            assert got.level is Level.STANDARD
            assert any("own kernel" in finding for finding in got.findings)


def test_a_start_after_the_runtime_went_away_is_refused_too():
    with sandboxes.yard("docker") as yard:
        yard.driver._runtime = "kata-runtime"
        spec = yard.spec()
        Path(spec.socket_path).touch()
        with pytest.raises(HostError) as caught:
            yard.run(yard.driver.start(spec))
        assert "kata-runtime" in caught.value.detail
        assert yard.driver.live == set()


@pytest.mark.embedded
def test_the_other_driver_is_no_substitute_for_the_chosen_runtime(tmp_path):
    with RunningHost(tmp_path / "home", "auto", {"RUMI_DOCKER_RUNTIME": "kata-runtime"}) as host:
        found = host.ok("GET", "/api/isolation")
        assert found["isolation"] is None, "something weaker than was chosen would run Packs"
        [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "docker_required"]
        assert "kata-runtime" in issue["detail"]
        assert "daemon.json" in issue["hint"]

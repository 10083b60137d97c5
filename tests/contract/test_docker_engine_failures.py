"""An engine that is missing, hangs, vanishes, or lacks its image: each is a sentence, none hangs the host."""

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from backend_core.errors import HostError
from core_runtime.drivers import docker_client, docker_engine
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.rules.sandbox import Level
from tests.support import sandboxes
from tests.support.sandboxes import cell


def probe(driver):
    async def main():
        try:
            return await driver.probe()
        finally:
            await driver.close()

    return asyncio.run(main())


def test_no_engine_at_all(tmp_path):
    status = probe(DockerDriver("0123456789abcdef", tmp_path, url=f"unix://{tmp_path}/nobody.sock"))
    assert (status.available, status.level) == (False, Level.NONE)
    assert "nobody.sock" in status.reason
    assert "DOCKER_HOST" in status.hint


def test_an_engine_that_never_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(docker_engine, "PROBE_S", 0.3)

    async def main():
        async def swallow(reader, writer):
            with contextlib.suppress(asyncio.CancelledError):
                await reader.read()
            writer.close()

        server = await asyncio.start_unix_server(swallow, tmp_path / "hung.sock")
        driver = DockerDriver("0123456789abcdef", tmp_path, url=f"unix://{tmp_path}/hung.sock")
        began = time.monotonic()
        try:
            return await driver.probe(), time.monotonic() - began
        finally:
            await driver.close()
            server.close()

    status, took_s = asyncio.run(main())
    assert not status.available
    assert "did not answer" in status.reason
    assert took_s < 5


def test_something_else_behind_the_socket(tmp_path):
    async def main():
        async def greet(reader, writer):
            await reader.readline()
            writer.write(b"220 mail ready\r\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(greet, tmp_path / "mail.sock")
        driver = DockerDriver("0123456789abcdef", tmp_path, url=f"unix://{tmp_path}/mail.sock")
        try:
            return await driver.probe()
        finally:
            await driver.close()
            server.close()

    assert not asyncio.run(main()).available


@pytest.mark.docker
def test_a_named_base_image_that_is_missing_is_not_replaced(tmp_path):
    status = probe(DockerDriver("0123456789abcdef", tmp_path, image="rumi-no-such-image:7"))
    assert not status.available
    assert "rumi-no-such-image:7" in status.reason
    assert "RUMI_BASE_IMAGE" in status.hint


@pytest.mark.docker
def test_a_base_image_that_cannot_be_pulled_says_how_to_build_it_locally(tmp_path, monkeypatch):
    (tmp_path / "Dockerfile").write_text("FROM rumi-no-such-base:7\n")
    monkeypatch.setattr(docker_engine, "BASE_FOLDER", tmp_path)
    monkeypatch.setattr(docker_engine, "DEFAULT_IMAGE", "rumi-never-built:7")
    monkeypatch.delenv("RUMI_BASE_IMAGE", raising=False)
    status = probe(DockerDriver("0123456789abcdef", tmp_path))
    assert not status.available
    assert "rumi setup --local-base" in status.hint


@pytest.mark.docker
def test_the_image_is_pinned_by_id_and_has_no_set_uid_program():
    with sandboxes.yard("docker") as yard, cell(yard) as one:
        shown = yard.run(one.sandbox._container.show())
        assert shown["Image"].startswith("sha256:")
        assert shown["Config"]["Image"] == shown["Image"]
        assert shown["Image"][7:19] in yard.status.version
        assert one.run("""
            import os, stat
            answer = [os.path.join(d, f) for top in ('/usr', '/opt') for d, _, fs in os.walk(top) for f in fs
                      if os.lstat(os.path.join(d, f)).st_mode & 0o6000 and not os.path.islink(os.path.join(d, f))]
        """) == []  # fmt: skip


@pytest.mark.docker
def test_inspecting_the_container_shows_nothing_of_the_host_but_three_mounts():
    with sandboxes.yard("docker") as yard, cell(yard) as one:
        shown = yard.run(one.sandbox._container.show())
        config = shown["Config"]
        assert {entry.partition("=")[0] for entry in config["Env"]} >= {"HOME", "PATH"}
        assert not [entry for entry in config["Env"] if str(yard.base) in entry or str(yard.state) in entry]
        assert sorted(mount["Destination"] for mount in shown["Mounts"]) == ["/opt/rumi", "/pack", "/run/rumi/bus.sock"]
        assert all(mount["RW"] is False for mount in shown["Mounts"])
        assert config["Labels"]["rumi.pack"] == "hello"


@pytest.mark.docker
def test_an_engine_that_vanishes_ends_the_sandbox_as_lost_and_the_next_boot_removes_it(tmp_path):
    engine = docker_client.engine_url()
    if not engine.startswith("unix://"):
        pytest.skip("the engine is remote; cutting its socket needs a local one")

    async def main():
        pairs = []

        async def forward(reader, writer):
            up_reader, up_writer = await asyncio.open_unix_connection(engine.removeprefix("unix://"))

            async def pump(source, target):
                with contextlib.suppress(OSError):
                    while data := await source.read(65536):
                        target.write(data)
                        await target.drain()
                target.close()

            pairs.extend([writer, up_writer])
            await asyncio.gather(pump(reader, up_writer), pump(up_reader, writer))

        server = await asyncio.start_unix_server(forward, tmp_path / "cut.sock")
        driver = DockerDriver("vanishinginstallation", tmp_path, url=f"unix://{tmp_path}/cut.sock")
        direct = DockerDriver("vanishinginstallation", tmp_path, url=engine)
        try:
            assert (await driver.probe()).available
            standing = replace(spec, installation_id="vanishinginstallation")
            endpoint = await _listen(standing.socket_path)
            sandbox = await driver.start(standing)
            await asyncio.wait_for(endpoint.arrived, 20)
            server.close()
            for writer in pairs:
                writer.transport.abort()
            ended = await asyncio.wait_for(sandbox.wait(), 20)
            assert ended.cause == "lost", ended
            with pytest.raises(HostError) as caught:
                await driver.start(standing)
            assert caught.value.code == "engine_unavailable", "what the orchestrator waits for"
            assert await direct.remove_leftovers("vanishinginstallation") == [sandbox.id]
            endpoint.close()
        finally:
            await driver.close()
            await direct.close()

    with sandboxes.yard("docker") as made:
        spec = made.spec()
        asyncio.run(main())


class _Endpoint:
    def __init__(self):
        self.arrived = asyncio.get_running_loop().create_future()
        self.server: Any = None
        self.writer: Any = None

    def close(self):
        self.writer.close()
        self.server.close()


async def _listen(path):
    endpoint = _Endpoint()

    async def on(reader, writer):
        endpoint.writer = writer
        endpoint.arrived.set_result(None)

    endpoint.server = await asyncio.start_unix_server(on, path)
    await asyncio.to_thread(Path(path).chmod, 0o666)
    return endpoint

"""Which way the bus takes into a container, found out by trying; and what is carried where nothing can be mounted."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import aiodocker
import pytest
from msgspec.structs import force_setattr, replace

from backend_core.errors import TrustError
from core_runtime.drivers import docker_parcel
from core_runtime.drivers.docker_engine import DockerDriver
from core_runtime.rules.docker_config import LABEL_INSTALLATION
from tests.support import engine, relay, sandboxes
from tests.support.sandboxes import InsideError, cell

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.docker


def held_by(installation):
    """Containers and images in the engine that carry an installation's label."""

    async def look():
        async with aiodocker.Docker(url=engine.address()) as docker:
            wanted = {"label": [f"{LABEL_INSTALLATION}={installation}"]}
            containers = await docker.containers.list(all=True, filters=json.dumps(wanted))
            return len(containers), len(await docker.images.list(filters=wanted))

    return asyncio.run(look())


def test_a_local_engine_gets_the_socket():
    with sandboxes.yard("docker") as yard:
        assert yard.status.transport == "socket"
        assert yard.driver.attaches is False


def test_an_engine_over_tcp_gets_stdio_and_says_why():
    with sandboxes.yard("docker-stdio") as yard:
        assert yard.status.transport == "stdio: the engine is reached over a network"
        assert yard.driver.attaches is True


def test_the_operator_can_force_stdio_on_a_local_engine():
    with sandboxes.yard("docker", transport="stdio") as yard:
        assert yard.status.transport == "stdio: chosen by RUMI_DOCKER_TRANSPORT"
        with cell(yard) as one:
            assert one.run("answer = open('/pack/marker.txt').read()") == "approved"
            assert one.run("import os; answer = os.path.exists('/run/rumi/bus.sock')") is False


ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
from tests.support import sandboxes
with sandboxes.yard("docker") as yard, sandboxes.cell(yard) as one:
    print(yard.status.transport)
    print(one.run("answer = open('/pack/marker.txt').read()"))
"""


@pytest.mark.mount
def test_an_engine_that_does_not_see_our_folders_gets_stdio():
    # as in a container beside the engine: its socket is here, but what is mounted here is not there
    mounts = "mount -t tmpfs -o mode=1777 none /run && mount -t tmpfs -o mode=1777 none /tmp/own && "
    folder = Path("/tmp/own")
    folder.mkdir(exist_ok=True)
    try:
        done = subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", f'{mounts} exec "$@"', "sh", sys.executable, "-c", ELSEWHERE, str(ROOT)],
            env=dict(os.environ, TMPDIR="/tmp/own"), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
    finally:
        folder.rmdir()
    assert done.returncode == 0, done.stderr[-3000:]
    transport, marker = done.stdout.splitlines()
    assert transport.startswith("stdio: a mounted socket does not work here"), transport
    assert marker == "approved"


@pytest.mark.parametrize("url", ["tcp://192.0.2.1:2375", "ssh://engine.example", "nonsense"])
def test_an_address_that_nobody_proves_is_not_connected_to(tmp_path, url):
    async def probe():
        driver = DockerDriver("0123456789abcdef", tmp_path, url=url)
        try:
            return await driver.probe()
        finally:
            await driver.close()

    status = asyncio.run(probe())
    assert not status.available
    assert "address is not used" in status.reason
    assert "DOCKER_" in status.hint


def test_certificates_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))

    async def probe():
        driver = DockerDriver("0123456789abcdef", tmp_path, url="tcp://192.0.2.1:2376")
        try:
            return await driver.probe()
        finally:
            await driver.close()

    status = asyncio.run(probe())
    assert "ca.pem, cert.pem and key.pem" in status.reason
    assert "DOCKER_CERT_PATH" in status.hint


def test_an_engine_behind_tls_is_used_when_both_sides_prove_themselves(tmp_path, monkeypatch):
    relay.make_certificates(tmp_path / "ours")
    relay.make_certificates(tmp_path / "others", authority="somebody else")
    with relay.over_tls(engine.address(), tmp_path / "ours") as address:
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "ours"))
        with sandboxes.yard("docker", url=address) as yard, cell(yard) as one:
            assert yard.status.transport.startswith("stdio")
            assert one.run("answer = open('/pack/marker.txt').read()") == "approved"
            assert one.run("answer = 'x' * 2_000_000") == "x" * 2_000_000

        async def probe():
            driver = DockerDriver("0123456789abcdef", tmp_path, url=address)
            try:
                return await driver.probe()
            finally:
                await driver.close()

        monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path / "others"))  # an engine that we don't know
        assert not asyncio.run(probe()).available
        monkeypatch.delenv("DOCKER_TLS_VERIFY")  # a client that the engine does not know
        assert not asyncio.run(probe()).available


def test_the_packages_of_a_pack_are_carried_too():
    with sandboxes.yard("docker-stdio") as yard:
        folder = yard.base / "packages"
        (folder / "colours").mkdir(parents=True)
        (folder / "colours/__init__.py").write_text("red = 1\n")
        spec = replace(yard.spec(), packages_dir=str(folder))
        assert str(folder) in yard.driver.render(spec)["carried.json"]
        one = sandboxes.Cell(yard, spec)
        try:
            assert one.run("answer = open('/packages/colours/__init__.py').read()") == "red = 1\n"
            with pytest.raises(InsideError, match=r"Read-only|Permission"):
                one.run("open('/packages/colours/__init__.py', 'w')")
        finally:
            one.close()


def test_nothing_of_a_carried_pack_stays_in_the_engine():
    with sandboxes.yard("docker-stdio") as yard:
        with cell(yard):
            assert held_by(yard.installation) == (1, 1)
        assert held_by(yard.installation) == (0, 0)


def test_what_a_killed_host_left_of_images_goes_at_the_next_boot():
    with sandboxes.yard("docker-stdio") as yard:
        spec = yard.spec()
        parcel = yard.run(docker_parcel.send(yard.driver._engine, spec, yard.driver._image_id, approved=spec.digest))
        assert parcel.image_id.startswith("sha256:")
        assert held_by(yard.installation) == (0, 1)
        yard.run(yard.driver.remove_leftovers(yard.installation))
        assert held_by(yard.installation) == (0, 0)


def test_cleaning_up_while_packs_are_being_carried_lets_them_start():
    with sandboxes.yard("docker-stdio") as yard:
        specs = [yard.spec() for _ in range(3)]

        async def all_at_once():
            starts = [asyncio.ensure_future(yard.driver.start(spec)) for spec in specs]
            while not all(start.done() for start in starts):
                await yard.driver.remove_leftovers(yard.installation)
            for start in starts:
                await start.result().stop(0)

        yard.run(all_at_once())
        assert held_by(yard.installation) == (0, 0)


def refused(yard, spec):
    with pytest.raises(TrustError) as caught:
        yard.run(yard.driver.start(spec))
    assert caught.value.code == "copy_differs"
    assert held_by(yard.installation) == (0, 0)
    return caught.value.detail


def test_a_copy_that_is_not_the_approved_one_is_not_sent():
    with sandboxes.yard("docker-stdio") as yard:
        spec = yard.spec()
        (yard.pack / "marker.txt").write_text("something else")
        assert "the copy has the digest" in refused(yard, spec)


@pytest.mark.parametrize("change", ["content", "executable", "added"])
def test_a_copy_that_changes_on_the_way_does_not_start(monkeypatch, change):
    with sandboxes.yard("docker-stdio") as yard:
        spec = yard.spec()
        marker = yard.pack / "marker.txt"
        write = docker_parcel._write_archive

        def changing(out, spec, contents):
            # between the look and the copy, as whoever controls the folder or the engine could
            if change == "content":
                marker.write_text("APPROVED")
            elif change == "executable":
                entries = contents["/pack"].entries
                force_setattr(contents["/pack"], "entries", tuple(type(e)(e.path, True, e.size, e.sha256) for e in entries))
            else:
                entry = contents["/opt/rumi"].entries[0]
                extra = type(entry)("marker.txt", False, 8, entry.sha256)
                (Path(spec.runtime_dir) / "marker.txt").write_text("approved")
                force_setattr(contents["/opt/rumi"], "entries", (*contents["/opt/rumi"].entries, extra))
            write(out, spec, contents)

        monkeypatch.setattr(docker_parcel, "_write_archive", changing)
        assert "in the engine" in refused(yard, spec)

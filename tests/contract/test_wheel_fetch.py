"""The real downloader against an index of the tests' own: what comes, what does not, and how that is said."""

from __future__ import annotations

import concurrent.futures
import io
import os
import socket
import tarfile

import pytest

from backend_core.ecosystem.requirements import parse_lock
from backend_core.errors import HostError
from core_runtime.drivers.runtime_folder import HOST_ABI
from core_runtime.drivers.wheel_fetch import WheelFetcher
from core_runtime.rules.wheels import target_of
from tests.support import wheels
from tests.support.package_index import PackageIndex

TARGET = target_of(HOST_ABI.version, HOST_ABI.micro, HOST_ABI.extension_suffix, HOST_ABI.libc)
NAME, DATA = wheels.built("colours", "1.0", {"colours/__init__.py": "VERSION = '1.0'\n"})


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    def run(environment, lock, **limits):
        for name in [n for n in os.environ if n.startswith(("PIP_", "UV_"))]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        folder = tmp_path / "fetched"
        folder.mkdir()
        packages = parse_lock(lock.encode(), source="requirements.lock")
        assert TARGET is not None
        found = WheelFetcher(**{"timeout_s": 90.0, **limits}).fetch("alpha", packages, TARGET, folder)
        return sorted(path.name for path in found.iterdir())

    return run


def test_a_locked_wheel_comes(fetch):
    with PackageIndex({NAME: DATA}) as index:
        assert fetch(index.environment, wheels.locked(("colours", "1.0", DATA))) == [NAME]
    assert f"/files/{NAME}" in index.asked


def test_other_bytes_than_locked_are_refused(fetch):
    honest, lying = DATA, wheels.built("colours", "1.0", {"colours/__init__.py": "VERSION = 'evil'\n"})[1]
    with PackageIndex({NAME: lying}, promised={NAME: wheels.sha256(honest)}) as index, pytest.raises(HostError) as refused:
        fetch(index.environment, wheels.locked(("colours", "1.0", honest)))
    assert refused.value.code == "dependencies_refused"


def test_nothing_is_built_where_only_a_source_distribution_is_offered(fetch, tmp_path):
    canary = tmp_path / "setup-ran"
    script = f"open({str(canary)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name='colours', version='1.0')\n".encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        entry = tarfile.TarInfo("colours-1.0/setup.py")
        entry.size = len(script)
        tar.addfile(entry, io.BytesIO(script))
    with PackageIndex({"colours-1.0.tar.gz": out.getvalue()}) as index, pytest.raises(HostError) as refused:
        fetch(index.environment, wheels.locked(("colours", "1.0", out.getvalue())))
    assert refused.value.code == "dependencies_not_found"
    assert not canary.exists()


def test_a_wheel_for_another_machine_is_no_wheel(fetch):
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": ""}, tag="cp311-cp311-win_amd64")
    with PackageIndex({name: data}) as index, pytest.raises(HostError) as refused:
        fetch(index.environment, wheels.locked(("colours", "1.0", data)))
    assert refused.value.code == "dependencies_not_found"
    assert "colours==1.0" in refused.value.detail


def test_more_bytes_than_a_pack_may_have_are_not_taken(fetch):
    name, data = wheels.built("colours", "1.0", {"colours/noise.bin": os.urandom(300_000)})
    with PackageIndex({name: data}) as index, pytest.raises(HostError) as refused:
        fetch(index.environment, wheels.locked(("colours", "1.0", data)), limit_bytes=200_000)
    assert refused.value.code == "dependencies_too_large"


def test_no_registry_is_said_with_what_to_do(fetch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        environment = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"http://127.0.0.1:{unused.getsockname()[1]}/simple/", "PIP_RETRIES": "1"}
        with pytest.raises(HostError) as refused:
            fetch(environment, wheels.locked(("colours", "1.0", DATA)))
    assert refused.value.code == "dependencies_unreachable"
    assert "rumi pack fetch alpha" in refused.value.hint
    assert "wheels/" in refused.value.hint


def test_a_host_that_stops_waits_for_no_registry(tmp_path, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{silent.getsockname()[1]}/simple/")
        fetcher = WheelFetcher()
        packages = parse_lock(wheels.locked(("colours", "1.0", DATA)).encode(), source="requirements.lock")
        with concurrent.futures.ThreadPoolExecutor() as pool:
            asking = pool.submit(fetcher.fetch, "alpha", packages, TARGET, tmp_path)
            silent.accept()[0].close()  # the downloader has come this far
            fetcher.cancel()
            with pytest.raises(HostError):
                asking.result(30)


def test_a_registry_that_never_answers_costs_bounded_time(fetch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        environment = {"PIP_CONFIG_FILE": "/dev/null", "PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple/"}
        with pytest.raises(HostError) as refused:
            fetch(environment, wheels.locked(("colours", "1.0", DATA)), timeout_s=3.0)
    assert refused.value.code == "dependencies_unreachable"

"""Which transport is tried for which engine, and which addresses are not spoken to."""

from __future__ import annotations

import pytest

from core_runtime.rules import docker_config
from core_runtime.rules.docker_transport import Transport, candidates, refused_address
from core_runtime.rules.isolation import SANDBOXED_RUNTIMES
from core_runtime.rules.sandbox import SandboxSpec

UNIX = "unix:///var/run/docker.sock"
SPEC = SandboxSpec(
    pack_id="hello", generation=1, installation_id="0123456789abcdef", uid=1000, gid=1000, pack_dir="/host/pack",
    runtime_dir="/host/runtime", socket_path="/host/bus.sock", digest="0" * 64,
)  # fmt: skip


def tried(setting="auto", url=UNIX, runtime="", **info):
    return [candidate.transport.value for candidate in candidates(setting, url, info, runtime)]


def test_a_local_engine_mounts_the_socket_and_has_stdio_to_fall_back_on() -> None:
    assert tried(OperatingSystem="Debian GNU/Linux 12") == ["socket", "stdio"]


@pytest.mark.parametrize("info", [{"OperatingSystem": "Docker Desktop"}, {"Name": "docker-desktop"}, {"Name": "Colima"}])
def test_a_local_socket_into_a_virtual_machine_can_not_be_mounted_through(info: dict[str, str]) -> None:
    assert tried(**info) == ["stdio"]


@pytest.mark.parametrize("runtime", sorted(SANDBOXED_RUNTIMES))
def test_where_a_kernel_of_its_own_stands_between_stdio_is_tried_first(runtime: str) -> None:
    assert tried(runtime=runtime) == ["stdio", "socket"]
    assert tried(DefaultRuntime=runtime) == ["stdio", "socket"]
    assert tried(runtime="crun", DefaultRuntime=runtime) == ["socket", "stdio"]
    assert tried("socket", runtime=runtime) == ["socket"], "its runtime may have been told to pass sockets on"
    assert runtime in candidates("auto", UNIX, {}, runtime)[0].reason


def test_an_engine_over_a_network_gets_stdio_and_says_why() -> None:
    assert tried(url="tcp://127.0.0.1:2375") == ["stdio"]
    assert candidates("auto", "https://engine.example:2376", {})[0].reason == "the engine is reached over a network"


def test_the_operators_choice_is_the_only_candidate() -> None:
    assert tried("stdio") == ["stdio"]
    assert tried("socket", url="tcp://127.0.0.1:2375") == ["socket"]


@pytest.mark.parametrize("url", [UNIX, "tcp://127.0.0.1:2375", "tcp://[::1]:2375", "tcp://localhost:2375", "http://127.9.9.9:1"])
def test_local_addresses_are_spoken_to_in_clear(url: str) -> None:
    assert refused_address(url, tls=False) is None


@pytest.mark.parametrize(
    "url",
    ["tcp://192.0.2.1:2375", "tcp://engine.example:2375", "tcp://0.0.0.0:2375", "http://10.0.0.1", "tcp://127.0.0.1.example:1", "tcp://[::ffff:10.0.0.1]:1"],
)  # fmt: skip
def test_a_network_address_needs_tls(url: str) -> None:
    refused = refused_address(url, tls=False)
    assert refused is not None
    assert "DOCKER_TLS_VERIFY" in refused.hint
    assert refused_address(url, tls=True) is None


@pytest.mark.parametrize("url", ["ssh://host", "npipe:////./pipe/docker_engine", "nonsense", "unix:", "tcp://", "fd://3", ""])
def test_other_schemes_are_refused_by_name(url: str) -> None:
    for tls in (False, True):
        assert refused_address(url, tls=tls) is not None


def test_over_stdio_the_document_names_no_path_of_this_machine() -> None:
    document = docker_config.create_document(SPEC, "sha256:1", transport=Transport.STDIO)
    assert "/host" not in repr(document)
    assert document["HostConfig"]["Mounts"] == []
    assert "Binds" not in document["HostConfig"]
    assert document["Cmd"][-1] == "--stdio"
    assert (document["OpenStdin"], document["StdinOnce"], document["Tty"]) == (True, True, False)
    assert document["HostConfig"]["ReadonlyRootfs"] is True
    assert document["HostConfig"]["LogConfig"]["Type"] == "none"
    mounted = docker_config.create_document(SPEC, "sha256:1")
    # nothing else differs: one policy, two ways in
    for key in ("Cmd", "OpenStdin", "StdinOnce", "AttachStdin"):
        del document[key], mounted[key]
    del document["HostConfig"]["Mounts"], mounted["HostConfig"]["Mounts"]
    assert document == mounted

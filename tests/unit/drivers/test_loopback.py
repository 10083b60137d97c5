from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from backend_core.errors import HostError
from bench.ports import free_port
from core_runtime.drivers import loopback


def test_every_family_of_the_machine_is_bound_and_given_back() -> None:
    port = free_port()
    sockets = loopback.bind_port(port)
    assert {sock.family for sock in sockets} == {family for family, _ in loopback.loopback_families()}
    assert {sock.getsockname()[:2] for sock in sockets} == {(address, port) for _, address in loopback.loopback_families()}
    for sock in sockets:
        sock.close()


def test_a_machine_without_one_family_serves_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(loopback, "_FAMILIES", ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "2001:db8::1")))
    assert [address for _, address in loopback.loopback_families()] == ["127.0.0.1"]
    monkeypatch.setattr(loopback, "_FAMILIES", ((socket.AF_INET6, "2001:db8::1"),))
    with pytest.raises(HostError) as caught:
        loopback.bind_port(port)
    assert caught.value.code == "loopback_missing"


def test_a_family_that_is_there_and_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(loopback, "_ABSENT", set())
    monkeypatch.setattr(loopback, "_FAMILIES", ((socket.AF_INET6, "2001:db8::1"),))
    with pytest.raises(HostError) as caught:
        loopback.bind_port(port)
    assert caught.value.code == "loopback_failed"


def test_nothing_stays_bound_when_one_family_is_taken() -> None:
    port = free_port()
    with socket.socket(socket.AF_INET6) as squatter:
        squatter.bind(("::1", port))
        squatter.listen()
        with pytest.raises(HostError):
            loopback.bind_port(port)
        with socket.socket() as again:
            again.bind(("127.0.0.1", port))


def test_the_web_port_gives_way_but_never_to_the_api_port() -> None:
    port = free_port()
    held = loopback.bind_port(port)
    chosen, sockets = loopback.bind_first_free(port, avoid=port + 1)
    assert chosen > port + 1
    with pytest.raises(HostError) as caught:
        loopback.bind_first_free(port, avoid=0, tries=1)
    assert caught.value.code == "port_taken"
    for sock in (*held, *sockets):
        sock.close()


def test_the_command_line_socket_is_private(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    sock, give_back = loopback.bind_unix(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    give_back()
    assert not path.parent.exists()
    assert sock.fileno() == -1


def test_a_socket_left_by_a_killed_host_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run" / "api.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    _, give_back = loopback.bind_unix(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    give_back()


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError) as caught:
        loopback.bind_unix(tmp_path / "absent" / "run" / "api.sock")
    assert caught.value.code == "run_dir_failed"
    with pytest.raises(HostError) as caught:
        loopback.bind_unix(tmp_path / "long" / ("x" * 120))
    assert caught.value.code == "socket_failed"
    assert "too long" in caught.value.detail
    (tmp_path / "linked").mkdir(mode=0o700)
    (tmp_path / "linked" / "host.lock").symlink_to("elsewhere")
    with pytest.raises(HostError) as caught:
        loopback.bind_unix(tmp_path / "linked" / "api.sock")
    assert caught.value.code == "run_dir_failed"
    (tmp_path / "run" / "api.sock").mkdir(parents=True)
    (tmp_path / "run").chmod(0o700)
    with pytest.raises(HostError) as caught:
        loopback.bind_unix(tmp_path / "run" / "api.sock")
    assert caught.value.code == "socket_failed"

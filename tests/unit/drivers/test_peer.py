"""The proof of the other end, against real connections."""

from __future__ import annotations

import ipaddress
import os
import socket
from pathlib import Path

import pytest

from core_runtime.drivers import peer
from core_runtime.rules.identity import Door


@pytest.fixture(params=["127.0.0.1", "::1", "mapped"])
def pair(request: pytest.FixtureRequest):
    """(accepted, client); ``mapped`` is an IPv4 connection made through an IPv6 socket, as some runtimes do."""
    family = socket.AF_INET6 if request.param == "::1" else socket.AF_INET
    with socket.socket(family) as listener:
        listener.bind(("::1" if request.param == "::1" else "127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        if request.param == "mapped":
            client = socket.socket(socket.AF_INET6)
            client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            client.connect(("::ffff:127.0.0.1", port))
        else:
            client = socket.create_connection((request.param, port))
        accepted, _ = listener.accept()
        with accepted, client:
            yield accepted, client


def test_an_open_connection_is_proven(pair) -> None:
    accepted, _ = pair
    assert peer.prove_tcp(accepted, Door.API).uid == os.getuid()


def test_a_closed_or_half_closed_one_is_not(pair) -> None:
    accepted, client = pair
    client.shutdown(socket.SHUT_WR)
    half = peer.prove_tcp(accepted, Door.API)
    assert half.uid is None
    assert half.unproven
    client.close()
    assert peer.prove_tcp(accepted, Door.API).uid is None
    accepted.close()
    assert peer.prove_tcp(accepted, Door.API).uid is None


def test_exactly_one_row_with_both_ends(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, _ = pair
    client, server = accepted.getpeername(), accepted.getsockname()
    [(state, uid, inode)] = peer.find_rows(client, server)
    assert (state, uid) == (1, os.getuid())
    assert inode > 0
    assert peer.ask_kernel(client, server) == peer.read_tables(client, server) == [(state, uid, inode)]
    for look_up in (peer.find_rows, peer.ask_kernel, peer.read_tables):
        assert look_up((client[0], 1), server) == []
        assert [row[0] for row in look_up(client, (server[0], 1))] == []
    monkeypatch.setattr(peer, "find_rows", lambda c, s: [(1, os.getuid(), 5)] * 2)
    assert peer.prove_tcp(accepted, Door.API).uid is None
    monkeypatch.setattr(peer, "find_rows", lambda c, s: [(1, os.getuid(), 0)])
    assert peer.prove_tcp(accepted, Door.API).uid is None
    monkeypatch.setattr(peer, "find_rows", lambda c, s: [(1, peer._overflow_uid(), 5)])
    assert peer.prove_tcp(accepted, Door.API).uid is None


def test_another_machines_address_has_no_row() -> None:
    assert peer.find_rows(("192.0.2.1", 1), ("127.0.0.1", 2)) == []
    assert peer.find_rows(("::1%lo", 1), ("::1", 2)) == []


def test_a_closed_connection_is_not_established_in_either_source(pair) -> None:
    accepted, client = pair
    ends = accepted.getpeername(), accepted.getsockname()
    client.close()
    for look_up in (peer.ask_kernel, peer.read_tables):
        assert all(state != 1 for state, _, _ in look_up(*ends))


def test_an_answer_about_another_connection_is_no_row(pair) -> None:
    accepted, _ = pair
    host = peer._plain(peer._address(accepted.getsockname()))
    ports, other = b"\x00\x01\x00\x02", b"\x00\x01\x00\x03"
    body = bytes([2, 1, 0, 0]) + ports + peer._packed(host)[0] * 2 + bytes(12) + (0).to_bytes(4, "little") * 4 + (9).to_bytes(4, "little")
    answer = (16 + len(body)).to_bytes(4, "little") + (20).to_bytes(2, "little") + bytes(10) + body
    assert peer._diagnosed(answer, ports, host, host) == [(1, 0, 9)]
    assert peer._diagnosed(answer, other, host, host) == []
    assert peer._diagnosed(answer, ports, ipaddress.ip_address("127.9.9.9"), host) == []


def test_a_kernel_without_diagnostics_is_read_from_its_tables(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    accepted, client = pair

    def refuse(*_ends: object) -> None:
        raise PermissionError

    monkeypatch.setattr(peer, "ask_kernel", refuse)
    assert peer.prove_tcp(accepted, Door.API).uid == os.getuid()
    client.shutdown(socket.SHUT_WR)
    assert peer.prove_tcp(accepted, Door.API).uid is None


def test_an_unreadable_table_proves_nothing(pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accepted, _ = pair
    monkeypatch.setattr(peer, "ask_kernel", peer.read_tables)
    monkeypatch.setattr(peer, "_TABLES", (str(tmp_path),))
    found = peer.prove_tcp(accepted, Door.API)
    assert found.uid is None
    assert "could not be read" in found.unproven
    monkeypatch.setattr(peer, "_TABLES", (str(tmp_path / "absent"),))
    assert peer.prove_tcp(accepted, Door.API).uid is None


def test_other_systems_prove_nothing(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    assert peer.prove_tcp(pair[0], Door.API).uid is None


def test_unix_credentials_are_those_of_connect() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer.prove_unix(ours).uid == os.getuid()
    assert peer.prove_unix(ours).uid is None


def test_addresses_as_the_kernel_spells_them() -> None:
    [v4, v6] = peer._spellings(("127.0.0.1", 80), ("127.0.0.1", 443))
    assert v4 == b"0100007F:0050 0100007F:01BB"
    assert v6 == b"0000000000000000FFFF00000100007F:0050 0000000000000000FFFF00000100007F:01BB"
    assert peer._spellings(("::1", 1, 0, 0), ("::1", 2, 0, 0)) == [b"00000000000000000000000001000000:0001 00000000000000000000000001000000:0002"]

"""Attacks on the ways out: every trick with names, addresses, bytes and budgets, one named test for each.

The broker and its dialer run in a network namespace where public addresses are served by the tests themselves, so no
rule about addresses is weakened for any of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from backend_core.errors import HostError
from backend_core.files import TEMPORARY_PREFIX
from core_runtime.egress import fetching, tunnel
from core_runtime.generations import ACTING, Standing, acting
from core_runtime.rules.addresses import Machine, Reach, dial_fault, judge
from core_runtime.rules.client_hello import ClientHello, Fault, Hello
from core_runtime.rules.egress import (
    Refused,
    Target,
    address_fault,
    covering_domain,
    domain_fault,
    parse_host,
    parse_target,
)
from core_runtime.rules.fetch import parse_injection, parse_url, path_fault, secret_fault
from tests.support.certificates import Authority
from tests.support.documents import ROOT
from tests.support.egress import PACK, Stand, client_hello, stand, with_extension
from tests.support.networks import (
    GATEWAY,
    HOST,
    METADATA,
    NEIGHBOUR6,
    OTHER,
    PRIVATE,
    WEB,
    WEB6,
    Internet,
    NameServer,
    with_name_server,
)
from tests.support.raw_agent import CREDIT, END, ERROR, ITEM, eventually
from tests.support.web import WebServer

netns = pytest.mark.netns
NAME = "api.example.com"
NETWORK = {"type": "network", "domains": [NAME], "ports": [443, 80, 9000]}
FETCH = {"type": "http.fetch", "hosts": [NAME], "methods": ["GET", "POST"], "path_prefixes": ["/v1", "/redirect"]}
ZONE = {NAME: [WEB]}

# --- one parser for the decision and the dial


@pytest.mark.parametrize(
    "host",
    ["127.1", "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "017700000001", "127.0.0.01", "1.2.3", "1.2.3.4.5",
     "1.2.3.256", "256", "0", "0x", "1.2.3.4..", "1.2.3.0x4", "[127.0.0.1]"],
)  # fmt: skip
def test_addresses_in_other_number_bases(host: str) -> None:
    assert isinstance(parse_host(host), Refused), host


@pytest.mark.parametrize(
    "host",
    ["", " ", "a b.example", "api.example.com ", "api.example.com\n", "api.example.com\0.evil", "user@api.example.com",
     "api.example.com@evil.example", "api.example.com#x", "api.example.com/x", "api.example.com?x", "api.example.com\\x",
     "api%2eexample.com", "%61pi.example.com", "api.example.com..", ".api.example.com", "api..example.com", "-a.example",
     "a-.example", "x" * 64 + ".example", ("a" * 60 + ".") * 5 + "example", "fe80::1%eth0", "[fe80::1%25eth0]", "::1]",
     "[::1", "api.example.com:443", "аpi.example.com", "api.example。com", "１.2.3.4", "localhost", "intranet",
     "x.localhost", "printer.local", "metadata.google.internal", "router.lan", "1.0.0.127.in-addr.arpa", "*.example.com",
     None, 5, b"api.example.com", ["api.example.com"]],
)  # fmt: skip
def test_hosts_with_more_than_one_reading(host: Any) -> None:
    assert isinstance(parse_target(host, 443), Refused), host


@pytest.mark.parametrize("port", [0, -1, 65536, "443", True, None, 4.5])
def test_ports_that_are_none(port: Any) -> None:
    assert isinstance(parse_target(NAME, port), Refused)


def test_one_trailing_dot_and_case_change_nothing() -> None:
    assert parse_target("API.Example.COM.", 443) == Target(443, name=NAME)


@pytest.mark.parametrize(
    ("address", "reach"),
    [("0.0.0.0", Reach.NEVER), ("0.1.2.3", Reach.NEVER), ("127.0.0.1", Reach.PRIVATE), ("127.255.0.9", Reach.PRIVATE),
     ("10.1.2.3", Reach.PRIVATE), ("172.16.0.1", Reach.PRIVATE), ("172.31.255.255", Reach.PRIVATE), ("172.32.0.1", Reach.PUBLIC),
     ("192.168.0.1", Reach.PRIVATE), ("100.64.0.1", Reach.PRIVATE), ("100.127.255.255", Reach.PRIVATE), ("100.128.0.1", Reach.PUBLIC),
     ("169.254.0.1", Reach.NEVER), ("169.254.169.254", Reach.NEVER), ("169.254.170.2", Reach.NEVER), ("100.100.100.200", Reach.NEVER),
     ("168.63.129.16", Reach.NEVER), ("192.0.0.192", Reach.NEVER), ("192.0.0.1", Reach.NEVER), ("192.0.2.1", Reach.PRIVATE),
     ("192.88.99.1", Reach.NEVER), ("198.18.0.1", Reach.PRIVATE), ("224.0.0.1", Reach.NEVER), ("239.255.255.255", Reach.NEVER),
     ("240.0.0.1", Reach.NEVER), ("255.255.255.255", Reach.NEVER), ("11.8.0.10", Reach.PUBLIC),
     ("::", Reach.NEVER), ("::1", Reach.PRIVATE), ("::ffff:127.0.0.1", Reach.NEVER), ("::ffff:11.8.0.10", Reach.NEVER),
     ("::127.0.0.1", Reach.NEVER), ("64:ff9b::7f00:1", Reach.NEVER), ("64:ff9b:1::1", Reach.NEVER), ("2002:7f00:1::", Reach.NEVER),
     ("2001::1", Reach.NEVER), ("2001:20::1", Reach.NEVER), ("2001:db8::1", Reach.PRIVATE), ("3fff::1", Reach.PRIVATE),
     ("fe80::1", Reach.NEVER), ("fec0::1", Reach.NEVER), ("fc00::1", Reach.PRIVATE), ("fd00:ec2::254", Reach.NEVER),
     ("fd20:ce::254", Reach.NEVER), ("ff02::1", Reach.NEVER), ("4000::1", Reach.NEVER), ("2a0b:8::10", Reach.PUBLIC)],
)  # fmt: skip
def test_every_class_of_address(address: str, reach: Reach) -> None:
    found = parse_host(address)
    assert not isinstance(found, str | Refused)
    assert judge(found)[0] is reach


def test_own_ports_and_own_addresses() -> None:
    interfaces = [("11.7.0.2", "255.255.255.0"), ("192.168.1.2", None), ("fe80::1%eth0", "ffff:ffff:ffff:ffff::"), ("2a0b:7::2", "ffff:ffff:ffff:ffff::"), ("10.8.0.1", "0.0.0.0")]
    machine = Machine.of(interfaces, {8765, 5000})
    for text in ("127.0.0.1", "127.9.9.9", "::1", "11.7.0.2", "192.168.1.2"):
        address = parse_host(text)
        assert not isinstance(address, str | Refused)
        for port in (8765, 5000, 2375, 2376):
            assert "belongs to its host" in dial_fault(address, port, machine, literal=True), text
        assert dial_fault(address, 5432, machine, literal=True) == ""
        assert dial_fault(address, 5432, machine, literal=False)


@pytest.mark.parametrize(
    "text",
    ["*", "*.", "*.com", "**.example.com", "*example.com", "a.*.com", "api.example.com:443", "https://api.example.com",
     "Api.example.com", "api.example.com.", "127.0.0.1", "*.127.0.0.1", "localhost", "*.localhost", "x.internal", "bücher.example"],
)  # fmt: skip
def test_domains_that_nobody_may_grant(text: str) -> None:
    assert domain_fault(text)


@pytest.mark.parametrize(
    "text",
    ["169.254.169.254:80", "0.0.0.0:80", "[::ffff:10.0.0.1]:80", "[fe80::1]:80", "255.255.255.255:80", "224.0.0.1:80",
     "10.0.0.1", "10.0.0.1:0", "10.0.0.1:080", "10.0.0.1:99999", "010.0.0.1:80", "::1:80", "host.example.com:80", "[::0001]:80",
     "[fd00:ec2::254]:80", "10.0.0.0/8:80", "10.0.0.1:80-90"],
)  # fmt: skip
def test_addresses_that_nobody_may_grant(text: str) -> None:
    assert address_fault(text)


def test_wildcards_cover_what_lies_below_and_nothing_else() -> None:
    assert covering_domain(["*.example.com"], "a.b.example.com") == "*.example.com"
    for name in ("example.com", "evilexample.com", "example.com.evil.org", "a.example.org", ""):
        assert covering_domain(["*.example.com"], name) == ""


# --- what is asked over http.fetch


@pytest.mark.parametrize(
    "path",
    ["/v1/../admin", "/v1/./x", "/v1/%2e%2e/admin", "/v1/.%2E/x", "/v1/%2f..%2fadmin", "/v1\\..\\admin", "/v1/%5c..", "/v1//x",
     "//evil.example", "/v1/%252e%252e/", "/v1/%00", "/v1/x%", "/v1/x%2", "/v1/ü", "/v1/a b", "/v1/..;/admin", "/v1/.;/x", "v1", ""],
)  # fmt: skip
def test_paths_with_more_than_one_reading(path: str) -> None:
    assert path_fault(path)


@pytest.mark.parametrize(
    "url",
    ["https://user@api.example.com/", "https://api.example.com:8443/", "https://api.example.com:/", "https://127.0.0.1/",
     "https://[::1]/", "ftp://api.example.com/", "//api.example.com/", "https:/api.example.com/", "https://api.example.com\\@evil/",
     "https://api.example.com\t/", "https://api.example.com/\r\nX: y", "https://api.example.com/?a b", "https://", "https:///x", "x" * 9000],
)  # fmt: skip
def test_urls_with_more_than_one_reading(url: str) -> None:
    assert isinstance(parse_url(url), Refused)


@pytest.mark.parametrize(
    "text",
    ["Host: {K}", "Content-Length: {K}", "Transfer-Encoding: {K}", "Connection: {K}", "X-Key", "X-Key: value", "X-Key: {A}{B}",
     "X-Key: {}", "X Key: {K}", "X-Key: {K}\r\nX: y", "X-Key: {a b}"],
)  # fmt: skip
def test_secrets_that_nobody_may_inject(text: str) -> None:
    assert secret_fault(text)
    assert parse_injection("Authorization: Bearer {API_KEY}")


# --- the name inside TLS


def test_client_hellos_are_read_in_any_cut() -> None:
    hello = client_hello(NAME)
    for size in (1, 2, 3, 7, 100, len(hello)):
        parser = ClientHello()
        answers = [parser.feed(hello[at : at + size]) for at in range(0, len(hello), size)]
        assert answers[-1] == Hello(NAME)
        assert set(answers[:-1]) <= {None}
    records = b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in (hello[5:9], hello[9:60], hello[60:]))
    assert ClientHello().feed(records) == Hello(NAME)


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"\x15\x03\x01\0\2\1\0", b"\x16\x02\x01\0\5hello", b"\x16\x03\x01\0\0", b"\x16\x03\x01\xff\xff",
     b"\x16\x03\x01\0\5\x02\0\0\1\0", b"\x16\x03\x01\0\4\x01\0\0\0", b"\x16\x03\x01\0\x08\x01\0\0\4\3\3\0\0"],
)  # fmt: skip
def test_what_is_no_client_hello(data: bytes) -> None:
    assert isinstance(ClientHello().feed(data), Fault)


def test_hidden_second_and_endless_names() -> None:
    hello = client_hello(NAME)
    name = b"evil.example"
    server_name = (len(name) + 3).to_bytes(2, "big") + b"\0" + len(name).to_bytes(2, "big") + name
    assert isinstance(ClientHello().feed(with_extension(hello, 0xFE0D, b"\0" * 40)), Fault)
    assert isinstance(ClientHello().feed(with_extension(hello, 0, server_name)), Fault)
    assert ClientHello().feed(client_hello(None)) == Hello("")
    parser = ClientHello()
    block = b"\x16\x03\x01\x3f\xff" + b"\x01\xff\xff\xff" + bytes(0x3FFB)
    assert any(isinstance(parser.feed(block if n == 0 else b"\x16\x03\x01\x3f\xff" + bytes(0x3FFF)), Fault) for n in range(6))


# --- connections


@pytest.fixture(scope="module")
def net() -> Iterator[Internet]:
    with Internet() as made:
        yield made


@pytest.fixture
def story(net: Internet, tmp_path: Path) -> Callable[..., None]:
    """Run ``tell(stand)`` in the host's namespace, on the host's event loop."""

    def run(tell: Callable[[Stand], Coroutine[Any, Any, None]], permissions: list[dict[str, Any]], zone: Any = ZONE, **options: Any) -> None:
        async def told() -> None:
            async with asyncio.timeout(60), stand(tmp_path, permissions, zone, **options) as made:
                await tell(made)

        def here() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(told())

        net.in_host(here)

    return run


class Sink:
    """A server that counts what it gets, answers ``greeting`` and then does what ``behave`` says."""

    def __init__(self, net: Internet, address: str, port: int, *, greeting: bytes = b"", flood: bool = False, echo: bool = False) -> None:
        self.received = b""
        self.accepted = 0
        self._greeting, self._flood, self._echo = greeting, flood, echo
        self._sock = net.listen(address, port)
        self._peers: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            self.accepted += 1
            self._peers.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer.sendall(self._greeting)
            while self._flood:
                peer.sendall(bytes(65536))
            while data := peer.recv(65536):
                self.received += data
                peer.sendall(data if self._echo else b"")
            if self._echo:
                peer.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for sock in (self._sock, *self._peers):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


@pytest.fixture
def sink(net: Internet) -> Iterator[Callable[..., Sink]]:
    made: list[Sink] = []

    def make(address: str = WEB, port: int = 443, **options: Any) -> Sink:
        made.append(Sink(net, address, port, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def https(net: Internet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    fetching._tls.cache_clear()
    server = WebServer(net, WEB, 443, authority.server_context(NAME))
    yield server
    server.close()
    fetching._tls.cache_clear()


@netns
def test_a_granted_name_passes_and_is_recorded(story: Any, sink: Any) -> None:
    server = sink(greeting=b"hello")

    async def tell(s: Stand) -> None:
        number, up = await s.open(NAME)
        assert (await s.item(number))[3] == b"hello"
        hello = client_hello(NAME)
        s.agent.send(ITEM, up, [], hello)
        await eventually(lambda: server.received == hello)
        s.cancel(number)
        s.agent.send(END, up, None)
        [ended] = await eventually(lambda: s.records("egress.ended"))
        [opened] = s.records("egress.opened")
        assert (opened["pack_id"], opened["target"], opened["addresses"]) == (PACK, f"{NAME}:443", [WEB])
        assert (ended["bytes_down"], ended["bytes_up"], ended["address"], ended["cause"]) == (5, len(server.received), WEB, "given_up")
        assert s.audit.verify().ok
        assert s.rights.used == [NAME]

    story(tell, [NETWORK])


@netns
def test_bytes_pass_both_ways_to_a_clean_end(story: Any, sink: Any) -> None:
    server = sink(port=80, echo=True)
    data = bytes(range(256)) * 4096

    async def tell(s: Stand) -> None:
        number, up = await s.open(NAME, 80)
        back, credit, at = b"", 16, 0
        while len(back) < len(data):
            while credit and at < len(data):
                s.agent.send(ITEM, up, [], data[at : at + 32768])
                credit, at = credit - 1, at + 32768
            frame = await s.agent.read()
            if frame[0] == CREDIT and frame[1] == up:
                credit += frame[2]
            elif frame[0] == ITEM and frame[1] == number:
                back += frame[3]
                s.agent.send(CREDIT, number, 1)
            else:
                raise AssertionError(frame)
        s.agent.send(END, up, None)
        assert await s.end(number) == ""
        assert back == server.received == data
        [ended] = await eventually(lambda: s.records("egress.ended"))
        assert (ended["bytes_up"], ended["bytes_down"], ended["cause"]) == (len(data), len(data), "closed")

    story(tell, [NETWORK])


@netns
@pytest.mark.parametrize(
    ("answers", "why"),
    [([PRIVATE], "private"), ([METADATA], "metadata"), (["127.0.0.1"], "loopback"), ([HOST], "this machine"), ([GATEWAY], "part of"), ([NEIGHBOUR6], "part of"), (["::1"], "loopback"),
     (["::ffff:127.0.0.1"], "IPv6 form"), (["64:ff9b::a09:1"], "translator"), ([WEB, PRIVATE], "private"), (["0.0.0.0"], "unspecified")],
)  # fmt: skip
def test_names_that_lead_inside(story: Any, sink: Any, answers: list[str], why: str) -> None:
    servers = [sink(PRIVATE, 443), sink(METADATA, 443), sink(WEB, 443)]

    async def tell(s: Stand) -> None:
        assert await s.refused(NAME) == "egress.address_refused"
        [record] = s.records("egress.refused")
        assert (record["code"], record["target"]) == ("address_refused", f"{NAME}:443")
        assert why in record["reason"]
        assert s.records("egress.opened") == []

    story(tell, [NETWORK], {NAME: answers})
    assert [server.accepted for server in servers] == [0, 0, 0]


@netns
def test_a_name_that_changes_its_answer_is_dialled_where_it_was_checked(story: Any, sink: Any) -> None:
    """Rebinding: one look-up for each connection, and the address of that look-up is the one that is dialled."""
    good, bad = sink(WEB, 443, greeting=b"good"), sink(PRIVATE, 443, greeting=b"bad")

    asked: list[str] = []

    class Rebinding:
        async def resolve(self, name: str, timeout_s: float) -> Any:
            asked.append(name)
            return tuple(parse_host(text) for text in ([WEB] if len(asked) % 2 else [PRIVATE]))

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        assert (await s.item(number))[3] == b"good"
        assert await s.refused(NAME) == "egress.address_refused"
        assert len(asked) == 2

    story(tell, [NETWORK], resolver=Rebinding())
    assert (good.accepted, bad.accepted) == (1, 0)


@netns
@pytest.mark.parametrize(
    ("host", "port"), [("evil.example", 443), (NAME, 22), (f"x.{NAME}", 443), (WEB, 443), (PRIVATE, 443), (f"{NAME}.evil.example", 443)]
)
def test_what_is_not_granted_is_neither_looked_up_nor_dialled(story: Any, sink: Any, host: str, port: int) -> None:
    server = sink(WEB, 443)

    async def tell(s: Stand) -> None:
        assert await s.refused(host, port) == "denied"
        assert s.names.asked == []

    story(tell, [NETWORK], {**ZONE, "evil.example": [WEB]})
    assert server.accepted == 0


@netns
def test_a_literal_grant_reaches_that_address_and_port_only(story: Any, sink: Any) -> None:
    sink(PRIVATE, 5432, greeting=b"lan")

    async def tell(s: Stand) -> None:
        number, _ = await s.open(PRIVATE, 5432)
        assert (await s.item(number))[3] == b"lan"
        assert await s.refused(PRIVATE, 5433) == "denied"
        assert s.names.asked == []

    story(tell, [{"type": "network", "addresses": [f"{PRIVATE}:5432"], "ports": [443]}])


@netns
@pytest.mark.parametrize("address", ["127.0.0.1:8765", "127.0.0.1:5000", f"{HOST}:8765", "127.0.0.1:2375", "[::1]:8765", f"{METADATA}:80"])
def test_not_even_a_literal_grant_reaches_the_hosts_own_ports_or_metadata(story: Any, address: str) -> None:
    host, _, port = address.rpartition(":")

    async def tell(s: Stand) -> None:
        assert await s.refused(host, int(port)) == "egress.address_refused"

    story(tell, [{"type": "network", "addresses": [address]}], own_ports=frozenset({8765, 5000}))


@netns
@pytest.mark.parametrize(
    "first",
    [client_hello("evil.example"), client_hello(None), with_extension(client_hello(NAME), 0xFE0D, b"\0" * 40),
     b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"\x16\x03\x01\0\0"],
    ids=["other-name", "no-name", "encrypted", "no-tls", "malformed"],
)  # fmt: skip
def test_nothing_leaves_for_another_server_name(story: Any, sink: Any, first: bytes) -> None:
    server = sink()

    async def tell(s: Stand) -> None:
        number, up = await s.open(NAME)
        for at in range(0, len(first), 50):
            s.agent.send(ITEM, up, [], first[at : at + 50])
        assert await s.end(number) in {"egress.sni_mismatch", "egress.tls_required"}
        [ended] = await eventually(lambda: s.records("egress.ended"))
        assert ended["bytes_up"] == 0

    story(tell, [NETWORK])
    assert server.received == b""


@netns
def test_tls_for_another_name_on_a_port_without_tls(story: Any, sink: Any) -> None:
    server = sink(port=80)

    async def tell(s: Stand) -> None:
        number, up = await s.open(NAME, 80)
        s.agent.send(ITEM, up, [], client_hello("evil.example"))
        assert await s.end(number) == "egress.sni_mismatch"
        number, up = await s.open(NAME, 80)
        s.agent.send(ITEM, up, [], b"GET / HTTP/1.1\r\n\r\n")
        await eventually(lambda: server.received == b"GET / HTTP/1.1\r\n\r\n")

    story(tell, [NETWORK])


@netns
def test_redirects_are_answers_and_never_carry_the_secret_elsewhere(story: Any, https: WebServer, sink: Any) -> None:
    elsewhere = sink(OTHER, 443)

    async def tell(s: Stand) -> None:
        head, _ = await s.fetch(f"https://{NAME}/redirect?to=https://evil.example/steal")
        assert head["status"] == 302
        assert ["Location", "https://evil.example/steal"] in head["headers"]
        assert await s.refused("", operation="http.fetch", url="https://evil.example/steal") == "denied"
        assert s.names.asked == [NAME]

    fetch = {**FETCH, "secrets": ["X-Key: {K}"]}
    story(tell, [fetch], {**ZONE, "evil.example": [OTHER]}, secrets={"K": "s3cret"})
    assert [seen[3]["x-key"] for seen in https.seen] == ["s3cret"]
    assert elsewhere.accepted == 0


@netns
def test_a_secret_is_filled_in_by_the_host_and_never_by_the_pack(story: Any, https: WebServer) -> None:
    async def tell(s: Stand) -> None:
        head, data = await s.fetch(f"https://{NAME}/v1/x", body=b"body", method="POST", headers=[["X-Mine", "1"]])
        assert (head["status"], json.loads(data)["body"]) == (200, "body")
        for name in ("authorization", "AUTHORIZATION"):
            code = await s.refused("", operation="http.fetch", url=f"https://{NAME}/v1/x", headers=[[name, "Bearer mine"]])
            assert code == "egress.secret_header"
        for bad in ([["X: y", "z"]], [["X", "a\r\nAuthorization: b"]], [["", "x"]], [["X", 5]], "X: y", [["X"]]):
            assert await s.refused("", operation="http.fetch", url=f"https://{NAME}/v1/x", headers=bad) == "egress.headers_invalid"
        everything = json.dumps([s.audit.tail(500), s.broker.view(PACK), [i.as_dict() for i in s.rig.diagnostics.issues()]], default=str)
        assert "s3cret" not in everything

    fetch = {**FETCH, "secrets": ["Authorization: Bearer {K}"]}
    story(tell, [fetch], secrets={"K": "s3cret"})
    [(_, method, target, headers, _)] = https.seen
    assert (method, target, headers["authorization"], headers["x-mine"]) == ("POST", "/v1/x", "Bearer s3cret", "1")


@netns
@pytest.mark.parametrize("value", ["two\r\nX-Injected: 1", "nul\0", "ünicode"])
def test_a_secret_that_would_split_the_request_is_not_sent(story: Any, https: WebServer, value: str) -> None:
    async def tell(s: Stand) -> None:
        assert await s.refused("", operation="http.fetch", url=f"https://{NAME}/v1/x") == "secret_unusable"

    story(tell, [{**FETCH, "secrets": ["X-Key: {K}"]}], secrets={"K": value})
    assert https.seen == []


@netns
def test_methods_and_paths_beyond_the_grant(story: Any, https: WebServer) -> None:
    async def tell(s: Stand) -> None:
        for args in ({"method": "DELETE"}, {"method": "TRACE"}, {"method": "CONNECT"}, {"method": "GET\r\nX: y"}, {"url": f"https://{NAME}/admin"},
                     {"url": f"https://{NAME}/v1/../admin"}, {"url": f"https://{NAME}/v1%2f..%2fadmin"}, {"url": f"https://{NAME}/v10"}):  # fmt: skip
            code = await s.refused("", operation="http.fetch", **{"url": f"https://{NAME}/v1/x", **args})
            assert code in {"denied", "egress.method_refused", "egress.path_refused"}, args

    story(tell, [FETCH])
    assert https.seen == []


@netns
def test_a_fetched_host_is_reached_in_no_other_way(story: Any, https: WebServer) -> None:
    async def tell(s: Stand) -> None:
        assert await s.refused(NAME, 443) == "fetch_only"
        assert await s.refused(NAME, 80) == "fetch_only"

    story(tell, [FETCH, NETWORK])
    assert https.connections == 0


@netns
def test_a_certificate_for_another_name_is_refused(story: Any, https: WebServer) -> None:
    async def tell(s: Stand) -> None:
        number = s.ask("http.fetch", url="https://other.example.com/v1")
        frame = await s.agent.answer(number)
        assert (frame[0], frame[2]) == (ERROR, "tls_failed")

    story(tell, [{**FETCH, "hosts": ["other.example.com"]}], {"other.example.com": [WEB]})
    assert https.seen == []


@netns
def test_answers_and_bodies_beyond_their_limits(story: Any, https: WebServer) -> None:
    async def tell(s: Stand) -> None:
        number, up = await s.open("", operation="http.fetch", url=f"https://{NAME}/bytes/2000000")
        s.agent.send(END, up, None)
        assert await s.end(number) == "egress.budget.response_bytes"
        number, up = await s.open("", operation="http.fetch", url=f"https://{NAME}/v1", method="POST", length=None)
        for _ in range(5):
            s.agent.send(ITEM, up, [], bytes(30_000))
        assert await s.end(number) == "egress.request_too_large"
        number, up = await s.open("", operation="http.fetch", url=f"https://{NAME}/v1", method="POST", length=10)
        s.agent.send(ITEM, up, [], b"short")
        s.agent.send(END, up, None)
        assert await s.end(number) == "egress.body_invalid"

    story(tell, [{**FETCH, "path_prefixes": ["/"]}], response_bytes=1_000_000, request_bytes=100_000)


@netns
def test_an_endless_head_of_an_answer(story: Any, https: WebServer) -> None:
    async def tell(s: Stand) -> None:
        number, up = await s.open("", operation="http.fetch", url=f"https://{NAME}/drip")
        s.agent.send(END, up, None)
        assert await s.end(number) in {"timeout", "answer_malformed"}

    story(tell, [{**FETCH, "path_prefixes": ["/"]}], total_s=1.5)


@netns
def test_a_silent_server_does_not_hold_a_connection_for_ever(story: Any, sink: Any) -> None:
    sink()

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        assert await s.end(number) == "timeout"
        [ended] = await eventually(lambda: s.records("egress.ended"))
        assert ended["cause"] == "idle"
        assert s.broker.view(PACK)["connections"] == []

    story(tell, [NETWORK], idle_s=0.5)


async def at_rest(s: Stand) -> int:
    """Bytes that came down, once no more come."""
    seen = -1
    while seen != (now := s.broker.view(PACK)["connections"][0]["bytes_down"]):
        seen = now
        await asyncio.sleep(0.2)
    return seen


@netns
def test_a_pack_that_never_reads_costs_bounded_memory(story: Any, sink: Any) -> None:
    sink(flood=True)

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        await eventually(lambda: s.broker.view(PACK)["connections"][0]["bytes_down"] >= 16 * 32 * 1024 / 2)
        first = await at_rest(s)
        assert first <= 17 * 32 * 1024
        s.agent.send(CREDIT, number, 4_000_000_000)
        await eventually(lambda: s.broker.view(PACK)["connections"][0]["bytes_down"] > first)
        assert await at_rest(s) <= first + 17 * 32 * 1024
        s.cancel(number)

    story(tell, [NETWORK])


@netns
@pytest.mark.parametrize("item", [bytes(32 * 1024 + 1), b"", "text", {"a": 1}, None])
def test_items_that_no_channel_carries(story: Any, sink: Any, item: Any) -> None:
    sink()

    async def tell(s: Stand) -> None:
        _, up = await s.open(NAME)
        s.agent.send(ITEM, up, [], item)
        await s.agent.ended()

    story(tell, [NETWORK])


@netns
def test_more_items_than_were_granted(story: Any, sink: Any) -> None:
    sink()

    async def tell(s: Stand) -> None:
        _, up = await s.open(NAME)
        for _ in range(64):
            s.agent.send(ITEM, up, [], b"\x16\x03\x01\x3f\xff")
        await s.agent.ended()
        assert "bus_protocol" in {issue.code for issue in s.rig.diagnostics.issues()}

    story(tell, [NETWORK])


@netns
def test_another_packs_channel_is_out_of_reach(story: Any, sink: Any) -> None:
    server = sink(port=80)

    async def tell(s: Stand) -> None:
        _, up = await s.open(NAME, 80)
        other, _ = await s.rig.agent("other")
        other.send(ITEM, up, [], b"forged")
        other.send(END, up, None)
        s.agent.send(ITEM, up, [], b"mine")
        await eventually(lambda: server.received == b"mine")
        issues = [(issue.code, issue.subject) for issue in s.rig.diagnostics.issues()]
        assert ("stray_answer", "other") in issues

    story(tell, [NETWORK])


@netns
def test_taking_the_right_away_ends_what_is_open(story: Any, sink: Any) -> None:
    sink(greeting=b"x")

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        await s.item(number)
        s.rights.give([])
        s.broker.recheck(PACK)
        assert await s.end(number) == "revoked"
        assert await s.refused(NAME) == "denied"

    story(tell, [NETWORK])


@netns
def test_the_right_is_that_of_the_generation_that_asked(story: Any, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While two generations of a Pack run, each is judged by its own grant, at the opening and afterwards."""
    sink(greeting=b"x")
    standing = Standing(PACK)
    judged: list[tuple[str, bool]] = []

    async def tell(s: Stand) -> None:
        serve, check, still = s.broker.network, s.rights.check, s.rights.still

        async def by_its_right(*args: Any) -> None:
            with acting(standing):
                await serve(*args)

        def noted(name: str, judge: Callable[..., Any]) -> Callable[..., Any]:
            def ask(*args: Any, **params: Any) -> Any:
                judged.append((name, ACTING.get() is standing))
                return judge(*args, **params)

            return ask

        monkeypatch.setattr(s.rights, "check", noted("check", check))
        monkeypatch.setattr(s.rights, "still", noted("still", still))
        s.rig.bus.channels["network.connect"] = by_its_right
        number, _ = await s.open(NAME)
        await s.item(number)
        s.broker.recheck(PACK)
        assert set(judged) == {("check", True), ("still", True)}

    story(tell, [NETWORK])


@netns
def test_a_right_until_a_time_ends_with_it(story: Any, sink: Any) -> None:
    sink(greeting=b"x")

    async def tell(s: Stand) -> None:
        s.rights.give([{**NETWORK, "mode": "until", "until": time.time() + 0.8}])
        number, _ = await s.open(NAME)
        await s.item(number)
        assert await s.end(number) == "revoked"

    story(tell, [NETWORK])


@netns
def test_one_use_is_one_connection(story: Any, sink: Any) -> None:
    sink(greeting=b"x")

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        await s.item(number)
        s.broker.recheck(PACK)
        assert await s.refused(NAME) == "denied"
        assert len(s.broker.view(PACK)["connections"]) == 1

    story(tell, [{**NETWORK, "mode": "once"}])


@netns
def test_connections_end_with_their_pack(story: Any, sink: Any) -> None:
    sink(greeting=b"x")

    async def tell(s: Stand) -> None:
        await s.open(NAME)
        await s.agent.close()
        await eventually(lambda: s.broker.view(PACK)["connections"] == [])
        assert len(await eventually(lambda: s.records("egress.ended"))) == 1

    story(tell, [NETWORK])


@netns
def test_budgets_of_bytes_connections_and_look_ups(story: Any, sink: Any) -> None:
    sink(flood=True)

    async def tell(s: Stand) -> None:
        first, _ = await s.open(NAME)
        await s.open(NAME)
        assert await s.refused(NAME) == "egress.budget.connections"
        assert await s.end(first) == "egress.budget.bytes_per_hour"
        await eventually(lambda: len(s.broker.view(PACK)["connections"]) <= 1)
        assert await s.refused(NAME) in {"egress.budget.bytes_per_hour", "egress.budget.connections"}
        [issue] = [issue for issue in s.rig.diagnostics.issues() if issue.code == "egress_budget"]
        assert issue.subject == PACK
        assert "user_data/egress.json" in json.dumps(issue.as_dict())

    story(tell, [NETWORK], connections=2, bytes_per_hour=3_000_000)


@netns
def test_look_ups_are_limited_so_that_names_carry_little_data(story: Any) -> None:
    """Tunnelling over DNS: only granted names are asked for, and only so many a minute."""

    async def tell(s: Stand) -> None:
        codes = [await s.refused(f"data-{n}.example.org") for n in range(8)]
        assert codes[:5] == ["name_unknown"] * 5
        assert set(codes[5:]) == {"egress.budget.lookups_per_minute"}
        assert len(s.names.asked) == 5
        assert await s.refused("data.evil.example") == "denied"
        assert len(s.names.asked) == 5

    story(tell, [{"type": "network", "domains": ["*.example.org"]}], {}, lookups_per_minute=5)


def _spend_and_die(folder: Path, spend: Callable[[Stand], Coroutine[Any, Any, None]], **budgets: Any) -> Path:
    """The files that a host leaves that is killed when ``spend`` is done: no copy is written at an orderly end."""
    left = folder / "left"

    async def main() -> None:
        async with stand(folder / "first", [{"type": "network", "domains": ["*.example.org"]}], {}, **budgets) as s:
            await spend(s)
            shutil.copytree(folder / "first/permissions", left / "permissions")

    (folder / "first").mkdir()
    asyncio.run(main())
    return left


@pytest.mark.parametrize("spent", [1, 2, 19, 20])
def test_a_host_that_is_killed_gives_no_budget_back(tmp_path: Path, spent: int) -> None:
    async def ask(s: Stand, times: int) -> int:
        """How many were looked up."""
        codes = [await s.refused(f"n{n}.example.org") for n in range(times)]
        assert set(codes) <= {"name_unknown", "egress.budget.lookups_per_minute", "egress.budget.connections_per_minute"}
        return codes.count("name_unknown")

    async def spend(s: Stand) -> None:
        assert await ask(s, spent) == spent

    for budget in ("lookups_per_minute", "connections_per_minute"):
        folder = tmp_path / budget[0]  # short: the socket's path counts from the root
        folder.mkdir()
        left = _spend_and_die(folder, spend, **{budget: 20})

        async def again() -> None:
            async with stand(left, [{"type": "network", "domains": ["*.example.org"]}], {}, **{budget: 20}) as s:  # noqa: B023 - run at once
                assert 20 - spent - 20 // 16 <= await ask(s, 20) <= 20 - spent

        asyncio.run(again())


@netns
def test_bytes_stay_spent_when_the_host_is_killed(tmp_path: Path, net: Internet, sink: Any) -> None:
    sink(flood=True)
    budgets = {"bytes_per_hour": 3_000_000, "bytes_per_hour_and_host": 2_000_000}

    async def main() -> None:
        async with stand(tmp_path, [NETWORK], ZONE, **budgets) as s:
            first, _ = await s.open(NAME)
            taken = 0
            while taken < 500_000:
                taken += len((await s.item(first))[3])
                s.agent.send(CREDIT, first, 1)
            half_written = shutil.ignore_patterns(f"{TEMPORARY_PREFIX}*")  # they come and go while this copies
            shutil.copytree(tmp_path / "permissions", tmp_path / "left/permissions", ignore=half_written)
            passed = s.broker.view(PACK)["bytes_this_hour"]
        async with stand(tmp_path / "left", [NETWORK], ZONE, **budgets) as s:
            before = s.broker.view(PACK)["bytes_this_hour"]
            assert 500_000 <= taken <= before
            assert before <= passed + 3_000_000 // 16
            again, _ = await s.open(NAME)
            assert await s.end(again) == "egress.budget.bytes_per_hour_and_host"
            assert s.broker.view(PACK)["bytes_this_hour"] <= 2_000_000 + 2 * 65_536
        async with stand(tmp_path / "left", [NETWORK], ZONE, **budgets) as s:  # an orderly end: nothing more, nothing less
            assert await s.refused(NAME) == "egress.budget.bytes_per_hour_and_host"

    net.in_host(lambda: asyncio.run(main()))


def test_nothing_passes_that_can_not_be_written_down_as_spent(tmp_path: Path) -> None:
    async def main() -> None:
        async with stand(tmp_path, [{"type": "network", "domains": ["*.example.org"]}], {}) as s:
            file = tmp_path / "permissions/budgets.json"
            (tmp_path / "permissions/.secret_key").rename(tmp_path / "key")
            assert await s.refused("a.example.org") == "egress_budgets_unwritable"
            assert s.names.asked == []
            assert not file.exists()
            assert "egress_budgets_unwritable" in {issue.code for issue in s.rig.diagnostics.issues()}
            (tmp_path / "key").rename(tmp_path / "permissions/.secret_key")
            assert await s.refused("a.example.org") == "name_unknown"
        file.write_bytes(file.read_bytes()[:-40])
        async with stand(tmp_path, [], {}) as s:
            assert "egress_budgets_lost" in {issue.code for issue in s.rig.diagnostics.issues()}

    asyncio.run(main())


@netns
def test_connections_that_are_being_opened_count_as_open(story: Any) -> None:
    async def tell(s: Stand) -> None:
        numbers = [s.ask("network.connect", host=f"n{n}.example.org", port=443) for n in range(40)]
        codes = [(await s.agent.answer(number))[2] for number in numbers]
        assert codes.count("egress.budget.connections") >= 30, codes

    story(tell, [{"type": "network", "domains": ["*.example.org"]}], {}, connections=4)


@netns
def test_a_flood_of_refusals_does_not_fill_the_audit_trail(story: Any) -> None:
    async def tell(s: Stand) -> None:
        for _ in range(200):
            assert await s.refused("127.1") == "egress.target_invalid"
        assert len(s.records("egress.refused")) == 60
        assert s.broker.view(PACK)["refused"] == 200
        assert len(s.broker.view(PACK)["recent_refusals"]) == 20

    story(tell, [NETWORK])


@netns
def test_what_can_not_be_recorded_is_not_opened(story: Any, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = sink()

    async def tell(s: Stand) -> None:
        def full(*_args: Any, **_fields: Any) -> None:
            raise HostError("Evidence can't be written", code="audit_unwritable")

        monkeypatch.setattr(s.audit._log, "append", full)
        assert await s.refused(NAME) == "audit_unwritable"

    story(tell, [NETWORK])
    assert server.accepted == 0


@netns
def test_requests_that_are_no_requests(story: Any) -> None:
    async def tell(s: Stand) -> None:
        for args in ({}, {"host": NAME}, {"host": NAME, "port": "443"}, {"host": {"a": 1}, "port": 443}, {"host": "x" * 5000, "port": 443}):
            frame = await s.agent.answer(s.ask("network.connect", **args))
            assert (frame[0], frame[2]) == (ERROR, "egress.target_invalid")
        requests: list[dict[str, Any]] = [{}, {"url": 5}, {"url": f"https://{NAME}/", "length": -1}, {"url": f"https://{NAME}/", "length": "x"}]
        for request in requests:
            assert (await s.agent.answer(s.ask("http.fetch", **request)))[0] == ERROR
        number = s.agent.next_id()
        s.agent.send(64, number, "network.connect", 0, [], [1, 2])
        assert (await s.agent.answer(number))[2] == "arguments"
        s.agent.send(64, 0, "network.connect", 0, [], {})
        await s.agent.ended()

    story(tell, [NETWORK])


RESOLVE = """
import asyncio, sys
from backend_core.errors import HostError
from core_runtime.drivers.resolver import SystemResolver

async def main():
    for name in sys.argv[1:]:
        try:
            print(name, *sorted(map(str, await SystemResolver().resolve(name, 5))))
        except HostError as error:
            print(name, error.code)

asyncio.run(main())
"""


@netns
def test_the_systems_resolver_tries_no_search_list_and_gives_every_answer(net: Internet, tmp_path: Path) -> None:
    names = NameServer(net)
    try:
        names.zone = {NAME: [WEB, WEB6, PRIVATE], "short.org.example.com": [WEB], "many.example.com": [f"11.8.1.{n}" for n in range(40)]}
        asked = [NAME, "short.org", "many.example.com", "none.example.com"]
        command = [*with_name_server(net, tmp_path), sys.executable, "-c", RESOLVE, *asked]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            f"{NAME} {PRIVATE} {WEB} {WEB6}", "short.org name_unknown", "many.example.com name_unknown", "none.example.com name_unknown",
        ]  # fmt: skip
        assert "short.org.example.com" not in names.asked
    finally:
        names.close()


@netns
def test_a_client_that_never_says_where_it_goes(story: Any, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "HELLO_S", 0.3)
    server = sink()

    async def tell(s: Stand) -> None:
        number, up = await s.open(NAME)
        s.agent.send(ITEM, up, [], client_hello(NAME)[:20])
        assert await s.end(number) == "egress.tls_required"

    story(tell, [NETWORK])
    assert server.received == b""


@netns
def test_both_families_are_dialled(story: Any, sink: Any) -> None:
    sink(WEB6, 443, greeting=b"six")

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        assert (await s.item(number))[3] == b"six"
        assert s.broker.view(PACK)["connections"][0]["address"] == WEB6

    story(tell, [NETWORK], {NAME: [WEB6, WEB]})


@netns
def test_an_address_of_the_second_family_is_dialled_when_the_first_is_down(story: Any, sink: Any) -> None:
    sink(WEB, 443, greeting=b"four")

    async def tell(s: Stand) -> None:
        number, _ = await s.open(NAME)
        assert (await s.item(number))[3] == b"four"

    story(tell, [NETWORK], {NAME: [WEB6, WEB]})


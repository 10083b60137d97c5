"""Ordinary clients inside a sandbox, unmodified, against servers on a small internet of the tests' own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.documents import ROOT, marked_block
from tests.support.networks import DATA, GATEWAY, HOST, KEYED, OTHER, PRIVATE, WEB, Internet, NetworkedHost
from tests.support.running_host import component, one_component_pack
from tests.support.web import NamedServers

pytestmark = [pytest.mark.netns]
GUIDE = ROOT / "docs/ecosystem.md"
VENDORED = {
    "requests": ("requests", "urllib3", "certifi", "idna", "charset_normalizer"),
    "httpx": ("httpx", "httpcore", "h11", "anyio", "certifi", "idna", "typing_extensions"),
    "aiohttp": ("aiohttp", "aiohappyeyeballs", "aiosignal", "attr", "attrs", "frozenlist", "multidict", "propcache", "yarl", "idna", "typing_extensions"),
    "websockets": ("websockets",),
}
SETUP = """
import os, ssl, subprocess, sys
HERE = os.path.dirname(__file__)
sys.path.insert(0, os.path.join(HERE, "vendor"))
CA = os.path.join(HERE, "ca.pem")

def tls():
    return ssl.create_default_context(cafile=CA)

def with_urllib(args, ctx):
    import urllib.request
    handler = urllib.request.HTTPSHandler(context=tls())
    request = urllib.request.Request(args["url"], data=args.get("data", "").encode() or None)
    with urllib.request.build_opener(handler).open(request, timeout=20) as answer:
        return {"status": answer.status, "text": answer.read().decode()}

def with_requests(args, ctx):
    import requests
    answer = requests.request("POST" if args.get("data") else "GET", args["url"], data=args.get("data"), verify=CA, timeout=20)
    return {"status": answer.status_code, "text": answer.text}

def with_httpx(args, ctx):
    import httpx
    with httpx.Client(verify=tls(), timeout=20) as client:
        answer = client.request("POST" if args.get("data") else "GET", args["url"], content=args.get("data"))
        return {"status": answer.status_code, "text": answer.text}

async def with_httpx_async(args, ctx):
    import httpx
    async with httpx.AsyncClient(verify=tls(), timeout=20) as client:
        answer = await client.request("POST" if args.get("data") else "GET", args["url"], content=args.get("data"))
        return {"status": answer.status_code, "text": answer.text}

async def with_aiohttp(args, ctx):
    import aiohttp
    async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(20)) as session:
        async with session.request("POST" if args.get("data") else "GET", args["url"], data=args.get("data"), ssl=tls()) as answer:
            return {"status": answer.status, "text": await answer.text()}

async def with_websockets(args, ctx):
    import websockets
    more = {"ssl": tls()} if args["url"].startswith("wss:") else {}
    async with websockets.connect(args["url"], **more) as socket:
        await socket.send("one")
        await socket.send("x" * 500)
        return [await socket.recv(), len(await socket.recv())]

def with_curl(args, ctx):
    command = ["curl", "-sS", "--cacert", CA, "--max-time", "20", *args.get("more", []), args["url"]]
    done = subprocess.run(command, capture_output=True, text=True)
    return {"code": done.returncode, "text": done.stdout, "error": done.stderr}

def raw(args, ctx):
    import socket
    host, _, port = os.environ["HTTP_PROXY"].rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.settimeout(args.get("wait", 1.0))
        got = b""
        try:
            for part in args["parts"]:
                sock.sendall(part if isinstance(part, bytes) else part.encode("latin-1"))
                if args.get("answered"):
                    got += sock.recv(65536)
            while data := sock.recv(65536):
                got += data
        except OSError as error:
            return {"got": got.decode("latin-1"), "error": type(error).__name__}
        return {"got": got.decode("latin-1"), "error": ""}

def hold(args, ctx):
    import socket, time
    host, _, port = os.environ["HTTP_PROXY"].rpartition("/")[2].rpartition(":")
    with socket.create_connection((host, int(port)), 10) as sock:
        sock.sendall(b"CONNECT %s HTTP/1.1\\r\\n\\r\\n" % args["to"].encode())
        sock.settimeout(20)
        began = time.monotonic()
        got = sock.recv(4096)
        try:
            while data := sock.recv(4096):
                got += data
        except OSError as error:
            got += type(error).__name__.encode()
        return {"got": got.decode("latin-1"), "seconds": time.monotonic() - began}

def has_curl(args, ctx):
    import shutil
    return shutil.which("curl") is not None

def environment(args, ctx):
    return {name: value for name, value in os.environ.items() if "PROXY" in name.upper()}

def run(context):
    ir = context["interface_registry"]
    http = context["http"]

    def fetch(args, ctx):
        with http.fetch(**args) as answer:
            return {"status": answer.status, "text": answer.text(), "headers": answer.headers}

    def size(args, ctx):
        import urllib.request
        if args["by"] == "urllib":
            handler = urllib.request.HTTPSHandler(context=tls())
            with urllib.request.build_opener(handler).open(args["url"], timeout=20) as answer:
                return len(answer.read())
        with http.fetch(args["url"]) as answer:
            return sum(len(part) for part in answer)

    async def fetch_async(args, ctx):
        import asyncio
        def once(url):
            with http.fetch(url) as answer:
                return answer.status
        inline = once(args["url"])
        beside = await asyncio.gather(*(asyncio.to_thread(once, args["url"]) for _ in range(5)))
        return [inline, *beside]

    async def many(args, ctx):
        import aiohttp, asyncio
        async with aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(20)) as session:
            async def one(n):
                async with session.get(args["url"], ssl=tls()) as answer:
                    return len(await answer.read())
            return await asyncio.gather(*(one(n) for n in range(args["n"])))

    ir.register("net.fetch_async", fetch_async)
    ir.register("net.many", many)
    ir.register("net.size", size)
    for name, fn in list(globals().items()):
        if name.startswith("with_"):
            ir.register("net." + name[5:], fn)
    ir.register("net.has_curl", has_curl)
    ir.register("net.raw", raw)
    ir.register("net.hold", hold)
    ir.register("net.environment", environment)
    ir.register("net.fetch", fetch)
"""
KEYS = ("urllib", "requests", "httpx", "httpx_async", "aiohttp", "websockets", "curl", "has_curl", "environment", "fetch", "size", "raw", "hold", "fetch_async", "many")


def vendored(names: tuple[str, ...], into: Path) -> None:
    """Pure Python only: what a Pack could carry for any machine."""
    into.mkdir(parents=True)
    for name in names:
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        source = Path(spec.origin)
        if source.name == "__init__.py":
            shutil.copytree(source.parent, into / name, ignore=shutil.ignore_patterns("*.so", "__pycache__", "*.pyx", "*.pxd", "*.c"))
        else:
            shutil.copy(source, into / source.name)


def put_client(host: NetworkedHost, authority: Authority, permissions: list[dict[str, Any]]) -> None:
    keys = tuple(f"net.{key}" for key in KEYS)
    folder = host.put_pack("client", {
        "backend/ecosystem.json": json.dumps({"pack_id": "client", "version": "1.0.0"}),
        "backend/permissions.json": json.dumps({"pack_id": "client", "permissions": permissions}),
        "backend/components/main/manifest.json": component("service", "main", provides=keys),
        "backend/components/main/setup.py": SETUP,
    })  # fmt: skip
    shutil.copy(authority.ca_file, folder / "backend/components/main/ca.pem")
    names = tuple(dict.fromkeys(name for group in VENDORED.values() for name in group))
    vendored(names, folder / "backend/components/main/vendor")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NamedServers]:
    with Internet() as net:
        servers = NamedServers(net, Authority(tmp_path_factory.mktemp("ca")))
        servers.serve("api.example.com", WEB)
        servers.serve("other.example.com", OTHER)
        servers.serve("keyed.example.com", KEYED)
        yield servers
        servers.close()


PERMISSIONS: list[dict[str, Any]] = [
    {"type": "network", "domains": ["api.example.com"], "ports": [443, 80], "reason": "talks to its service"},
    {"type": "network", "addresses": [f"{PRIVATE}:7000", f"{HOST}:8765"], "reason": "talks to a machine at home"},
    {"type": "network", "domains": ["rebinding.example.com"], "ports": [80], "reason": "x"},
    {"type": "http.fetch", "hosts": ["keyed.example.com"], "path_prefixes": ["/bytes"], "secrets": ["Authorization: Bearer {API_KEY}"], "reason": "asks with a key"},
    {"type": "http.fetch", "hosts": ["other.example.com"], "methods": ["GET", "POST"], "path_prefixes": ["/echo", "/bytes", "/redirect"], "reason": "asks"},
]


@pytest.fixture(scope="module", params=[
    pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.slow]),
    pytest.param("embedded", marks=pytest.mark.embedded),
])  # fmt: skip
def host(request: pytest.FixtureRequest, world: NamedServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkedHost]:
    home = tmp_path_factory.mktemp("home")
    home.chmod(0o755)
    environment = {"SSL_CERT_FILE": str(world.authority.ca_file)}
    with NetworkedHost(world.net, home / "h", request.param, environment) as running:
        put_client(running, world.authority, PERMISSIONS)
        running.approve("client")
        yield running


CLIENTS = ["urllib", "requests", "httpx", "httpx_async", "aiohttp"]


@pytest.mark.parametrize("client", CLIENTS)
def test_https_through_the_proxy(host: NetworkedHost, client: str) -> None:
    found = host.result(f"net.{client}", {"url": "https://api.example.com/echo/a?b=c", "data": "hello"})
    seen = json.loads(found["text"])
    assert (found["status"], seen["method"], seen["target"], seen["body"]) == (200, "POST", "/echo/a?b=c", "hello")
    assert seen["host"] == "api.example.com"


@pytest.mark.parametrize("client", CLIENTS)
def test_plain_http_through_the_proxy(host: NetworkedHost, client: str) -> None:
    found = host.result(f"net.{client}", {"url": "http://api.example.com/echo?x=1"})
    seen = json.loads(found["text"])
    assert (found["status"], seen["method"], seen["target"], seen["host"]) == (200, "GET", "/echo?x=1", "api.example.com")


@pytest.mark.parametrize("client", CLIENTS)
def test_a_plain_base_url_is_fetched_by_the_host_over_tls(host: NetworkedHost, world: NamedServers, client: str) -> None:
    found = host.result(f"net.{client}", {"url": "http://other.example.com/echo?x=1", "data": "hello"})
    seen = json.loads(found["text"])
    assert (found["status"], seen["method"], seen["target"], seen["body"]) == (200, "POST", "/echo?x=1", "hello")
    assert world.plain["other.example.com"].seen == []


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_websockets_through_the_proxy(host: NetworkedHost, scheme: str) -> None:
    assert host.result("net.websockets", {"url": f"{scheme}://api.example.com/ws"}) == ["one", 500]


def test_curl(host: NetworkedHost) -> None:
    """The embedded sandbox shows the machine's programs, so its curl; the base image has none."""
    found = host.result("net.has_curl")
    if host.isolation == "docker":
        assert not found, "then it can be tried here too"
        return
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine (apt install curl)")
    assert found
    for url in ("https://api.example.com/echo", "http://api.example.com/echo", "http://other.example.com/echo"):
        assert json.loads(host.result("net.curl", {"url": url})["text"])["target"] == "/echo"


def test_the_bus_call_fetches(host: NetworkedHost) -> None:
    found = host.result("net.fetch", {"url": "https://other.example.com/echo", "method": "POST", "body": "b" * 100_000, "headers": {"X-Mine": "1"}})
    seen = json.loads(found["text"])
    assert (found["status"], len(seen["body"]), seen["headers"]["x-mine"]) == (200, 100_000, "1")
    assert host.result("net.size", {"by": "fetch", "url": "https://other.example.com/bytes/3000000"}) == 3_000_000


def test_large_answers_pass_both_ways_out(host: NetworkedHost) -> None:
    for url in ("https://api.example.com/bytes/3000000", "http://other.example.com/bytes/3000000"):
        assert host.result("net.size", {"by": "urllib", "url": url}) == 3_000_000


def test_the_bus_call_inside_a_coroutine(host: NetworkedHost) -> None:
    assert host.result("net.fetch_async", {"url": "https://other.example.com/echo"}) == [200] * 6


def test_many_connections_at_once(host: NetworkedHost) -> None:
    assert host.result("net.many", {"url": "https://api.example.com/bytes/300000", "n": 24}) == [300_000] * 24


def test_usual_variables_are_set(host: NetworkedHost) -> None:
    found = host.result("net.environment")
    assert found["HTTPS_PROXY"] == found["https_proxy"] == found["ALL_PROXY"]
    assert found["HTTPS_PROXY"].startswith("http://127.0.0.1:")
    assert found["NO_PROXY"] == "localhost,127.0.0.1,::1"


# --- what a hostile client inside finds


@pytest.mark.parametrize(
    ("sent", "status"),
    [("GET /echo HTTP/1.1\r\nHost: api.example.com\r\n\r\n", 400), ("CONNECT evil.example:443 HTTP/1.1\r\n\r\n", 403),
     ("CONNECT api.example.com HTTP/1.1\r\n\r\n", 400), ("CONNECT api.example.com:99999 HTTP/1.1\r\n\r\n", 400),
     ("CONNECT 127.1:80 HTTP/1.1\r\n\r\n", 400), ("CONNECT api.example.com@evil.example:443 HTTP/1.1\r\n\r\n", 400),
     ("CONNECT other.example.com:443 HTTP/1.1\r\n\r\n", 403), (f"CONNECT {HOST}:8765 HTTP/1.1\r\n\r\n", 403),
     (f"CONNECT {GATEWAY}:80 HTTP/1.1\r\n\r\n", 403), ("GET http://other.example.com/admin HTTP/1.1\r\n\r\n", 403),
     ("GET http://other.example.com/echo/%2e%2e/admin HTTP/1.1\r\n\r\n", 403), ("DELETE http://other.example.com/echo HTTP/1.1\r\n\r\n", 403),
     ("GET https://api.example.com/echo HTTP/1.1\r\n\r\n", 403), ("GET ftp://api.example.com/ HTTP/1.1\r\n\r\n", 400),
     ("POST http://other.example.com/echo HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
     ("POST http://other.example.com/echo HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400),
     ("GET http://other.example.com/echo HTTP/1.1\r\nX : y\r\n\r\n", 400), ("GET http://other.example.com/echo HTTP/1.1\r\nfolded\r\n\r\n", 400),
     ("nonsense\r\n\r\n", 400), ("X" * 70_000, 400)],
)  # fmt: skip
def test_hostile_requests_to_the_proxy(host: NetworkedHost, sent: str, status: int) -> None:
    found = host.result("net.raw", {"parts": [sent]})
    assert found["got"].startswith(f"HTTP/1.1 {status} "), found
    assert len(found["got"]) < 1_000


def test_a_second_request_never_travels_under_the_first_ones_decision(host: NetworkedHost, world: NamedServers) -> None:
    """Pipelined behind a granted one, a request for a refused path reaches nobody."""
    first = "GET http://other.example.com/echo?first HTTP/1.1\r\nHost: other.example.com\r\n\r\n"
    second = "GET http://other.example.com/admin HTTP/1.1\r\nHost: other.example.com\r\n\r\n"
    found = host.result("net.raw", {"parts": [first + second]})
    assert found["got"].count("HTTP/1.1 ") == 1
    assert "Connection: close" in found["got"]
    assert all("admin" not in seen[2] for seen in world.tls["other.example.com"].seen)


def test_socks_names_are_passed_on_and_never_looked_up_inside(host: NetworkedHost, world: NamedServers) -> None:
    def request(name: bytes, port: int) -> list[bytes]:
        return [b"\x05\x01\x00", b"\x05\x01\x00\x03" + bytes([len(name)]) + name + port.to_bytes(2, "big")]

    get = b"GET /echo?socks HTTP/1.1\r\nHost: api.example.com\r\nConnection: close\r\n\r\n"
    found = host.result("net.raw", {"parts": [*map(latin, request(b"api.example.com", 80)), latin(get)], "answered": True})
    assert found["got"].startswith("\x05\x00\x05\x00\x00\x01\0\0\0\0\0\0HTTP/1.1 200"), found
    asked = len(world.names.asked)
    refused = host.result("net.raw", {"parts": [*map(latin, request(b"evil.example", 80))], "answered": True})
    assert refused["got"].startswith("\x05\x00\x05\x02"), refused
    assert len(world.names.asked) == asked
    for parts in (["\x05\x01\x02"], ["\x05\x01\x00", "\x05\x02\x00\x01\x01\x02\x03\x04\0\x50"], ["\x05\x01\x00", "\x05\x01\x00\x09abc"]):
        assert not host.result("net.raw", {"parts": parts, "answered": len(parts) > 1})["got"].endswith("HTTP")


def latin(data: bytes) -> str:
    return data.decode("latin-1")


def test_rebinding_against_the_systems_own_resolver(host: NetworkedHost, world: NamedServers) -> None:
    world.names.zone["rebinding.example.com"] = [[WEB], [PRIVATE], [PRIVATE, WEB]]
    url = {"url": "http://rebinding.example.com/echo"}
    assert host.result("net.urllib", url)["status"] == 200
    for _ in range(2):
        status, envelope = host.call("net.urllib", url)
        assert (status, "403" in envelope["error"]) == (502, True), envelope
    refusals = host.ok("GET", "/api/packs/client/egress")["recent_refusals"]
    assert [item["code"] for item in refusals[-2:]] == ["address_refused"] * 2


def test_what_passed_is_shown_counted_and_on_record(host: NetworkedHost) -> None:
    host.result("net.urllib", {"url": "https://api.example.com/bytes/50000"})
    view = host.ok("GET", "/api/packs/client/egress")
    [found] = [item for item in view["destinations"] if item["host"] == "api.example.com"]
    assert found["bytes_down"] > 50_000
    assert view["bytes_this_hour"] >= found["bytes_down"] + found["bytes_up"]
    granted = host.ok("GET", "/api/packs/client/permissions")["granted"]
    uses = {item: uses["count"] for permission in granted for item, uses in permission["items"].items()}
    assert uses["api.example.com"] >= 1
    assert uses[f"{PRIVATE}:7000"] == 0

    def all_ended() -> bool:
        records = [json.loads(line) for line in (host.home / "user_data/audit/audit.jsonl").read_text().splitlines()]
        events = [record["event"] for record in records if record.get("pack_id") == "client"]
        return 0 < events.count("egress.opened") == events.count("egress.ended")

    host.until(all_ended, 10, "the end of every connection on record")
    assert host.ok("GET", "/api/audit/verify")["ok"]


def test_taking_the_permission_away_ends_the_connection_under_way(host: NetworkedHost) -> None:
    with ThreadPoolExecutor(1) as threads:
        holding = threads.submit(host.result, "net.hold", {"to": "api.example.com:443"})
        host.until(lambda: [c for c in host.ok("GET", "/api/packs/client/egress")["connections"] if c["target"] == "api.example.com:443"], 10, "the tunnel")
        host.ok("DELETE", "/api/packs/client/permissions", {"permissions": [{"type": "network", "domains": ["api.example.com"]}]})
        found = holding.result(20)
    assert found["got"].startswith("HTTP/1.1 200")
    assert found["seconds"] < 10
    assert host.call("net.urllib", {"url": "https://api.example.com/echo"})[0] == 502
    host.ok("POST", "/api/packs/client/permissions", {"permissions": [{"type": "network", "domains": ["api.example.com"]}]})
    assert host.result("net.urllib", {"url": "https://api.example.com/echo"})["status"] == 200


def test_budgets_of_the_operator_act_at_once_and_a_broken_file_opens_nothing(host: NetworkedHost) -> None:
    file = host.home / "user_data/egress.json"
    url = {"url": "http://api.example.com/bytes/200000"}
    assert host.result("net.urllib", url)["status"] == 200
    try:
        file.write_text('{"packs": {"client": {"bytes_per_hour_and_host": 1}}}')
        found = host.result("net.raw", {"parts": ["CONNECT api.example.com:443 HTTP/1.1\r\n\r\n"]})
        assert found["got"].startswith("HTTP/1.1 429 ")
        issues = host.ok("GET", "/api/issues")
        assert [issue["subject"] for issue in issues if issue["code"] == "egress_budget"] == ["client"]
        file.write_text('{"budgets": {"bytes_per_hour": "lots"}}')
        found = host.result("net.raw", {"parts": ["CONNECT api.example.com:443 HTTP/1.1\r\n\r\n"]})
        assert found["got"].startswith("HTTP/1.1 403 ")
        assert "egress.json" in found["got"]
    finally:
        file.unlink()
    assert host.result("net.urllib", url)["status"] == 200


def test_the_guides_example_works(host: NetworkedHost, world: NamedServers) -> None:
    """docs/ecosystem.md, as it stands."""
    if "data.example.com" not in world.tls:
        world.serve("data.example.com", DATA)
    files = one_component_pack("asker", marked_block(GUIDE, "example: asker/setup.py provides example.ask"), provides=("example.ask",))
    host.put_pack("asker", {**files, "backend/permissions.json": marked_block(GUIDE, "example: asker/permissions.json")})
    host.approve("asker")
    assert host.result("example.ask") == json.loads(marked_block(GUIDE, "example: asked"))
    assert [seen[1] for seen in world.tls["data.example.com"].seen[-2:]] == ["POST", "GET"]


def test_the_host_fills_in_a_secret_that_the_pack_never_holds(host: NetworkedHost, world: NamedServers) -> None:
    server = world.tls["keyed.example.com"]
    url = {"url": "https://keyed.example.com/bytes/5"}
    missing = host.call("net.fetch", url)
    assert "secret_missing" in str(missing), missing
    seen = len(server.seen)
    host.ok("PUT", "/api/packs/client/secrets/API_KEY", {"value": "s3cret-of-the-operator"})
    assert host.result("net.fetch", url)["status"] == 200
    assert host.result("net.urllib", {"url": "http://keyed.example.com/bytes/5"})["status"] == 200
    assert [item[3]["authorization"] for item in server.seen[seen:]] == ["Bearer s3cret-of-the-operator"] * 2
    status, envelope = host.call("net.fetch", {**url, "headers": {"Authorization": "Bearer mine"}})
    assert (status, "secret_header" in str(envelope)) == (502, True), envelope
    kept = [path.read_bytes() for folder in ("audit", "permissions", "secrets", "logs") for path in (host.home / "user_data" / folder).rglob("*") if path.is_file()]
    assert kept
    assert not [data for data in (*kept, host.log.read_bytes()) if b"s3cret-of" in data]
    assert "s3cret-of" not in json.dumps(host.ok("GET", "/api/packs/client/egress"))

"""Ordinary clients inside a sandbox, unmodified, against servers on a small internet of the tests' own."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.networks import OTHER, WEB, Internet, NetworkedHost
from tests.support.running_host import component
from tests.support.web import NamedServers

pytestmark = [pytest.mark.netns]
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

    ir.register("net.size", size)
    for name, fn in list(globals().items()):
        if name.startswith("with_"):
            ir.register("net." + name[5:], fn)
    ir.register("net.has_curl", has_curl)
    ir.register("net.environment", environment)
    ir.register("net.fetch", fetch)
"""
KEYS = ("urllib", "requests", "httpx", "httpx_async", "aiohttp", "websockets", "curl", "has_curl", "environment", "fetch", "size")


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
        yield servers
        servers.close()


PERMISSIONS: list[dict[str, Any]] = [
    {"type": "network", "domains": ["api.example.com"], "ports": [443, 80], "reason": "talks to its service"},
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


def test_curl_where_the_sandbox_has_one(host: NetworkedHost) -> None:
    if not host.result("net.has_curl"):
        assert host.result("net.urllib", {"url": "https://api.example.com/echo"})["status"] == 200
        return
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


def test_usual_variables_are_set(host: NetworkedHost) -> None:
    found = host.result("net.environment")
    assert found["HTTPS_PROXY"] == found["https_proxy"] == found["ALL_PROXY"]
    assert found["HTTPS_PROXY"].startswith("http://127.0.0.1:")
    assert found["NO_PROXY"] == "localhost,127.0.0.1,::1"

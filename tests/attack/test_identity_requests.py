"""Attacks on "who may ask the host for something", against the real sockets, protocol and gate."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backend_core.errors import HostError
from bench.ports import free_port
from core_runtime.drivers import loopback
from core_runtime.rules.identity import BODY_LIMIT_BYTES
from tests.support.http_faces import ask, connect, exchange, read_answer, run, serving

NOBODY = 65533
AS_NOBODY: Any = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": "/"}


def test_rebinding_a_foreign_name_to_this_machine(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            for name in ("evil.example", f"evil.example:{served.settings.api_port}", "localhost", "127.0.0.1.evil.example"):
                status, answer = await ask(served, Host=name)
                assert (status, answer["code"], answer["success"]) == (421, "host_not_served", False)
            assert served.app.seen == []

    run(attack())


def test_an_absolute_target_does_not_replace_the_host_check(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            for target in ("http://evil.example/api/packs", "evil.example:80", "*", "/api/packs#x"):
                status, _, body = await exchange(served, f"GET {target} HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
                assert status == 400
                assert json.loads(body)["success"] is False
            assert served.app.seen == []

    run(attack())


def test_cross_site_approve(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            approve = "/api/packs/evil/approve"
            assert (await ask(served, "POST", approve, Origin="http://evil.example"))[1]["code"] == "cross_site"
            assert (await ask(served, "POST", approve, Origin="null"))[1]["code"] == "cross_site"
            assert (await ask(served, "POST", approve, Sec_Fetch_Site="cross-site"))[1]["code"] == "cross_site"
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            assert (await ask(served, "POST", approve, b"a=b", **form))[0] == 415
            assert (await ask(served, "POST", approve, b"{}", **{"Content-Type": "text/plain"}))[0] == 415
            # A page of a Pack, on the web port of this very machine, is another site as well.
            page = f"http://localhost:{served.settings.web_port}"
            assert (await ask(served, "POST", approve, Origin=page, Sec_Fetch_Site="same-site"))[1]["code"] == "cross_site"
            assert served.app.seen == []

    run(attack())


def test_cross_site_get_and_image_tags_carry_no_origin(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            image = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
            assert (await ask(served, "GET", "/api/packs", None, **image))[1]["code"] == "cross_site"
            navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            assert (await ask(served, "GET", "/api/packs", None, **navigation))[1]["code"] == "cross_site"
            assert served.app.seen == []

    run(attack())


def test_the_owners_plain_curl_lines_work(tmp_path: Path) -> None:
    async def owner() -> None:
        async with serving(tmp_path) as served:
            for line in (["curl", "-s"], ["curl", "-s", "-X", "POST"], ["curl", "-s", "-4"], ["curl", "-s", "-6"]):
                done = await _run(*line, f"http://localhost:{served.settings.api_port}/api/packs/x/approve")
                assert json.loads(done)["data"]["actor"] == f"operator:uid:{os.getuid()}"
            unix = await _run("curl", "-s", "--unix-socket", str(served.settings.socket_path), "http://localhost/api/packs")
            assert json.loads(unix)["data"]["actor"] == f"operator:socket:{os.getuid()}"

    run(owner())


@pytest.mark.root
def test_another_users_connection(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            url = f"http://localhost:{served.settings.api_port}/api/packs/x/approve"
            for family in ("-4", "-6"):
                answer = json.loads(await _run("curl", "-s", family, "-X", "POST", url, nobody=True))
                assert (answer["success"], answer["code"]) == (False, "not_identified")
                assert "rumi token" in answer["hint"]
            with_token = await _run("curl", "-s", "-H", f"Authorization: Bearer {served.token}", url, nobody=True)
            assert json.loads(with_token)["data"]["actor"] == "operator:token"
            assert served.app.seen == ["GET /api/packs/x/approve"]
            through_socket = await _run("curl", "-s", "-w", "%{exitcode}", "--unix-socket", str(served.settings.socket_path), "http://localhost/", nobody=True)
            assert through_socket == "7", "the socket's folder must be closed to other users"

    run(attack())


@pytest.mark.root
def test_another_users_connection_closed_early(tmp_path: Path) -> None:
    """The row of a closed connection reads user 0: before the fix of the state, a late look-up took it for root's."""
    script = (
        "import socket,sys\n"
        "for n in range(40):\n"
        " s=socket.create_connection(('127.0.0.1',int(sys.argv[1])))\n"
        " s.sendall(b'POST /api/packs/x/approve HTTP/1.1\\r\\nHost: localhost:'+sys.argv[1].encode()+b'\\r\\n\\r\\n')\n"
        " s.shutdown(socket.SHUT_WR) if n % 2 else None\n"
        " s.close()\n"
    )

    async def attack() -> None:
        async with serving(tmp_path) as served:
            # The loop accepts nothing while the client runs to its end: the worst case for a look-up at accept.
            with _as_nobody("/usr/bin/python3", "-c", script, str(served.settings.api_port)) as process:
                process.communicate(timeout=30)
            assert process.returncode == 0
            assert (await ask(served))[0] == 200
            assert served.app.seen == ["GET /api/packs"]

    run(attack())


def test_a_half_closed_connection_proves_nothing(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            sock = socket.create_connection(("127.0.0.1", served.settings.api_port))
            sock.sendall(f"POST /api/packs/x/approve HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
            sock.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0)
            assert (await ask(served))[0] == 200
            sock.close()
            assert served.app.seen == ["GET /api/packs"]

    run(attack())


def test_a_squatter_on_the_other_loopback_family() -> None:
    port = free_port()
    for family, address in ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")):
        with socket.socket(family) as squatter:
            squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            squatter.bind((address, port))
            squatter.listen()
            with pytest.raises(HostError) as caught:
                loopback.bind_port(port)
            assert caught.value.code == "port_taken"
            assert str(port) in caught.value.detail
            assert address in caught.value.detail
    for sock in loopback.bind_port(port):
        sock.close()


def test_nobody_can_listen_beside_the_host() -> None:
    port = free_port()
    held = loopback.bind_port(port)
    try:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1"), (socket.AF_INET6, "::")):
            with socket.socket(family) as squatter:
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="in use"):
                    squatter.bind((address, port))
                    squatter.listen()
    finally:
        for sock in held:
            sock.close()


def test_a_request_before_identity_does_no_work(tmp_path: Path) -> None:
    """A refused request with a large body: answered at once, without a byte of the body being asked for."""

    async def attack() -> None:
        async with serving(tmp_path) as served:
            reader, writer = await connect(served)
            writer.write(
                f"POST /api/packs/x/approve HTTP/1.1\r\nHost: {served.host}\r\nAuthorization: Bearer {'0' * 64}\r\n"
                "Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n".encode()
            )
            status, _, _ = await read_answer(reader)
            assert status == 401
            # The rest of the body may still be sent; the connection then serves the next request.
            writer.write(b"x" * 1_000_000 + f"GET /api/packs HTTP/1.1\r\nHost: {served.host}\r\n\r\n".encode())
            assert (await read_answer(reader))[0] == 200
            writer.close()
            assert (served.app.seen, served.app.bodies) == (["GET /api/packs"], [])

    run(attack())


@pytest.mark.parametrize(
    "path",
    ["/api/packs/%2e%2e/packs", "/api/packs/x%2fapprove", "/api/packs/x%2Fapprove", "//api/packs", "/api//packs/x/approve", "/api/packs/./x", "/api/packs/../packs/x", "/api/packs\\x",
     "/api/packs/%5c", "/api/packs/x%00/approve", "/api/%70acks", "/api/packs/x/approve%3b%2e"],
)
def test_encoded_path_confusion(tmp_path: Path, path: str) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            status, answer = await ask(served, "POST", path)
            assert (status, answer["success"]) == (400, False)
            assert served.app.seen == []

    run(attack())


def test_oversize_bodies_are_refused_by_their_declared_length(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            head = f"POST /api/packs/x/approve HTTP/1.1\r\nHost: {served.host}\r\nContent-Type: application/json\r\n"
            status, _, body = await exchange(served, f"{head}Content-Length: {BODY_LIMIT_BYTES + 1}\r\n\r\n".encode())
            assert (status, json.loads(body)["code"]) == (413, "too_large")
            assert served.app.seen == []

    run(attack())


def test_oversize_heads(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            start = f"GET /api/packs HTTP/1.1\r\nHost: {served.host}\r\n".encode()
            assert (await exchange(served, start + b"X: " + b"a" * 300_000 + b"\r\n\r\n"))[0] == 431
            assert (await exchange(served, start + b"".join(b"X-%d: y\r\n" % n for n in range(200)) + b"\r\n"))[0] == 431
            assert (await exchange(served, b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n"))[0] == 414
            assert (await exchange(served, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20))[0] == 400
            status, _, body = await exchange(served, b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
            assert status in {400, 421}
            assert json.loads(body)["success"] is False
            assert served.app.seen == []

    run(attack())


def test_half_open_clients_delay_nobody(tmp_path: Path) -> None:
    """More unfinished requests than any limit for one kind of peer, each dripping; the owner is still answered at once."""

    async def attack() -> None:
        async with serving(tmp_path) as served:
            half_open = [await connect(served) for _ in range(100)]
            for _, writer in half_open:
                writer.write(b"GET /api/packs HTTP/1.1\r\nHo")
            loop = asyncio.get_running_loop()
            began = loop.time()
            for _ in range(20):
                assert (await ask(served))[0] == 200
            assert loop.time() - began < 2.0
            for _, writer in half_open:
                writer.close()

    run(attack())


def test_a_slow_head_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core_runtime import pack_api_server as server
    from core_runtime.api import protocol

    monkeypatch.setattr(protocol, "HEAD_LIMIT_S", 0.3)
    monkeypatch.setattr(server, "SWEEP_S", 0.05)

    async def attack() -> None:
        async with serving(tmp_path) as served:
            answer = await asyncio.to_thread(_drip, served.settings.api_port, b"GET /api/packs HTTP/1.1\r\nHost: " + b"drip " * 200)
            assert answer.split()[1] == b"408"
            silent, other = await connect(served)
            assert await silent.read() == b""
            other.close()
            assert served.app.seen == []

    run(attack())


@pytest.mark.root
def test_a_stranger_can_not_use_up_the_owners_places(tmp_path: Path) -> None:
    script = (
        "import socket,sys\n"
        "held=[socket.create_connection(('127.0.0.1',int(sys.argv[1]))) for _ in range(200)]\n"
        "print('held',flush=True)\n"
        "sys.stdin.read()\n"
    )

    async def attack() -> None:
        async with serving(tmp_path) as served:
            with _as_nobody("/usr/bin/python3", "-c", script, str(served.settings.api_port)) as stranger:
                assert stranger.stdout is not None
                assert await asyncio.to_thread(stranger.stdout.readline) == b"held\n"
                for _ in range(30):
                    assert (await ask(served))[0] == 200
                await asyncio.to_thread(stranger.communicate, timeout=30)

    run(attack())


@pytest.mark.root
def test_guessing_tokens_is_slowed_down_and_costs_the_owner_nothing(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            url = f"http://127.0.0.1:{served.settings.api_port}/[1-80]"
            guesses = await _run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}\n", "-H", "Authorization: Bearer " + "0" * 64, url, nobody=True)
            assert "401" in guesses
            assert "429" in guesses
            assert (await ask(served))[0] == 200
            [told] = served.api.host.diagnostics.issues()
            assert (told.code, told.subject, told.count) == ("request_refused", f"api:token_wrong:{NOBODY}", guesses.count("401"))

    run(attack())


def test_a_weak_token_file_is_no_token(tmp_path: Path) -> None:
    async def attack() -> None:
        async with serving(tmp_path) as served:
            path = served.settings.token_file
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            bearer = {"Authorization": f"Bearer {served.token}"}
            assert (await ask(served, "GET", "/api/packs", None, **bearer))[0] == 200
            path.chmod(0o644)
            assert (await ask(served, "GET", "/api/packs", None, **bearer))[0] == 401
            path.chmod(0o600)
            assert (await ask(served, "GET", "/api/packs", None, **bearer))[0] == 200
            target = path.with_name("elsewhere")
            shutil.move(path, target)
            path.symlink_to(target)
            assert (await ask(served, "GET", "/api/packs", None, **bearer))[0] == 401
            path.unlink()
            assert (await ask(served, "GET", "/api/packs", None, **bearer))[0] == 401
            path.write_text("a" * 64)
            path.chmod(0o600)
            assert (await ask(served, Authorization="Bearer " + "a" * 64))[0] == 200

    run(attack())


def test_a_prepared_run_folder_is_not_used(tmp_path: Path) -> None:
    for prepare in (_loose, _link, _file):
        folder = tmp_path / prepare.__name__
        prepare(folder)
        with pytest.raises(HostError) as caught:
            loopback.private_folder(folder)
        assert caught.value.code == "run_dir_unsafe"


def test_two_hosts_of_one_home(tmp_path: Path) -> None:
    sock, give_back = loopback.bind_unix(tmp_path / "r" / "api.sock")
    with pytest.raises(HostError) as caught:
        loopback.bind_unix(tmp_path / "r" / "api.sock")
    assert caught.value.code == "already_running"
    assert sock.getsockname() == str(tmp_path / "r" / "api.sock")
    give_back()
    _, give_back = loopback.bind_unix(tmp_path / "r" / "api.sock")
    give_back()


def _drip(port: int, head: bytes) -> bytes:
    """Send a byte every 50 ms until the host answers; what it answered."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(0.05)
        for letter in head:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.send(bytes([letter]))
            with contextlib.suppress(TimeoutError):
                return sock.recv(4096)
    raise AssertionError("the host let a request drip for ever")


def _loose(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)


def _link(folder: Path) -> None:
    (folder.parent / "target").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "target")


def _file(folder: Path) -> None:
    folder.touch(0o600)


def _as_nobody(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **AS_NOBODY)


async def _run(*command: str, nobody: bool = False) -> str:
    """What the command printed. The loop goes on serving meanwhile."""

    def act() -> str:
        identity: Any = AS_NOBODY if nobody else {}
        done: subprocess.CompletedProcess[bytes] = subprocess.run(command, check=False, capture_output=True, timeout=30, **identity)
        return done.stdout.decode()

    return await asyncio.to_thread(act)

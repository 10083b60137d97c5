"""An author whose Pack nobody approved yet tries metadata on the host and on its operator. A real host, real commands."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, component, one_component_pack

PAINT = "safe\x1b[2J\x1b]0;x\x07\x9b31m\u202egnp\u2066\u200b<script>alert(1)</script><b>yes</b>"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("metadata") / "home", "embedded") as running:
        yield running


def pack(pack_id: str, **ecosystem: Any) -> dict[str, str]:
    files = one_component_pack(pack_id, "def run(context):\n    pass\n", provides=(f"{pack_id}.x",))
    files["backend/ecosystem.json"] = json.dumps({"pack_id": pack_id, "version": "1.0.0", **ecosystem})
    return files


def obeyed(text: str) -> set[str]:
    """Characters that a terminal obeys or that rearrange a line."""
    return {hex(ord(c)) for c in text if c not in "\n\t" and unicodedata.category(c) in {"Cc", "Cf"}}


def rumi(host: RunningHost, *words: str) -> str:
    environment = {**os.environ, "RUMI_HOME": str(host.home), "RUMI_API_PORT": str(host.api_port), "LANG": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "rumi_setup", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return (done.stdout + done.stderr).decode()


@pytest.mark.embedded
def test_hostile_folders_are_errors_with_a_place_and_block_nobody(host: RunningHost) -> None:
    raw = {
        "deep": "[" * 100_000,
        "twice": '{"pack_id":"twice","version":"1.0.0","pack_id":"other"}',
        "number": '{"pack_id":"number","version":"1.0.0","x":' + "9" * 400_000 + "}",
        "infinite": '{"pack_id":"infinite","version":"1.0.0","x":1e999}',
        "half": '{"pack_id":"half","version":"1.0.0","description":"\\ud800"}',
        "alias": "a: &a [x, x]\nb: &b [*a, *a]\n",
    }
    for name, text in raw.items():
        host.put_pack(name, {**pack(name), "backend/ecosystem.json": text})
    manifests = {
        "climbs": component("service", "../../x", provides=("climbs.x",)),
        "colons": component("ser:vice\n", "main:1", provides=("colons.x",)),
        "keys": component("service", "main", provides=("a b", "*", "..", "x\x1b[31m")),
        "many": component("service", "main", provides=tuple(f"k{n}.x" for n in range(20_000))),
    }
    for name, text in manifests.items():
        host.put_pack(name, {**pack(name), "backend/components/main/manifest.json": text})
    for name, link in (("endless", "/dev/zero"), ("reader", "/etc/passwd")):
        folder = host.put_pack(name, pack(name))
        (folder / "backend/ecosystem.json").unlink()
        (folder / "backend/ecosystem.json").symlink_to(link)
    fifo = host.put_pack("fifo", pack("fifo")) / "backend/components/main/manifest.json"
    fifo.unlink()
    os.mkfifo(fifo)
    moved = host.put_pack("moved", pack("moved"))
    (moved / "backend").rename(moved / "elsewhere")
    (moved / "backend").symlink_to("elsewhere")
    host.put_pack("honest", pack("honest"))

    started = time.monotonic()
    host.ok("POST", "/api/packs/scan")
    assert time.monotonic() - started < 10
    listed = {one["pack_id"]: one for one in host.ok("GET", "/api/packs")}
    hostile = [*raw, *manifests, "endless", "reader", "fifo", "moved"]
    assert {name: listed[name]["status"] for name in hostile} == dict.fromkeys(hostile, "error")
    assert all(listed[name]["detail"] and len(listed[name]["detail"]) < 600 for name in hostile)
    assert "root:" not in json.dumps(listed), "no byte of what a link leads to is shown"
    assert listed["honest"]["status"] == "installed"
    for name in hostile:
        assert host.request("POST", f"/api/packs/{name}/approve")[0] in {409, 422}


@pytest.mark.embedded
def test_a_sparse_or_bottomless_folder_is_refused_before_it_is_read(host: RunningHost) -> None:
    with (host.put_pack("sparse", pack("sparse")) / "big.bin").open("wb") as file:
        file.truncate(50 << 30)
    (host.put_pack("bottomless", pack("bottomless")).joinpath(*["d" * 50] * 60)).mkdir(parents=True)
    for name in ("sparse", "bottomless"):
        started = time.monotonic()
        status, envelope = host.request("POST", f"/api/packs/{name}/approve")
        assert (status, envelope["code"]) == (409, "tree_refused")
        assert time.monotonic() - started < 10


@pytest.mark.embedded
def test_permissions_that_nobody_may_grant_are_errors(host: RunningHost) -> None:
    asked: dict[str, dict[str, Any]] = {
        "rises": {"type": "userdata.write", "paths": ["../permissions/**"]},
        "globs": {"type": "userdata.write", "paths": ["per*/**"]},
        "all": {"type": "userdata.read", "paths": ["**"]},
        "greedy": {"type": "resources", "memory_mb": 1e18},
        "starving": {"type": "resources", "cpu": -5},
    }
    for name, request in asked.items():
        document = {"pack_id": name, "permissions": [{**request, "reason": "x"}]}
        host.put_pack(name, {**pack(name), "backend/permissions.json": json.dumps(document)})
    host.ok("POST", "/api/packs/scan")
    assert {name: host.status(name)["status"] for name in asked} == dict.fromkeys(asked, "error")


@pytest.mark.embedded
def test_what_the_operator_reads_before_deciding_is_plain_text(host: RunningHost) -> None:
    permissions = {
        "pack_id": "painter",
        "permissions": [{"type": "network", "domains": ["a.example"], "ports": [443], "reason": PAINT}],
    }
    files = {**pack("painter", description=PAINT), "backend/permissions.json": json.dumps(permissions)}
    host.put_pack("painter", files)
    host.put_pack("shouter", pack("shouter", display_name=PAINT + "A" * 10_000))
    host.ok("POST", "/api/packs/scan")
    for words in (
        ("pack", "list"),
        ("pack", "review", "painter"),
        ("pack", "show", "painter"),
        ("pack", "review", "shouter"),
        ("status",),
    ):
        said = rumi(host, *words)
        assert said
        assert obeyed(said) == set(), words
    assert "safe\\" in rumi(host, "pack", "review", "painter"), (
        "the words are shown, with what a terminal obeys as escapes"
    )
    connection = http.client.HTTPConnection("127.0.0.1", host.web_port, timeout=20)
    connection.request("GET", "/", headers={"Host": f"localhost:{host.web_port}"})
    answer = connection.getresponse()
    page = answer.read().decode()
    connection.close()
    assert "painter" in page
    assert "<script>alert" not in page
    assert "<b>yes" not in page
    assert obeyed(page) == set()
    assert "script-src 'self'" in str(answer.getheader("Content-Security-Policy"))


@pytest.mark.embedded
def test_metadata_becomes_no_option_of_the_sandbox(host: RunningHost) -> None:
    hostile = {
        "labels": {"rumi.installation": "another", "rumi.pack": "another"},
        "env": {"LD_PRELOAD": "/pack/x.so", "PYTHONSTARTUP": "/pack/x.py"},
        "user": 0,
        "privileged": True,
        "ports": ["80:80"],
        "volumes": ["/:/host"],
        "network_mode": "host",
        "runtime": "runc --privileged",
        "command": ["--bind", "/", "/host"],
    }
    files = pack("optional", **hostile)
    files["backend/components/main/setup.py"] = (
        "import os\ndef run(context):\n"
        "    context['interface_registry'].register('optional.x', lambda a, c: [dict(os.environ), os.path.exists('/host'), os.getuid()])\n"
    )
    files |= {
        "Dockerfile": "FROM scratch\n",
        "docker-compose.yml": "services: {x: {privileged: true}}\n",
        ".env": "LD_PRELOAD=/x\n",
    }
    host.put_pack("optional", files)
    host.approve("optional")
    environment, bound, uid = host.result("optional.x")
    assert set(environment) == {"HOME", "LANG", "PATH", "PWD", "TMPDIR"}
    assert bound is False
    assert uid != 0
    rendered = "\n".join(
        path.read_text() for path in (host.home / "ecosystem/docker").rglob("sandbox/*") if path.is_file()
    )
    for word in ("LD_PRELOAD", "80:80", "another"):
        assert word not in rendered

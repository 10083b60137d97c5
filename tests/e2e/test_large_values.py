"""Values longer than a frame on a running host, under each driver and each way into a container, and over HTTP."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from tests.support.running_host import RunningHost, one_component_pack

MIB = 1024 * 1024
SIZE = 20 * MIB
PROVIDER = """
def run(context):
    ir = context["interface_registry"]
    files = context["userdata_manager"]
    ir.register("big.echo", lambda args, ctx: args)
    ir.register("big.make", lambda args, ctx: b"\\x07" * args)

    def keep(args, ctx):
        files.write("packs/big/kept.bin", b"\\x01" * args)
        return len(files.read("packs/big/kept.bin"))

    ir.register("big.keep", keep)
"""
CALLER = """
import hashlib

def run(context):
    ir = context["interface_registry"]
    echo = ir.get("big.echo")

    def there_and_back(args, ctx):
        data = bytes(range(256)) * (args // 256)
        back = echo({"data": data}, ctx)["data"]
        return [len(back), hashlib.sha256(back).digest() == hashlib.sha256(data).digest()]

    ir.register("small.go", there_and_back)
"""


def with_both(host: RunningHost) -> None:
    host.put_pack("big", one_component_pack("big", PROVIDER, provides=("big.echo", "big.make", "big.keep")))
    host.put_pack("small", one_component_pack("small", CALLER, provides=("small.go",), requires=("big.echo",)))
    host.approve("big")
    host.approve("small")


def goes_every_way(host: RunningHost) -> None:
    with_both(host)
    assert host.result("small.go", SIZE) == [SIZE, True]
    assert host.result("big.keep", 3 * MIB) == 3 * MIB
    made = host.result("big.make", 2 * MIB)
    assert base64.b64decode(made["$base64"]) == b"\x07" * 2 * MIB
    status, refused = host.call("big.make", 70 * MIB)
    assert (status, refused["code"]) == (502, "value.too_large")
    codes = {issue["code"] for issue in host.ok("GET", "/api/issues")}
    wrong = {code for code in codes if code.startswith(("limit_", "bus_", "container_"))}
    assert wrong <= {"limit_message"}, "nothing went wrong on the way but what was too long"


def test_values_beyond_a_frame_go_every_way(host: RunningHost) -> None:
    goes_every_way(host)


@pytest.mark.docker
@pytest.mark.slow
def test_and_over_a_containers_attached_stdio(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "docker", {"RUMI_DOCKER_TRANSPORT": "stdio"}) as host:
        goes_every_way(host)

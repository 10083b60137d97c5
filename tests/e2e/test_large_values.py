"""Values longer than a frame on a running host, under each driver and each way into a container, and over HTTP."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.support.running_host import RunningHost, one_component_pack

MIB = 1024 * 1024
SIZE = 20 * MIB
PROVIDER = """
def run(context):
    ir = context["interface_registry"]
    files = context["userdata_manager"]
    ir.register("big.echo", lambda args, ctx: args)
    ir.register("big.size", lambda args, ctx: len(args))
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
    ir.register("small.size", lambda args, ctx: ir.get("big.size")(b"s" * args, ctx))
"""


def with_both(host: RunningHost) -> None:
    host.put_pack("big", one_component_pack("big", PROVIDER, provides=("big.echo", "big.size", "big.make", "big.keep")))
    host.put_pack("small", one_component_pack("small", CALLER, provides=("small.go", "small.size"), requires=("big.echo", "big.size")))
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


def ways(host: RunningHost) -> dict[str, dict[str, Any]]:
    """Which way large values go, by Pack."""
    return {one["pack_id"]: one["large_values"] for one in host.ok("GET", "/api/containers") if one["large_values"]}


def test_values_beyond_a_frame_go_every_way(host: RunningHost) -> None:
    goes_every_way(host)


def test_they_go_in_memory_files_and_nothing_of_them_stays(host: RunningHost) -> None:
    with_both(host)
    assert host.result("small.go", SIZE) == [SIZE, True]
    used = ways(host)
    assert {pack: (one["way"], one["detail"]) for pack, one in used.items()} == {
        "big": ("memory files", ""), "small": ("memory files", ""),
    }  # fmt: skip
    assert (used["big"]["handed"], used["big"]["taken"]) == (1, 1)
    assert (used["small"]["handed"], used["small"]["taken"]) == (1, 1)
    host.until(lambda: not any(one["held_bytes"] for one in ways(host).values()), 10, "them to be let go of")
    files = [entry for entry in Path(f"/proc/{host.pid}/fd").iterdir() if "memfd:value" in target(entry)]
    assert files == []


def target(entry: Path) -> str:
    try:
        return str(entry.readlink())
    except FileNotFoundError:
        return ""


def test_the_largest_value_crosses_within_a_sandboxs_usual_memory(host: RunningHost) -> None:
    """64 MiB of bytes, made by one Pack and read by another, of 256 MiB each; and in one that holds more than them."""
    with_both(host)
    assert host.result("small.size", 64 * MIB) == 64 * MIB
    assert host.result("small.go", 40 * MIB) == [40 * MIB, True]
    assert host.result("small.size", 64 * MIB) == 64 * MIB
    assert {one["restarts"] for one in host.ok("GET", "/api/containers")} == {0}
    # what a file takes counts where it was made: the receiver has room for its own copy
    assert ways(host)["big"]["handed"] == 3


@pytest.mark.docker
@pytest.mark.slow
def test_and_over_a_containers_attached_stdio_in_chunks(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "docker", {"RUMI_DOCKER_TRANSPORT": "stdio"}) as host:
        goes_every_way(host)
        assert {(one["way"], one["detail"]) for one in ways(host).values()} == {
            ("chunks", "the connection carries no descriptors")
        }

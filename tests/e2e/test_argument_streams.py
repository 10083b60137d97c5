"""Streams in arguments through real sandboxes: from HTTP to a Pack, from there to another, and their items back."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.running_host import ROOT, RunningHost, one_component_pack

FRONT = """
def run(context):
    ir = context["interface_registry"]
    def evens(items):
        for item in items:
            if item % 2 == 0:
                yield item
    def through(args, ctx):
        yield from ir.get("back.squares")(evens(args))
    ir.register("front.through", through)
"""
BACK = """
def run(context):
    async def squares(args, ctx):
        async for item in args:
            yield item * item
    context["interface_registry"].register("back.squares", squares)
"""


def test_lines_go_over_two_packs_and_come_back_while_they_are_sent(host: RunningHost) -> None:
    with_both(host)
    lines = (b"%d\n" % number for number in range(2000))
    assert sent(host, lines) == {"result": [number * number for number in range(0, 2000, 2)]}


def test_lines_that_end_early_take_nothing_along(host: RunningHost) -> None:
    """Who stops in the middle of his lines leaves no call behind, in neither Pack: both go on as before."""
    with_both(host)

    def lines() -> Iterator[bytes]:
        yield b"2\n4\n"
        raise ConnectionAbortedError

    for _ in range(20):
        with pytest.raises(ConnectionAbortedError):
            sent(host, lines())
    assert sent(host, iter([b"2\n", b"3\n", b"4\n"])) == {"result": [4, 16]}
    for pack_id in ("front", "back"):
        assert host.status(pack_id)["status"] == "running"


def test_the_command_line_passes_standard_input_as_it_comes(host: RunningHost) -> None:
    """The first item is back before the last one is sent."""
    with_both(host)
    with subprocess.Popen(
        [sys.executable, "-m", "rumi_setup", "call", "front.through", "--lines", "--stream"], cwd=ROOT,
        env={**host._environment, "RUMI_LANG": "en"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"2\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"4\n"
        process.stdin.write(b"3\n4\n")
        process.stdin.close()
        assert process.stdout.read() == b"16\n"
        assert process.wait(30) == 0


def with_both(host: RunningHost) -> None:
    host.put_pack("back", one_component_pack("back", BACK, provides=("back.squares",)))
    host.put_pack("front", one_component_pack("front", FRONT, provides=("front.through",), requires=("back.squares",)))
    host.approve("back")
    host.approve("front")


def sent(host: RunningHost, lines: Iterator[bytes]) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=30)
    headers = {"Host": f"localhost:{host.api_port}", "Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}
    try:
        connection.request("POST", "/api/interfaces/front.through/call", lines, headers, encode_chunked=True)
        return json.loads(connection.getresponse().read())["data"]
    finally:
        connection.close()

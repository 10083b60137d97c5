"""Streams in arguments through real sandboxes: from HTTP to a Pack, from there to another, and their items back."""

from __future__ import annotations

import http.client
import json
from pathlib import Path

import pytest

from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.embedded

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


def test_lines_go_over_two_packs_and_come_back_while_they_are_sent(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "h", "embedded") as host:
        host.put_pack("back", one_component_pack("back", BACK, provides=("back.squares",)))
        host.put_pack("front", one_component_pack("front", FRONT, provides=("front.through",), requires=("back.squares",)))
        host.approve("back")
        host.approve("front")
        connection = http.client.HTTPConnection("127.0.0.1", host.api_port, timeout=30)
        headers = {"Host": f"localhost:{host.api_port}", "Content-Type": "application/x-ndjson", "Transfer-Encoding": "chunked"}
        lines = (b"%d\n" % number for number in range(2000))
        connection.request("POST", "/api/interfaces/front.through/call", lines, headers, encode_chunked=True)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert answer["data"] == {"result": [number * number for number in range(0, 2000, 2)]}

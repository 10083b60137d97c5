"""The host's side of ``tests/vectors``: its parser, and the real bus, frame by frame."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from core_runtime.rules import frames
from tests.support import host_conversations, vectors
from tests.support.raw_agent import eventually, rig

HOST = vectors.load("host")
ENTRIES = [
    entry
    for name in ("transcripts", "host")
    for conversation in vectors.load(name)
    for entry in vectors.frames_of(conversation)
]
REFUSED = [entry for entry in vectors.load("refused") if entry["by"] == "host"]


@pytest.mark.parametrize("conversation", HOST, ids=lambda c: c["name"])
def test_the_host_holds_its_side_of_the_conversation(conversation: dict[str, Any]) -> None:
    said = asyncio.run(asyncio.wait_for(host_conversations.run(conversation["name"], conversation["steps"]), 60))
    for got, expected in zip(said, conversation["steps"], strict=True):
        assert got == expected


def test_the_hosts_parser_takes_every_frame_of_an_agent() -> None:
    seen: set[str] = set()
    for entry in ENTRIES:
        if entry["from"] == "agent" and not entry.get("any"):
            frame = frames.parse(bytes.fromhex(entry["hex"])[4:])
            assert frame.__struct_config__.tag == vectors.from_json(entry["value"])[0]
            assert frame.id == entry["value"][1]
            seen.add(entry["kind"])
    assert len(seen) > 12


def test_hex_and_value_are_the_same_frame() -> None:
    for entry in ENTRIES:
        assert vectors.encode(vectors.from_json(entry["value"])).hex() == entry["hex"]
        assert vectors.KINDS[entry["value"][0]] == entry["kind"]


def test_the_host_ends_the_connection_on_everything_that_is_no_frame(tmp_path) -> None:
    async def main() -> None:
        async with rig(tmp_path) as r:
            for number, entry in enumerate(REFUSED, 1):
                agent, session = await r.agent("alpha", number, provides={"k"}, calls={"k"})
                agent.raw(bytes.fromhex(entry["hex"]))
                reason = await asyncio.wait_for(session.closed, 5)
                assert reason.startswith("protocol:"), (entry["name"], reason)
                await eventually(lambda: "alpha" not in r.bus.sessions)

    asyncio.run(main())

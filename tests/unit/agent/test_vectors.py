"""The agent's side of ``tests/vectors``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support import vectors
from tests.support.fake_host import AGENT, BusError, FakeHost


@pytest.mark.parametrize("codec", ["c", "pure"])
@pytest.mark.parametrize("transcript", vectors.load("transcripts"), ids=lambda t: t["name"])
def test_transcript(transcript: dict[str, Any], codec: str, runtime: Path) -> None:
    agent = runtime / "container_agent.py" if codec == "c" else AGENT
    with vectors.Wire(transcript["pack"], agent) as wire:
        for frame in transcript["frames"]:
            if frame["from"] == "host":
                wire.send(vectors.from_json(frame["value"]))
            else:
                got = vectors.to_json(wire.receive())
                varying = frame.get("any", [])
                assert vectors.masked(got, varying) == frame["value"], frame["kind"]


@pytest.mark.parametrize("transcript", vectors.load("transcripts"), ids=lambda t: t["name"])
def test_hex_and_value_are_the_same_frame(transcript: dict[str, Any]) -> None:
    for frame in transcript["frames"]:
        assert vectors.encode(vectors.from_json(frame["value"])).hex() == frame["hex"]
        assert vectors.KINDS[frame["value"][0]] == frame["kind"]


@pytest.mark.parametrize("entry", vectors.load("values"), ids=lambda e: e["name"])
def test_value_goes_through_a_handler_unchanged(entry: dict[str, Any], start, host: FakeHost) -> None:
    start("def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)")
    value = vectors.from_json(entry["value"])
    assert msgpack.packb(value).hex() == entry["hex"]
    answer = host.start_call("echo", value).frame()
    assert msgpack.packb(answer[4]).hex() == entry["hex"]


@pytest.mark.parametrize("entry", vectors.load("refused"), ids=lambda e: e["name"])
def test_what_is_refused(entry: dict[str, Any], start, host: FakeHost) -> None:
    peer = start("def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)")
    data = bytes.fromhex(entry["hex"])
    if entry["outcome"] == "protocol":
        peer.sock.sendall(data)
        assert peer.process.wait(10) == 4
        return
    with pytest.raises(BusError) as caught:
        peer.start_call(host.entry("echo").refs[0][1], None, raw_body=data).result()
    assert caught.value.type == entry["outcome"]
    assert host.call("echo", 1) == 1

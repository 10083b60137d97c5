"""The agent's side of ``tests/vectors``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgpack
import pytest

from tests.support import vectors
from tests.support.fake_host import AGENT, FakeHost

PROTOCOL_EXIT = 4
AGENTS = ["c", "pure", pytest.param("node", marks=pytest.mark.node)]


def program(agent: str, runtime: Path) -> list[str]:
    """Rumi's agent with msgpack's C extension, the same with its own codec, and the one in another language."""
    if agent == "node":
        return vectors.node_agent()
    return [sys.executable, "-I", "-S", str(runtime / "container_agent.py" if agent == "c" else AGENT)]


@pytest.mark.parametrize(
    ("agent", "transcript"),
    [
        pytest.param(agent, transcript, marks=[pytest.mark.node] if agent == "node" else [], id=f"{transcript['name']}-{agent}")
        for transcript in vectors.load("transcripts")
        for agent in ("c", "pure", "node")
        if agent != "node" or not vectors.has_descriptors(transcript)  # its standard library receives none
    ],
)
def test_transcript(transcript: dict[str, Any], agent: str, runtime: Path) -> None:
    with vectors.Wire(transcript["pack"], program(agent, runtime)) as wire:
        assert vectors.play(transcript, wire, foreign=agent == "node") == []


@pytest.mark.parametrize("transcript", vectors.load("transcripts"), ids=lambda t: t["name"])
def test_hex_and_value_are_the_same_frame(transcript: dict[str, Any]) -> None:
    for frame in vectors.frames_of(transcript):
        assert vectors.encode(vectors.from_json(frame["value"])).hex() == frame["hex"]
        assert vectors.KINDS[frame["value"][0]] == frame["kind"]


@pytest.mark.parametrize("entry", vectors.load("values"), ids=lambda e: e["name"])
def test_value_goes_through_a_handler_unchanged(entry: dict[str, Any], start, host: FakeHost) -> None:
    start("def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)")
    value = vectors.from_json(entry["value"])
    assert msgpack.packb(value).hex() == entry["hex"]
    answer = host.start_call("echo", value).frame()
    assert msgpack.packb(answer[4]).hex() == entry["hex"]


REFUSED = [entry for entry in vectors.load("refused") if entry["by"] == "agent"]
ECHO = {
    "backend/components/one/setup.py": "def run(c): c['interface_registry'].register('echo', lambda args, ctx: args)",
    "backend/components/one/setup.js": "exports.run = ({ registry }) => registry.register('echo', (args) => args);",
}


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_refused(agent: str, runtime: Path) -> None:
    """``protocol`` ends the connection, at once and by a deliberate exit; a body fails its call and nothing else."""
    for entry in REFUSED:
        with vectors.Wire(ECHO, program(agent, runtime)) as wire:
            register = wire.begin()
            data = bytes.fromhex(entry["hex"])
            if entry["outcome"] == "protocol":
                wire.sock.sendall(data)
                with pytest.raises((EOFError, ConnectionResetError)):
                    while True:
                        wire.receive()
                assert wire.process.wait(10) == PROTOCOL_EXIT, entry["name"]
                continue
            wire.sock.sendall(vectors.with_body(register, 2, data))
            assert wire.receive()[:3] == [3, 2, entry["outcome"]], entry["name"]
            wire.sock.sendall(vectors.with_body(register, 3, b"\x01"))
            assert wire.receive() == [2, 3, 0, [], 1], entry["name"]


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("index", [b"\xd4\x01\xff", b"\xd4\x01\xc3", b"\xd4\x01\x90"], ids=["negative", "true", "array"])
def test_a_reference_is_an_unsigned_index_and_nothing_else(agent: str, index: bytes, runtime: Path) -> None:
    """What another Pack wrote reaches no callable that it did not name, and what came with it is given back."""
    with vectors.Wire(ECHO, program(agent, runtime)) as wire:
        register = wire.begin()
        wire.sock.sendall(vectors.with_body(register, 2, index, [[0, 701]]))
        answers = sorted([wire.receive(), wire.receive()])
        assert answers[0][:3] == [3, 2, "value.malformed"]
        assert answers[1] == [37, 0, [701]]


@pytest.mark.parametrize("agent", AGENTS)
def test_references_of_another_shape_are_no_frame(agent: str, runtime: Path) -> None:
    for refs in ([0, 1], [[0]], [["0", 1]], [[0, 1, 2]], [[0, -1]], [[3, 1]], [{}], 5):
        with vectors.Wire(ECHO, program(agent, runtime)) as wire:
            register = wire.begin()
            wire.sock.sendall(vectors.with_body(register, 2, b"\xd4\x01\x00", refs))
            with pytest.raises((EOFError, ConnectionResetError)):
                while wire.receive()[0] == 23:
                    pass
            assert wire.process.wait(10) == PROTOCOL_EXIT, refs

"""What a call costs inside a sandbox, counted in Python's own steps: time depends on the machine, these do not."""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

import msgpack
import msgpack._cmsgpack
import pytest

from tests.support.agent_module import load_agent

CALLS = 40
ARGUMENTS = {"text": "x" * 80}
AGENT: Any = load_agent()


class Enough(Exception):  # noqa: N818 - nothing failed
    """All frames were read."""


class Wire:
    """A host that sends one call, waits for its answer, and sends the next; calls of the agent's own are echoed."""

    def __init__(self, calls: int) -> None:
        self.left = calls
        self.answers: list[Any] = []
        self.next: list[Any] | None = None

    def recv_into(self, view: Any) -> int:
        frame, self.next = self.next, None
        if frame is None:
            if not self.left:
                raise Enough
            self.left -= 1
            frame = [AGENT.CALL, self.left + 1, 1, 30_000, 0, 0, 0, ["", "kernel", [], None], None, [], ARGUMENTS]
        data = msgpack.packb(frame)
        view[: 4 + len(data)] = len(data).to_bytes(4, "little") + data
        return 4 + len(data)

    def wait(self, _until: float | None) -> bool:
        return True

    def send(self, data: bytes) -> None:
        frame = msgpack.unpackb(data[4:])
        if frame[0] == AGENT.CALL:
            self.next = [AGENT.RESULT, frame[1], 0, [], frame[-1]]
        else:
            self.answers.append(frame)


def steps(handler: Any) -> float:
    """Steps of the agent's own code for each call of ``handler(agent)``."""
    warm = 5
    wire = Wire(CALLS + warm)
    agent = AGENT.Agent(wire, AGENT.FastCodec(msgpack._cmsgpack))
    agent.export(AGENT.Export(handler(agent)))
    counted = 0

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != AGENT.__file__:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def step(_frame: FrameType, event: str, _argument: Any) -> Any:
            nonlocal counted
            counted += event == "opcode" and wire.left < CALLS
            return step

        return step

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(Enough):
            agent.lead(None)
    finally:
        sys.settrace(before)
    assert [frame[:3] for frame in wire.answers] == [[AGENT.RESULT, n, 0] for n in range(CALLS + warm, 0, -1)]
    assert all(frame[-1] == ARGUMENTS for frame in wire.answers)
    assert not agent.runs
    assert not agent.pending
    return counted / CALLS


def test_a_call_of_a_plain_handler_takes_few_steps() -> None:
    assert 100 < steps(lambda _agent: lambda args, _ctx: args) < 600


def test_a_handler_that_calls_another_pack_takes_few_steps() -> None:
    def relay(agent: Any) -> Any:
        other = AGENT.Function(agent, key="other")
        return lambda args, _ctx: other(args)

    assert 100 < steps(relay) < 1_300

"""Whatever bytes come: both ends of the bus answer with a value or the one refusal, in bounded time and memory.

The runs here are short and bounded by number; `python -m tests.fuzz` is the same without an end (docs/testing.md).
"""

from __future__ import annotations

import contextlib
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core_runtime.rules import frames, values
from tests.fuzz import cost, guided, targets

INPUTS = 4_000
SECONDS = 6.0


@pytest.mark.parametrize("name", targets.NAMES)
def test_a_guided_run_finds_nothing(name: str, request: pytest.FixtureRequest) -> None:
    seed = int(request.config.getoption("randomly_seed", 1)) % (1 << 31)
    with targets.target(name) as work:
        result = guided.run(work, targets.seeds(name), seed=seed, inputs=INPUTS, seconds=SECONDS)
    assert result.inputs > len(targets.seeds(name)) // 2
    assert result.steps > 50, "the watched files were not reached"
    assert result.slowest_s < 5


def test_a_guided_run_finds_what_there_is() -> None:
    """The engine itself: a fault behind four steps is found from a seed that is none of them."""

    def faulty(data: bytes) -> None:
        try:
            parsed = values.unpack(data)
        except values.ValueProblem:
            return
        if isinstance(parsed, dict) and len(parsed) == 1 and [*parsed.values()] == [None]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        guided.run(faulty, [b"\x81\xa1a\x01"], seed=1, inputs=50_000, seconds=60)
    assert "input 81" in caught.value.__notes__[0]


@given(st.lists(st.one_of(st.binary(max_size=60), st.sampled_from([frames.PING, 1, 2, 64]).map(lambda kind: bytes([0x92, kind, 1]))), max_size=8), st.integers(0, 255))
@settings(max_examples=150, deadline=None)
def test_streams_cut_anywhere_are_the_same_frames(parts: list[bytes], step: int) -> None:
    stream = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
    for target in (targets.host_stream, targets.agent_stream):
        target(bytes([step]) + stream)


READERS = {
    "the host's parser": lambda data: _quiet(frames.FrameError, lambda: frames.parse(data)),
    "the host's walk": lambda data: _quiet(values.ValueProblem, lambda: values.check_nodes(data, 131_072)),
    "the host's values": lambda data: _quiet(values.ValueProblem, lambda: values.unpack(data, values.no_references)),
    "the agent, C": lambda data: _agent(0, data),
    "the agent, Python": lambda data: _agent(1, data),
}


def _quiet(refusal: type[Exception], work) -> None:
    with contextlib.suppress(refusal):
        work()


def _agent(codec: int, data: bytes) -> None:
    agent = list(targets._agents([]))[codec]
    module = targets.agent_module()
    with contextlib.suppress(module.ProtocolError, module.RemoteError):
        body = agent.parse(memoryview(data))[-1]
        if type(body) is module.Raw:
            agent.decode(body)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("bomb", cost.BOMBS)
def test_a_bomb_costs_a_small_multiple_of_its_length(bomb: str, reader: str) -> None:
    for data in cost.frames_of(cost.BOMBS[bomb]):
        times, peak_bytes = cost.measured(partial(READERS[reader], data))
        assert cost.problem(len(data), times, peak_bytes) == ""

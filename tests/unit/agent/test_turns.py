"""How long a thread of a sandbox keeps the interpreter from the others of its Pack."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.support.agent_module import load_agent
from tests.support.fake_host import FakeHost, wait_until

AGENT: Any = load_agent()
LONG, SHORT = AGENT.LONG_TURN_S, AGENT.SHORT_TURN_S
IN_TIME, LATE = 0.0001, LONG

PACK = """
    import sys
    def run(context):
        ir = context["interface_registry"]
        enough = []
        def computes(args, ctx):
            while not enough:
                sum(range(500))
        ir.register("computes", computes)
        ir.register("enough", lambda: enough.append(1))
        ir.register("turn", lambda: round(sys.getswitchinterval(), 6))
"""


def test_turns_are_short_while_a_handler_computes_and_long_again_afterwards(start, host: FakeHost) -> None:
    start(PACK)
    wait_until(lambda: host.call("turn") == LONG, "the usual turn", 20)  # a busy machine may have kept the ticker waiting
    computing = host.start_call("computes", None)
    wait_until(lambda: host.call("turn") == SHORT, "others to be served in between")
    host.call("enough")
    computing.result(20)
    wait_until(lambda: host.call("turn") == LONG, "the usual turn", 20)


def turns() -> tuple[Any, list[float]]:
    said: list[float] = []
    return AGENT.Turns(said.append), said


def test_a_thread_that_keeps_it_shortens_every_turn_and_longer_each_time() -> None:
    look, said = turns()
    spans = []
    for _ in range(12):
        look.look(LATE)
        assert said[-1] == SHORT
        ticks = 0
        while said[-1] == SHORT:
            look.look(SHORT)
            ticks += 1
        spans.append(ticks)
    assert spans[:3] == [AGENT.Turns.SPAN, 2 * AGENT.Turns.SPAN, 4 * AGENT.Turns.SPAN]
    assert spans[-1] == AGENT.Turns.LONGEST_SPAN


def test_after_a_calm_time_the_next_span_is_short_again() -> None:
    look, said = turns()
    for _ in range(3):
        look.look(LATE)
        while said[-1] == SHORT:
            look.look(IN_TIME)
    for _ in range(AGENT.Turns.CALM):
        look.look(IN_TIME)
    look.look(LATE)
    assert look.left == AGENT.Turns.SPAN


@given(st.lists(st.floats(0, 1), max_size=300))
def test_whatever_the_ticks_say_no_turn_is_another_than_these_two(late: list[float]) -> None:
    look, said = turns()
    for late_s in late:
        look.look(late_s)
        assert look.left <= AGENT.Turns.LONGEST_SPAN
        assert (said[-1] == SHORT) == (look.left > 0)
    assert set(said) <= {LONG, SHORT}

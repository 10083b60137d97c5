"""Which calls may have a thread: the rule by itself, and a model of many Packs whose calls wait for each other."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

from tests.support.agent_module import load_agent

AGENT: Any = load_agent()
HOST = "kernel"
DEPTHS = 32


class Asked:
    """What the rule looks at of a call."""

    def __init__(self, caller: str, depth: int) -> None:
        self.context = ("", caller, (), None)
        self.depth = depth
        self.slot: int | None = None
        self.caller: Any = None


def slots(threads: int) -> Any:
    return AGENT.Slots(threading.Lock(), threads)


def asks(rule: Any, caller: str, depth: int = 0) -> Any:
    """A call that wants a thread; its ``slot`` is None while it waits."""
    run = Asked(caller, depth)
    assert rule.admit(run) is (run if run.slot is not None else None)
    return run


def ends(rule: Any, run: Any) -> list[Any]:
    """Those that may start in its place."""
    assert run.slot is not None
    ready = [rule.give_back(run)]
    while ready[-1] is not None:
        ready.append(rule.next())
    run.slot = None
    return ready[:-1]


def takes_all(rule: Any, caller: str, depths: int = DEPTHS) -> list[Any]:
    """What somebody gets whose calls never end, at any depth."""
    runs = [asks(rule, caller, depth) for depth in range(depths + 1) for _ in range(100)]
    return [run for run in runs if run.slot is not None]


def test_a_pack_leaves_half_of_what_it_finds_and_the_host_may_take_all() -> None:
    rule = slots(48)
    assert sum(asks(rule, "a").slot == AGENT.SHARED for _ in range(100)) == 24
    assert sum(asks(rule, "b").slot == AGENT.SHARED for _ in range(100)) == 12
    assert sum(asks(rule, HOST).slot == AGENT.SHARED for _ in range(100)) == 12
    rule = slots(48)
    assert sum(asks(rule, "").slot is not None for _ in range(100)) == 49, "and the one that is its own"


def test_packs_whose_calls_end_come_to_equal_parts() -> None:
    rule = slots(48)
    running = [run for run in [asks(rule, name) for _ in range(200) for name in "ab"] if run.slot is not None]
    chance = random.Random(1)
    for _ in range(300):
        running += ends(rule, running.pop(chance.randrange(len(running))))
    held = [sum(run.slot == AGENT.SHARED and run.context[1] == name for run in running) for name in "ab"]
    assert min(held) >= 15, held
    assert sum(held) <= 33, "a third is left for the next"


@pytest.mark.parametrize("hostile", [1, 2, 6, 20])
@pytest.mark.parametrize("threads", [1, 2, 48])
def test_whoever_holds_nothing_gets_a_thread_at_any_depth_whatever_others_hold(hostile: int, threads: int) -> None:
    rule = slots(threads)
    held = [run for number in range(hostile) for run in takes_all(rule, f"h{number}")]
    assert len(held) <= threads + DEPTHS + max(1, threads // 2) + hostile
    for depth in (0, 1, 7, DEPTHS):
        for caller in ("a", "b", HOST):
            run = asks(rule, caller, depth)
            assert run.slot is not None, (caller, depth)
            ends(rule, run)


def test_beside_one_that_takes_all_there_are_threads_and_depths_for_another() -> None:
    rule = slots(48)
    takes_all(rule, "h")
    runs = [asks(rule, "a", depth) for depth in (1,) * 12 + (1, 3, 5, 7, 9, 11)]
    assert all(run.slot is not None for run in runs)
    assert asks(rule, "a", 13).slot is None


def test_each_caller_has_its_turn_and_its_deepest_call_goes_first() -> None:
    rule = slots(9)
    host = [asks(rule, HOST) for _ in range(9)]
    takes_all(rule, "h")
    for run in rule.queued():
        rule.unqueue(run)
    for name in "abc":
        assert asks(rule, name, 1).slot == AGENT.OWN_SLOT - 1
    waiting = {name: [asks(rule, name, depth) for depth in (1, 2, 3, 2)] for name in "abc"}
    began = [run for one in host for run in ends(rule, one)]
    assert [(run.context[1], run.depth) for run in began] == [("a", 3), ("b", 3), ("c", 3), ("a", 2), ("b", 2), ("c", 2), ("a", 2)]
    assert began[3] is waiting["a"][1], "of one depth, who came first"


def test_one_that_ends_may_make_room_for_two() -> None:
    rule = slots(3)
    first = [asks(rule, name) for name in "ab"]
    assert [run.slot for run in first] == [AGENT.SHARED] * 2
    own = [asks(rule, name) for name in "ba"]
    waits = [asks(rule, name) for name in "ba"]
    assert [run.slot for run in own + waits] == [AGENT.OWN_SLOT] * 2 + [None] * 2
    assert ends(rule, first[0]) == waits


def test_what_waits_can_be_taken_out_once() -> None:
    rule = slots(1)
    takes_all(rule, "h", 0)
    asks(rule, "a")
    first, second = asks(rule, "a"), asks(rule, "a")
    assert rule.queued()[-2:] == [first, second]
    assert rule.unqueue(first)
    assert not rule.unqueue(first)
    assert rule.unqueue(second)
    assert not any(run.context[1] == "a" for run in rule.queued())
    assert [caller.is_host for caller in rule.line] == [False]


@pytest.mark.parametrize("seed", range(20))
def test_nothing_waits_that_may_have_a_slot_and_all_slots_come_back(seed: int) -> None:
    chance = random.Random(seed)
    threads = chance.choice((1, 2, 5, 48))
    rule = slots(threads)
    names = ["a", "b", "c", "d", HOST][: chance.randint(1, 5)]
    running: list[Any] = []
    waiting: list[Any] = []
    for _ in range(1_500):
        move = chance.random()
        if move < 0.5:
            run = asks(rule, chance.choice(names), chance.randrange(6))
            (waiting if run.slot is None else running).append(run)
        elif move < 0.6 and waiting:
            assert rule.unqueue(waiting.pop(chance.randrange(len(waiting))))
        elif running:
            ready = ends(rule, running.pop(chance.randrange(len(running))))
            running += ready
            waiting = [run for run in waiting if run not in ready]
        assert not any(run.slot for run in waiting)
        assert {id(run) for run in rule.queued()} == {id(run) for run in waiting}
        assert rule.next() is None
        assert sum(run.slot == AGENT.SHARED for run in running) == threads - rule.left <= threads
        assert len({run.slot for run in running if run.slot > 0}) == sum(run.slot > 0 for run in running)
    while running:
        running += ends(rule, running.pop())
    assert not rule.queued()
    assert (rule.left, rule.spare, rule.depths, len(rule.line)) == (threads, max(1, threads // 2), set(), 0)


class World:
    """Packs that call each other. A chain is a path through them: each call keeps its thread until what it called ended."""

    def __init__(self, packs: str, threads: int) -> None:
        self.packs = {name: slots(threads) for name in packs}

    def run(self, paths: list[str], chance: random.Random) -> int:
        """How many chains come to their end."""
        stacks: list[list[Any]] = [[] for _ in paths]
        left = set(range(len(paths)))
        while True:
            free = [at for at in left if not stacks[at] or stacks[at][-1].slot is not None]
            if not free:
                return len(paths) - len(left)
            at = chance.choice(free)
            path, stack = paths[at], stacks[at]
            if len(stack) < len(path) and path[len(stack) : len(stack) + 1] != "!":
                caller = path[len(stack) - 1] if stack else HOST
                stack.append(asks(self.packs[path[len(stack)]], caller, len(stack)))
                continue
            paths[at] = path[: len(stack) - 1] + "!"
            ends(self.packs[path[len(stack) - 1]], stack.pop())
            if not stack:
                left.discard(at)


@pytest.mark.parametrize("threads", [1, 3, 48])
def test_chains_of_any_shape_come_to_their_end(threads: int) -> None:
    chance = random.Random(threads)
    for _ in range(12):
        world = World("abcd", threads)
        paths = ["".join(chance.choice("abcd") for _ in range(chance.randint(1, 9))) for _ in range(150)]
        assert world.run(paths, chance) == 150


def test_it_is_the_slot_of_each_depth_that_lets_chains_cross() -> None:
    """The model can fail: with those slots taken, as by hostile callers, chains of two Packs stop each other."""
    chance = random.Random(1)
    world = World("ab", 2)
    for rule in world.packs.values():
        rule.depths.update(range(DEPTHS + 1))
    assert world.run(["ababab", "bababa"] * 30, chance) < 60


def test_chains_cross_beside_a_caller_that_holds_all_it_can_everywhere() -> None:
    chance = random.Random(2)
    for _ in range(6):
        world = World("ab", 48)
        for rule in world.packs.values():
            takes_all(rule, "h")
        assert world.run(["ababab", "bababa"] * 60, chance) == 120


class Silent:
    """A connection on which nobody listens."""

    def send(self, _data: bytes) -> None:
        """Nothing."""


class Both:
    """The leader of an agent, whose calls may leave their slot to their caller's next, beside the rule without that."""

    def __init__(self, threads: int) -> None:
        self.agent = AGENT.Agent(Silent(), AGENT.PureCodec())
        self.agent.share(threads)
        self.agent.employ = lambda run, _lead: self.began.append(run)
        self.agent.export(AGENT.Export(lambda args: args))
        self.rule = slots(threads)
        self.began: list[Any] = []
        self.held: dict[int, tuple[Any, Any]] = {}
        self.number = 0
        self.lent = 0

    def call(self, caller: str) -> None:
        """One that ends at once, or is cancelled where it would wait."""
        self.number += 1
        agent, twin = self.agent, Asked(caller, 0)
        self.rule.admit(twin)
        self.lent += any(one is agent.slots.callers.get(caller) for one in agent.slots.lent)
        fields = [AGENT.CALL, self.number, 1, 0, 0, 0, 0, ["", caller, [], None], None, [], 1]
        owned, run = agent.serve(fields, threading.get_ident())
        if run is not None:
            owned, run = agent.run_inline(run)
        assert owned
        if twin.slot is None:
            waits = agent.runs.pop(self.number)
            assert agent.slots.unqueue(waits)
            assert self.rule.unqueue(twin)
        else:
            assert not agent.runs, "it had a slot and is over"
            self.follows(run, ends(self.rule, twin))

    def hold(self, caller: str, depth: int) -> None:
        """One that ends later."""
        self.number += 1
        run, twin = Asked(caller, depth), Asked(caller, depth)
        self.held[id(twin)] = run, twin
        assert (self.agent.admit(run) is run) == (self.rule.admit(twin) is twin)
        assert run.slot == twin.slot

    def end(self, twin: Any) -> None:
        run = self.held.pop(id(twin))[0]
        ready = self.agent.more(self.agent.slots.give_back(run))
        self.follows(ready, ends(self.rule, twin))

    def follows(self, ready: Any, twins: list[Any]) -> None:
        """What begins next is the same, and has the same slots."""
        began, self.began = [run for run in (ready, *self.began) if run is not None], []
        assert began == [self.held[id(twin)][0] for twin in twins]
        assert [run.slot for run in began] == [twin.slot for twin in twins]

    def same(self) -> None:
        lent = self.agent.slots.lent
        assert self.agent.slots.left + len(lent) == self.rule.left
        assert not (lent and self.agent.slots.line), "nothing is lent while somebody waits"
        for name, caller in self.rule.callers.items():
            mine = self.agent.slots.callers[name]
            assert mine.held - (mine in lent) == caller.held


@pytest.mark.parametrize("seed", range(20))
def test_a_slot_that_stays_with_its_caller_keeps_nobody_from_one(seed: int) -> None:
    chance = random.Random(seed)
    both = Both(chance.choice((1, 2, 5, 48)))
    names = [HOST, "a", "b", "c", *(f"d{n}" for n in range(20))][: chance.choice((2, 4, 24))]
    for _ in range(1_500):
        move = chance.random()
        if move < 0.6:
            both.call(chance.choice(names))
        elif move < 0.72:
            both.hold(chance.choice(names), chance.randrange(3))
        else:
            running = [twin for _run, twin in both.held.values() if twin.slot is not None]
            if running:
                both.end(chance.choice(running))
        both.same()
    assert both.lent > 10


def test_a_slot_that_stayed_is_no_more_the_callers_once_others_hold_the_rest() -> None:
    both = Both(5)
    for _ in range(5):
        both.hold(HOST, 0)
    both.hold("a", 0)
    assert [twin.slot for _run, twin in both.held.values()] == [AGENT.SHARED] * 5 + [AGENT.OWN_SLOT]
    for _run, twin in list(both.held.values())[:3]:
        both.end(twin)
    both.call("a")
    both.hold("a", 0)
    both.hold(HOST, 0)
    assert len(both.agent.slots.lent) == 1
    assert both.agent.slots.left == 0
    both.same()
    both.call("a")
    assert both.number == 10
    assert not both.agent.slots.lent, "it waited, before which all is given back"
    both.same()

"""Less is less: whatever is taken away, nothing remains that was not held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from core_runtime.rules.grants import Mode, Permission, freeze
from core_runtime.rules.narrowing import as_choices, with_added, without, without_unused
from core_runtime.rules.permissions import Choice, parse_choices


def held(kind: str, mode: Mode = Mode.ALWAYS, until: float | None = None, **params: Any) -> Permission:
    return Permission(kind, freeze(params), mode, until)


CALLS = held("interface.call", keys=["a", "b"])
ONCE = held("interface.call", Mode.ONCE, keys=["c"])
READ = held("userdata.read", paths=["shared/**"])
LIMITS = held("resources", memory_mb=512, cpu=2)
ALL = (CALLS, ONCE, READ, LIMITS)


@pytest.mark.parametrize(
    ("removals", "left"),
    [
        ([], ALL),
        (["interface.call"], (READ, LIMITS)),
        (["event.publish"], ALL),
        ([{"type": "interface.call", "keys": ["a"]}], (held("interface.call", keys=["b"]), ONCE, READ, LIMITS)),
        ([{"type": "interface.call", "keys": ["a", "b", "x"]}], (ONCE, READ, LIMITS)),
        ([{"type": "interface.call", "keys": ["c"]}], (CALLS, READ, LIMITS)),
        ([{"type": "interface.call", "keys": "a"}], (held("interface.call", keys=["b"]), ONCE, READ, LIMITS)),
        ([{"type": "userdata.read", "paths": ["shared/x"]}], ALL),
        ([{"type": "resources", "cpu": 2}], (CALLS, ONCE, READ, held("resources", memory_mb=512))),
        ([{"type": "resources", "cpu": 2}, {"type": "resources", "memory_mb": 1}], (CALLS, ONCE, READ)),
    ],
)
def test_without(removals: list[Any], left: tuple[Permission, ...]) -> None:
    assert without(ALL, parse_choices(removals)) == left


def test_unused_items_go_and_what_is_not_counted_stays() -> None:
    used = {("interface.call", "a"), ("interface.call", "c")}
    left = without_unused(ALL, lambda kind, item: (kind, item) in used)
    assert left == (held("interface.call", keys=["a"]), ONCE, LIMITS)
    assert without_unused(ALL, lambda _kind, _item: True) == ALL
    assert without_unused((READ,), lambda _kind, _item: False) == ()


def test_what_is_held_can_be_named_again():
    timed = held("userdata.read", Mode.UNTIL, 5.0, paths=["shared/**"])
    assert as_choices((CALLS, timed)) == (
        Choice("interface.call", CALLS.params), Choice("userdata.read", timed.params, Mode.UNTIL, 5.0)
    )  # fmt: skip


def test_the_same_choice_is_there_once() -> None:
    params: Mapping[str, Any] = {"type": "interface.call", "keys": ["a", "b"]}
    [again, new] = parse_choices([params, {"type": "userdata.read", "mode": "once"}])
    assert with_added(as_choices((CALLS,)), [again, new]) == (Choice("interface.call", CALLS.params), new)


def test_permissions_without_items_are_kept_whatever_is_used() -> None:
    left = without_unused((LIMITS, CALLS), lambda kind, _item: kind == "interface.call")
    assert left == (LIMITS, CALLS)
    assert without_unused((LIMITS,), lambda _kind, _item: False) == (LIMITS,)


@pytest.mark.parametrize(
    ("permission", "removal", "left"),
    [
        # of domains and addresses one may go by itself
        (held("network", domains=["a"], addresses=["1:1"]), {"domains": ["a"]}, held("network", addresses=["1:1"])),
        (held("network", domains=["a"], addresses=["1:1"]), {"addresses": ["1:1"]}, held("network", domains=["a"])),
        (held("network", domains=["a"], addresses=["1:1"]), {"domains": ["a"], "addresses": ["1:1"]}, None),
        (held("network", domains=["a", "b"], ports=[1]), {"domains": ["a"]}, held("network", domains=["b"], ports=[1])),
        (held("network", domains=["a"], ports=[1]), {"domains": ["a"]}, None),
        # without its ports it would reach more, not less
        (held("network", domains=["a"], ports=[1]), {"ports": [1]}, None),
        (held("network", domains=["a"], ports=[1, 2]), {"ports": [1]}, held("network", domains=["a"], ports=[2])),
    ],
    ids=str,
)
def test_what_is_left_of_a_way_out(permission: Permission, removal: dict[str, Any], left: Permission | None) -> None:
    found = without((permission,), parse_choices([{"type": "network", **removal}]))
    assert found == (() if left is None else (left,))

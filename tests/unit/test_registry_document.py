"""The reference of registry and event bus names every method, with the parameters that it has on both sides."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from core_runtime.event_bus import EventBus
from core_runtime.interface_registry import InterfaceRegistry
from tests.support.agent_module import load_agent
from tests.support.documents import ROOT

TEXT = (ROOT / "docs/reference/registry.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"`([a-z_]+)\(([^`]*)\)`", "\n".join(re.findall(r"^\| (`.*?) \|", TEXT, re.MULTILINE))))
IN_THE_HOST = {"InterfaceRegistry": InterfaceRegistry, "EventBus": EventBus}
OURS_ALONE = {"end", "before"}
"""Of the agent: what ends a component's registrations."""
ONLY_INSIDE = {"is_complete"}


def parameters(method: Any) -> str:
    """As a reader writes them: names and defaults, without types."""
    kept = [p.replace(annotation=inspect.Parameter.empty) for p in list(inspect.signature(method).parameters.values())[1:]]
    return str(inspect.Signature(kept))[1:-1].replace("'", '"')


def methods(owner: type) -> dict[str, Any]:
    return {name: each for name, each in vars(owner).items() if inspect.isfunction(each) and not name.startswith("_")}


@pytest.mark.parametrize("name", IN_THE_HOST)
def test_every_method_of_a_pack_stands_there_with_its_parameters(name: str) -> None:
    offered = {method: parameters(each) for method, each in methods(getattr(load_agent(), name)).items() if method not in OURS_ALONE}
    assert offered == {method: SHOWN.get(method) for method in offered}


def test_nothing_stands_there_that_there_is_not() -> None:
    agent = load_agent()
    assert set(SHOWN) == {method for name in IN_THE_HOST for method in methods(getattr(agent, name))} - OURS_ALONE


@pytest.mark.parametrize("name", IN_THE_HOST)
def test_the_host_offers_the_same(name: str) -> None:
    inside, outside = methods(getattr(load_agent(), name)), methods(IN_THE_HOST[name])
    for method in set(inside) - OURS_ALONE - ONLY_INSIDE:
        names = [list(inspect.signature(inspect.unwrap(each[method])).parameters) for each in (inside, outside)]
        assert names[0] == names[1][: len(names[0])], method

"""What a rule answers is a value: whoever holds one can't change it for the others who hold it."""

from __future__ import annotations

import importlib
import pkgutil

import pytest
from msgspec import Struct

from core_runtime import rules

FILLED_STEP_BY_STEP = {"archive.Intake", "budgets.Destination", "exposition.Family", "isolation._Verdict"}
"""Work in progress, held by nobody but who fills it. So are the frames, which a reader of the bus fills, and flows' steps."""
STRUCTS = [
    pytest.param(found, id=f"{module.name.removeprefix('core_runtime.rules.')}.{name}")
    for module in pkgutil.walk_packages(rules.__path__, "core_runtime.rules.")
    if not module.name.startswith(("core_runtime.rules.flow", "core_runtime.rules.frames"))
    for name, found in vars(importlib.import_module(module.name)).items()
    if isinstance(found, type) and issubclass(found, Struct) and found.__module__ == module.name
]


def test_there_are_values_to_look_at() -> None:
    assert len(STRUCTS) > 80


@pytest.mark.parametrize("struct", STRUCTS)
def test_a_value_does_not_change(struct: type[Struct], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.id
    assert struct.__struct_config__.frozen is (name not in FILLED_STEP_BY_STEP)

"""The agent as a module, for tests of what it decides without a connection: it is one file, which no package holds."""

from __future__ import annotations

import importlib.util
from types import ModuleType

from tests.support.fake_host import AGENT


def load_agent() -> ModuleType:
    """A module of its own each time."""
    spec = importlib.util.spec_from_file_location("container_agent_under_test", AGENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

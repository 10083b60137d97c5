"""Without an engine of expressions, unless a test brings one: the engine belongs to the process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core_runtime.rules.flow import values


@pytest.fixture(autouse=True)
def no_engine() -> Iterator[None]:
    values.use(None)
    yield
    values.use(None)

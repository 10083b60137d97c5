"""Tests of a Pack in its sandbox: ``rumi pack test FOLDER``, or ``pytest -p rumi_testing.plugin`` with the fixtures.

The Pack is approved and started as on any host, in the embedded sandbox of a home that is removed afterwards; the test
itself runs outside of it, as the other Packs and the operator of that home.
"""

from __future__ import annotations

from backend_core.errors import RumiError
from rumi_testing.stage import NotStarted, Stage

__all__ = ["NotStarted", "RumiError", "Stage"]

"""The documented JSON forms of what a Pack may answer with."""

from datetime import UTC, date, datetime

import pytest

from backend_core.errors import PackError
from core_runtime.rules.shown import plain


def test_bytes_and_dates_have_a_form():
    value = {"b": b"\x00\xff", "day": date(2031, 5, 6), "at": datetime(2031, 5, 6, 7, 8, 9, tzinfo=UTC)}
    assert plain(value) == {"b": {"$base64": "AP8="}, "day": "2031-05-06", "at": "2031-05-06T07:08:09+00:00"}


@pytest.mark.parametrize("value", [{1: "x"}, [float("inf")], {"deep": [print]}])
def test_what_has_none_is_named_with_its_path(value):
    with pytest.raises(PackError, match="result") as caught:
        plain(value)
    assert caught.value.code == "result_not_json"

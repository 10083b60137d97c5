from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from core_runtime.rules.exposition import LABEL_CHARS, Family, Kind, render


def parsed(*families: Family) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(render(families).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_the_text_itself() -> None:
    calls = Family("x_total", Kind.COUNTER, "How often.")
    calls.add(3, pack="a")
    calls.add(0.25, pack='b"\\\n')
    took = Family("took_seconds", Kind.SUMMARY, "How long.")
    took.summary({0.5: 0.001, 0.99: 2.0}, 12.5, 4, key="k")
    assert render([calls, Family("none", Kind.GAUGE, "Nothing."), took]).decode() == (
        "# HELP x_total How often.\n# TYPE x_total counter\n"
        'x_total{pack="a"} 3\nx_total{pack="b\\"\\\\\\\\n"} 0.25\n'
        "# HELP took_seconds How long.\n# TYPE took_seconds summary\n"
        'took_seconds{key="k",quantile="0.5"} 0.001\ntook_seconds{key="k",quantile="0.99"} 2\n'
        'took_seconds_sum{key="k"} 12.5\ntook_seconds_count{key="k"} 4\n'
    )


@pytest.mark.parametrize("value", [0, 1, -1.5, 1e300, 2**63, math.inf, -math.inf, 1e-9])
def test_numbers(value: float) -> None:
    family = Family("n", Kind.GAUGE, "N.")
    family.add(value)
    assert parsed(family) == {"n": [({}, float(value))]}
    family = Family("n", Kind.GAUGE, "N.")
    family.add(math.nan)
    assert math.isnan(parsed(family)["n"][0][1])


@given(st.lists(st.text(), unique=True, max_size=8))
def test_hostile_labels_end_no_line_and_add_no_sample(texts: list[str]) -> None:
    family = Family("calls", Kind.GAUGE, "Calls.")
    for text in texts:
        family.add(1, key=text, caller="a")
    found = parsed(family).get("calls", [])
    assert sum(value for _, value in found) == len(texts)
    assert len({tuple(labels.items()) for labels, _ in found}) == len(found)
    assert all(set(labels) == {"key", "caller"} and labels["caller"] == "a" for labels, _ in found)


def test_what_becomes_the_same_by_being_bounded_is_one_sample() -> None:
    family = Family("calls", Kind.GAUGE, "Calls.")
    for end in "abc":
        family.add(2, key="x" * 500 + end)
    [(labels, value)] = parsed(family)["calls"]
    assert (len(labels["key"]), value) == (LABEL_CHARS, 6)


@pytest.mark.parametrize(
    "text", ['"} 1\nforged 1', "\n# TYPE calls gauge\n", "\x1b[31m", "\u202e", "\r\nforged 1", "\\", "\\n", '\\"', "\ud800", "\x85x", "\u2028"]
)
def test_labels_that_would_be_something_else(text: str) -> None:
    family = Family("calls", Kind.GAUGE, "Calls.")
    family.add(1, key=text)
    rendered = render([family])
    assert len(rendered.splitlines()) == len(rendered.decode().splitlines()) == 3
    assert list(parsed(family)) == ["calls"]

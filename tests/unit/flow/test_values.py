"""References keep types, absent is null, substituted values stay data."""

import pytest

from core_runtime.rules.flow.values import ValueProblem, compile_value, parse_duration_s, walk

SCOPE = {"a": {"b": [10, {"c": "deep"}], "n": None, "text": "${x}"}, "x": "never"}


def look(path):
    return walk(SCOPE, path)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("${a.b}", [10, {"c": "deep"}]),
        ("${a.b.0}", 10),
        ("${a.b.1.c}", "deep"),
        ("${ a.b.1.c }", "deep"),
        ("${a.b.7}", None),
        ("${nothing.at.all}", None),
        ("${a.n}", None),
        ("${x.real}", None),
        ("${a.__class__}", None),
        ("is ${a.b.0} and ${a.b.1.c}${a.n}!", "is 10 and deep!"),
        ("list ${a.b}", 'list [10, {"c": "deep"}]'),
        ("${a.text}", "${x}"),
        ("again ${a.text}", "again ${x}"),
        ("literal $${a.b}", "literal ${a.b}"),
        ("$5 { }", "$5 { }"),
        ({"k": "${x}", "l": ["${a.b.0}", 3]}, {"k": "never", "l": [10, 3]}),
        (3, 3),
        (None, None),
    ],
)
def test_values(source, expected):
    assert compile_value(source).get(look) == expected


def test_roots_name_what_is_read():
    assert compile_value({"p": "${a.b} ${x}", "q": ["${z}"]}).roots == {"a", "x", "z"}


@pytest.mark.parametrize("source", ["${a + 1}", "${}", "${a", "${a..b}", "${.a}", "${1a}", "${a[0]}", "${env:HOME}"])
def test_anything_but_a_path_is_refused(source):
    with pytest.raises(ValueProblem):
        compile_value(source)


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("3s", 3), ("2m", 120), ("1.5h", 5400)])
def test_durations(text, seconds):
    assert parse_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["3", 3, "s", "-3s", "3 s", "1d", "", None, "9999999999s"])
def test_not_durations(text):
    with pytest.raises(ValueProblem, match="expected a duration"):
        parse_duration_s(text)

"""What an author is told of a file by reading it alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_runtime.rules.source_check import ENTRIES, check_source

GOOD = """
def run(context):
    ir = context["interface_registry"]
    ir.register("a.b", lambda args, ctx: args)
    return ir.get("other.key")
"""


def found(text, entries=ENTRIES, provides=("a.b",), reaches=("other.key",)):
    return [
        (one.refused, one.code, one.line, one.found)
        for one in check_source(text, "setup.py", entries=entries, provides=set(provides), reaches=set(reaches))
    ]


def test_what_says_what_was_declared_has_no_fault():
    assert found(GOOD) == []


@pytest.mark.parametrize(
    "text",
    ["async def run(c): ...", "from .own import run", "from own import *", "import own as main", "run = print", "if 1:\n    def main(c): ..."],
)
def test_an_entry_may_be_made_in_any_way(text):
    assert found(text) == []


def test_a_file_without_its_entry():
    assert found("x = 1") == [(True, "entry_missing", 1, "none")]
    assert found("x = 1", entries=()) == []
    assert found("main = 1", entries=ENTRIES[:1]) == [(True, "entry_missing", 1, "none")]


def test_what_does_not_compile_is_told_with_its_line():
    [(refused, code, line, _)] = found("x = 1\ndef run(:\n    pass\n")
    assert (refused, code, line) == (True, "syntax", 2)
    [(refused, code, line, _)] = found("def run(c):\n    pass\nreturn 1\n")
    assert (refused, code, line) == (True, "syntax", 3)


@pytest.mark.parametrize("text", ["def run(c): pass\n\0", "x = " + "(" * 5000, "x = " + "-" * 100_000 + "1", "x = '\ud800'"])
def test_hostile_text_is_a_fault_and_no_crash(text):
    assert found(text)[0][:2] == (True, "syntax")


def test_keys_that_no_manifest_declares():
    assert found(GOOD, provides=(), reaches=()) == [
        (False, "undeclared_key", 4, "a.b"),
        (False, "undeclared_edge", 5, "other.key"),
    ]
    assert found("def run(c):\n    {}.get('no.key')\n    d.get('no.key')\n    ir.get(variable)") == []


@given(st.text(max_size=300))
def test_no_text_raises(text):
    assert all(one.line >= 1 for one in check_source(text, "x.py", entries=(), provides=(), reaches=()))

"""Calling from a page: the command that does the same, and how an answer is told."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest

from backend_core.errors import PackError
from console.calling import COMMAND_CHARS, Answer, Asked, command
from console.pages import Pages, Reader
from console.words import CATALOGUES

HOSTILE = "</code></pre></ol><script>alert(1)</script><!--answer-->\"'>\u202egnp\u0085\x1b[31m"


@pytest.mark.parametrize("args", [{}, None, "it's", {"a": "'; rm -rf / #", "b": "$(x) `y`\n"}, {"説明": "a\u3000b\u202e\x1b\U000e0001\x85"}])
def test_the_command_says_the_same_in_one_printable_line(args: Any) -> None:
    text = command(Asked("shop.price", args, None))
    assert text.isprintable()
    words = shlex.split(text)
    assert (words[:3], len(words), json.loads(words[3])) == (["./rumi", "call", "shop.price"], 4, args)


def test_the_command_has_the_time_to_wait_and_how_the_answer_came() -> None:
    assert command(Asked("a", {}, 60.0), stream=True) == "./rumi call a '{}' --timeout 60 --stream"
    assert command(Asked("a", "x" * COMMAND_CHARS, 5.0)) == "./rumi call a - --timeout 5 < arguments.json"


def told(code: str, answer: Answer, **more: Any) -> str:
    return Pages().text("answer.html", Reader(code), **{"answer": answer, "took_s": 0.25, "command": "./rumi call a '{}'", **more})


@pytest.mark.parametrize("code", CATALOGUES)
def test_how_a_call_came_out_is_told_in_the_readers_language(code: str) -> None:
    words = CATALOGUES[code]
    error = PackError("It raised", code="error/ValueError", detail="'boom'", hint="rumi logs a")
    cases = [
        (told(code, Answer(value="7")), (words["call_done"], "250 ms", "<code>7</code>", "./rumi call a &#39;{}&#39;"), (words["call_left_out"],)),
        (told(code, Answer(value="7", left_out=True)), (words["call_left_out"],), (words["call_closed"],)),
        (told(code, Answer(count=2)), (words["call_done"], words["call_items"].format(count=2), "</ol>"), (words["call_closed"],)),
        (told(code, Answer()), (words["call_items"].format(count=0),), ("</ol>",)),
        (told(code, Answer(count=2, left_out=True)), (words["call_closed"],), ()),
        (told(code, Answer(count=2, error=error)), ("</ol>", words["call_failed"], "error/ValueError", "It raised", "boom", "rumi logs a", "250 ms"), (words["call_done"],)),
        (told(code, Answer(error=error), took_s=None, command=""), (words["call_not_made"],), (words["call_failed"], words["run_took"], "rumi call")),
    ]  # fmt: skip
    for text, there, missing in cases:
        assert [one for one in there if one not in text] == []
        assert [one for one in missing if one in text] == []


def test_an_answer_streams_where_items_came_or_nothing_else_did() -> None:
    error = PackError("x")
    answers = [Answer(), Answer(count=1, error=error), Answer(error=error), Answer(value="1")]
    assert [answer.streams for answer in answers] == [True, True, False, False]


@pytest.mark.parametrize("code", CATALOGUES)
def test_hostile_values_items_and_errors_stay_text(code: str) -> None:
    error = PackError(HOSTILE, code=HOSTILE, detail=HOSTILE * 100, hint=HOSTILE)
    texts = [
        told(code, Answer(value=HOSTILE), command=HOSTILE), told(code, Answer(error=error, count=1)),
        Pages().text("answer_item.html", Reader(code), text=HOSTILE, first=True),
    ]  # fmt: skip
    for text in texts:
        for forbidden in ("<script", "<!--", "\u202e", "\u0085", "\x1b", "</pre></ol>"):
            assert forbidden not in text, forbidden
        assert "&lt;script&gt;" in text
        assert len(text) < 20_000

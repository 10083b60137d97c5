from hypothesis import given
from hypothesis import strategies as st

from rumi_setup.web.html import TEXT_LIMIT_CHARACTERS, Markup, escape, tag, with_code

HOSTILE = "<script>alert(1)</script>\"' onload=x &amp;"


def test_text_never_becomes_markup() -> None:
    made = tag("p", HOSTILE, title=HOSTILE).text
    assert made.count("<") == 2
    assert '" onload' not in made


@given(st.text())
def test_no_text_whatever_breaks_out(text) -> None:
    inside = tag("p", text, title=text).text.removeprefix('<p title="')
    value, _, rest = inside.partition('">')
    assert not set(value) & set("<>\"'")
    assert not set(rest.removesuffix("</p>")) & set("<>\"'")


def test_marks_that_rearrange_a_line_are_shown() -> None:
    assert escape("a\u202eb\x1b[2Jc\u2066") == "a\ufffdb\ufffd[2Jc\ufffd"


def test_a_lone_surrogate_can_be_sent() -> None:
    assert escape("x\udcff").encode() == "x\ufffd".encode()


def test_long_texts_are_cut() -> None:
    assert len(escape("a" * 10 * TEXT_LIMIT_CHARACTERS)) == TEXT_LIMIT_CHARACTERS


def test_attributes() -> None:
    assert tag("details", open=True).text == "<details open></details>"
    assert tag("a", "x", aria_current=False, class_="k").text == '<a class="k">x</a>'
    assert tag("input", name="n").text == '<input name="n">'


def test_backticks_mark_what_is_typed() -> None:
    assert with_code("Run `a <b>` now").text == "Run <code>a &lt;b&gt;</code> now"
    assert with_code("an odd ` stays") == Markup("an odd ` stays")

"""Which forms of a secret are found in text, and what text without one looks like."""

from __future__ import annotations

import base64
import html
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core_runtime.drivers.redactions import Redactions
from core_runtime.rules.redaction import MARK, forms_of, hidden, hide

VALUE = 'tK/9+q"x\\y=<&ä\n2nd line of it'
PEM = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEF\nAASCBKcwggSjAgEAAoIBAQC7\n-----END KEY-----"

ENCODINGS = {
    "plain": lambda v: v,
    "json": json.dumps,
    "json, not ascii": lambda v: json.dumps(v, ensure_ascii=False),
    "python": repr,
    "exception": lambda v: str(KeyError(v)),
    "percent": lambda v: urllib.parse.quote(v, safe=""),
    "percent, paths": urllib.parse.quote,
    "form": lambda v: urllib.parse.urlencode({"v": v}),
    "html": html.escape,
    "html, between tags": lambda v: html.escape(v, quote=False),
    "hex": lambda v: v.encode().hex(),
    "HEX": lambda v: v.encode().hex().upper(),
    "base64": lambda v: base64.b64encode(v.encode()).decode(),
    "base64 after one": lambda v: base64.b64encode(b"u" + v.encode() + b"tail").decode(),
    "base64 after two": lambda v: base64.b64encode(b"u:" + v.encode() + b"tail").decode(),
    "base64, urls": lambda v: base64.urlsafe_b64encode(b"me:" + v.encode()).decode(),
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=list(ENCODINGS))
@pytest.mark.parametrize("value", ["s3cr3t-value-of-one-line", VALUE])
def test_usual_encodings_are_hidden(value, encode):
    text = f"before {encode(value)} after"
    shown = hide(text, forms_of(value))
    assert MARK in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert encode(value)[2:-6] not in shown


def test_each_line_of_a_longer_value_is_hidden_by_itself():
    for line in PEM.splitlines():
        assert hide(f"x {line} y", forms_of(PEM)) == f"x {MARK} y"


def test_what_was_cut_off_at_an_end_is_hidden():
    value = "0123456789abcdefghijklmnopqrstuvwxyz"
    forms = forms_of(value)
    assert hide("it was 0123456789abc", forms) == f"it was {MARK}"
    assert hide("tuvwxyz-rest", forms) == "tuvwxyz-rest"  # too little of it to tell from chance
    assert hide("rstuvwxyz is the rest", forms) == f"{MARK} is the rest"
    assert hide(value[5:32], forms) == MARK


def test_short_values_are_not_looked_for():
    assert forms_of("1234") == ()
    assert hide("1234", forms_of("1234")) == "1234"
    assert forms_of("") == forms_of("   ") == ()


@given(st.text(max_size=200), st.text(min_size=6, max_size=60))
def test_nothing_is_left_and_nothing_else_is_touched(text, value):
    forms = forms_of(value)
    shown = hide(text + value + text, forms)
    assert not any(form in shown.replace(MARK, "") for form in forms if form not in MARK) or value.strip() in MARK
    if not any(form in text for form in forms) and value.strip() and len(value.strip()) >= 6:
        assert MARK in shown


@given(st.text(alphabet="abc ", max_size=80))
def test_ordinary_text_stays(text):
    assert hide(text, forms_of("Zq7-Zq8-Zq9-Zq0")) == text


def test_values_inside_of_documents_are_hidden_keys_included():
    conceal = Redactions()
    conceal.learn("alpha", "s3cr3t-value")
    document = {"a s3cr3t-value": ["x", {"y": "s3cr3t-value!"}, 3, None, b"raw"], "n": 1.5}
    assert conceal.hide_in("alpha", document) == {f"a {MARK}": ["x", {"y": f"{MARK}!"}, 3, None, b"raw"], "n": 1.5}
    deep = current = {}
    for _ in range(40):
        current["in"] = {}
        current = current["in"]
    current["in"] = "s3cr3t-value"
    assert "s3cr3t-value" not in json.dumps(hidden(deep, lambda text: conceal.hide("alpha", text)))


def test_one_packs_values_are_not_blanked_out_where_another_could_read_it():
    """Otherwise a Pack could have its guesses of a foreign value confirmed."""
    conceal = Redactions()
    conceal.learn("alpha", "s3cr3t-value")
    assert conceal.hide("beta", "is it s3cr3t-value?") == "is it s3cr3t-value?"
    assert conceal.hide_any("is it s3cr3t-value?") == f"is it {MARK}?"
    assert not conceal.knows("beta")
    assert "s3cr3t" not in repr(conceal)


@pytest.mark.parametrize("value", ["????????????", ">>>>>>>>>>>>", "~~~~~~~~~~~~", "abcdefghijkl"])
@pytest.mark.parametrize("before", [b"", b"u", b"u:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_of_base64_only_what_holds_other_bytes_too_is_left(value, before, encode):
    text = encode(before + value.encode()).decode()
    left = hide(text, forms_of(value)).partition(MARK)
    assert left[1] == MARK
    assert text.startswith(left[0])
    assert len(left[0]) <= -(-len(before) * 8 // 6)
    assert len(left[2].rstrip("=")) <= 1


def test_a_piece_of_a_value_is_hidden_from_a_length_on():
    value = "0123456789abcdefghijklmnopqrstuvwxyz"
    assert hide(value[5:29], forms_of(value)) == MARK
    assert hide(value[5:28], forms_of(value)) == value[5:28]


@pytest.mark.parametrize("nest", [lambda inner: [inner], lambda inner: {"k": inner}], ids=["lists", "maps"])
def test_documents_are_looked_through_to_a_depth_and_no_further(nest):
    def nested(depth):
        value = ("a", "b")
        for _ in range(depth):
            value = nest(value)
        return value

    def deepest(value):
        while isinstance(value, list | dict) and value != ["a", "b"]:
            value = value[0] if isinstance(value, list) else value["k"]
        return value

    assert deepest(hidden(nested(11), lambda text: text)) == ["a", "b"]
    assert deepest(hidden(nested(12), lambda text: text)) == MARK

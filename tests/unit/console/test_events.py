"""The page of events: who published, the addresses that it leads to, hostile topics and payloads as text."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from console.events import about, address, told_of
from console.pages import Pages, Reader
from console.words import CATALOGUES

HOSTILE = "<script>alert(1)</script>\"'>&before=x\u202egnp\x1b[31m"


def event(**more: Any) -> dict[str, Any]:
    return {"id": "0123abcd-7", "source": "rumi:host", "type": "pack.started", "time_s": 1e9, "data": {"a": 1}, **more}


def test_an_event_tells_who_published_it_and_its_payload() -> None:
    assert (told_of(event())["pack_id"], told_of(event())["payload"]) == ("", '{"a": 1}')
    assert told_of(event(source="rumi:pack/shop", data="説明"))["pack_id"] == "shop"
    assert told_of(event(data=None))["payload"] == "null"
    assert told_of(event(data=None, omitted="too_large"))["payload"] == ""


@pytest.mark.parametrize("topic", ["a.*", HOSTILE, "a b", "100%?"])
def test_an_address_holds_what_was_chosen_and_nothing_more(topic: str) -> None:
    at = urlsplit(address(topic=topic, pack="", before="0123abcd-7"))
    assert (at.path, at.netloc, at.fragment) == ("/_rumi/events", "", "")
    assert parse_qs(at.query) == {"topic": [topic], "before": ["0123abcd-7"]}
    assert address(topic="") == "/_rumi/events"


@pytest.mark.parametrize("code", CATALOGUES)
def test_hostile_topics_and_payloads_stay_text(code: str) -> None:
    words = CATALOGUES[code]
    shown = [told_of(event(type=HOSTILE, source=f"rumi:pack/{HOSTILE}", data={HOSTILE: HOSTILE * 40})), told_of(event(data=None, omitted="too_large"))]
    said = about(Reader(code), {"topic": HOSTILE, "pack": "shop"})
    text = Pages().text("events.html", Reader(code), events=shown, newest=address(topic=HOSTILE), older="", **said)
    for forbidden in ("<script", "\u202e", "\x1b"):
        assert forbidden not in text
    for expected in ("&lt;script&gt;", words["event_omitted"], "too_large", words["flow_host"], words["events_newest"], 'name="pack" value="shop"'):
        assert expected in text, expected
    assert words["events_older"] not in text
    assert len(text) < 20_000


@pytest.mark.parametrize(("chosen", "word"), [({"topic": "", "pack": ""}, "events_none"), ({"topic": "a", "pack": ""}, "events_none_found"), ({"topic": "", "pack": "p"}, "events_none_found")])
def test_where_there_is_nothing_the_page_says_why(chosen: dict[str, str], word: str) -> None:
    for code, words in CATALOGUES.items():
        reader = Reader(code)
        assert words[word] in Pages().text("events.html", reader, events=[], newest="", older="", **about(reader, chosen))

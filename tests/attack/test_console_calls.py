"""Attacks on calling from the console's pages: what a Pack answers does nothing in the page, and nobody else's form calls."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.calling import ITEMS, VALUE_CHARS
from console.words import CATALOGUES
from tests.attack.test_redteam_metadata import obeyed
from tests.support.browser_like import FORM, Answer, Visitor, code_in
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = pytest.mark.embedded

EN = CATALOGUES["en"]
HOSTILE = "</code></pre></li></ol></main><script>alert(1)</script><!--answer--><img src=x onerror=alert(1)>\u202egnp\u0085\x1b[31m"
SETUP = f"""
import sys
import time
agent = sys.modules.get("container_agent") or sys.modules["__main__"]
HOSTILE = {HOSTILE!r}
class Painted(Exception):
    pass
Painted.__name__ = Painted.__qualname__ = HOSTILE
state = {{"calls": 0, "closed": 0}}

def answer(args):
    state["calls"] += 1
    kind = args.get("kind") if isinstance(args, dict) else None
    if kind == "fail":
        raise Painted(HOSTILE * 50)
    if kind in ("ok", "cancelled"):
        raise agent.Refusal(kind, HOSTILE)
    if kind == "huge":
        return [HOSTILE * 100] * 2000
    if kind == "wide":
        return {{HOSTILE + str(n): n for n in range(20000)}}
    if kind == "deep":
        value = HOSTILE
        for _ in range(20):
            value = [value]
        return value
    if kind == "function":
        return {{"f": answer}}
    return {{HOSTILE: [HOSTILE], "asked": args}}

def items(args):
    state["calls"] += 1
    try:
        n = 0
        while n != args.get("fail", -1):
            yield args.get("item", HOSTILE)
            n += 1
            time.sleep(args.get("pause", 0))
        raise Painted(HOSTILE)
    finally:
        state["closed"] += 1

def run(context):
    ir = context["interface_registry"]
    schema = {{"type": "object", "title": HOSTILE, "properties": {{HOSTILE: {{"type": "string", "title": HOSTILE, "description": HOSTILE, "default": "\\n" + HOSTILE}}, "pick": {{"enum": [HOSTILE]}}}}}}
    ir.register("painter.answer", answer)
    ir.register("painter.items", items)
    ir.register("painter.state", lambda args: dict(state))
    ir.register("painter.data", {{HOSTILE: [HOSTILE] * 1000}})
    ir.register_handler("painter.strict", answer, input_schema=schema)
    def change(args):
        ir.register_handler("painter.strict", answer, input_schema={{"type": "object", "properties": {{"erase": {{"type": "string"}}, "pick": {{"enum": [HOSTILE]}}}}}})
    ir.register("painter.change", change)
"""
KEYS = ("painter.answer", "painter.items", "painter.state", "painter.data", "painter.strict", "painter.change")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("calls") / "home", "embedded") as running:
        running.put_pack("painter", one_component_pack("painter", SETUP, provides=KEYS))
        running.approve("painter")
        yield running


@pytest.fixture
def visitor(host: RunningHost) -> Visitor:
    visitor = Visitor(host.web_port)
    assert visitor.open(code_in(Path(host.ok("POST", "/api/console/open")["path"]))).status == 200
    return visitor


def form(visitor: Visitor, key: str, **fields: Any) -> dict[str, Any]:
    page = visitor.get(f"/_rumi/interfaces/{key}")
    return {"csrf": page.csrf, "fields": page.hidden("fields"), "timeout": "", **fields}


def called(visitor: Visitor, key: str, args: str = "{}", **more: Any) -> Answer:
    return visitor.post(f"/_rumi/interfaces/{key}", form(visitor, key, f0=args, **more))


def calls(host: RunningHost) -> int:
    return int(host.result("painter.state", {})["calls"])


def harmless(page: str) -> None:
    """Nothing of it is run or obeyed, and the page is whole: one end of each of its parts."""
    assert [one for one in ("<script", "<img", "<!--answer", "onerror=alert(1)>") if one in page] == []
    assert obeyed(page) == set()
    assert (page.count("</main>"), page.rstrip().endswith("</html>"), page.count("<ol"), page.count("<pre")) == (1, True, page.count("</ol>"), page.count("</pre>"))
    assert len(page) < 30 * VALUE_CHARS


@pytest.mark.parametrize("kind", ["plain", "fail", "huge", "wide", "deep", "function"])
def test_what_a_pack_answers_does_nothing_in_the_page(host: RunningHost, visitor: Visitor, kind: str) -> None:
    answer = called(visitor, "painter.answer", f'{{"kind": "{kind}"}}')
    assert answer.status == 200
    harmless(answer.text)
    words = {"fail": "call_failed", "function": "call_failed", "huge": "call_left_out", "wide": "call_left_out"}
    assert EN[words.get(kind, "call_done")] in answer.text
    assert ("result_not_json" if kind == "function" else "&lt;script&gt;") in answer.text, "it was there to be shown"


@pytest.mark.parametrize(("args", "count"), [('{"fail": 3}', 3), ('{"fail": 0}', 0), ('{"item": 1}', ITEMS), ("{}", 0)])
def test_what_a_stream_says_does_nothing_in_the_page_and_it_has_an_end(host: RunningHost, visitor: Visitor, args: str, count: int) -> None:
    before = host.result("painter.state", {})["closed"]
    answer = called(visitor, "painter.items", args)
    harmless(answer.text)
    if count:
        assert answer.text.count("<li><pre>") == count
    assert EN["call_failed" if "fail" in args else "call_closed"] in answer.text
    host.until(lambda: host.result("painter.state", {})["closed"] == before + 1, 20, "the generator to be closed")


def test_a_pack_that_fails_puts_no_other_end_of_the_call_on_record(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        host.put_pack("painter", one_component_pack("painter", SETUP, provides=KEYS))
        host.approve("painter")
        visitor = Visitor(host.web_port)
        assert visitor.open(code_in(Path(host.ok("POST", "/api/console/open")["path"]))).status == 200
        for kind in ("ok", "cancelled"):
            text = called(visitor, "painter.answer", f'{{"kind": "{kind}"}}').text
            assert f"answered painter.answer with error/{kind}" in text, text
        assert EN["call_closed"] in called(visitor, "painter.items", '{"item": 1}').text
        host.stop()
        trail = map(json.loads, (host.home / "user_data/audit/audit.jsonl").read_text().splitlines())
        told = {(one["key"], one["outcome"]) for one in trail if one["event"] == "interface.called"}
        assert told == {("painter.answer", "error/ok"), ("painter.answer", "error/cancelled"), ("painter.items", "cut")}


def test_a_hostile_schema_and_value_make_a_harmless_page(host: RunningHost, visitor: Visitor) -> None:
    for key in ("painter.strict", "painter.data"):
        page = visitor.get(f"/_rumi/interfaces/{key}").text
        harmless(page)
        assert "&lt;script&gt;" in page
    assert EN["call_left_out"] in page
    names = re.findall(r'<(?:input|textarea|select)[^>]* name="([^"]+)"', visitor.get("/_rumi/interfaces/painter.strict").text)
    assert sorted(set(names)) == ["csrf", "f0", "f1", "fields", "timeout"], "no name that a Pack chose is that of a field"
    answer = visitor.post("/_rumi/interfaces/painter.strict", form(visitor, "painter.strict", f0=HOSTILE[:60], f1="0"))
    harmless(answer.text)
    assert EN["call_done"] in answer.text


def test_what_is_typed_comes_back_as_text_and_nothing_is_called_by_what_can_not_be_read(host: RunningHost, visitor: Visitor) -> None:
    before = calls(host)
    deep = "[" * 5000 + "]" * 5000
    large = '{"a": %s}' % ("9" * 400)
    for text in ("</textarea><script>alert(1)</script><!--answer-->", '{"a": 1', deep, large, '{"a": NaN}', '{"a": 1, "a": 2}', '"\\ud800"'):
        answer = called(visitor, "painter.answer", text)
        assert (answer.status, EN["call_not_made"] in answer.text, "input_invalid" in answer.text) == (400, True, True), text[:40]
        assert "<script" not in answer.text
        assert html.unescape(answer.text.partition('<textarea id="f0"')[2].partition(">\n")[2].partition("</textarea>")[0]) == text
    for timeout in ("7", "-1", "1e9", "x"):
        answer = called(visitor, "painter.answer", "{}", timeout=timeout)
        assert (answer.status, EN["call_not_made"] in answer.text) == (400, True)
    assert called(visitor, "painter.answer", ["{}", "{}"]).status == 400
    assert called(visitor, "painter.answer", '"%s"' % ("x" * 70_000)).status == 413
    assert [one["code"] for one in host.ok("GET", "/api/issues") if "console" in one["subject"]] == []
    assert calls(host) == before


def test_only_a_form_of_the_session_calls(host: RunningHost, visitor: Visitor) -> None:
    before, at = calls(host), "/_rumi/interfaces/painter.answer"
    good = form(visitor, "painter.answer", f0="{}")
    for fields in ({**good, "csrf": ""}, {**good, "csrf": "x" * 43}, {name: value for name, value in good.items() if name != "csrf"}, {**good, "csrf": [good["csrf"]] * 2}):
        assert visitor.post(at, fields).status == 403
    for headers in ({"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"}, {"Origin": None}, {"Origin": "null", "Sec_Fetch_Site": "same-site"}):
        assert visitor.post(at, good, **headers).status == 403
    assert visitor.post(at, good, Content_Type="application/json").status == 415
    stranger = Visitor(host.web_port)
    assert stranger.post(at, good).status == 401
    assert 'name="csrf"' not in stranger.get(at).text
    assert "disabled>" in stranger.get(at).text
    assert visitor.send("GET", f"{at}?f0=%7B%7D", None, {"Sec-Fetch-Site": "same-origin", "Content-Type": FORM}).status == 200
    assert calls(host) == before
    assert visitor.post(at, good).status == 200
    assert calls(host) == before + 1


def test_a_form_that_was_filled_in_before_its_schema_changed_calls_nothing(host: RunningHost, visitor: Visitor) -> None:
    """Fields are numbered: what was typed as a note would be erased by a Pack that changes the schema meanwhile."""
    stale = form(visitor, "painter.strict", f0="keep me")
    host.result("painter.change", {})
    before = calls(host)
    answer = visitor.post("/_rumi/interfaces/painter.strict", stale)
    assert (answer.status, "form_changed" in answer.text, "/_rumi/interfaces/painter.strict" in answer.text) == (409, True, True)
    assert calls(host) == before
    assert EN["call_done"] in visitor.post("/_rumi/interfaces/painter.strict", form(visitor, "painter.strict", f0="x")).text


KEEPER = """
def run(context):
    token = context["secrets"].get("token")
    ir = context["interface_registry"]
    ir.register("keeper.tell", lambda args: {"text": "it is " + token, "cut": "x" * (args["before"]) + token * 50})
    ir.register("keeper.data", ["it is", token])
"""


def test_a_known_secret_is_hidden_in_answers_and_values(host: RunningHost, visitor: Visitor) -> None:
    asks = json.dumps({"pack_id": "keeper", "permissions": [{"type": "secret", "names": ["token"], "reason": "to sign"}]})
    host.put_pack("keeper", {**one_component_pack("keeper", KEEPER, provides=("keeper.tell", "keeper.data")), "backend/permissions.json": asks})
    host.ok("POST", "/api/packs/scan")
    token = "correct-horse-battery-staple"
    host.ok("PUT", "/api/packs/keeper/secrets/token", {"value": token})
    host.ok("POST", "/api/packs/keeper/approve", {"permissions": ["secret"]})
    for before in range(VALUE_CHARS - 60, VALUE_CHARS - 40):  # wherever what is shown ends
        page = html.unescape(called(visitor, "keeper.tell", json.dumps({"before": before})).text)
        assert "it is [secret]" in page
        assert token[:12] not in page
    page = visitor.get("/_rumi/interfaces/keeper.data").text
    assert ("[secret]" in page, token[:12] in page) == (True, False)


def test_who_leaves_the_page_ends_the_call_and_gives_the_place_back(host: RunningHost, visitor: Visitor) -> None:
    before = host.result("painter.state", {})["closed"]
    fields = form(visitor, "painter.items", f0='{"item": "one", "pause": 0.05}')
    for _ in range(70):  # more than there are places for
        with visitor.going_on("/_rumi/interfaces/painter.items", fields) as until:
            until("<li>")
    host.until(lambda: host.result("painter.state", {})["closed"] == before + 70, 30, "each generator to be closed")
    assert called(visitor, "painter.answer").status == 200


def test_what_is_no_function_or_not_there_is_told(host: RunningHost, visitor: Visitor) -> None:
    good = form(visitor, "painter.answer", f0="{}")
    answer = visitor.post("/_rumi/interfaces/painter.data", good)
    assert (EN["call_failed"] in answer.text, "not_callable" in answer.text) == (True, True)
    harmless(answer.text)
    for path, status in (("no.such", 404), ("%3Cb%3E", 400)):
        answer = visitor.post(f"/_rumi/interfaces/{path}", good)
        assert (answer.status, 'href="/_rumi/' in answer.text) == (status, True)


def test_a_page_whose_host_stops_meanwhile_is_whole_and_says_so(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        host.put_pack("painter", one_component_pack("painter", SETUP, provides=KEYS))
        host.approve("painter")
        visitor = Visitor(host.web_port)
        visitor.open(code_in(Path(host.ok("POST", "/api/console/open")["path"])))
        fields = form(visitor, "painter.items", f0='{"item": "one", "pause": 5}')
        with visitor.going_on("/_rumi/interfaces/painter.items", fields) as until:
            until("<li>")
            host.stop()
            page = until("")
        harmless(page)
        assert EN["call_failed"] in page

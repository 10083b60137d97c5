"""An interface is called from the form on its page, in a real browser: value, error, stream; by keyboard, without a script."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from console.calling import ITEMS
from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.watched import Watched, chromium, opened

pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202eexe.gnp\x1b[31m"
SETUP = f"""
import threading
HOSTILE = {HOSTILE!r}
go = threading.Event()

def price(args):
    if args.get("broken"):
        raise ValueError(HOSTILE)
    return {{"asked": args, "said": HOSTILE}}

def count(args):
    for number in range(args.get("to", 3)):
        yield {{"n": number}}
        if number == 0 and args.get("wait"):
            go.wait(60)

def run(context):
    ir = context["interface_registry"]
    ir.register("shop.price", price)
    ir.register("shop.count", count)
    ir.register("shop.go", lambda args: go.set())
    ir.register("shop.hours", {{"open": [9, 17], "note": HOSTILE}})
"""
SCHEMA = {"type": "object", "required": ["name"], "properties": {
    "name": {"type": "string", "title": HOSTILE, "description": HOSTILE}, "count": {"type": "integer", "default": 2, "minimum": 1},
    "broken": {"type": "boolean"}, "size": {"enum": ["small", HOSTILE]}, "more": {"type": "array"},
}}  # fmt: skip
SIZES: list[tuple[str, dict[str, Any]]] = [("en", {}), ("ja", {"color_scheme": "dark", "viewport": {"width": 320, "height": 760}})]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def shop(host: RunningHost) -> None:
    promise = {"key": "shop.price", "version": "1.0.0", "input": SCHEMA}
    host.put_pack("shop", one_component_pack("shop", SETUP, provides=(promise, "shop.count", "shop.go", "shop.hours")))
    host.approve("shop")


def to(seen: Watched, host: RunningHost, key: str) -> None:
    seen.page.goto(f"http://localhost:{host.web_port}/_rumi/interfaces/{key}")


@pytest.mark.parametrize(("language", "options"), SIZES)
def test_an_interface_is_called_from_the_form_made_of_its_schema(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        shop(host)
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        main, answer = page.get_by_role("main"), page.locator("#answer ~ pre")
        to(seen, host, "shop.price")
        seen.look("40-form", "interfaces/shop.price")
        expect(page.locator("#f1")).to_have_value("2")

        page.locator("#f0").focus()  # from here on by keyboard
        page.keyboard.type("it's tea")
        for _ in range(6):
            page.keyboard.press("Tab")
        expect(page.get_by_role("button", name=words["call_do"], exact=True)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_contain_text(words["call_done"])
        expect(page.get_by_text(words["call_under_way"])).to_be_hidden()
        seen.look("41-answer", "interfaces/shop.price")
        told = json.loads(answer.inner_text().replace("\\x1b", "\\u001b"))
        assert (told["asked"], told["said"]) == ({"name": "it's tea", "count": 2}, HOSTILE)
        command = shlex.split(page.locator("#answer ~ p code").last.inner_text())
        assert (command[:3], json.loads(command[3])) == (["./rumi", "call", "shop.price"], {"name": "it's tea", "count": 2})

        expect(page.locator("#f0")).to_have_value("it's tea")
        page.locator("#f1").fill("many")
        seen.click("call_do")
        expect(page.get_by_role("alert")).to_contain_text(words["call_not_made"])
        expect(page.get_by_role("alert")).to_contain_text("count")
        expect(page.locator("#f1")).to_have_value("many")
        seen.look("42-unread", "interfaces/shop.price")
        page.locator("#f1").fill("0")
        seen.click("call_do")
        expect(page.get_by_role("alert")).to_contain_text(words["call_failed"])
        page.locator("#f1").fill("3")
        page.locator("#f2").select_option("true")
        page.locator("#f3").select_option("1")
        page.get_by_label(words["call_timeout"]).select_option("60")
        seen.click("call_do")
        expect(page.get_by_role("alert")).to_contain_text("error/ValueError")
        expect(page.get_by_role("alert")).to_contain_text("document.title='owned'")
        expect(page.locator("#answer ~ p code").last).to_contain_text("--timeout 60")
        expect(page.get_by_label(words["call_timeout"])).to_have_value("60")
        seen.look("43-error", "interfaces/shop.price")
        for forbidden in ("\u202e", "\x1b"):
            assert forbidden not in page.content()

        page.get_by_role("link", name=words["call_about"]).click()
        expect(main).to_contain_text("operator 2")  # what did not fit the schema reached nobody
        to(seen, host, "shop.hours")
        seen.look("44-value", "interfaces/shop.hours")
        expect(page.locator("#data ~ pre")).to_contain_text('"open"')
        expect(page.get_by_role("button", name=words["call_do"], exact=True)).to_have_count(0)
        assert [text for text in seen.complaints if "400" not in text] == []
        seen.context.close()


@pytest.mark.parametrize(("language", "options"), [("en", {"java_script_enabled": False}), SIZES[1]])
def test_a_stream_is_listed_as_it_comes_and_has_an_end(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    """No script: the page is there before the call is over, and goes on with each item."""
    with RunningHost(tmp_path / "home", "embedded") as host:
        shop(host)
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        items = page.locator(".items li")
        to(seen, host, "shop.count")
        page.get_by_label(words["call_argument"]).fill('{"wait": true}')
        page.get_by_role("button", name=words["call_do"], exact=True).click(no_wait_after=True)
        expect(items).to_have_text(['{"n": 0}'])
        expect(page.get_by_text(words["call_under_way"])).to_be_visible()
        seen.shot("45-items")
        host.result("shop.go", {})
        expect(items).to_have_text([f'{{"n": {number}}}' for number in range(3)])
        expect(page.get_by_role("status")).to_contain_text(words["call_items"].format(count=3))
        expect(page.locator("#answer ~ p code").last).to_have_text("./rumi call shop.count '{\"wait\": true}' --stream")
        if options.get("java_script_enabled", True):
            seen.look("46-items", "interfaces/shop.count")
        page.get_by_label(words["call_argument"]).fill(json.dumps({"to": 10 * ITEMS}))
        seen.click("call_do")
        expect(page.get_by_text(words["call_closed"])).to_be_visible()
        expect(items).to_have_count(ITEMS)
        assert seen.complaints == []
        seen.context.close()


def test_it_is_called_where_the_tab_carries_the_session(tmp_path: Path, browser: Browser) -> None:
    with RunningHost(tmp_path / "home", "embedded", entry=ROOT / "tests" / "support" / "unproven_host.py") as host:
        shop(host)
        seen = opened(host, browser, "en")
        page, words = seen.page, seen.words
        page.get_by_role("navigation").get_by_role("link", name=words["interfaces"], exact=True).click()
        page.get_by_role("link", name="shop.count").click()
        page.get_by_label(words["call_argument"]).fill('{"to": 2}')
        seen.click("call_do")
        expect(page.locator(".items li")).to_have_text(['{"n": 0}', '{"n": 1}'])
        page.reload()
        expect(page.get_by_role("heading", name=words["call_form"])).to_be_visible()
        expect(page.locator(".items li")).to_have_count(0)
        assert [text for text in seen.complaints if "401" not in text] == []
        seen.context.close()

"""The console's pages about interfaces and events in a real browser: what there is, who uses it, what happened."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from console.events import PAGE
from console.following import ROWS
from tests.support.documents import ROOT
from tests.support.running_host import RunningHost, component, one_component_pack
from tests.support.watched import chromium, opened

pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202eexe.gnp\x1b[31m"
SHOP = """
def price(args):
    if args.get("broken"):
        raise ValueError("no price")
    return {"price": 3}

def run(context):
    context["interface_registry"].register("shop.price", price)
"""
VISITOR = """
def run(context):
    ir = context["interface_registry"]
    ir.register("visitor.look", lambda args: ir.get("shop.price")(args))
"""
SPEAKER = """
def run(context):
    bus = context["event_bus"]
    context["interface_registry"].register("speaker.say", lambda args: bus.publish(args["topic"], args["data"]))
"""
SIZES: list[tuple[str, dict[str, Any]]] = [("en", {}), ("ja", {"color_scheme": "dark", "viewport": {"width": 320, "height": 760}})]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def shops(host: RunningHost) -> None:
    promise = {"key": "shop.price", "version": "1.2.0", "input": {"type": "object", "title": HOSTILE}}
    host.put_pack("shop", one_component_pack("shop", SHOP, provides=(promise,)))
    need = {"key": "shop.price", "version": ">=1,<2"}
    files = one_component_pack("visitor", VISITOR, provides=("visitor.look",), requires=(need,))
    host.put_pack("visitor", files)
    later = {"key": "shop.price", "version": ">=2,<3"}
    host.put_pack("waiter", {**one_component_pack("waiter", VISITOR), "backend/components/main/manifest.json": component("service", "main", requires=(later,))})
    for pack_id in ("shop", "visitor", "waiter"):
        host.approve(pack_id)


@pytest.mark.parametrize(("language", "options"), SIZES)
def test_interfaces_are_listed_with_contract_and_use_and_each_has_a_page(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        shops(host)
        host.result("visitor.look", {})
        host.call("visitor.look", {"broken": True})
        host.result("shop.price", {})
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        page.get_by_role("navigation").get_by_role("link", name=words["interfaces"], exact=True).click()
        seen.look("30-interfaces", "interfaces")
        row = page.get_by_role("row").filter(has=page.get_by_role("link", name="shop.price"))
        for expected in ("shop", "1.2.0", words["interface_has_input"], words["interface_callable"], "visitor 2", "operator 1"):
            expect(row).to_contain_text(expected)
        [counted] = [one for one in host.ok("GET", "/api/edges") if one["caller"] == "visitor"]
        edge = page.locator("#edges ~ .edges tbody tr").filter(has_text="visitor").filter(has_text="shop.price")
        expect(edge.locator("td")).to_have_text([
            "shop.price", str(counted["calls"]), *([edge.locator("td").nth(2).inner_text()]), f"{counted['p50_us'] / 1000:.3g} ms", f"{counted['p99_us'] / 1000:.3g} ms",
        ])  # fmt: skip
        assert edge.locator("td").nth(2).inner_text().startswith("1 ")

        page.get_by_label(words["interface_find"]).fill("visitor")
        page.keyboard.press("Enter")
        page.wait_for_url("**/interfaces?find=visitor")
        expect(page.get_by_role("link", name="shop.price")).to_have_count(0)
        expect(page.get_by_role("link", name="visitor.look")).to_have_count(1)
        page.get_by_role("link", name=words["interface_all"]).click()
        page.get_by_role("link", name="shop.price").click()
        seen.look("31-interface", "interfaces/shop.price")
        main = page.get_by_role("main")
        for expected in ("./rumi call shop.price", ">=1,<2", ">=2,<3", words["interface_fits"], "states version 1.2.0", words["interface_input"]):
            expect(main).to_contain_text(expected)
        for forbidden in ("\u202e", "\x1b"):
            assert forbidden not in page.content()
        host.ok("POST", "/api/containers/shop/stop")
        page.goto(f"http://localhost:{host.web_port}/_rumi/interfaces/shop.price")
        expect(main).to_contain_text(words["interface_missing"])
        assert seen.complaints == []
        assert page.goto(f"http://localhost:{host.web_port}/_rumi/interfaces/no.such").status == 404
        assert page.goto(f"http://localhost:{host.web_port}/_rumi/interfaces/%3Cb%3E").status == 400
        seen.context.close()


def test_a_key_is_found_where_the_tab_carries_the_session(tmp_path: Path, browser: Browser) -> None:
    with RunningHost(tmp_path / "home", "embedded", entry=ROOT / "tests" / "support" / "unproven_host.py") as host:
        seen = opened(host, browser, "en")
        page, words = seen.page, seen.words
        page.get_by_role("navigation").get_by_role("link", name=words["interfaces"], exact=True).click()
        page.get_by_label(words["interface_find"]).fill("no.such")
        page.keyboard.press("Enter")
        expect(page.get_by_text(words["interfaces_not_found"])).to_be_visible()
        page.wait_for_url("**/interfaces?find=no.such")
        assert [text for text in seen.complaints if "401" not in text] == []
        seen.context.close()


def speaker(host: RunningHost) -> None:
    files = one_component_pack("speaker", SPEAKER, provides=("speaker.say",))
    asks = [{"type": "event.publish", "topics": ["news.*"], "reason": "to speak"}]
    host.put_pack("speaker", {**files, "backend/permissions.json": json.dumps({"pack_id": "speaker", "permissions": asks})})
    host.approve("speaker")


@pytest.mark.parametrize(("language", "options"), SIZES)
def test_events_are_read_newest_first_chosen_by_topic_and_page_by_page(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        speaker(host)
        for number in range(PAGE + 5):
            host.result("speaker.say", {"topic": f"news.n{number % 2}", "data": {"n": number}})
        host.result("speaker.say", {"topic": "news.last", "data": {HOSTILE: HOSTILE}})
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        page.get_by_role("navigation").get_by_role("link", name=words["events"], exact=True).click()
        page.wait_for_url("**/_rumi/events")
        rows = page.locator("main tbody tr")
        expect(rows).to_have_count(PAGE)
        expect(rows.filter(has_text="news.last")).to_have_count(1)
        page.goto(f"http://localhost:{host.web_port}/_rumi/packs/speaker")
        page.get_by_role("main").get_by_role("link", name=words["events"], exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("speaker")
        expect(rows.nth(0)).to_contain_text("news.last")
        expect(rows.nth(1)).to_contain_text(f'{{"n": {PAGE + 4}}}')
        for forbidden in ("\u202e", "\x1b"):
            assert forbidden not in page.content()
        page.get_by_role("link", name=words["events_older"], exact=True).click()
        page.wait_for_url("**/_rumi/events?pack=speaker&before=*")
        expect(rows).to_have_text([re.compile(re.escape(f'{{"n": {number}}}')) for number in range(5, -1, -1)])
        seen.look("33-older", page.url.partition("/_rumi/")[2])
        page.get_by_role("link", name=words["events_newest"]).click()
        page.wait_for_url("**/_rumi/events?pack=speaker")
        page.get_by_label(words["event_topic"]).fill("news.l*")
        page.keyboard.press("Enter")
        page.wait_for_url("**/_rumi/events?topic=news.l*&pack=speaker")
        expect(rows).to_have_count(1)
        page.get_by_role("link", name=words["interface_all"]).click()
        page.wait_for_url("**/_rumi/events")
        seen.look("32-events", "events")
        page.get_by_label(words["event_topic"]).fill("news.n1")
        page.keyboard.press("Enter")
        page.wait_for_url("**/_rumi/events?topic=news.n1")
        expect(rows).to_have_count((PAGE + 5) // 2)
        assert seen.complaints == []
        assert page.goto(f"http://localhost:{host.web_port}/_rumi/events?before=00000000-1").status == 404
        assert page.goto(f"http://localhost:{host.web_port}/_rumi/events?pack=%3Cb%3E").status == 400
        seen.context.close()


@pytest.mark.parametrize(("language", "options"), [("en", {"java_script_enabled": False}), *SIZES])
def test_events_are_followed_with_the_newest_in_sight_until_the_page_is_full(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        speaker(host)

        def say(number: int, topic: str = "news.a", data: Any = None) -> None:
            host.result("speaker.say", {"topic": topic, "data": data or {"n": number}})

        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        page.goto(f"http://localhost:{host.web_port}/_rumi/events?pack=speaker&topic=news.*")
        page.get_by_role("link", name=words["events_follow_here"]).focus()
        page.keyboard.press("Enter")
        box, rows = page.get_by_role("log"), page.locator("main tbody tr")
        expect(page.get_by_text(words["events_live"])).to_be_visible()
        expect(page.get_by_text(words["events_waiting"])).to_be_visible()
        for number in range(30):
            say(number)
        expect(rows).to_have_count(30)
        for number in (30, 31):
            say(number)
            expect(rows.last).to_contain_text(f'{{"n": {number}}}')
            expect(rows.last).to_be_in_viewport(ratio=0.9)
        expect(page.get_by_text(words["events_waiting"])).to_be_hidden()
        say(0, data={HOSTILE: HOSTILE})
        expect(rows).to_have_count(33)
        for forbidden in ("\u202e", "\x1b"):
            assert forbidden not in page.content()
        assert page.title().startswith(words["events"])
        assert page.locator("main script, main img").count() == 0
        seen.shot("34-followed")
        scripts = options.get("java_script_enabled", True)
        if scripts:
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()

        box.focus()
        page.keyboard.press("Home")
        expect(rows.first).to_be_in_viewport()
        say(33)
        expect(rows).to_have_count(34)
        expect(rows.first).to_be_in_viewport()
        page.keyboard.press("End")
        expect(rows.last).to_be_in_viewport()

        page.get_by_label(words["event_topic"]).fill("news.b")
        page.keyboard.press("Enter")
        expect(rows).to_have_count(0)
        assert "pack=speaker" in page.url
        for number in range(ROWS + 2):
            say(number, "news.b")
        ended = page.get_by_role("status").filter(has_text=words["events_stopped_rows"].format(count=ROWS))
        expect(ended).to_be_visible(timeout=60_000)
        expect(rows.last).to_contain_text(f'{{"n": {ROWS - 1}}}')
        expect(page.get_by_text(words["events_live"])).to_be_hidden()
        page.get_by_role("link", name=words["events_to_end"]).click()
        expect(ended).to_be_in_viewport()
        seen.shot("35-stopped")
        if scripts:
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
        ended.get_by_role("link", name=words["events_go_on"]).click(no_wait_after=True)
        expect(rows).to_have_count(2)
        expect(rows).to_contain_text([f'{{"n": {ROWS}}}', f'{{"n": {ROWS + 1}}}'])
        page.get_by_role("link", name=words["events_stop"]).click()
        page.wait_for_url("**/_rumi/events?topic=news.b&pack=speaker")
        expect(rows).to_have_count(PAGE)
        assert seen.complaints == []
        seen.context.close()


def test_events_are_followed_where_the_tab_carries_the_session(tmp_path: Path, browser: Browser) -> None:
    with RunningHost(tmp_path / "home", "embedded", entry=ROOT / "tests" / "support" / "unproven_host.py") as host:
        speaker(host)
        seen = opened(host, browser, "en")
        page, words = seen.page, seen.words
        page.get_by_role("navigation").get_by_role("link", name=words["events"], exact=True).click()
        page.get_by_role("link", name=words["events_follow_here"]).click()
        expect(page.get_by_text(words["events_live"])).to_be_visible()
        assert "until=" in page.url
        host.result("speaker.say", {"topic": "news.a", "data": "first"})
        expect(page.locator("main tbody")).to_contain_text("first")  # the host tells of its own issues meanwhile
        page.get_by_label(words["event_topic"]).fill("news.b")
        page.keyboard.press("Enter")
        expect(page.get_by_text(words["events_none_found"])).to_be_visible()
        host.result("speaker.say", {"topic": "news.b", "data": "second"})
        expect(page.locator("main tbody tr")).to_contain_text(["second"])
        page.get_by_role("link", name=words["events_stop"]).click()
        expect(page.get_by_role("link", name=words["events_follow_here"])).to_be_visible()
        assert [text for text in seen.complaints if "401" not in text] == []
        seen.context.close()

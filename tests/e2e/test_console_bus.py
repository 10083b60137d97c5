"""The console's pages about interfaces in a real browser: what there is, under which contract, who uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

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

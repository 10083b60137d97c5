"""The console's pages about flows in a real browser: why a flow is so, drawn and as a table; run from a form, followed, resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.running_host import RunningHost, one_component_pack
from tests.support.watched import Watched, chromium, opened

pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]

WAIT_MS = 30_000
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202eexe.gnp\u0085\x1b[31m" + "説明" * 200
SETUP = """
def run(context):
    context["interface_registry"].register("shop.price", lambda args: {"price": 3})
"""
FLOW: dict[str, Any] = {
    "flow": "shop.order", "about": HOSTILE, "journal": "file", "version": "1",
    "input": {"type": "object", "required": ["note"], "properties": {
        "note": {"type": "string", "title": HOSTILE, "description": HOSTILE},
        HOSTILE: {"type": "integer"}, "count": {"type": "integer", "default": 2}, "fast": {"type": "boolean"},
        "size": {"enum": [HOSTILE, "large"]}, "more": {"type": "array"},
    }},
    "output": {"note": "${input.note}"},
    "phases": [{"name": "work"}, {"name": "rest"}],
    "steps": [
        {"id": "gather", "phase": "work", "parallel": {"branches": {
            "left": [{"id": "price", "call": "shop.price", "as": "price"}],
            "right": [{"id": "nobody", "call": "</title></svg><script>alert(1)</script>"}],
        }}},
        {"id": "pick", "phase": "work", "choose": [
            {"when": "${input.fast}", "do": [{"id": "quick", "set": {"x": 1}}]},
            {"default": [{"id": "bad", "fail": {"type": "own", "title": HOSTILE}, "on_error": "continue"}]},
        ]},
        {"id": "hold", "phase": "rest", "wait": {"event": "shop.go"}, "timeout": "100s", "when": "${input.note}"},
        {"id": "last", "phase": "rest", "set": {"y": 1}},
    ],
    "finally": [{"id": "tidy", "set": {"z": 1}}],
}  # fmt: skip
MODIFIER = """
modify: shop.order
id: mine.screen
ops:
  - insert: {before: pick}
    steps: [{id: screen, set: {seen: true}}]
  - {remove: last}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


def shop(host: RunningHost) -> None:
    files = one_component_pack("shop", SETUP, provides=("shop.price",))
    asks = [{"type": "event.subscribe", "topics": ["shop.*"], "reason": "to wait"}]
    files["backend/permissions.json"] = json.dumps({"pack_id": "shop", "permissions": asks})
    host.put_pack("shop", {**files, "backend/flows/order.flow.json": json.dumps(FLOW)})
    host.approve("shop")
    folder = host.home / "user_data" / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mine.modifier.yaml").write_text(MODIFIER, encoding="utf-8")
    (folder / "go.flow.yaml").write_text("flow: shop.hurry\nsteps: [{id: go, emit: shop.go}]\n", encoding="utf-8")


def node(seen: Watched, name: str) -> Any:
    """The box of a step on the drawing that this width of a screen shows."""
    return seen.page.locator("svg:visible a.node").filter(has=seen.page.locator(".id", has_text=name)).first


def colour(seen: Watched, name: str) -> str:
    return str(node(seen, name).locator(".face").evaluate("e => getComputedStyle(e).stroke"))


def named(seen: Watched, variable: str) -> str:
    return str(seen.page.evaluate("v => { const p = document.createElement('p'); p.style.setProperty('color', `var(--${v})`); document.body.append(p); const c = getComputedStyle(p).color; p.remove(); return c }", variable))


@pytest.mark.parametrize(("language", "options"), [("en", {}), ("ja", {"color_scheme": "dark", "viewport": {"width": 320, "height": 760}})])
def test_a_flow_is_explained_run_from_its_form_followed_and_resumed(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        shop(host)
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        page.get_by_role("link", name=words["flows"], exact=True).first.click()
        seen.look("20-flows", "flows")
        page.get_by_role("link", name="shop.order").click()
        seen.look("21-flow", "flows/shop.order")
        text = page.get_by_role("main").inner_text()
        for expected in ("mine.modifier.yaml:6", "order.flow.json:", words["change_applied"], "./rumi flow explain shop.order", words["layer_user"], words["lane_branch"] + " left"):
            assert expected in text, expected
        for forbidden in ("\u202e", "\u0085", "\x1b"):
            assert forbidden not in page.content()

        node(seen, "screen").focus()
        page.keyboard.press("Enter")
        expect(page.locator("tr:target")).to_contain_text("screen")
        assert "#s" in page.url
        page.get_by_role("link", name=words["flow_difference"]).click()
        seen.look("22-difference", "flows/shop.order?without=mine.screen")
        expect(page.get_by_role("main")).to_contain_text('+   "id": "screen"')

        page.locator("#f0").fill("hello")
        page.locator("#f2").fill("many")
        seen.click("flow_run")
        expect(page.get_by_role("alert")).to_contain_text("count")
        page.go_back()
        page.locator("#f0").fill("hello")
        page.locator("#f2").fill("3")
        seen.click("flow_run")
        expect(page.get_by_role("status")).to_contain_text(words["run_begun"])
        run_id = page.url.rpartition("/")[2]
        [held] = [one for one in host.ok("GET", "/api/runs") if one["flow"] == "shop.order"]
        assert (held["run_id"], held["actor"].partition(":")[0]) == (run_id, "operator")
        host.until(lambda: len(host.ok("GET", f"/api/runs/{run_id}")["steps"]) == 6, 20, "all that comes before the wait")
        page.reload()
        seen.look("23-run", f"runs/{run_id}")
        assert [colour(seen, name) for name in ("price", "nobody", "bad", "hold", "quick")] == [named(seen, v) for v in ("good", "soft", "bad", "link", "line")]

        host.kill()
        host.start()
        page.goto(f"http://localhost:{host.web_port}/_rumi/flows/shop.order")
        expect(page.get_by_role("button", name=words["flow_run"])).to_be_disabled()
        page.goto(Path(host.ok("POST", "/api/console/open")["path"]).as_uri())
        page.wait_for_url("**/_rumi/")
        page.goto(f"http://localhost:{host.web_port}/_rumi/runs/{run_id}")
        expect(page.get_by_role("main")).to_contain_text(words["run_resume_text"])
        seen.look("24-cut", f"runs/{run_id}")
        host.until(lambda: host.status("shop")["status"] == "running", 30, "the Pack to run again")
        seen.click("run_resume")
        expect(page.get_by_role("status")).to_contain_text(words["run_resumed"])
        host.until(lambda: host.ok("GET", f"/api/runs/{run_id}")["status"] == "running", 20, "the run to go on")
        host.ok("POST", "/api/flows/shop.hurry/run", {})
        host.until(lambda: host.ok("GET", f"/api/runs/{run_id}")["status"] == "degraded", 20, "its end")
        page.reload()
        expect(page.locator("#output ~ pre")).to_contain_text('"note": "hello"')
        assert colour(seen, "tidy") == named(seen, "good")
        price, tidy = (page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=name)) for name in ("price", "tidy"))
        expect(price).to_contain_text(words["step_replayed"])
        expect(tidy).not_to_contain_text(words["step_replayed"])
        seen.look("25-ended", f"runs/{run_id}")
        assert [text for text in seen.complaints if "422" not in text and "400" not in text] == []
        seen.context.close()


@pytest.mark.parametrize("options", [{"java_script_enabled": False}, {"viewport": {"width": 320, "height": 760}}])
def test_the_drawing_of_a_run_that_is_followed_changes_as_it_goes(tmp_path: Path, browser: Browser, options: dict[str, Any]) -> None:
    """No script changes it: lines that come name the step that they tell of, and a stylesheet does the rest."""
    with RunningHost(tmp_path / "home", "embedded") as host:
        shop(host)
        seen = opened(host, browser, "en", **options)
        page, words = seen.page, seen.words
        page.goto(f"http://localhost:{host.web_port}/_rumi/flows/shop.order")
        page.locator("#f0").fill("hello")
        seen.click("flow_run")
        page.get_by_role("link", name=words["run_follow"]).click(no_wait_after=True)
        for name, mark in (("price", "✓"), ("nobody", "-"), ("bad", "✗"), ("hold", "▶"), ("quick", ""), ("tidy", "")):
            expect(node(seen, name).locator(".mark:visible")).to_have_text([mark] if mark else [], timeout=WAIT_MS)
        host.ok("POST", "/api/flows/shop.hurry/run", {})
        expect(node(seen, "hold").locator(".mark:visible")).to_have_text(["✓"], timeout=WAIT_MS)
        expect(node(seen, "tidy").locator(".mark:visible")).to_have_text(["✓"], timeout=WAIT_MS)
        expect(page.get_by_role("status").filter(has_text=words["run_ended"])).to_be_visible(timeout=WAIT_MS)
        seen.shot("26-followed")
        assert seen.complaints == []
        seen.context.close()


def test_a_run_of_a_flow_that_has_changed_or_gone_is_told_without_a_drawing(tmp_path: Path, browser: Browser) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        folder = host.home / "user_data" / "flows"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "one.flow.yaml").write_text("flow: one\nsteps: [{id: a, set: {x: 1}}]\n", encoding="utf-8")
        run_id = host.ok("POST", "/api/flows/one/run", {})["run_id"]
        seen = opened(host, browser, "en")
        page, words = seen.page, seen.words
        at = f"http://localhost:{host.web_port}/_rumi/runs/{run_id}"
        page.goto(at)
        expect(page.locator("svg:visible a.node")).to_have_count(1)
        (folder / "one.flow.yaml").write_text("flow: one\nsteps: [{id: a, set: {x: 2}}]\n", encoding="utf-8")
        page.goto(at)
        expect(page.get_by_text(words["flow_graph_changed"])).to_be_visible()
        (folder / "one.flow.yaml").unlink()
        page.goto(at)
        expect(page.get_by_text(words["flow_graph_gone"])).to_be_visible()
        steps = [{"id": f"s{n}", "set": {"x": n}} for n in range(300)]
        (folder / "large.flow.json").write_text(json.dumps({"flow": "large", "steps": steps}), encoding="utf-8")
        page.goto(f"http://localhost:{host.web_port}/_rumi/flows/large")
        expect(page.get_by_text(words["flow_graph_large"])).to_be_visible()
        expect(page.locator("#s299")).to_contain_text("s299")
        assert page.goto(f"http://localhost:{host.web_port}/_rumi/flows/no.flow").status == 404
        assert page.goto(f"http://localhost:{host.web_port}/_rumi/flows/%3Cb%3E").status == 400
        seen.context.close()

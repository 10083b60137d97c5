"""The console in a real browser: opened through the redirect file, a hostile Pack reviewed, decided, used, narrowed, updated.

With RUMI_SHOTS set to a folder, screenshots of each page are left there for a reader.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support import wheels
from tests.support.documents import ROOT
from tests.support.running_host import RunningHost
from tests.support.watched import Watched, chromium, opened

pytestmark = [pytest.mark.browser, pytest.mark.embedded, pytest.mark.slow]

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">\u202eexe.gnp\x1b[31m" + "説明" * 4000
SETUP = """
def hello(args):
    return {{"version": {version!r}, "text": "hello"}}

def read(args):
    return userdata.read_text(args["path"])

def run(context):
    global userdata
    userdata = context["userdata_manager"]
    context["interface_registry"].register("hostile.hello", hello)
    context["interface_registry"].register("hostile.read", read)
"""


def files(version: str, permissions: list[dict[str, Any]]) -> dict[str, str]:
    manifest = {"type": "service", "id": "main", "version": version, "connectivity": {"provides": ["hostile.hello", "hostile.read"], "requires": [], "uses": []}}
    pack = {"pack_id": "hostile", "version": version, "display_name": "A <b>bold</b> Pack \u202e", "description": HOSTILE[:900]}
    return {
        "backend/ecosystem.json": json.dumps(pack),
        "backend/permissions.json": json.dumps({"pack_id": "hostile", "permissions": permissions}),
        "backend/components/main/manifest.json": json.dumps(manifest),
        "backend/components/main/setup.py": SETUP.format(version=version),
        "backend/invisible.py": "x = 'a\u200bb'\n",
    }


FIRST = [
    {"type": "userdata.read", "paths": ["shared/one.txt", "shared/two.txt"], "reason": HOSTILE[:490]},
    {"type": "event.publish", "topics": ["hostile.*"], "reason": "."},
    {"type": "host.notify", "reason": "お知らせを表示します"},
]
SECOND = [*FIRST, {"type": "event.subscribe", "topics": ["other.*"], "reason": "to listen"}]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize(("language", "options"), [("en", {"java_script_enabled": True}), ("ja", {"color_scheme": "dark", "viewport": {"width": 360, "height": 760}})])
def test_the_operators_day(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        shared = host.home / "user_data" / "shared"
        shared.mkdir(parents=True, exist_ok=True)
        for name in ("one.txt", "two.txt"):
            (shared / name).write_text(name)
        host.put_pack("hostile", files("1.0.0", FIRST))
        host.ok("POST", "/api/packs/scan")
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        seen.look("1-overview", "")
        page.get_by_role("link", name=words["review"]).first.click()
        seen.look("2-review", "packs/hostile/review")
        page.get_by_label("shared/two.txt").uncheck()
        seen.click("approve_shown")
        expect(page.get_by_role("status")).to_contain_text(words["done_approved"])
        seen.look("3-pack", "packs/hostile")
        assert host.result("hostile.hello", {})["version"] == "1.0.0"
        assert host.result("hostile.read", {"path": "shared/one.txt"}) == "one.txt"
        assert host.call("hostile.read", {"path": "shared/two.txt"})[0] != 200

        page.reload()
        page.get_by_role("row").filter(has_text="shared/one.txt").get_by_role("button").click()
        expect(page.get_by_role("status")).to_contain_text(words["done_revoked"])
        assert host.call("hostile.read", {"path": "shared/one.txt"})[0] != 200
        seen.click("take_unused")
        expect(page.get_by_role("status")).to_contain_text(words["done_narrowed"])
        assert [item["type"] for item in host.ok("GET", "/api/packs/hostile/permissions")["granted"]] == []

        source = host.home / "new" / "hostile"
        for path, content in files("2.0.0", SECOND).items():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_text(content, encoding="utf-8")
        host.ok("POST", "/api/packs/add", {"path": str(source)})
        page.reload()
        page.get_by_role("link", name=words["review_update"]).click()
        seen.look("4-update", "packs/hostile/update")
        seen.click("approve_update")
        expect(page.get_by_role("status")).to_contain_text(words["done_updated"], timeout=30_000)
        assert host.result("hostile.hello", {})["version"] == "2.0.0"
        seen.click("reload")
        expect(page.get_by_role("status")).to_contain_text(words["done_reloaded"], timeout=30_000)
        seen.click("rollback")
        expect(page.get_by_role("status")).to_contain_text(words["done_rolled_back"], timeout=30_000)
        assert host.result("hostile.hello", {})["version"] == "1.0.0"

        page.get_by_role("link", name=words["audit"], exact=True).first.click()
        page.get_by_role("link", name=words["audit_check"]).click()
        seen.look("5-audit", "audit?check=1")
        page.get_by_role("link", name=words["issues"], exact=True).first.click()
        seen.look("6-issues", "issues")
        page.get_by_role("link", name=words["runs"], exact=True).first.click()
        seen.look("6-runs", "runs")
        page.get_by_role("link", name="rumi.startup").first.click()
        expect(page.get_by_role("heading", level=1)).to_have_text("rumi.startup")
        seen.click("close")
        expect(page.get_by_role("heading", level=1)).to_have_text(words["closed"])
        page.goto(f"http://localhost:{host.web_port}/_rumi/packs/hostile")
        expect(page.get_by_role("button", name=words["stop"], exact=True)).to_be_disabled()
        assert seen.complaints == []
        seen.context.close()


@pytest.mark.parametrize(("language", "options"), [("en", {}), ("ja", {"color_scheme": "dark", "viewport": {"width": 360, "height": 760}})])
def test_what_leads_inside_packages_limits_and_a_kept_copy(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded", {"RUMI_ON_MODIFIED": "keep"}) as host:
        folder = host.put_pack("hostile", files("1.0.0", [{"type": "network", "addresses": ["10.0.0.5:22", "192.0.2.1:443"], "reason": HOSTILE[:490]}]))
        name, data = wheels.built("colours", "1.0", {"colours/__init__.py": "", "colours/fast.so": wheels.ELF})
        wheels.write_wheels(folder / "backend/wheels", (name, data))
        lock = folder / "backend/requirements.lock"
        lock.write_text(wheels.locked(("colours", "1.0", data)) + wheels.locked(("unseen", "2.0", b"x")))
        host.ok("POST", "/api/packs/scan")
        seen = opened(host, browser, language, **options)
        page, words = seen.page, seen.words
        page.get_by_role("link", name=words["review"]).first.click()
        seen.look("8-inside", "packs/hostile/review")
        warning = page.locator(".private strong")
        expect(warning).to_have_text(words["private_addresses"])
        red = page.evaluate("(() => { const p = document.createElement('p'); p.style.color = 'var(--bad)'; document.body.append(p); const c = getComputedStyle(p).color; p.remove(); return c })()")
        expect(warning).to_have_css("color", red)
        expect(page.get_by_text(words["fetched_unseen"])).to_be_visible()
        lock.write_text(wheels.locked(("colours", "1.0", data)))
        page.reload()
        expect(page.get_by_text(words["fetched_unseen"])).to_have_count(0)
        seen.click("approve_shown")
        expect(page.get_by_role("status")).to_contain_text(words["done_approved"])
        expect(page.get_by_role("button", name=words["rollback"], exact=True)).to_have_count(0)
        source = host.home / "new" / "hostile"
        shutil.copytree(folder, source)
        shutil.rmtree(source / "backend/wheels")
        (source / "backend/requirements.lock").write_text(wheels.locked(("colours", "1.1", b"y")))
        (source / "backend/ecosystem.json").write_text(json.dumps({"pack_id": "hostile", "version": "1.1.0"}))
        host.ok("POST", "/api/packs/add", {"path": str(source)})
        page.reload()
        page.get_by_role("link", name=words["review_update"]).click()
        seen.look("9-packages", "packs/hostile/update")
        expect(page.locator(".difference .changed").filter(has_text="colours")).to_have_text("~ colours 1.0 → 1.1")
        (folder / "backend/components/main/setup.py").write_text("changed = True\n")
        host.ok("POST", "/api/packs/scan")
        page.goto(f"http://localhost:{host.web_port}/_rumi/packs/hostile")
        seen.look("10-kept", "packs/hostile")
        expect(page.get_by_role("alert")).to_contain_text(words["kept"])
        expect(page.get_by_role("row").filter(has_text=words["limit_memory"]).first).to_contain_text("256.0 MiB")
        assert seen.complaints == []
        seen.context.close()


WALK = """
flow: slow.walk
steps:
  - {id: first, set: {x: 1}}
  - {id: missing, call: nobody.here}
  - {id: waits, wait: {event: test.go}}
  - {id: bad, fail: {type: own, title: "%s"}, on_error: continue}
  - {id: again, wait: {event: test.go}}
"""
GO = "flow: test.go\nsteps: [{id: go, emit: test.go}]\n"


def followed(host: RunningHost, seen: Watched, shot: str) -> None:
    """A run that is followed: its steps appear as they end, while nothing is loaded anew."""
    folder = host.home / "user_data" / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "slow.flow.yaml").write_text(WALK % "<b>no</b> such thing", encoding="utf-8")
    (folder / "go.flow.yaml").write_text(GO, encoding="utf-8")
    asking = threading.Thread(target=lambda: host.ok("POST", "/api/flows/slow.walk/run", {"timeout": 60}))
    asking.start()
    page, words = seen.page, seen.words
    runs = f"http://localhost:{host.web_port}/_rumi/runs"
    host.until(lambda: [one for one in host.ok("GET", "/api/runs") if one["flow"] == "slow.walk"], 20, "the run")
    page.goto(runs)
    page.get_by_role("main").get_by_role("link", name="slow.walk").first.click()
    page.get_by_role("link", name=words["run_follow"]).click(no_wait_after=True)
    rows = page.get_by_role("table").get_by_role("row")
    expect(rows).to_have_count(3)
    expect(page.get_by_text(words["run_live"])).to_be_visible()
    seen.shot(f"{shot}-under-way")
    host.ok("POST", "/api/flows/test.go/run", {})
    expect(rows).to_have_count(5)
    expect(rows.filter(has_text="bad")).to_contain_text("<b>no</b> such thing")
    host.until(lambda: host.ok("GET", "/api/runs")[0]["status"] != "running", 20, "the flow that publishes to end")
    host.ok("POST", "/api/flows/test.go/run", {})
    asking.join(20)


@pytest.mark.parametrize(("language", "options"), [("en", {"java_script_enabled": False}), ("ja", {"color_scheme": "dark", "viewport": {"width": 360, "height": 760}})])
def test_a_run_is_followed_as_it_goes(tmp_path: Path, browser: Browser, language: str, options: dict[str, Any]) -> None:
    with RunningHost(tmp_path / "home", "embedded") as host:
        seen = opened(host, browser, language, **options)
        followed(host, seen, "11-followed")
        page, words = seen.page, seen.words
        expect(page.get_by_role("status")).to_contain_text(words["run_ended"])
        expect(page.get_by_role("status")).to_contain_text(words["run_degraded"])
        expect(page.get_by_role("button", name=words["run_cancel"])).to_be_hidden()
        if options.get("java_script_enabled", True):
            seen.look("12-followed-to-its-end", page.url.partition("/_rumi/")[2])
        else:
            seen.shot("12-followed-to-its-end")
        assert seen.complaints == []
        seen.context.close()


def test_a_run_is_followed_where_the_tab_carries_the_session(tmp_path: Path, browser: Browser) -> None:
    with RunningHost(tmp_path / "home", "embedded", entry=ROOT / "tests" / "support" / "unproven_host.py") as host:
        seen = opened(host, browser, "en")
        followed(host, seen, "13-tab")
        expect(seen.page.get_by_text(seen.words["run_degraded"])).to_be_visible()
        expect(seen.page.get_by_text(seen.words["run_live"])).to_be_hidden()
        assert [text for text in seen.complaints if "401" not in text] == []
        seen.context.close()


def test_where_no_user_can_be_proven_the_tab_carries_the_session(tmp_path: Path, browser: Browser) -> None:
    with RunningHost(tmp_path / "home", "embedded", entry=ROOT / "tests" / "support" / "unproven_host.py") as host:
        host.put_pack("hostile", files("1.0.0", FIRST))
        host.ok("POST", "/api/packs/scan")
        stranger = Watched(browser, "en")
        stranger.page.goto(f"http://localhost:{host.web_port}/")
        assert "hostile" not in stranger.page.content()
        seen = opened(host, browser, "en")
        page, words = seen.page, seen.words
        assert seen.context.cookies() == []
        page.get_by_role("link", name=words["review"]).first.click()
        seen.look("7-tab", "packs/hostile/review")
        seen.click("approve_shown")
        expect(page.get_by_role("status")).to_contain_text(words["done_approved"])
        page.wait_for_url(re.compile("/_rumi/packs/hostile$"))
        assert host.status("hostile")["status"] == "running"
        page.go_back()
        expect(page.get_by_role("heading", level=1)).to_contain_text(words["review"])
        page.reload()
        expect(page.get_by_role("button", name=words["approve_shown"])).to_be_enabled()
        other = seen.context.new_page()
        other.goto(f"http://localhost:{host.web_port}/")
        expect(other.get_by_role("heading", level=1)).to_have_text(words["refused"])
        seen.click("close")
        expect(page.get_by_role("heading", level=1)).to_have_text(words["closed"])
        page.goto(f"http://localhost:{host.web_port}/_rumi/")
        expect(page.get_by_role("heading", level=1)).to_have_text(words["refused"])
        assert [text for text in seen.complaints if "401" not in text] == []
        stranger.context.close()
        seen.context.close()

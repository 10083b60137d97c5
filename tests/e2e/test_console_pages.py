"""What the console's pages show and decide, as raw forms against a real host: what leads inside, packages, limits, copies."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.decide import _weaker
from console.pages import POLICY
from console.words import CATALOGUES
from core_runtime.drivers.metric_history import MetricHistory, Sample
from core_runtime.rules.issue_words import TITLES_JA
from tests.e2e.test_cli_reads import rumi
from tests.support import wheels
from tests.support.browser_like import Answer, Visitor, code_in
from tests.support.running_host import RunningHost, one_component_pack

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

SETUP = "def run(context):\n    context['interface_registry'].register('{key}', lambda args: {value!r})\n"
EN, JA = CATALOGUES["en"], CATALOGUES["ja"]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", "embedded", {"RUMI_ON_MODIFIED": "keep", "DISPLAY": "", "WAYLAND_DISPLAY": ""}) as running:
        yield running


def opened(host: RunningHost) -> Visitor:
    visitor = Visitor(host.web_port)
    assert visitor.open(code_in(Path(host.ok("POST", "/api/console/open")["path"]))).status == 200
    return visitor


def put(host: RunningHost, pack_id: str, permissions: list[dict[str, Any]], key: str = "", value: str = "hi", version: str = "1.0.0") -> Path:
    key = key or f"{pack_id}.hello"
    files = one_component_pack(pack_id, SETUP.format(key=key, value=value), provides=(key,))
    files["backend/ecosystem.json"] = json.dumps({"pack_id": pack_id, "version": version})
    files["backend/permissions.json"] = json.dumps({"pack_id": pack_id, "permissions": permissions})
    folder = host.put_pack(pack_id, files)
    host.ok("POST", "/api/packs/scan")
    return folder


def decide(visitor: Visitor, pack_id: str, **fields: Any) -> Answer:
    page = visitor.get(f"/_rumi/packs/{pack_id}/review")
    return visitor.post(f"/_rumi/packs/{pack_id}/approve", {"csrf": page.csrf, "digest": page.hidden("digest"), **fields})


def test_a_way_into_the_own_network_is_told_in_red_and_can_still_be_granted(host: RunningHost) -> None:
    put(host, "inside", [{"type": "network", "addresses": ["10.0.0.5:22", "8.8.8.8:443"], "reason": "r"}])
    visitor = opened(host)
    for language, words in (("en", EN), ("ja", JA)):
        visitor.language = language
        text = visitor.get("/_rumi/packs/inside/review").text
        assert f'<p class="alarm private"><strong>{words["private_addresses"]}</strong> <code>10.0.0.5:22</code> </p>' in text
        assert "private_addresses=" not in text
    take = re.findall(r'name="take" value="([^"]+)"', visitor.last.text)
    assert decide(visitor, "inside", take=take).status == 303
    held = host.ok("GET", "/api/packs/inside/permissions")["granted"]
    assert sorted(address for item in held for address in item["addresses"]) == ["10.0.0.5:22", "8.8.8.8:443"]


def test_packages_are_shown_with_what_nobody_has_seen_and_the_difference(host: RunningHost) -> None:
    folder = put(host, "user", [])
    name, data = wheels.built("colours", "1.0", {"colours/__init__.py": "", "colours/fast.so": wheels.ELF})
    (folder / "backend/requirements.lock").write_text(wheels.locked(("colours", "1.0", data)) + wheels.locked(("unseen", "2.0", b"x")))
    wheels.write_wheels(folder / "backend/wheels", (name, data))
    visitor = opened(host)
    text = visitor.get("/_rumi/packs/user/review").text
    for expected in ("colours==1.0", name, "colours/fast.so", EN["machine_code"], EN["vendored"], "unseen==2.0", EN["fetched_unseen"], wheels.sha256(data), wheels.sha256(b"x")):
        assert expected in text
    (folder / "backend/requirements.lock").write_text(wheels.locked(("colours", "1.0", data)))
    assert decide(visitor, "user").status == 303
    source = host.home / "new" / "user"
    shutil.copytree(folder, source)
    _, newer = wheels.built("colours", "1.1", {"colours/__init__.py": ""})
    shutil.rmtree(source / "backend/wheels")
    (source / "backend/requirements.lock").write_text(wheels.locked(("colours", "1.1", newer)))
    (source / "backend/ecosystem.json").write_text(json.dumps({"pack_id": "user", "version": "1.1.0"}))
    host.ok("POST", "/api/packs/add", {"path": str(source)})
    assert '<li class="changed">~ <code>colours</code> 1.0 → 1.1</li>' in visitor.get("/_rumi/packs/user/update").text


def test_the_page_of_a_pack_has_its_limits_its_copy_and_no_way_back_that_is_not_there(host: RunningHost) -> None:
    folder = put(host, "kept", [])
    visitor = opened(host)
    decide(visitor, "kept")
    text = visitor.get("/_rumi/packs/kept").text
    assert all(EN[f"limit_{row['name']}"] in text for row in host.ok("GET", "/api/packs/kept/limits"))
    assert "256.0 MiB" in text
    assert "packs/kept/rollback" not in text
    assert EN["kept"] not in text
    source = host.home / "new" / "kept"
    shutil.copytree(folder, source)
    (source / "backend/ecosystem.json").write_text(json.dumps({"pack_id": "kept", "version": "2.0.0"}))
    host.ok("POST", "/api/packs/add", {"path": str(source)})
    page = visitor.get("/_rumi/packs/kept/update")
    assert visitor.post("/_rumi/packs/kept/update/approve", {"csrf": page.csrf, "digest": page.hidden("digest")}).status == 303
    page = visitor.get("/_rumi/packs/kept")
    assert "packs/kept/rollback" in page.text
    assert EN["reload"] in page.text
    old = host.ok("GET", "/api/containers")[0]["generation"]
    assert visitor.post("/_rumi/packs/kept/reload", {"csrf": page.csrf}).status == 303
    assert host.ok("GET", "/api/containers")[0]["generation"] > old
    (host.packs / "kept" / "backend/components/main/setup.py").write_text("changed = True\n")
    host.ok("POST", "/api/packs/scan")
    for language, words in (("en", EN), ("ja", JA)):
        visitor.language = language
        text = visitor.get("/_rumi/packs/kept").text
        assert f'<div class="alarm" role="alert"><p><strong>{words["kept"]}</strong></p>' in text
        assert "kept_running" not in text


def test_the_page_of_a_pack_draws_and_tells_its_calls_of_the_last_hour(host: RunningHost) -> None:
    put(host, "drawn", [])
    visitor = opened(host)
    decide(visitor, "drawn")
    assert EN["spark_none"] in html.unescape(visitor.get("/_rumi/packs/drawn").text)
    now = time.time()
    minutes = [Sample("drawn", now - 60 * ago - 20, 10 * ago, int(ago == 3), 300.0, 1200.0, 0) for ago in (9, 8, 3, 2, 1)]
    MetricHistory(host.home / "user_data" / "logs").add(minutes)
    for language, words in (("en", EN), ("ja", JA)):
        visitor.language = language
        text = html.unescape(visitor.get("/_rumi/packs/drawn").text)
        assert words["spark"].format(calls=230, errors=1, most=90) in text
        assert (text.count("<polyline"), text.count("<circle")) == (2, 1)
        assert 'role="img" aria-labelledby="spark-words"' in text


def test_a_replacement_is_granted_only_where_it_is_ticked(host: RunningHost) -> None:
    put(host, "giver", [], key="give.one")
    host.approve("giver")
    put(host, "second", [{"type": "interface.replace", "keys": ["give.one"], "reason": "better"}], key="give.one", value="second")
    visitor = opened(host)
    assert '<input type="checkbox" name="replace" value="give.one">' in visitor.get("/_rumi/packs/second/review").text
    assert decide(visitor, "second", replace="give.other").status == 303
    assert host.result("give.one", {}) == "hi"
    assert decide(visitor, "second", replace="give.one").status == 303
    assert [item["keys"] for item in host.ok("GET", "/api/packs/second/permissions")["granted"] if item["type"] == "interface.replace"] == [["give.one"]]
    assert host.result("give.one", {}) == "second"


def test_a_replacement_is_granted_on_an_update_for_as_long_as_is_chosen(host: RunningHost) -> None:
    put(host, "giver", [], key="give.one")
    host.approve("giver")
    folder = put(host, "second", [], key="give.one", value="second")
    visitor = opened(host)
    text = visitor.get("/_rumi/packs/second/review").text
    assert EN["replace_not_asked"] in text
    assert 'name="replace"' not in text
    assert decide(visitor, "second").status == 303
    source = host.home / "new" / "second"
    shutil.copytree(folder, source)
    asked = [{"type": "interface.replace", "keys": ["give.one"], "reason": "answers better"}]
    (source / "backend/permissions.json").write_text(json.dumps({"pack_id": "second", "permissions": asked}))
    (source / "backend/ecosystem.json").write_text(json.dumps({"pack_id": "second", "version": "2.0.0"}))
    host.ok("POST", "/api/packs/add", {"path": str(source)})
    for language, words in (("en", EN), ("ja", JA)):
        visitor.language = language
        page = visitor.get("/_rumi/packs/second/update")
        assert '<input type="checkbox" name="replace" value="give.one">' in page.text
        assert page.text.count("answers better") == 1
        block = page.text[page.text.index(words["replaces_text"]):]
        assert "mode-replace" in block
        assert 'value="once"' not in page.text, "it has no single use"
    fields = {"csrf": page.csrf, "digest": page.hidden("digest"), "replace": "give.one"}
    refused = visitor.post("/_rumi/packs/second/update/approve", {**fields, "mode-replace": "once"})
    assert (refused.status, "permission_lasting" in refused.text) == (403, True)
    assert host.result("give.one", {}) == "hi"
    assert visitor.post("/_rumi/packs/second/update/approve", {**fields, "mode-replace": "hour"}).status == 303
    [granted] = host.ok("GET", "/api/packs/second/permissions")["granted"]
    assert (granted["type"], granted["keys"], granted["mode"], granted["unused"]) == ("interface.replace", ["give.one"], "until", [])
    assert host.result("give.one", {}) == "second"
    host.ok("DELETE", "/api/packs/second/permissions", {"unused": True})
    assert host.result("give.one", {}) == "second", "what lasts is not unused because nothing counts it"


def test_an_operation_of_the_host_is_granted_with_its_options(host: RunningHost) -> None:
    put(host, "shown", [{"type": "host.file.export", "reason": "r"}, {"type": "host.open_url", "reason": "r"}])
    host.approve("shown")
    visitor = opened(host)
    page = visitor.get("/_rumi/packs/shown")
    assert 'name="option-folder"' in page.text
    listed = {one["id"]: one for one in host.ok("GET", "/api/privileges")}
    assert (listed["file.export"]["available"], listed["open_url"]["available"]) == (True, False)
    for language, words in (("en", EN), ("ja", JA)):  # this host was started without a desktop
        visitor.language = language
        text = visitor.get("/_rumi/packs/shown").text
        assert text.count(f"<strong>{words['unavailable']}</strong> {html.escape(listed['open_url']['unavailable'][language])}") == 1
    wrong = visitor.post("/_rumi/packs/shown/privileges/grant", {"csrf": page.csrf, "privilege": "file.export", "option-other": "x"})
    assert wrong.status == 400
    assert "options_invalid" in wrong.text
    folder = host.home / "out"
    folder.mkdir()
    assert visitor.post("/_rumi/packs/shown/privileges/grant", {"csrf": page.csrf, "privilege": "file.export", "option-folder": str(folder)}).status == 303
    [record] = host.ok("GET", "/api/audit?event=privilege.granted")
    assert record["options"] == {"folder": str(folder)}


def test_a_broken_trail_is_acknowledged_from_its_page_with_a_reason(host: RunningHost) -> None:
    put(host, "demo", [])
    host.approve("demo")
    host.stop()
    trail = host.home / "user_data/audit/audit.jsonl"
    trail.write_bytes(trail.read_bytes().replace(b"host.started", b"host.sparted", 1))
    host.start()
    visitor = opened(host)
    page = visitor.get("/_rumi/audit")
    assert EN["audit_broken"] in page.text
    assert visitor.post("/_rumi/audit/acknowledge", {"csrf": page.csrf, "reason": "mine"}).status == 303
    assert EN["audit_broken"] not in visitor.get("/_rumi/audit").text
    assert "mine" in json.dumps(host.ok("GET", "/api/audit?event=evidence.acknowledged"))


@pytest.mark.parametrize(
    ("before", "now", "weaker"),
    [("docker/standard", ("embedded", "standard"), True), ("embedded/standard", ("embedded", "reduced"), True), ("embedded/reduced", ("embedded", "standard"), False),
     ("embedded/standard", ("embedded", "standard"), False), (None, ("embedded", "reduced"), False), ("docker/standard", None, False)],
)  # fmt: skip
def test_weaker_isolation_is_what_needs_a_tick(before: str | None, now: tuple[str, str] | None, weaker: bool) -> None:
    isolation = {"driver": now[0], "level": now[1]} if now else None
    assert _weaker({"approved_isolation": before, "isolation": isolation}) is weaker


@pytest.mark.docker
def test_weaker_isolation_than_approved_needs_its_tick(tmp_path: Path) -> None:
    host = RunningHost(tmp_path / "home", "docker")
    with host:
        put(host, "demo", [])
        assert host.approve("demo")["status"] == "running"
    with RunningHost(tmp_path / "home", "embedded") as host:
        visitor = opened(host)
        page = visitor.get("/_rumi/packs/demo/review").text
        assert EN["weaker_agree"] in page
        refused = decide(visitor, "demo")
        assert refused.status == 409
        assert "isolation_weaker" in refused.text
        assert host.status("demo")["status"] != "running"
        assert decide(visitor, "demo", weaker="yes").status == 303
        assert host.status("demo")["status"] == "running"
        assert EN["weaker_agree"] not in visitor.get("/_rumi/packs/demo/review").text


def test_issues_are_called_in_the_readers_language(host: RunningHost) -> None:
    put(host, "waits", [])
    host.ok("GET", "/api/doctor")
    [issue] = [one for one in host.ok("GET", "/api/issues") if one["code"] == "pack_undecided"]
    assert issue["title_ja"] == TITLES_JA["pack_undecided"]
    visitor = opened(host)
    for path in ("/_rumi/", "/_rumi/issues"):
        visitor.language = "en"
        text = visitor.get(path).text
        assert issue["title"] in text
        assert issue["title_ja"] not in text
        visitor.language = "ja"
        text = visitor.get(path).text
        assert issue["title_ja"] in text
        assert issue["title"] not in text
        assert f'<bdi lang="en">{issue["hint"]}</bdi>' in text


def test_calls_of_the_operator_are_in_the_audit_trail_with_the_door_they_came_through(host: RunningHost) -> None:
    put(host, "shop", [], key="shop.price", value="the-answer")
    host.approve("shop")
    for _ in range(3):
        host.result("shop.price", {"n": "the-argument"})
    assert host.call("shop.gone", {})[0] == 404
    assert rumi(host, "call", "shop.price", '{"n": "the-argument"}').returncode == 0
    visitor = opened(host)
    page = visitor.get("/_rumi/interfaces/shop.price")
    asked = {"csrf": page.csrf, "fields": page.hidden("fields"), "value": '"the-argument"', "timeout": ""}
    assert "the-answer" in visitor.post("/_rumi/interfaces/shop.price", asked).text
    uid = os.getuid()
    first = [(f"operator:{door}:{uid}", "shop.price", "ok", 1, "shop") for door in ("uid", "socket", "console")]
    expected = {*first, (f"operator:uid:{uid}", "shop.gone", "missing", 1, None)}

    def told() -> set[tuple[Any, ...]]:
        found = host.ok("GET", "/api/audit?event=interface.called")
        return {(one["actor"], one["key"], one["outcome"], one["count"], one.get("pack_id")) for one in found}

    host.until(lambda: told() == expected, 20, "the first calls on record")
    host.stop()
    host.start()
    assert told() == {*expected, (f"operator:uid:{uid}", "shop.price", "ok", 2, "shop")}, "what was counted is not lost"
    trail = (host.home / "user_data/audit/audit.jsonl").read_text()
    assert "the-argument" not in trail
    assert "the-answer" not in trail
    assert host.ok("GET", "/api/audit/verify")["ok"]
    assert EN["audit"] in visitor.get("/_rumi/audit?pack=shop").text
    assert rumi(host, "audit", "tail", "--pack", "shop", "--event", "interface.called").stdout.count("shop.price") == 4


SLOW = """
flow: slow.walk
steps:
  - {id: first, set: {x: 1}}
  - {id: missing, call: nobody.here}
  - {id: waits, wait: 1h}
finally: [{id: last, set: {y: 1}}]
"""


def under_way(host: RunningHost, text: str, flow: str) -> tuple[str, threading.Thread, list[Any]]:
    """A run of ``flow`` of the operator's: its page, who asks for it, and what that one is told."""
    folder = host.home / "user_data" / "flows"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{flow}.flow.yaml").write_text(text, encoding="utf-8")
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(host.ok("POST", f"/api/flows/{flow}/run", {"timeout": 60})))
    asking.start()
    run = host.until(lambda: next((one for one in host.ok("GET", "/api/runs") if one["flow"] == flow), None), 20, "the run")
    return f"/_rumi/runs/{run['run_id']}", asking, answers


def test_a_run_is_seen_while_it_is_under_way_and_can_be_ended(host: RunningHost) -> None:
    at, asking, answers = under_way(host, SLOW, "slow.walk")
    run_id = at.rpartition("/")[2]
    host.until(lambda: len(host.ok("GET", f"/api/runs/{run_id}")["steps"]) == 2, 20, "its first steps")
    visitor = opened(host)
    for language, words in (("en", EN), ("ja", JA)):
        visitor.language = language
        text = visitor.get("/_rumi/runs").text
        assert f'href="{at}"' in text
        assert words["run_running"] in text
        assert "slow.walk" in text
        text = visitor.get(at).text
        for expected in (words["run_running"], words["step_skipped"], "nobody.here", words["run_cancel"], f'href="{at}?live=1"'):
            assert expected in text, expected
        assert "<code>waits</code>" not in text, "it has not ended yet"
    visitor.language = "en"
    page = visitor.get(at)
    assert visitor.post(f"{at}/cancel", {"csrf": page.csrf}).status == 303
    host.until(lambda: host.ok("GET", f"/api/runs/{run_id}")["status"] == "cancelled", 20, "its end")
    asking.join(20)
    assert [one["status"] for one in answers] == ["cancelled"], "whoever asked for the run is told how it ended"
    text = visitor.get(f"{at}?live=1").text  # which is over: a page like any other
    assert EN["run_cancelled"] in text
    assert EN["run_live"] not in text
    assert visitor.get("/_rumi/runs/..%2fx").status in {400, 404}


@pytest.mark.parametrize("session", [True, False])
def test_a_followed_run_is_a_page_that_goes_on_and_ends_with_it(host: RunningHost, session: bool) -> None:
    """Without a script: each step comes when it ends, in the reader's language, with the policy of every page."""
    at, asking, _ = under_way(host, SLOW, "slow.walk")
    deciding = opened(host)
    visitor = deciding if session else Visitor(host.web_port)
    visitor.language = "ja"
    with visitor.going_on(f"{at}?live=1") as until:
        text = until("<code>nobody.here</code>")
        assert visitor.last.header("content-security-policy") == POLICY
        assert visitor.last.header("content-language") == "ja"
        assert visitor.last.header("cache-control") == "no-store"
        for expected in (JA["run_running"], JA["run_live"], JA["run_cancel"], JA["step_skipped"]):
            assert expected in text, expected
        assert "<code>waits</code>" not in text
        assert JA["run_ended"] not in text
        assert "<script" not in text
        page = deciding.get(at)
        assert deciding.post(f"{at}/cancel", {"csrf": page.csrf}).status == 303
        text = until("")
        assert text.index("<code>nobody.here</code>") < text.index("<code>waits</code>") < text.index("<code>finally/last</code>") < text.index(JA["run_ended"])
        assert JA["run_cancelled"] in text[text.index(JA["run_ended"]) :]
        assert text.rstrip().endswith("</html>")
        assert text.count("<tr") - text.count("<tr hidden") == 5, "one for the head, each step once"
    asking.join(20)
    assert deciding.send("HEAD", f"{at}?live=1", None, {"Sec-Fetch-Site": "same-origin"}).status == 200


def test_a_followed_run_whose_host_stops_is_told_so_on_a_whole_page(host: RunningHost) -> None:
    (host.home / "user_data/flows").mkdir(parents=True, exist_ok=True)
    (host.home / "user_data/flows/slow.walk.flow.yaml").write_text(SLOW, encoding="utf-8")
    deciding = opened(host)
    page = deciding.get("/_rumi/flows/slow.walk")
    at = deciding.post("/_rumi/flows/slow.walk/run", {"csrf": page.csrf, "fields": page.hidden("fields")}).header("location")
    visitors = {"en": Visitor(host.web_port), "ja": Visitor(host.web_port)}
    with contextlib.ExitStack() as followed:
        pages = {}
        for language, visitor in visitors.items():
            visitor.language = language
            pages[language] = followed.enter_context(visitor.going_on(f"{at}?live=1"))
            pages[language]("<code>nobody.here</code>")
        host.stop()
        for language, words in (("en", EN), ("ja", JA)):
            text = pages[language]("")
            assert words["run_stopped"] in text
            assert words["run_ended"] not in text
            assert f'href="{at}">{words["run_look"]}' in text[text.index(words["run_stopped"]) :]
            assert text.count("</html>") == text.count("</table>") == 1
            assert "<!--end-->" not in text


HOSTILE = "<b>x</b><!--end--><!--steps-->\u202e"
LOUD = """
flow: loud.walk
limits: {steps: 5000}
steps:
  - {id: bad, fail: {type: own, title: %s}, on_error: continue}
  - {id: many, loop: {max: 1500}, do: [{id: one, set: {x: 1}}]}
  - {id: waits, wait: 1h}
"""


def test_a_followed_page_is_bounded_escapes_what_it_tells_and_leaves_nothing_behind(host: RunningHost) -> None:
    at, asking, _ = under_way(host, LOUD % json.dumps(HOSTILE), "loud.walk")
    run_id = at.rpartition("/")[2]
    visitor = opened(host)
    for _ in range(70):  # more than there are places for: whoever leaves gives his back
        with visitor.going_on(f"{at}?live=1") as until:
            until("<!DOCTYPE".lower())
    with visitor.going_on(f"{at}?live=1") as until:
        until("<code>many/one</code>")
        host.ok("POST", f"/api/runs/{run_id}/cancel", {})
        text = until("")
    asking.join(20)
    assert "<b>x</b>" not in text
    assert "\u202e" not in text
    assert text.count("<!--") == 0 or text.count("<!-- -->") == text.count("<!--"), "no mark of ours is left, and none of theirs"
    assert text.count("<tr") - text.count("<tr hidden") <= 1_001
    assert text.count("<tr hidden") <= 4, "that a step has begun is said once for each"
    assert EN["run_left_out"] in text

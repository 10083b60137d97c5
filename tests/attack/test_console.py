"""Attacks on the console's session, against a real host in its own process, over real sockets."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core_runtime.api.console_access import ConsoleAccess, Opened
from core_runtime.rules.identity import Door, Peer
from core_runtime.rules.sessions import CODE_LIFE_S, IDLE_LIMIT_S, LIFE_LIMIT_S
from tests.support.browser_like import Answer, Visitor, code_in
from tests.support.http_faces import run
from tests.support.running_host import RunningHost, one_component_pack

NOBODY = 65533

pytestmark = pytest.mark.embedded

SETUP = "def run(context):\n    context['interface_registry'].register('demo.hello', lambda args: 'hi')\n"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    with RunningHost(tmp_path_factory.mktemp("h") / "home", "embedded") as running:
        running.put_pack("demo", one_component_pack("demo", SETUP, provides=("demo.hello",)))
        running.ok("POST", "/api/packs/scan")
        yield running


@pytest.fixture
def visitor(host: RunningHost) -> Visitor:
    return Visitor(host.web_port)


def invite(host: RunningHost) -> Path:
    return Path(host.ok("POST", "/api/console/open")["path"])


def opened(host: RunningHost) -> Visitor:
    visitor = Visitor(host.web_port)
    assert visitor.open(code_in(invite(host))).status == 200
    return visitor


def rejecting(visitor: Visitor, csrf: str | None = None, **headers: str | None) -> Answer:
    """The smallest action that would be seen: a rejection."""
    token = visitor.get("/_rumi/packs/demo/review").csrf if csrf is None else csrf
    return visitor.post("/_rumi/packs/demo/reject", {"csrf": token, "reason": "no"}, **headers)


def untouched(host: RunningHost) -> bool:
    return bool(host.status("demo")["status"] != "blocked")


# -- what works, so that a refusal below means something ---------------------------------------------------------------


def test_the_owner_looks_without_a_session_and_decides_with_one(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as running:
        running.put_pack("demo", one_component_pack("demo", SETUP, provides=("demo.hello",)))
        running.ok("POST", "/api/packs/scan")
        visitor = Visitor(running.web_port)
        for path in ("/", "/_rumi/", "/_rumi/packs/demo", "/_rumi/packs/demo/review", "/_rumi/audit", "/_rumi/issues", "/_rumi/interfaces", "/_rumi/events"):
            looked = visitor.get(path)
            assert (looked.status, looked.csrf) == (200, "")
        visitor.open(code_in(invite(running)))
        page = visitor.get("/_rumi/packs/demo/review")
        done = visitor.post("/_rumi/packs/demo/approve", {"csrf": page.csrf, "digest": page.hidden("digest")})
        assert (done.status, done.header("location")) == (303, "/_rumi/packs/demo")
        assert running.status("demo")["status"] == "running"
        actors = [record.get("actor") for record in running.ok("GET", "/api/audit?event=pack.approved")]
        assert actors == [f"operator:console:{os.getuid()}"]


# -- the cookie --------------------------------------------------------------------------------------------------------


def test_the_cookie_can_not_be_set_or_read_by_others_as_far_as_browsers_allow(host: RunningHost, visitor: Visitor) -> None:
    set_cookie = visitor.open(code_in(invite(host))).header("set-cookie")
    name, _, attributes = set_cookie.partition("=")
    assert name == f"__Host-rumi-{host.web_port}"
    assert attributes.split("; ")[1:] == ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"]


def test_a_planted_cookie_is_no_session_and_hides_none(host: RunningHost) -> None:
    """Cookies ignore ports: any page of this machine can plant one of our name."""
    visitor = opened(host)
    own = visitor.cookie
    planted = f"{own.partition('=')[0]}={'A' * 43}"
    visitor.cookie = planted
    assert visitor.get("/_rumi/").csrf == ""
    assert rejecting(visitor, "x" * 43).status == 401
    for both in (f"{planted}; {own}", f"{own}; {planted}"):  # which is ours can't be told, so neither counts
        visitor.cookie = both
        assert rejecting(visitor, "x" * 43).status == 401
    assert untouched(host)


@pytest.mark.root
def test_a_cookie_of_another_user_or_port_needs_the_owners_connection(host: RunningHost) -> None:
    """A server of another user on another port receives the cookie, for cookies ignore ports. It is worth nothing there."""
    visitor = opened(host)
    csrf = visitor.get("/_rumi/packs/demo/review").csrf
    url = f"http://localhost:{host.web_port}/_rumi/packs/demo"
    headers = ["-H", f"Cookie: {visitor.cookie}", "-H", "Origin: null", "-H", "Sec-Fetch-Site: same-origin"]
    for family in ("-4", "-6"):
        stolen = _as_nobody("curl", "-s", family, "-w", "%{http_code}", *headers, "-d", f"csrf={csrf}", f"{url}/reject")
        assert stolen.endswith("401")
        assert "not_identified" in stolen
        seen = _as_nobody("curl", "-s", family, "-w", "%{http_code}", "-H", f"Cookie: {visitor.cookie}", url)
        assert seen.endswith("401")
        assert csrf not in seen
    assert untouched(host)


def test_a_cookie_without_the_proof_of_the_user(tmp_path: Path) -> None:
    """As on a system that tells no user: a cookie session opened with the proof counts for nothing without it."""
    access = ConsoleAccess(tmp_path / "run", 5000)

    async def attack() -> None:
        invitation = await access.invite()
        found = access.open(code_in(invitation.path).encode(), proven=True)
        assert isinstance(found, Opened)
        from core_runtime.rules.identity import Authority, Refuse, RequestFacts, decide

        cookie = f"__Host-rumi-5000={found.secret}".encode()
        for peer in (Peer(Door.WEB, unproven="not told"), Peer(Door.WEB, uid=1001)):
            for sent in ({"cookie": (cookie,)}, {"session": (found.secret.encode(),)}, {"cookie": (cookie,), "session": (found.secret.encode(),)}):
                facts = RequestFacts(peer, "GET", b"/_rumi/", host=(b"localhost:5000",), **sent)
                decision = decide(facts, Authority(1000, 8765, 5000, b"", access.living()))
                assert isinstance(decision, Refuse)
                assert decision.status == 401

    run(attack())


def test_session_fixation(host: RunningHost) -> None:
    """Whatever cookie the browser had before, opening makes a new session and ends the old one."""
    first = opened(host)
    old = first.cookie
    first.open(code_in(invite(host)))
    assert first.cookie != old
    assert first.get("/_rumi/").csrf
    again = Visitor(host.web_port, cookie=old)
    assert again.get("/_rumi/").csrf == ""
    chosen = Visitor(host.web_port, cookie=f"__Host-rumi-{host.web_port}={'B' * 43}")
    chosen.open(code_in(invite(host)))
    assert "B" * 43 not in chosen.cookie


def test_closing_ends_the_session_here_and_not_only_in_the_browser(host: RunningHost) -> None:
    visitor = opened(host)
    cookie, csrf = visitor.cookie, visitor.get("/_rumi/").csrf
    closed = visitor.post("/_rumi/close", {"csrf": csrf})
    assert "Max-Age=0" in closed.header("set-cookie")
    kept = Visitor(host.web_port, cookie=cookie)
    assert rejecting(kept, csrf).status == 401


def test_a_restart_of_the_host_ends_sessions_and_codes(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as running:
        visitor = opened(running)
        csrf, code = visitor.get("/_rumi/").csrf, code_in(path := invite(running))
        running.kill()
        running.start()
        assert visitor.get("/_rumi/").csrf == ""
        assert visitor.post("/_rumi/scan", {"csrf": csrf}).status == 401
        assert visitor.open(code).status == 401
        fresh = invite(running)
        assert sorted(fresh.parent.iterdir()) == [fresh], "what a killed run left behind goes"
        assert not path.exists()


def test_sessions_end_by_themselves_and_are_few(tmp_path: Path) -> None:
    now = [1000.0]
    access = ConsoleAccess(tmp_path / "run", 5000, clock=lambda: now[0])

    async def open_one() -> Opened:
        found = access.open(code_in((await access.invite()).path).encode(), proven=True)
        assert isinstance(found, Opened)
        return found

    async def attack() -> None:
        idle = await open_one()
        now[0] += IDLE_LIMIT_S - 1
        assert idle.session.name in access.living()
        now[0] += 2
        assert access.living() == {}
        busy = await open_one()
        for _ in range(int(LIFE_LIMIT_S / 1000)):
            now[0] += 1000
            access.use(busy.session)
        assert busy.session.name in access.living()
        now[0] += 1000
        assert access.living() == {}, "use does not make it live longer than its whole time"
        many = [await open_one() for _ in range(20)]
        assert len(access.living()) == 8
        assert many[-1].session.name in access.living()

    run(attack())


# -- the one-time code and its file ------------------------------------------------------------------------------------


def test_a_replayed_code(host: RunningHost, visitor: Visitor) -> None:
    path = invite(host)
    code = code_in(path)
    assert visitor.open(code).status == 200
    assert not path.exists(), "a used code leaves no file"
    again = Visitor(host.web_port).open(code)
    assert (again.status, again.header("set-cookie")) == (401, "")


def test_an_expired_code(tmp_path: Path) -> None:
    now = [1000.0]
    access = ConsoleAccess(tmp_path / "run", 5000, clock=lambda: now[0])

    async def attack() -> None:
        made = await access.invite()
        code = code_in(made.path).encode()
        now[0] += CODE_LIFE_S
        access.sweep()
        assert not made.path.exists()
        assert not isinstance(access.open(code, proven=True), Opened)

    run(attack())


def test_guessed_codes_are_slowed_down_and_cost_the_owner_nothing(tmp_path: Path) -> None:
    now = [1000.0]
    access = ConsoleAccess(tmp_path / "run", 5000, clock=lambda: now[0])

    async def attack() -> None:
        code = code_in((await access.invite()).path).encode()
        codes = [getattr(access.open(b"%043d" % guess, proven=False), "code", "") for guess in range(100)]
        assert codes == ["code_wrong"] * 5 + ["too_many_codes"] * 95
        assert isinstance(access.open(code, proven=True), Opened)

    run(attack())


def test_malformed_codes_reach_no_comparison(host: RunningHost, visitor: Visitor) -> None:
    for body in ("", "code=", "code=" + "a" * 42, "code=" + "a" * 44, "code=" + "a" * 43 + "&x=1", "x" * 100_000):
        answer = visitor.send("POST", "/_rumi/open", body, {"Content-Type": "application/x-www-form-urlencoded"})
        assert answer.status in {400, 413}
        assert answer.header("set-cookie") == ""
    assert visitor.send("POST", "/_rumi/open", "edoc=" + "a" * 43, {"Content-Type": "application/x-www-form-urlencoded"}).status == 401


def test_the_redirect_file_is_the_owners_alone(host: RunningHost) -> None:
    path = invite(host)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    if os.geteuid() == 0:
        assert _as_nobody("cat", str(path)) == ""


@pytest.mark.parametrize("planted", ["open", "link", "file"])
def test_a_planted_redirect_folder_is_not_used(tmp_path: Path, planted: str) -> None:
    folder = tmp_path / "run"
    if planted == "open":
        folder.mkdir()
        folder.chmod(0o755)
    elif planted == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    else:
        folder.write_text("")
    access = ConsoleAccess(folder, 5000)

    async def attack() -> None:
        from backend_core.errors import TrustError

        with pytest.raises(TrustError) as refused:
            await access.invite()
        assert refused.value.code == "redirect_folder_unsafe"
        assert list((tmp_path / "elsewhere").iterdir() if planted == "link" else []) == []

    run(attack())


def test_the_code_is_in_no_address_answer_or_log(host: RunningHost, visitor: Visitor) -> None:
    answer = host.ok("POST", "/api/console/open")
    code = code_in(Path(answer["path"]))
    assert code not in str(answer)
    page = visitor.open(code)
    secret = visitor.cookie.partition("=")[2]
    assert code not in page.text + str(page.headers)
    assert secret not in page.text, "in the cookie only, where scripts don't reach"
    assert page.header("referrer-policy") == "no-referrer"
    assert not re.search(r"https?://(?!localhost)", page.text)
    log = host.log.read_text()
    everything = str(host.ok("GET", "/api/audit")) + str(host.ok("GET", "/api/issues")) + log
    assert code not in everything
    assert secret not in everything


def test_a_code_is_used_by_a_form_only(host: RunningHost, visitor: Visitor) -> None:
    code = code_in(invite(host))
    assert visitor.get(f"/_rumi/open?code={code}").status in {404, 405}
    for headers in ({"Sec_Fetch_Dest": "iframe"}, {"Sec_Fetch_Mode": "cors", "Sec_Fetch_Dest": "empty"}, {"Origin": "http://evil.example"}, {"Content_Type": "text/plain"}, {"Host": "evil.example"}):
        assert visitor.open(code, **headers).status in {403, 415, 421}
    assert visitor.open(code).status == 200


# -- forms -------------------------------------------------------------------------------------------------------------


def test_missing_foreign_and_old_csrf_tokens(host: RunningHost) -> None:
    visitor, other = opened(host), opened(host)
    old = Visitor(host.web_port)
    old.open(code_in(invite(host)))
    ended = old.get("/_rumi/").csrf
    old.post("/_rumi/close", {"csrf": ended})
    tokens: list[Any] = ["", "x" * 43, other.get("/_rumi/").csrf, ended, [visitor.get("/_rumi/").csrf] * 2]
    for token in tokens:
        answer = visitor.post("/_rumi/packs/demo/reject", {"csrf": token, "reason": "no"})
        assert answer.status == 403, token
    assert visitor.post("/_rumi/packs/demo/reject", {"reason": "no"}).status == 403
    assert untouched(host)


def test_cross_site_post(host: RunningHost) -> None:
    """Even with the cookie and the token: a form that another page sends is refused before it is read."""
    visitor = opened(host)
    csrf = visitor.get("/_rumi/").csrf
    api = f"http://localhost:{host.api_port}"
    for headers in (
        {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "null", "Sec_Fetch_Site": "cross-site"},
        {"Origin": "null", "Sec_Fetch_Site": "same-site"},
        {"Origin": "null", "Sec_Fetch_Site": "none"},
        {"Origin": "null", "Sec_Fetch_Site": None},
        {"Origin": None},
        {"Origin": api, "Sec_Fetch_Site": "same-site"},
        {"Origin": f"http://localhost:{host.web_port}", "Sec_Fetch_Site": "same-site"},
        {"Origin": f"http://127.0.0.1:{host.web_port}"},
    ):
        assert rejecting(visitor, csrf, **headers).status == 403, headers
    assert rejecting(visitor, csrf, Content_Type="application/json").status == 415
    assert rejecting(visitor, csrf, Content_Type="multipart/form-data; boundary=x").status == 415
    assert untouched(host)
    assert rejecting(visitor, csrf, Origin=f"http://localhost:{host.web_port}", Sec_Fetch_Site=None).status == 303
    host.approve("demo")


def test_actions_need_a_session_even_from_the_owner(host: RunningHost, visitor: Visitor) -> None:
    token = host.home / "user_data" / "permissions" / ".api_token"
    for headers in ({}, {"Authorization": f"Bearer {token.read_text().strip()}"}):
        for path in ("packs/demo/approve", "packs/demo/reject", "packs/demo/stop", "audit/acknowledge", "scan"):
            assert visitor.post(f"/_rumi/{path}", {"csrf": "x"}, **headers).status == 401


def test_a_stale_review_is_told_and_decides_nothing(tmp_path: Path) -> None:
    with RunningHost(tmp_path / "home", "embedded") as running:
        folder = running.put_pack("demo", one_component_pack("demo", SETUP, provides=("demo.hello",)))
        running.ok("POST", "/api/packs/scan")
        visitor = opened(running)
        page = visitor.get("/_rumi/packs/demo/review")
        (folder / "backend" / "components" / "main" / "setup.py").write_text("print('other')\n")
        answer = visitor.post("/_rumi/packs/demo/approve", {"csrf": page.csrf, "digest": page.hidden("digest")})
        assert (answer.status, "digest_stale" in answer.text) == (409, True)
        assert "/_rumi/packs/demo/review" in answer.text
        assert running.status("demo")["status"] in {"installed", "pending"}
        without = visitor.post("/_rumi/packs/demo/approve", {"csrf": page.csrf})
        assert without.status == 409, "a decision without what was shown is no decision"


def test_approving_again_prolongs_nothing_by_itself(host: RunningHost) -> None:
    """What was granted for a time is shown so, and needs a time again; ticks of a page that was not shown grant nothing."""
    permissions = json.dumps({"pack_id": "timed", "permissions": [{"type": "userdata.read", "paths": ["shared/a", "shared/b"], "reason": "to read"}]})
    host.put_pack("timed", {**one_component_pack("timed", SETUP), "backend/permissions.json": permissions})
    host.ok("POST", "/api/packs/scan")
    visitor = opened(host)
    place = "/_rumi/packs/timed"
    page = visitor.get(f"{place}/review")
    fields = {"csrf": page.csrf, "digest": page.hidden("digest"), "take": ["0.1", "0.7", "9", "x"], "mode-0": "hour"}
    assert visitor.post(f"{place}/approve", fields).status == 303
    [granted] = host.ok("GET", "/api/packs/timed/permissions")["granted"]
    assert (granted["paths"], granted["mode"]) == (["shared/b"], "until")
    again = visitor.get(f"{place}/review")
    assert '<option value="until" selected>' in again.text
    assert visitor.post(f"{place}/approve", {**fields, "mode-0": "until"}).status == 400
    assert visitor.post(f"{place}/approve", {**fields, "mode-0": "until", "until": "2001-01-01T00:00"}).status == 400
    assert visitor.post(f"{place}/approve", {**fields, "mode-0": "for ever"}).status == 400
    assert host.ok("GET", "/api/packs/timed/permissions")["granted"][0]["until"] == granted["until"]


def test_a_typed_secret_comes_back_nowhere(host: RunningHost) -> None:
    permissions = json.dumps({"pack_id": "keeper", "permissions": [{"type": "secret", "names": ["api.key"], "reason": "to sign"}]})
    host.put_pack("keeper", {**one_component_pack("keeper", SETUP), "backend/permissions.json": permissions})
    host.ok("POST", "/api/packs/scan")
    visitor = opened(host)
    csrf, value = visitor.get("/_rumi/packs/keeper").csrf, "correct-horse-battery-staple-" + "v" * 40
    place = "/_rumi/packs/keeper/secrets/set"
    answers = [
        visitor.post(place, {"csrf": csrf, "name": "api.key", "value": value}),
        visitor.get("/_rumi/packs/keeper"),
        visitor.post(place, {"csrf": csrf, "name": value + " ", "value": value}),
        visitor.post(place, {"csrf": csrf, "name": "api.key", "value": [value, value]}),
        visitor.post(place, {"csrf": csrf, "name": "api.key", "value": value * 300}),
        visitor.post(place, {"csrf": "x", "name": "api.key", "value": value}),
        visitor.get("/_rumi/audit"),
        visitor.get("/_rumi/issues"),
    ]
    assert [answer.status for answer in answers] == [303, 200, 400, 400, 400, 403, 200, 200]
    assert [entry["name"] for entry in host.ok("GET", "/api/packs/keeper/secrets")["secrets"]] == ["api.key"]
    for answer in answers:
        assert value not in answer.text + str(answer.headers)
    assert value not in host.log.read_text()
    assert visitor.get("/_rumi/packs/keeper").header("cache-control") == "no-store"


# -- pages -------------------------------------------------------------------------------------------------------------


def test_no_page_is_framed_cached_or_guessed(host: RunningHost) -> None:
    visitor = opened(host)
    csrf = visitor.get("/_rumi/").csrf
    answers = [visitor.get(path) for path in ("/", "/_rumi/", "/_rumi/packs/demo", "/_rumi/packs/demo/review", "/_rumi/audit", "/_rumi/issues", "/_rumi/nothing", "/_rumi/static/console.js")]
    answers += [visitor.post("/_rumi/packs/demo/stop", {"csrf": "wrong"}), visitor.post("/_rumi/scan", {"csrf": csrf}), visitor.get("/", Host="evil.example")]
    for answer in answers:
        policy = answer.header("content-security-policy")
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert (answer.header("x-frame-options"), answer.header("x-content-type-options"), answer.header("referrer-policy")) == ("DENY", "nosniff", "no-referrer")
        assert (answer.header("cross-origin-opener-policy"), answer.header("cross-origin-resource-policy")) == ("same-origin", "same-origin")
        if "console.js" not in answer.text and "use strict" not in answer.text:
            assert answer.header("cache-control") == "no-store"


def test_a_frame_of_another_site_gets_nothing(host: RunningHost) -> None:
    visitor = opened(host)
    assert visitor.get("/_rumi/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="iframe").status == 403


def _as_nobody(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", timeout=30, check=False)
    print(done.stderr, file=sys.stderr)
    return done.stdout

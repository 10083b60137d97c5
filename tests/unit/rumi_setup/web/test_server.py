"""A real wizard on a real port, visited as a browser without scripts would."""

import http.client
import re
import socket
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import pytest

from rumi_setup.core.problem import Attempt, SetupError
from rumi_setup.web import pages
from rumi_setup.web.server import WizardServer
from rumi_setup.web.wizard import Installation, Wizard
from rumi_setup.web.words import Words
from rumi_setup.web.work import State, Work

LIMIT_S = 20.0
POLICY = "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"


@dataclass
class Page:
    status: int
    headers: dict[str, str]
    text: str


class Visitor:
    """A browser: keeps the cookie, reads the CSRF token from the form."""

    def __init__(self, server: WizardServer) -> None:
        self.server, self.cookie, self.csrf = server, "", ""
        self.origin = f"http://127.0.0.1:{server.port}"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Page:
        sent = {
            "Accept-Language": "en",
            **({"Cookie": self.cookie} if self.cookie else {}),
            **{k.replace("_", "-"): v for k, v in headers.items()},
        }
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            page = Page(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
        finally:
            connection.close()
        return page

    def get(self, path: str, **headers: str) -> Page:
        page = self.ask("GET", path, **headers)
        found = re.search(r'name="csrf" value="([^"]+)"', page.text)
        self.csrf = found.group(1) if found else self.csrf
        return page

    def enter(self, **headers: str) -> Page:
        page = self.get(self.entry, **headers)
        self.cookie = page.headers.get("set-cookie", "").partition(";")[0]
        return page

    @property
    def entry(self) -> str:
        address = urlsplit(self.server.address)
        return f"{address.path}?{address.query}"

    def send(self, path: str, **form: str) -> Page:
        body = urlencode({"csrf": self.csrf, **form})
        return self.ask("POST", path, body, Origin=self.origin, Content_Type="application/x-www-form-urlencoded")


@pytest.fixture(autouse=True)
def english(monkeypatch) -> None:
    monkeypatch.setenv("RUMI_LANG", "en")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent")


@pytest.fixture
def visitor(tmp_path):
    with WizardServer(Wizard(home=tmp_path / "home")) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        yield Visitor(server)
        server.finished.set()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def test_from_the_address_to_the_end(visitor, tmp_path) -> None:
    assert 'url=/"' in visitor.enter().text
    assert "Docker Engine" in visitor.get("/").text
    assert "Create what is missing" in visitor.get("/folders").text
    assert visitor.send("/initialise").headers["location"] == "/folders"
    assert (tmp_path / "home/user_data/permissions").is_dir()
    assert "Created: user_data" in visitor.get("/folders").text
    assert "Healthy" in visitor.get("/doctor").text
    assert "./rumi up" in visitor.get("/ready").text
    assert "You can close this page" in visitor.send("/finish").text
    assert visitor.server.finished.is_set()


def test_without_the_cookie_nothing_is_told(visitor, tmp_path) -> None:
    for path in ("/", "/install", "/folders", "/doctor", "/ready"):
        page = visitor.get(path)
        assert (page.status, str(tmp_path) in page.text, "csrf" in page.text) == (401, False, False)
    assert visitor.send("/initialise").status == 401
    assert not (tmp_path / "home").exists()


def test_the_address_works_once_and_the_terminal_says_so(visitor, capsys) -> None:
    visitor.enter()
    stranger = Visitor(visitor.server)
    page = stranger.enter()
    assert (page.status, stranger.cookie, "used already" in page.text) == (403, "", True)
    assert "second time" in capsys.readouterr().err
    assert visitor.get("/folders").status == 200


def test_a_form_without_the_csrf_token_does_nothing(visitor, tmp_path) -> None:
    visitor.enter()
    visitor.csrf = "guessed"
    assert visitor.send("/initialise").status == 409
    assert visitor.send("/finish").status == 409
    assert not (tmp_path / "home").exists()


def test_a_foreign_page_can_not_act(visitor, tmp_path) -> None:
    visitor.enter()
    visitor.get("/folders")
    visitor.origin = "http://127.0.0.1:5000"
    assert visitor.send("/initialise").status == 409
    assert not (tmp_path / "home").exists()


def test_get_changes_nothing(visitor, tmp_path) -> None:
    visitor.enter()
    for path in ("/initialise", "/finish", "/mend"):
        assert visitor.get(path).status == 404
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "path",
    ["/guide/../web/server.py", "/guide/%2e%2e/web/server.py", "/wizard.css/", "//etc/passwd", "/guide/", "/nope"],
)
def test_only_listed_files_are_served(visitor, path) -> None:
    visitor.enter()
    assert visitor.get(path).status == 404


def test_every_page_is_under_the_strict_policy(visitor) -> None:
    visitor.enter()
    for path in ("/", "/install", "/folders", "/doctor", "/ready", "/nope", "/wizard.css", "/guide/en/index.html"):
        page = visitor.get(path)
        assert page.headers["content-security-policy"] == POLICY
        assert "<script" not in page.text
        assert "style=" not in page.text
        assert page.headers["cache-control"] == "no-store"


def test_both_languages_and_the_switch(visitor) -> None:
    assert 'lang="ja"' in visitor.enter(Accept_Language="ja,en;q=0.5").text
    assert "フォルダー" in visitor.get("/folders").text
    assert visitor.send("/language", language="en", back="/folders").headers["location"] == "/folders"
    assert "<h1>Folders</h1>" in visitor.get("/folders").text
    assert visitor.send("/language", language="xx", back="http://evil.example/").headers["location"] == "/"


def test_the_doctor_mends_and_keeps_the_old_file(visitor, tmp_path) -> None:
    visitor.enter()
    visitor.get("/doctor")
    visitor.send("/mend", issue="all")
    (tmp_path / "home/user_data/mounts.json").write_text("<b>broken")
    page = visitor.get("/doctor")
    assert "mounts_json_invalid" in page.text
    assert "<b>" not in page.text
    visitor.send("/mend", issue="mounts_json_invalid")
    assert "mounts.json.broken-" in visitor.get("/doctor").text


def test_a_missing_wheel_folder_is_explained(visitor, monkeypatch) -> None:
    monkeypatch.setattr("rumi_setup.core.installer.current", lambda *_: None)
    visitor.enter()
    visitor.get("/install")
    for folder in ("/nonexistent/<i>", "~no-such-user/x", "a\0b", "x" * 5000):
        visitor.send("/install", offline=folder)
        assert visitor.server.wizard.wait_for_installation(LIMIT_S).state is State.FAILED
        page = visitor.get("/install")
        assert 'role="alert"' in page.text
        assert "not foreseen" not in page.text, folder[:20]
        assert "<i>" not in page.text


def test_a_silent_client_delays_nobody(visitor) -> None:
    visitor.enter()
    with socket.create_connection(("127.0.0.1", visitor.server.port)) as idle:
        idle.sendall(b"POST /install HTTP/1.1\r\nHo")
        began = time.monotonic()
        assert visitor.get("/folders").status == 200
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + b"a" * 70000 + b"\r\n\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_request_is_not_echoed(visitor, raw) -> None:
    with socket.create_connection(("127.0.0.1", visitor.server.port), timeout=LIMIT_S) as client:
        client.sendall(raw)
        answer = b""
        try:
            while part := client.recv(4096):
                answer += part
        except ConnectionResetError:
            pass  # it closed before it had read all
    assert b"BREW" not in answer
    assert b"aaaa" not in answer


def test_it_ends_when_nobody_is_there(tmp_path) -> None:
    with WizardServer(Wizard(home=tmp_path), idle_limit_s=0.0) as server:
        assert server.serve() is False


def test_it_listens_on_loopback_only(visitor) -> None:
    assert visitor.server.server_address[0] == "127.0.0.1"


def test_work_happens_once_at_a_time_and_its_failure_is_kept() -> None:
    work, go = Work(), threading.Event()

    def act(progress) -> None:
        progress.step("Half", 1, 2)
        go.wait(LIMIT_S)
        raise SetupError("<it> failed", attempts=(Attempt("way", "no"),), next_steps=("do `this`",))

    assert work.start(act)
    assert not work.start(act)
    going = work.snapshot()
    page = pages.install(pages.View(Words("en"), "c", "/install"), Installation(None, going, ""))
    assert 'http-equiv="refresh"' in page
    assert "<progress" in page
    go.set()
    ended = work.wait(LIMIT_S)
    assert ended.state is State.FAILED
    page = pages.install(pages.View(Words("en"), "c", "/install"), Installation(None, ended, ""))
    assert "&lt;it&gt; failed" in page
    assert "<code>this</code>" in page
    assert "refresh" not in page

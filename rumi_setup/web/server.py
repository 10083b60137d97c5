"""Carries the wizard over HTTP on loopback: one connection a request, bounded in number, size and time.

The answer to every request is made in `_Handler._answer`; whether it may be answered is `gate`'s decision alone.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rumi_setup.core import places
from rumi_setup.web import pages
from rumi_setup.web.gate import Asked, Gate, Refusal
from rumi_setup.web.pages import View
from rumi_setup.web.wizard import Wizard
from rumi_setup.web.words import Words, preferred

IDLE_LIMIT_S = 30 * 60.0
# the checks of a machine with a hanging engine and git take half a minute
_CONNECTION_LIMIT_S = 90.0
_SILENCE_LIMIT_S = 10.0
_CONNECTIONS = 16
_LAST_ANSWERS_LIMIT_S = 3.0
_POLL_S = 0.5
_HTML = "text/html; charset=utf-8"
_TYPES = {".html": _HTML, ".css": "text/css; charset=utf-8"}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
    "base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    # not no-referrer: with it browsers send `Origin: null` with our own forms
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class Answer:
    """A response: HTML unless `kind` says otherwise."""

    body: str
    status: int = 200
    kind: str = _HTML
    headers: dict[str, str] = field(default_factory=dict)


class WizardServer(ThreadingHTTPServer):
    """One run of the wizard on a free port of 127.0.0.1."""

    daemon_threads = True
    timeout = _POLL_S

    def __init__(self, wizard: Wizard, *, idle_limit_s: float = IDLE_LIMIT_S) -> None:
        self._permits = threading.Semaphore(_CONNECTIONS)
        self._began: dict[socket.socket, float] = {}
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.wizard = wizard
        self.port = int(self.server_address[1])
        self.gate = Gate(self.port)
        self.files = _public_files()
        self.finished = threading.Event()
        self._idle_limit_s = idle_limit_s
        self._used_s = time.monotonic()

    @property
    def address(self) -> str:
        """With the token in it: for the terminal, never for a log or a command line."""
        return f"http://127.0.0.1:{self.port}/begin?token={self.gate.token}"

    @property
    def idle_minutes(self) -> int:
        return round(self._idle_limit_s / 60)

    def used(self) -> None:
        """The visitor is there."""
        self._used_s = time.monotonic()

    def serve(self) -> bool:
        """Until Finish, or until nobody used it for long enough; says whether it was Finish."""
        while not self.finished.is_set():
            if not self.wizard.busy and time.monotonic() - self._used_s > self._idle_limit_s:
                return False
            self.handle_request()
            self._cut_late_connections()
        deadline = time.monotonic() + _LAST_ANSWERS_LIMIT_S
        for _ in range(_CONNECTIONS):
            self._permits.acquire(timeout=max(deadline - time.monotonic(), 0.0))
        return True

    def _cut_late_connections(self) -> None:
        late = time.monotonic() - _CONNECTION_LIMIT_S
        with self._guard:
            for connection, began_s in self._began.items():
                if began_s < late:
                    _cut(connection)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._permits.acquire(blocking=False):
            self.shutdown_request(request)
            return
        with self._guard:
            self._began[request] = time.monotonic()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._guard:
                self._began.pop(request, None)
            self._permits.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away or said nothing is no event; the rest is answered in `_Handler`."""


class _Handler(BaseHTTPRequestHandler):
    server: WizardServer
    timeout = _SILENCE_LIMIT_S

    def do_GET(self) -> None:
        self._respond()

    def do_POST(self) -> None:
        self._respond()

    def do_HEAD(self) -> None:
        self._respond()

    def _respond(self) -> None:
        headers = {name.lower(): ", ".join(self.headers.get_all(name, ())) for name in self.headers}
        asked = Asked(self.command, self.path, headers)
        try:
            answer = self._answer(asked)
        except OSError:
            raise
        except Exception:  # noqa: BLE001 - the one place: the visitor gets a page, the terminal the trace
            traceback.print_exc()
            answer = Answer(pages.broken(self._words(asked)), 500)
        self._send(answer)

    def _answer(self, asked: Asked) -> Answer:
        gate = self.server.gate
        refusal = gate.refuse_outsider(asked)
        if refusal is not None:
            return self._refused(asked, refusal)
        target = urlsplit(asked.target)
        if target.path in self.server.files and asked.method != "POST":
            return self.server.files[target.path]
        if target.path == "/begin":
            return self._begin(asked, target.query)
        if not gate.knows(asked):
            return self._refused(asked, Refusal.NO_SESSION)
        self.server.used()
        if asked.method == "POST":
            return self._act(asked, target.path)
        return self._page(target.path)

    def _begin(self, asked: Asked, query: str) -> Answer:
        token = parse_qs(query, max_num_fields=4).get("token", [""])[0]
        refusal = self.server.gate.exchange(asked, token)
        if refusal is not None:
            if refusal is Refusal.USED:
                say = Words(self.server.wizard.language)
                print(f"rumi: {say('The address was opened a second time; that was refused.')}", file=sys.stderr)
            return self._refused(asked, refusal)
        self.server.used()
        language = preferred(asked.headers.get("accept-language", ""))
        if language is not None:
            self.server.wizard.speak(language)
        return Answer(pages.entered(self._view()), headers={"Set-Cookie": self.server.gate.set_cookie()})

    def _page(self, path: str) -> Answer:
        wizard, view = self.server.wizard, self._view(path)
        if path == "/":
            return Answer(pages.checks(view, wizard.checks()))
        if path == "/install":
            return Answer(pages.install(view, wizard.installation()))
        if path == "/folders":
            return Answer(pages.folders(view, wizard.folders()))
        if path == "/doctor":
            return Answer(pages.doctor(view, wizard.health()))
        if path == "/ready":
            installed = wizard.installation().lock is not None
            return Answer(pages.ready(view, installed=installed, healthy=wizard.health().healthy))
        return Answer(pages.unknown(view), 404)

    def _act(self, asked: Asked, path: str) -> Answer:
        raw = self.rfile.read(int(asked.headers["content-length"])).decode("utf-8", "replace")
        try:
            form = {k: v[0] for k, v in parse_qs(raw, keep_blank_values=True, max_num_fields=16).items()}
        except ValueError:
            return self._refused(asked, Refusal.FORM)
        if not self.server.gate.form_is_ours(form.get("csrf", "")):
            return self._refused(asked, Refusal.FOREIGN)
        wizard = self.server.wizard
        if path == "/install":
            wizard.install(form.get("offline", ""))
            return _see("/install")
        if path == "/initialise":
            wizard.initialise()
            return _see("/folders")
        if path == "/mend":
            wizard.mend(form.get("issue", ""))
            return _see("/doctor")
        if path == "/language":
            wizard.speak(form.get("language", ""))
            back = form.get("back", "/")
            return _see(back if back in pages.STEPS else "/")
        if path == "/finish":
            return self._finish()
        return Answer(pages.unknown(self._view()), 404)

    def _finish(self) -> Answer:
        if self.server.wizard.busy:
            return _see("/install")
        self.server.finished.set()
        return Answer(pages.finished(self._view()))

    def _view(self, path: str = "") -> View:
        return View(Words(self.server.wizard.language), self.server.gate.csrf, path)

    def _words(self, asked: Asked) -> Words:
        return Words(preferred(asked.headers.get("accept-language", "")) or self.server.wizard.language)

    def _refused(self, asked: Asked, why: Refusal) -> Answer:
        inside = self.server.gate.knows(asked)
        return Answer(pages.refused(self._words(asked), why, inside=inside), int(why.value))

    def _send(self, answer: Answer) -> None:
        body = answer.body.encode()
        self.send_response(answer.status)
        for name, value in {**_HEADERS, **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """For what the library itself refuses, a request that is none: no echo of what came."""
        del message, explain
        self.close_connection = True
        self._send(Answer("bad request\n", int(code), "text/plain; charset=utf-8"))

    def version_string(self) -> str:
        return "rumi"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Nothing: the first line of the first request holds the token."""


def _see(path: str) -> Answer:
    return Answer("", 303, headers={"Location": path})


def _cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it ended by itself just now


def _public_files() -> dict[str, Answer]:
    """The guide and the style sheets, read once: no path that a request names reaches the disk."""
    package = places.ROOT / "rumi_setup"
    found = {"/wizard.css": package / "web" / "wizard.css"}
    for path in sorted((package / "guide").rglob("*")):
        if path.suffix in _TYPES and path.is_file():
            found[f"/guide/{path.relative_to(package / 'guide').as_posix()}"] = path
    return {url: _file(path) for url, path in found.items()}


def _file(path: Path) -> Answer:
    return Answer(path.read_text(encoding="utf-8"), kind=_TYPES[path.suffix])

"""What a browser does with the console's cookies and forms, as raw requests that a test can bend."""

from __future__ import annotations

import contextlib
import html
import http.client
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

FORM = "application/x-www-form-urlencoded"


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    text: str

    def header(self, name: str) -> str:
        return next((value for found, value in self.headers if found.lower() == name), "")

    @property
    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.text)
        return found[1] if found else ""

    def hidden(self, name: str) -> str:
        found = re.search(rf'name="{name}" value="([^"]+)"', self.text)
        assert found, name
        return html.unescape(found[1])


@dataclass
class Visitor:
    """One browser: its cookie, its language. ``headers`` of each request may be replaced (``None`` leaves one out)."""

    port: int
    address: str = "127.0.0.1"
    cookie: str = ""
    language: str = "en"
    last: Answer = field(default_factory=lambda: Answer(0, [], ""))

    def get(self, path: str = "/_rumi/", **changed: str | None) -> Answer:
        return self.send("GET", path, None, {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", **_named(changed)})

    def post(self, path: str, fields: dict[str, Any], **changed: str | None) -> Answer:
        headers = {"Origin": "null", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Content-Type": FORM}
        return self.send("POST", path, urlencode(fields, doseq=True), {**headers, **_named(changed)})

    def open(self, code: str, **changed: str | None) -> Answer:
        """What the redirect file's form sends; the cookie is kept."""
        answer = self.post("/_rumi/open", {"code": code}, **{"Sec_Fetch_Site": "cross-site", **changed})
        if answer.header("set-cookie"):
            self.cookie = answer.header("set-cookie").partition(";")[0]
        return answer

    @contextlib.contextmanager
    def going_on(self, path: str, fields: dict[str, Any] | None = None) -> Iterator[Callable[[str], str]]:
        """A page that is not over: what was read of it once a text is in it. ``""``: to its end. ``fields``: of a form."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=60)
        try:
            headers = {"Host": f"localhost:{self.port}", "Accept-Language": self.language, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
            if self.cookie:
                headers["Cookie"] = self.cookie
            if fields is None:
                connection.request("GET", path, None, headers)
            else:
                connection.request("POST", path, urlencode(fields, doseq=True), {**headers, "Origin": "null", "Content-Type": FORM})
            answer, read = connection.getresponse(), bytearray()
            self.last = Answer(answer.status, answer.getheaders(), "")

            def until(text: str) -> str:
                while (not text or text not in read.decode(errors="replace")) and (piece := answer.read1(65536)):
                    read.extend(piece)
                shown = read.decode()
                assert text in shown, (text, shown)
                return shown

            yield until
        finally:
            connection.close()

    def send(self, method: str, path: str, body: str | None, headers: dict[str, str | None]) -> Answer:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=60)
        try:
            sent = {"Host": f"localhost:{self.port}", "Accept-Language": self.language, "Cookie": self.cookie or None, **headers}
            connection.request(method, path, body, {name: value for name, value in sent.items() if value is not None})
            answer = connection.getresponse()
            self.last = Answer(answer.status, answer.getheaders(), answer.read().decode())
            return self.last
        finally:
            connection.close()


def _named(changed: dict[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in changed.items()}


def code_in(path: Path) -> str:
    """The code of a redirect file, as the browser that opens it finds it."""
    found = re.search(r'name="code" value="([^"]+)"', path.read_text())
    assert found
    return found[1]

"""Rendering in the reader's language, with the session that they have, and the headers of every answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from backend_core.errors import RumiError
from console.fields import print_of
from console.flow_graph import clipped
from console.text import shown
from console.words import CATALOGUES, language
from core_runtime.rules.identity import Refuse
from core_runtime.rules.sessions import Session

HERE = Path(__file__).resolve().parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Reader:
    """Who looks: their language, their session if any, and what they are to be told."""

    language: str
    session: Session | None = None
    notices: list[Mapping[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, request: Request, notices: list[Mapping[str, Any]] | None = None) -> Reader:
        """Of an admitted request."""
        session: Session | None = request.scope["state"]["session"]
        return cls(language(request.headers.get("accept-language", "")), session, notices or [])


class Pages:
    """Renders templates."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters["shown"] = shown
        self._templates.filters["moment"] = moment
        self._templates.filters["amount"] = amount
        self._templates.filters["clipped"] = clipped
        self._templates.filters["told"] = told
        self._templates.filters["nearby"] = nearby
        self._templates.filters["print_of"] = print_of

    def render(self, name: str, reader: Reader, status: int = 200, **values: Any) -> Response:
        """A whole page."""
        return Response(self.text(name, reader, **values), status, self.headers(reader), media_type="text/html")

    def text(self, name: str, reader: Reader, **values: Any) -> str:
        """A page, or a part of one."""
        return self._templates.get_template(name).render(
            language=reader.language, words=CATALOGUES[reader.language], session=reader.session,
            notices=reader.notices, **values,
        )  # fmt: skip

    def headers(self, reader: Reader) -> dict[str, str]:
        """Of every page. Never stored: it shows the state of this moment to one reader."""
        return {"content-language": reader.language, "vary": "accept-language", "cache-control": "no-store"}

    def failure(self, reader: Reader, error: RumiError, back: str) -> Response:
        """A use case refused: what, why, what to do next, and the way back."""
        return self.render("outcome.html", reader, error.http_status, error=error, back=back)

    def refused(self, scope: Scope, refuse: Refuse) -> Response:
        """What somebody sees whom the gate turned away. It tells nothing of the host but how to be let in.

        Where no user can be proven this is also the page in whose tab the console's script fetches the others.
        """
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        reader = Reader(language(headers.get("accept-language", "")))
        page = self.render("refused.html", reader, refuse.status, refuse=refuse)
        page.headers.update(HEADERS)
        return page


def moment(value: object) -> str:
    """Seconds since 1970, or a timestamp, as the host's local time."""
    if isinstance(value, (int, float)) and 0 < value < 1e11:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return shown(value, 40)


def nearby(path: str) -> str:
    """The end of a path, which tells files apart for a reader who knows where they lie."""
    parts = path.split("/")
    return path if len(parts) <= 3 else "…/" + "/".join(parts[-2:])


def told(value: object, limit_chars: int) -> str:
    """Several lines of text, each printable, together bounded."""
    text = str(value)
    lines = "\n".join(shown(line, limit_chars) for line in text[:limit_chars].split("\n"))
    return f"{lines}…" if len(text) > limit_chars else lines


def amount(value: float, unit: str) -> str:
    """A limit's number with its unit: sizes in KiB or MiB, since nobody reads eight digits."""
    if unit.startswith("bytes"):
        size = f"{value / 1_048_576:.1f} MiB" if value >= 1_048_576 else f"{value / 1024:.1f} KiB"
        return f"{size}{unit.removeprefix('bytes')}"
    if unit == "s" and 0 < value < 1:
        return f"{value * 1000:.3g} ms" if value >= 1e-6 else "0 ms"
    number = f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"
    return f"{number} {unit}" if unit == "s" else number

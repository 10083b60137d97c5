"""The console as an ASGI application for the web port: pages rendered on the server, useful with scripts off.

Invariants:
  * Every answer carries the strict policy below; nothing of a page comes from elsewhere, and nothing may frame it.
  * Text of Packs passes ``text.shown`` and the template engine's escaping, without exception.
  * Nothing here changes anything yet: decisions are shown as the commands that make them.

Not here: who may see it (``core_runtime.api.gate`` is in front), Packs' own pages (the gateway).
"""

from __future__ import annotations

import logging
import secrets
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.overview import overview
from console.text import shown
from console.words import CATALOGUES, language
from core_runtime.api.context import Api
from core_runtime.diagnostics import fail_soft
from core_runtime.rules.identity import Refuse

HERE = Path(__file__).resolve().parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}
_LOG = logging.getLogger("rumi.console")


class Pages:
    """Renders templates in the reader's language."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters["shown"] = shown

    def render(self, name: str, accept_language: str, status: int = 200, **values: Any) -> Response:
        """A whole page. Never stored: it shows the state of this moment to one reader."""
        code = language(accept_language)
        text = self._templates.get_template(name).render(language=code, words=CATALOGUES[code], **values)
        headers = {"content-language": code, "vary": "accept-language", "cache-control": "no-store"}
        return Response(text, status, headers, media_type="text/html")

    def refused(self, scope: Scope, refuse: Refuse) -> Response:
        """What somebody sees whom the gate turned away. It tells nothing of the host but how to be let in."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        page = self.render("refused.html", headers.get("accept-language", ""), refuse.status, refuse=refuse)
        page.headers.update(_HEADERS)
        return page


def build_console(api: Api, pages: Pages) -> ASGIApp:
    """The application behind the web port: ``/`` and ``/_rumi/`` are the console."""
    show = partial(_overview, api, pages)
    app = Starlette(
        routes=[
            Route("/", show, methods=["GET"]),
            Route("/_rumi/", show, methods=["GET"]),
            Mount("/_rumi/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: partial(_http_exception, pages)},
    )
    app.router.redirect_slashes = False
    return _WithHeaders(app)


async def _overview(api: Api, pages: Pages, request: Request) -> Response:
    accept = request.headers.get("accept-language", "")
    reference = secrets.token_hex(4)
    with fail_soft(api.host.diagnostics, "console:overview", "console", step_id=reference) as outcome:
        page = pages.render("overview.html", accept, view=await overview(api))
    if outcome.ok:
        return page
    _LOG.error("the overview failed, reference %s", reference, exc_info=outcome.error)
    return pages.render("failed.html", accept, 500, reference=reference)


async def _http_exception(pages: Pages, request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    return pages.render("unknown.html", request.headers.get("accept-language", ""), status)


class _WithHeaders:
    """Adds the policy to everything, static files and errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((n.encode(), v.encode()) for n, v in _HEADERS.items())]
            await send(message)

        await self._app(scope, receive, sending)

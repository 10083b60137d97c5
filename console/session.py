"""Opening and closing the console: a one-time code in, a session out.

Opening is the one thing that is done before anybody is known; it reads a body of one exact length and compares it.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from console import forms
from console.desk import Desk, actor
from console.pages import Reader
from core_runtime.rules.identity import Refuse
from core_runtime.rules.sessions import CODE_BODY_BYTES, Carrier, clear_cookie, set_cookie


async def open_session(desk: Desk, request: Request) -> Response:
    """The page that leads on is ours, since a browser keeps a strict cookie back on the way from the file."""
    body = await forms.read_body(request, CODE_BODY_BYTES)
    cookies = tuple(value for name, value in request.scope["headers"] if name == b"cookie")
    found = await desk.host.open(body, cookies, proven=request.scope["state"]["proven"])
    if isinstance(found, Refuse):
        return desk.pages.render("refused.html", Reader.of(request), found.status, refuse=found)
    by_header = found.session.carrier is Carrier.HEADER
    page = desk.pages.render("opened.html", Reader.of(request), secret=found.secret if by_header else "")
    if not by_header:
        page.headers["set-cookie"] = set_cookie(desk.api.access.web_port, found.secret)
    return page


async def close_session(desk: Desk, request: Request) -> Response:
    await desk.form(request)
    await desk.host.close(desk.session(request), actor=actor(request))
    page = desk.pages.render("closed.html", Reader(Reader.of(request).language))
    page.headers["set-cookie"] = clear_cookie(desk.api.access.web_port)
    return page

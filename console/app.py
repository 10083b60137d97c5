"""The console as an ASGI application for the web port: pages rendered on the server, useful with scripts off.

Invariants:
  * Every answer carries the strict policy of ``pages.HEADERS``; nothing of a page comes from elsewhere, and nothing may
    frame it.
  * Text of Packs passes ``text.shown`` and the template engine's escaping, without exception.
  * Looking changes nothing. What changes something is a form of an open session (``actions``).

Not here: who may see it and who has a session (``core_runtime.api.gate`` is in front), Packs' own pages (the gateway).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend_core.errors import RumiError
from console import actions, calling, decide, events, flows, following, interfaces, session, views
from console.desk import Desk
from console.pages import HEADERS, HERE, POLICY, Pages, Reader
from core_runtime.api.context import Api
from core_runtime.diagnostics import fail_soft

__all__ = ["POLICY", "Pages", "build_console"]

_LOG = logging.getLogger("rumi.console")
_PACK = "/_rumi/packs/{pack_id}"

Page = Callable[[Desk, Request], Awaitable[Response]]

LOOKING: tuple[tuple[str, Page], ...] = (
    ("/", views.first),
    ("/_rumi/", views.first),
    ("/_rumi/issues", views.issues),
    ("/_rumi/flows", flows.flows),
    ("/_rumi/flows/{flow_id}", flows.flow),
    ("/_rumi/runs", flows.runs),
    ("/_rumi/runs/{run_id}", flows.run),
    ("/_rumi/graph.css", flows.stylesheet),
    ("/_rumi/interfaces", interfaces.interfaces),
    ("/_rumi/interfaces/{key}", interfaces.interface),
    (events.AT, events.events),
    (events.LIVE_AT, following.following),
    ("/_rumi/audit", views.audit),
    (_PACK, views.pack),
    (f"{_PACK}/review", decide.review),
    (f"{_PACK}/update", decide.review_update),
    (f"{_PACK}/sbom", decide.bill),
    (f"{_PACK}/update/sbom", decide.bill_of_update),
)
DECIDING: tuple[tuple[str, Page], ...] = (
    ("/_rumi/open", session.open_session),
    ("/_rumi/close", session.close_session),
    ("/_rumi/scan", actions.scan),
    ("/_rumi/issues/mend", actions.mend),
    ("/_rumi/flows/{flow_id}/run", flows.begin),
    ("/_rumi/runs/{run_id}/cancel", actions.cancel_run),
    ("/_rumi/runs/{run_id}/resume", flows.resume),
    ("/_rumi/interfaces/{key}", calling.call),
    ("/_rumi/audit/acknowledge", actions.acknowledge),
    (f"{_PACK}/approve", decide.approve),
    (f"{_PACK}/reject", decide.reject),
    (f"{_PACK}/update/approve", decide.approve_update),
    (f"{_PACK}/update/reject", decide.reject_update),
    (f"{_PACK}/rollback", actions.rollback),
    (f"{_PACK}/restore", actions.restore),
    (f"{_PACK}/reload", actions.reload),
    (f"{_PACK}/start", actions.start),
    (f"{_PACK}/stop", actions.stop),
    (f"{_PACK}/permissions/grant", actions.grant),
    (f"{_PACK}/permissions/revoke", actions.revoke),
    (f"{_PACK}/permissions/revoke-unused", actions.revoke_unused),
    (f"{_PACK}/secrets/set", actions.put_secret),
    (f"{_PACK}/secrets/remove", actions.remove_secret),
    (f"{_PACK}/privileges/grant", actions.grant_privilege),
    (f"{_PACK}/privileges/revoke", actions.revoke_privilege),
)


def build_console(api: Api, pages: Pages) -> ASGIApp:
    """The application behind the web port: ``/`` and ``/_rumi/`` are the console."""
    desk = Desk(api, pages)
    app = Starlette(
        routes=[
            *(Route(path, partial(_run, desk, page), methods=["GET"]) for path, page in LOOKING),
            *(Route(path, partial(_run, desk, page), methods=["POST"]) for path, page in DECIDING),
            Mount("/_rumi/static", StaticFiles(directory=HERE / "static")),
        ],
        exception_handlers={HTTPException: partial(_http_exception, pages)},
    )
    app.router.redirect_slashes = False
    return _WithHeaders(app)


async def _run(desk: Desk, page: Page, request: Request) -> Response:
    """What a use case refuses is a page; anything unexpected ends here as an issue with a reference."""
    reference = secrets.token_hex(4)
    subject = f"console:{getattr(page, '__name__', 'page')}"
    with fail_soft(desk.api.host.diagnostics, subject, "console", step_id=reference) as outcome:
        try:
            answer = await page(desk, request)
        except RumiError as exc:
            answer = desk.pages.failure(Reader.of(request), exc, desk.back(request))
    if outcome.ok:
        return answer
    _LOG.error("%s failed, reference %s", subject, reference, exc_info=outcome.error)
    return desk.pages.render("failed.html", Reader.of(request), 500, reference=reference)


async def _http_exception(pages: Pages, request: Request, exc: Exception) -> Response:
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    return pages.render("unknown.html", Reader.of(request), status)


class _WithHeaders:
    """Adds the policy to everything, static files and errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((n.encode(), v.encode()) for n, v in HEADERS.items())]
            await send(message)

        await self._app(scope, receive, sending)

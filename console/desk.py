"""What pages and actions share: the host's port, the pages, and the way from a form to its answer.

An action reads as: form of this session → use case → told on the next page (303, so that a reload repeats nothing).
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from backend_core.errors import RequestError, quote
from console import forms
from console.pages import Pages, Reader
from core_runtime.api.call import INTERFACE_KEY, PACK_ID
from core_runtime.api.context import Api
from core_runtime.api.operator import Operator, View
from core_runtime.rules.flow.parse_steps import FLOW_ID
from core_runtime.rules.sessions import Session

_PLACES = (("flow_id", FLOW_ID, "flows"), ("pack_id", PACK_ID, "packs"), ("key", INTERFACE_KEY, "interfaces"))


class Desk:
    """One per console."""

    def __init__(self, api: Api, pages: Pages) -> None:
        self.api = api
        self.pages = pages
        self.host = Operator(api)

    def reader(self, request: Request) -> Reader:
        """Who looks, with what they are to be told; telling it once is enough."""
        session: Session | None = request.scope["state"]["session"]
        return Reader.of(request, self.api.access.told(session) if session is not None else [])

    async def form(self, request: Request) -> forms.Form:
        """The form, which is of this session."""
        return await forms.read(request, self.session(request))

    def session(self, request: Request) -> Session:
        """The gate lets no action pass without one."""
        session: Session | None = request.scope["state"]["session"]
        assert session is not None
        return session

    def done(self, request: Request, code: str, to: str, view: View | None = None) -> Response:
        """Tell it on the next page. ``code`` is a word of the catalogues, ``view`` the Pack's status afterwards."""
        about = {name: (view or {}).get(name) for name in ("pack_id", "status", "cause", "detail")}
        self.api.access.tell(self.session(request), {"code": code, **about})
        return RedirectResponse(to, 303, {"cache-control": "no-store"})

    def back(self, request: Request) -> str:
        """From a page that tells of a refusal: to the Pack, flow or key it is about, or to the first page."""
        for name, form, place in _PLACES if request.method == "POST" else ():
            found = request.path_params.get(name, "")
            if form.fullmatch(found):
                return f"/_rumi/{place}/{found}"
        return "/_rumi/"


def actor(request: Request) -> str:
    """Who decides, for the audit trail."""
    return str(request.scope["state"]["actor"])


def pack_id_of(request: Request) -> str:
    """``{pack_id}`` of the path. Raises ``RequestError`` when it can't be a Pack's."""
    text: str = request.path_params["pack_id"]
    if PACK_ID.fullmatch(text):
        return text
    raise RequestError("This can't be a Pack's id", code="pack_id_invalid", detail=quote(text, 80))


def pack_page(pack_id: str) -> str:
    """Where a Pack's page is."""
    return f"/_rumi/packs/{pack_id}"

"""The management API as one ASGI application, made from the route table.

Every answer has the envelope, also for unknown routes, methods and faults of the host. Identity is not decided here:
nothing reaches this application that ``api.gate`` has not admitted.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from backend_core.errors import HostError, NotFoundError, RequestError, RumiError
from core_runtime.api import (
    endpoints_aliases,
    endpoints_console,
    endpoints_diagnosis,
    endpoints_flows,
    endpoints_interfaces,
    endpoints_machine,
    endpoints_overview,
    endpoints_packs,
    endpoints_permissions,
    endpoints_publishers,
    endpoints_secrets,
    endpoints_updates,
    openapi,
)
from core_runtime.api.call import Call, ClientGone
from core_runtime.api.context import Api
from core_runtime.api.envelope import Envelope, failure, success
from core_runtime.api.table import Endpoint
from core_runtime.diagnostics import fail_soft
from core_runtime.rules.shown import encode

VERSION = "0.1.0"
_LOG = logging.getLogger("rumi.api")


class MethodError(RequestError):
    """The route exists, the method does not."""

    http_status = 405
    default_code = "method_not_allowed"


class InternalError(HostError):
    """A fault of the host itself. What happened stands in its log, under the reference."""

    http_status = 500
    default_code = "internal"


def endpoints() -> tuple[Endpoint, ...]:
    """The route table."""
    return (
        *endpoints_overview.ENDPOINTS,
        *endpoints_diagnosis.ENDPOINTS,
        *endpoints_updates.ENDPOINTS,  # before the Packs' own: /api/packs/add is no Pack's id
        *endpoints_packs.ENDPOINTS,
        *endpoints_permissions.ENDPOINTS,
        *endpoints_publishers.ENDPOINTS,
        *endpoints_secrets.ENDPOINTS,
        *endpoints_machine.ENDPOINTS,
        *endpoints_interfaces.ENDPOINTS,
        *endpoints_aliases.ENDPOINTS,
        *endpoints_console.ENDPOINTS,
        *endpoints_flows.ENDPOINTS,
        Endpoint("GET", "/api/openapi.json", "openapi", "This description", _openapi, schema={"type": "object"}),
    )


def build_api(api: Api) -> ASGIApp:
    """The application behind the API's port and the command-line socket.

    A router alone: what Starlette's middlewares do for exceptions ``_run`` has done, and each costs every call.
    """
    table = endpoints()
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in table:
        by_path.setdefault(endpoint.path, []).append(endpoint)
    # paths are tried one after the other: calls of Packs are what there are thousands of
    often = {endpoint.path for endpoint in endpoints_interfaces.ENDPOINTS}
    ordered = sorted(by_path, key=lambda path: path not in often)
    routes = [Route(path, _Resource(api, by_path[path])) for path in ordered]
    return Router(routes=routes, redirect_slashes=False, default=_no_route)


async def _openapi(api: Api, call: Call) -> Response:
    del call
    return Envelope(encode(openapi.document(endpoints(), version=VERSION, api_port=api.settings.api_port)))


class _Resource:
    """One path with its methods. An ASGI application, so that an unknown method is answered in the envelope too."""

    def __init__(self, api: Api, choices: Sequence[Endpoint]) -> None:
        self._api = api
        self._by_method = {endpoint.method: endpoint for endpoint in choices}
        if "GET" in self._by_method and not self._by_method["GET"].only_events:
            self._by_method["HEAD"] = self._by_method["GET"]
        self._allowed = ", ".join(sorted(self._by_method))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._by_method.get(scope["method"])
        if endpoint is None:
            error = MethodError(
                "This route has another method",
                detail=f"expected {self._allowed}",
                hint="GET /api/openapi.json lists them.",
            )
            response: Response = failure(error, {"allow": self._allowed})
        else:
            response = await _run(self._api, endpoint, Call(Request(scope, receive, send)))
        await response(scope, receive, send)


async def _run(api: Api, endpoint: Endpoint, call: Call) -> Response:
    """Expected errors become answers; anything else is a bug and ends at the fail-soft boundary as an Issue."""
    reference = f"{random.getrandbits(32):08x}"
    with fail_soft(api.host.diagnostics, f"api:{endpoint.name}", "api", step_id=reference) as outcome:
        try:
            result = await endpoint.run(api, call)
            response = result if isinstance(result, Response) else success(result)
        except RumiError as exc:
            response = failure(exc)
        except ClientGone:
            response = Response(status_code=499)  # nobody is left to read it
    if outcome.ok:
        return response
    _LOG.error("%s failed, reference %s", endpoint.name, reference, exc_info=outcome.error)
    return failure(fault(reference))


def fault(reference: str) -> RumiError:
    """What the outside sees of a bug: nothing but where to look."""
    return InternalError(
        "The host failed at this request",
        detail=f"reference {reference}",
        hint="The host's log holds the details under this reference.",
        fields={"reference": reference},
    )


async def _no_route(scope: Scope, receive: Receive, send: Send) -> None:
    error = NotFoundError("No such route", code="route_unknown", hint="GET /api/openapi.json lists all routes.")
    await failure(error)(scope, receive, send)

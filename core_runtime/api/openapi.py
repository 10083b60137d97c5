"""The API's own description, OpenAPI 3.1, made from the route table: it can't name a route that is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from core_runtime.api.call import INTERFACE_KEY, NAME, PACK_ID
from core_runtime.api.table import Endpoint

_PARAMETER = re.compile(r"\{(\w+)\}")
_FORMS = {"id": PACK_ID, "pack": PACK_ID, "key": INTERFACE_KEY}
_STATUSES = {
    400: "The request is malformed", 401: "The host does not know who is asking", 403: "Refused",
    404: "Unknown", 405: "The method is not one of this route", 408: "Too slow", 409: "Not in a state that admits this",
    413: "Too large", 414: "The path is too long", 415: "Not application/json", 421: "Another host name",
    422: "A file of the Pack is not what its format says", 429: "Too many requests", 500: "A fault of the host",
    502: "The Pack failed", 503: "The machine or the host can't do it now", 504: "The Pack did not answer in time",
}  # fmt: skip
_ALWAYS = (400, 401, 403, 408, 414, 415, 421, 429, 500, 503)


def document(endpoints: Iterable[Endpoint], *, version: str, api_port: int) -> dict[str, Any]:
    """The whole description."""
    table = list(endpoints)
    _, bodies = msgspec.json.schema_components(
        [endpoint.body for endpoint in table if endpoint.body is not None], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in table:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Rumi management API", "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": f"http://localhost:{api_port}"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {**bodies, "Error": _ERROR},
            "responses": {f"E{status}": _error(text) for status, text in _STATUSES.items()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Not needed on Linux for connections of the host's own user on this machine.",
                }
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "tags": [endpoint.path.removeprefix("/api").split("/")[1]],
        "parameters": [
            *_path_parameters(endpoint.path),
            *(_query(name, most) for name, most in endpoint.query.items()),
            *(
                {"name": name, "in": "query", "schema": {"type": "string", "pattern": f"^{NAME.pattern}$"}}
                for name in endpoint.texts
            ),
        ],
        "responses": {
            "200": {"description": "Done", "content": _content(endpoint)},
            **{str(status): {"$ref": f"#/components/responses/E{status}"} for status in _all_errors(endpoint)},
        },
    }
    if endpoint.body is not None:
        schema = {"$ref": f"#/components/schemas/{endpoint.body.__name__}"}
        operation["requestBody"] = {
            "required": endpoint.body_required,
            "content": {"application/json": {"schema": schema}}
            | ({"application/x-ndjson": {"schema": {"type": "string"}}} if endpoint.lines else {}),
        }
    return operation


def _all_errors(endpoint: Endpoint) -> list[int]:
    return sorted({*_ALWAYS, *endpoint.errors, *((413,) if endpoint.body is not None else ())})


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{_FORMS.get(name, NAME).pattern}$"},
        }
        for name in _PARAMETER.findall(path)
    ]


def _query(name: str, most: int) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": most}}


def _content(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {}
    if not endpoint.only_events:
        content[endpoint.media] = {"schema": endpoint.schema or _envelope(endpoint.data)}
    if endpoint.events or endpoint.only_events:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return content


def _envelope(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["success", "data", "error"],
        "properties": {"success": {"const": True}, "data": dict(data), "error": {"type": "null"}},
    }


_ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["success", "data", "error", "code", "hint", "fields"],
    "properties": {
        "success": {"const": False},
        "data": {"type": "null"},
        "error": {"type": "string"},
        "code": {"type": "string"},
        "hint": {"type": "string"},
        "fields": {"type": "object"},
        "pack_id": {"type": ["string", "null"]},
        "retryable": {"type": "boolean"},
    },
}


def _error(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}

"""What one route is: the unit of the route table, from which the router and the OpenAPI document are both made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec import Struct, field

from core_runtime.api.call import Call
from core_runtime.api.context import Api

Run = Callable[[Api, Call], Awaitable[Any]]

ANY: Mapping[str, Any] = {}
TEXT: Mapping[str, Any] = {"type": "string"}
OBJECT: Mapping[str, Any] = {"type": "object"}
OBJECTS: Mapping[str, Any] = {"type": "array", "items": {"type": "object"}}
TEXTS: Mapping[str, Any] = {"type": "array", "items": {"type": "string"}}


class Endpoint(Struct, frozen=True):
    """``run`` returns the envelope's data, or a ready ``Response`` where the envelope does not apply.

    ``data`` is the JSON Schema of the envelope's data, ``schema`` that of the whole answer for a route without
    envelope, which comes as ``media``. ``errors`` are statuses beyond those that every route may answer; ``query`` maps
    numbers of the query to their maximum, ``texts`` are names in it. ``lines``: the body may be lines of JSON instead.
    """

    method: str
    path: str
    name: str
    summary: str
    run: Run
    data: Mapping[str, Any] = field(default_factory=lambda: OBJECT)
    body: type[msgspec.Struct] | None = None
    body_required: bool = False
    errors: tuple[int, ...] = ()
    query: Mapping[str, int] = field(default_factory=dict)
    texts: tuple[str, ...] = ()
    events: bool = False
    only_events: bool = False
    lines: bool = False
    schema: Mapping[str, Any] | None = None
    media: str = "application/json"

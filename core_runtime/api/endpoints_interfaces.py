"""Routes about interfaces: what can be called, and calling it, at once or as a stream of events."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from backend_core.errors import HostError, NotFoundError, RumiError, TooLargeError
from core_runtime.api.call import INTERFACE_KEY, Call
from core_runtime.api.context import Api
from core_runtime.api.envelope import failure_body
from core_runtime.api.lines import Lines
from core_runtime.api.sse import EventStream, event, event_bytes
from core_runtime.api.table import OBJECTS, Endpoint
from core_runtime.diagnostics import fail_soft
from core_runtime.handlers import bisect as looked_for
from core_runtime.handlers import packs
from core_runtime.handlers.aliases import meant, told_with
from core_runtime.handlers.interfaces import edges as counted
from core_runtime.rules.shown import encode, plain
from core_runtime.tracing import entering, serving, within

TIMEOUT_MOST_S = 3600.0
COLLECTED_ITEMS = 10_000
COLLECTED_BYTES = 8 * 1024 * 1024
_ROUTE = "POST /api/interfaces/{key}/call"
_LOG = logging.getLogger("rumi.api")


class Bisect(msgspec.Struct, forbid_unknown_fields=True):
    """``repeat`` calls in each trial, each with ``timeout`` seconds.

    Bad is an error, or a result other than ``expect``.
    """

    key: Annotated[str, msgspec.Meta(pattern=f"^{INTERFACE_KEY.pattern}$", max_length=200)]
    args: Any = msgspec.field(default_factory=dict)
    repeat: Annotated[int, msgspec.Meta(ge=1, le=50)] = 3
    timeout: Annotated[float, msgspec.Meta(gt=0, le=600)] = 20.0
    expect: Any = msgspec.UNSET


class Invoke(msgspec.Struct, forbid_unknown_fields=True):
    """``args`` is what the handler gets; ``timeout`` in seconds, which a body of lines has in the query.

    ``idempotency_key`` reaches the handler as it is: one that acted for it before need not act again.
    """

    args: Any = msgspec.field(default_factory=dict)
    timeout: Annotated[float, msgspec.Meta(gt=0, le=TIMEOUT_MOST_S)] | None = None
    idempotency_key: Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | None = None


async def interfaces(api: Api, call: Call) -> Any:
    del call
    return await packs.interfaces(api.host)


async def invoke(api: Api, call: Call) -> Any:
    key = call.key
    timeout_s = call.count("timeout", 0, int(TIMEOUT_MOST_S)) or None
    lines = call.lines()
    body = await call.body(Invoke) if lines is None else Invoke(lines)
    body.timeout = body.timeout or timeout_s
    if call.wants_events:
        api.streams.admit()
        return EventStream(api.streams, _events(api, key, body, call), lines=lines)
    traced = entering(api.host.tracer, call.traceparent, _ROUTE, rumi_interface=key)
    with traced, lines.blamed() if lines is not None else contextlib.nullcontext():
        return await call.while_connected(_result(api, key, body, call.actor), lines)


async def _called(api: Api, name: str, body: Invoke) -> Any:
    key = meant(api.host, name)
    with told_with(api.host, name, key):
        return await packs.call(api.host, key, body.args, body.timeout, idempotency_key=body.idempotency_key)


async def _result(api: Api, key: str, body: Invoke, actor: str) -> Response | dict[str, Any]:
    with api.called.by(actor, meant(api.host, key)):
        return await _collected(api, key, body)


async def _collected(api: Api, key: str, body: Invoke) -> Response | dict[str, Any]:
    result = await _called(api, key, body)
    if not isinstance(result, AsyncIterator):
        return {"result": plain(result)}
    items: list[Any] = []
    size = 0
    try:
        async for item in result:
            items.append(plain(item))
            size += len(encode(items[-1]))
            if len(items) > COLLECTED_ITEMS or size > COLLECTED_BYTES:
                raise TooLargeError(
                    "The stream is too long for one answer",
                    code="stream_too_long",
                    detail=f"more than {COLLECTED_ITEMS} items or {COLLECTED_BYTES} bytes",
                    hint="Ask with Accept: text/event-stream.",
                )
    finally:
        await _close(result)
    return {"result": items}


async def _events(api: Api, key: str, body: Invoke, call: Call) -> AsyncGenerator[bytes, None]:
    """The stream behind the fail-soft boundary: a bug is an Issue, and the reader is told that the stream broke."""
    with fail_soft(api.host.diagnostics, "api:callInterface", "api", step_id=key) as outcome:
        async with contextlib.aclosing(_items(api, key, body, call)) as items:
            async for item in items:
                yield item
    if not outcome.ok:
        _LOG.error("calling %s over HTTP", key, exc_info=outcome.error)
        fault = HostError("The host could not carry the stream", code="internal", hint="See the host's log.")
        yield event_bytes("error", failure_body(fault))


async def _items(api: Api, key: str, body: Invoke, call: Call) -> AsyncGenerator[bytes, None]:
    """``item`` per item or one ``result``, then ``end``; instead of ``end`` an ``error`` with the error's envelope."""
    count = 0
    try:
        async with contextlib.aclosing(answers(api, key, body, call.actor, call.traceparent)) as found:
            async for kind, value in found:
                yield event(kind, value)
                count += 1
        yield event("end", {"items": count})
    except RumiError as exc:
        yield event_bytes("error", failure_body(exc))


async def answers(
    api: Api, key: str, body: Invoke, actor: str, traceparent: str = "", route: str = _ROUTE
) -> AsyncGenerator[tuple[str, Any], None]:
    """What a call gives, as plain values: one ``("result", value)``, or an ``("item", value)`` for each of a stream.

    Raises what the call raises. Closing it early ends the call, which its Pack sees as a cancellation; so does throwing
    ``Enough`` into it, for a reader that wants no more of a stream.
    """
    result: Any = None
    traced = serving(api.host.tracer, traceparent, route, rumi_interface=key)
    blamed = body.args.blamed() if isinstance(body.args, Lines) else contextlib.nullcontext()
    with api.called.by(actor, meant(api.host, key)), traced as here, blamed:
        try:
            with within(here):
                result = await _called(api, key, body)
            if isinstance(result, AsyncIterator):
                async for item in result:
                    yield "item", plain(item)
                return
            value = plain(result)
        finally:
            await _close(result)
    yield "result", value  # the call is over: whoever takes this and goes ends nothing


async def _close(stream: Any) -> None:
    """Ending early must reach the Pack as a cancellation."""
    if isinstance(stream, AsyncGenerator) or hasattr(stream, "aclose"):
        await stream.aclose()


async def bisect(api: Api, call: Call) -> Any:
    """A client that goes away ends it; everything runs again then as well."""
    body = await call.body(Bisect)
    expect = looked_for.ANY if body.expect is msgspec.UNSET else body.expect
    question = looked_for.Question(meant(api.host, body.key), body.args, body.repeat, body.timeout, expect)
    return await call.while_connected(looked_for.bisect(api.host, question, actor=call.actor))


async def edges(api: Api, call: Call) -> Any:
    return counted(api.host, call.text("pack"))


async def interface(api: Api, call: Call) -> Any:
    key = call.key
    found = await packs.interface(api.host, key)
    if found is not None:
        return found
    raise NotFoundError("No such interface", detail=f"nothing is registered under {key}", hint="rumi interface list")


ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/interfaces",
        "listInterfaces",
        "Every key that can be called, and who provides it",
        interfaces,
        OBJECTS,
    ),
    Endpoint(
        "GET",
        "/api/edges",
        "listEdges",
        "Who called which key since the host started: calls, errors by type, latency; busiest first",
        edges,
        OBJECTS,
        texts=("pack",),
    ),
    Endpoint(
        "POST",
        "/api/bisect",
        "bisect",
        "Find the Packs that break a call: they are stopped and started by turns, and run again afterwards",
        bisect,
        body=Bisect,
        body_required=True,
        errors=(404, 409),
    ),
    Endpoint("GET", "/api/interfaces/{key}", "showInterface", "One key", interface, errors=(404,)),
    Endpoint(
        "POST",
        "/api/interfaces/{key}/call",
        "callInterface",
        'Call a key. Bytes come as {"$base64": …}. Accept: text/event-stream: events item or result, then end or error.'
        " A body of application/x-ndjson, one JSON value a line, is the argument as a stream, read as it is used",
        invoke,
        {"type": "object", "required": ["result"], "properties": {"result": {}}},
        body=Invoke,
        errors=(403, 404, 409, 413, 422, 502, 504),
        query={"timeout": int(TIMEOUT_MOST_S)},
        events=True,
        lines=True,
    ),
)

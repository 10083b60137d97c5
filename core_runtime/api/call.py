"""One admitted request, as an endpoint sees it: path parameters, query, the parsed body, the actor, the other end.

Invariants:
  * A body is read only when the endpoint asks, at most ``BODY_LIMIT_BYTES`` and ``BODY_LIMIT_S``, by the bounded
    parser.
  * Identifiers from the path are checked for their form before they reach anything.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from backend_core.errors import AuthorError, RequestError, TooLargeError, quote
from backend_core.parsing import parse_json
from core_runtime.api.lines import Lines
from core_runtime.rules.identity import BODY_LIMIT_BYTES, LINES, body_too_large

BODY_LIMIT_S = 20.0
UNWATCHED_S = 0.05
"""A call that lasts longer is watched for a client that went away."""
PACK_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
STEP_PATH = re.compile(r"[a-z0-9][a-z0-9/_-]{0,255}")
INTERFACE_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,199}")

BodyT = TypeVar("BodyT", bound=msgspec.Struct)
T = TypeVar("T")


class TooSlowError(RequestError):
    """The client did not send its body in time."""

    http_status = 408
    default_code = "body_too_slow"


class ClientGone(Exception):  # noqa: N818 - not an error: nobody is left to answer
    """The client closed the connection while its request was being worked on."""


class Call:
    """Wraps Starlette's request with the limits above."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.actor: str = request.scope["state"]["actor"]
        heads = dict(reversed(request.scope["headers"]))  # the first of each name, as everywhere
        self.wants_events = _wants_events(heads.get(b"accept", b""))
        self.traceparent = heads.get(b"traceparent", b"")[:128].decode("latin-1")
        self.last_event_id = heads.get(b"last-event-id", b"")[:64].decode("latin-1")
        self._kind: bytes = heads.get(b"content-type", b"").split(b";")[0].strip().lower()

    @property
    def pack_id(self) -> str:
        """``{id}`` or ``{pack}`` of the path. Raises ``RequestError`` when it can't be a Pack's."""
        parameters = self._request.path_params
        return _formed(parameters.get("id", parameters.get("pack", "")), PACK_ID, "pack_id_invalid", "a Pack's id")

    @property
    def key(self) -> str:
        """``{key}``: an interface key."""
        return _formed(self._request.path_params["key"], INTERFACE_KEY, "key_invalid", "an interface key")

    def name(self, parameter: str) -> str:
        """Any other identifier of the path."""
        return _formed(self._request.path_params[parameter], NAME, "name_invalid", "a name")

    def count(self, name: str, default: int, most: int) -> int:
        """A number of the query. Repeated, malformed or out of range: ``RequestError``."""
        values = self._request.query_params.getlist(name) if self._request.scope["query_string"] else ()
        if not values:
            return default
        text = values[0]
        if len(values) == 1 and text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most:
            return int(text)
        raise RequestError(
            "A number of the query is not usable", code="query_invalid",
            detail=f"{name}: expected one number from 1 to {most}; got {quote(text, 40)}", hint=f"Leave out {name}.",
        )  # fmt: skip

    def text(self, name: str, form: re.Pattern[str] = NAME) -> str:
        """A name of the query, ``""`` without one or with an empty one. Repeated or malformed: ``RequestError``."""
        values = self._request.query_params.getlist(name)
        if not any(values):
            return ""
        if len(values) == 1 and form.fullmatch(values[0]):
            return values[0]
        raise RequestError(
            "A name of the query is not usable", code="query_invalid",
            detail=f"{name}: expected one {form.pattern}; got {quote(values[0], 80)}", hint=f"Leave out {name}.",
        )  # fmt: skip

    async def body(self, kind: type[BodyT]) -> BodyT:
        """The body as ``kind``; no body is an empty object, as in the specification's plain ``curl -X POST``."""
        raw = await self._read()
        try:
            value = parse_json(raw, source="request body") if raw.strip() else {}
        except AuthorError as exc:
            raise RequestError(
                exc.title, code="body_invalid", detail=exc.detail, hint="Send one JSON object.", fields=exc.fields
            ) from exc
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as exc:
            raise RequestError(
                "The body is not what this route takes", code="body_invalid", detail=str(exc)[:500],
                hint="GET /api/openapi.json lists the fields.",
            ) from exc  # fmt: skip

    def lines(self) -> Lines | None:
        """The body as items, where it says that it is lines of JSON; once for each request."""
        return Lines(self._request.receive) if self._kind == LINES else None

    async def while_connected(self, work: Coroutine[Any, Any, T], lines: Lines | None = None) -> T:
        """Run ``work``; a client that goes away cancels it, which a Pack sees as the cancellation of its call.

        ``lines``: what ``work`` reads of the body meanwhile. Raises ``ClientGone``.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # requests are served by tasks
        over = left = False
        watcher: asyncio.Task[None] | None = None

        def ended(gone: asyncio.Task[None]) -> None:
            nonlocal left
            if not (over or gone.cancelled()):
                left = True
                task.cancel()

        def watch() -> None:
            nonlocal watcher
            watcher = loop.create_task(lines.until_gone() if lines is not None else until_gone(self._request.receive))
            watcher.add_done_callback(ended)

        # most calls are over before it is worth a task to look whether somebody still waits for them
        timer = loop.call_later(UNWATCHED_S, watch) if lines is None else None
        if timer is None:
            watch()
        try:
            return await work
        except asyncio.CancelledError:
            if left and task.cancelling() == 1:
                raise ClientGone from None
            raise
        finally:
            over = True
            if left:
                task.uncancel()
            if timer is not None:
                timer.cancel()
            if watcher is not None:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)

    async def _read(self) -> bytes:
        if self._request.scope["state"].get("whole"):
            return await self._read_all()
        try:
            async with asyncio.timeout(BODY_LIMIT_S):
                return await self._read_all()
        except TimeoutError as exc:
            raise TooSlowError(
                "The body took too long", detail=f"at most {BODY_LIMIT_S:.0f} s", hint="Send it again."
            ) from exc

    async def _read_all(self) -> bytes:
        read: list[bytes] = []
        size = 0
        while True:
            message = await self._request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            read.append(message.get("body", b""))
            size += len(read[-1])
            if size > BODY_LIMIT_BYTES:
                refuse = body_too_large()
                raise TooLargeError(refuse.title, detail=refuse.detail, hint=refuse.hint)
            if not message.get("more_body", False):
                return b"".join(read)


async def until_gone(receive: Any) -> None:
    """Return when the client has closed the connection. The body has been read, or is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _formed(text: str, form: re.Pattern[str], code: str, what: str) -> str:
    if form.fullmatch(text):
        return text
    raise RequestError(
        f"This can't be {what}", code=code, detail=f"expected {form.pattern}; got {quote(text, 80)}",
        hint="GET /api/packs and GET /api/interfaces list what there is.",
    )  # fmt: skip


def _wants_events(accept: bytes) -> bool:
    return any(part.split(b";")[0].strip().lower() == b"text/event-stream" for part in accept.split(b","))

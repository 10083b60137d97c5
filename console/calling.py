"""Calling an interface from the form on its page, and the page of what it answers, which goes on while the call does.

Invariants:
  * The call is the API's own (``Operator.call``): the operator's, with every check of it, and nobody else's rights.
  * Whoever leaves the page ends the call. What was sent is never touched again; how the call ended is told below it.
  * What is shown is bounded, whatever a Pack answers: ``VALUE_CHARS`` of a value, ``ITEMS`` items of a stream and
    ``VALUE_CHARS`` of all of them together. The stream is closed there.

Not here: the form (``fields``), what an interface is (``interfaces``).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import HostError, RequestError, RumiError, quote
from console import forms
from console.desk import Desk, actor
from console.fields import refilled, same, value_of
from console.interfaces import TIMEOUTS_S, about
from console.pages import Reader
from console.text import argument, pretty
from core_runtime.api.called import Enough
from core_runtime.api.sse import PageStream
from core_runtime.diagnostics import fail_soft

ITEMS: Final = 500
ITEM_CHARS: Final = 2_000
VALUE_CHARS: Final = 20_000
COMMAND_CHARS: Final = 4_000
ANSWER: Final = "<!--answer-->"
"""Where in the page the answer is put in; no text of a Pack can be that, since it is escaped."""
_ROUTE: Final = "POST /_rumi/interfaces/{key}"
_LOG = logging.getLogger("rumi.console")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a filled form stands for. ``actor``: who filled it in."""

    key: str
    args: Any
    timeout_s: float | None
    actor: str = ""


@dataclass(slots=True)
class Answer:
    """What came of a call so far. ``value`` None: it is none, or a stream of ``count`` items. ``told``: to its end."""

    began_s: float = field(default_factory=time.monotonic)
    value: str | None = None
    count: int = 0
    left_out: bool = False
    error: RumiError | None = None
    told: bool = False

    @property
    def streams(self) -> bool:
        """Whether items were listed, or would have been."""
        return self.count > 0 or (self.value is None and self.error is None)


async def call(desk: Desk, request: Request) -> Response:
    """What can't be read of the form is told above it, with all that was written; nothing is called then."""
    form = await desk.form(request)
    shown = await about(desk, request)
    same(form, shown["fields"])
    fields = refilled(form, shown["fields"])
    timeout = forms.one(form, "timeout", "", 10)
    reader = desk.reader(request)
    shown |= {"fields": fields, "timeout": timeout, "asked": True}
    page = desk.pages.text("interface.html", reader, **shown)
    try:
        asked = Asked(shown["one"]["key"], value_of(form, fields), _timeout_s(timeout), actor(request))
    except RequestError as exc:
        text = desk.pages.text("answer.html", reader, answer=Answer(error=exc), took_s=None, command="")
        return Response(page.replace(ANSWER, text), exc.http_status, desk.pages.headers(reader), media_type="text/html")
    desk.api.streams.admit()
    before, after = page.split(ANSWER)
    answer = Answer()
    end = partial(_end, desk, reader, asked, answer, after)
    return PageStream(
        desk.api.streams, _pieces(desk, reader, asked, answer, before, end), desk.pages.headers(reader),
        partial(_stopped, answer, end),
    )  # fmt: skip


def command(asked: Asked, *, stream: bool = False) -> str:
    """What does the same in a terminal. Arguments that are too long for a line are read from a file there."""
    options = f" --timeout {asked.timeout_s:g}" if asked.timeout_s is not None else ""
    options += " --stream" if stream else ""
    text = argument(asked.args)
    if len(text) > COMMAND_CHARS:
        return f"./rumi call {asked.key} -{options} < arguments.json"
    return f"./rumi call {asked.key} {text}{options}"


async def _pieces(
    desk: Desk, reader: Reader, asked: Asked, answer: Answer, before: str, end: Callable[[], bytes]
) -> AsyncGenerator[bytes, None]:
    yield before.encode()
    with fail_soft(desk.api.host.diagnostics, "console:call", "console", step_id=asked.key) as outcome:
        async with contextlib.aclosing(_items(desk, reader, asked, answer)) as items:
            async for item in items:
                yield item.encode()
    if not outcome.ok:
        _LOG.error("calling %s from its page", asked.key, exc_info=outcome.error)
        answer.error = HostError("The host could not carry the call", code="internal", hint="See the host's log.")
    yield end()


def _end(desk: Desk, reader: Reader, asked: Asked, answer: Answer, after: str) -> bytes:
    """How the call came out, and the rest of the page."""
    answer.told = True
    text = desk.pages.text(
        "answer.html", reader, answer=answer, took_s=time.monotonic() - answer.began_s,
        command=command(asked, stream=answer.streams),
    )  # fmt: skip
    return (text + after).encode()


def _stopped(answer: Answer, end: Callable[[], bytes]) -> bytes:
    """The end of a page whose host stops; nothing where it has ended already."""
    if answer.told:
        return b""
    answer.error = HostError("The host is stopping", code="stopping", hint="Start it again: rumi up")
    return end()


async def _items(desk: Desk, reader: Reader, asked: Asked, answer: Answer) -> AsyncGenerator[str, None]:
    """A line for each item of a stream; all else that comes of the call is put into ``answer``."""
    room = VALUE_CHARS
    try:
        call = desk.host.call(asked.key, asked.args, asked.timeout_s, actor=asked.actor, route=_ROUTE)
        async with contextlib.aclosing(call) as found:
            async for kind, value in found:
                if kind == "result":
                    answer.value, whole = pretty(value, VALUE_CHARS, desk.host.conceal)
                    answer.left_out = not whole
                    return
                if answer.count == ITEMS or room <= 0:
                    answer.left_out = True
                    await found.athrow(Enough())
                text, _ = pretty(value, min(ITEM_CHARS, room), desk.host.conceal)
                answer.count, room = answer.count + 1, room - len(text)
                yield desk.pages.text("answer_item.html", reader, text=text, first=answer.count == 1)
    except Enough:
        return
    except RumiError as exc:  # how the call came out
        answer.error = exc


def _timeout_s(text: str) -> float | None:
    if not text:
        return None
    if text in map(str, TIMEOUTS_S):
        return float(text)
    raise RequestError(
        "No such time to wait", code="form_invalid", detail=f"{quote(text, 20)}: one of {TIMEOUTS_S}",
        hint="Choose one of the list.",
    )  # fmt: skip

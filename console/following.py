"""The page of events that goes on with what happens: each event is a row more as it comes, with scripts off as well.

Invariants:
  * A page has an end: at most ``ROWS`` rows, ``LASTS_S`` at most, and the host's bound on open streams counts it.
  * It ends with a link that goes on after the last event that was looked at: nothing is left out, nothing comes twice.
    What could not be told stands where it is missing.

Not here: the journal page by page (``events``), what is told to whom (``core_runtime.api.live``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RequestError
from console.desk import Desk
from console.events import LASTS_S, LIVE_AT, PAGE, about, address, chosen_of, told_of
from console.live import streams
from console.pages import Reader
from core_runtime.api.operator import View
from core_runtime.api.sse import PageStream
from core_runtime.rules.subscriptions import place_of

ROWS: Final = 1_000
EARLIER: Final = 20
"""How many of the newest stand first, where nobody says after which to begin."""
ROWS_AT: Final = "<!--rows-->"
"""Where in the page rows are put in; no text of a Pack can be that, since it is escaped."""
END_AT: Final = "<!--end-->"


async def following(desk: Desk, request: Request) -> Response:
    """``topic`` and ``pack`` choose; ``after``: from after the event of that id on.

    ``HostError`` where too many streams are open.
    """
    chosen, reader = chosen_of(request), desk.reader(request)
    after = request.query_params.get("after", "")
    if after and place_of(after) is None:
        raise RequestError("This can't be an event's id", code="query_invalid", hint="Leave it out.")
    if not streams(request, reader):
        return await _again(desk, request, reader, chosen)
    desk.api.streams.admit()
    page = _Page(desk, reader, chosen)
    return PageStream(desk.api.streams, page.pieces(after), desk.pages.headers(reader), page.stopped)


async def _again(desk: Desk, request: Request, reader: Reader, chosen: Mapping[str, str]) -> Response:
    """A whole page, newest first, for the script that fetches it anew until the moment ``until`` of its address."""
    until = request.query_params.get("until", "")
    now = time.time()
    goes_on = until.isascii() and until.isdigit() and len(until) <= 12 and now < int(until) <= now + LASTS_S
    found = await desk.host.events("", PAGE, topic=chosen["topic"], pack_id=chosen["pack"])
    said = {"live": True, "until": until, "at": LIVE_AT} if goes_on else {"end": "time", "count": len(found)}
    return desk.pages.render(
        "events.html", reader, events=[told_of(one) for one in found], newest="", older="", minutes=LASTS_S // 60,
        **about(reader, chosen) | said,
    )  # fmt: skip


def _comes_after(event_id: str, mark: str) -> bool:
    """Whether an event came after another one of this run of the host."""
    place, marked = place_of(event_id), place_of(mark)
    return place is not None and marked is not None and place[0] == marked[0] and place[1] > marked[1]


class _Page:
    """One that goes on. ``reached``: the id up to which everything was handed to the connection."""

    def __init__(self, desk: Desk, reader: Reader, chosen: Mapping[str, str]) -> None:
        self._desk = desk
        self._reader = reader
        self._chosen = chosen
        self._rest = ""
        self.listed = 0
        self.reached = ""

    async def pieces(self, after: str) -> AsyncGenerator[bytes, None]:
        """The beginning, rows as events come, and the end."""
        whole = self._desk.pages.text(
            "events.html", self._reader, events=[], newest="", older="",
            **about(self._reader, self._chosen) | {"live": True, "streams": True, "at": LIVE_AT},
        )  # fmt: skip
        head, rest = whole.split(ROWS_AT)
        before, end = rest.split(END_AT)
        ends = asyncio.get_running_loop().time() + LASTS_S
        host, topic, pack_id = self._desk.host, self._chosen["topic"], self._chosen["pack"]
        async with contextlib.aclosing(host.following(after, topic=topic, pack_id=pack_id)) as found:
            self.reached = (await anext(found)).last
            yield head.encode()
            self._rest = f"{before}{END_AT}{end}"
            newest = [] if after else await host.events("", EARLIER, topic=topic, pack_id=pack_id)
            earlier = [one for one in newest[::-1] if not _comes_after(one["id"], self.reached)]
            if earlier:
                yield self._rows(earlier)
                self.listed = len(earlier)
            told = {one["id"] for one in earlier}  # of what came at that very moment some comes again
            lines = self.listed
            while lines < ROWS:
                try:
                    async with asyncio.timeout_at(ends):
                        come = await anext(found)
                except TimeoutError:  # how such a page ends
                    break
                fresh = [one for one in come.events if one["id"] not in told]
                rows = fresh[: ROWS - lines]
                if rows or come.lost != 0:
                    yield self._rows(rows, come.lost)
                self.listed += len(rows)
                lines += len(rows) + (come.lost != 0)
                self.reached = rows[-1]["id"] if len(rows) < len(fresh) else come.last or self.reached
        yield self._ended("rows" if lines >= ROWS else "time")
        self._rest = ""  # it was sent: a host that stops now has nothing to add

    def stopped(self) -> bytes:
        """The end where the host stops."""
        return self._ended("host") if self._rest else b""

    def _rows(self, events: list[View], lost: int | None = 0) -> bytes:
        text = self._desk.pages.text
        gap = [text("event_gap.html", self._reader, lost=lost)] if lost != 0 else []
        return "".join([*gap, *(text("event_row.html", self._reader, one=told_of(one)) for one in events)]).encode()

    def _ended(self, why: str) -> bytes:
        go_on = address(LIVE_AT, **self._chosen, after=self.reached)
        end = self._desk.pages.text(
            "events_end.html", self._reader, end=why, count=self.listed, minutes=LASTS_S // 60, follow=go_on
        )
        return self._rest.replace(END_AT, end, 1).encode()

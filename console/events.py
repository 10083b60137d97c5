"""The page of events: the journal that the host keeps, newest first, chosen by topic or Pack, page by page.

Not here: what is kept and for how long (``core_runtime.event_history``), the page that goes on with what happens
(``following``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RequestError
from console.desk import Desk
from console.live import scripted
from console.pages import Reader
from core_runtime.api.call import PACK_ID
from core_runtime.api.operator import View
from core_runtime.event_bus import PACK_SOURCE

PAGE: Final = 100
TOPIC_CHARS: Final = 256
AT: Final = "/_rumi/events"
LIVE_AT: Final = "/_rumi/events/live"
LASTS_S: Final = 1_800
"""How long a page goes on."""


async def events(desk: Desk, request: Request) -> Response:
    """``topic``: exact or a glob; ``pack``: who published; ``before``: an event's id, shown are older ones."""
    chosen, reader = chosen_of(request), desk.reader(request)
    before = request.query_params.get("before", "")
    found = await desk.host.events(before, PAGE + 1, topic=chosen["topic"], pack_id=chosen["pack"])
    shown = found[:PAGE]
    return desk.pages.render(
        "events.html", reader, events=[told_of(one) for one in shown], **about(reader, chosen),
        newest=address(**chosen) if before else "",
        older=address(**chosen, before=shown[-1]["id"]) if len(found) > PAGE else "",
    )  # fmt: skip


def chosen_of(request: Request) -> dict[str, str]:
    """What of all events is to be shown. Raises ``RequestError`` for what can't be a Pack's id."""
    topic, pack_id = request.query_params.get("topic", ""), request.query_params.get("pack", "")
    if pack_id and not PACK_ID.fullmatch(pack_id):
        raise RequestError("This can't be a Pack's id", code="query_invalid", hint="Leave it out.")
    return {"topic": topic[:TOPIC_CHARS].strip(), "pack": pack_id}


def about(reader: Reader, chosen: Mapping[str, str]) -> dict[str, Any]:
    """What every page of events says of itself; one that goes on changes some of it."""
    until = str(int(time.time() + LASTS_S)) if scripted(reader) else ""
    return {
        "topic": chosen["topic"], "pack_id": chosen["pack"], "live": False, "streams": False, "until": until,
        "end": "", "at": AT, "still": address(**chosen), "follow": address(LIVE_AT, **chosen, until=until),
    }  # fmt: skip


def told_of(event: View) -> dict[str, Any]:
    """An event with who published it (``""``: the host), its payload as JSON, and where more of its topic is."""
    return {
        **event,
        "pack_id": event["source"].removeprefix(PACK_SOURCE) if event["source"].startswith(PACK_SOURCE) else "",
        "payload": "" if event.get("omitted") else json.dumps(event["data"], ensure_ascii=False),
        "of_topic": address(topic=event["type"]),
    }


def address(at: str = AT, **chosen: str) -> str:
    """Of the page for what was chosen; what is empty is left out."""
    given = urlencode({name: value for name, value in chosen.items() if value})
    return f"{at}?{given}" if given else at

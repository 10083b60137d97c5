"""The page of events: the journal that the host keeps, newest first, chosen by topic or Pack, page by page.

Not here: what is kept and for how long (``core_runtime.event_history``), following (``rumi events --follow``).
"""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RequestError
from console.desk import Desk
from core_runtime.api.call import PACK_ID
from core_runtime.api.operator import View
from core_runtime.event_bus import PACK_SOURCE

PAGE: Final = 100
TOPIC_CHARS: Final = 256


async def events(desk: Desk, request: Request) -> Response:
    """``topic``: exact or a glob; ``pack``: who published; ``before``: an event's id, shown are older ones."""
    topic = request.query_params.get("topic", "")[:TOPIC_CHARS].strip()
    pack_id, before = request.query_params.get("pack", ""), request.query_params.get("before", "")
    if pack_id and not PACK_ID.fullmatch(pack_id):
        raise RequestError("This can't be a Pack's id", code="query_invalid", hint="Leave it out.")
    found = await desk.host.events(before, PAGE + 1, topic=topic, pack_id=pack_id)
    shown = found[:PAGE]
    chosen = {"topic": topic, "pack": pack_id}
    return desk.pages.render(
        "events.html", desk.reader(request), events=[told_of(one) for one in shown], topic=topic, pack_id=pack_id,
        newest=address(**chosen) if before else "",
        older=address(**chosen, before=shown[-1]["id"]) if len(found) > PAGE else "",
    )  # fmt: skip


def told_of(event: View) -> dict[str, Any]:
    """An event with who published it (``""``: the host), its payload as JSON, and where more of its topic is."""
    return {
        **event,
        "pack_id": event["source"].removeprefix(PACK_SOURCE) if event["source"].startswith(PACK_SOURCE) else "",
        "payload": "" if event.get("omitted") else json.dumps(event["data"], ensure_ascii=False),
        "of_topic": address(topic=event["type"]),
    }


def address(**chosen: str) -> str:
    """Of the page for what was chosen; what is empty is left out."""
    given = urlencode({name: value for name, value in chosen.items() if value})
    return f"/_rumi/events?{given}" if given else "/_rumi/events"

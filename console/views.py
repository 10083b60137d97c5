"""Pages that only show: the first page, one Pack, the audit trail, what is wrong."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RequestError
from console.desk import Desk, pack_id_of
from console.forms import modes, target_of
from console.overview import overview
from console.sparkline import MINUTES, sparkline
from core_runtime.api.call import PACK_ID
from core_runtime.api.operator import View

LOG_LINES = 100
AUDIT_LINES = 200
EDGES = 50
_PRIVILEGE = "host."


async def first(desk: Desk, request: Request) -> Response:
    return desk.pages.render("overview.html", desk.reader(request), view=await overview(desk.api))


async def pack(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    status = await desk.host.status(pack_id)
    rights = await desk.host.permissions(pack_id)
    return desk.pages.render(
        "pack.html", desk.reader(request), pack=status, rights=rights, held=[_held(item) for item in rights["granted"]],
        withheld=[_withheld(item) for item in rights["withheld"] if not item["type"].startswith(_PRIVILEGE)],
        privileges=_privileges(pack_id, rights, await desk.host.privileges()), log=desk.host.logs(pack_id, LOG_LINES),
        secrets=await desk.host.secrets(pack_id) if status["version"] or status["approval"] else None,
        limits=await desk.host.limits(pack_id), edges=desk.host.edges(pack_id)[:EDGES],
        spark=sparkline(await desk.host.minutes(pack_id, MINUTES), time.time()),
        has_previous=await desk.host.has_previous(pack_id),
    )  # fmt: skip


async def audit(desk: Desk, request: Request) -> Response:
    """``pack`` chooses one Pack's records; ``check`` reads the whole trail and says whether it is whole."""
    chosen = request.query_params.get("pack", "")
    if chosen and not PACK_ID.fullmatch(chosen):
        raise RequestError("This can't be a Pack's id", code="query_invalid", hint="Leave it out.")
    check = await desk.host.audit_check() if request.query_params.get("check") == "1" else None
    return desk.pages.render(
        "audit.html", desk.reader(request), records=await desk.host.audit(AUDIT_LINES, chosen), chosen=chosen,
        check=check, finding=desk.host.audit_finding(),
    )  # fmt: skip


async def issues(desk: Desk, request: Request) -> Response:
    reader = desk.reader(request)
    fixups = desk.host.fixups(reader.language)
    return desk.pages.render("issues.html", reader, issues=await desk.host.issues(), fixups=fixups)


def _held(item: View) -> View:
    """A granted permission with a line for each of its items, or one for itself."""
    target = target_of(item)
    lines = [{"item": value, **_uses(item, value)} for value in item[target]] if target else []
    return {
        **item,
        "target": target,
        "lines": lines or [{"item": "", "count": item["uses"], "at": item["last_used_at"]}],
    }


def _withheld(item: View) -> View:
    """A declared permission with how long it can be granted; a time of one's own is chosen at a review only."""
    return {**item, "modes": [mode for mode in modes(item["type"]) if mode != "until"]}


def _uses(item: View, value: str) -> View:
    found = item["items"].get(value, {})
    return {"count": found.get("count"), "at": found.get("last_used_at")}


def _privileges(pack_id: str, rights: View, known: list[View]) -> list[View]:
    """Operations of the host that this Pack declares, or still holds."""
    asked = {item["type"].removeprefix(_PRIVILEGE): item["reason"] for item in rights["withheld"]}
    return [
        {
            "id": entry["id"],
            "title": entry["title"],
            "risk": entry["risk"],
            "reason": asked.get(entry["id"], ""),
            "options": list(entry["options"].get("properties", {})),
            "granted": pack_id in entry["granted_to"],
            "unavailable": entry["unavailable"],
        }
        for entry in known
        if entry["id"] in asked or pack_id in entry["granted_to"]
    ]

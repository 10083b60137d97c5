"""Pages about interfaces: what is registered, by whom, under which contract, who uses it and how the calls end.

Not here: calling one (``calling``), the form that does (``fields``), the calls of one Pack (``views.pack``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RequestError
from console.desk import Desk
from console.fields import example_of, fields_of
from console.text import argument, pretty
from core_runtime.api.call import INTERFACE_KEY, PACK_ID
from core_runtime.api.operator import View

ROWS: Final = 200
EDGES: Final = 100
CALLERS: Final = 5
FIND_CHARS: Final = 200
DATA_CHARS: Final = 20_000
TIMEOUTS_S: Final = (5, 60, 600, 3600)


async def interfaces(desk: Desk, request: Request) -> Response:
    """``find`` chooses keys by a part of the key, of another name of it or of a Pack that provides it."""
    find = request.query_params.get("find", "")[:FIND_CHARS].strip()
    edges = desk.host.edges()
    rows = listed(await desk.host.interfaces(), edges, find)
    chosen = [edge for edge in edges if not find or find in edge["key"] or find in edge["caller"]]
    return desk.pages.render(
        "interfaces.html", desk.reader(request), rows=rows[:ROWS], left_out=max(0, len(rows) - ROWS), find=find,
        edges=chosen[:EDGES],
    )  # fmt: skip


async def interface(desk: Desk, request: Request) -> Response:
    """One key, also by another name of it. ``NotFoundError`` where nothing provides it and nobody needs it."""
    return desk.pages.render("interface.html", desk.reader(request), **await about(desk, request))


async def about(desk: Desk, request: Request) -> View:
    """What the page of a key shows, with a form that calls it; ``asked``: whether the page tells of a call."""
    key = str(request.path_params["key"])
    if not INTERFACE_KEY.fullmatch(key):
        raise RequestError("This can't be an interface's key", code="key_invalid", hint="rumi interface list")
    found = await desk.host.interface(key)
    edges = [edge for edge in desk.host.edges() if edge["key"] == found["key"]]
    [row] = listed([found], edges, "")
    data, whole = "", True
    if row["standing"] == "interface_value":
        data, whole = pretty(desk.host.data(row["key"]), DATA_CHARS, desk.host.conceal)
    fields = fields_of(found["input"])
    return {
        "one": row,
        "edges": edges[:EDGES],
        "documents": [(name, _document(found[name])) for name in ("input", "output", "meta") if found[name]],
        "fields": fields,
        "example": argument(example_of(fields)),
        "timeouts": TIMEOUTS_S,
        "timeout": "",
        "data": data,
        "whole": whole,
        "asked": False,
    }


def listed(found: Sequence[View], edges: Sequence[View], find: str) -> list[View]:
    """Each interface with what its page is (``""``: it has none), its Packs, and who called it, busiest first."""
    callers: dict[str, list[Mapping[str, Any]]] = {}
    for edge in edges:
        callers.setdefault(edge["key"], []).append(edge)
    return [
        {
            **one,
            "page": f"/_rumi/interfaces/{one['key']}" if INTERFACE_KEY.fullmatch(one["key"]) else "",
            "packs": [{"name": name, "is_pack": _is_pack(name)} for name in _packs(one)],
            "standing": _standing(one),
            "callers": callers.get(one["key"], [])[:CALLERS],
            "more_callers": max(0, len(callers.get(one["key"], ())) - CALLERS),
        }
        for one in found
        if not find
        or any(find in name for name in (one["key"], *one["aliases"]))
        or any(find in name for name in one["providers"])
    ]


def _packs(one: View) -> list[str]:
    """Who answers first, then whoever else is registered."""
    others = [name for name in one["providers"] if name != one["owner"]]
    return [one["owner"], *others] if one["owner"] else others


def _is_pack(name: str) -> bool:
    return name != "host" and PACK_ID.fullmatch(name) is not None


def _standing(one: View) -> str:
    """The word for whether it may be called."""
    if not one["available"]:
        return "interface_missing"
    return "interface_callable" if one["callable"] else "interface_value"


def _document(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, default=str, skipkeys=True)

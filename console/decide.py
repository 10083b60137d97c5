"""Review and decide: everything that the decision needs on one page, and the decision bound to exactly that."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from backend_core.errors import RumiError
from console import forms
from console.desk import Desk, actor, pack_id_of, pack_page
from console.pages import Reader
from core_runtime.api.operator import View

BILL = "application/vnd.cyclonedx+json"
_STALE = frozenset({"digest_stale", "isolation_changed"})
_LEVELS = ("none", "reduced", "standard", "strong")


async def review(desk: Desk, request: Request) -> Response:
    return await _page(desk, request, update=False)


async def review_update(desk: Desk, request: Request) -> Response:
    return await _page(desk, request, update=True)


async def bill(desk: Desk, request: Request) -> Response:
    return await _bill(desk, request, update=False)


async def bill_of_update(desk: Desk, request: Request) -> Response:
    return await _bill(desk, request, update=True)


async def _bill(desk: Desk, request: Request, *, update: bool) -> Response:
    """The bill of materials as a file: it holds a stranger's texts and is never shown as a page."""
    pack_id = pack_id_of(request)
    found = await desk.host.bill(pack_id, update=update)
    headers = {"content-disposition": f'attachment; filename="{pack_id}.cdx.json"'}
    return Response(json.dumps(found, indent=2), media_type=BILL, headers=headers)


async def approve(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    try:
        found = await desk.host.review(pack_id, update=False)
        choices = _choices(form, found)
        agreed = _isolation(found)
        agreed = agreed if not _weaker(found) or forms.one(form, "weaker") == "yes" else None
        done = await desk.host.approve(
            pack_id, actor=actor(request), digest=forms.one(form, "digest"), permissions=choices,
            isolation=agreed,
        )  # fmt: skip
    except RumiError as error:
        return _refused(desk, request, error, f"{pack_page(pack_id)}/review")
    return desk.done(request, "done_approved", pack_page(pack_id), done)


async def approve_update(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    try:
        found = await desk.host.review(pack_id, update=True)
        done = await desk.host.approve_update(
            pack_id, actor=actor(request), digest=forms.one(form, "digest"), permissions=_choices(form, found),
            accept_weaker=_weaker(found) and forms.one(form, "weaker") == "yes",
        )  # fmt: skip
    except RumiError as error:
        return _refused(desk, request, error, f"{pack_page(pack_id)}/update")
    return desk.done(request, "done_updated", pack_page(pack_id), done)


async def reject(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    form = await desk.form(request)
    done = await desk.host.reject(pack_id, reason=forms.one(form, "reason"), actor=actor(request))
    return desk.done(request, "done_rejected", pack_page(pack_id), done)


async def reject_update(desk: Desk, request: Request) -> Response:
    pack_id = pack_id_of(request)
    await desk.form(request)
    done = await desk.host.reject_update(pack_id, actor=actor(request))
    return desk.done(request, "done_update_rejected", pack_page(pack_id), done)


async def _page(desk: Desk, request: Request, *, update: bool) -> Response:
    pack_id = pack_id_of(request)
    found = await desk.host.review(pack_id, update=update)
    status = await desk.host.status(pack_id)
    held = (status["approval"] or {}).get("permissions")
    return desk.pages.render(
        "review.html", desk.reader(request), pack_id=pack_id, review=found, update=update, weaker=_weaker(found),
        items=_items(found, held), replacing=_replacing(found, held), modes=forms.modes(forms.REPLACE),
        isolation=_isolation(found), decidable=update or status["status"] != "error",
    )  # fmt: skip


def _items(found: View, held: list[Mapping[str, Any]] | None) -> list[View]:
    """The permissions that are ticked by themselves: keys that another Pack owns now stand in ``_replacing``."""
    items = [_item(index, item, held) for index, item in enumerate(found["permissions"])]
    for item in items:
        if item["type"] == forms.REPLACE:
            item["values"] = [value for value in item["values"] if value["text"] not in found["replaces"]]
    return [item for item in items if item["type"] != forms.REPLACE or item["values"]]


def _replacing(found: View, held: list[Mapping[str, Any]] | None) -> View:
    """Keys of other Packs that this one provides as well: those that it asks to take over can be ticked."""
    asked = [item for item in found["permissions"] if item["type"] == forms.REPLACE]
    had = [grant for grant in held or [] if grant["type"] == forms.REPLACE]
    keys, kept = ({key for one in group for key in one["keys"]} for group in (asked, had))
    return {
        "keys": [
            {"key": key, "owner": owner, "asked": key in keys, "ticked": key in kept}
            for key, owner in found["replaces"].items()
        ],
        "reasons": [item["reason"] for item in asked if item["reason"]],
        "mode": had[0].get("mode", "always") if had else "always",
    }


def _item(index: int, item: Mapping[str, Any], held: list[Mapping[str, Any]] | None) -> View:
    """One permission as the page shows it; ticked is what an approval without choices grants, or what is held."""
    target = forms.target_of(item)
    had = [grant for grant in held or [] if grant["type"] == item["type"]]
    kept = {value for grant in had for value in grant.get(target, ())} if target else set()
    return {
        "index": index,
        "type": item["type"],
        "reason": item["reason"],
        "risk": item["risk"],
        "words": item["words"],
        "note": item["note"],
        "private": item.get("private_addresses", []),
        "grantable": item["grantable"],
        "not_held": held is not None and not had,
        # A time that was given before is not prolonged by approving again: it has to be chosen anew.
        "mode": had[0].get("mode", "always") if had else "always",
        "modes": forms.modes(item["type"]),
        "ticked": bool(had) if held is not None else item["plain"],
        "target": target,
        "values": [
            {"name": f"{index}.{at}", "text": value, "ticked": value in kept if held is not None else item["plain"]}
            for at, value in enumerate(item[target])
        ]
        if target
        else [],
        "params": {name: value for name, value in forms.params_of(item).items() if name != target},
    }


def _choices(form: forms.Form, found: View) -> list[dict[str, Any]]:
    if not _same(form, found):
        return []
    now_s = time.time()
    return forms.choices(form, found["permissions"], now_s) + forms.replacements(form, found["replaces"], now_s)


def _same(form: forms.Form, found: View) -> bool:
    """Ticks count only for the review they were made on; another one is refused by its digest all the same."""
    return forms.one(form, "digest") == str(found["digest"])


def _isolation(found: View) -> str | None:
    now = found["isolation"]
    return f"{now['driver']}/{now['level']}" if now else None


def _weaker(found: View) -> bool:
    """Whether what there is now is other and no stronger than what was approved."""
    before, now = found["approved_isolation"], _isolation(found)
    if not before or not now or before == now:
        return False
    levels = [_LEVELS.index(words.partition("/")[2]) for words in (before, now)]
    return levels[1] < levels[0] or before.partition("/")[0] != now.partition("/")[0]


def _refused(desk: Desk, request: Request, error: RumiError, back: str) -> Response:
    """A stale review is told as such: nothing was decided, and the next look shows what is there now."""
    page = "stale.html" if error.code in _STALE else "outcome.html"
    return desk.pages.render(page, Reader.of(request), error.http_status, error=error, back=back)

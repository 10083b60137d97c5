"""Forms of the console: bounded reading, and ticks turned into the choices of a decision. Pure but for ``read``.

Invariants:
  * A form is read only after the gate admitted its session; nothing of it counts before its CSRF token was compared.
  * Permissions are named by their place in the review that was shown, and the review's digest binds what stood there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from starlette.requests import ClientDisconnect, Request

from backend_core.errors import DeniedError, RequestError, quote
from core_runtime.rules.identity import FORM_LIMIT_BYTES
from core_runtime.rules.permission_kinds import KINDS
from core_runtime.rules.sessions import Session, same_csrf

READ_LIMIT_S = 20.0
FIELDS_MOST = 2000
DURATIONS_S = {"hour": 3600.0, "day": 86400.0, "week": 7 * 86400.0}
MODES = ("always", "once", "restart", *DURATIONS_S, "until")
REPLACE = "interface.replace"
TARGETS = ("paths", "keys", "topics", "names")

Form = Mapping[str, list[str]]


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """At most ``limit_bytes`` within ``READ_LIMIT_S``; the gate has checked the declared length."""
    read = bytearray()
    try:
        async with asyncio.timeout(READ_LIMIT_S):
            async for chunk in request.stream():
                read += chunk
                if len(read) > limit_bytes:
                    raise RequestError("The form is too large", code="too_large", detail=f"at most {limit_bytes} bytes")
    except (ClientDisconnect, TimeoutError) as exc:
        raise RequestError("The form did not arrive", code="form_incomplete", hint="Send it again.") from exc
    return bytes(read)


async def read(request: Request, session: Session) -> Form:
    """The fields of a form of this session. Raises ``DeniedError`` ``csrf`` for any other."""
    body = await read_body(request, FORM_LIMIT_BYTES)
    try:
        fields = parse_qs(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=FIELDS_MOST,
        )  # fmt: skip
    except ValueError as exc:
        raise RequestError("This is no form", code="form_invalid", hint="Load the page again.") from exc
    given = fields.pop("csrf", [])
    if len(given) != 1 or not same_csrf(session, given[0]):
        raise DeniedError(
            "This form is not of this session", code="csrf",
            detail="Its token is missing, of another session or of one that has ended. Nothing was changed.",
            hint="Load the page again, then decide.",
        )  # fmt: skip
    return fields


def one(form: Form, name: str, default: str = "", limit_chars: int = 1000) -> str:
    """A field that may stand once."""
    values = form.get(name, [default])
    if len(values) == 1 and len(values[0]) <= limit_chars:
        return values[0]
    raise RequestError("A field is not usable", code="form_invalid", detail=f"{quote(name, 40)}: once, and shorter")


def target_of(item: Mapping[str, Any]) -> str:
    """The parameter whose values are ticked one by one, ``""`` for a permission that is ticked as a whole."""
    return next((name for name in TARGETS if isinstance(item.get(name), list) and item[name]), "")


def params_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """A described permission's own parameters, without what describes it."""
    told = {"type", "reason", "risk", "words", "grantable", "plain", "note", "private_addresses"}
    return {name: value for name, value in item.items() if name not in told}


def choices(form: Form, permissions: Sequence[Mapping[str, Any]], now_s: float) -> list[dict[str, Any]]:
    """What was ticked, as a decision names it. ``take`` holds ``3``, or ``3.1`` for the second item of the fourth."""
    ticked = set(form.get("take", []))
    chosen = []
    for index, item in enumerate(permissions):
        target, params = target_of(item), params_of(item)
        if target:
            params[target] = [value for at, value in enumerate(item[target]) if f"{index}.{at}" in ticked]
        if params[target] if target else str(index) in ticked:
            mode = one(form, f"mode-{index}", "always", 20)
            chosen.append({"type": item["type"], **params, **timing(mode, one(form, "until", "", 40), now_s)})
    return chosen


def replacements(form: Form, replaces: Mapping[str, str], now_s: float) -> list[dict[str, Any]]:
    """The keys of other Packs that were ticked, as a decision names them: ``replace`` of what the review showed."""
    keys = [key for key in replaces if key in form.get("replace", [])]
    if not keys:
        return []
    mode, until = one(form, "mode-replace", "always", 20), one(form, "until", "", 40)
    return [{"type": REPLACE, "keys": keys, **timing(mode, until, now_s)}]


def modes(kind: str) -> tuple[str, ...]:
    """For how long a permission of this type can be granted."""
    lasting = kind in KINDS and KINDS[kind].lasting
    return tuple(mode for mode in MODES if mode != "once" or not lasting)


def timing(mode: str, until: str, now_s: float) -> dict[str, Any]:
    """``mode`` and ``until`` of a choice. A time is the host's local one, as the page's field gives it."""
    if mode not in MODES:
        raise RequestError("No such duration", code="form_invalid", detail=f"{quote(mode, 40)}: one of {MODES}")
    if mode in DURATIONS_S:
        return {"mode": "until", "until": now_s + DURATIONS_S[mode]}
    if mode != "until":
        return {"mode": mode}
    try:
        end_s = datetime.fromisoformat(until).timestamp()
    except (ValueError, OverflowError, OSError):  # no time to come: refused below
        end_s = math.nan
    if not end_s > now_s:
        raise RequestError(
            "The time is missing or over", code="until_invalid",
            detail=f"expected a time to come, such as 2030-01-31T18:00; got {quote(until, 40)}",
            hint="Go back, choose a time below the permissions, then approve.",
        )  # fmt: skip
    return {"mode": "until", "until": end_s}

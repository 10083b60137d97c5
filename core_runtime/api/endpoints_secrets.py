"""Routes about secrets of Packs: names and times come out, values only go in.

Invariant: no answer of these routes holds a piece of what was sent, also where it was refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from backend_core.errors import RequestError
from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import Endpoint
from core_runtime.handlers import packs, secrets


class SecretValue(msgspec.Struct, forbid_unknown_fields=True):
    """The value as text; it is never shown again."""

    value: str

    def __repr__(self) -> str:
        return "SecretValue(…)"


async def show(api: Api, call: Call) -> Any:
    return await secrets.view(api.host, call.pack_id)


async def put(api: Api, call: Call) -> Any:
    pack_id, name = call.pack_id, call.name("name")
    await packs.status(api.host, pack_id)
    return await secrets.put(api.host, pack_id, name, (await _value(call)).value, actor=call.actor)


async def remove(api: Api, call: Call) -> Any:
    return await secrets.remove(api.host, call.pack_id, call.name("name"), actor=call.actor)


async def _value(call: Call) -> SecretValue:
    """The body. The usual refusal quotes what it found, which here may be the value."""
    try:
        return await call.body(SecretValue)
    except RequestError as error:
        if error.code != "body_invalid":
            raise
    raise RequestError(
        "The body is not what this route takes",
        code="body_invalid",
        detail='expected {"value": "…"} with one text and nothing else; what came is not repeated here.',
        hint="Use: rumi secret set PACK NAME",
    )


_PATH = "/api/packs/{id}/secrets"

ENDPOINTS = (
    Endpoint("GET", _PATH, "listSecrets", "Which secrets were entered for a Pack; never their values", show,
             errors=(404, 409)),
    Endpoint("PUT", f"{_PATH}/{{name}}", "setSecret", "Enter or replace a secret's value", put, body=SecretValue,
             body_required=True, errors=(404, 409)),
    Endpoint("DELETE", f"{_PATH}/{{name}}", "removeSecret", "Delete a secret", remove, errors=(404, 409)),
)  # fmt: skip

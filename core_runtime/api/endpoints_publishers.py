"""Routes about publishers of signed Packs: which keys are known, and taking one back."""

from __future__ import annotations

from typing import Any

from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import OBJECTS, Endpoint
from core_runtime.handlers import publishers


async def listed(api: Api, call: Call) -> Any:
    del call
    return await publishers.listed(api.host)


async def forget(api: Api, call: Call) -> Any:
    return await publishers.forget(api.host, call.pack_id, actor=call.actor)


async def reset(api: Api, call: Call) -> Any:
    await publishers.reset(api.host, actor=call.actor)
    return {"publishers": []}


ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/publishers",
        "listPublishers",
        "The publisher's key that each signed Pack was first approved with",
        listed,
        OBJECTS,
        errors=(409,),
    ),
    Endpoint(
        "DELETE",
        "/api/publishers/{id}",
        "forgetPublisher",
        "Take the key of one Pack back: its next approval takes another, or none",
        forget,
        errors=(404, 409),
    ),
    Endpoint(
        "POST",
        "/api/publishers/reset",
        "resetPublishers",
        "Begin anew with no key known: the way out when the list can't be believed",
        reset,
        errors=(409,),
    ),
)

"""Routes about aliases: other names that the operator gives to interfaces."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from core_runtime.api.call import INTERFACE_KEY, Call
from core_runtime.api.context import Api
from core_runtime.api.table import OBJECTS, Endpoint
from core_runtime.handlers import aliases


class Alias(msgspec.Struct, forbid_unknown_fields=True):
    """``means``: the key of the interface that the name of the path stands for from now on."""

    means: Annotated[str, msgspec.Meta(pattern=f"^{INTERFACE_KEY.pattern}$", max_length=200)]


async def listed(api: Api, call: Call) -> Any:
    del call
    await aliases.looked_at(api.host)
    return aliases.listed(api.host)


async def put(api: Api, call: Call) -> Any:
    alias = call.key
    return await aliases.put(api.host, alias, (await call.body(Alias)).means, actor=call.actor)


async def remove(api: Api, call: Call) -> Any:
    return await aliases.remove(api.host, call.key, actor=call.actor)


ENDPOINTS = (
    Endpoint(
        "GET",
        "/api/aliases",
        "listAliases",
        "Every other name in force: what it means, whether that can be called, whose interface it hides",
        listed,
        OBJECTS,
    ),
    Endpoint(
        "PUT",
        "/api/aliases/{key}",
        "setAlias",
        "Let this name mean an interface, for calls over HTTP and the command line and for steps of flows",
        put,
        OBJECTS,
        body=Alias,
        body_required=True,
        errors=(409,),
    ),
    Endpoint(
        "DELETE", "/api/aliases/{key}", "removeAlias", "Forget an alias", remove, OBJECTS, errors=(404, 409)
    ),
)

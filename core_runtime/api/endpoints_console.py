"""Routes about the console: opening it. The rest of the console stands at the web port."""

from __future__ import annotations

from typing import Any

from core_runtime.api.call import Call
from core_runtime.api.context import Api
from core_runtime.api.table import Endpoint


async def invite(api: Api, call: Call) -> Any:
    """The code itself is in the file only: no answer, log or address holds it."""
    del call
    made = await api.access.invite()
    return {"path": str(made.path), "url": made.url, "expires_in_s": made.expires_in_s}


ENDPOINTS = (
    Endpoint(
        "POST",
        "/api/console/open",
        "openConsole",
        "Write a file that opens the console in the browser of the user who may read it, once",
        invite,
        errors=(409,),
    ),
)

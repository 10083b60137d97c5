"""``container.restart_self``: a Pack asks for a fresh sandbox of its own, from the same approved bytes."""

from __future__ import annotations

from typing import Any

from core_runtime.privileges.base import Call, Privilege, register


def _execute(call: Call) -> dict[str, Any]:
    assert call.effects is not None
    call.effects.restart(call.pack_id)
    return {"restarting": True}


register(
    Privilege(
        id="container.restart_self",
        title={"en": "Restart its own sandbox", "ja": "自分のサンドボックスを再起動する"},
        risk="low",
        parameters={"type": "object", "additionalProperties": False},
        options={"type": "object", "additionalProperties": False},
        execute=_execute,
        needs_effects=True,
    )
)

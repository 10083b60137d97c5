"""``notify``: show the operator a short notice, always marked with the Pack that sent it."""

from __future__ import annotations

from typing import Any

from core_runtime.privileges.base import Call, Privilege, register


def _execute(call: Call) -> dict[str, Any]:
    assert call.effects is not None
    call.effects.notify(call.pack_id, str(call.args["title"]), str(call.args.get("text", "")))
    return {"shown": True}


register(
    Privilege(
        id="notify",
        title={"en": "Show you notices", "ja": "通知を表示する"},
        risk="low",
        parameters={
            "type": "object",
            "properties": {
                "title": {"type": "string", "minLength": 1, "maxLength": 120},
                "text": {"type": "string", "maxLength": 1000},
            },
            "required": ["title"],
            "additionalProperties": False,
        },
        options={"type": "object", "additionalProperties": False},
        execute=_execute,
        needs_effects=True,
        disturbs=True,
    )
)

"""``clipboard.write``: put text on the operator's clipboard. It is never read, and nothing but text is put there."""

from __future__ import annotations

from typing import Any

from backend_core.errors import RequestError
from core_runtime.privileges.base import Call, Privilege, register

MAX_BYTES = 64 * 1024
WRITERS = (
    ("wl-copy", "--type", "text/plain"),
    ("xclip", "-selection", "clipboard", "-in"),
    ("xsel", "--clipboard", "--input"),
)


def _execute(call: Call) -> dict[str, Any]:
    assert call.desktop is not None
    text = str(call.args["text"])
    data = text.encode()
    hidden = any(ord(character) < 32 and character not in "\n\t" for character in text) or "\x7f" in text
    if hidden or len(data) > MAX_BYTES:
        raise RequestError(
            "Not a text for the clipboard",
            code="text_invalid",
            detail=f"At most {MAX_BYTES} bytes are taken (these are {len(data)}), no controls but tab and newline.",
        )
    return {"copied": len(data), "with": call.desktop.run(WRITERS, data=data)}


register(
    Privilege(
        id="clipboard.write",
        title={"en": "Put text on your clipboard", "ja": "クリップボードにテキストを入れる"},
        risk="medium",
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 1, "maxLength": MAX_BYTES}},
            "required": ["text"],
            "additionalProperties": False,
        },
        options={"type": "object", "additionalProperties": False},
        execute=_execute,
        disturbs=True,
        programs=WRITERS,
    )
)

"""``file.export``: put a file into a folder that the operator chose. Nothing there is read or replaced."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from backend_core.errors import ConflictError, HostError, NotFoundError, RequestError, quote
from backend_core.files import Confined, name_fault
from core_runtime.privileges.base import Call, Privilege, register

MAX_BYTES = 16 * 1024 * 1024


def _execute(call: Call) -> dict[str, Any]:
    name, data = str(call.args["name"]), _data(call)
    fault = name_fault(name) or ("starts with a dot" if name.startswith(".") else "")
    if fault:
        raise RequestError("Not a usable file name", code="name_invalid", detail=f"{quote(name)} {fault}.")
    folder = Path(str(call.options["folder"]))
    try:
        with Confined(folder) as target:
            if _exists(target, name):
                raise ConflictError(
                    "The file exists",
                    code="file_exists",
                    detail=quote(name),
                    hint="Choose another name; none is replaced.",
                )
            target.write(name, data, mode=0o644)
    except OSError as error:
        raise HostError(
            "The file could not be exported",
            code="storage",
            detail=f"{quote(str(folder))}: {error.strerror or error}",
            hint="Make the folder, or grant the privilege again with another one.",
        ) from error
    return {"name": name, "bytes": len(data)}


def _data(call: Call) -> bytes:
    if "text" in call.args:
        return str(call.args["text"]).encode()
    try:
        return base64.b64decode(str(call.args["base64"]), validate=True)
    except binascii.Error as error:
        raise RequestError("Not base64", code="data_invalid", detail=str(error)) from error


def _exists(target: Confined, name: str) -> bool:
    try:
        target.stat(name)
    except NotFoundError:
        return False
    return True


register(
    Privilege(
        id="file.export",
        title={"en": "Put files into a folder of your choice", "ja": "選んだフォルダーにファイルを書き出す"},
        risk="medium",
        parameters={
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 100},
                "text": {"type": "string", "maxLength": MAX_BYTES},
                "base64": {"type": "string", "maxLength": MAX_BYTES},
            },
            "required": ["name"],
            "oneOf": [{"required": ["text"]}, {"required": ["base64"]}],
            "additionalProperties": False,
        },
        options={
            "type": "object",
            "properties": {"folder": {"type": "string", "pattern": "^/", "maxLength": 1000}},
            "required": ["folder"],
            "additionalProperties": False,
        },
        execute=_execute,
    )
)

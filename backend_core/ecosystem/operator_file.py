"""Reading the JSON files of ``user_data`` that the operator edits by hand.

Invariant: a broken file is never replaced or ignored here: what it said (a disabled component) may matter. It is a
``HostError`` whose code is the doctor's id for it, ``<name>_json_invalid``.
"""

from __future__ import annotations

from pathlib import Path

from backend_core.document import Document
from backend_core.ecosystem.spec.validate import Kind, check
from backend_core.errors import AuthorError, HostError, RequestError
from backend_core.files import read_bounded
from backend_core.parsing import JSON_LIMITS, load_json


def load_operator_file(file: Path, kind: Kind) -> Document | None:
    """The document in ``file``, ``None`` where it does not exist. Raises ``HostError``."""
    code = f"{kind.value}_json_invalid"
    try:
        data = read_bounded(file, JSON_LIMITS.limit_bytes)
    except FileNotFoundError:
        return None
    except RequestError as exc:
        if exc.http_status == 404:
            return None
        raise _broken(file, code, exc.detail or exc.title) from exc
    except OSError as exc:
        raise _broken(file, code, f"{file}: {exc.strerror}") from exc
    try:
        document = load_json(data, source=file.name)
        check(kind, document)
    except AuthorError as exc:
        raise HostError(
            f"{file.name} can't be used", code=code, detail=exc.detail, hint=_hint(file), fields=exc.fields
        ) from exc
    return document


def _broken(file: Path, code: str, detail: str) -> HostError:
    return HostError(
        f"{file.name} can't be read", code=code, detail=detail, hint=_hint(file), fields={"source": file.name}
    )


def _hint(file: Path) -> str:
    return f"Correct {file}, or let `rumi doctor --fix` keep it as a backup and write a fresh one."

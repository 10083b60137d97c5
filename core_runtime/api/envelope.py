"""The one shape of every answer: ``{"success", "data", "error"}``; errors add ``code``, ``hint`` and ``fields``.

Invariants:
  * What is sent is JSON, safe to show (``rules.shown``).
  * A foreign exception never shows its text to the caller: the reference number leads to the host's own log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from backend_core.errors import PackError, RumiError
from core_runtime.rules.identity import Refuse
from core_runtime.rules.shown import encode

TITLE_LIMIT_CHARS = 2000
HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
}
_RAW_HEADERS = [(n.encode(), v.encode()) for n, v in {**HEADERS, "content-type": "application/json"}.items()]


class Envelope(Response):
    """A JSON answer that no browser will guess a type for, store or embed."""

    media_type = "application/json"

    def __init__(self, content: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status_code, headers)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """The usual ones are encoded once and not for each answer; given ones come in addition, or instead."""
        if headers:
            super().init_headers({**HEADERS, **headers})
        else:
            self.raw_headers = [*_RAW_HEADERS, (b"content-length", b"%d" % len(self.body))]


def success(data: Any) -> Envelope:
    """``data`` is the host's own: dataclasses, mappings, enums and paths are understood."""
    return Envelope(b'{"success":true,"data":' + encode(data) + b',"error":null}')


def failure(error: RumiError, headers: Mapping[str, str] | None = None) -> Envelope:
    """An error of the tree, with the status that its class fixes."""
    return Envelope(failure_body(error), error.http_status, headers)


def refusal(refuse: Refuse, headers: Mapping[str, str] | None = None) -> Envelope:
    """A refusal that was decided before any handler ran."""
    return Envelope(refusal_body(refuse), refuse.status, headers)


def failure_body(error: RumiError) -> bytes:
    """Also one item of an event stream."""
    body = {
        "success": False,
        "data": None,
        "error": _bounded(str(error)),
        "code": error.code,
        "hint": _bounded(error.hint),
        "fields": dict(error.fields),
    }
    if isinstance(error, PackError):
        body |= {"pack_id": error.pack_id or None, "retryable": error.retryable}
    return encode(body)


def refusal_body(refuse: Refuse) -> bytes:
    """The same shape, from a decision that is a value."""
    text = f"{refuse.title}: {refuse.detail}" if refuse.detail else refuse.title
    return encode(
        {"success": False, "data": None, "error": text, "code": refuse.code, "hint": refuse.hint, "fields": {}}
    )


def _bounded(text: str) -> str:
    return text if len(text) <= TITLE_LIMIT_CHARS else text[:TITLE_LIMIT_CHARS] + "…"

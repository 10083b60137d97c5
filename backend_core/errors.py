"""The one error tree of the host, split by who must act.

Every error carries the same five fields, so that each face (API, CLI, console, diagnostics) can show it without knowing
its class: ``code`` (a slug that never changes), ``title`` (one line), ``detail`` (what was expected, what came),
``hint`` (the next thing to do) and ``fields`` (machine-readable particulars).

Invariants:
  * A subclass fixes ``http_status`` and a default ``code``; it never adds behaviour.
  * Bugs are not here: they stay builtin exceptions and become an Issue at the one fail-soft boundary.
  * Text that came from a Pack is passed through :func:`quote` before it enters any of the five fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

QUOTE_LIMIT_CHARS = 200


def quote(text: object, limit_chars: int = QUOTE_LIMIT_CHARS) -> str:
    r"""Make hostile text safe for logs, terminals and pages: printable, bounded, on one line, within quotes.

    Control, bidi and other invisible characters appear as ``\uXXXX`` escapes, so consent text can't be spoofed.
    """
    raw = text if isinstance(text, str) else repr(text)
    cut = raw[: limit_chars + 1]
    shown = "".join(ch if ch.isprintable() else ch.encode("unicode_escape").decode("ascii") for ch in cut[:limit_chars])
    return f"'{shown}…'" if len(cut) > limit_chars else f"'{shown}'"


class RumiError(Exception):
    """Root of the tree. Raise a subclass."""

    http_status: ClassVar[int] = 500
    default_code: ClassVar[str] = "error"

    def __init__(
        self,
        title: str,
        *,
        code: str | None = None,
        detail: str = "",
        hint: str = "",
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(title)
        self.code = code or self.default_code
        self.title = title
        self.detail = detail
        self.hint = hint
        self.fields: Mapping[str, Any] = MappingProxyType(dict(fields or {}))

    def __str__(self) -> str:
        return f"{self.title}: {self.detail}" if self.detail else self.title

    def as_dict(self) -> dict[str, Any]:
        """``{code, title, detail, hint, fields}``, JSON-serialisable when ``fields`` is."""
        return {
            "code": self.code,
            "title": self.title,
            "detail": self.detail,
            "hint": self.hint,
            "fields": dict(self.fields),
        }


class AuthorError(RumiError):
    """The Pack's author must act: a file of the Pack is not what its format says."""

    http_status = 422
    default_code = "pack_invalid"


class TrustError(RumiError):
    """The operator must decide again: digest, signature, counter or state don't agree."""

    http_status = 409
    default_code = "trust"


class DeniedError(RumiError):
    """The actor lacks a right that it would need."""

    http_status = 403
    default_code = "denied"


class HostError(RumiError):
    """The machine or the host can't do it now: engine, disk, sandbox."""

    http_status = 503
    default_code = "host_unavailable"


class SandboxUnavailable(HostError):  # noqa: N818 - named as its sentence reads
    """No isolation driver passes its probe, or a weaker one than was approved."""

    default_code = "sandbox_unavailable"


class PackError(RumiError):
    """A Pack's code failed, or its sandbox is gone. ``code`` is the error's type on the bus."""

    http_status = 502
    default_code = "pack_failed"

    def __init__(
        self,
        title: str,
        *,
        code: str | None = None,
        detail: str = "",
        hint: str = "",
        fields: Mapping[str, Any] | None = None,
        retryable: bool = False,
        trace: str = "",
        pack_id: str = "",
    ) -> None:
        super().__init__(title, code=code, detail=detail, hint=hint, fields=fields)
        self.retryable = retryable
        self.trace = trace
        self.pack_id = pack_id


class PackTimeout(PackError):  # noqa: N818 - named as its sentence reads
    """A Pack did not answer within its deadline."""

    http_status = 504
    default_code = "timeout"


class RequestError(RumiError):
    """The request itself is wrong."""

    http_status = 400
    default_code = "bad_request"


class NotFoundError(RequestError):
    """The named thing is unknown."""

    http_status = 404
    default_code = "not_found"


class ConflictError(RequestError):
    """The thing exists, but not in a state that admits the request."""

    http_status = 409
    default_code = "conflict"


class TooLargeError(RequestError):
    """A size limit of the request was exceeded."""

    http_status = 413
    default_code = "too_large"

"""Errors of steps: exceptions of the host as data, and data as the exception that a Pack's code gets."""

from __future__ import annotations

from backend_core.errors import DeniedError, PackError, PackTimeout, RumiError
from core_runtime.rules.flow import endings


def as_exception(error: endings.FlowError) -> PackError:
    """What a failed block raises in the code that asked for it."""
    return PackError(error.title, code=error.type, detail=error.detail, retryable=error.retryable)


def known_error(exc: RumiError, path: str, attempt: int = 1) -> endings.FlowError:
    """A refusal or a Pack's failure, by its code."""
    kind = exc.code
    if isinstance(exc, PackTimeout):
        kind = "timeout"
    elif isinstance(exc, DeniedError):
        kind = "denied"
    return endings.FlowError(
        kind,
        exc.title,
        detail=exc.detail,
        instance=path,
        attempt=attempt,
        retryable=exc.retryable if isinstance(exc, PackError) else False,
        cause=exc.hint,
        pack=exc.pack_id if isinstance(exc, PackError) else "",
    )

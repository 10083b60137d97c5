"""What judging permissions comes to: allowed, denied, or refused to the operator. Pure."""

from __future__ import annotations

from msgspec import Struct

from backend_core.errors import DeniedError, RequestError, quote


class Allow(Struct, frozen=True):
    """The action is covered by a granted permission; ``index`` tells which, -1 for what needs none or always holds."""

    index: int = -1


class Deny(Struct, frozen=True):
    """The action is not covered. ``reason`` and ``hint`` are sentences for the Pack's author and the operator."""

    reason: str
    hint: str = ""
    code: str = "denied"

    def error(self) -> DeniedError:
        """As an exception, where an operation must stop."""
        return DeniedError("Not permitted", code=self.code, detail=self.reason, hint=self.hint)


def refused(kind: str, reason: str, code: str) -> DeniedError:
    """A choice of the operator that can't be granted, with the sentence why."""
    return DeniedError(
        "Permission not grantable",
        code=code,
        detail=f"{quote(kind)} can't be granted: {reason}",
        hint="Grant what the review lists, or less.",
        fields={"type": kind},
    )


def bad_choice(what: str, reason: str) -> RequestError:
    """A list of choices that says nothing usable."""
    return RequestError(
        "The list of permissions is not usable",
        code="permissions_invalid",
        detail=f"{what} {reason}.",
        hint='Give types or objects such as {"type": "userdata.read", "paths": ["shared/notes/**"], "mode": "once"}.',
    )

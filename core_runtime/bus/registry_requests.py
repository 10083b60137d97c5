"""What a Pack asks of the registry that its mirror does not hold: the source text of what it may see.

Not here: the mirror itself (``mirrors``), operations that the host's managers perform (``handlers.requests``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from backend_core.errors import RequestError, quote
from core_runtime.rules.frames import KEY_CHARS

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

SOURCE: Final = "registry.source"


def source_of(session: Session, args: Any) -> str | None:
    """The text given with what ``key`` answers with; None as well for what the Pack may not see, as in its mirror."""
    key = args.get("key") if isinstance(args, Mapping) else None
    if not isinstance(key, str) or not 0 < len(key) <= KEY_CHARS:
        raise RequestError(
            f"{SOURCE} takes a key",
            code="arguments",
            detail=f"expected a text of 1 to {KEY_CHARS} characters; got {quote(str(key), 80)}",
        )
    entry = session.world.resolve(key)
    if entry is None:
        return None
    seen = session.rights().may_see(key) and session.terms.admits(key, entry.version)
    return entry.source if seen or entry.pack == session.pack_id else None

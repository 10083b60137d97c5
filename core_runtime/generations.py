"""In whose right a generation of a Pack acts while there are two of them.

Each session carries its ``Standing``. Work that is done for a session runs under it (``acting``), so that whoever
judges that work, however deep below, judges it by the right grant: what is on trial by the grant that it would get,
what was taken over from by the grant that it had.

Invariants:
  * A standing without a grant of its own acts under the grant in force, like nearly all do.
  * Nobody but the host sets a standing; nothing that a Pack sends names one.

Not here: judging (``permission_manager``), when a standing changes (``handlers.takeover``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from enum import Enum
from typing import TYPE_CHECKING, Any

from backend_core.errors import ConflictError, quote

if TYPE_CHECKING:
    from core_runtime.rules.grants import Grant

DECIDE_S = 30.0


class Stage(Enum):
    """``TRIAL``: beside the one that serves. ``RETIRING``: its take-over is being decided. ``RETIRED``: ends calls."""

    SERVING = "serving"
    TRIAL = "trial"
    RETIRING = "retiring"
    RETIRED = "retired"


class Standing:
    """That of one generation. Changed on the loop's thread, read on any."""

    __slots__ = ("_decided", "_taken", "files", "grant", "pack_id", "refused", "stage")

    def __init__(self, pack_id: str) -> None:
        self.pack_id = pack_id
        self.stage = Stage.SERVING
        self.grant: Callable[[], Grant | None] | None = None
        """Instead of the grant in force."""
        self.files: Any = None
        """The user data access of a trial; None: that of the host."""
        self.refused = ""
        """What it asked for on trial and only the generation that serves may do."""
        self._taken: Callable[[str], bool] = _nothing
        self._decided = threading.Event()

    def try_out(self, grant: Grant | None, files: Any) -> None:
        """On trial under ``grant`` (None: the one in force), with the files that a trial may see and change."""
        self.stage, self.files = Stage.TRIAL, files
        self.grant = None if grant is None else lambda: grant

    def serve(self) -> None:
        """It serves, under the grant in force."""
        self.stage, self.grant, self.files = Stage.SERVING, None, None
        self._decided.set()

    def retire(self, grant: Callable[[], Grant | None], taken: Callable[[str], bool]) -> None:
        """A newer generation may take over at any moment: writes wait until that is decided."""
        self._taken = taken
        self._decided.clear()
        self.stage, self.grant = Stage.RETIRING, grant

    def retired(self) -> None:
        """The newer generation serves."""
        self.stage = Stage.RETIRED
        self._decided.set()

    def await_decision(self) -> None:
        """Wait while a take-over from this generation is being decided; with no lock held that the decision needs."""
        if self.stage is Stage.RETIRING:
            self._decided.wait(DECIDE_S)

    def check_write(self, path: str) -> None:
        """``ConflictError`` ``superseded`` for a file that a newer generation has read or written."""
        if self.stage in {Stage.RETIRING, Stage.RETIRED} and self._taken(path):
            raise ConflictError(
                "A newer generation of this Pack has taken over",
                code="superseded",
                detail=f"{quote(path)} belongs to it now; the older generation only ends the calls that it serves.",
                hint="Call again: the newer generation answers.",
            )


def _nothing(_path: str) -> bool:
    return False


ACTING: ContextVar[Standing | None] = ContextVar("acting", default=None)


@contextlib.contextmanager
def acting(standing: Standing | None) -> Iterator[None]:
    """What happens in the block, on this thread or in this task, happens for the generation of that standing."""
    token = ACTING.set(standing)
    try:
        yield
    finally:
        ACTING.reset(token)


def grant_of(pack_id: str, in_force: Callable[[str], Grant | None]) -> Grant | None:
    """The grant under which ``pack_id`` acts here."""
    standing = ACTING.get()
    if standing is None or standing.grant is None or standing.pack_id != pack_id:
        return in_force(pack_id)
    return standing.grant()

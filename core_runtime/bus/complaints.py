"""Issues about what one session registers and finds, beside what its approved manifest says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend_core.errors import quote
from core_runtime.diagnostics import Diagnostics, Severity

if TYPE_CHECKING:
    from core_runtime.bus.sessions import Session

INCOMPATIBLE = "interface_incompatible"


class Complaints:
    """Of one session; belongs to the event loop's thread."""

    def __init__(self, session: Session, diagnostics: Diagnostics) -> None:
        self._session = session
        self._diagnostics = diagnostics
        self.unsuited: dict[str, str] = {}
        """Key → why what answers it is out of the range that the Pack needs."""

    def broke_contract(self, key: str, problem: str) -> None:
        """Something else was registered than the approved manifest declares."""
        self._diagnostics.issue(
            "contract_broken",
            Severity.ERROR,
            self._session.pack_id,
            "A Pack registers something else than was approved",
            f"{quote(key)}: {problem}. It was refused.",
            f"Look at what it declares: rumi pack review {self._session.pack_id}. Its author has to make both agree.",
            {"key": key},
        )

    def note_unsuited(self, key: str, why: str) -> None:
        """What answers a key is out of the range that the Pack needs, or ("") is not, or no longer."""
        if self.unsuited.get(key, "") == why:
            return
        if why:
            self.unsuited[key] = why
        else:
            del self.unsuited[key]
        if not self.unsuited:
            self._diagnostics.resolve(INCOMPATIBLE, self._session.pack_id)
            return
        self._diagnostics.issue(
            INCOMPATIBLE,
            Severity.WARN,
            self._session.pack_id,
            "A Pack can't use what is provided now",
            " ".join(self.unsuited[name] for name in sorted(self.unsuited)[:10]),
            "Update one of the two Packs, or choose another provider; until then it sees no such interface.",
            {"keys": sorted(self.unsuited)[:100]},
        )

    def clear(self) -> None:
        """Unless another generation of the Pack meets the same."""
        session = self._session
        others = (one for one in session.router.sessions if one is not session and one.pack_id == session.pack_id)
        if self.unsuited and not any(one.complaints.unsuited for one in others):
            self._diagnostics.resolve(INCOMPATIBLE, self._session.pack_id)

"""What the pages can ask for and do. Knows the setup core, knows nothing of HTTP or HTML.

There is one visitor in one process, so the visitor's language is the process's: the core reads it from RUMI_LANG.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from rumi_setup.core import checker, initializer, installer, places, recovery
from rumi_setup.core.problem import SetupError
from rumi_setup.core.progress import Progress
from rumi_setup.core.words import language
from rumi_setup.web.work import Snapshot, State, Work


@dataclass(frozen=True)
class Installation:
    """`lock` names what the environment serves; None while it is missing or old."""

    lock: str | None
    work: Snapshot
    offline: str


@dataclass(frozen=True)
class Folders:
    """`missing` is what initialising would mend, `created` what it made in this run."""

    home: str
    missing: tuple[str, ...]
    created: tuple[str, ...] | None
    problem: SetupError | None


@dataclass(frozen=True)
class Health:
    """What the doctor finds, and what was mended last."""

    issues: tuple[recovery.Issue, ...]
    mended: tuple[recovery.Mended, ...]
    problem: SetupError | None

    @property
    def healthy(self) -> bool:
        return self.problem is None and recovery.healthy(list(self.issues))


class Wizard:
    """The state of one run of the wizard."""

    def __init__(self, *, home: str | os.PathLike[str] | None = None, offline: str = "") -> None:
        self._home = places.home(home)
        self._offline = offline
        self._work = Work()
        self._created: tuple[str, ...] | None = None
        self._mended: tuple[recovery.Mended, ...] = ()
        self._initialise_problem: SetupError | None = None
        self._changing = threading.Lock()  # a double click is two requests

    @property
    def busy(self) -> bool:
        return self._work.snapshot().state is State.WORKING

    def speak(self, wanted: str) -> None:
        """Makes everything that the core says from now on be in that language."""
        if wanted in {"ja", "en"}:
            os.environ["RUMI_LANG"] = wanted

    @property
    def language(self) -> str:
        return language()

    def checks(self) -> list[checker.Check]:
        return checker.run_checks(self._home)

    def installation(self) -> Installation:
        return Installation(installer.current(), self._work.snapshot(), self._offline)

    def install(self, offline: str) -> bool:
        """Begins; False when an installation is being made already."""
        # absolute here, where an unknown `~name` stays as it is; the installer then says that it is no folder
        folder = os.path.abspath(os.path.expanduser(offline.strip())) if offline.strip() else ""  # noqa: PTH100, PTH111

        def act(progress: Progress) -> None:
            self._offline = folder
            installer.ensure("runtime", folder or None, progress)

        return self._work.start(act)

    def wait_for_installation(self, limit_s: float) -> Snapshot:
        return self._work.wait(limit_s)

    def folders(self) -> Folders:
        issues, problem = self._diagnosed()
        missing = tuple(i.message for i in issues if i.fix_action == "initialise")
        return Folders(str(self._home), missing, self._created, self._initialise_problem or problem)

    def initialise(self) -> None:
        with self._changing:
            try:
                self._created = (*(self._created or ()), *initializer.initialise(self._home).created)
                self._initialise_problem = None
            except SetupError as error:
                self._initialise_problem = error

    def health(self) -> Health:
        issues, problem = self._diagnosed()
        return Health(issues, self._mended, problem)

    def mend(self, issue_id: str) -> None:
        """Mends one finding, or with `all` everything that can be mended without asking."""
        with self._changing:
            try:
                self._mended = tuple(recovery.fix(self._home, None if issue_id == "all" else (issue_id,)))
            except (SetupError, OSError) as error:
                self._mended = (recovery.Mended(issue_id, False, str(error)),)

    def _diagnosed(self) -> tuple[tuple[recovery.Issue, ...], SetupError | None]:
        """A folder that may not even be looked into is a finding of its own, never the end of the page."""
        try:
            return tuple(recovery.diagnose(self._home)), None
        except OSError as error:
            return (), SetupError(f"{error.filename or self._home}: {error.strerror or error}")

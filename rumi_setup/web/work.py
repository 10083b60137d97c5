"""One long step at a time, in a thread, and what is known of it while it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from rumi_setup.core.problem import SetupError
from rumi_setup.core.progress import Progress

_NOTES_KEPT = 50


class State(Enum):
    IDLE = "idle"
    WORKING = "working"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Snapshot:
    """What a page shows; `began_s` is on the monotonic clock."""

    state: State = State.IDLE
    text: str = ""
    step: int = 0
    steps: int = 0
    began_s: float = 0.0
    notes: tuple[str, ...] = ()
    problem: SetupError | None = None


class Work:
    """Runs a step once at a time; is the `Progress` that the step reports to."""

    def __init__(self) -> None:
        self._seen = Snapshot()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def snapshot(self) -> Snapshot:
        with self._guard:
            return self._seen

    def start(self, act: Callable[[Progress], object]) -> bool:
        """Begins unless something is being done already; says whether it began."""
        with self._guard:
            if self._seen.state is State.WORKING:
                return False
            self._seen = Snapshot(State.WORKING, began_s=time.monotonic())
        # a daemon: Ctrl-C ends the wizard, and running the setup again mends what was half done
        self._thread = threading.Thread(target=self._run, args=(act,), name="setup-step", daemon=True)
        self._thread.start()
        return True

    def wait(self, limit_s: float) -> Snapshot:
        """Until the step is over, or the limit."""
        if self._thread is not None:
            self._thread.join(limit_s)
        return self.snapshot()

    def _run(self, act: Callable[[Progress], object]) -> None:
        ended, problem = State.FAILED, None
        try:
            act(self)
            ended = State.DONE
        except SetupError as error:
            problem = error
        except OSError as error:
            problem = SetupError(f"{error.strerror or error}: {error.filename or '-'}")
        finally:
            # also after an error that nobody foresaw, whose trace goes to the terminal: no page may wait for ever
            with self._guard:
                self._seen = replace(self._seen, state=ended, problem=problem)

    def note(self, text: str) -> None:
        with self._guard:
            self._seen = replace(self._seen, notes=(*self._seen.notes, text)[-_NOTES_KEPT:])

    def step(self, text: str, done: int, total: int) -> None:
        with self._guard:
            self._seen = replace(self._seen, text=text, step=done, steps=total)

    def finish(self) -> None:
        """Nothing: the step's end is when its function returns."""

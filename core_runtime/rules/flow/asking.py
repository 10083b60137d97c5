"""What routines ask for, and what they are answered with: the words between the flow's machine and whoever drives it.

A *routine* is a generator. It yields a request and is resumed with the answer:

========== ============================================================ =========================
request    meaning                                                      answered with
========== ============================================================ =========================
Invoke     run a handler (an effect; the driver answers, in time)       its value, or StepFailed
Open       begin to read a handler's items (an effect)                  Opened, or a plain value
Next       the next item of what was opened (an effect)                 the item, or END
Sleep      let time pass (an effect)                                    None
Until      wait for an instant (an effect)                              None
Listen     wait for an event (an effect)                                its payload
Await      wait until a handler of that name exists (an effect)         None
Publish    publish an event (an effect)                                 None
Consult    ask the hooks of Packs about a step (an effect)              what they say, a word
Produce    hand an item to whoever reads the run (an effect)            None, once it was taken
Fork       run routines side by side, bounded in number and time        Joined
========== ============================================================ =========================

Every effect with an answer has a ``place``: the same name in each execution of the same flow, and no other's. So a run
that was recorded can be answered again.

Not here: running routines (``tasks``), what they are (``machine``), who answers (the kernel).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from msgspec import Struct

from core_runtime.rules.flow.endings import FlowError, StepResult


class Interrupt(Exception):  # noqa: N818  (a signal, like StopIteration)
    """Thrown into a routine that must end: ``kind`` is ``cancelled`` or ``timeout``."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class StepFailed(Exception):  # noqa: N818  (carries an error, is not one)
    """A step failed with ``error``; ``stop`` passes every block up to the run, ``final`` is not tried again.

    ``forgiven``: an error handler wants the next step, whatever ``on_error`` says.
    """

    def __init__(
        self, error: FlowError, *, stop: bool = False, final: bool = False, forgiven: bool = False
    ) -> None:
        super().__init__(error.title)
        self.error = error
        self.stop = stop
        self.final = final
        self.forgiven = forgiven


class Invoke(Struct, eq=False):
    """Effect: call ``handler`` with ``args`` for the step at ``path``; a ``timeout`` error after ``timeout_s``.

    ``acts_as``: the Packs whose rights count, all of them. ``once``: the key under which it must happen once.
    ``pack``: the only one that may answer, or ``""``. ``body``: what a construct may run, by ``Tasks.adopt``.
    """

    handler: str
    args: Any
    path: str
    attempt: int = 1
    timeout_s: float = 0.0
    acts_as: tuple[str, ...] = ()
    place: str = ""
    once: str = ""
    pack: str = ""
    body: Callable[[Mapping[str, Any]], Routine] | None = None
    token: int = 0


class Open(Struct, eq=False):
    """Effect: call ``handler`` for its items, at most ``buffer`` ahead of the reader."""

    handler: str
    args: Any
    path: str
    attempt: int
    timeout_s: float
    acts_as: tuple[str, ...]
    buffer: int
    once: str = ""
    place: str = ""
    token: int = 0


class Opened(Struct, frozen=True):
    """Answer: items come; ``handle`` is the driver's own."""

    handle: Any


class Next(Struct, eq=False):
    """Effect: the next item, a ``timeout`` error when none comes within ``idle_s``."""

    handle: Any
    idle_s: float | None
    place: str = ""
    token: int = 0


END: Final = object()
"""Answer to ``Next``: there are no more items."""


class Close(Struct, eq=False):
    """Effect without an answer: nobody reads on."""

    handle: Any


class Sleep(Struct, eq=False):
    """Effect: answer after ``delay_s``."""

    delay_s: float
    place: str = ""
    token: int = 0


class Until(Struct, eq=False):
    """Effect: answer when ``instant`` (seconds since 1970, or ISO 8601 text) has come."""

    instant: Any
    place: str = ""
    token: int = 0


class Listen(Struct, eq=False):
    """Effect: answer with the payload of the first event under ``topic`` that ``accepts`` takes."""

    topic: str
    accepts: Callable[[Any], bool]
    acts_as: tuple[str, ...]
    place: str = ""
    token: int = 0


class Publish(Struct, eq=False):
    """Effect: publish ``payload`` under ``topic``."""

    topic: str
    payload: Any
    acts_as: tuple[str, ...]
    place: str = ""
    token: int = 0


class Consult(Struct, eq=False):
    """Effect: ask the hooks of that name about the step at ``path`` of ``flow``; answered with a ``hooks.Word``."""

    hook: str
    flow: str
    path: str
    variables: Mapping[str, Any]
    told: Mapping[str, Any]
    place: str = ""
    token: int = 0


class Produce(Struct, eq=False):
    """Effect: one item of the run's own stream."""

    value: Any
    place: str = ""
    token: int = 0


class Await(Struct, eq=False):
    """Effect: answer when a handler called ``handler`` exists."""

    handler: str
    place: str = ""
    token: int = 0


class Abandon(Struct, eq=False):
    """Effect: nobody waits for ``token`` any more; end what it started."""

    token: int


class Began(Struct, eq=False, gc=False):
    """Effect without an answer: a step begins. ``place`` tells it from the same step in another iteration or flow."""

    path: str
    flow: str
    place: str


class Ended(Struct, eq=False, gc=False):
    """Effect without an answer: a step ended."""

    result: StepResult
    place: str


Asking = Invoke | Open | Next | Sleep | Until | Listen | Await | Publish | Produce | Consult
Effect = Asking | Abandon | Began | Ended | Close


class Joined(Struct, frozen=True):
    """How the routines of a Fork ended, by position; None for one that was never started."""

    results: tuple[Result | None, ...]
    timed_out: bool = False


class Result(Struct, frozen=True):
    """A routine's value, or what ended it."""

    value: Any = None
    raised: StepFailed | Interrupt | None = None


class Fork(Struct):
    """Request: done when ``wait`` routines succeeded, or can't any more; at most ``limit`` at a time (0 = all)."""

    routines: list[Routine]
    wait: int
    limit: int = 0
    timeout_s: float | None = None
    place: str = ""


Request = Asking | Fork
Routine = Generator[Request, Any, Any]

"""The one flow model: frozen values that every document style is translated into.

Invariants:
  * A step has exactly one verb, which is the type of ``Step.action``; everything else on it is an adverb.
  * Every step knows its path (``parent/child``), unique within the flow, and the place in the file it came from.

Not here: how steps and runs end (``endings``), reading documents (``parse``), order (``plan``), running (``machine``).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from typing import Any

from msgspec import Struct

from core_runtime.rules.flow.values import Value

KERNEL_PREFIX = "kernel:"
STREAM_BUFFER = 16
"""How many items a handler may be ahead of its reader, where a flow does not say; what the bus lets it."""


class Layer(IntEnum):
    """Who supplied a flow. Higher layers may not touch what a lower one sealed."""

    CORE = 0
    ECOSYSTEM = 1
    USER = 2


class OnError(StrEnum):
    """``continue`` with the next step, ``fail`` the enclosing block, ``stop`` the run past every block."""

    CONTINUE = "continue"
    FAIL = "fail"
    STOP = "stop"


class OnAbsent(StrEnum):
    """What a step does that reads what a failed step should have left: it is skipped, or runs on null."""

    SKIP = "skip"
    RUN = "run"


class OnMissing(StrEnum):
    """What a call does when no handler has its name."""

    SKIP = "skip"
    FAIL = "fail"
    WAIT = "wait"


class Origin(Struct, frozen=True):
    """Where something was written. Lines and columns count from 1; 0 means unknown. ``pack``: who wrote it."""

    source: str = ""
    line: int = 0
    column: int = 0
    pack: str = ""
    layer: Layer = Layer.CORE

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}"


class Retry(Struct, frozen=True):
    """``max`` counts attempts after the first; the n-th waits ``delay_s * backoff**n``, at most ``max_delay_s``."""

    max: int
    delay_s: float = 0.0
    backoff: float = 1.0
    max_delay_s: float = 60.0
    jitter: float = 0.0
    when: Value | None = None


class Catch(Struct, frozen=True):
    """Steps that take over when the error's type matches ``error`` (a glob). ``*`` never matches a cancellation."""

    error: str
    do: tuple[Step, ...]
    when: Value | None = None
    bind: str = "error"


class Call(Struct, frozen=True):
    """Verb ``call``: a handler by name. ``kernel:`` names are the host's own, all others interface keys."""

    handler: str


class Do(Struct, frozen=True):
    """Verb ``do``: steps one after another."""

    steps: tuple[Step, ...]


class Set(Struct, frozen=True):
    """Verb ``set``: variables from values, all resolved before the first is assigned."""

    values: tuple[tuple[tuple[str, ...], Value], ...]


class Parallel(Struct, frozen=True):
    """Verb ``parallel``: done when ``wait`` branches succeeded (0 = all of them); the others are cancelled then."""

    branches: tuple[tuple[str, tuple[Step, ...]], ...]
    wait: int = 0
    max: int = 0


class Case(Struct, frozen=True):
    """One arm of ``choose``; ``when`` is None for the default."""

    when: Value | None
    do: tuple[Step, ...]


class Choose(Struct, frozen=True):
    """Verb ``choose``: the first arm whose condition holds."""

    cases: tuple[Case, ...]


class Each(Struct, frozen=True):
    """Verb ``each``: the steps once per item of a list or per entry of a map, up to ``parallel`` at a time.

    ``handler``: instead of ``source``, whose items are gone through as they come, called with ``args``.
    """

    source: Value
    do: tuple[Step, ...]
    bind: str = "item"
    at: str = "index"
    parallel: int = 1
    proceed: Value | None = None
    collect: Value | None = None
    handler: str = ""
    args: Value | None = None


class Loop(Struct, frozen=True):
    """Verb ``loop``: the steps while ``proceed`` holds and until ``until`` does, at most ``max`` times.

    ``at``: the variable that holds the number of the pass, from 0, before ``proceed`` is asked; ``""`` for none.
    """

    do: tuple[Step, ...]
    max: int
    proceed: Value | None = None
    until: Value | None = None
    at: str = ""


class Subflow(Struct, frozen=True):
    """Verb ``flow``: another flow, with the step's ``with`` as its input; its output is the value."""

    flow: str


class Wait(Struct, frozen=True):
    """Verb ``wait``: for a time, for an event whose payload matches, or until an instant. Exactly one is set."""

    delay_s: float | None = None
    event: str = ""
    match: Value | None = None
    until: Value | None = None


class Emit(Struct, frozen=True):
    """Verb ``emit``: publish the step's ``with`` under a topic."""

    topic: Value


class Yield(Struct, frozen=True):
    """Verb ``yield``: hand one item to whoever reads the run's stream, and wait until it was taken."""

    value: Value


class Return(Struct, frozen=True):
    """Verb ``return``: end the flow here with this output; ``finally`` runs."""

    value: Value


class Fail(Struct, frozen=True):
    """Verb ``fail``: fail the step with an error of the document's own."""

    type: Value
    title: Value
    detail: Value
    retryable: Value


class Construct(Struct, frozen=True):
    """A control structure that a Pack supplies: ``<pack>:<name>``, registry key ``flow.construct.<name>``.

    ``pack`` empty: whoever owns the key. ``do`` is run as often as the construct calls the function that it gets for
    that.
    """

    pack: str
    name: str
    config: Value
    do: tuple[Step, ...] = ()


Action = (
    Call | Do | Set | Parallel | Choose | Each | Loop | Subflow | Wait | Emit | Yield | Return | Fail | Construct
)


class Stream(Struct, frozen=True):
    """Adverb ``stream``: the handler's items one by one, as ``item``.

    ``produce``: what of each goes to the run's stream; ``collect``: the next ``acc`` from ``acc`` and ``item``, from
    ``start`` on; ``bind``: where the last ``acc`` goes (else it is the step's value); ``buffer``: items ahead.
    """

    produce: Value | None = None
    collect: Value | None = None
    start: Value | None = None
    bind: tuple[str, ...] = ()
    buffer: int = STREAM_BUFFER


class Step(Struct, frozen=True):
    """One verb with its adverbs. ``None`` adverbs are inherited: step > block > phase > flow > kernel default.

    ``acts_as``: the Packs that supplied it; it may do what every one of them may. Empty: the host's or the operator's.
    """

    id: str
    path: str
    action: Action
    origin: Origin = Origin()
    acts_as: tuple[str, ...] = ()
    about: str = ""
    phase: str = ""
    order: int = 0
    needs: tuple[str, ...] = ()
    when: Value | None = None
    args: Value | None = None
    bind: tuple[str, ...] = ()
    default: Value | None = None
    timeout_s: float | None = None
    idle_s: float | None = None
    retry: Retry | None = None
    on_error: OnError | None = None
    on_missing: OnMissing | None = None
    catch: tuple[Catch, ...] = ()
    finally_: tuple[Step, ...] = ()
    once: Value | None = None
    stream: Stream | None = None
    enabled: bool = True
    sealed: bool = False
    tags: tuple[str, ...] = ()


class Phase(Struct, frozen=True):
    """A named stretch of the flow. ``sealed``: no other layer may touch it, and it fails closed."""

    name: str
    on_error: OnError | None = None
    sealed: bool = False


class Defaults(Struct, frozen=True):
    """Flow-wide adverbs. ``flow_control``: a handler's answer ``{__flow_control: abort, reason}`` ends the flow."""

    on_error: OnError | None = None
    on_missing: OnMissing | None = None
    on_absent: OnAbsent = OnAbsent.SKIP
    flow_control: bool = False
    timeout_s: float | None = None
    retry: Retry | None = None


class FlowLimits(Struct, frozen=True):
    """Bounds of one run. ``depth`` counts flows within flows, ``parallel`` what runs side by side in one block.

    ``recursion``: how often the flow may run within itself, None for as often as ``depth`` allows.
    """

    wall_s: float | None = None
    steps: int = 10_000
    depth: int = 8
    parallel: int = 64
    output_bytes: int = 1024 * 1024
    recursion: int | None = None


class Journal(StrEnum):
    """What of a run is kept: nothing, in memory, in a file, or in a file that is synced after each step."""

    NONE = "none"
    MEMORY = "memory"
    FILE = "file"
    SYNC = "sync"


class Overlap(StrEnum):
    """What a new run does while one with the same key runs: is refused, replaces it, waits, or runs beside it."""

    SINGLE = "single"
    RESTART = "restart"
    QUEUE = "queue"
    PARALLEL = "parallel"


class Concurrency(Struct, frozen=True):
    """Runs that share ``key`` follow ``mode``; of ``parallel`` ones at most ``max`` run at a time."""

    key: Value | None = None
    mode: Overlap = Overlap.PARALLEL
    max: int = 0


class Trigger(Struct, frozen=True):
    """What starts a run by itself: an event whose payload matches, or a schedule. ``input``: of ``event``, or fixed."""

    event: str = ""
    match: Value | None = None
    every_s: float | None = None
    cron: str = ""
    input: Value | None = None


class Flow(Struct, frozen=True):
    """One flow document. ``spread``: a map of which each entry is a variable, before ``variables``."""

    id: str
    steps: tuple[Step, ...]
    version: str = ""
    about: str = ""
    extends: str = ""
    phases: tuple[Phase, ...] = ()
    defaults: Defaults = Defaults()
    limits: FlowLimits = FlowLimits()
    variables: tuple[tuple[str, Value], ...] = ()
    spread: Value | None = None
    input: Mapping[str, Any] | None = None
    output: Value | None = None
    concurrency: Concurrency = Concurrency()
    journal: Journal = Journal.NONE
    triggers: tuple[Trigger, ...] = ()
    catch: tuple[Catch, ...] = ()
    finally_: tuple[Step, ...] = ()
    sealed: bool = False
    tags: tuple[str, ...] = ()
    origin: Origin = Origin()
    layer: Layer = Layer.CORE

    def phase(self, name: str) -> Phase:
        """The phase of that name; a phase without properties when the flow names none."""
        return next((phase for phase in self.phases if phase.name == name), Phase(name))

    def is_journalled(self) -> bool:
        """Whether its runs can be resumed."""
        return self.journal in {Journal.FILE, Journal.SYNC}

    def is_sealed(self) -> bool:
        """Whether any part of it is closed to other layers."""
        return self.sealed or any(p.sealed for p in self.phases) or any(s.sealed for s in self.steps)

    def own_blocks(self) -> tuple[tuple[Step, ...], ...]:
        """The flow's steps, and those of its own ``catch`` and ``finally``."""
        return (self.steps, *(catch.do for catch in self.catch), self.finally_)

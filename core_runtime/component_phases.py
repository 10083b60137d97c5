"""One component's files, run inside its sandbox one after another, and what came of each.

Not here: when a component may run and what becomes of it (``component_lifecycle``), the frames (``bus.sessions``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from backend_core.errors import RumiError, quote
from core_runtime.diagnostics import Diagnostics
from core_runtime.rules.component_work import Work

MISSING_FILE = "missing_file"
Failure: TypeAlias = tuple[str, Mapping[str, Any]]
"""A sentence, and the evidence."""


class PhaseSpec(Struct, frozen=True):
    """One phase as the flow declares it: the file that each component may have for it, and its time limit."""

    name: str
    file: str
    timeout_s: float = 20.0


class PhaseOutcome(Protocol):
    """What the bus reports of one phase of one component."""

    @property
    def ok(self) -> bool: ...
    @property
    def error(self) -> Any: ...
    @property
    def registered(self) -> Iterable[str]: ...


class PhaseSession(Protocol):
    """The part of a bus session that this module uses."""

    @property
    def pack_id(self) -> str: ...
    @property
    def generation(self) -> int: ...

    async def run_phase(
        self, component: Mapping[str, Any], file: str, context: Mapping[str, Any], timeout_s: float
    ) -> PhaseOutcome: ...


class PhaseRunner:
    """Runs files and records how each went."""

    def __init__(
        self, diagnostics: Diagnostics, *, clock: Callable[[], float], mounts: Callable[[], Mapping[str, str]]
    ) -> None:
        self._diagnostics = diagnostics
        self._clock = clock
        self._mounts = mounts

    async def run_all(
        self, session: PhaseSession, work: Work, runs: Iterable[tuple[PhaseSpec, str, str]], registered: list[str]
    ) -> Failure | None:
        """All of ``(phase, file, key of a handler file)`` up to the first that fails; ``registered`` grows by keys."""
        for phase, file, register in runs:
            failure = await self._run(session, work, phase, file, register, registered)
            if failure is not None:
                return failure
        return None

    async def reload(self, session: PhaseSession, work: Work, word: str, timeout_s: float) -> Failure | None:
        """Tell the sandbox ``begin``, ``keep`` or ``undo`` of a reload: what is asked as a phase without a file."""
        return await self._run(session, work, PhaseSpec(f"reload: {word}", "", timeout_s), "", "", [], word)

    async def _run(
        self, session: PhaseSession, work: Work, phase: PhaseSpec, file: str, register: str, registered: list[str],
        again: str = "",
    ) -> Failure | None:  # fmt: skip
        """None when it went well, else a sentence and the evidence."""
        context = {
            "phase": phase.name, "ts": self._clock(), "mounts": dict(self._mounts()), "register": register or None,
            **({"reload": again} if again else {}),
        }  # fmt: skip
        error: Mapping[str, Any] | None
        try:
            outcome = await session.run_phase(work.component, file, context, phase.timeout_s)
            registered.extend(outcome.registered)
            error = None if outcome.ok else _error_data(outcome.error)
        except RumiError as exc:
            error = {"type": exc.code, "title": exc.title, "detail": exc.detail, "trace": getattr(exc, "trace", "")}
        status = "success"
        if error is not None:
            # a component need not have a file for every phase that the flow names
            status = "skipped" if error["type"] == MISSING_FILE and not register and not again else "failed"
        self._diagnostics.record(
            phase=phase.name, status=status, step_id=file, target={"kind": "component", "id": work.unit.full_id},
            error={"type": error["type"], "message": error["title"]} if error and status == "failed" else None,
            meta={"pack_id": session.pack_id, "generation": session.generation},
        )  # fmt: skip
        if error is None or status == "skipped":
            return None
        title = quote(error["title"], 200)
        if again:
            why = "its agent knows no reload; reload the whole Pack" if error["type"] == MISSING_FILE else title
            return f"{phase.name}: {why}", {**error, "phase": phase.name, "file": file}
        return f"{file} failed in phase {phase.name}: {error['type']}: {title}", {
            **error,
            "phase": phase.name,
            "file": file,
        }


def _error_data(error: Any) -> dict[str, Any]:
    """The wire's ``[type, title, detail, retryable, trace]``, or an object with these names, as bounded text."""
    names = ("type", "title", "detail", "retryable", "trace")
    if isinstance(error, list | tuple):
        values = dict(zip(names, error, strict=False))
    else:
        values = {name: getattr(error, name, "") for name in names}
    limits = {"type": 200, "title": 500, "detail": 2_000, "trace": 8_000}
    return {name: str(values.get(name) or "")[:limit] for name, limit in limits.items()}

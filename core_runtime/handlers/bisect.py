"""Use case "bisect": which Pack breaks a call. Packs are stopped and started again; the call is made in between.

Invariants:
  * A Pack is only ever started as its operator would start it (``packs.start``): approved, verified, isolated.
  * Nothing is written: which Packs are held off is known to this process only, and every approved Pack starts with
    the host. So a crash at any moment leaves nothing to be put back.
  * However it ends, also when who asked is gone, what was held off is started again; but not what the operator
    started, stopped or decided about meanwhile (``Host.held_off``).
  * A Pack that could not be started again as it runs now (its files were changed) is never stopped.

Not here: which trial is next (``rules.bisect``).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from msgspec import Struct, field

from backend_core.ecosystem.json_patch import equal
from backend_core.errors import ConflictError, NotFoundError, RumiError, quote
from core_runtime.handlers import packs, starting
from core_runtime.handlers.host import Host
from core_runtime.handlers.interfaces import call
from core_runtime.rules.approval import State
from core_runtime.rules.bisect import Search, closure, in_order
from core_runtime.rules.shown import encode, plain

REPEAT: Final = 3
CALL_S: Final = 20.0
START_S: Final = 60.0
ITEMS: Final = 1_000
ITEMS_BYTES: Final = 4 * 1024 * 1024
"""Items of a stream that count for an outcome, and what they may come to as JSON; what is behind is not waited for."""
_T = TypeVar("_T")
ANY: Final = object()
"""No result is expected: every one is good, every error bad."""


class Question(Struct, frozen=True):
    """A call, how often it is made in each trial, and what is good: no error, or just one result."""

    key: str
    args: Any = None
    repeat: int = REPEAT
    timeout_s: float = CALL_S
    expect: Any = ANY


class Trial(Struct):
    """What ran beside the provider, and how often the call failed then. ``error``: the first failure."""

    running: list[str]
    calls: int = 0
    failed: int = 0
    error: dict[str, Any] | None = None
    not_started: list[str] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        """Whether the call failed at least once: what fails now and then is broken."""
        return self.failed > 0


async def bisect(host: Host, question: Question, *, actor: str = "operator") -> dict[str, Any]:
    """Find the Packs; raises ``NotFoundError`` for a key that nobody provides and ``ConflictError`` beside another."""
    host.require_evidence()
    if host.bisecting:
        raise ConflictError(
            "Another bisect is under way", code="busy", detail="Two would stop each other's Packs.",
            hint="Wait for its end, or end it where it was started.",
        )  # fmt: skip
    host.bisecting = True
    run = _Run(host, question)
    try:
        await asyncio.to_thread(host.audit.append, "bisect.begun", actor=actor, key=question.key)
        report = await run.search()
    finally:
        # who asked may be gone: a task of its own puts everything back
        await asyncio.shield(host.in_background(_end(host, run, actor), "the end of a bisect"))
    return {**report, "not_restored": run.not_restored}


async def _end(host: Host, run: _Run, actor: str) -> None:
    try:
        await run.restore()
    finally:
        host.held_off.clear()
        host.bisecting = False
        await asyncio.to_thread(
            host.audit.append, "bisect.ended", actor=actor, key=run.question.key, found=list(run.found),
            not_restored=sorted(run.not_restored),
        )  # fmt: skip


class _Run:
    """One search on the running host."""

    def __init__(self, host: Host, question: Question) -> None:
        self.question = question
        self.found: tuple[str, ...] = ()
        self.not_restored: dict[str, str] = {}
        self._host = host
        self._trials: list[Trial] = []
        self._starts = 0
        self._order: tuple[str, ...] = ()
        """Packs that may be stopped and the provider's own, each after what it needs."""
        self._needs: Mapping[str, frozenset[str]] = {}
        self._own: frozenset[str] = frozenset()
        self._afresh = False

    async def search(self) -> dict[str, Any]:
        """The report."""
        provider = self._provider()
        await self._look(provider)
        others = [name for name in self._order if name not in self._own]
        as_it_is = await self._trial(others)
        if not as_it_is.bad:
            return self._report("works", provider)
        if not await self._good_alone():
            return self._report("own", provider)
        search = Search(others)
        while not search.done:
            search.tell(bad=(await self._trial(search.trial())).bad)
        self.found = search.found
        together = await self._trial(self.found)
        without = await self._trial(name for name in others if name not in self.found)
        return self._report("found" if together.bad and not without.bad else "unsure", provider)

    async def restore(self) -> None:
        """Start what is still held off."""
        for pack_id in [name for name in self._order if name in self._host.held_off]:
            why = await self._start(pack_id)
            if why:
                self.not_restored[pack_id] = why
                self._host.diagnostics.issue(
                    starting.START_FAILED, "error", pack_id,
                    f"The Pack {pack_id} did not start again after a bisect", why,
                    f"Correct the cause, then: rumi container start {pack_id}",
                )  # fmt: skip

    def _provider(self) -> str:
        key = self.question.key
        last = self._host.registry.resolve(key)
        provider = self._host.registry.owner(key) or (last.pack if last else "")
        if not provider:
            raise NotFoundError(
                "No Pack provides this", detail=f"{quote(key)} is registered by none.", hint="rumi interface list"
            )
        return provider

    async def _look(self, provider: str) -> None:
        """Which Packs run, and what each needs of the others."""
        host = self._host
        running = {
            found.pack_id: found.metadata
            for found in await packs.list_packs(host)
            if found.state is State.RUNNING and found.metadata is not None
        }
        needs: dict[str, frozenset[str]] = {}
        for pack_id, metadata in running.items():
            keys = {
                key
                for links in (metadata.connectivity, *(c.connectivity for c in metadata.components))
                for key in links.requires
            }
            owners = {host.registry.owner(key) or "" for key in keys}
            needs[pack_id] = frozenset((owners | metadata.dependencies.keys()) & running.keys()) - {pack_id}
        self._needs = needs
        self._own = closure([provider], needs) & running.keys()
        self._order = in_order(running, needs)

    async def _good_alone(self) -> bool:
        """Whether the call is good while nothing but the provider and what it needs runs; started afresh if need be.

        What another Pack did may outlive it inside the provider. Then each trial starts all of its Packs anew.
        """
        if not (await self._trial(())).bad:
            return True
        self._afresh = True
        return not (await self._trial(())).bad

    async def _trial(self, chosen: Iterable[str]) -> Trial:
        """Run just these and what they need, beside the provider's own; make the call."""
        wanted = closure(chosen, self._needs) | self._own
        trial = Trial([name for name in self._order if name in wanted - self._own])
        for name in reversed(self._order):
            if name not in wanted or self._afresh:
                await self._whole(self._stop(name))
        for name in self._order:
            if name in wanted and name in self._host.held_off:
                why = await self._whole(self._start(name))
                if why:
                    trial.not_started.append(name)
        await self._host.lifecycle.settled()
        await self._calls(trial)
        self._trials.append(trial)
        return trial

    async def _calls(self, trial: Trial) -> None:
        for _ in range(self.question.repeat):
            trial.calls += 1
            error = await self._call()
            if error is not None:
                trial.failed += 1
                trial.error = trial.error or error

    async def _call(self) -> dict[str, Any] | None:
        """Why the call is bad; None when it is good."""
        question = self.question
        try:
            async with asyncio.timeout(question.timeout_s + 1):
                result = await call(self._host, question.key, question.args, question.timeout_s)
                found = await _collected(result) if isinstance(result, AsyncIterator) else plain(result)
        except RumiError as error:
            return {"code": error.code, "title": quote(error.title, 200), "detail": quote(error.detail, 500)}
        except TimeoutError:
            return {"code": "timeout", "title": "It took too long", "detail": f"more than {question.timeout_s:g} s"}
        if question.expect is ANY or equal(found, question.expect):
            return None
        return {"code": "unexpected", "title": "Another result than expected", "detail": quote(str(found), 500)}

    async def _whole(self, work: Coroutine[Any, Any, _T]) -> _T:
        """A stop or start is done to its end before a cancellation counts, so that it is known what runs."""
        task = asyncio.ensure_future(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            raise

    async def _stop(self, pack_id: str) -> None:
        host = self._host
        async with host.exclusively(pack_id):
            if starting.is_running(host, pack_id) and pack_id not in host.held_off and await self._startable(pack_id):
                await starting.stop_one(host, pack_id, reason="held off by a bisect")
                host.held_off.add(pack_id)

    async def _startable(self, pack_id: str) -> bool:
        """Whether it could be started again: looked at now, since its files may have changed."""
        [now] = await asyncio.to_thread(self._host.approvals.scan, pack_id)
        return now.state is State.RUNNING

    async def _start(self, pack_id: str) -> str:
        """Start one that is held off; why that failed, "" when it serves or is no matter of ours any more."""
        if pack_id not in self._host.held_off:
            return ""
        self._starts += 1
        try:
            async with asyncio.timeout(START_S):
                await packs.start(self._host, pack_id)
        except RumiError as error:
            why = str(error)[:300]
        except TimeoutError:
            why = f"it did not start within {START_S:g} s"
        else:
            return ""
        self._host.held_off.add(pack_id)  # to be tried again at the end
        return why

    def _report(self, verdict: str, provider: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "key": self.question.key,
            "verdict": verdict,
            "provider": provider,
            "packs": sorted(self._own) if verdict == "own" else list(self.found),
            "trials": [
                {
                    "running": trial.running, "calls": trial.calls, "failed": trial.failed, "error": trial.error,
                    "not_started": trial.not_started,
                }
                for trial in self._trials
            ],
            "starts": self._starts,
            "afresh": self._afresh,
            "flaky": any(0 < trial.failed < trial.calls for trial in self._trials),
        }  # fmt: skip
        concealed: dict[str, Any] = self._host.redactions.hide_any_in(found)
        return concealed


async def _collected(items: AsyncIterator[Any]) -> list[Any]:
    found: list[Any] = []
    left = ITEMS_BYTES
    try:
        async for item in items:
            shown = plain(item)
            left -= len(encode(shown))
            if left < 0:
                break
            found.append(shown)
            if len(found) >= ITEMS:
                break
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
    return found

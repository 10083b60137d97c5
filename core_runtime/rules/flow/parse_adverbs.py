"""Adverbs of a step that have words of their own: ``timeout``, ``stream``, ``retry``, ``catch``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse_scalars import Path, Reading

MAX_BUFFER = 1024


@dataclass(slots=True)
class Adverbs(Reading, ABC):
    """See the module."""

    @abstractmethod
    def steps(self, raw: Any, at: Path, parent: str) -> tuple[model.Step, ...]:
        """A list of steps below the step path ``parent``."""

    def _timeout(self, raw: Mapping[str, Any], at: Path) -> float | None:
        if not isinstance(raw.get("timeout"), Mapping):
            return self._duration(raw, at, "timeout")
        entry = raw["timeout"]
        self._vocabulary(entry, (*at, "timeout"), {"total", "idle"}, "timeout")
        return self._duration(entry, (*at, "timeout"), "total")

    def _idle(self, raw: Mapping[str, Any], at: Path) -> float | None:
        if not isinstance(raw.get("timeout"), Mapping) or "idle" not in raw["timeout"]:
            return None
        if "stream" not in raw:
            self.problem((*at, "timeout", "idle"), "idle is the time between two items of a stream; this step has none")
        return self._duration(raw["timeout"], (*at, "timeout"), "idle")

    def _stream(self, raw: Any, at: Path) -> model.Stream | None:
        if raw is None:
            return None
        entry = self._map({} if raw is True else raw, at)
        self._vocabulary(entry, at, {"yield", "collect", "start", "as", "buffer"}, "stream")
        return model.Stream(
            self._optional(entry, at, "yield"), self._optional(entry, at, "collect"),
            self._optional(entry, at, "start"),
            self._target(entry["as"], (*at, "as")) if "as" in entry else (),
            self._count(entry, at, "buffer", model.STREAM_BUFFER, MAX_BUFFER),
        )  # fmt: skip

    def _retry(self, raw: Any, at: Path) -> model.Retry | None:
        if raw is None:
            return None
        entry = self._map({"max": raw} if isinstance(raw, int) else raw, at)
        self._vocabulary(entry, at, {"max", "delay", "backoff", "max_delay", "jitter", "when"}, "retry")
        limit = self._duration(entry, at, "max_delay")
        return model.Retry(
            max=self._count(entry, at, "max", 0, 100),
            delay_s=self._duration(entry, at, "delay") or 0.0,
            backoff=self._number(entry, at, "backoff", 1.0, 1.0, 100.0),
            max_delay_s=60.0 if limit is None else limit,
            jitter=self._number(entry, at, "jitter", 0.0, 0.0, 1.0),
            when=self._condition(entry, at, "when"),
        )

    def _catches(self, raw: Any, at: Path, path: str) -> tuple[model.Catch, ...]:
        found = []
        for index, item in enumerate(self._list(raw, at)):
            here: Path = (*at, index)
            entry = self._map(item, here)
            self._vocabulary(entry, here, {"error", "when", "as", "do"}, "catch")
            bind = self._target(entry.get("as", "error"), (*here, "as"))
            below = f"{path}/catch{index}" if path else f"catch{index}"
            found.append(
                model.Catch(
                    error=self._text(entry, here, "error") or "*",
                    do=self.steps(entry.get("do", []), (*here, "do"), below),
                    when=self._condition(entry, here, "when"),
                    bind=bind[0] if bind else "error",
                )
            )
        return tuple(found)

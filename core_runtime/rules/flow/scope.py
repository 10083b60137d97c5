"""Variables of a run. A block writes to a scope of its own, merged into its surroundings when it succeeds. Pure.

Invariant: what a failed step should have written is *absent*: reading it raises ``Upstream``, so that no step runs on
null by mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from core_runtime.rules.flow.values import walk


class Upstream(Exception):  # noqa: N818  (a signal between two functions of the engine)
    """A value reads something that a failed step did not leave behind."""

    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self.name = name
        self.path = path


class Scope:
    """Variables of a block: what it wrote itself over what its surroundings hold."""

    __slots__ = ("absent", "outer", "own")

    def __init__(self, values: Mapping[str, Any] | None = None, outer: Scope | None = None) -> None:
        self.own: dict[str, Any] = dict(values or {})
        self.absent: dict[str, str | None] = {}
        self.outer = outer

    def inner(self, values: Mapping[str, Any] | None = None) -> Scope:
        """A scope whose writes stay its own until they are merged."""
        return Scope(values, self)

    def lookup(self, path: tuple[str, ...]) -> Any:
        """The value at ``path``; raises ``Upstream`` when a failed step owes it."""
        scope: Scope | None = self
        name = path[0]
        while scope is not None:
            owed = scope.absent.get(name)
            if owed is not None:
                raise Upstream(name, owed)
            if name in scope.own:
                found = scope.own[name]
                return walk(found, path[1:]) if len(path) > 1 else found
            scope = scope.outer
        return None

    def assign(self, path: tuple[str, ...], value: Any) -> None:
        """Set ``path``; maps on the way are copied, so nobody else's value changes."""
        if len(path) > 1:
            value = _with(self._current(path[0]), path[1:], value)
        self.own[path[0]] = value
        self.absent[path[0]] = None

    def owe(self, path: tuple[str, ...], step_path: str) -> None:
        """Mark what ``step_path`` should have written."""
        self.absent[path[0]] = step_path

    def merge(self, inner: Scope, *, without: Iterable[str] = ()) -> None:
        """Take over what an inner scope wrote, except its own loop variables."""
        hidden = frozenset(without)
        for name, value in inner.own.items():
            if name not in hidden:
                self.own[name] = value
        for name, owed in inner.absent.items():
            if name not in hidden:
                self.absent[name] = owed

    def flat(self) -> dict[str, Any]:
        """Everything that is visible here."""
        return {**(self.outer.flat() if self.outer else {}), **self.own}

    def _current(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return None


def _with(current: Any, path: tuple[str, ...], value: Any) -> dict[str, Any]:
    copy = dict(current) if isinstance(current, Mapping) else {}
    copy[path[0]] = _with(copy.get(path[0]), path[1:], value) if len(path) > 1 else value
    return copy

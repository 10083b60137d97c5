"""A modifier: somebody's changes to a flow that is not theirs, read from a document. Pure.

Words: ``modify`` (flow id, glob or list) · ``id`` · ``about`` · ``priority`` (0–1000; smaller is earlier and wraps
further out) · ``order {after, before}`` · ``requires {interfaces, flow_version}`` · ``conflicts`` · ``if_missing``
(``skip``, ``append``, ``fail``) · ``enabled`` · ``x`` · ``ops``: ``insert``, ``wrap``, ``patch``, ``replace``,
``remove``.

Invariants:
  * Nothing is ignored: an unknown word is a problem with its place and a suggestion; all problems are reported at once.
  * The steps that a modifier brings are checked here as steps; what they do to a flow is ``compose``'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from msgspec import Struct

from backend_core.ecosystem.json_patch import PatchError, parse_pointer
from backend_core.ecosystem.versions import is_version_range
from backend_core.errors import quote
from core_runtime.rules.flow import model
from core_runtime.rules.flow.parse import step_problems
from core_runtime.rules.flow.parse_scalars import Path, Problem, Where, invalid, suggestion

MAX_OPS = 100
MAX_TARGETS = 64
MAX_PRIORITY = 1000
DEFAULT_PRIORITY = 100
WORDS = frozenset(
    {"modify", "id", "about", "priority", "order", "requires", "conflicts", "if_missing", "enabled", "x", "ops"}
)
PLACES = ("before", "after", "first_in", "last_in")
PATCH_VERBS = frozenset({"add", "remove", "replace", "test"})

_ID = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z][a-z0-9_-]*){0,7}\Z")
_TARGET = re.compile(r"[a-z*?][a-z0-9_.*?-]{0,127}\Z")
_SELECTOR = re.compile(r"(?:/|@(?:handler|tag|alias|phase):[^\s]{1,200}|[a-z0-9_-]+(?:/[a-z0-9_-]+)*)\Z")


class IfMissing(StrEnum):
    """What a modifier does when a step that it names is not there."""

    SKIP = "skip"
    APPEND = "append"
    FAIL = "fail"


class Insert(Struct, frozen=True):
    """Steps at ``place`` (one of ``PLACES``) of the target. ``at``: where they were written."""

    place: str
    target: str
    steps: tuple[Mapping[str, Any], ...]
    at: Path


class Wrap(Struct, frozen=True):
    """Neighbouring steps put into one block with adverbs of its own; ``own`` may carry ``loop`` or ``each``."""

    targets: tuple[str, ...]
    own: Mapping[str, Any]
    at: Path


class Patch(Struct, frozen=True):
    """JSON Patch on a step's own words."""

    target: str
    operations: tuple[Mapping[str, Any], ...]


class Replace(Struct, frozen=True):
    """Another step in the place of one."""

    target: str
    step: Mapping[str, Any]
    at: Path


class Remove(Struct, frozen=True):
    """A step less; its place stays known to others."""

    target: str


Op = Insert | Wrap | Patch | Replace | Remove


@dataclass(frozen=True, slots=True)
class Modifier:
    """One modifier. ``pack`` is who supplied it, ``""`` for the host and the operator.

    ``style``: the older one that it was translated from, ``""`` for none; ``written``: the document that was read.
    """

    id: str
    targets: tuple[str, ...]
    ops: tuple[Op, ...]
    pack: str = ""
    layer: model.Layer = model.Layer.ECOSYSTEM
    priority: int = DEFAULT_PRIORITY
    after: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()
    flow_version: str = ""
    conflicts: tuple[str, ...] = ()
    if_missing: IfMissing = IfMissing.SKIP
    enabled: bool = True
    about: str = ""
    source: str = ""
    where: Where = field(default=lambda _path: (0, 0), compare=False)
    style: str = ""
    written: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def name(self) -> str:
        """What diagnostics call it."""
        return f"{self.pack}:{self.id}" if self.pack else self.id

    def origin(self, at: Path) -> model.Origin:
        """Where a part of it was written."""
        return model.Origin(self.source, *self.where(at), self.pack, self.layer)


def parse_modifier(
    document: Any,
    *,
    source: str,
    where: Where = lambda _path: (0, 0),
    layer: model.Layer = model.Layer.ECOSYSTEM,
    pack: str = "",
) -> Modifier:
    """Understand one modifier document, or raise ``AuthorError`` (code ``flow_invalid``) with ``fields.problems``."""
    reader = _Reader(source, where, pack)
    found = reader.modifier(document, layer)
    if found is None or reader.problems:
        raise invalid(source, reader.problems)
    return found


@dataclass(slots=True)
class _Reader:
    source: str
    where: Where
    pack: str
    problems: list[Problem] = field(default_factory=list)

    def problem(self, at: Path, text: str) -> None:
        place = model.Origin(self.source, *self.where(at), self.pack)
        self.problems.append(Problem(text, place, "/".join(map(str, at))))

    def modifier(self, document: Any, layer: model.Layer) -> Modifier | None:
        if not isinstance(document, Mapping):
            self.problem((), f"expected a map with the words modify, id and ops, got {quote(document, 60)}")
            return None
        self._words(document, (), WORDS, "a modifier")
        order = self._map(document, (), "order", {"after", "before"})
        requires = self._map(document, (), "requires", {"interfaces", "flow_version"})
        return Modifier(
            id=self._text(document, (), "id", _ID, "dotted lower-case words, as in guard.screen"),
            targets=self._texts(document, (), "modify", _TARGET, "flow ids or patterns of them", least=1),
            ops=self._ops(document.get("ops")),
            pack=self.pack,
            layer=layer,
            priority=self._priority(document.get("priority", DEFAULT_PRIORITY)),
            after=self._texts(order, ("order",), "after", _ID, "ids of modifiers"),
            before=self._texts(order, ("order",), "before", _ID, "ids of modifiers"),
            interfaces=self._texts(requires, ("requires",), "interfaces", None, "interface keys"),
            flow_version=self._range(requires),
            conflicts=self._texts(document, (), "conflicts", _ID, "ids of modifiers"),
            if_missing=self._if_missing(document.get("if_missing", "skip")),
            enabled=self._flag(document.get("enabled", True)),
            about=str(document.get("about", ""))[:500],
            source=self.source,
            where=self.where,
        )

    # -- operations --------------------------------------------------------------------------------------------------

    def _ops(self, raw: Any) -> tuple[Op, ...]:
        if not isinstance(raw, list) or not 1 <= len(raw) <= MAX_OPS:
            self.problem(("ops",), f"expected a list of 1 to {MAX_OPS} operations, got {quote(raw, 60)}")
            return ()
        return tuple(op for index, item in enumerate(raw) if (op := self._op(item, ("ops", index))) is not None)

    def _op(self, raw: Any, at: Path) -> Op | None:
        readers = {
            "insert": self._insert, "wrap": self._wrap, "patch": self._patch, "replace": self._replace,
            "remove": self._remove,
        }  # fmt: skip
        verbs = [verb for verb in readers if isinstance(raw, Mapping) and verb in raw]
        if len(verbs) != 1:
            words = [str(word) for word in raw] if isinstance(raw, Mapping) else []
            meant = next(filter(None, (suggestion(word, readers) for word in words)), "")
            self.problem(at, f"expected a map with one of {', '.join(readers)}, got {quote(raw, 60)}.{meant}")
            return None
        return readers[verbs[0]](raw, at)

    def _insert(self, raw: Mapping[str, Any], at: Path) -> Op:
        self._words(raw, at, {"insert", "steps"}, "insert")
        place = self._map(raw, at, "insert", PLACES)
        words = [word for word in PLACES if word in place]
        if len(words) != 1:
            self.problem((*at, "insert"), f"expected one of {', '.join(PLACES)}, got {quote(raw['insert'], 60)}")
            return Remove("")
        steps = raw.get("steps")
        if not isinstance(steps, list) or not steps:
            self.problem((*at, "steps"), f"expected a list of steps, got {quote(steps, 60)}")
            steps = []
        self._steps(steps, lambda path: (*at, "steps", *path))
        return Insert(words[0], self._selector(place[words[0]], (*at, "insert")), tuple(steps), (*at, "steps"))

    def _wrap(self, raw: Mapping[str, Any], at: Path) -> Op:
        self._words(raw, at, {"wrap", "with"}, "wrap")
        targets = raw["wrap"] if isinstance(raw["wrap"], list) else [raw["wrap"]]
        if not 1 <= len(targets) <= MAX_TARGETS:
            self.problem((*at, "wrap"), f"expected 1 to {MAX_TARGETS} steps")
        own = raw.get("with", {})
        if not isinstance(own, Mapping):
            self.problem((*at, "with"), f"expected a map of adverbs, got {quote(own, 60)}")
            own = {}
        refused = sorted(own.keys() & {"call", "do", "set", "parallel", "choose", "phase", "order", "needs"})
        for word in refused:
            self.problem((*at, "with", word), f"{word!r} has no place around other steps; each and loop have")
        if not refused:
            trial = {**own, "do": [{"set": {"wrapped": 1}}]}
            self._steps([trial], lambda path: (*at, "with", *path[1:]))
        named = tuple(self._selector(target, (*at, "wrap", index)) for index, target in enumerate(targets))
        return Wrap(named, own, (*at, "with"))

    def _patch(self, raw: Mapping[str, Any], at: Path) -> Op:
        self._words(raw, at, {"patch", "json_patch"}, "patch")
        operations = raw.get("json_patch")
        if not isinstance(operations, list) or not 1 <= len(operations) <= MAX_OPS:
            self.problem((*at, "json_patch"), f"expected a list of operations, got {quote(operations, 60)}")
            operations = []
        for index, operation in enumerate(operations):
            self._patch_operation(operation, (*at, "json_patch", index))
        return Patch(self._selector(raw["patch"], (*at, "patch")), tuple(operations))

    def _patch_operation(self, operation: Any, at: Path) -> None:
        verb = operation.get("op") if isinstance(operation, Mapping) else None
        if not isinstance(verb, str) or verb not in PATCH_VERBS:
            self.problem(at, f"expected one of {', '.join(sorted(PATCH_VERBS))} under op, got {quote(verb, 40)}")
            return
        try:
            pointer = parse_pointer(operation.get("path"))
        except PatchError as error:
            self.problem(at, error.detail)
            return
        if not pointer or pointer[0] in {"id", "sealed", "phase", "order"}:
            self.problem(at, "a step's id, phase, order and seal, and the step as a whole, are not patched: replace it")

    def _replace(self, raw: Mapping[str, Any], at: Path) -> Op:
        self._words(raw, at, {"replace", "step"}, "replace")
        step = raw.get("step")
        if not isinstance(step, Mapping):
            self.problem((*at, "step"), f"expected a step, got {quote(step, 60)}")
            step = {}
        else:
            self._steps([step], lambda path: (*at, "step", *path[1:]))
        return Replace(self._selector(raw["replace"], (*at, "replace")), step, (*at, "step"))

    def _remove(self, raw: Mapping[str, Any], at: Path) -> Op:
        self._words(raw, at, {"remove"}, "remove")
        return Remove(self._selector(raw["remove"], (*at, "remove")))

    def _steps(self, steps: Any, place: Callable[[Path], Path]) -> None:
        self.problems += step_problems(steps, source=self.source, where=lambda path: self.where(place(path)))

    # -- parts -------------------------------------------------------------------------------------------------------

    def _selector(self, raw: Any, at: Path) -> str:
        if isinstance(raw, str) and _SELECTOR.match(raw):
            return raw
        self.problem(
            at, f"expected a step's path or id, @handler:, @tag:, @alias: or @phase: with a name, got {quote(raw, 60)}"
        )
        return ""

    def _words(self, entry: Mapping[Any, Any], at: Path, known: Iterable[str], what: str) -> None:
        known = frozenset(known)
        for word in entry:
            if word not in known:
                text = f"{quote(word, 60)} is not a word of {what}.{suggestion(str(word), known)}"
                self.problem((*at, str(word)), text)

    def _map(self, entry: Mapping[str, Any], at: Path, word: str, known: Iterable[str]) -> Mapping[str, Any]:
        raw = entry.get(word, {})
        if not isinstance(raw, Mapping):
            self.problem((*at, word), f"{word} expects a map, got {quote(raw, 60)}")
            return {}
        self._words(raw, (*at, word), known, word)
        return raw

    def _texts(
        self, entry: Mapping[str, Any], at: Path, word: str, pattern: re.Pattern[str] | None, expected: str,
        *, least: int = 0,
    ) -> tuple[str, ...]:  # fmt: skip
        raw = entry.get(word, [])
        items = [raw] if isinstance(raw, str) else raw
        fine = isinstance(items, list) and least <= len(items) <= MAX_TARGETS
        if fine and all(isinstance(item, str) and (pattern is None or pattern.match(item)) for item in items):
            return tuple(items)
        self.problem((*at, word), f"{word} expects {expected}, got {quote(raw, 80)}")
        return ()

    def _text(self, entry: Mapping[str, Any], at: Path, word: str, pattern: re.Pattern[str], expected: str) -> str:
        raw = entry.get(word)
        if isinstance(raw, str) and pattern.match(raw):
            return raw
        self.problem((*at, word), f"{word} expects {expected}, got {quote(raw, 60) if raw is not None else 'nothing'}")
        return ""

    def _priority(self, raw: Any) -> int:
        if isinstance(raw, int) and not isinstance(raw, bool) and 0 <= raw <= MAX_PRIORITY:
            return raw
        self.problem(("priority",), f"priority expects a whole number from 0 to {MAX_PRIORITY}, got {quote(raw, 40)}")
        return DEFAULT_PRIORITY

    def _range(self, requires: Mapping[str, Any]) -> str:
        raw = requires.get("flow_version", "")
        if isinstance(raw, str) and (not raw or is_version_range(raw)):
            return raw
        self.problem(("requires", "flow_version"), f"expected a range such as '>=1 <2', got {quote(raw, 60)}")
        return ""

    def _if_missing(self, raw: Any) -> IfMissing:
        words = [item.value for item in IfMissing]
        if raw in words:
            return IfMissing(raw)
        meant = suggestion(str(raw), words)
        self.problem(("if_missing",), f"if_missing expects {', '.join(words)}, got {quote(raw, 40)}.{meant}")
        return IfMissing.SKIP

    def _flag(self, raw: Any) -> bool:
        if not isinstance(raw, bool):
            self.problem(("enabled",), f"enabled expects true or false, got {quote(raw, 40)}")
        return raw is not False

"""JSON Pointer (RFC 6901) and JSON Patch (RFC 6902), complete, and the policy that addons are held to.

Why not a library: the maintained one compares with Python's ``==``, where ``true`` equals ``1``, and ``copy`` may
double a document at every operation; both matter when a stranger writes the patch.

Invariants:
  * A patch applies whole or not at all: the given document is never touched.
  * Equality is JSON's (RFC 6902, 4.6): numbers by the value that was written, ``true`` is not ``1``, objects without order.
  * What ``copy`` and ``add`` may build is bounded, in values and in depth: whoever walks the result may recurse.

Not here: which addon may patch what (``addon_manager``), reading files.
"""

from __future__ import annotations

import copy
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from backend_core.errors import AuthorError, quote

Pointer = tuple[str, ...]

MAX_BUILT_VALUES: Final = 200_000
"""Values that the operations of one patch may copy together; thirty ``copy`` operations could build 2^30."""

MAX_DEPTH: Final = 128
"""How deep a place may be that a patch writes to, with what it writes there; each ``copy`` could double it."""

ADDON_OPERATIONS: Final = frozenset({"add", "remove", "replace", "test"})

_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_MISSING: Final = object()


class PatchError(AuthorError):
    """A patch that can't be read or does not apply. ``code``: ``patch_invalid``, ``patch_target`` or ``patch_test``."""

    default_code = "patch_invalid"


def parse_pointer(text: object) -> Pointer:
    """The reference tokens of a JSON Pointer. Raises ``PatchError``."""
    if not isinstance(text, str) or (text and not text.startswith("/")) or re.search(r"~(?![01])", text):
        raise PatchError(
            "Not a JSON Pointer",
            detail=f'expected "" or a text that begins with "/" and has "~" only as "~0" or "~1", found {quote(text)}',
            hint='Write the path as in "/extensions/name".',
        )
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in text.split("/")[1:])


def parse_fragment(text: object) -> Pointer:
    """The reference tokens of a JSON Pointer written as a URI fragment (RFC 6901, 6). Raises ``PatchError``."""
    if not isinstance(text, str) or not text.startswith("#"):
        raise PatchError("Not a URI fragment", detail=f'expected a text that begins with "#", found {quote(text)}')
    try:
        return parse_pointer(urllib.parse.unquote(text[1:], errors="strict"))
    except UnicodeDecodeError as error:
        raise PatchError("Not a URI fragment", detail=f"expected UTF-8 behind each %, found {quote(text)}") from error


def format_pointer(pointer: Iterable[str | int]) -> str:
    """The inverse of ``parse_pointer``."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in pointer)


def resolve(document: Any, pointer: str) -> Any:
    """The value at ``pointer``. Raises ``PatchError`` (``patch_target``) when there is none."""
    value = document
    for part in parse_pointer(pointer):
        value = _child(value, part, pointer)
    return value


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        return one == other if type(one) is type(other) else _written(one) == _written(other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _written(number: object) -> object:
    """A number whose fraction is nothing, as the integer that its decimal spelling says: 1e30 is 10**30.

    The double nearest to 10**30 is another integer; Python compares with that one.
    """
    if isinstance(number, float) and number.is_integer():
        return int(Decimal(repr(number)))
    return number


def apply_patch(document: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
    """A new document: ``document`` with every operation of ``patch`` applied in order.

    Raises:
        PatchError: the patch is malformed, a target is absent, or a ``test`` fails; ``fields`` has ``index``, ``op``
            and ``path`` of the operation.
    """
    if not isinstance(patch, list | tuple):
        raise PatchError("Not a JSON Patch", detail=f"expected a list of operations, found {quote(patch, 60)}")
    state = _State(copy.deepcopy(document))
    for index, operation in enumerate(patch):
        try:
            state.apply(operation)
        except PatchError as exc:
            given = operation if isinstance(operation, Mapping) else {}
            raise PatchError(
                exc.title,
                code=exc.code,
                detail=f"operation {index}: {exc.detail}",
                hint=exc.hint,
                fields={"index": index, "op": str(given.get("op", ""))[:40], "path": str(given.get("path", ""))[:500]},
            ) from exc
    return state.root


def within(pointer: Pointer, prefix: Pointer) -> bool:
    """Whether ``pointer`` is ``prefix`` or below it, by whole segments: ``/ext`` does not admit ``/extX``."""
    return pointer[: len(prefix)] == prefix


def refusal(patch: Sequence[Mapping[str, Any]], allowed: Iterable[str], protected: Iterable[str] = ()) -> str | None:
    """Why an addon may not apply ``patch``, or ``None`` when it may.

    ``allowed`` are the prefixes that the target's policy admits. ``protected`` can't be admitted by any policy; an
    operation on a parent of a protected place would change it too and is refused as well.
    """
    prefixes = [parse_pointer(prefix) for prefix in allowed]
    guarded = [parse_pointer(place) for place in protected]
    for index, operation in enumerate(patch):
        verb, path = operation.get("op"), parse_pointer(operation.get("path"))
        shown = quote(format_pointer(path))
        if verb not in ADDON_OPERATIONS:
            return f"operation {index}: {quote(verb)} is not among {', '.join(sorted(ADDON_OPERATIONS))}"
        if verb != "test" and any(within(path, place) or within(place, path) for place in guarded):
            return f"operation {index}: {shown} decides identity or rights and is never patched"
        if not any(within(path, prefix) for prefix in prefixes):
            return f"operation {index}: {shown} is outside of what the target's addon_policy admits"
    return None


def written(patch: Sequence[Mapping[str, Any]]) -> tuple[Pointer, ...]:
    """The places that ``patch`` changes."""
    return tuple(parse_pointer(operation.get("path")) for operation in patch if operation.get("op") != "test")


def diff(before: Any, after: Any) -> list[dict[str, Any]]:
    """A patch that turns ``before`` into ``after``. Lists are compared from both ends, not searched for moves."""
    return list(_differences((), before, after))


def _differences(path: tuple[str | int, ...], before: Any, after: Any) -> Iterable[dict[str, Any]]:
    if equal(before, after):
        return
    where = format_pointer(path)
    if isinstance(before, dict) and isinstance(after, dict):
        for key in before.keys() - after.keys():
            yield {"op": "remove", "path": format_pointer((*path, key))}
        for key, value in after.items():
            if key in before:
                yield from _differences((*path, key), before[key], value)
            else:
                yield {"op": "add", "path": format_pointer((*path, key)), "value": copy.deepcopy(value)}
    elif isinstance(before, list) and isinstance(after, list):
        yield from _list_differences(path, before, after)
    else:
        yield {"op": "replace", "path": where, "value": copy.deepcopy(after)}


def _list_differences(path: tuple[str | int, ...], before: list[Any], after: list[Any]) -> Iterable[dict[str, Any]]:
    shorter = min(len(before), len(after))
    head = next((at for at in range(shorter) if not equal(before[at], after[at])), shorter)
    tail = next((at for at in range(shorter - head) if not equal(before[-1 - at], after[-1 - at])), shorter - head)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    common = min(len(old), len(new))
    for at in range(common):
        yield from _differences((*path, head + at), old[at], new[at])
    for _ in old[common:]:
        yield {"op": "remove", "path": format_pointer((*path, head + common))}
    for at, value in enumerate(new[common:]):
        yield {"op": "add", "path": format_pointer((*path, head + common + at)), "value": copy.deepcopy(value)}


# -- one application ----------------------------------------------------------------------------------------------


def _child(value: Any, part: str, shown: object) -> Any:
    if isinstance(value, dict) and part in value:
        return value[part]
    if isinstance(value, list):
        return value[_index(part, len(value) - 1, shown)]
    raise _no_target(shown)


def _index(part: str, highest: int, shown: object) -> int:
    """An array index (RFC 6901, 4: no leading zeros, no sign) of at most ``highest``."""
    if not _INDEX.fullmatch(part) or int(part) > highest:
        raise _no_target(shown)
    return int(part)


def _no_target(shown: object) -> PatchError:
    return PatchError(
        "Nothing at that place", code="patch_target", detail=f"expected a value at {quote(shown)}, found none",
        hint="Look at the document that is patched; it may be of another version.",
    )  # fmt: skip


class _State:
    """The document while a patch is being applied."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self._built = 0

    def apply(self, operation: Mapping[str, Any]) -> None:
        if not isinstance(operation, Mapping):
            raise PatchError("Not an operation", detail=f"expected an object, found {quote(operation, 60)}")
        verb = operation.get("op")
        act = self._verbs().get(verb) if isinstance(verb, str) else None
        if act is None:
            raise PatchError(
                "Unknown operation",
                detail=f"expected one of {', '.join(self._verbs())}, found {quote(verb, 60)}",
            )
        if "path" not in operation:
            raise PatchError("Operation incomplete", detail='expected the member "path", found none')
        act(parse_pointer(operation["path"]), operation)

    def _verbs(self) -> dict[str, Callable[[Pointer, Mapping[str, Any]], None]]:
        return {
            "add": lambda at, given: self._add(at, self._own(_member(given, "value"))),
            "remove": lambda at, _: self._remove(at) and None,
            "replace": self._replace,
            "move": self._move,
            "copy": lambda at, given: self._add(at, self._own(self._get(parse_pointer(_member(given, "from"))))),
            "test": self._test,
        }

    def _get(self, at: Pointer) -> Any:
        value = self.root
        for part in at:
            value = _child(value, part, format_pointer(at))
        return value

    def _own(self, value: Any) -> Any:
        """A copy, so that neither the patch nor another place of the document shares it."""
        self._built += _measure(value)[0]
        if self._built > MAX_BUILT_VALUES:
            raise PatchError("Patch builds too much", detail=f"expected at most {MAX_BUILT_VALUES} values, found more")
        return _thawed(value)

    def _add(self, at: Pointer, value: Any) -> None:
        _check_depth(at, value)
        if not at:
            self.root = value
            return
        parent, last = self._get(at[:-1]), at[-1]
        if isinstance(parent, dict):
            parent[last] = value
        elif isinstance(parent, list):
            parent.insert(len(parent) if last == "-" else _index(last, len(parent), format_pointer(at)), value)
        else:
            raise _no_target(format_pointer(at[:-1]))

    def _remove(self, at: Pointer) -> Any:
        if not at:
            raise PatchError("The whole document can't be removed", detail='expected a place inside, found ""')
        removed = self._get(at)
        parent = self._get(at[:-1])
        del parent[at[-1] if isinstance(parent, dict) else int(at[-1])]
        return removed

    def _replace(self, at: Pointer, given: Mapping[str, Any]) -> None:
        value = self._own(_member(given, "value"))
        _check_depth(at, value)
        self._get(at)
        if not at:
            self.root = value
            return
        parent = self._get(at[:-1])
        parent[at[-1] if isinstance(parent, dict) else int(at[-1])] = value

    def _move(self, at: Pointer, given: Mapping[str, Any]) -> None:
        source = parse_pointer(_member(given, "from"))
        if source == at:
            self._get(source)
            return
        if within(at, source):
            raise PatchError(
                "A value can't move into itself",
                detail=f"from {quote(format_pointer(source))} to {quote(format_pointer(at))}: expected a place outside",
            )
        self._add(at, self._remove(source))

    def _test(self, at: Pointer, given: Mapping[str, Any]) -> None:
        wanted, found = _thawed(_member(given, "value")), self._get(at)
        if not equal(wanted, found):
            raise PatchError(
                "A test of the patch failed", code="patch_test",
                detail=f"at {quote(format_pointer(at))}: expected {_short(wanted)}, found {_short(found)}",
                hint="The patch was written for another version of its target.",
            )  # fmt: skip


def _member(operation: Mapping[str, Any], name: str) -> Any:
    value = operation.get(name, _MISSING)
    if value is _MISSING:
        raise PatchError("Operation incomplete", detail=f'expected the member "{name}", found none')
    return value


def _short(value: Any) -> str:
    return quote(json.dumps(value, ensure_ascii=False), 80)


def _thawed(value: Any) -> Any:
    """A deep copy of JSON that may be frozen, as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_thawed(item) for item in value]
    return value


def _check_depth(at: Pointer, value: Any) -> None:
    if len(at) + _measure(value)[1] > MAX_DEPTH:
        raise PatchError("Patch builds too deep", detail=f"expected at most {MAX_DEPTH} levels, found more")


def _measure(value: Any) -> tuple[int, int]:
    """How many values there are in it, and how many levels."""
    total = deepest = 0
    stack = [(value, 1)]
    while stack:
        item, level = stack.pop()
        total, deepest = total + 1, max(deepest, level)
        if isinstance(item, Mapping):
            stack.extend((inner, level + 1) for inner in item.values())
        elif isinstance(item, list | tuple):
            stack.extend((inner, level + 1) for inner in item)
    return total, deepest

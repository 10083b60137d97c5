"""One component while addons are applied to it: its manifest and its JSON files, as they are and as they become.

Invariants:
  * ``attempt`` applies all entries of one addon or none; what it leaves can be read by the reader of Packs' files.
  * The target's ``addon_policy`` decides where; without one nothing may be patched. ``PROTECTED`` is beyond it.

Not here: which addons, in which order, who may (``addon_manager``).
"""

from __future__ import annotations

import fnmatch
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from msgspec import Struct, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from backend_core.canonical import canonical_json, sha256_hex
from backend_core.document import Document
from backend_core.ecosystem import compat, json_patch
from backend_core.ecosystem.folder import READ_LIMITS
from backend_core.ecosystem.frozen import freeze
from backend_core.ecosystem.metadata import inline_value
from backend_core.ecosystem.spec.models import ComponentManifest
from backend_core.ecosystem.spec.validate import Kind, check
from backend_core.errors import AuthorError, RequestError, quote
from backend_core.files import split_path
from backend_core.parsing import load_json

PROTECTED: Final = ("/type", "/id", "/version", "/component_uuid", "/connectivity", "/addon_policy")
MANIFEST: Final = "manifest.json"
MAX_CHANGES: Final = 200
"""How many changes of one component are told one by one."""
MAX_WORK_BYTES: Final = 16 * 1024 * 1024
"""What the documents that one Pack's addons patch may come to together, each counted as often as it is patched."""
MAX_PLACES: Final = 2_000
"""How many places one Pack's addons may write to in one application: each is compared with those before."""

ReadFile = Callable[[str, str], bytes | None]
"""``(pack_id, path below the Pack's root)`` → the bytes of the verified copy, ``None`` when there is no such file."""


class Outcome(StrEnum):
    """What became of one addon on one target."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    REFUSED = "refused"
    CONFLICT = "conflict"
    FAILED = "failed"


class Addon(Struct, frozen=True):
    """One addon file, addressed."""

    pack_id: str
    addon_id: str
    uuid: str
    priority: int
    enabled: bool
    targets: tuple[Mapping[str, Any], ...]
    conditions: Mapping[str, str]

    @property
    def name(self) -> str:
        """``pack:addon``."""
        return f"{self.pack_id}:{self.addon_id}"


class AddonResult(Struct, frozen=True):
    """What one addon did to one target, and why not. ``overrides`` names addons whose change it wrote over."""

    addon: str
    target: str
    outcome: Outcome
    reason: str = ""
    changed: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


class Change(Struct, frozen=True):
    """One difference between a component's file and its effective one; ``before`` and ``value`` are JSON, shortened."""

    file: str
    op: str
    path: str
    before: str = ""
    value: str = ""


class EffectiveComponent(Struct, frozen=True):
    """A component as its addons leave it. ``files`` maps a path below the Pack's root to its effective bytes."""

    full_id: str
    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]
    applied: tuple[str, ...]
    digest: str
    changes: tuple[Change, ...] = ()


class Spent(Struct):
    """What the addons of each Pack cost in one application: a review applies what a stranger wrote."""

    work_bytes: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)

    def charge(self, pack_id: str, *, work_bytes: int = 0, places: int = 0) -> None:
        """Raise ``AuthorError`` once it is too much."""
        self.work_bytes[pack_id] += work_bytes
        self.places[pack_id] += places
        if self.work_bytes[pack_id] > MAX_WORK_BYTES or self.places[pack_id] > MAX_PLACES:
            raise _no_place(
                f"the addons of {pack_id} cost too much: expected documents of {MAX_WORK_BYTES} bytes together and "
                f"{MAX_PLACES} places that are written to, found more"
            )


class Draft(Struct):
    """One component while addons are applied to it. ``files``: those that were patched, by path below its folder."""

    pack_id: str
    component: ComponentManifest
    read: ReadFile
    spent: Spent = field(default_factory=Spent)
    manifest: Any = None
    files: dict[str, Any] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    writers: list[tuple[str, json_patch.Pointer, Addon]] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        path = f"{self.component.directory}/{MANIFEST}"
        data = self.read(self.pack_id, path)
        own = None if data is None else load_json(data, source=path).value
        if own is None:
            own = self._inline()
        elif (own.get("type"), own.get("id")) != (self.component.type, self.component.id):
            raise _no_place(f"the folder of {self.component.full_id} holds the manifest of another component")
        self.manifest = self.before[MANIFEST] = own

    def attempt(self, addon: Addon, entries: Sequence[Mapping[str, Any]]) -> AddonResult:
        """Apply all of ``entries`` or none."""
        manifest, files = self.manifest, dict(self.files)
        changes: list[tuple[str, json_patch.Pointer]] = []
        for entry in entries:
            refused = self._policy(entry)
            if refused:
                return self._result(addon, Outcome.REFUSED, refused)
            where = "" if entry["kind"] == "manifest_json_patch" else entry["file"]
            try:
                if where:
                    if where not in files:
                        files[where] = self._file(where, create=entry.get("create_if_missing", False))
                    self.spent.charge(addon.pack_id, work_bytes=len(_text(files[where])))
                    files[where] = json_patch.apply_patch(files[where], entry["patch"])
                else:
                    self.spent.charge(addon.pack_id, work_bytes=len(_text(manifest)))
                    manifest = self._patched_manifest(manifest, entry["patch"])
            except json_patch.PatchError as exc:
                outcome = Outcome.SKIPPED if exc.code == "patch_test" else Outcome.FAILED
                return self._result(addon, outcome, str(exc))
            _readable(self.component.full_id, files[where] if where else manifest)
            places = json_patch.written(entry["patch"])
            self.spent.charge(addon.pack_id, places=len(places))
            changes.extend((where, place) for place in places)
        rivals = self._overlapping(changes)
        equals = sorted({other.name for other in rivals if other.priority == addon.priority and other != addon})
        if equals:
            return self._result(
                addon, Outcome.CONFLICT,
                f"{', '.join(equals)} changes the same place with the same priority {addon.priority} and came first; "
                "give one of them another priority",
            )  # fmt: skip
        self.manifest, self.files = manifest, files
        self.applied.append(addon.name)
        self.writers.extend((where, place, addon) for where, place in changes)
        return AddonResult(
            addon.name, self.component.full_id, Outcome.APPLIED,
            changed=tuple(f"{where or 'manifest.json'}{json_patch.format_pointer(place)}" for where, place in changes),
            overrides=tuple(sorted({other.name for other in rivals if other != addon})),
        )  # fmt: skip

    def finish(self) -> EffectiveComponent:
        """The effective component, with a digest over everything that addons could change."""
        now = dict(sorted(self.files.items()))
        if not json_patch.equal(self.manifest, self.before[MANIFEST]):
            now[MANIFEST] = self.manifest
        files = {f"{self.component.directory}/{path}": _text(value) for path, value in now.items()}
        measured = {
            "component": self.component.full_id,
            "manifest": self.manifest,
            "files": {path: sha256_hex(data) for path, data in files.items()},
        }
        return EffectiveComponent(
            full_id=self.component.full_id,
            manifest=freeze(self.manifest),
            files=MappingProxyType(files),
            applied=tuple(self.applied),
            digest="sha256:" + sha256_hex(canonical_json(measured)),
            changes=tuple(self._changes(now))[:MAX_CHANGES],
        )

    def _changes(self, now: Mapping[str, Any]) -> Iterable[Change]:
        for path, value in now.items():
            old = self.before.get(path)
            if path not in self.before:
                yield Change(path, "add", "", value=_shown(value))
                continue
            for step in json_patch.diff(old, value):
                verb, place = step["op"], step["path"]
                was = "" if verb == "add" else _shown(json_patch.resolve(old, place))
                yield Change(path, verb, place, was, _shown(step["value"]) if "value" in step else "")

    def _result(self, addon: Addon, outcome: Outcome, reason: str) -> AddonResult:
        return AddonResult(addon.name, self.component.full_id, outcome, reason)

    def _policy(self, entry: Mapping[str, Any]) -> str | None:
        policy = self.component.addon_policy
        if entry["kind"] == "manifest_json_patch":
            return json_patch.refusal(entry["patch"], policy.get("allowed_manifest_paths", ()), PROTECTED)
        try:
            parts = split_path(entry["file"])
        except RequestError as exc:
            return exc.detail
        if parts == (MANIFEST,):
            return "manifest.json is patched as the manifest, under its own policy, never as a file"
        prefixes = [
            prefix
            for rule in policy.get("editable_files", ())
            if glob_matches(rule["path_glob"], parts)
            for prefix in rule["allowed_json_pointer_prefixes"]
        ]
        if not prefixes:
            return f"the target's addon_policy does not make {quote(entry['file'])} editable"
        return json_patch.refusal(entry["patch"], prefixes)

    def _patched_manifest(self, manifest: Any, patch: Sequence[Mapping[str, Any]]) -> Any:
        patched = json_patch.apply_patch(manifest, patch)
        check(Kind.MANIFEST, Document(patched, f"{self.component.full_id} with addons", dict))
        return patched

    def _file(self, path: str, *, create: bool) -> Any:
        full = f"{self.component.directory}/{path}"
        data = self.read(self.pack_id, full)
        if data is not None:
            return self.before.setdefault(path, load_json(data, source=full).value)
        if create:
            return {}
        raise json_patch.PatchError(
            "No file to patch", code="patch_target", detail=f"expected {quote(full)}, found none",
            hint='Set "create_if_missing": true if the addon may create it.',
        )  # fmt: skip

    def _inline(self) -> Any:
        """The manifest document of a component that is written in ecosystem.json and has no file of its own."""
        for path in ("backend/ecosystem.json", "ecosystem.json"):
            data = self.read(self.pack_id, path)
            if data is None:
                continue
            value = compat.modernise(Kind.ECOSYSTEM, load_json(data, source=path)).value
            for name, given in value.get("components", {}).items():
                found = inline_value(value, name, given)
                if (found.get("type"), found["id"]) == (self.component.type, self.component.id):
                    return found
        raise _no_place(f"{self.component.full_id} has no manifest that can be read")

    def _overlapping(self, changes: Iterable[tuple[str, json_patch.Pointer]]) -> list[Addon]:
        """Addons that changed one of these places, a parent or a child of it before."""
        return [
            other
            for where, place in changes
            for there, taken, other in self.writers
            if where == there and (json_patch.within(place, taken) or json_patch.within(taken, place))
        ]


def glob_matches(pattern: str, parts: Sequence[str]) -> bool:
    """Whether a path matches ``pattern``; ``*`` stays within one segment, ``**`` stands for any number of them."""
    return _segments_match(pattern.split("/"), list(parts))


def _segments_match(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    # one row of a table per pattern segment: linear in both, where naive recursion on "**" is exponential
    reachable = [True] + [False] * len(parts)
    for segment in pattern:
        if segment == "**":
            reachable = [any(reachable[: at + 1]) for at in range(len(parts) + 1)]
        else:
            reachable = [False] + [
                reachable[at] and fnmatch.fnmatchcase(parts[at], segment) for at in range(len(parts))
            ]
    return reachable[-1]


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _readable(name: str, value: Any) -> None:
    """Raise ``AuthorError`` where whoever reads the effective file could not: a guest must not stop its target."""
    data = _text(value)
    if len(data) > READ_LIMITS.file_bytes:
        raise _no_place(f"{name} would have a file of more than {READ_LIMITS.file_bytes} bytes")
    load_json(data, source=f"{name} with addons")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[:200]


def _no_place(detail: str) -> AuthorError:
    return AuthorError("The addon can't be applied here", code="addon_place", detail=detail)

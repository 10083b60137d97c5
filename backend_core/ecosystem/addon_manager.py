"""Addons: JSON Patch overlays over components, of one's own Pack or of another's, applied to what runs.

Invariants:
  * Nothing is written: the Pack's folder and its verified copy stay as approved. The result is an *effective* component
    with a digest of its own, which is shown for both Packs.
  * An addon touches another Pack only with the grant ``addon.apply`` for that component, asked for each pair.
  * The target's ``addon_policy`` decides where; without one nothing may be patched. Identity, version, connectivity and
    the policy itself are beyond every policy: an addon can't make a component provide or call more than was approved.
  * Order is priority, then Pack id, then addon id; the order in which files were found never matters.
  * One addon on one target is atomic. Every outcome, applied or not, is an ``AddonResult``.

Not here: reading verified copies (the caller's ``read``), judging grants (the caller's ``may_patch``).
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from backend_core.canonical import canonical_json, sha256_hex
from backend_core.document import Document
from backend_core.ecosystem import json_patch, uuid_utils
from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.ecosystem.frozen import freeze, thaw
from backend_core.ecosystem.spec.models import ComponentManifest, PackMetadata
from backend_core.ecosystem.spec.validate import Kind, check
from backend_core.ecosystem.versions import in_range
from backend_core.errors import AuthorError, RequestError, quote
from backend_core.files import split_path
from backend_core.parsing import load_json

PROTECTED: Final = ("/type", "/id", "/version", "/component_uuid", "/connectivity", "/addon_policy")
DEFAULT_PRIORITY: Final = 100

ReadFile = Callable[[str, str], bytes | None]
"""``(pack_id, path below the Pack's root)`` → the bytes of the verified copy, ``None`` when there is no such file."""

MayPatch = Callable[[str, str], bool]
"""``(Pack whose addon it is, full id of the target)`` → whether ``addon.apply`` is granted."""


class Outcome(StrEnum):
    """What became of one addon on one target."""

    APPLIED = "applied"
    SKIPPED = "skipped"
    REFUSED = "refused"
    CONFLICT = "conflict"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Addon:
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


@dataclass(frozen=True, slots=True)
class AddonResult:
    """What one addon did to one target, and why not. ``overrides`` names addons whose change it wrote over."""

    addon: str
    target: str
    outcome: Outcome
    reason: str = ""
    changed: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EffectiveComponent:
    """A component as its addons leave it. ``files`` maps a path below the Pack's root to its effective bytes."""

    full_id: str
    manifest: Mapping[str, Any]
    files: Mapping[str, bytes]
    applied: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Effective:
    """Everything that addons change, by full component id, and every result in the order of application."""

    components: Mapping[str, EffectiveComponent]
    results: tuple[AddonResult, ...]


def addons_of(pack: PackMetadata) -> tuple[Addon, ...]:
    """The addons that a Pack brings."""
    return tuple(
        Addon(
            pack_id=pack.pack_id,
            addon_id=given["addon_id"],
            uuid=uuid_utils.addon_uuid(pack.uuid, given["addon_id"]),
            priority=given.get("priority", DEFAULT_PRIORITY),
            enabled=given.get("enabled", True),
            targets=tuple(given["targets"]),
            conditions=given.get("conditions", MappingProxyType({})),
        )
        for given in pack.addons
    )


class AddonManager:
    """Applies the addons of the running Packs to each other's components."""

    def __init__(self, read: ReadFile, may_patch: MayPatch, active: ActiveEcosystem | None = None) -> None:
        self._read = read
        self._may_patch = may_patch
        self._active = active or ActiveEcosystem()

    def apply(self, packs: Sequence[PackMetadata]) -> Effective:
        """The effective components of ``packs`` (approved ones). Never raises for what a Pack contains."""
        addons = sorted(
            (addon for pack in packs for addon in addons_of(pack)),
            key=lambda addon: (addon.priority, addon.pack_id, addon.addon_id),
        )
        drafts: dict[str, _Draft] = {}
        results: list[AddonResult] = []
        for addon in addons:
            for index, target in enumerate(addon.targets):
                results.append(self._apply_to(addon, target, index, packs, drafts))
        effective = {name: draft.finish() for name, draft in sorted(drafts.items()) if draft.applied}
        return Effective(MappingProxyType(effective), tuple(results))

    def _apply_to(
        self,
        addon: Addon,
        target: Mapping[str, Any],
        index: int,
        packs: Sequence[PackMetadata],
        drafts: dict[str, _Draft],
    ) -> AddonResult:
        found = list(_matching(target, packs))
        if len(found) != 1:
            reason = "no approved Pack has this component" if not found else _ambiguous(found)
            outcome = Outcome.REFUSED if found else Outcome.SKIPPED
            return AddonResult(addon.name, f"target {index}", outcome, reason)
        pack, component = found[0]
        refused = self._refusal(addon, pack, component)
        if refused is not None:
            return AddonResult(addon.name, component.full_id, *refused)
        try:
            draft = drafts.get(component.full_id) or _Draft(pack.pack_id, component, self._read)
            drafts[component.full_id] = draft
            return draft.attempt(addon, target["apply"])
        except (AuthorError, RequestError) as exc:
            return AddonResult(addon.name, component.full_id, Outcome.FAILED, str(exc))

    def _refusal(self, addon: Addon, pack: PackMetadata, component: ComponentManifest) -> tuple[Outcome, str] | None:
        """Why this addon is not even tried on this component."""
        if not addon.enabled:
            return Outcome.SKIPPED, "its author switched it off (enabled: false)"
        if not self._active.is_addon_enabled(addon.pack_id, addon.addon_id, addon.uuid):
            return Outcome.SKIPPED, "switched off in active_ecosystem.json"
        for field_name, version in (("pack_version", pack.version), ("component_version", component.version)):
            wanted = addon.conditions.get(field_name)
            if wanted is not None and not in_range(version, wanted):
                return Outcome.SKIPPED, f"its condition {field_name} {quote(wanted)} does not hold for {version}"
        if addon.pack_id != pack.pack_id and not self._may_patch(addon.pack_id, component.full_id):
            return Outcome.REFUSED, f"{addon.pack_id} has no grant addon.apply for {component.full_id}"
        if component.addon_policy.get("deny_all"):
            return Outcome.REFUSED, "the component admits no addons (deny_all)"
        return None


def _matching(
    target: Mapping[str, Any], packs: Iterable[PackMetadata]
) -> Iterator[tuple[PackMetadata, ComponentManifest]]:
    """Components that a target means: every member that it gives must agree."""
    wanted = target["component"]
    for pack in packs:
        if target.get("pack_identity", pack.pack_identity) != pack.pack_identity:
            continue
        if target.get("pack_uuid", pack.uuid).lower() != pack.uuid:
            continue
        for component in pack.components:
            agrees = (
                wanted.get("type", component.type) == component.type,
                wanted.get("id", component.id) == component.id,
                wanted.get("component_uuid", component.uuid).lower() == component.uuid,
            )
            if all(agrees):
                yield pack, component


def _ambiguous(found: Sequence[tuple[PackMetadata, ComponentManifest]]) -> str:
    names = ", ".join(sorted(component.full_id for _, component in found)[:5])
    return f"more than one component answers to it: {names}"


@dataclass(slots=True)
class _Draft:
    """One component while addons are applied to it; ``None`` in ``files`` never stands, a file is there or is not."""

    pack_id: str
    component: ComponentManifest
    read: ReadFile
    manifest: Any = None
    files: dict[str, Any] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    writers: list[tuple[str, json_patch.Pointer, Addon]] = field(default_factory=list)

    def __post_init__(self) -> None:
        path = f"{self.component.directory}/manifest.json"
        data = self.read(self.pack_id, path)
        self.manifest = _from_model(self.component) if data is None else load_json(data, source=path).value

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
                    before = files.get(where, self._file(where, create=entry.get("create_if_missing", False)))
                    files[where] = json_patch.apply_patch(before, entry["patch"])
                else:
                    manifest = self._patched_manifest(manifest, entry["patch"])
            except json_patch.PatchError as exc:
                outcome = Outcome.SKIPPED if exc.code == "patch_test" else Outcome.FAILED
                return self._result(addon, outcome, str(exc))
            changes.extend((where, place) for place in json_patch.written(entry["patch"]))
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
        files = {
            f"{self.component.directory}/{path}": (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
            for path, value in sorted(self.files.items())
        }
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
        )

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
        if parts == ("manifest.json",):
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
            return load_json(data, source=full).value
        if create:
            return {}
        raise json_patch.PatchError(
            "No file to patch", code="patch_target", detail=f"expected {quote(full)}, found none",
            hint='Set "create_if_missing": true if the addon may create it.',
        )  # fmt: skip

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


def _from_model(component: ComponentManifest) -> dict[str, Any]:
    """The manifest document of a component that was written inline and has no file."""
    links = component.connectivity
    document: dict[str, Any] = {
        "type": component.type,
        "id": component.id,
        "version": component.version,
        "connectivity": {
            "accepts": list(links.accepts),
            "provides": list(links.provides),
            "requires": list(links.requires),
            "uses": list(links.uses),
        },
    }
    for name in ("extensions", "settings_schema", "addon_policy", "storage", "entry", "metadata"):
        document[name] = thaw(getattr(component, name))
    return document

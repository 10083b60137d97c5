"""Addons: JSON Patch overlays over components, of one's own Pack or of another's, applied to what runs.

Invariants:
  * Nothing is written: the Pack's folder and its verified copy stay as approved. The result is an *effective* component
    with a digest of its own, which is shown for both Packs.
  * An addon touches another Pack only with the grant ``addon.apply`` for that component, asked for each pair.
  * The target's ``addon_policy`` decides where; without one nothing may be patched. Identity, version, connectivity and
    the policy itself are beyond every policy: an addon can't make a component provide or call more than was approved.
  * Order is priority, then Pack id, then addon id; the order in which files were found never matters.
  * One addon on one target is atomic. Every outcome, applied or not, is an ``AddonResult``.

Not here: one component while addons are applied to it (``addon_draft``), reading verified copies (the caller's
``read``), judging grants (the caller's ``why_not``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from msgspec import Struct
from types import MappingProxyType
from typing import Any, Final

from backend_core.ecosystem import uuid_utils
from backend_core.ecosystem.active_ecosystem import ActiveEcosystem
from backend_core.ecosystem.addon_draft import Addon, AddonResult, Draft, EffectiveComponent, Outcome, ReadFile, Spent
from backend_core.ecosystem.spec.models import ComponentManifest, PackMetadata
from backend_core.ecosystem.versions import in_range
from backend_core.errors import AuthorError, RequestError, quote

__all__ = ["Addon", "AddonManager", "AddonResult", "Effective", "EffectiveComponent", "Outcome", "addons_of", "reaches"]

DEFAULT_PRIORITY: Final = 100

WhyNot = Callable[[str, str], str]
"""``(Pack whose addon it is, full id of the target)`` → why it may not patch that, or ``""`` when it may."""


class Effective(Struct, frozen=True):
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

    def __init__(self, read: ReadFile, why_not: WhyNot, active: ActiveEcosystem | None = None) -> None:
        self._read = read
        self._why_not = why_not
        self._active = active or ActiveEcosystem()

    def apply(self, packs: Sequence[PackMetadata], guests: Sequence[PackMetadata] | None = None) -> Effective:
        """The effective components of ``packs`` (approved ones). Never raises for what a Pack contains.

        ``guests``: whose addons are applied; those of ``packs`` themselves where it is None.
        """
        addons = sorted(
            (addon for pack in (packs if guests is None else guests) for addon in addons_of(pack)),
            key=lambda addon: (addon.priority, addon.pack_id, addon.addon_id),
        )
        drafts: dict[str, Draft] = {}
        spent = Spent()
        results: list[AddonResult] = []
        for addon in addons:
            for index, target in enumerate(addon.targets):
                results.append(self._apply_to(addon, target, index, packs, drafts, spent))
        effective = {name: draft.finish() for name, draft in sorted(drafts.items()) if draft.applied}
        return Effective(MappingProxyType(effective), tuple(results))

    def _apply_to(
        self,
        addon: Addon,
        target: Mapping[str, Any],
        index: int,
        packs: Sequence[PackMetadata],
        drafts: dict[str, Draft],
        spent: Spent,
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
            draft = drafts.get(component.full_id) or Draft(pack.pack_id, component, self._read, spent)
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
        why_not = self._why_not(addon.pack_id, component.full_id) if addon.pack_id != pack.pack_id else ""
        if why_not:
            return Outcome.REFUSED, why_not
        if component.addon_policy.get("deny_all"):
            return Outcome.REFUSED, "the component admits no addons (deny_all)"
        return None


def reaches(guest: PackMetadata, pack: PackMetadata) -> bool:
    """Whether some addon of ``guest`` means ``pack``, by its identity and UUID."""
    return any(_means(target, pack) for given in guest.addons for target in given["targets"])


def _means(target: Mapping[str, Any], pack: PackMetadata) -> bool:
    identity, pack_uuid = target.get("pack_identity", pack.pack_identity), target.get("pack_uuid", pack.uuid)
    return bool(identity == pack.pack_identity and pack_uuid.lower() == pack.uuid)


def _matching(
    target: Mapping[str, Any], packs: Iterable[PackMetadata]
) -> Iterator[tuple[PackMetadata, ComponentManifest]]:
    """Components that a target means: every member that it gives must agree."""
    wanted = target["component"]
    for pack in packs:
        if not _means(target, pack):
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

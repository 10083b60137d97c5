"""What addons make of a Pack, as its start finds it and as every face shows it; and which of them may act at all. Pure.

Invariant: an addon acts on another Pack only where that was granted *and* what comes of it is what the operator was
shown (``Grant.effects``): a changed target is another result, so it takes a new decision about the addon.

Not here: applying patches (``backend_core.ecosystem.addon_manager``), the copies that run (``approvals.patching``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import asdict

from backend_core.ecosystem.addon_manager import AddonResult, Effective, EffectiveComponent, Outcome
from backend_core.ecosystem.spec.models import PermissionRequest
from backend_core.errors import quote
from core_runtime.rules.grants import Permission

APPLY: Final = "addon.apply"


class Patched(Struct, frozen=True):
    """What addons did to one Pack. ``digest`` is that of the tree that runs in place of the approved one, or ``""``.

    ``tried``: the effective digest of each component with all addons together, also where that could not be put in
    place: another start of the same files would come to the same.
    """

    digest: str = ""
    results: tuple[AddonResult, ...] = ()
    components: Mapping[str, EffectiveComponent] = field(default_factory=lambda: MappingProxyType({}))
    tried: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def documents(self) -> list[dict[str, Any]]:
        """Every result for the faces, each with the effective digest of its component."""
        return documents(self.results, self.components)


UNPATCHED: Final = Patched()


def targets_of(permissions: Iterable[Permission]) -> frozenset[str]:
    """The components that these permissions allow to patch."""
    return frozenset(target for p in permissions if p.type == APPLY for target in p.texts("targets"))


def requested_targets(requests: Iterable[PermissionRequest]) -> frozenset[str]:
    """The components that a Pack asks to patch."""
    return frozenset(str(target) for r in requests if r.type == APPLY for target in r.params.get("targets", ()))


def why_not(guest: str, target: str, *, granted: frozenset[str], pinned: str | None, found: str | None) -> str:
    """Why the addons of ``guest`` do nothing to ``target``, or ``""``.

    ``pinned`` is the result that was approved, ``found`` what they would make of it now; None where nothing.
    """
    again = f"decide again: rumi pack grant {guest} {APPLY}"
    if target not in granted:
        return f"{guest} has no grant {APPLY} for {target}"
    if found is not None and pinned is None:
        return f"what {guest} makes of {target} was not there to be shown when that was decided; {again}"
    if found is not None and pinned != found:
        return f"what {guest} makes of {target} is not what was approved (one of them changed); {again}"
    return ""


def documents(results: Iterable[AddonResult], components: Mapping[str, EffectiveComponent]) -> list[dict[str, Any]]:
    """Results as JSON; ``changes`` are those of the whole component, since addons build upon each other."""
    found = []
    for result in results:
        component = components.get(result.target)
        applied = result.outcome is Outcome.APPLIED and component is not None
        found.append(
            {
                "addon": result.addon,
                "target": result.target,
                "outcome": result.outcome.value,
                "reason": result.reason,
                "changed": list(result.changed),
                "overrides": list(result.overrides),
                "effective_digest": component.digest if applied and component else "",
                "changes": [asdict(one) for one in component.changes] if applied and component else [],
            }
        )
    return found


def of_pack(effective: Effective, pack_id: str) -> tuple[AddonResult, ...]:
    """The results that are about components of this Pack; ``target 0`` and the like mean nobody's."""
    return tuple(result for result in effective.results if result.target.startswith(f"{pack_id}:"))


def failed(results: Sequence[AddonResult], why: str) -> tuple[AddonResult, ...]:
    """The same results where what they come to can't be put in place."""
    return tuple(
        AddonResult(result.addon, result.target, Outcome.FAILED, quote(why, 300))
        if result.outcome is Outcome.APPLIED
        else result
        for result in results
    )

"""What addons make of a Pack, on values alone: who may act, what is told, what fails."""

from __future__ import annotations

import pytest

from backend_core.ecosystem.addon_manager import AddonResult, Effective, EffectiveComponent, Outcome
from backend_core.ecosystem.spec.models import PermissionRequest
from core_runtime.rules.addons import (
    UNPATCHED,
    Patched,
    documents,
    failed,
    of_pack,
    requested_targets,
    targets_of,
    why_not,
)
from core_runtime.rules.grants import Permission
from core_runtime.rules.permissions import covers_use, request_fault

ONE, TWO = "alpha:service:main", "alpha:service:other"
DONE = AddonResult("guest:a", ONE, Outcome.APPLIED, changed=("manifest.json/x",), overrides=("other:b",))
LEFT = AddonResult("guest:b", TWO, Outcome.CONFLICT, "why")


def effective(*results: AddonResult) -> Effective:
    return Effective({ONE: EffectiveComponent(ONE, {}, {}, ("guest:a",), "sha256:1")}, results)


def test_targets_are_those_of_the_one_type():
    held = [Permission("addon.apply", {"targets": (ONE,)}), Permission("addon.apply", {"targets": (TWO,)}),
            Permission("userdata.read", {"targets": ("x:y:z",)})]  # fmt: skip
    assert targets_of(held) == {ONE, TWO}
    asked = [PermissionRequest("addon.apply", "r", {"targets": (ONE,)}), PermissionRequest("flow.run", "r", {"targets": (TWO,)}),
             PermissionRequest("addon.apply", "r", {})]  # fmt: skip
    assert requested_targets(asked) == {ONE}


@pytest.mark.parametrize(
    ("granted", "pinned", "found", "reason"),
    [
        ((), None, None, f"guest has no grant addon.apply for {ONE}"),
        ((), "d", "d", f"guest has no grant addon.apply for {ONE}"),
        ((TWO,), "d", "d", f"guest has no grant addon.apply for {ONE}"),
        ((ONE,), "d", "d", ""),
        ((ONE,), None, None, ""),
        ((ONE,), "d", None, ""),
        ((ONE,), None, "d", f"what guest makes of {ONE} was not there to be shown when that was decided; decide again: rumi pack grant guest addon.apply"),
        ((ONE,), "d", "e", f"what guest makes of {ONE} is not what was approved (one of them changed); decide again: rumi pack grant guest addon.apply"),
    ],
)  # fmt: skip
def test_why_an_addon_does_nothing(granted, pinned, found, reason):
    assert why_not("guest", ONE, granted=frozenset(granted), pinned=pinned, found=found) == reason


def test_results_are_told_with_the_digest_of_what_came_of_them():
    told = documents((DONE, LEFT), effective().components)
    assert told[0] == {"addon": "guest:a", "target": ONE, "outcome": "applied", "reason": "", "changed": ["manifest.json/x"],
                       "overrides": ["other:b"], "effective_digest": "sha256:1", "changes": []}  # fmt: skip
    assert (told[1]["outcome"], told[1]["reason"], told[1]["effective_digest"]) == ("conflict", "why", "")
    refused = AddonResult("guest:c", ONE, Outcome.REFUSED, "no")
    assert documents((refused,), effective().components)[0]["effective_digest"] == ""
    assert documents((DONE,), {})[0]["effective_digest"] == ""
    assert Patched("d", (DONE,), effective().components).documents() == told[:1]
    assert UNPATCHED.documents() == []


def test_results_about_nobody_or_another_pack_are_left_out():
    nobody, other = AddonResult("g:a", "target 0", Outcome.SKIPPED), AddonResult("g:a", "alphabet:s:m", Outcome.APPLIED)
    assert of_pack(effective(DONE, nobody, other, LEFT), "alpha") == (DONE, LEFT)


def test_what_can_not_be_put_in_place_failed_and_the_rest_stays_as_it_was():
    done, left = failed((DONE, LEFT), "no\x1b[2J room")
    assert (done.addon, done.target, done.outcome) == ("guest:a", ONE, Outcome.FAILED)
    assert "\x1b" not in done.reason
    assert left is LEFT


@pytest.mark.parametrize("target", ["x", "a:b", "a:b:c:d", "A:b:c", "a:b:*", "a:*:c", "*:b:c", "a:b:c\n", "1a:b:c", "a:B:c", "a:b:-"])
def test_a_target_is_one_component_of_one_pack(target):
    fault = request_fault(PermissionRequest("addon.apply", "r", {"targets": (target,)}), "guest")
    assert fault.startswith("addon.apply: 'targets' holds ")


def test_a_granted_target_is_covered_as_it_is_written():
    held = Permission("addon.apply", {"targets": (ONE,)})
    assert covers_use(held, "addon.apply", {"target": ONE})
    for use in ({"target": TWO}, {"target": "alpha:service:*"}, {"targets": ONE}, {}):
        assert not covers_use(held, "addon.apply", use)
    assert request_fault(PermissionRequest("addon.apply", "r", {"targets": (ONE,)}), "guest") == ""

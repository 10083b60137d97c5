"""The basis of a decision, put together from its parts and compared whole."""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from backend_core.ecosystem.spec.models import Connectivity, Contract, PackMetadata, PermissionRequest
from core_runtime.rules.approval import State
from core_runtime.rules.combination import PackNode
from core_runtime.rules.contracts import Terms
from core_runtime.rules.dependencies import SeenPackages, SeenWheel
from core_runtime.rules.digest import FileEntry, Fingerprint
from core_runtime.rules.findings import Finding
from core_runtime.rules.flow.brought import Brought
from core_runtime.rules.grants import Grant, Permission, freeze
from core_runtime.rules.review import Review, ReviewFacts, build_review
from core_runtime.rules.sandbox import DriverKind, Isolation, Level

DIGEST = "sha256:" + "a" * 64


def request(kind: str, reason: str = "because", **params) -> PermissionRequest:
    return PermissionRequest(kind, reason, freeze(params))


METADATA = PackMetadata(
    "alpha", "github:author/alpha", "2.0.0", "uuid", display_name="Alpha", description="does it", author="A. Uthor", license="MIT",
    dependencies=MappingProxyType({"beta": ">=1"}),
    connectivity=Connectivity(
        provides=("service.b", "service.a", "flow.modifier"), requires=("need.this", "service.a"), uses=("may.use", "nobody.has")
    ),
    permissions=(request("userdata.read", "new reason", paths=["shared/**"]), request("event.publish", topics=["t"])),
)  # fmt: skip
ENTRIES = (FileEntry("a.py", False, 10, "0" * 64), FileEntry("b.py", True, 32, "1" * 64))
OTHERS = (
    PackNode("first", frozenset({"need.this", "both"}), frozenset(), frozenset({"external-communication"})),
    PackNode("second", frozenset({"may.use", "need.this"}), frozenset(), frozenset()),
)
BEFORE = Grant(
    "alpha", "github:author/alpha", "1.0.0", DIGEST, 1, "e", Isolation(DriverKind.EMBEDDED, Level.STANDARD), 0.0, 0.0, "me",
    permissions=(Permission("interface.call", freeze({"keys": ["may.use", "need.this", "nobody.has"]})),),
    requested=(
        freeze({"type": "userdata.read", "paths": ["shared/**"], "reason": "old reason"}),
        freeze({"type": "userdata.write", "paths": ["shared/**"], "reason": "gone"}),
    ),
    files={"a.py": Fingerprint("0" * 64, False), "gone.py": Fingerprint("2" * 64, False), "b.py": Fingerprint("1" * 64, False)},
)  # fmt: skip


def review(before: Grant | None = BEFORE, metadata: PackMetadata = METADATA) -> Review:
    facts = ReviewFacts(
        "alpha", State.PENDING, "files_changed", DIGEST, ENTRIES, metadata, before, {"service.b": "other", "unrelated": "x"},
        (Finding("native_code", "x.so", "d"),), OTHERS,
    )  # fmt: skip
    return build_review(facts)


def test_everything_of_the_pack_stands_in_it():
    found = review()
    assert (found.pack_id, found.state, found.cause, found.digest) == ("alpha", State.PENDING, "files_changed", DIGEST)
    assert (found.version, found.pack_identity, found.identity_changed) == ("2.0.0", "github:author/alpha", False)
    assert (found.display_name, found.description, found.author, found.license) == (
        "Alpha",
        "does it",
        "A. Uthor",
        "MIT",
    )
    assert (found.files, found.total_bytes) == (2, 42)
    assert [item["type"] for item in found.permissions] == ["userdata.read", "event.publish", "interface.call"]
    assert found.provides == ("flow.modifier", "service.a", "service.b")
    assert (found.requires, found.uses) == (("need.this", "service.a"), ("may.use", "nobody.has"))
    assert [(edge.key, edge.required, edge.provider) for edge in found.edges] == [
        ("may.use", False, "second"), ("need.this", True, "first"), ("nobody.has", False, ""),
    ]  # fmt: skip
    assert dict(found.replaces) == {"service.b": "other"}
    assert dict(found.host_keys) == {"flow.modifier": "flow.modify"}
    assert dict(found.dependencies) == {"beta": ">=1"}
    assert found.findings == (Finding("native_code", "x.so", "d"),)
    assert found.listing == ENTRIES
    assert found.pending_update == {}


def test_risk_and_rating_know_replacements_findings_and_neighbours():
    found = review()
    assert found.combination is not None
    assert dict(found.combination.paths) == {"external-communication": ("alpha", "first"), "private-data": ("alpha",)}
    reasons = " ".join(line.reason for line in found.rating.deductions)
    assert "service.b" in reasons
    assert "machine code" in reasons
    assert found.combination.sentence() in reasons


def test_an_update_is_shown_against_what_was_approved():
    found = review()
    assert (found.approved_version, found.approved_isolation) == ("1.0.0", "embedded/standard")
    assert found.file_changes is not None
    assert (found.file_changes.added, found.file_changes.removed, found.file_changes.changed) == (
        (),
        ("gone.py",),
        ("b.py",),
    )
    assert found.permission_changes is not None
    # a new reason alone is no other permission
    assert list(found.permission_changes.added) == [{"type": "event.publish", "topics": ["t"]}]
    assert list(found.permission_changes.removed) == [{"type": "userdata.write", "paths": ["shared/**"]}]
    other = PackMetadata("alpha", "github:thief/alpha", "2.0.0", "uuid")
    assert review(metadata=other).identity_changed
    assert review(metadata=other).permission_changes.removed[-1]["type"] == "interface.call"


def test_a_first_decision_has_nothing_to_compare_with():
    found = review(None)
    assert not found.identity_changed
    assert (found.approved_version, found.approved_isolation, found.file_changes, found.permission_changes) == (
        None,
    ) * 4
    document = found.as_dict()
    assert (document["file_changes"], document["permission_changes"], document["approved_version"]) == (
        None,
        None,
        None,
    )


def test_the_document_for_faces():
    found = review()
    document = found.as_dict()
    assert json.loads(json.dumps(document)) == document
    assert set(document) == {name for name in Review.__struct_fields__ if name != "listing"}
    assert (document["state"], type(document["state"])) == ("pending", str)
    assert document["edges"][0] == {
        "key": "may.use", "required": False, "provider": "second", "wanted": "", "why_not": "",
    }  # fmt: skip
    assert document["rating"]["score"] == found.rating.score
    assert document["rating"]["deductions"][0]["points"] == found.rating.deductions[0].points
    assert document["findings"] == [{"code": "native_code", "path": "x.so", "detail": "d"}]
    assert document["combination"]["sentence"] == found.combination.sentence()
    assert document["combination"]["paths"]["private-data"] == ["alpha"]
    assert document["file_changes"] == {"added": [], "removed": ["gone.py"], "changed": ["b.py"]}
    assert document["permission_changes"]["added"] == [{"type": "event.publish", "topics": ["t"]}]
    assert document["permission_changes"]["removed"] == [{"type": "userdata.write", "paths": ["shared/**"]}]
    assert (document["version"], document["provides"]) == ("2.0.0", ["flow.modifier", "service.a", "service.b"])
    alone = review(metadata=PackMetadata("alpha", "i", "1", "u")).as_dict()
    assert alone["combination"] is None


# --- versions, flows, packages: what only some Packs have

LINKED = PackMetadata(
    "alpha", "i", "2", "u",
    connectivity=Connectivity(
        provides=("mine",), requires=("old", "fit", "unstated", "free"), uses=("alone",),
        contracts={"mine": Contract("2.0.0", freeze({"type": "string"}), None)},
        ranges={"old": "^2", "fit": "^1", "unstated": "^1", "alone": "^3"},
    ),
)  # fmt: skip


def facts(metadata: PackMetadata, **more: Any) -> ReviewFacts:
    return ReviewFacts("alpha", State.PENDING, "", DIGEST, ENTRIES, metadata, None, {}, (), **more)


def provider(pack_id: str, *keys: str) -> PackNode:
    return PackNode(pack_id, frozenset(keys), frozenset(), frozenset())


def test_an_edge_says_which_version_is_needed_and_why_a_provider_will_not_do():
    peers = {"store": Terms({"old": Contract("1.4.0"), "fit": Contract("1.4.0")})}
    found = build_review(
        facts(LINKED, others=(provider("store", "old", "fit", "unstated"), provider("silent", "free")), peers=peers)
    )
    edges = {edge.key: (edge.provider, edge.wanted, edge.why_not) for edge in found.edges}
    assert edges == {
        "old": ("store", "^2", "'old' is needed in version ^2, but the Pack 'store' states version 1.4.0."),
        "fit": ("store", "^1", ""),
        "unstated": ("store", "^1", "'unstated' is needed in version ^1, but the Pack 'store' states no version of it."),
        "free": ("silent", "", ""),
        "alone": ("", "^3", ""),  # nobody is there who could be wrong
    }
    assert [edge.required for edge in found.edges] == [False, True, True, True, True]


def test_approved_packs_that_the_new_version_would_lose_are_named_with_every_reason():
    peers = {
        "zeta": Terms(ranges={"mine": "^1"}),
        "happy": Terms(ranges={"mine": "^2"}),
        "elsewhere": Terms(ranges={"other": "^1"}),
        "free": Terms(),
        "beta": Terms(ranges={"mine": ">=3", "other": "^9"}),
    }
    found = build_review(facts(LINKED, peers=peers))
    assert found.unsuited == {
        "beta": ("'mine' is needed in version >=3, but the Pack 'alpha' states version 2.0.0.",),
        "zeta": ("'mine' is needed in version ^1, but the Pack 'alpha' states version 2.0.0.",),
    }
    assert list(found.unsuited) == ["beta", "zeta"]
    assert build_review(facts(LINKED)).unsuited == {}


def test_what_it_promises_is_shown_and_compared_with_what_was_approved():
    found = build_review(facts(LINKED))
    assert found.contracts == {"mine": {"version": "2.0.0", "input": {"type": "string"}, "output": None}}
    assert found.contract_changes is None  # there is nothing to compare with
    [change] = build_review(facts(LINKED, contracts_before={"mine": Contract("1.0.0")})).contract_changes or ()
    assert (change.key, change.before, change.after) == ("mine", "1.0.0", "2.0.0")
    assert [(part["before"], part["after"]) for part in change.parts] == [("", '{"type": "string"}')]
    assert build_review(facts(LINKED, contracts_before=LINKED.contracts())).contract_changes == ()
    [new] = build_review(facts(LINKED, contracts_before={})).contract_changes or ()
    assert (new.before, new.after) == ("", "2.0.0")


def test_what_its_files_say_about_flows_is_shown_without_what_they_do_not_say():
    brought = (Brought("a.yaml", adds=("shop.order",)), Brought("b.yaml", modifies=("x.*",)), Brought("c.yaml", fault="no YAML"))
    assert build_review(facts(LINKED, brought=brought)).flows == (
        {"file": "a.yaml", "adds": ("shop.order",)},
        {"file": "b.yaml", "modifies": ("x.*",)},
        {"file": "c.yaml", "fault": "no YAML"},
    )


def test_a_change_to_a_flow_joins_the_pack_with_the_others_in_it():
    """It would stand among the flow's steps, which hand each other what they have."""
    metadata = PackMetadata("alpha", "i", "2", "u", permissions=(request("userdata.read", paths=["shared/**"]),))
    way_out = PackNode("mail", frozenset(), frozenset(), frozenset({"external-communication"}))
    flows = (PackNode.flow("shop.order", [], ["mail"]),)
    for target, joined in (("shop.*", True), ("shop.order", True), ("other", False)):
        brought = (Brought("m.yaml", modifies=("nothing", target)),)
        found = build_review(facts(metadata, others=(way_out,), flows=flows, brought=brought)).combination
        assert (found is not None) is joined
        if found is not None:
            assert found.paths["external-communication"] == ("alpha", "flow shop.order", "mail")
    assert build_review(facts(metadata, others=(way_out,), flows=flows)).combination is None


def test_findings_of_its_wheels_count_like_those_of_its_files():
    wheel = SeenWheel("w-1-py3-none-any.whl", "0" * 64, 5, native=("w/x.so",))
    found = build_review(facts(LINKED, packages=SeenPackages("requirements.lock", (), (wheel,))))
    assert [finding.code for finding in found.findings] == ["native_dependency"]
    assert found.rating == build_review(
        ReviewFacts("alpha", State.PENDING, "", DIGEST, ENTRIES, LINKED, None, {}, found.findings)
    ).rating
    assert found.rating.score < build_review(facts(LINKED)).rating.score
    assert found.package_changes is None


def test_packages_of_an_update_are_compared_with_the_approved_ones():
    changes = review().package_changes
    assert changes is not None
    assert (changes.added, changes.removed, changes.changed) == ((), (), {})


def test_signature_and_addons_are_handed_on():
    told = {"standing": "known"}
    found = build_review(facts(LINKED, signature=told, addons=({"addon": "x"},)))
    assert (found.signature, found.addons) == (told, ({"addon": "x"},))


def test_the_operators_aliases_that_concern_it_stand_in_it():
    aliases = {"there.get": ["service.a"], "service.b": ["old.b", "any.b"], "elsewhere": ["x.y"]}
    found = build_review(facts(METADATA, aliases=aliases)).as_dict()
    assert found["aliases"] == [
        {"alias": "service.a", "key": "there.get", "effect": "hides", "owner": ""},
        {"alias": "any.b", "key": "service.b", "effect": "reaches", "owner": ""},
        {"alias": "old.b", "key": "service.b", "effect": "reaches", "owner": ""},
    ]
    owned = build_review(replace(facts(METADATA, aliases=aliases), owners={"service.b": "other", "there.get": "shop"}))
    assert [one.owner for one in owned.aliases] == ["shop", "other", "other"]
    assert build_review(facts(METADATA)).aliases == ()

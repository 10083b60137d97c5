"""What the rules of trust say word for word: what is persisted, what the operator reads, what may not be changed."""

from __future__ import annotations

import hashlib
import json

import pytest

from backend_core.errors import ConflictError, TrustError
from core_runtime.rules.approval import TRANSITIONS, Event, Facts, Mark, State, Verdict, judge
from core_runtime.rules.decisions import (
    check_digest,
    check_isolation,
    check_removed,
    check_startable,
    check_transition,
    isolation_words,
)
from core_runtime.rules.dependencies import ChosenWheel, Dependencies
from core_runtime.rules.digest import (
    FileEntry,
    Fingerprint,
    TreeLimits,
    difference,
    normal_digest,
    normal_path,
    tree_digest,
    twins,
)
from core_runtime.rules.grants import (
    Grant,
    Mode,
    Permission,
    Rejection,
    common,
    grant_document,
    read_grant,
    rejection_document,
    seconds,
    timestamp,
    weigh,
)
from core_runtime.rules.sandbox import DriverKind, Isolation, Level

STANDARD = Isolation(DriverKind.EMBEDDED, Level.STANDARD)
DIGEST = "sha256:" + "a" * 64
GRANT = Grant(
    pack_id="alpha", pack_identity="local:alpha", version="1", digest=DIGEST, counter=3, epoch="e", isolation=STANDARD,
    created_at=100.0, approved_at=200.5, actor="tester",
    permissions=(Permission("userdata.read", {"paths": ("a/**",)}, Mode.UNTIL, until=5.0), Permission("notify", {}, Mode.RESTART, instance="i")),
    files={"a.py": Fingerprint("0" * 64, executable=True), "b.py": Fingerprint("1" * 64, executable=False)}, since={"service.alpha": 1.5},
    base_runtime="3.11", restored_at=300.25,
    dependencies=Dependencies(
        ("x==1.0", "y==2"), "cpython-3.11 linux x86_64 glibc-2.36", (ChosenWheel("x-1.0-py3-none-any.whl", "x", "1.0", "b" * 64, 5, ("x/c.so",), 1),),
        "sha256:" + "c" * 64, (),
    ),
)  # fmt: skip


def test_words_that_stand_in_signed_files_never_change():
    assert [mark.value for mark in Mark] == ["", "blocked", "modified", "revoked", "removing"]
    assert [state.value for state in State] == [
        "installed",
        "pending",
        "approved",
        "running",
        "modified",
        "blocked",
        "error",
    ]
    assert [verdict.value for verdict in Verdict] == ["none", "imported", "faulty", "valid"]
    assert [mode.value for mode in Mode] == ["always", "once", "restart", "until"]
    assert [event.value for event in Event] == [
        "reviewed", "broken", "approved", "restored", "rejected", "edited", "started", "stopped", "gave_up",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        FileEntry("a", False, 1, "0"),
        Fingerprint("0", False),
        TreeLimits(),
        GRANT,
        Permission("x"),
        Facts(Verdict.NONE),
        Rejection("", 0.0),
    ],
)
def test_what_decides_can_not_be_changed_afterwards(value):
    name = value.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(value, name, "other")


def test_grant_is_read_back_as_it_was_written():
    document = grant_document(GRANT)
    again = read_grant(document)
    assert grant_document(again) == document
    assert (again.created_at, again.approved_at, again.restored_at) == (100.0, 200.5, 300.25)
    assert again.permissions == GRANT.permissions
    assert dict(again.files) == dict(GRANT.files)
    assert document["executables"] == ["a.py"]
    assert document["isolation"] == {"driver": "embedded", "level": "standard"}
    assert GRANT.excerpt()["isolation"] == {"driver": "embedded", "level": "standard"}
    assert GRANT.excerpt()["files"] == 2


def test_times_are_iso_in_utc_or_the_numbers_of_older_documents():
    assert timestamp(0.5) == "1970-01-01T00:00:00.500Z"
    assert seconds("1970-01-01T00:00:00.500Z") == 0.5
    assert (seconds(7), seconds(7.25)) == (7.0, 7.25)
    with pytest.raises(ValueError):
        seconds(True)


def test_rejection_keeps_its_own_time_and_reason():
    document = rejection_document("alpha", "no", 42.0)
    assert weigh(document, pack_id="alpha", epoch="e", counter=9) == Rejection("no", 42.0)
    document["created_at"] = timestamp(1.0)
    assert weigh(document, pack_id="alpha", epoch="e", counter=9) == Rejection("no", 42.0)
    del document["rejected_at"]  # as older documents are
    assert weigh(document, pack_id="alpha", epoch="e", counter=9) == Rejection("no", 1.0)
    assert (document["status"], document["rejection_reason"], document["approved_at"]) == ("blocked", "no", None)


@pytest.mark.parametrize(
    ("counter", "cause"), [(2, ""), (3, ""), (4, "grant_rolled_back"), (1, "counters_rolled_back")],
)  # fmt: skip
def test_grant_counts_for_its_counter_or_the_one_before_it(counter, cause):
    found = weigh(grant_document(GRANT), pack_id="alpha", epoch="e", counter=counter)
    assert getattr(found, "cause", "") == cause
    assert weigh(grant_document(GRANT), pack_id="beta", epoch="e", counter=3).cause == "grant_copied"
    assert weigh(grant_document(GRANT), pack_id="alpha", epoch="f", counter=3).cause == "grant_foreign_epoch"


@pytest.mark.parametrize("counter", [0, -1, True, "3", 1.5])
def test_counter_of_another_kind_is_malformed(counter):
    document = {**grant_document(GRANT), "counter": counter}
    assert weigh(document, pack_id="alpha", epoch="e", counter=0).cause == "grant_malformed"


def test_common_permissions_are_those_held_exactly_by_both():
    wide, narrow, once = (
        Permission("r", {"paths": ("a", "b")}),
        Permission("r", {"paths": ("a",)}),
        Permission("r", {"paths": ("a",)}, Mode.ONCE),
    )
    assert common((wide, narrow), (narrow,)) == (narrow,)
    assert common((wide,), (narrow, once)) == ()
    assert common((), (wide,)) == ()


def test_isolation_is_named_and_compared():
    docker, reduced = Isolation(DriverKind.DOCKER, Level.STANDARD), Isolation(DriverKind.EMBEDDED, Level.REDUCED)
    assert isolation_words(docker) == "docker/standard"
    check_isolation(None, reduced, accept_weaker=False)
    check_isolation(GRANT, docker, accept_weaker=False)
    check_isolation(GRANT, reduced, accept_weaker=True)
    with pytest.raises(TrustError) as refused:
        check_isolation(GRANT, reduced, accept_weaker=False)
    assert dict(refused.value.fields) == {"approved": "embedded/standard", "available": "embedded/reduced"}
    with pytest.raises(TrustError):
        check_isolation(None, Isolation(DriverKind.EMBEDDED, Level.NONE), accept_weaker=True)


@pytest.mark.parametrize(("count", "said"), [(1, "p0."), (5, "p4."), (6, "p4 and 1 more."), (60, "p4 and 55 more.")])
def test_changed_files_are_named_up_to_five(count, said):
    paths = [f"p{number}" for number in range(count)]
    with pytest.raises(TrustError) as refused:
        check_startable("alpha", State.MODIFIED, "files_changed", "", paths)
    assert refused.value.detail.replace("'", "").replace('"', "").endswith(said)
    assert len(refused.value.fields["paths"]) == min(count, 50)


def test_table_has_no_edge_beyond_the_documented_ones():
    edges = sum(len(events) for events in TRANSITIONS.values())
    assert edges == 4 + 2 + 4 + 5 + 3 + 1 + 2
    assert judge(Facts(Verdict.VALID, running=True, run_fault="gave_up")) == (State.ERROR, "gave_up")
    assert judge(Facts(Verdict.VALID, differs=True, running=True)) == (State.MODIFIED, "files_changed")
    assert judge(Facts(Verdict.VALID, mark=Mark.MODIFIED)) == (State.MODIFIED, "files_changed_before")
    assert judge(Facts(Verdict.FAULTY, cause="grant_forged", mark=Mark.BLOCKED)) == (State.BLOCKED, "rejected")


def test_digest_helpers():
    one, two = FileEntry("a", False, 1, "0" * 64), FileEntry("b", True, 2, "1" * 64)
    assert tree_digest([one, two]) == tree_digest([two, one])
    assert len({tree_digest([]), tree_digest([one]), tree_digest([two]), tree_digest([one, two])}) == 4
    assert normal_digest("A" * 64) == "sha256:" + "a" * 64
    assert normal_digest("a" * 63) == normal_digest("g" * 64) == ""
    assert twins(["a", "b", "A"]) is not None
    assert twins(["a", "b"]) is None
    found = difference({"x": Fingerprint("0", False)}, {"x": Fingerprint("0", True), "y": Fingerprint("1", False)})
    assert (found.added, found.removed, found.changed, bool(found)) == (("y",), (), ("x",), True)
    limits = TreeLimits()
    assert (limits.files, limits.total_bytes, limits.depth, limits.path_bytes) == (20_000, 2 * 1024**3, 64, 1024)


def test_documents_have_exactly_their_fields():
    assert set(GRANT.excerpt()) == {
        "approved_at", "created_at", "actor", "digest", "version", "pack_identity", "permissions", "isolation",
        "base_runtime", "files", "packages", "effects",
    }  # fmt: skip
    assert set(rejection_document("alpha", "no", 1.0)) == {
        "pack_id", "status", "created_at", "approved_at", "file_hashes", "permissions_requested", "rejection_reason",
        "rejected_at",
    }  # fmt: skip


@pytest.mark.parametrize("digest", ["", "sha256:", "sha256:" + "g" * 64, "md5:" + "a" * 32])
def test_grant_without_a_digest_is_malformed(digest):
    document = {**grant_document(GRANT), "digest": digest}
    assert weigh(document, pack_id="alpha", epoch="e", counter=3).cause == "grant_malformed"


def test_refusals_carry_what_a_program_needs():
    with pytest.raises(ConflictError) as refused:
        check_digest(DIGEST, "sha256:" + "b" * 64)
    assert dict(refused.value.fields) == {"digest": "sha256:" + "b" * 64}
    with pytest.raises(ConflictError) as refused:
        check_transition("alpha", State.BLOCKED, Event.REJECTED)
    assert dict(refused.value.fields) == {"state": "blocked", "event": "rejected"}
    assert '"executable":true' in canonical([FileEntry("a", True, 1, "0" * 64)])


def canonical(entries: list[FileEntry]) -> str:
    """The list as the definition writes it, checked against the digest."""
    rows = [{"executable": e.executable, "path": e.path, "sha256": e.sha256, "size": e.size} for e in entries]
    text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert tree_digest(entries) == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    return text


def test_paths_are_written_in_one_unicode_form():
    assert normal_path(("a", "e\u0301.py")) == "a/\u00e9.py"
    assert normal_path(("x",)) == "x"


def test_only_finishing_follows_a_removal_that_was_cut_off():
    for mark in set(Mark) - {Mark.REMOVING}:
        check_removed("alpha", mark)
    with pytest.raises(ConflictError) as refused:
        check_removed("alpha", Mark.REMOVING)
    error = refused.value
    assert (error.code, error.title) == ("removal_unfinished", "The removal of this Pack did not come to its end")
    assert error.detail == "'alpha' was removed, and something of it may be left."
    assert error.hint == "Finish it first: rumi pack remove alpha"

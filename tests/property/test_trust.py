"""Properties of trust: the digest, signatures, globs, canonical JSON, and the approval machine under any sequence of events."""

from __future__ import annotations

import fnmatch
import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import asdict

from backend_core.canonical import canonical_json, sha256_hex
from backend_core.errors import ConflictError, RumiError
from core_runtime.rules.approval import TRANSITIONS, Event, Facts, Mark, State, Verdict, following, judge
from core_runtime.rules.digest import FileEntry, normal_digest, tree_digest, twins
from core_runtime.rules.globs import matches
from core_runtime.rules.permissions import path_fault, protected_fault
from core_runtime.rules.seals import Fault, encode, open_document, sealed
from tests.support.trust_home import SETUP, STANDARD, TrustHome

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
ENTRIES = st.lists(
    st.builds(FileEntry, NAMES, st.booleans(), st.integers(0, 2**40), st.text("0123456789abcdef", min_size=64, max_size=64)),
    unique_by=lambda entry: entry.path, max_size=12,
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-(2.0**53), 2.0**53)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
KEY = "0123456789abcdef" * 4


@given(ENTRIES, st.randoms(use_true_random=False))
def test_digest_does_not_depend_on_the_order(entries, random):
    shuffled = list(entries)
    random.shuffle(shuffled)
    assert tree_digest(shuffled) == tree_digest(entries)
    rows = [asdict(entry) for entry in sorted(entries, key=lambda entry: entry.path.encode())]
    assert tree_digest(entries) == f"sha256:{sha256_hex(canonical_json(rows))}"
    assert normal_digest(tree_digest(entries)) == tree_digest(entries)


@given(ENTRIES.filter(bool), st.data())
def test_any_difference_changes_the_digest(entries, data):
    index = data.draw(st.integers(0, len(entries) - 1))
    entry = entries[index]
    changed = data.draw(
        st.sampled_from(
            [
                FileEntry(entry.path + "x", entry.executable, entry.size, entry.sha256),
                FileEntry(entry.path, not entry.executable, entry.size, entry.sha256),
                FileEntry(entry.path, entry.executable, entry.size + 1, entry.sha256),
                FileEntry(entry.path, entry.executable, entry.size, entry.sha256[::-1] + "0"),
            ]
        )
    )
    assert tree_digest([*entries[:index], changed, *entries[index + 1 :]]) != tree_digest(entries)
    assert tree_digest(entries[:index] + entries[index + 1 :]) != tree_digest(entries)


@given(JSON)
def test_canonical_json_says_the_same_and_is_stable(value):
    data = canonical_json(value)
    assert json.loads(data) == value
    assert canonical_json(json.loads(data)) == data


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).filter(lambda k: not k.startswith("_hmac")), JSON, max_size=5
    ),
    st.data(),
)
def test_any_flipped_byte_of_a_signed_document_refuses(document, data):
    raw = bytearray(encode(sealed(document, KEY)))
    opened = open_document(bytes(raw), KEY, "grant")
    assert not isinstance(opened, Fault)
    index = data.draw(st.integers(0, len(raw) - 1))
    raw[index] ^= data.draw(st.integers(1, 255))
    again = open_document(bytes(raw), KEY, "grant")
    # a flipped blank between tokens changes nothing that was signed; everything else refuses
    assert isinstance(again, Fault) or again == opened


@given(st.text("ab/*?", min_size=1, max_size=12), st.text("ab/", max_size=12))
def test_globs_agree_with_a_slow_and_obvious_matcher(glob, text):
    if any("**" in segment and segment != "**" for segment in glob.split("/")):
        return

    def slow(pattern: list[str], parts: list[str]) -> bool:
        if not pattern:
            return not parts
        if pattern[0] == "**":
            return any(slow(pattern[1:], parts[i:]) for i in range(len(parts) + 1))
        return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and slow(pattern[1:], parts[1:])

    assert matches(glob, text) == slow(glob.split("/"), text.split("/"))


@given(
    st.lists(
        st.sampled_from(
            ["permissions", "flows", "store", "packs", "beta", "shared", "x", "Permissions", "PACKS", "ﬂows"]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_grantable_glob_covers_what_is_protected(parts):
    path = "/".join(parts)
    for glob in (path, f"{path}/**", f"{parts[0]}/*", "/".join([*parts[:-1], "*"])):
        if not path_fault(glob, "alpha"):
            for inside in (path, f"{path}/deeper"):
                if matches(glob, inside):
                    assert not protected_fault(inside.split("/"), "alpha")


@given(st.lists(st.text("aAéÉ\u0065\u0301ſsS", min_size=1, max_size=4), max_size=6, unique=True))
def test_twins_do_not_depend_on_the_order(names):
    assert bool(twins(names)) == bool(twins(names[::-1]))


@given(
    st.builds(
        Facts, st.sampled_from(Verdict), st.sampled_from(["", "cause"]), st.sampled_from(Mark), st.sampled_from(["", "fault"]),
        st.booleans(), st.sampled_from([None, True, False]), st.booleans(), st.booleans(), st.sampled_from(["", "gave_up"]),
    )
)  # fmt: skip
def test_only_a_valid_grant_over_unchanged_files_may_run(facts):
    state, _ = judge(facts)
    if state in {State.APPROVED, State.RUNNING}:
        assert facts.verdict is Verdict.VALID
        assert not facts.differs
        assert facts.mark is not Mark.MODIFIED
        assert not facts.ambiguous


def test_modified_leaves_for_approved_by_a_decision_only():
    ways = {event for event, state in TRANSITIONS[State.MODIFIED].items() if state in {State.APPROVED, State.RUNNING}}
    assert ways == {Event.APPROVED, Event.RESTORED}
    assert set(TRANSITIONS) == set(State)
    assert following(State.BLOCKED, Event.STARTED) is None


class Approval(RuleBasedStateMachine):
    """Any sequence of edits, decisions, starts and restarts over a real installation, beside a model of what is approved."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="trust-"))
        self.home = TrustHome(self.folder)
        self.approved: bytes | None = None
        self.content = b"# 0\n"
        self.dirty = self.rejected = False

    def teardown(self) -> None:
        self.home.userdata.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize()
    def begin(self) -> None:
        self.home.add(files={SETUP: "# 0\n"})

    @rule(number=st.integers(0, 2))
    def edit(self, number: int) -> None:
        self.content = f"# {number}\n".encode()
        (self.home.packs_dir / "alpha" / SETUP).write_bytes(self.content)

    @rule()
    def scan(self) -> None:
        self.home.scan()
        self.look()

    @rule()
    def restart(self) -> None:
        self.home.userdata.close()
        self.home.reopen().approvals.scan()
        self.look()

    @rule()
    def review(self) -> None:
        self.home.approvals.review("alpha")
        self.look()

    @rule()
    def approve(self) -> None:
        self.home.approve()
        self.approved, self.dirty, self.rejected = self.content, False, False

    @rule()
    def reject(self) -> None:
        self.look()
        try:
            self.home.approvals.reject("alpha", reason="no", actor="tester")
        except ConflictError:  # the table of states has no such edge
            assert self.home.approvals.status("alpha").state in {State.BLOCKED, State.ERROR}
            return
        self.approved, self.dirty, self.rejected = None, False, True

    @rule()
    def restore(self) -> None:
        self.look()
        try:
            self.home.approvals.restore("alpha", actor="tester")
        except ConflictError:
            assert not self.dirty
            return
        assert self.dirty
        self.content, self.dirty = self.approved or b"", False

    @rule()
    def start(self) -> None:
        self.look()
        try:
            copy = self.home.approvals.open_for_start("alpha", isolation=STANDARD)
        except RumiError:
            assert self.approved is None or self.dirty
            return
        assert self.approved is not None
        assert not self.dirty
        assert (copy.path / SETUP).read_bytes() == self.approved
        self.home.approvals.mark("alpha", "started")

    @rule(event=st.sampled_from(["stopped", "gave_up", "started"]))
    def report(self, event: str) -> None:
        try:
            self.home.approvals.mark("alpha", event, "crashed")
        except RumiError:
            assert event == "started"

    def look(self) -> None:
        """Every look at changed files is remembered for ever: from then on only a decision helps."""
        self.dirty |= self.approved is not None and self.content != self.approved

    @invariant()
    def nothing_unapproved_has_rights(self) -> None:
        status = self.home.approvals.status("alpha")
        if status.state in {State.APPROVED, State.RUNNING}:
            assert self.approved is not None
            assert not self.dirty
        if self.approved is None or self.dirty:
            assert self.home.approvals.grant("alpha") is None


Approval.TestCase.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestApproval = Approval.TestCase
TestApproval = pytest.mark.timeout(100)(TestApproval)

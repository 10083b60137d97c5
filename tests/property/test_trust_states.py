"""The real manager under any sequence of events: nothing leads from MODIFIED to APPROVED but the operator's decision.

Beside the machine in ``test_trust.py``, which compares with a model, this one only watches: after each event it looks at
the Pack with a host that knows the files alone, and remembers what it saw.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from backend_core.errors import RumiError
from core_runtime.rules.approval import State
from tests.support.trust_home import SETUP, STANDARD, Clock, TrustHome

MAY_RUN = {State.APPROVED, State.RUNNING}
ASKED = [
    {"type": "userdata.read", "paths": ["shared/**"], "reason": "reads what others share"},
    {"type": "event.publish", "topics": ["news.*"], "reason": "tells when something happened"},
]


class Watched(RuleBasedStateMachine):
    """Decisions, edits, updates, restarts, clocks and old grants over a real installation."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="states-"))
        self.home = TrustHome(self.folder / "home", clock=Clock())
        self.author = TrustHome(self.folder / "author")
        self.state: State | None = None
        self.decided = True
        self.barred = (
            False  # seen as modified or blocked since the last decision: whatever comes, only another one helps
        )
        self.versions = 0
        self.old_grants: list[bytes] = []
        self.approved_digests: set[str] = set()

    def teardown(self) -> None:
        for home in (self.home, self.author):
            home.userdata.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    @initialize()
    def begin(self) -> None:
        self.home.add(permissions=ASKED)
        self.look()

    # --- the operator decides ---

    @rule(stale=st.booleans())
    def approve(self, stale: bool) -> None:
        before = self.home.scan()
        digest = f"sha256:{'0' * 64}" if stale else None
        try:
            grant = self.home.approve(digest=digest)
        except RumiError:
            assert stale or before.state not in {State.INSTALLED, State.PENDING, State.MODIFIED, State.BLOCKED}
            return
        assert not stale
        self.decision(grant.digest)

    @rule()
    def restore(self) -> None:
        try:
            self.home.approvals.restore("alpha", actor="tester")
        except RumiError:
            return
        self.decision("")

    @rule(proves=st.booleans(), edited=st.booleans())
    def update(self, proves: bool, edited: bool) -> None:
        """Stage, approve on trial, then keep it or go back to the version before, which an operator approved as well."""
        self.versions += 1
        try:
            self.home.approvals.add(self.author.add(version=f"2.0.{self.versions}", permissions=ASKED), actor="tester")
            grant = self.home.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
        except RumiError:
            return
        self.decision(grant.digest)
        if edited:
            self.edit(7)
            self.home.scan()
        try:
            if proves:
                self.home.approvals.finish_update("alpha")
            else:
                self.home.approvals.return_update("alpha", cause="did not answer")
        except RumiError:
            assert edited
            self.look()

    @rule()
    def roll_back(self) -> None:
        try:
            self.home.approvals.rollback("alpha", actor="tester")
        except RumiError:
            return
        self.decision("")

    @rule()
    def reject(self) -> None:
        try:
            self.home.approvals.reject("alpha", reason="no", actor="tester")
        except RumiError:
            return
        assert self.home.approvals.grant("alpha") is None

    @rule(keep=st.integers(0, 2))
    def narrow(self, keep: int) -> None:
        """Fewer rights are a decision about rights, never one about files."""
        try:
            self.home.approvals.narrow("alpha", permissions=[item["type"] for item in ASKED[:keep]], actor="tester")
        except RumiError:
            return
        assert not self.barred

    @rule()
    def widen(self) -> None:
        try:
            self.home.approvals.widen("alpha", permissions=["userdata.read"], actor="tester")
        except RumiError:
            return
        assert not self.barred

    @rule()
    def remove_and_add_again(self) -> None:
        if (self.home.packs_dir / "alpha").exists():
            self.home.approvals.remove("alpha", actor="tester")
        self.home.add(permissions=ASKED)
        assert self.home.scan().state in {State.INSTALLED, State.PENDING}

    # --- nobody decides ---

    @rule(number=st.integers(0, 2))
    def edit(self, number: int) -> None:
        (self.home.packs_dir / "alpha" / SETUP).write_text(f"# {number}\n")

    @rule()
    def take_executable(self) -> None:
        (self.home.packs_dir / "alpha" / SETUP).chmod(0o755)

    @rule()
    def first_bytes_return(self) -> None:
        path = self.home.packs_dir / "alpha" / SETUP
        path.write_text("def run(context):\n    pass\n")
        path.chmod(0o644)

    @rule()
    def review(self) -> None:
        self.home.approvals.review("alpha")

    @rule()
    def restart(self) -> None:
        self.home.userdata.close()
        self.home.reopen().approvals.scan()

    @rule(event=st.sampled_from(["started", "stopped", "gave_up"]))
    def report(self, event: str) -> None:
        try:
            self.home.approvals.mark("alpha", event, "crashed")
        except RumiError:
            assert event == "started"

    @rule()
    def start(self) -> None:
        try:
            copy = self.home.approvals.open_for_start("alpha", isolation=STANDARD)
        except RumiError:
            return
        assert copy.digest in self.approved_digests

    @rule(passed_s=st.sampled_from([-1e6, -1.0, 1.0, 1e6]))
    def clock(self, passed_s: float) -> None:
        self.home.clock.now += passed_s

    @rule()
    def keep_grant(self) -> None:
        if self.home.grant_file().exists():
            self.old_grants.append(self.home.grant_file().read_bytes())

    @precondition(lambda self: self.old_grants)
    @rule(data=st.data())
    def old_grant_returns(self, data: st.DataObject) -> None:
        self.home.grant_file().write_bytes(data.draw(st.sampled_from(self.old_grants)))

    @rule()
    def lose_grant(self) -> None:
        self.home.grant_file().unlink(missing_ok=True)

    @rule()
    def stage_only(self) -> None:
        self.versions += 1
        try:
            self.home.approvals.add(self.author.add(version=f"3.0.{self.versions}", permissions=ASKED), actor="tester")
        except RumiError:
            return
        self.home.approvals.reject_update("alpha", actor="tester")

    # --- watching ---

    def decision(self, digest: str) -> None:
        self.decided = True
        grant = self.home.approvals.grant("alpha")
        if digest:
            self.approved_digests.add(digest)
            assert grant is None or grant.digest == digest
        else:
            assert grant is not None
            assert grant.digest in self.approved_digests

    def look(self) -> None:
        self.state = self.home.scan().state

    @invariant()
    def modified_becomes_approved_by_a_decision_only(self) -> None:
        before, self.state = self.state, self.home.scan().state
        if self.decided:
            self.barred = False
        self.barred |= self.state in {State.MODIFIED, State.BLOCKED}
        assert not (self.barred and self.state in MAY_RUN), f"{before} became {self.state} without a decision"
        grant = self.home.approvals.grant("alpha")
        assert (grant is not None) == (self.state in MAY_RUN) or self.state is State.ERROR
        if grant is not None:
            assert not self.barred
            assert grant.digest in self.approved_digests
        self.decided = False


Watched.TestCase.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWatched = pytest.mark.timeout(110)(Watched.TestCase)

"""Every single bit of what carries a decision: flipped alone, it gives nobody a right and takes no refusal back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend_core.errors import RumiError
from core_runtime.drivers.counters import Counters
from core_runtime.drivers.grants import GrantFiles, Loaded
from core_runtime.rules.approval import Mark, State, Verdict
from tests.support.trust_home import SETUP, STANDARD, TrustHome

RIGHTS = [
    {"type": "userdata.read", "paths": ["shared/**"], "reason": "reads what others share"},
    {"type": "event.publish", "topics": ["news.*"], "reason": "tells when something happened"},
]


def flipped(path: Path, *offsets: int) -> Iterator[int]:
    """The file with one bit changed at each of ``offsets`` at once, eight times; then as it was."""
    data = path.read_bytes()
    with path.open("r+b", buffering=0) as file:
        for bit in range(8):
            for offset in offsets:
                file.seek(offset)
                file.write(bytes([data[offset] ^ 1 << bit]))
            yield bit
        for offset in offsets:
            file.seek(offset)
            file.write(data[offset : offset + 1])
    assert path.read_bytes() == data


@pytest.fixture
def home(tmp_path):
    """alpha is approved, beta was rejected and its grant put back, gamma was approved and then edited."""
    home = TrustHome(tmp_path)
    home.approved("alpha", permissions=RIGHTS)
    home.approved("beta", provides=["service.beta"])
    old = home.grant_file("beta").read_bytes()
    home.approvals.reject("beta", reason="no", actor="tester")
    home.grant_file("beta").write_bytes(old)
    root = home.approved("gamma", provides=["service.gamma"])
    text = (root / SETUP).read_bytes()
    (root / SETUP).write_bytes(text + b"#")
    home.scan("gamma")
    (root / SETUP).write_bytes(text)
    return home


def states(home: TrustHome) -> dict[str, State]:
    return {status.pack_id: status.state for status in home.reopen().approvals.scan()}


def stand(files: GrantFiles) -> dict[str, Loaded]:
    return {pack_id: files.load(pack_id) for pack_id in ("alpha", "beta", "gamma")}


def test_every_flipped_bit_of_a_grant_refuses(home):
    files, path = home.approvals.grants, home.grant_file()
    size = path.stat().st_size
    assert files.load("alpha").verdict is Verdict.VALID
    seen = set()
    for offset in range(size):
        for bit in flipped(path, offset):
            loaded = files.load("alpha")
            assert loaded.verdict is Verdict.FAULTY, f"bit {bit} of byte {offset} of {size}"
            assert loaded.grant is None
            seen.add(loaded.cause)
    assert seen == {"grant_truncated", "grant_unsigned", "grant_forged"}
    assert files.load("alpha").verdict is Verdict.VALID


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.99])
def test_a_flipped_bit_of_a_grant_stops_the_pack_at_the_manager(home, place):
    path = home.grant_file()
    for _ in flipped(path, int(place * path.stat().st_size)):
        assert states(home)["alpha"] is State.ERROR
        assert home.approvals.grant("alpha") is None
        with pytest.raises(RumiError):
            home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert states(home)["alpha"] is State.APPROVED


def test_every_flipped_bit_of_one_counters_slot_changes_no_answer(home):
    """The other slot says the same: a damaged half neither stops a Pack nor takes a refusal back."""
    files, path = home.approvals.grants, home.secrets / ".counters"
    data, before = path.read_bytes(), stand(home.approvals.grants)
    assert [loaded.verdict for loaded in before.values()] == [Verdict.VALID, Verdict.FAULTY, Verdict.VALID]
    assert (before["beta"].mark, before["gamma"].mark) == (Mark.BLOCKED, Mark.MODIFIED)
    half = len(data) // 2
    for start in (0, half):
        written = len(data[start : start + half].rstrip())
        for offset in (*range(written), half - 1):
            for bit in flipped(path, start + offset):
                assert stand(files) == before, f"bit {bit} of byte {offset} of the slot at {start}"


def test_every_flipped_bit_of_both_counters_slots_refuses(home):
    files, path = home.approvals.grants, home.secrets / ".counters"
    data = path.read_bytes()
    half = len(data) // 2
    assert data[:half].rstrip() == data[half:].rstrip()
    for offset in range(len(data[:half].rstrip())):
        for bit in flipped(path, offset, half + offset):
            counters = files.ledger.read()
            assert not isinstance(counters, Counters), f"bit {bit} of byte {offset}"
            loaded = files.load("alpha", counters)
            assert (loaded.verdict, loaded.cause) == (Verdict.FAULTY, counters.cause)
    assert states(home) == {"alpha": State.APPROVED, "beta": State.BLOCKED, "gamma": State.MODIFIED}


def test_every_flipped_bit_of_the_key_refuses_everything(home):
    files, path = home.approvals.grants, home.secrets / ".secret_key"
    for offset in range(len(path.read_bytes().strip())):
        for bit in flipped(path, offset):
            for loaded in stand(files).values():
                assert loaded.verdict is Verdict.FAULTY, f"bit {bit} of byte {offset}"
                assert loaded.cause in {"grant_forged", "key_malformed"}
    assert files.load("alpha").verdict is Verdict.VALID

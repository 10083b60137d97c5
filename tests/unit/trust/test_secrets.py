"""Secrets as they lie on the disk and as they are handed over: to whom, how often, and what every way of damage is called."""

from __future__ import annotations

import os
import stat
import threading
from functools import partial

import pytest

from backend_core import files
from backend_core.errors import (
    ConflictError,
    DeniedError,
    HostError,
    NotFoundError,
    RequestError,
    RumiError,
    TrustError,
)
from core_runtime.drivers import faults
from core_runtime.rules.approval import State
from core_runtime.rules.secret import MAX_SECRETS, MAX_VALUE_BYTES
from tests.support.trust_home import TrustHome

VALUE = "correct horse battery staple"
ASKS = [{"type": "secret", "names": ["token", "other"], "reason": "signs in"}]


@pytest.fixture
def home(tmp_path):
    made = TrustHome(tmp_path)
    made.add(permissions=ASKS)
    made.approve(permissions=["secret"])
    put(made)
    return made


def put(home: TrustHome, name: str = "token", value: str = VALUE, pack_id: str = "alpha") -> None:
    home.vault.set(pack_id, name, value, identity=f"github:author/{pack_id}", actor="tester")


def path_of(home: TrustHome, name: str = "token", pack_id: str = "alpha"):
    return home.user_data / "secrets" / pack_id / f"{name}.secret"


def cause(home: TrustHome, name: str = "token", pack_id: str = "alpha") -> str:
    with pytest.raises(RumiError) as refused:
        home.vault.hand_over(pack_id, 99, name)
    assert VALUE not in str(refused.value) + repr(refused.value.as_dict())
    return refused.value.code


def test_a_value_is_handed_over_once_for_each_generation(home):
    assert home.vault.hand_over("alpha", 1, "token") == VALUE
    with pytest.raises(DeniedError) as again:
        home.vault.hand_over("alpha", 1, "token")
    assert again.value.code == "secret_taken"
    assert home.vault.hand_over("alpha", 2, "token") == VALUE
    assert cause(home, "other") == "secret_missing"
    events = [record["event"] for record in home.audit.tail(50) if record["event"].startswith("secret.")]
    assert events == ["secret.set", "secret.handed_over", "secret.handed_over"]


def test_many_at_once_get_one_value(home):
    got: list[str] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        try:
            got.append(home.vault.hand_over("alpha", 5, "token"))
        except DeniedError as error:
            got.append(error.code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted([VALUE, *["secret_taken"] * 7])


def test_a_plain_approval_leaves_secrets_out(tmp_path):
    home = TrustHome(tmp_path)
    home.approved(permissions=ASKS)
    put(home)
    assert cause(home) == "denied"
    assert cause(home, "never-heard-of") == "denied"
    home.approvals.widen("alpha", permissions=[{"type": "secret", "names": ["token"], "mode": "once"}], actor="tester")
    assert home.vault.hand_over("alpha", 1, "token") == VALUE
    assert cause(home) == "denied"  # the one use is spent
    assert cause(home, "other") == "denied"


def test_a_missing_value_spends_no_use_and_can_be_asked_for_later(tmp_path):
    home = TrustHome(tmp_path)
    home.add(permissions=ASKS)
    home.approve(permissions=[{"type": "secret", "names": ["token"], "mode": "once"}])
    assert cause(home) == "secret_missing"
    put(home)
    assert home.vault.hand_over("alpha", 99, "token") == VALUE


def test_revoking_acts_on_the_next_request_and_time_ends_it(home):
    home.approvals.narrow("alpha", permissions=[], actor="tester")
    assert cause(home) == "denied"
    limited = {"type": "secret", "names": ["token"], "mode": "until", "until": home.clock.now + 60}
    home.approvals.widen("alpha", permissions=[limited], actor="tester")
    assert home.vault.hand_over("alpha", 1, "token") == VALUE
    home.clock.advance(61)
    assert cause(home) == "denied"
    home.approvals.reject("alpha", reason="no", actor="tester")
    assert cause(home) == "denied"


def test_files_are_private_and_hold_nothing_readable(home, tmp_path):
    for path in (home.user_data / "secrets", path_of(home).parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path_of(home).stat().st_mode) == 0o600
    old = os.umask(0)
    try:
        put(home, "other", "another value")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path_of(home, "other").stat().st_mode) == 0o600
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert VALUE.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("size", [0, 1, 20, -2, -30])
def test_a_truncated_file_is_refused_by_name(home, size):
    raw = path_of(home).read_bytes()
    path_of(home).write_bytes(raw[:size])
    assert cause(home) == "secret_truncated"
    assert home.vault.entries("alpha", identity="github:author/alpha")[0]["cause"] == "secret_truncated"


def test_every_flipped_bit_is_refused(home):
    raw = path_of(home).read_bytes()
    for at in range(len(raw)):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        path_of(home).write_bytes(bytes(changed))
        with pytest.raises(TrustError) as refused:
            home.vault.store.reveal("alpha", "token")
        assert refused.value.code in {"secret_truncated", "secret_forged"}


def test_a_copied_file_is_refused_wherever_it_lies(home):
    raw = path_of(home).read_bytes()
    path_of(home, "other").write_bytes(raw)
    assert cause(home, "other") == "secret_copied"
    home.add("beta", permissions=ASKS)
    home.approve("beta", permissions=["secret"])
    path_of(home, pack_id="beta").parent.mkdir()
    path_of(home, pack_id="beta").write_bytes(raw)
    assert cause(home, pack_id="beta") in {"secret_copied", "secret_foreign"}
    # made to say that it belongs there, it does not open any more
    path_of(home, pack_id="beta").write_bytes(raw.replace(b'"alpha"', b'"beta"'))
    assert cause(home, pack_id="beta") == "secret_forged"


def test_odd_files_are_refused_and_hang_nobody(home, tmp_path):
    secret = path_of(home)
    kept = secret.read_bytes()
    secret.unlink()
    secret.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(kept)
    assert cause(home) == "secret_unreadable"
    secret.unlink()
    os.mkfifo(secret)
    assert cause(home) == "secret_unreadable"
    secret.unlink()
    secret.mkdir()
    assert cause(home) == "secret_unreadable"
    secret.rmdir()
    secret.write_bytes(b"x" * (4 * MAX_VALUE_BYTES))
    assert cause(home) == "secret_unreadable"
    assert len(home.vault.entries("alpha", identity="github:author/alpha")) == 1
    home.vault.remove("alpha", "token", actor="tester")
    assert cause(home) == "secret_missing"


def test_another_identity_under_the_same_id_gets_nothing(home):
    home.approvals.remove("alpha", actor="tester")  # without the host, which would drop the secrets: a crash between
    home.add(identity="github:evil/alpha", permissions=ASKS)
    home.approve(digest=home.approvals.review("alpha").digest, permissions=["secret"])
    assert cause(home) == "secret_foreign"
    assert home.vault.drop_others("alpha", "github:evil/alpha", actor="tester") == 1
    assert not path_of(home).exists()
    assert cause(home) == "secret_missing"


def test_a_removed_pack_has_no_secrets(home):
    put(home, "other", "another value")
    home.remove()
    assert not path_of(home).parent.exists()
    assert home.vault.drop("alpha", actor="tester") == 0


def test_nobody_inherits_what_an_interrupted_removal_left(home):
    def failing(point):
        if point == "remove.unlinked":
            raise HostError("Storage failed", code="storage")

    faults.install(failing)
    try:
        with pytest.raises(HostError):
            home.remove()
    finally:
        faults.install(None)
    assert (home.approvals.status("alpha").state, home.scan().cause) == (State.ERROR, "removal_unfinished")
    assert path_of(home).exists()
    for again in (partial(home.approve, permissions=["secret"]), partial(home.approvals.add, packs(home), actor="tester")):
        with pytest.raises(ConflictError) as refused:
            again()
        assert refused.value.code == "removal_unfinished"
    assert home.approvals.grant("alpha") is None
    home.reopen()  # finishes it
    assert not path_of(home).parent.exists()
    assert not (home.packs_dir / "alpha").exists()
    home.add(permissions=ASKS)
    home.approve(permissions=["secret"])
    assert cause(home) == "secret_missing"


def test_what_is_put_in_a_removed_packs_place_stays(home):
    home.remove()
    home.add(permissions=ASKS)
    home.reopen()
    assert home.scan().state is State.INSTALLED


def packs(home):
    """A folder of the same Pack elsewhere."""
    return TrustHome(home.home / "elsewhere").add(permissions=ASKS)


def test_rotation_of_the_key_seals_secrets_again(home):
    before = path_of(home).read_bytes()
    home.approvals.grants.keyring.rotate()
    assert path_of(home).read_bytes() != before
    assert home.vault.hand_over("alpha", 1, "token") == VALUE
    path_of(home).write_bytes(before)  # what the old key sealed opens no longer
    assert cause(home) == "secret_forged"


def test_a_lost_or_readable_key_opens_nothing(home):
    key = home.secrets / ".secret_key"
    key.chmod(0o644)
    assert cause(home) in {"denied", "key_readable_by_others"}
    with pytest.raises(TrustError) as refused:
        home.vault.store.reveal("alpha", "token")
    assert refused.value.code == "key_readable_by_others"
    key.unlink()
    with pytest.raises(TrustError) as refused:
        home.vault.store.reveal("alpha", "token")
    assert refused.value.code == "key_missing"


def test_a_full_disk_keeps_the_old_value_and_hands_nothing_over_unrecorded(home, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", no_room)
        with pytest.raises(HostError):
            put(home, value="a newer value")
        with pytest.raises(HostError):
            home.vault.hand_over("alpha", 1, "token")
    assert home.vault.hand_over("alpha", 1, "token") == VALUE
    assert not list(path_of(home).parent.glob(".*"))


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0", ".hidden", "-x", "a b", "é", "x" * 65, "a\n"])
def test_names_that_are_no_names(home, name):
    with pytest.raises(RequestError) as refused:
        put(home, name)
    assert refused.value.code == "secret_name_invalid"
    assert cause(home, name) == "denied"
    with pytest.raises(NotFoundError):
        home.vault.remove("alpha", name, actor="tester")


def test_values_and_numbers_are_bounded_and_never_repeated(home):
    for value in ("", "x" * (MAX_VALUE_BYTES + 1), "\ud800" + VALUE):
        with pytest.raises(RequestError) as refused:
            put(home, value=value)
        assert refused.value.code == "secret_value_invalid"
        assert not value or value[1:30] not in str(refused.value)
    put(home, value="x" * MAX_VALUE_BYTES)
    for number in range(MAX_SECRETS - 1):
        put(home, f"n{number}")
    with pytest.raises(ConflictError) as full:
        put(home, "one-more")
    assert full.value.code == "secrets_full"
    put(home)  # replacing still works


def test_a_list_tells_when_and_never_what(home):
    [entry] = home.vault.entries("alpha", identity="github:author/alpha")
    assert entry == {"name": "token", "set_at": home.clock.now, "handed_at": None, "cause": ""}
    home.clock.advance(10)
    home.vault.hand_over("alpha", 1, "token")
    home.reopen().approvals.scan()
    [entry] = home.vault.entries("alpha", identity="github:author/alpha")
    assert entry["handed_at"] == home.clock.now


def test_values_of_earlier_runs_are_known_to_be_hidden(home):
    home.reopen()
    assert not home.redactions.knows("alpha")
    assert home.vault.store.load() == 1
    assert home.redactions.hide("alpha", f"it is {VALUE}") == "it is [secret]"


def test_a_declared_name_must_be_a_name(tmp_path):
    home = TrustHome(tmp_path)
    home.add(permissions=[{"type": "secret", "names": ["../x"], "reason": "r"}])
    with pytest.raises(RumiError):
        home.approve()

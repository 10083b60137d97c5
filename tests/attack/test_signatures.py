"""Signatures: nothing but the publisher's own key over just these files counts, and nothing that counts approves."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from backend_core.errors import ConflictError, RequestError, RumiError, TrustError
from core_runtime.drivers import signatures
from core_runtime.drivers.tree import read_tree
from core_runtime.rules.approval import State
from core_runtime.rules.signing import (
    ENVELOPE_BYTES,
    FILE,
    Flaw,
    Signed,
    envelope,
    key_bytes,
    key_text,
    message_of,
    payload_of,
    read_envelope,
)
from tests.support.signing import Publisher, document, of, written
from tests.support.trust_home import STANDARD, TrustHome


@pytest.fixture
def home(tmp_path) -> TrustHome:
    return TrustHome(tmp_path / "home")


@pytest.fixture
def author() -> Publisher:
    return Publisher()


def folder_of(home: TrustHome, at: Path, *, version: str = "1.0.0", text: str = "") -> Path:
    """A Pack outside of the installation, as it would come from somewhere."""
    made = home.add(version=version, files={"backend/more.txt": text})
    shutil.rmtree(at, ignore_errors=True)
    shutil.copytree(made, at)
    shutil.rmtree(made)
    return at


def refused(home: TrustHome, source: Path, code: str, cause: str = "") -> TrustError:
    """It does not come in, nothing is left of it, and that is on record."""
    before = sorted(path.name for path in (home.packs_dir, *home.packs_dir.iterdir()))
    with pytest.raises(TrustError) as caught:
        home.approvals.add(source, actor="tester")
    assert caught.value.code == code
    assert not cause or caught.value.fields["cause"] == cause
    assert sorted(path.name for path in (home.packs_dir, *home.packs_dir.iterdir())) == before
    assert not list((home.user_data / "staging").iterdir())
    told = home.audit.tail(1)[0]
    assert (told["event"], told["cause"]) == ("pack.signature_refused", code)
    return caught.value


def standing(home: TrustHome) -> str:
    return str(home.approvals.review("alpha").signature["standing"])


# --- a signature approves nothing ------------------------------------------------------------------------------------


def test_a_right_signature_of_a_known_publisher_approves_nothing(home, author, tmp_path) -> None:
    first = folder_of(home, tmp_path / "one")
    author.sign(first)
    home.approvals.add(first, actor="tester")
    assert standing(home) == "first_use"
    assert home.scan().state is State.PENDING
    with pytest.raises(RumiError):
        home.approvals.open_for_start("alpha", isolation=STANDARD)
    assert not home.approvals.publishers(), "adding and looking remember nobody"
    home.approve()
    assert standing(home) == "known"
    home.approvals.reject("alpha", reason="no", actor="tester")
    assert home.scan().state is State.BLOCKED
    assert home.approvals.publishers()["alpha"].key == author.key, "a rejection forgets no key"
    [decided] = [one for one in home.audit.tail(20) if one["event"] == "pack.approving"]
    assert decided["signed_by"] == author.key


# --- another publisher, or none any more -----------------------------------------------------------------------------


@pytest.fixture
def known(home, author, tmp_path) -> TrustHome:
    """An approved Pack that was signed."""
    source = folder_of(home, tmp_path / "known")
    author.sign(source)
    home.approvals.add(source, actor="tester")
    home.approve()
    return home


def test_a_swapped_key_is_refused_by_its_name(known, author, tmp_path) -> None:
    other = Publisher(author.name)
    newer = folder_of_update(tmp_path, known)
    other.sign(newer)
    error = refused(known, newer, "publisher_changed")
    assert error.fields == {"pinned": author.key, "found": other.key}
    assert "rumi publisher forget alpha" in error.hint


def folder_of_update(tmp_path: Path, home: TrustHome, version: str = "2.0.0") -> Path:
    newer = tmp_path / "newer"
    shutil.copytree(home.packs_dir / "alpha", newer)
    told = json.loads((newer / "backend/ecosystem.json").read_text())
    (newer / "backend/ecosystem.json").write_text(json.dumps({**told, "version": version}))
    (newer / FILE).unlink()
    return newer


def test_a_signature_that_was_taken_away_is_refused(known, tmp_path) -> None:
    refused(known, folder_of_update(tmp_path, known), "signature_missing")


def test_in_the_folder_itself_another_publisher_is_shown_and_not_approved(known) -> None:
    other, folder = Publisher(), known.packs_dir / "alpha"
    (folder / "backend/more.txt").write_text("changed")
    assert standing(known) == "signature_invalid"
    other.sign(folder)
    assert standing(known) == "publisher_changed"
    with pytest.raises(TrustError) as caught:
        known.approve(digest=known.approvals.review("alpha").digest)
    assert caught.value.code == "publisher_changed"
    (folder / FILE).unlink()
    assert standing(known) == "signature_missing"
    with pytest.raises(TrustError) as caught:
        known.approve()
    assert caught.value.code == "signature_missing"


def test_removing_a_pack_is_no_way_to_another_publisher(known, tmp_path) -> None:
    newer = folder_of_update(tmp_path, known)
    Publisher().sign(newer)
    known.remove()
    known.reopen()
    refused(known, newer, "publisher_changed")


def test_forgetting_is_the_operators_and_on_record(known, author, tmp_path) -> None:
    newer = folder_of_update(tmp_path, known)
    other = Publisher()
    other.sign(newer)
    assert known.approvals.forget_publisher("alpha", actor="tester").key == author.key
    assert known.audit.tail(1)[0]["event"] == "publisher.forgotten"
    known.approvals.add(newer, actor="tester")
    assert known.approvals.review_update("alpha").signature["standing"] == "first_use"
    known.approvals.begin_update("alpha", isolation=STANDARD, actor="tester")
    assert not known.approvals.publishers(), "what is on trial is remembered once it has proved itself"
    known.approvals.mark("alpha", "started")
    known.approvals.finish_update("alpha")
    assert known.approvals.publishers()["alpha"].key == other.key


def test_the_operator_may_demand_a_key_that_he_knows(home, author, tmp_path) -> None:
    source, other = folder_of(home, tmp_path / "in"), Publisher()
    for signed in (False, True):
        if signed:
            author.sign(source)
        with pytest.raises(TrustError) as caught:
            home.approvals.add(source, actor="tester", publisher=other.key)
        assert caught.value.code == "publisher_unexpected"
        assert caught.value.fields["found"] == (author.key if signed else "")
    with pytest.raises(TrustError):
        home.approvals.add(source, actor="tester", publisher="x")
    assert not list(home.packs_dir.iterdir())
    assert home.approvals.add(source, actor="tester", publisher=author.key).pack_id == "alpha"


# --- the list of known keys ------------------------------------------------------------------------------------------


def test_a_list_of_publishers_that_was_forged_put_back_or_removed_refuses(known, author, tmp_path) -> None:
    path = known.secrets / "publishers.json"
    older = path.read_bytes()
    known.approvals.forget_publisher("alpha", actor="tester")
    newer = folder_of_update(tmp_path, known)
    author.sign(newer)
    now = path.read_bytes()
    forged = now.replace(b'"publishers": {}', b'"publishers": {"beta": 1}')
    assert forged != now
    for content, code in ((older, "publishers_rolled_back"), (forged, "publishers_forged"), (None, "publishers_missing")):
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        known.reopen()
        with pytest.raises(TrustError) as caught:
            known.approvals.add(newer, actor="tester")
        assert caught.value.code == code
        known.approvals.scan()
        shown = known.approvals.review("alpha").signature
        assert (shown["standing"], shown["cause"]) == ("publishers_unknown", code)
    known.approvals.reset_publishers(actor="tester")
    known.approvals.add(newer, actor="tester")


def test_a_new_signing_key_of_the_installation_signs_the_list_again(known, author) -> None:
    known.approvals.rotate_key(actor="tester")
    known.reopen()
    assert known.approvals.publishers()["alpha"].key == author.key


# --- the envelope ----------------------------------------------------------------------------------------------------


def flaw_of(home: TrustHome, source: Path, cause: str) -> None:
    refused(home, source, "signature_invalid", cause)


def test_another_payload_type_is_refused_though_it_is_signed(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    payload = payload_of(author.statement(source))
    kind = "application/vnd.other+json"
    signature = author.private.sign(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    written(source, document(payload, (author.key, signature), payload_type=kind))
    flaw_of(home, source, "payload_type_unknown")
    written(source, document(payload, (author.key, author.private.sign(payload))))  # and not over the payload alone
    flaw_of(home, source, "signature_wrong")


def test_a_signature_of_other_files_another_pack_or_another_version(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    for other, cause in (
        ({"digest": "sha256:" + "0" * 64}, "signature_of_other_files"),
        ({"pack_id": "beta"}, "signature_of_other_pack"),
        ({"version": "9.0.0"}, "signature_of_other_pack"),
    ):
        written(source, of(author, author.statement(source, **other)))
        flaw_of(home, source, cause)


def test_every_change_to_a_signed_folder_shows(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    author.sign(source)
    setup = source / "backend/components/main/setup.py"
    kept = setup.read_text()
    for change, back in (
        (lambda: setup.write_text(kept + "#"), lambda: setup.write_text(kept)),
        (lambda: setup.chmod(0o755), lambda: setup.chmod(0o644)),
        ((source / ".hidden").touch, (source / ".hidden").unlink),
        (lambda: (source / f"backend/{FILE}").write_text("{}"), (source / f"backend/{FILE}").unlink),
        (lambda: setup.rename(setup.with_name("x.py")), lambda: setup.with_name("x.py").rename(setup)),
    ):
        change()
        flaw_of(home, source, "signature_of_other_files")
        back()
    (source / FILE).chmod(0o755)
    flaw_of(home, source, "envelope_executable")
    (source / FILE).chmod(0o644)
    home.approvals.add(source, actor="tester")


def test_a_foreign_key_under_the_publishers_name(home, author, tmp_path) -> None:
    source, thief = folder_of(home, tmp_path / "in"), Publisher(author.name)
    payload = payload_of(author.statement(source))
    written(source, document(payload, (author.key, thief.signature(payload))))  # says it is the author's
    flaw_of(home, source, "signature_wrong")
    written(source, document(payload, (thief.key, thief.signature(payload))))  # another key than the signed statement's
    flaw_of(home, source, "key_unusable")


def test_two_signatures_or_none_are_none(home, author, tmp_path) -> None:
    source, other = folder_of(home, tmp_path / "in"), Publisher()
    payload = payload_of(author.statement(source))
    mine = (author.key, author.signature(payload))
    for several in ((mine, mine), (mine, (other.key, other.signature(payload))), ()):
        written(source, document(payload, *several))
        flaw_of(home, source, "signatures_not_one")


def test_a_huge_envelope_is_not_read(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    author.sign(source)
    with (source / FILE).open("r+b") as file:
        file.truncate(512 * 1024 * 1024)  # a hole
    flaw_of(home, source, "envelope_too_large")
    assert read_envelope(b" " * (ENVELOPE_BYTES + 1)).code == "envelope_too_large"


def test_nothing_else_fits_into_an_envelope(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    author.sign(source)
    raw = (source / FILE).read_text()
    good = json.loads(raw)
    [one] = good["signatures"]
    loose = one["sig"][:-3] + chr(ord(one["sig"][-3]) + 1) + "=="  # bits of base64 that nobody reads
    assert base64.b64decode(loose) == base64.b64decode(one["sig"]), "the same signature, spelt otherwise"
    for other in ({**good, "more": 1}, {**good, "signatures": [{**one, "cert": "x"}]}, {**good, "signatures": [{**one, "sig": loose}]}):
        written(source, other)
        flaw_of(home, source, "envelope_not_canonical")
    for text in (raw + " ", " " + raw, raw.replace(":", ": ", 1), raw.rstrip("\n"), raw + "\n"):
        (source / FILE).write_text(text)
        flaw_of(home, source, "envelope_not_canonical")
    (source / FILE).write_text(raw.replace('{"payload"', '{"payload":"","payload"'))
    flaw_of(home, source, "envelope_malformed")
    (source / FILE).write_text(raw)
    home.approvals.add(source, actor="tester")


def test_no_algorithm_but_one_and_no_choice_of_it(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    curve = ec.generate_private_key(ec.SECP256R1())
    for key in ("none:", "hmac:" + author.key, "ed25519:" + "AB" * 32, author.key + "00", "ecdsa:" + author.key[8:], ""):
        statement = author.statement(source, key=key)
        written(source, of(author, statement))
        flaw_of(home, source, "key_unusable")
    payload = payload_of(author.statement(source))
    der = curve.sign(message_of(payload), ec.ECDSA(__import__("cryptography").hazmat.primitives.hashes.SHA256()))
    written(source, document(payload, (author.key, der)))
    flaw_of(home, source, "key_unusable")
    for odd in (b"", bytes(64), b"\xff" * 64):
        written(source, document(payload, (author.key, odd)))
        flaw_of(home, source, "key_unusable" if len(odd) != 64 else "signature_wrong")


def test_a_key_for_which_anybody_can_sign_is_none(home, author, tmp_path) -> None:
    """With the neutral point as key, one constant signature is right for every message; OpenSSL says so."""
    weak = (1).to_bytes(32, "little")
    constant = weak + bytes(32)
    Ed25519PublicKey.from_public_bytes(weak).verify(constant, b"anything at all")
    source = folder_of(home, tmp_path / "in")
    written(source, document(payload_of(author.statement(source, key=key_text(weak))), (key_text(weak), constant)))
    flaw_of(home, source, "key_unusable")


_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P


def _order(y: int) -> int:
    """The order of the point with this coordinate, by the curve's own arithmetic; 0 beyond eight."""
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    x = x if x * x % _P == square else x * pow(2, (_P - 1) // 4, _P) % _P
    assert x * x % _P == square
    point, sum_ = (x, y), (x, y)
    for order in range(1, 9):
        if sum_ == (0, 1):
            return order
        (x1, y1), (x2, y2) = point, sum_
        k = _D * x1 * x2 * y1 * y2 % _P
        sum_ = ((x1 * y2 + x2 * y1) * pow(1 + k, -1, _P) % _P, (y1 * y2 + x1 * x2) * pow(1 - k, -1, _P) % _P)
    return 0


def test_all_keys_of_small_order_are_known_in_every_spelling() -> None:
    from core_runtime.rules.signing import _SMALL

    assert sorted(_order(y) for y in _SMALL) == [1, 2, 4, 8, 8]  # with both signs: the eight points that there are
    for y in _SMALL:
        for spelt in {y, *({y + _P} if y + _P < 2**255 else set())}:
            for sign in (0, 2**255):
                assert key_bytes(key_text((spelt | sign).to_bytes(32, "little"))) is None
    assert _order(4 * pow(5, -1, _P) % _P) == 0, "the point that everybody uses is not among them"


@settings(max_examples=300)
@given(st.binary(max_size=400) | st.text(max_size=400).map(str.encode))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    assert isinstance(read_envelope(raw), Flaw)


_AUTHOR = Publisher()


@settings(max_examples=200)
@given(st.data())
def test_whatever_is_read_is_written_the_same_again(data) -> None:
    from core_runtime.rules.signing import Statement

    statement = Statement("alpha", "1.0.0", "sha256:" + "0" * 64, _AUTHOR.key, "A")
    raw = bytearray(envelope(statement, _AUTHOR.signature(payload_of(statement))))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    found = read_envelope(bytes(raw))
    if isinstance(found, Signed):
        assert envelope(found.statement, found.signature) == bytes(raw)


def test_names_of_publishers_reach_no_terminal_as_they_are(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    for name in ("a\x1b[2Jb", "a\u202eb", "x" * 101, "e\u0301"):
        with pytest.raises(RequestError):
            Publisher(name).sign(source)
        written(source, of(author, author.statement(source, publisher=name)))
        flaw_of(home, source, "statement_malformed")


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_private_key_is_its_owners_alone_and_never_in_anothers_place(tmp_path) -> None:
    path = tmp_path / "key.pem"
    public = signatures.new_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_text(signatures.read_key(path).public_key().public_bytes_raw()) == public
    kept = path.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for taken in (path, tmp_path / "link", tmp_path / "no/such/folder"):
        with pytest.raises(RequestError) as caught:
            signatures.new_key(taken)
        assert caught.value.code == "key_not_made"
    assert path.read_bytes() == kept
    assert not (tmp_path / "elsewhere").exists()
    path.chmod(0o640)
    with pytest.raises(RequestError) as caught:
        signatures.read_key(path)
    assert caught.value.code == "key_readable_by_others"


def test_a_key_of_another_kind_signs_nothing(tmp_path) -> None:
    path = tmp_path / "key.pem"
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for content, code in (
        (other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "key_of_other_kind"),
        (b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----\n", "key_malformed"),
        (b"", "key_malformed"),
    ):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(RequestError) as caught:
            signatures.read_key(path)
        assert caught.value.code == code


def test_a_pin_is_never_written_over(known, author) -> None:
    from core_runtime.rules.signing import Pin

    pins = known.approvals.grants.publishers
    with pytest.raises(ConflictError):
        pins.pin("alpha", Pin(Publisher().key, "x", "1", 0.0))
    assert pins.of("alpha").key == author.key


def test_a_tree_that_is_not_signed_has_the_digest_that_it_always_had(home, author, tmp_path) -> None:
    source = folder_of(home, tmp_path / "in")
    before = read_tree(source).digest
    statement = author.sign(source)
    assert statement.digest == before
    assert read_tree(source).digest != before, "what is approved covers the signature, too"
    assert author.sign(source) == statement, "signing again changes nothing"


def test_others_can_verify_it_by_the_words_of_the_standards(home, author, tmp_path) -> None:
    """With none of our code: DSSE's pre-authentication encoding, in-toto's statement, the documented digest."""
    source = folder_of(home, tmp_path / "in")
    author.sign(source)
    found = json.loads((source / "signature.dsse.json").read_bytes())
    payload = base64.b64decode(found["payload"])
    message = f"DSSEv1 {len(found['payloadType'])} {found['payloadType']} {len(payload)} ".encode() + payload
    statement = json.loads(payload)
    key = bytes.fromhex(statement["predicate"]["publisher"]["key"].removeprefix("ed25519:"))
    Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(found["signatures"][0]["sig"]), message)
    assert (found["payloadType"], statement["_type"]) == ("application/vnd.in-toto+json", "https://in-toto.io/Statement/v1")
    files = [path for path in source.rglob("*") if path.is_file() and path.name != "signature.dsse.json"]
    rows = [
        {"executable": bool(path.stat().st_mode & 0o111), "path": path.relative_to(source).as_posix(),
         "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for path in files
    ]  # fmt: skip
    listed = json.dumps(sorted(rows, key=lambda row: row["path"]), separators=(",", ":"), sort_keys=True)
    [subject] = statement["subject"]
    assert subject == {"name": "alpha", "digest": {"rumiTreeSha256": hashlib.sha256(listed.encode()).hexdigest()}}

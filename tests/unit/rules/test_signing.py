"""What a signature is and what it is worth, decided on values: each flaw and each standing by its name."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from backend_core.errors import TrustError
from core_runtime.rules.digest import FileEntry, tree_digest
from core_runtime.rules.signing import (
    ENVELOPE_BYTES,
    FILE,
    NAME_CHARS,
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Flaw,
    Pin,
    Seal,
    Signed,
    Standing,
    Statement,
    check_seal,
    envelope,
    fits,
    key_bytes,
    key_text,
    message_of,
    name_fault,
    payload_of,
    read_envelope,
    seal_document,
    signed_digest,
    weigh,
)

KEY = key_text(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw())
OTHER = key_text(Ed25519PrivateKey.from_private_bytes(b"\x01" * 32).public_key().public_bytes_raw())
DIGEST = "sha256:" + "0a" * 32
STATEMENT = Statement("alpha", "1.0.0", DIGEST, KEY, "A. Uthor")
SIGNATURE = bytes(range(64))
RAW = envelope(STATEMENT, SIGNATURE)
PIN = Pin(KEY, "A. Uthor", "1.0.0", 1.0)
GOOD = Seal(STATEMENT, None, DIGEST)
BAD = Seal(None, Flaw("signature_wrong", "why it is wrong"), DIGEST)
NONE = Seal(signed_digest=DIGEST)


def test_the_bytes_are_these_and_no_others() -> None:
    """Whoever verifies it elsewhere depends on each of them."""
    assert FILE == "signature.dsse.json"
    payload = (
        '{"_type":"https://in-toto.io/Statement/v1","predicate":{"publisher":{"key":"' + KEY + '","name":"A. Uthor"},"version":"1.0.0"},'
        '"predicateType":"rumi:pack-release:v1","subject":[{"digest":{"rumiTreeSha256":"' + "0a" * 32 + '"},"name":"alpha"}]}'
    )
    assert payload_of(STATEMENT) == payload.encode()
    assert message_of(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"
    told = {"payload": base64.b64encode(payload.encode()).decode(), "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"keyid": KEY, "sig": base64.b64encode(SIGNATURE).decode()}]}  # fmt: skip
    assert json.dumps(told, separators=(",", ":")).encode() + b"\n" == RAW
    assert read_envelope(RAW) == Signed(STATEMENT, message_of(payload.encode()), SIGNATURE)


def test_the_signed_digest_leaves_out_one_file_at_the_top_alone() -> None:
    entries = [FileEntry(path, False, 1, "0" * 64) for path in ("a", FILE, f"b/{FILE}", f"{FILE}.x")]
    assert signed_digest(entries) == tree_digest([entries[0], *entries[2:]])


def changed(**fields) -> bytes:
    document = json.loads(RAW)
    for name, value in fields.items():
        if value is None:
            del document[name]
        else:
            document[name] = value
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"


def paid(**fields) -> bytes:
    """With another payload, spelt canonically."""
    document = json.loads(payload_of(STATEMENT)) | fields
    raw = json.dumps({name: value for name, value in document.items() if value is not None}, separators=(",", ":"), sort_keys=True)
    return changed(payload=base64.b64encode(raw.encode()).decode())


_EIGHT = int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little")
ONE = {"keyid": KEY, "sig": base64.b64encode(SIGNATURE).decode()}
SUBJECT = {"digest": {"rumiTreeSha256": "0a" * 32}, "name": "alpha"}


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"x" * (ENVELOPE_BYTES + 1), "envelope_too_large"), (b"x" * ENVELOPE_BYTES, "envelope_malformed"), (b"", "envelope_malformed"), (b"[]", "envelope_malformed"),
        (b"null", "envelope_malformed"), (changed(payload=None), "envelope_malformed"), (changed(payload=1), "envelope_malformed"), (changed(payload="*"), "envelope_malformed"),
        (changed(signatures=None), "envelope_malformed"), (changed(signatures={}), "signatures_not_one"), (changed(signatures=[]), "signatures_not_one"),
        (changed(signatures=[ONE, ONE]), "signatures_not_one"), (changed(signatures=["x"]), "envelope_malformed"), (changed(signatures=[{"keyid": KEY}]), "envelope_malformed"),
        (changed(payloadType="x"), "payload_type_unknown"), (changed(payloadType=None), "envelope_malformed"),
        (changed(signatures=[{**ONE, "keyid": OTHER}]), "key_unusable"), (changed(signatures=[{"sig": ONE["sig"]}]), "key_unusable"),
        (changed(signatures=[{**ONE, "sig": ONE["sig"] + "!"}]), "envelope_malformed"), (changed(payload=json.loads(RAW)["payload"] + "!"), "envelope_malformed"),
        (changed(signatures=[{**ONE, "sig": base64.b64encode(bytes(63)).decode()}]), "key_unusable"), (changed(signatures=[{**ONE, "more": 1}]), "envelope_not_canonical"),
        (changed(more=1), "envelope_not_canonical"), (RAW[:-1], "envelope_not_canonical"), (b" " + RAW, "envelope_not_canonical"),
        (paid(_type="x"), "statement_unknown"), (paid(predicateType="x"), "statement_unknown"), (paid(_type=None), "statement_malformed"), (paid(subject=[]), "statement_malformed"),
        (paid(subject=[SUBJECT, SUBJECT]), "statement_malformed"), (paid(subject=[{**SUBJECT, "digest": {}}]), "statement_malformed"), (paid(more=1), "statement_malformed"),
        (paid(subject=[{**SUBJECT, "digest": {"rumiTreeSha256": "x"}}]), "statement_malformed"), (paid(subject=[{**SUBJECT, "digest": {"rumiTreeSha256": "0A" * 32}}]), "statement_malformed"),
        (paid(predicate={}), "statement_malformed"), (paid(predicate={"version": "1", "publisher": {"key": KEY, "name": "a\nb"}}), "statement_malformed"),
        (changed(payload=base64.b64encode(b"x").decode()), "statement_malformed"),
    ],
)  # fmt: skip
def test_each_way_of_being_no_signature_has_its_name(raw, code) -> None:
    found = read_envelope(raw)
    assert isinstance(found, Flaw)
    assert found.code == code
    assert found.detail.endswith(".")
    assert found.detail.isprintable()


def test_what_it_says_it_found_stands_in_the_sentence() -> None:
    assert f"{ENVELOPE_BYTES} bytes" in read_envelope(b"x" * (ENVELOPE_BYTES + 1)).detail
    assert "'text/x'" in read_envelope(changed(payloadType="text/x")).detail
    assert PAYLOAD_TYPE in read_envelope(changed(payloadType="text/x")).detail
    assert "found 2" in read_envelope(changed(signatures=[ONE, ONE])).detail
    assert OTHER in read_envelope(changed(signatures=[{**ONE, "keyid": OTHER}])).detail
    told = read_envelope(paid(predicateType="x:y")).detail
    assert "'x:y'" in told
    assert PREDICATE_TYPE in told
    assert STATEMENT_TYPE in payload_of(STATEMENT).decode()


@pytest.mark.parametrize("text", ["", KEY[:-1], KEY + "0", KEY.upper(), KEY[8:], "ed25519:" + "g" * 64, KEY + "\n", " " + KEY])
def test_what_is_no_key(text) -> None:
    assert key_bytes(text) is None
    assert key_text(key_bytes(KEY)) == KEY


@pytest.mark.parametrize("coordinate", [0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, *(sign % (2**255 - 19) for sign in (_EIGHT, -_EIGHT))])
def test_a_point_of_small_order_is_no_key_in_either_sign(coordinate) -> None:
    for value in (coordinate, coordinate | 2**255):
        assert key_bytes(key_text(value.to_bytes(32, "little"))) is None
    for near in (2, 2**255 - 17):
        assert key_bytes(key_text(near.to_bytes(32, "little"))) == near.to_bytes(32, "little")


def test_names_are_short_printable_and_in_the_usual_form() -> None:
    assert [name_fault(name) for name in ("", "A", "作者", "a" * NAME_CHARS, "é")] == [""] * 5
    assert f"longer than {NAME_CHARS}" in name_fault("a" * (NAME_CHARS + 1))
    assert "invisible" in name_fault("a\u202eb")
    assert "Unicode" in name_fault("e\u0301")


def test_a_statement_is_about_these_files_this_pack_and_this_version() -> None:
    here = {"pack_id": "alpha", "version": "1.0.0", "digest": DIGEST}
    assert fits(STATEMENT, **here) is None
    flaw = fits(STATEMENT, **{**here, "digest": "sha256:" + "1" * 64})
    assert (flaw.code, DIGEST in flaw.detail, "1" * 64 in flaw.detail) == ("signature_of_other_files", True, True)
    for other in ({"pack_id": "beta"}, {"version": "2.0.0"}):
        flaw = fits(STATEMENT, **{**here, **other})
        assert (flaw.code, "'alpha' '1.0.0'" in flaw.detail) == ("signature_of_other_pack", True)
        assert next(iter(other.values())) in flaw.detail


@pytest.mark.parametrize(
    ("seal", "pin", "standing"),
    [
        (NONE, None, Standing.UNSIGNED), (NONE, PIN, Standing.MISSING), (GOOD, None, Standing.FIRST), (GOOD, PIN, Standing.KNOWN),
        (GOOD, replace(PIN, key=OTHER), Standing.CHANGED), (GOOD, replace(PIN, publisher="x", version="9"), Standing.KNOWN),
        (BAD, None, Standing.INVALID), (BAD, PIN, Standing.INVALID), (replace(BAD, statement=STATEMENT), PIN, Standing.INVALID),
    ],
)  # fmt: skip
def test_the_table_of_standings_and_what_each_refuses(seal, pin, standing) -> None:
    assert weigh(seal, pin) is standing
    shown = seal_document(seal, pin)
    assert (shown["standing"], shown["signed_digest"]) == (standing.value, DIGEST)
    if standing in {Standing.UNSIGNED, Standing.FIRST, Standing.KNOWN}:
        check_seal("alpha", seal, pin)
        return
    with pytest.raises(TrustError) as caught:
        check_seal("alpha", seal, pin)
    assert caught.value.code == standing.value
    assert "'alpha'" in caught.value.detail
    assert caught.value.hint


def test_what_an_operator_reads_of_each_refusal() -> None:
    with pytest.raises(TrustError) as caught:
        check_seal("alpha", BAD, PIN)
    assert "why it is wrong" in caught.value.detail
    assert caught.value.fields == {"cause": "signature_wrong"}
    assert FILE in caught.value.hint
    for seal, words, key in ((NONE, "carries no signature", ""), (replace(GOOD, statement=replace(STATEMENT, key=OTHER)), f"is signed with {OTHER}", OTHER)):
        with pytest.raises(TrustError) as caught:
            check_seal("alpha", seal, PIN)
        assert words in caught.value.detail
        assert f"{KEY} ('A. Uthor')" in caught.value.detail
        assert caught.value.fields == {"pinned": KEY, "found": key}
        assert "rumi publisher forget alpha" in caught.value.hint


def test_a_key_that_is_demanded_goes_before_one_that_is_remembered() -> None:
    check_seal("alpha", GOOD, PIN, KEY)
    check_seal("alpha", GOOD, None, KEY)
    for seal, pin, wanted, code in (
        (GOOD, PIN, OTHER, "publisher_unexpected"), (NONE, None, KEY, "publisher_unexpected"), (NONE, PIN, KEY, "publisher_unexpected"),
        (BAD, None, KEY, "signature_invalid"), (GOOD, replace(PIN, key=OTHER), KEY, "publisher_changed"),
    ):  # fmt: skip
        with pytest.raises(TrustError) as caught:
            check_seal("alpha", seal, pin, wanted)
        assert caught.value.code == code
    with pytest.raises(TrustError) as caught:
        check_seal("alpha", GOOD, PIN, "x" * 500)
    assert (caught.value.fields, KEY in caught.value.detail) == ({"wanted": "x" * 100, "found": KEY}, True)
    assert len(caught.value.detail) < 400
    assert caught.value.hint


def test_what_a_review_is_told() -> None:
    assert seal_document(GOOD, PIN) == {
        "standing": "known", "key": KEY, "publisher": "A. Uthor", "signed_digest": DIGEST, "cause": "", "detail": "",
        "pinned": {"key": KEY, "publisher": "A. Uthor", "version": "1.0.0"},
    }  # fmt: skip
    assert seal_document(BAD, None) == {
        "standing": "signature_invalid", "key": "", "publisher": "", "signed_digest": DIGEST, "cause": "signature_wrong", "detail": "why it is wrong", "pinned": None,
    }  # fmt: skip
    assert (GOOD.key, BAD.key, NONE.key) == (KEY, "", "")


def test_the_words_of_standings_are_what_faces_and_scripts_read() -> None:
    assert {standing.name: standing.value for standing in Standing} == {
        "UNSIGNED": "unsigned", "FIRST": "first_use", "KNOWN": "known", "CHANGED": "publisher_changed",
        "MISSING": "signature_missing", "INVALID": "signature_invalid",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "code"),
    [
        # small enough to be read: then it is the one spelling that it lacks
        ([[[[[1]]]]], "envelope_not_canonical"),
        ([0] * 40, "envelope_not_canonical"),
        # not even read: what decides is counted before anything is built
        ([[[[[[[[1]]]]]]]], "envelope_malformed"),
        ([0] * 65, "envelope_malformed"),
    ],
)
def test_an_envelope_is_read_within_narrow_bounds(more, code) -> None:
    found = read_envelope(changed(more=more))
    assert isinstance(found, Flaw)
    assert found.code == code
    inside = read_envelope(paid(more=more))
    assert isinstance(inside, Flaw)
    assert inside.code == "statement_malformed"


def test_an_envelope_may_be_exactly_as_large_as_what_any_signature_needs() -> None:
    assert ENVELOPE_BYTES == 8_192
    long = changed(more="")
    padded = changed(more="x" * (8_192 - len(long)))
    for raw, code in ((padded, "envelope_not_canonical"), (changed(more="x" * (8_193 - len(long))), "envelope_too_large")):
        found = read_envelope(raw)
        assert isinstance(found, Flaw)
        assert found.code == code
    longest = replace(STATEMENT, publisher="界" * NAME_CHARS, pack_id="p" * 128, version="9" * 64)
    assert isinstance(read_envelope(envelope(longest, SIGNATURE)), Signed)
    assert NAME_CHARS == 100

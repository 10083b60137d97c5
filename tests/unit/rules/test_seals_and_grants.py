"""Signed documents byte by byte, and what every field of a grant becomes on its way to the file and back."""

from __future__ import annotations

import hashlib
import hmac
import json
from types import MappingProxyType

import pytest
from msgspec.structs import replace

from core_runtime.rules.dependencies import Dependencies
from core_runtime.rules.digest import Fingerprint
from core_runtime.rules.grants import (
    EMPTY,
    Grant,
    Imported,
    Mode,
    Permission,
    Rejection,
    flow_claim,
    freeze,
    grant_document,
    is_flow_claim,
    permission_document,
    read_grant,
    rejection_document,
    seconds,
    thaw,
    timestamp,
    trees_of,
    weigh,
)
from core_runtime.rules.sandbox import DriverKind, Isolation, Level
from core_runtime.rules.seals import (
    GRANT,
    SIGNATURE,
    Fault,
    encode,
    encode_line,
    key_for,
    open_document,
    sealed,
    signature_of,
    well_formed_key,
)

KEY = "0123456789abcdef" * 4
DOCUMENT = {"b": "ü", "a": [1, {"d": None, "c": True}]}


def by_hand(document: dict, key: str = KEY) -> str:
    """The signature as the format is published."""
    message = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    return hmac.new(key.encode(), message, hashlib.sha256).hexdigest()


def test_the_signature_is_the_published_one():
    assert (SIGNATURE, GRANT) == ("_hmac_signature", "grant")
    assert signature_of(DOCUMENT, KEY) == by_hand(DOCUMENT)
    assert signature_of({**DOCUMENT, "_hmac_signature": "x", "_hmac_other": 1}, KEY) == by_hand(DOCUMENT)
    assert signature_of({**DOCUMENT, "x_hmac": 1}, KEY) != by_hand(DOCUMENT)
    assert sealed({**DOCUMENT, "_hmac_signature": "old", "_hmac_x": 1, "x_hmac": 2}, KEY) == {
        **DOCUMENT, "x_hmac": 2, "_hmac_signature": by_hand({**DOCUMENT, "x_hmac": 2}),
    }  # fmt: skip


def test_how_signed_documents_are_written():
    assert encode(DOCUMENT).decode() == ('{\n "a": [\n  1,\n  {\n   "c": true,\n   "d": null\n  }\n ],\n "b": "ü"\n}\n')
    assert encode_line(DOCUMENT).decode() == '{"a": [1, {"c": true, "d": null}], "b": "ü"}'


def test_each_purpose_has_a_key_of_its_own():
    assert key_for(KEY, "grant") == KEY
    derived = hmac.new(KEY.encode(), b"rumi/1/counters", hashlib.sha256).hexdigest()
    assert key_for(KEY, "counters") == derived
    assert key_for(KEY, "update") not in {KEY, derived}


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (KEY, True), ("f" * 64, True), ("f" * 63, False), ("f" * 65, False), ("", False), ("F" * 64, False),
        ("g" * 64, False), ("f" * 63 + "g", False), ("g" + "f" * 63, False), ("X" + "f" * 63, False), ("f" * 63 + "\n", False),
    ],
)  # fmt: skip
def test_what_is_a_key(text, valid):
    assert well_formed_key(text) is valid


def signed(text: str) -> bytes:
    """``text`` with ``SIG`` replaced by the signature of the rest as a parser reads it."""
    body = json.loads(text.replace('"_hmac_signature": "SIG"', '"_hmac_signature": 0'))
    body.pop("_hmac_signature", None)
    return text.replace("SIG", by_hand(body)).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize(
    ("raw", "cause", "detail"),
    [
        (b"", "k_truncated", "It is no complete JSON document."),
        (b'{"a": 1', "k_truncated", "It is no complete JSON document."),
        (b"\xff{}", "k_truncated", "It is no complete JSON document."),
        (b"[" * 100_000, "k_truncated", "It is no complete JSON document."),
        (b"[1]", "k_truncated", "It is no JSON object."),
        (b'"_hmac_signature"', "k_truncated", "It is no JSON object."),
        (signed('{"a": 1, "a": 1, "_hmac_signature": "SIG"}'), "k_truncated", "It is no complete JSON document."),
        (signed('{"a": {"b": 1, "b": 1}, "_hmac_signature": "SIG"}'), "k_truncated", "It is no complete JSON document."),
        (signed('{"a": NaN, "_hmac_signature": "SIG"}'), "k_truncated", "It is no complete JSON document."),
        (signed('{"a": Infinity, "_hmac_signature": "SIG"}'), "k_truncated", "It is no complete JSON document."),
        (b'{"a": 1}', "k_unsigned", "It carries no signature."),
        (b'{"a": 1, "_hmac_signature": null}', "k_unsigned", "It carries no signature."),
        (b'{"a": 1, "_hmac_signature": 7}', "k_forged", "Its signature does not match its content."),
        (b'{"a": 1, "_hmac_signature": ""}', "k_forged", "Its signature does not match its content."),
        (b'{"a": 1, "_hmac_signature": "\\ud800"}', "k_forged", "Its signature does not match its content."),
        (b'{"a": "\\ud800", "_hmac_signature": "x"}', "k_forged", "It holds text that was never signed here."),
        (encode(sealed({"a": 1}, "f" * 64)), "k_forged", "Its signature does not match its content."),
    ],
    ids=range(17),
)  # fmt: skip
def test_a_document_that_does_not_count_says_why(raw, cause, detail):
    assert open_document(raw, KEY, "k") == Fault(cause, detail)


def test_a_document_that_counts_is_given_with_its_signature():
    document = sealed(DOCUMENT, KEY)
    for raw in (encode(document), encode_line(document)):
        assert open_document(raw, KEY, "k") == document
    assert Fault("x").detail == ""


# --- grants -----------------------------------------------------------------------------------------------------------

DIGEST = "sha256:" + "a" * 64
WHOLE = Grant(
    pack_id="alpha", pack_identity="github:author/alpha", version="1.2.3", digest=DIGEST, counter=3, epoch="e",
    isolation=Isolation(DriverKind.DOCKER, Level.REDUCED), created_at=100.0, approved_at=200.5, actor="tester",
    permissions=(
        Permission("interface.call", {"keys": ("b", "a")}),
        Permission("interface.call", {"keys": ("c", "a")}, Mode.ONCE),
        Permission("userdata.read", {"paths": ("s/**",)}, Mode.UNTIL, until=5.5),
        Permission("x", {"deep": MappingProxyType({"y": (1, 2)})}, Mode.RESTART, instance="run-1"),
    ),
    requested=({"type": "interface.call", "keys": ("a",)},),
    files={"b.py": Fingerprint("1" * 64, True), "a.py": Fingerprint("0" * 64, False), "c.sh": Fingerprint("2" * 64, True)},
    since={"service.b": 2.5, "service.a": 1.5}, base_runtime="3.11", restored_at=300.25,
    effects={"beta:service:main": DIGEST, "alpha:a:b": DIGEST},
)  # fmt: skip
WRITTEN = {
    "pack_id": "alpha",
    "status": "approved",
    "created_at": "1970-01-01T00:01:40.000Z",
    "approved_at": "1970-01-01T00:03:20.500Z",
    "file_hashes": {"a.py": "sha256:" + "0" * 64, "b.py": "sha256:" + "1" * 64, "c.sh": "sha256:" + "2" * 64},
    "permissions_requested": [{"type": "interface.call", "keys": ["a"]}],
    "rejection_reason": None,
    "pack_identity": "github:author/alpha",
    "version": "1.2.3",
    "digest": DIGEST,
    "executables": ["b.py", "c.sh"],
    "permissions": [
        {"type": "interface.call", "keys": ["b", "a"], "mode": "always"},
        {"type": "interface.call", "keys": ["c", "a"], "mode": "once"},
        {"type": "userdata.read", "paths": ["s/**"], "mode": "until", "until": 5.5},
        {"type": "x", "deep": {"y": [1, 2]}, "mode": "restart", "instance": "run-1"},
    ],
    "edges": ["a", "b", "c"],
    "isolation": {"driver": "docker", "level": "reduced"},
    "counter": 3,
    "epoch": "e",
    "actor": "tester",
    "since": {"service.a": 1.5, "service.b": 2.5},
    "base_runtime": "3.11", "dependencies": None,
    "restored_at": "1970-01-01T00:05:00.250Z",
    "effects": {"alpha:a:b": DIGEST, "beta:service:main": DIGEST},
}


def judged(**changed):
    document = {**WRITTEN, **changed}
    return weigh({k: v for k, v in document.items() if v is not ...}, pack_id="alpha", epoch="e", counter=3)


def test_a_grant_as_it_is_written_and_read():
    assert grant_document(WHOLE) == WRITTEN
    assert list(grant_document(WHOLE)["file_hashes"]) == ["a.py", "b.py", "c.sh"]
    assert list(grant_document(WHOLE)["since"]) == ["service.a", "service.b"]
    again = read_grant(WRITTEN)
    assert grant_document(again) == WRITTEN
    assert again.isolation == Isolation(DriverKind.DOCKER, Level.REDUCED, source="granted")
    assert dict(again.files) == dict(WHOLE.files)
    assert [p.instance for p in again.permissions] == ["", "", "", "run-1"]
    assert [p.until for p in again.permissions] == [None, None, 5.5, None]
    assert again.since == WHOLE.since
    assert read_grant({**WRITTEN, "status": "running"}).pack_id == "alpha"
    assert read_grant({**WRITTEN, "restored_at": None}).restored_at is None
    assert grant_document(read_grant({**WRITTEN, "restored_at": None}))["restored_at"] is None
    without = {k: v for k, v in WRITTEN.items() if k not in {"base_runtime", "restored_at"}}
    assert (read_grant(without).base_runtime, read_grant(without).restored_at) == ("", None)


def test_what_the_api_shows_of_a_grant():
    assert WHOLE.excerpt() == {
        "approved_at": WRITTEN["approved_at"], "created_at": WRITTEN["created_at"], "actor": "tester", "digest": DIGEST,
        "version": "1.2.3", "pack_identity": "github:author/alpha", "permissions": WRITTEN["permissions"],
        "isolation": {"driver": "docker", "level": "reduced"}, "base_runtime": "3.11", "files": 3, "packages": None,
        "effects": {"beta:service:main": DIGEST, "alpha:a:b": DIGEST},
    }  # fmt: skip
    assert [p.mode for p in WHOLE.of_type("interface.call")] == [Mode.ALWAYS, Mode.ONCE]
    assert WHOLE.permissions[0].texts("keys") == ("b", "a")
    assert WHOLE.permissions[0].texts("paths") == ()
    assert Permission("x").params is EMPTY
    assert dict(EMPTY) == {}
    assert Permission("x").instance == ""
    plain = Grant("a", "i", "v", "d", 1, "e", Isolation(DriverKind.EMBEDDED, Level.STANDARD), 0.0, 0.0, "x")
    assert (dict(plain.files), dict(plain.since), plain.base_runtime) == ({}, {}, "")
    assert permission_document(Permission("x", {"a": (1,)})) == {"type": "x", "a": [1], "mode": "always"}


@pytest.mark.parametrize(
    "changed",
    [
        {"status": "pending"}, {"status": "modified"}, {"status": ...}, {"digest": "x"}, {"digest": ...}, {"executables": ...},
        {"pack_identity": ...}, {"version": ...}, {"epoch": ...}, {"actor": ...}, {"created_at": ...}, {"created_at": "soon"},
        {"approved_at": ...}, {"permissions": ...}, {"permissions": [{"type": "x"}]}, {"permissions": [{"mode": "once"}]},
        {"permissions": [{"type": "x", "mode": "never"}]}, {"permissions": [{"type": "x", "mode": "until", "until": "soon"}]},
        {"permissions": [7]}, {"permissions_requested": ...}, {"file_hashes": ...}, {"file_hashes": {"a": 7}}, {"since": ...},
        {"since": {"k": "x"}}, {"since": []}, {"isolation": ...}, {"isolation": {"driver": "docker"}},
        {"isolation": {"driver": "other", "level": "strong"}}, {"isolation": {"driver": "docker", "level": "best"}},
        {"restored_at": "never"}, {"counter": 0}, {"counter": True}, {"counter": "3"}, {"counter": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_signed_grant_of_another_shape_is_malformed(changed):
    found = judged(**changed)
    assert isinstance(found, Fault)
    assert found.cause == "grant_malformed"
    assert found.detail.startswith("The grant is signed, but not of a form this version reads: ")


def test_a_grant_says_what_is_wrong_with_it():
    assert judged(counter=2) == Fault("grant_rolled_back", "The grant has counter 2; 3 is the latest decision.")
    assert judged(counter=5) == Fault("counters_rolled_back", "The grant has counter 5; the file knows only 3.")
    assert judged(epoch="f") == Fault(
        "grant_foreign_epoch", "The counters file was replaced after this grant was made."
    )
    assert judged(pack_id="beta") == Fault("grant_copied", "The grant was made for another Pack.")
    assert judged(pack_id=...) == Fault("grant_copied", "The grant was made for another Pack.")
    assert judged(counter=4) == read_grant({**WRITTEN, "counter": 4})
    assert "status 'pending'" in judged(status="pending").detail
    assert judged(counter=0).detail.endswith(": counter")
    assert judged(digest="x").detail.endswith(": digest")


def test_what_is_no_decision_of_this_installation():
    assert judged(counter=...) == Imported(DIGEST)
    assert judged(counter=..., digest=...) == Imported("")
    assert judged(counter=..., digest="a" * 64) == Imported(DIGEST)
    assert judged(status="blocked", rejection_reason="no", rejected_at="1970-01-01T00:00:07.000Z") == Rejection(
        "no", 7.0
    )
    assert judged(status="blocked", rejection_reason=None) == Rejection("", 100.0)
    assert judged(status="blocked", rejection_reason=..., counter=...) == Rejection("", 100.0)
    assert judged(status="blocked", created_at=...).cause == "grant_malformed"


def test_a_rejection_as_it_is_written():
    assert rejection_document("alpha", "no", 7.0) == {
        "pack_id": "alpha", "status": "blocked", "created_at": "1970-01-01T00:00:07.000Z", "approved_at": None,
        "file_hashes": {}, "permissions_requested": [], "rejection_reason": "no", "rejected_at": "1970-01-01T00:00:07.000Z",
    }  # fmt: skip


def test_json_frozen_and_thawed():
    frozen = freeze({"a": [1, {"b": "text"}], "c": None})
    assert frozen == MappingProxyType({"a": (1, MappingProxyType({"b": "text"})), "c": None})
    with pytest.raises(TypeError):
        frozen["a"] = 1
    assert thaw(frozen) == {"a": [1, {"b": "text"}], "c": None}
    assert thaw({7: (1,)}) == {"7": [1]}
    assert dict(freeze({7: "x"})) == {"7": "x"}
    assert (thaw("ab"), freeze("ab")) == ("ab", "ab")


def test_times():
    assert timestamp(1.2345) == "1970-01-01T00:00:01.234Z"
    assert seconds("1970-01-01T01:00:01+01:00") == 1.0
    assert seconds(5) == 5.0
    assert seconds(2.5) == 2.5
    for bad in (True, None, "soon"):
        with pytest.raises(ValueError):
            seconds(bad)


def test_a_grant_needs_its_files_and_its_unpacked_packages():
    assert trees_of(replace(WHOLE, dependencies=None)) == (DIGEST,)
    assert trees_of(replace(WHOLE, dependencies=Dependencies(("a==1",), missing=("a==1",)))) == (DIGEST,)
    assert trees_of(replace(WHOLE, dependencies=Dependencies(("a==1",), tree="sha256:b"))) == (DIGEST, "sha256:b")


def test_an_isolation_that_was_only_reported_is_written_so_and_no_other_source_is():
    told = {"driver": "docker", "level": "reduced"}
    for source, document in (("reported", {**told, "source": "reported"}), ("measured", told), ("granted", told)):
        isolation = Isolation(DriverKind.DOCKER, Level.REDUCED, source=source)
        assert grant_document(replace(WHOLE, isolation=isolation))["isolation"] == document


def test_a_flow_is_claimed_under_a_name_that_no_key_can_have():
    assert flow_claim("shop.order") == "flow shop.order"
    assert is_flow_claim(flow_claim("shop.order"))
    assert not is_flow_claim("flow.modifier")

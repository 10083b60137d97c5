"""References, manifests, challenges and redirects of registries, decided on values."""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

from backend_core.errors import AuthorError, HostError, RequestError, TrustError
from core_runtime.rules import oci
from core_runtime.rules.archive import LIMITS
from core_runtime.rules.oci import (
    LAYER_TYPES,
    MANIFEST_TYPE,
    Layer,
    Manifest,
    Origin,
    Place,
    Reference,
    follow,
    login_of,
    read_manifest,
    reference,
    token_of,
    token_place,
)

HEX = "ab" * 32
DIGEST = f"sha256:{HEX}"
HERE = reference("oci://registry.test:5000/team/pack:1.0")


@pytest.mark.parametrize(
    ("text", "origin", "name", "tag", "digest"),
    [
        ("oci://h/n:1", Origin("h", 443), "n", "1", ""), ("oci://h:8443/a/b:t", Origin("h", 8443), "a/b", "t", ""), (f"oci://h/n@{DIGEST}", Origin("h", 443), "n", "", DIGEST),
        (f"oci://h/n:1@{DIGEST}", Origin("h", 443), "n", "1", DIGEST), ("oci://localhost/n:1", Origin("localhost", 80, plain=True), "n", "1", ""),
        ("oci://[::1]:5/n:1", Origin("::1", 5, plain=True), "n", "1", ""), ("oci://[2001:4860::8]/n:1", Origin("2001:4860::8", 443), "n", "1", ""),
        ("oci://10.0.0.1/n:1", Origin("10.0.0.1", 443), "n", "1", ""), ("oci://127.1.2.3/n:1", Origin("127.1.2.3", 80, plain=True), "n", "1", ""),
        ("oci://h/" + "n" * 255 + ":" + "t" * 128, Origin("h", 443), "n" * 255, "t" * 128, ""), ("oci://a-b.c/x.y_z__w--v:_T.-9", Origin("a-b.c", 443), "x.y_z__w--v", "_T.-9", ""),
    ],
)  # fmt: skip
def test_what_a_reference_means(text, origin, name, tag, digest) -> None:
    found = reference(text)
    assert found == Reference(origin, name, tag, digest)
    assert found.shown == text
    assert found.manifest == Place(origin, f"/v2/{name}/manifests/{digest or tag}"), "a digest counts alone"
    assert found.blob(DIGEST) == Place(origin, f"/v2/{name}/blobs/{DIGEST}")
    assert reference(found.pinned(DIGEST)) == Reference(origin, name, "", DIGEST)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://h/n:1", "begin with"), ("oci://h/" + "n" * 1000 + ":1", "begin with"), ("oci://h/n:1\x07", "begin with"), ("oci://hé/n:1", "begin with"),
        ("oci://u@h/n:1", "names a user"), ("oci://h/N:1", "no name of a repository"), ("oci://h/" + "n" * 256 + ":1", "no name of a repository"),
        ("oci://h/n:" + "t" * 129, "tag"), ("oci://h/n@sha256:x", "digest"), ("oci://h/n:", "Its tag"), ("oci://h/n:" + "@" + DIGEST, "Its tag"), ("oci://h/n", "neither"), ("oci://h/n:1@", "neither"),
        ("oci://h:0/n:1", "host"), ("oci://h:65536/n:1", "host"), ("oci://300.1.1.1/n:1", "host"), ("oci://h_h/n:1", "host"), ("oci:///n:1", "host"), ("oci://[::1%251]/n:1", "host"),
        ("oci://" + "a" * 254 + "/n:1", "host"),
    ],
)  # fmt: skip
def test_what_is_none_says_why(text, words) -> None:
    with pytest.raises(RequestError) as caught:
        reference(text)
    assert (caught.value.code, words in caught.value.detail) == ("source_refused", True), caught.value.detail
    assert "oci://HOST/NAME" in caught.value.hint


def test_the_bounds_and_types_are_these() -> None:
    assert (oci.MANIFEST_BYTES, oci.TOKEN_BYTES, oci.MAX_TOKEN_CHARS, oci.MAX_URL_CHARS) == (4 << 20, 64 << 10, 16 << 10, 8192)
    assert MANIFEST_TYPE == "application/vnd.oci.image.manifest.v1+json"
    ours, layers = "application/vnd.rumi.pack.v1", "application/vnd.oci.image.layer.v1"
    assert (f"{ours}.tar+gzip", f"{ours}.tar", f"{ours}.zip", f"{layers}.tar+gzip", f"{layers}.tar") == LAYER_TYPES
    assert (Reference(HERE.origin, "n").tag, Reference(HERE.origin, "n").digest) == ("", "")
    longest = "oci://h/n:1@" + DIGEST
    assert reference("oci://h/" + "/".join(["a" * 9] * 25) + ":1").name.count("/") == 24
    assert reference(longest).digest == DIGEST


def test_a_manifest_may_be_large_and_not_deep() -> None:
    assert read_manifest(manifest(annotations={str(n): "x" * 400 for n in range(6000)}), MANIFEST_TYPE, HERE).layer.size == 5
    with pytest.raises(AuthorError):
        read_manifest(manifest(annotations=json.loads("[" * 20 + "]" * 20)), MANIFEST_TYPE, HERE)


def test_who_is_this_machine() -> None:
    assert [oci.is_loopback(host) for host in ("localhost", "127.0.0.1", "127.9.9.9", "::1")] == [True] * 4
    assert [oci.is_loopback(host) for host in ("localhost.", "x.localhost", "128.0.0.1", "::2", "0.0.0.0", "h")] == [False] * 6


def test_how_a_host_stands_in_a_request() -> None:
    told = [Origin("h", 443), Origin("h", 80), Origin("h", 80, plain=True), Origin("h", 443, plain=True), Origin("::1", 5, plain=True), Origin("::1", 443)]
    assert [origin.authority for origin in told] == ["h", "h:80", "h", "h:443", "[::1]:5", "[::1]"]


# --- manifests -------------------------------------------------------------------------------------------------------


def manifest(**changed) -> bytes:
    layer = {"mediaType": LAYER_TYPES[0], "digest": DIGEST, "size": 5}
    return json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "layers": [layer], **changed}).encode()


def layer(**changed) -> bytes:
    return manifest(layers=[{"mediaType": LAYER_TYPES[0], "digest": DIGEST, "size": 5, **changed}])


def of(raw: bytes) -> str:
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def test_a_manifest_is_taken_by_its_bytes() -> None:
    raw = manifest()
    assert read_manifest(raw, MANIFEST_TYPE, HERE) == Manifest(of(raw), Layer(DIGEST, 5))
    assert read_manifest(raw, f"{MANIFEST_TYPE.upper()} ; charset=utf-8", HERE, of(raw)).digest == of(raw)
    assert read_manifest(raw, MANIFEST_TYPE, HERE, "sha512:what-is-not-checked").digest == of(raw)
    by_digest = reference(f"oci://h/n@{of(raw)}")
    assert read_manifest(raw, MANIFEST_TYPE, by_digest).digest == of(raw)
    for wanted, told in ((reference(f"oci://h/n@{DIGEST}"), ""), (HERE, DIGEST), (by_digest, DIGEST)):
        with pytest.raises(TrustError) as caught:
            read_manifest(raw, MANIFEST_TYPE, wanted, told)
        assert caught.value.code == "oci_mismatch"
        assert DIGEST in caught.value.detail
        assert of(raw) in caught.value.detail
        assert "manifest" in caught.value.detail
    without = json.loads(manifest())
    del without["mediaType"]
    assert read_manifest(json.dumps(without).encode(), MANIFEST_TYPE, HERE).layer.size == 5
    for kind in LAYER_TYPES:
        assert read_manifest(layer(mediaType=kind), MANIFEST_TYPE, HERE).layer.digest == DIGEST
    assert read_manifest(layer(size=LIMITS.archive_bytes), MANIFEST_TYPE, HERE).layer.size == LIMITS.archive_bytes
    assert read_manifest(layer(size=1), MANIFEST_TYPE, HERE).layer.size == 1


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (manifest(schemaVersion=1), "another document"), (manifest(mediaType="x"), "another document"), (manifest(layers=[]), "0 layers"), (manifest(layers=None), "lacks"),
        (layer(mediaType="x/y"), "of type 'x/y'"), (layer(digest="sha256:AB"), "no SHA-256 digest: 'sha256:AB'"), (layer(digest=5), "no SHA-256"), (layer(size=0), "0"),
        (layer(size=LIMITS.archive_bytes + 1), f"at most {LIMITS.archive_bytes}"), (layer(size="5"), "'5'"), (layer(size=True), "True"), (b'{"schemaVersion": 2, "layers": [{}]}', "'mediaType'"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_packs_says_why(raw, words) -> None:
    with pytest.raises(AuthorError) as caught:
        read_manifest(raw, MANIFEST_TYPE, HERE)
    assert (caught.value.code, words in caught.value.detail) == ("oci_refused", True), caught.value.detail
    assert "updates.md" in caught.value.hint


def test_another_kind_of_answer_is_no_manifest() -> None:
    with pytest.raises(AuthorError) as caught:
        read_manifest(manifest(), "text/html", HERE)
    assert "'text/html'" in caught.value.detail
    assert MANIFEST_TYPE in caught.value.detail


# --- where it sends us -----------------------------------------------------------------------------------------------

PLAIN = reference("oci://localhost:5000/n:1").manifest


@pytest.mark.parametrize(
    ("location", "now", "expected"),
    [
        ("/x", HERE.manifest, Place(HERE.origin, "/x")), ("y?z=1#f", HERE.manifest, Place(HERE.origin, "/v2/team/pack/manifests/y?z=1")),
        ("https://cdn.test", HERE.manifest, Place(Origin("cdn.test", 443), "/")), ("https://CDN.test.:8443/a%2Fb?q=%20", HERE.manifest, Place(Origin("cdn.test", 8443), "/a%2Fb?q=%20")),
        ("//cdn.test/x", HERE.manifest, Place(Origin("cdn.test", 443), "/x")), ("https://[2001:4860::8]/x", HERE.manifest, Place(Origin("2001:4860::8", 443), "/x")),
        ("https:///x", HERE.manifest, Place(HERE.origin, "/x")), ("/x", PLAIN, Place(PLAIN.origin, "/x")), ("http://localhost:5000/x", PLAIN, Place(PLAIN.origin, "/x")), ("https://cdn.test/x", PLAIN, Place(Origin("cdn.test", 443), "/x")),
        ("https://cdn.test/a|b", HERE.manifest, Place(Origin("cdn.test", 443), "/a%7Cb")),
    ],
)  # fmt: skip
def test_where_a_redirect_leads(location, now, expected) -> None:
    assert follow(location, now) == expected


@pytest.mark.parametrize(
    ("location", "now", "words"),
    [
        ("http://cdn.test/x", HERE.manifest, "only https"), ("http://registry.test:5000/x", HERE.manifest, "only https"), ("http://localhost/x", PLAIN, "only https"),
        ("http://127.0.0.1:5000/x", PLAIN, "only https"), ("http://cdn.test/x", PLAIN, "only https"), ("https://u@cdn.test/", HERE.manifest, "only https"), ("ftp://cdn.test/", HERE.manifest, "only https"),
        ("https://cdn.test:0/", HERE.manifest, "only https"), ("https://cdn.test:x/", HERE.manifest, "no address"), ("https://[x/", HERE.manifest, "no address"),
        ("https://a_b/", HERE.manifest, "no host"), ("https://cdn.test/" + "x" * 8200, HERE.manifest, "no address"), ("https://cdn.test/é", HERE.manifest, "no address"), ("https://cdn.test/a b", HERE.manifest, "no address"),
    ],
)  # fmt: skip
def test_where_none_leads(location, now, words) -> None:
    with pytest.raises(HostError) as caught:
        follow(location, now)
    assert (caught.value.code, words in caught.value.detail, "redirected to" in caught.value.detail) == ("oci_failed", True, True), caught.value.detail
    assert caught.value.hint


def test_where_a_token_is_to_be_had() -> None:
    scope = "scope=repository%3Ateam%2Fpack%3Apull"
    assert token_place('Bearer realm="https://auth.test/token",service="registry x",scope="repository:all:*"', HERE) == Place(Origin("auth.test", 443), f"/token?service=registry+x&{scope}")
    assert token_place(' bEARER  Realm="https://auth.test/t?a=b" , scope="x"', HERE) == Place(Origin("auth.test", 443), f"/t?a=b&{scope}")
    assert token_place('Bearer realm="https://a.test/",realm="https://b.test/"', HERE).origin.host == "a.test"
    for challenge in ('Bearer realm="http://auth.test/"', "Bearer realm=https://auth.test/", "Bearer", 'Bearer realm="https://u:p@auth.test/"'):
        with pytest.raises(HostError, match="sent for a token to"):
            token_place(challenge, HERE)
    for challenge in ("", 'Basic realm="x"', "Digest x"):
        with pytest.raises(HostError, match="log-in"):
            token_place(challenge, HERE)
    assert [oci.asks_for_login(text) for text in ("Basic", ' bASIC realm="x"', "Bearer", "", "Basically")] == [True, True, False, False, False]


def test_a_token_is_one_printable_word() -> None:
    assert token_of(b'{"token": "a.b-c"}') == "a.b-c"
    assert token_of(b'{"access_token": "x", "token": ""}') == "x"
    assert token_of(b'{"token": "t", "access_token": "x"}') == "t"
    assert token_of(json.dumps({"token": "a" * oci.MAX_TOKEN_CHARS}).encode())
    for raw in (b"", b"[]", b"{}", b'{"token": null}', b'{"token": 5}', b'{"token": "a b"}', b'{"token": "a\\n"}', json.dumps({"token": "a" * (oci.MAX_TOKEN_CHARS + 1)}).encode()):
        with pytest.raises(HostError, match="gave no token"):
            token_of(raw)


def test_a_login_is_that_of_just_this_name_and_port() -> None:
    word = base64.b64encode(b"user:word").decode()
    raw = json.dumps({"auths": {"registry.test:5000": {"auth": word}, "registry.test": {"auth": "AAAA"}, "odd": "x", "empty": {}}}).encode()
    assert login_of(raw, HERE.origin) == word
    assert login_of(raw, Origin("registry.test", 443)) == "AAAA"
    assert [login_of(raw, Origin(host, 443)) for host in ("other.test", "odd", "empty")] == ["", "", ""]
    for auth in ("", "a b", "AAAA\n", 5, None):
        assert login_of(json.dumps({"auths": {"registry.test:5000": {"auth": auth}}}).encode(), HERE.origin) == ""
    for odd in (b"", b"x", b"[]", b'{"auths": []}', b"null"):
        assert login_of(odd, HERE.origin) == ""


def test_an_answer_of_a_token_service_is_read_within_narrow_bounds() -> None:
    def answer(**more: object) -> bytes:
        return json.dumps({"token": "t", **more}).encode()

    assert token_of(answer(more=[0] * 100)) == "t"
    assert token_of(answer(more=[[[[1]]]])) == "t"
    assert token_of(answer(more="x" * 60_000)) == "t"
    for raw in (answer(more=[0] * 200), answer(more=[[[[[[[[1]]]]]]]]), answer(more="x" * 65_536)):
        with pytest.raises(HostError, match="gave no token"):
            token_of(raw)


def test_other_bytes_are_told_as_what_was_expected_and_what_came() -> None:
    raw = manifest()
    with pytest.raises(TrustError) as caught:
        read_manifest(raw, MANIFEST_TYPE, HERE, DIGEST)
    assert caught.value.detail == f"The manifest should have {DIGEST} and has {of(raw)}."
    assert caught.value.hint


def test_a_log_in_is_of_one_form_and_bounded() -> None:
    def told(auth: str) -> str:
        return login_of(json.dumps({"auths": {"h": {"auth": auth}}}).encode(), Origin("h", 443))

    for auth in ("AAAA", "AA+/", "AAAAA=", "AAAAAA==", "A" * 2_000 + "=="):
        assert told(auth) == auth
    for auth in ("AAA", "A" * 2_001, "AAAA===", "AA-_", "=AAAA"):
        assert told(auth) == ""

"""Registries that lie, wander, leak and never end: only bytes with the right digest come in, and no token goes astray."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend_core.errors import AuthorError, HostError, RequestError, RumiError, TrustError
from core_runtime.drivers import oci_source
from core_runtime.drivers.archive import unpack
from core_runtime.rules import oci
from core_runtime.rules.addresses import Machine
from core_runtime.rules.oci import MANIFEST_TYPE, reference
from tests.support.archives import PACK
from tests.support.certificates import Authority
from tests.support.registry import LAYER, Answer, Asked, Registry, World, digest_of

NOBODY = Machine()
PUBLIC, ELSEWHERE = "93.184.216.34", "93.184.216.35"


def layer() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, text in PACK.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return gzip.compress(made.getvalue(), mtime=0)


PACKED = layer()


@pytest.fixture(autouse=True)
def nobody_is_logged_in(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nowhere"))


@pytest.fixture
def registry():
    with Registry() as made:
        yield made


def fetched(registry: Registry, folder: Path, of: str = "team/my_pack:1.0", **options):
    folder.mkdir(exist_ok=True)
    return oci_source.fetch(reference(f"oci://{registry.at}/{of}"), folder, NOBODY, **options)


def failed(registry: Registry, tmp_path: Path, kind: type[RumiError], code: str, words: str = "", **options) -> RumiError:
    with pytest.raises(kind) as caught:
        fetched(registry, tmp_path / "in", **options)
    assert caught.value.code == code
    assert words in caught.value.detail, caught.value.detail
    return caught.value


# --- the honest way --------------------------------------------------------------------------------------------------


def test_a_tag_is_pinned_to_what_it_led_to(registry, tmp_path) -> None:
    digest = registry.push("team/my_pack", "1.0", PACKED)
    found = fetched(registry, tmp_path / "one")
    assert (found.manifest, found.layer, found.as_user) == (digest, digest_of(PACKED), False)
    wanted = reference(f"oci://{registry.at}/team/my_pack:1.0")
    assert reference(wanted.pinned(digest)).digest == digest
    assert found.archive.read_bytes() == PACKED
    (tmp_path / "out").mkdir()
    assert (unpack(found.archive, tmp_path / "out") / "backend/ecosystem.json").is_file()
    registry.push("team/my_pack", "1.0", gzip.compress(b"another"))  # the tag moves
    assert fetched(registry, tmp_path / "two", f"team/my_pack@{digest}").layer == digest_of(PACKED)
    assert all("Authorization" not in asked.headers for asked in registry.asked)


def test_a_token_is_asked_for_pulling_just_this(tmp_path) -> None:
    with Registry(token="a-token") as registry:
        registry.push("team/my_pack", "1.0", PACKED)
        assert fetched(registry, tmp_path / "in").archive.read_bytes() == PACKED
        [token] = [asked for asked in registry.asked if asked.path.startswith("/token")]
        assert token.path == "/token?service=tests&scope=repository%3Ateam%2Fmy_pack%3Apull", "whatever scope was named"


def test_over_tls_with_a_certificate_that_is_trusted_or_not_at_all(tmp_path, monkeypatch) -> None:
    authority = Authority(tmp_path)
    with Registry(tls=authority.server_context("registry.test")) as registry:
        registry.push("my_pack", "1", PACKED)
        world = World({"registry.test": PUBLIC, "other.test": PUBLIC}, {PUBLIC: registry})
        options = {"look_up": world.look_up, "connect": world.connect}
        (tmp_path / "in").mkdir()
        with pytest.raises(HostError, match="TLS"):
            oci_source.fetch(reference("oci://registry.test/my_pack:1"), tmp_path / "in", NOBODY, **options)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
        assert oci_source.fetch(reference("oci://registry.test/my_pack:1"), tmp_path / "in", NOBODY, **options).layer == digest_of(PACKED)
        with pytest.raises(HostError, match="TLS"):
            oci_source.fetch(reference("oci://other.test/my_pack:1"), tmp_path / "in", NOBODY, **options)
    assert {one.rpartition(" ")[2] for one in world.dialled} == {"443"}


# --- references ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "", "oci://", "http://h/n:1", "OCI://h/n:1", "oci:h/n:1", "oci:///n:1", "oci://h", "oci://h/", "oci://h/n", "oci://h/n:", "oci://h/n@",
        "oci://h/N:1", "oci://h/../n:1", "oci://h/a//b:1", "oci://h/n:1?x", "oci://h/n:-x", "oci://h/n:" + "a" * 129, "oci://h/n:1 ", "oci://h/n\n:1",
        "oci://u:p@h/n:1", "oci://h:0/n:1", "oci://h:99999/n:1", "oci://h:x/n:1", "oci://-h/n:1", "oci://h-/n:1", "oci://h_h/n:1", "oci://hö/n:1",
        "oci://h/n@sha256:abc", "oci://h/n@sha512:" + "a" * 128, "oci://h/n@sha256:" + "A" * 64, "oci://h/n:1@", "oci://[fe80::1%25eth0]/n:1",
        "oci://[::1/n:1", "oci://999.1.1.1/n:1", "oci://h/" + "n" * 300 + ":1", "oci://h/n:1@sha256:" + "a" * 64 + "@x", "oci://h\\x/n:1",
    ],
)  # fmt: skip
def test_references_that_are_not_taken(text) -> None:
    with pytest.raises(RequestError) as caught:
        reference(text)
    assert caught.value.code == "source_refused"


@pytest.mark.parametrize(
    ("text", "host", "port", "plain"),
    [
        ("oci://registry.test/a/b-c/d__e:v1.0_x", "registry.test", 443, False), ("oci://registry.test:5000/n:1", "registry.test", 5000, False),
        ("oci://localhost/n:1", "localhost", 80, True), ("oci://127.0.0.9:5000/n:1", "127.0.0.9", 5000, True), ("oci://[::1]:5000/n:1", "::1", 5000, True),
        ("oci://10.0.0.5/n:1", "10.0.0.5", 443, False), ("oci://localhost.test/n:1", "localhost.test", 443, False),
    ],
)  # fmt: skip
def test_plain_http_is_for_this_machine_alone(text, host, port, plain) -> None:
    found = reference(text).origin
    assert (found.host, found.port, found.plain) == (host, port, plain)
    assert reference(text).shown == text or ":" in found.host


@settings(max_examples=500)
@given(st.text(max_size=60) | st.text("htps:/[]@?#.%\\\t\n0:1x ", max_size=30))
def test_no_redirect_breaks_anything_or_leaves_tls(location) -> None:
    now = reference("oci://registry.test/n:1").manifest
    for given_ in (location, f"https://{location}", f"//{location}"):
        try:
            found = oci.follow(given_, now)
        except HostError:
            continue
        assert not found.origin.plain
        assert found.target.startswith("/")
        assert found.target.isascii()
        assert not set(found.target) & set(" \r\n")


@settings(max_examples=300)
@given(st.text(max_size=60))
def test_no_text_breaks_the_reader_of_references(text) -> None:
    try:
        found = reference(f"oci://{text}")
    except RequestError:
        return
    assert ".." not in found.name
    assert reference(found.shown) == found


# --- other bytes than were named -------------------------------------------------------------------------------------


def test_a_manifest_that_is_not_the_one_that_was_named(registry, tmp_path) -> None:
    digest = registry.push("team/my_pack", "1.0", PACKED)
    other = registry.push("team/my_pack", "2.0", gzip.compress(b"another"))
    registry.manifests[f"/v2/team/my_pack/manifests/{digest}"] = registry.manifests[f"/v2/team/my_pack/manifests/{other}"]
    failed(registry, tmp_path, TrustError, "oci_mismatch", "manifest", of=f"team/my_pack@{digest}")
    raw = registry.manifests["/v2/team/my_pack/manifests/1.0"]
    registry.answers["/v2/team/my_pack/manifests/1.0"] = Answer(200, {"Content-Type": MANIFEST_TYPE, "Docker-Content-Digest": other}, raw)
    failed(registry, tmp_path, TrustError, "oci_mismatch", "manifest")


@pytest.mark.parametrize("sent", [PACKED[:-1], PACKED + b"x", b"", b"x" * len(PACKED)], ids=["short", "long", "nothing", "other"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_layer_of_other_bytes_or_length(registry, tmp_path, sent, chunked) -> None:
    registry.push("team/my_pack", "1.0", PACKED)
    registry.answers[f"/v2/team/my_pack/blobs/{digest_of(PACKED)}"] = Answer(body=sent, chunked=chunked)
    with pytest.raises((TrustError, HostError)) as caught:
        fetched(registry, tmp_path / "in")
    assert caught.value.code == ("oci_failed" if len(sent) > len(PACKED) else "oci_mismatch")


def test_a_body_that_is_compressed_on_the_way_is_not_taken(registry, tmp_path) -> None:
    registry.push("team/my_pack", "1.0", PACKED)
    registry.answers[f"/v2/team/my_pack/blobs/{digest_of(PACKED)}"] = Answer(200, {"Content-Encoding": "gzip"}, gzip.compress(PACKED))
    failed(registry, tmp_path, HostError, "oci_failed", "encoded")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"schemaVersion": 1}, "another document"), ({"mediaType": "application/vnd.oci.image.index.v1+json"}, "another document"),
        ({"layers": []}, "0 layers"), ({"layers": [{}, {}]}, "2 layers"), ({"layers": [{}]}, "lacks"), ({"layers": "x"}, "lacks"), ({"layers": {"a": 1}}, "lacks"),
        ({"layers": [{"mediaType": "text/html", "digest": digest_of(b""), "size": 1}]}, "of type"),
        ({"layers": [{"mediaType": LAYER, "digest": "md5:x", "size": 1}]}, "no SHA-256"),
        ({"layers": [{"mediaType": LAYER, "digest": "sha256:../../x", "size": 1}]}, "no SHA-256"),
        ({"layers": [{"mediaType": LAYER, "digest": digest_of(b"x"), "size": 1 << 50}]}, "at most"),
        ({"layers": [{"mediaType": LAYER, "digest": digest_of(b"x"), "size": -1}]}, "at most"),
        ({"layers": [{"mediaType": LAYER, "digest": digest_of(b"x"), "size": True}]}, "at most"),
        ({"layers": [{"mediaType": LAYER, "digest": digest_of(b"x"), "size": 1.5}]}, "at most"),
    ],
)  # fmt: skip
def test_manifests_that_are_no_packs(registry, tmp_path, changed, words) -> None:
    registry.push("team/my_pack", "1.0", PACKED, **changed)
    failed(registry, tmp_path, AuthorError, "oci_refused", words)
    assert len(registry.asked) == 1, "nothing more was asked for"


def test_a_manifest_of_another_kind_or_bombs_in_it(registry, tmp_path) -> None:
    place = "/v2/team/my_pack/manifests/1.0"
    for kind in ("text/html", "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.v2+json", ""):
        registry.answers[place] = Answer(200, {"Content-Type": kind}, b"{}")
        failed(registry, tmp_path, AuthorError, "oci_refused", "of type")
    for body in (b"[" * 100_000, b'{"schemaVersion": 2, "schemaVersion": 2}', b"\xff", b"{", b"[]", b"null", b'{"schemaVersion": 1e999}'):
        registry.answers[place] = Answer(200, {"Content-Type": MANIFEST_TYPE}, body)
        with pytest.raises(AuthorError):
            fetched(registry, tmp_path / "in")
    registry.answers[place] = Answer(200, {"Content-Type": MANIFEST_TYPE}, b" " * (oci.MANIFEST_BYTES + 1))
    failed(registry, tmp_path, HostError, "oci_failed", "more than")


# --- where it sends us, and who gets the token -----------------------------------------------------------------------


@pytest.fixture
def wide(tmp_path, monkeypatch):
    """A registry and another place, both "public", both over TLS."""
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    with (
        Registry(tls=authority.server_context("registry.test"), token="a-token") as registry,
        Registry(tls=authority.server_context("cdn.test"), token="") as cdn,
    ):
        registry.realm = "https://registry.test/token"
        registry.push("my_pack", "1", PACKED)
        cdn.blobs[digest_of(PACKED)] = PACKED
        yield registry, cdn, World({"registry.test": PUBLIC, "cdn.test": ELSEWHERE, "inside.test": "10.0.0.7", "meta.test": "169.254.169.254",
                                    "here.test": "127.0.0.1", "both.test": f"{ELSEWHERE} 10.0.0.7"}, {PUBLIC: registry, ELSEWHERE: cdn})  # fmt: skip


def over(world: World, folder: Path, text: str = "oci://registry.test/my_pack:1", machine: Machine = NOBODY, **options):
    folder.mkdir(exist_ok=True)
    return oci_source.fetch(reference(text), folder, machine, look_up=world.look_up, connect=world.connect, **options)


BLOB = f"/v2/my_pack/blobs/{digest_of(PACKED)}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed_without_the_token(wide, tmp_path, status) -> None:
    registry, cdn, world = wide
    registry.answers[BLOB] = Answer(status, {"Location": f"https://cdn.test/x{BLOB}?signature=abc%2Fd"})
    assert over(world, tmp_path / "in").layer == digest_of(PACKED)
    [asked] = cdn.asked
    assert asked.path == f"/x{BLOB}?signature=abc%2Fd"
    assert not {name.lower() for name in asked.headers} & {"authorization", "cookie", "referer", "www-authenticate"}
    assert [one.headers.get("Authorization") for one in registry.asked if one.path == BLOB] == ["Bearer a-token"]


def test_the_token_is_not_for_another_port_either(wide, tmp_path) -> None:
    registry, _, world = wide
    sent_on = [Answer(307, {"Location": f"https://registry.test:8443{BLOB}"}), Answer(401)]
    registry.answers[BLOB] = lambda _asked: sent_on.pop(0)
    with pytest.raises(HostError, match="401"):
        over(world, tmp_path / "in")
    assert [one.headers.get("Authorization") for one in registry.asked if one.path == BLOB] == ["Bearer a-token", None]
    assert f"{PUBLIC} 8443" in world.dialled


def test_a_stranger_who_asks_for_the_token_gets_none(wide, tmp_path) -> None:
    registry, cdn, world = wide
    registry.answers[BLOB] = Answer(307, {"Location": f"https://cdn.test{BLOB}"})
    cdn.answers[BLOB] = Answer(401, {"WWW-Authenticate": 'Bearer realm="https://registry.test/token",service="x"'})
    before = len([one for one in registry.asked if one.path.startswith("/token")])
    with pytest.raises(HostError, match="401"):
        over(world, tmp_path / "in")
    assert len([one for one in registry.asked if one.path.startswith("/token")]) == before + 1, "only for itself"
    assert all("Authorization" not in one.headers for one in cdn.asked)


@pytest.mark.parametrize(
    "location",
    [
        f"http://cdn.test{BLOB}", "file:///etc/passwd", "ftp://cdn.test/x", f"https://user:pw@cdn.test{BLOB}", "https://", "https://cdn.test:0/x",
        f"https://inside.test{BLOB}", "https://10.0.0.7/x", f"https://meta.test{BLOB}", "https://169.254.169.254/latest", "https://[fd00:ec2::254]/x",
        f"https://here.test{BLOB}", "https://127.0.0.1/x", "https://[::1]/x", "https://[::ffff:10.0.0.7]/x", f"https://both.test{BLOB}", "https://0x7f.1/x",
        "https://[::1/x", "https://h_h/x", "//inside.test/x", "https://cdn.test/a b", "https://cdn.test\\@inside.test/", "x" * 9000,
    ],
)  # fmt: skip
def test_places_where_a_registry_may_not_send_us(wide, tmp_path, location) -> None:
    registry, cdn, world = wide
    registry.answers[BLOB] = Answer(302, {"Location": location})
    with pytest.raises(HostError) as caught:
        over(world, tmp_path / "in")
    assert caught.value.code == "oci_failed"
    assert {one.partition(" ")[0] for one in world.dialled} == {PUBLIC}
    assert cdn.asked == []


def test_a_circle_of_redirects_ends(wide, tmp_path) -> None:
    registry, _, world = wide
    registry.answers[BLOB] = Answer(302, {"Location": BLOB})
    with pytest.raises(HostError, match="more than"):
        over(world, tmp_path / "in")
    assert len([one for one in registry.asked if one.path == BLOB]) <= oci_source.MAX_HOPS + 2


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="http://cdn.test/token"', 'Bearer realm="https://inside.test/token"', 'Bearer realm="https://meta.test/"', 'Bearer realm=""', "Bearer",
        'Basic realm="x"', "", 'Bearer realm="https://[::1/x"', 'Bearer realm="file:///etc/passwd"', 'Bearer realm="https://u:p@cdn.test/"', "Negotiate", 'Bearer a="b"' + ',a="b"' * 1000,
    ],
)  # fmt: skip
def test_token_services_that_are_not_asked(wide, tmp_path, challenge) -> None:
    registry, cdn, world = wide
    registry.answers["/v2/my_pack/manifests/1"] = Answer(401, {"WWW-Authenticate": challenge})
    with pytest.raises(HostError):
        over(world, tmp_path / "in")
    assert cdn.asked == []
    assert {one.partition(" ")[0] for one in world.dialled} <= {PUBLIC}


@pytest.mark.parametrize("body", [b"{}", b"[]", b'{"token": 1}', b'{"token": ""}', b'{"token": "a\\r\\nX-Evil: 1"}', b'{"token": "a b"}', b"x" * 100_000, b'{"token": "' + b"a" * 20_000 + b'"}'])  # fmt: skip
def test_tokens_that_are_none(wide, tmp_path, body) -> None:
    registry, _, world = wide
    registry.answers["/token"] = Answer(body=body)
    with pytest.raises(HostError):
        over(world, tmp_path / "in")


def test_a_registry_that_never_has_enough_of_tokens(wide, tmp_path) -> None:
    registry, _, world = wide
    registry.answers["/v2/my_pack/manifests/1"] = Answer(401, {"WWW-Authenticate": 'Bearer realm="https://registry.test/token"'})
    with pytest.raises(HostError, match="log-in"):
        over(world, tmp_path / "in")
    assert len(registry.asked) == 3


# --- the user's own log-in -------------------------------------------------------------------------------------------


@pytest.fixture
def logged_in(tmp_path, monkeypatch):
    """The user is logged in at registry.test and, by names that look like it, elsewhere."""
    folder = tmp_path / "docker"
    folder.mkdir()
    auths = {"registry.test": {"auth": LOGIN}, "test": {"auth": OTHER}, "https://registry.test": {"auth": OTHER}, "cdn.test": {"auth": OTHER}}
    (folder / "config.json").write_text(json.dumps({"auths": auths, "credsStore": "never-run", "credHelpers": {"registry.test": "never-run"}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))
    return folder


LOGIN, OTHER = base64.b64encode(b"user:pass").decode(), base64.b64encode(b"another:one").decode()


def test_the_login_goes_to_the_registry_and_its_token_service_when_it_asks(wide, tmp_path, logged_in) -> None:
    registry, cdn, world = wide
    registry.answers[BLOB] = Answer(307, {"Location": f"https://cdn.test{BLOB}"})
    assert over(world, tmp_path / "in").as_user
    sent = [(one.path.partition("?")[0], one.headers.get("Authorization")) for one in registry.asked]
    manifest = "/v2/my_pack/manifests/1"
    assert sent == [(manifest, None), ("/token", f"Basic {LOGIN}"), (manifest, "Bearer a-token"), (BLOB, "Bearer a-token")]
    assert [one.headers.get("Authorization") for one in cdn.asked] == [None], "though there is a log-in for it, too"


def test_a_registry_without_tokens_gets_the_login_itself_and_no_place_that_it_sends_us_to(wide, tmp_path, logged_in) -> None:
    registry, cdn, world = wide
    raw = registry.manifests["/v2/my_pack/manifests/1"]
    told = [Answer(401, {"WWW-Authenticate": 'Basic realm="x"'}), Answer(200, {"Content-Type": MANIFEST_TYPE}, raw)]
    registry.answers["/v2/my_pack/manifests/1"] = lambda _asked: told.pop(0)
    registry.answers[BLOB] = Answer(307, {"Location": f"https://cdn.test{BLOB}"})
    cdn.answers[BLOB] = Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
    with pytest.raises(HostError, match="401"):
        over(world, tmp_path / "in")
    assert [one.headers.get("Authorization") for one in registry.asked] == [None, f"Basic {LOGIN}", f"Basic {LOGIN}"]
    assert [one.headers.get("Authorization") for one in cdn.asked] == [None]


def test_a_login_for_another_name_or_port_is_none(wide, tmp_path, logged_in) -> None:
    _, _, world = wide
    for content in (logged_in / "config.json").read_text(), "[]", '{"auths": 1}', '{"auths": {"registry.test:8443": {"auth": "a b"}}}', "{" * 10_000:
        (logged_in / "config.json").write_text(content)
        assert oci.login_of((logged_in / "config.json").read_bytes(), reference("oci://registry.test:8443/n:1").origin) == ""
    (logged_in / "config.json").write_text('{"auths": {"registry.test": {"auth": "a\\r\\nX-Evil: 1"}}}')
    assert not over(world, tmp_path / "in").as_user


# --- where the operator's own reference may lead ---------------------------------------------------------------------


def test_the_operators_registry_may_be_private_but_never_what_gives_credentials_nor_the_host(wide, tmp_path) -> None:
    _, _, world = wide
    for text in ("oci://meta.test/n:1", "oci://169.254.169.254/n:1", "oci://[fe80::1]/n:1", "oci://[::ffff:127.0.0.1]/n:1", "oci://0.0.0.0/n:1"):
        with pytest.raises(HostError) as caught:
            over(world, tmp_path / "in", text)
        assert "not connected to" in caught.value.detail
    host = Machine.of([], [8765])
    for text in ("oci://127.0.0.1:8765/n:1", "oci://localhost:8765/n:1", "oci://127.0.0.1:2375/n:1"):
        with pytest.raises(HostError, match="belongs to its host"):
            oci_source.fetch(reference(text), tmp_path / "in", host)
    assert world.dialled == []
    with pytest.raises(KeyError):  # a private one is dialled: the operator named it
        over(world, tmp_path / "in", "oci://inside.test/n:1")
    assert world.dialled == ["10.0.0.7 443"]


def test_a_name_for_loopback_that_leads_elsewhere_is_not_spoken_to_without_tls(tmp_path) -> None:
    world = World({"localhost": PUBLIC}, {})
    with pytest.raises(HostError, match="not this machine"):
        over(world, tmp_path / "in", "oci://localhost/n:1")
    assert world.dialled == []


# --- without end -----------------------------------------------------------------------------------------------------


def test_an_answer_that_never_ends_is_ended(registry, tmp_path) -> None:
    registry.push("team/my_pack", "1.0", PACKED)
    waiting = threading.Event()

    def slow(_asked: Asked) -> Answer:
        waiting.wait(20)
        return Answer(body=PACKED)

    registry.answers[f"/v2/team/my_pack/blobs/{digest_of(PACKED)}"] = slow
    begun = time.monotonic()
    failed(registry, tmp_path, HostError, "oci_failed", "too long", fetch_s=1.0)
    assert time.monotonic() - begun < 15
    waiting.set()


def test_heads_are_bounded(registry, tmp_path) -> None:
    registry.answers["/v2/team/my_pack/manifests/1.0"] = Answer(200, {f"X-{n}": "y" * 1000 for n in range(200)})
    failed(registry, tmp_path, HostError, "oci_failed", "HTTP/1.1")


def test_what_a_registry_says_reaches_no_terminal_as_it_is(registry, tmp_path) -> None:
    registry.answers["/v2/team/my_pack/manifests/1.0"] = Answer(200, {"Content-Type": "a\x1b[2Jb"}, b"{}")
    with pytest.raises(RumiError) as caught:
        fetched(registry, tmp_path / "in")
    assert "\x1b" not in json.dumps(caught.value.as_dict(), ensure_ascii=False)

"""The borders of each rule of identity, and the status, code and words of each refusal."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core_runtime.rules.identity import (
    BODY_LIMIT_BYTES,
    PATH_LIMIT_BYTES,
    Allow,
    Authority,
    Door,
    Peer,
    Refuse,
    RequestFacts,
    body_too_large,
    decide,
)

ME = Authority(uid=1000, api_port=8765, web_port=5000, token=b"f" * 64)
OWNER = RequestFacts(Peer(Door.API, uid=1000), "GET", b"/api/packs", (b"localhost:8765",))
PAGE = replace(OWNER, peer=Peer(Door.WEB, uid=1000), raw_path=b"/", host=(b"localhost:5000",))
SOCKET = replace(OWNER, peer=Peer(Door.SOCKET, uid=1000), host=(b"rumi",))
JSON = (b"application/json",)


def answer(facts: RequestFacts, authority: Authority = ME) -> tuple[int, str] | str:
    decision = decide(facts, authority)
    return decision.actor if isinstance(decision, Allow) else (decision.status, decision.code)


def passes(facts: RequestFacts, authority: Authority = ME) -> bool:
    return isinstance(decide(facts, authority), Allow)


def test_words_that_faces_and_audit_use():
    assert [door.value for door in Door] == ["api", "web", "socket"]
    assert (BODY_LIMIT_BYTES, PATH_LIMIT_BYTES) == (1048576, 2048)
    assert Peer(Door.API) == Peer(Door.API, None, "")
    assert Refuse(400, "x", "y") == Refuse(400, "x", "y", "", "")
    assert answer(OWNER) == "operator:uid:1000"
    assert answer(SOCKET) == "operator:socket:1000"
    assert answer(replace(OWNER, authorization=(b"Bearer " + b"f" * 64,))) == "operator:token"


@pytest.mark.parametrize(
    ("facts", "status", "code", "detail"),
    [
        (replace(OWNER, raw_path=b"/" + b"a" * 2048), 414, "path_too_long", "at most 2048 bytes; got 2049"),
        (replace(OWNER, raw_path=b"/a//b"), 400, "path_not_canonical",
         "encoded slashes, dots or letters, empty segments, backslashes and control characters are refused"),
        (replace(OWNER, host=()), 421, "host_not_served",
         "expected exactly one Host header: localhost:8765, 127.0.0.1:8765 or [::1]:8765"),
        (replace(PAGE, host=()), 421, "host_not_served",
         "expected exactly one Host header: localhost:5000, 127.0.0.1:5000 or [::1]:5000"),
        (replace(OWNER, origin=(b"http://evil",)), 403, "cross_site", "the Origin header names another site"),
        (replace(OWNER, fetch_site=(b"cross-site",)), 403, "cross_site",
         "the browser says that another site sent this request (Sec-Fetch-Site)"),
        (replace(OWNER, content_type=JSON * 2), 400, "header_repeated", "Content-Type, Content-Length"),
        (replace(OWNER, content_length=(b"1", b"1")), 400, "header_repeated", "Content-Type, Content-Length"),
        (replace(OWNER, method="POST", content_type=(b"text/plain",)), 415, "content_type",
         "expected Content-Type: application/json"),
        (replace(OWNER, method="POST", content_type=JSON, content_length=(b"x",)), 400, "content_length", ""),
        (replace(OWNER, method="POST", content_type=JSON, content_length=(b"1048577",)), 413, "too_large",
         "at most 1048576 bytes"),
        (replace(OWNER, peer=Peer(Door.API, 1001)), 401, "not_identified",
         "this connection belongs to another user of this machine than the host"),
        (replace(OWNER, peer=Peer(Door.API)), 401, "not_identified",
         "the user at the other end of this connection could not be proven"),
        (replace(OWNER, peer=Peer(Door.API, None, "closed early")), 401, "not_identified", "closed early"),
        (replace(OWNER, authorization=(b"Bearer x",)), 401, "token_wrong", "expected Authorization: Bearer TOKEN"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_refusal_in_its_own_words(facts, status, code, detail):
    refused = decide(facts, ME)
    assert isinstance(refused, Refuse)
    assert (refused.status, refused.code, refused.detail) == (status, code, detail)
    assert refused.title
    if code in {"not_identified", "token_wrong"}:
        assert refused.hint.startswith('Send the token that "rumi token" prints')
    assert body_too_large() == decide(
        replace(OWNER, method="POST", content_type=JSON, content_length=(b"1048577",)), ME
    )


@pytest.mark.parametrize(
    ("path", "good"),
    [
        (b"/" + b"a" * 2047, True), (b"/", True), (b"/a/", True), (b"/a.b/..c/.d", True), (b"/a%20b", True), (b"/%C3%A4", True),
        (b"/~!$&'()*+,;=:@-_", True), (b"", False), (b"a", False), (b"*", False), (b"/a b", False), (b"/a//", False), (b"//a", False),
        (b"/.", False), (b"/..", False), (b"/a/./b", False), (b"/a/../b", False), (b"/%2e", False), (b"/%2F", False), (b"/%5c", False),
        (b"/%25", False), (b"/%41", False), (b"/%7A", False), (b"/%30", False), (b"/%2D", False), (b"/%5F", False), (b"/%7e", False),
        (b"/%00", False), (b"/%0a", False), (b"/%1f", False), (b"/%7f", False), (b"/%2", False), (b"/%zz", False), (b"/a\\b", False),
        (b"/a\x00", False), (b"/\xc3\xa4", False), (b"/a?b", False), (b"/a\n", False), (b"/%58", False), (b"/%20", True), (b"/%80", True),
    ],
)  # fmt: skip
def test_paths_have_one_spelling(path, good):
    assert passes(replace(OWNER, raw_path=path)) is good


@pytest.mark.parametrize(
    ("door", "host", "port", "good"),
    [
        (Door.API, b"localhost:8765", 8765, True), (Door.API, b"LOCALHOST:8765", 8765, True), (Door.API, b"127.0.0.1:8765", 8765, True),
        (Door.API, b"[::1]:8765", 8765, True), (Door.API, b"localhost:5000", 8765, False), (Door.API, b"localhost", 8765, False),
        (Door.API, b"rumi", 8765, False), (Door.API, b"localhost", 80, True), (Door.API, b"[::1]", 80, True),
        (Door.API, b"localhost:80", 80, True), (Door.API, b"localhost:8765", 80, False), (Door.WEB, b"localhost:5000", 8765, True),
        (Door.WEB, b"localhost:8765", 8765, False), (Door.WEB, b"localhost", 8765, False), (Door.SOCKET, b"rumi", 8765, True),
        (Door.SOCKET, b"localhost", 8765, True), (Door.SOCKET, b"localhost:8765", 8765, False), (Door.SOCKET, b"127.0.0.1", 8765, False),
    ],
)  # fmt: skip
def test_hosts_of_each_door(door, host, port, good):
    facts = replace(OWNER, peer=Peer(door, 1000), host=(host,))
    assert passes(facts, replace(ME, api_port=port)) is good
    assert not passes(replace(facts, host=(host, host)), replace(ME, api_port=port))


@pytest.mark.parametrize(
    ("facts", "good"),
    [
        (replace(OWNER, origin=(b"http://localhost:8765",)), True),
        (replace(OWNER, host=(b"LocalHost:8765",), origin=(b"http://localhost:8765",)), True),
        (replace(OWNER, origin=(b"http://127.0.0.1:8765",)), False),
        (replace(OWNER, origin=(b"https://localhost:8765",)), False),
        (replace(OWNER, origin=(b"null",)), False),
        (replace(OWNER, origin=(b"http://localhost:8765",) * 2), False),
        (replace(SOCKET, origin=(b"http://rumi",)), False),
        (replace(OWNER, fetch_site=(b"none",)), True),
        (replace(OWNER, fetch_site=(b"same-origin",)), True),
        (replace(OWNER, fetch_site=(b"same-site",)), False),
        (replace(OWNER, fetch_site=(b"none", b"none")), False),
        (replace(PAGE, fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"document",)), True),
        (replace(PAGE, method="HEAD", fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"document",)), True),
        (replace(PAGE, method="POST", fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"document",)), False),
        (replace(PAGE, fetch_site=(b"cross-site",), fetch_mode=(b"cors",), fetch_dest=(b"document",)), False),
        (replace(PAGE, fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"iframe",)), False),
        (replace(OWNER, fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"document",)), False),
    ],
    ids=range(17),
)  # fmt: skip
def test_what_another_site_may_not_send(facts, good):
    assert passes(facts) is good


@pytest.mark.parametrize(
    ("method", "kind", "length", "chunked", "want"),
    [
        ("POST", (), (), (), "ok"), ("POST", (), (b"0",), (), "ok"), ("POST", JSON, (b"0",), (), "ok"),
        ("POST", JSON, (b"5",), (), "ok"), ("POST", JSON, (b"1048576",), (), "ok"), ("POST", JSON, (b"1048577",), (), "too_large"),
        ("POST", JSON, (b"0" * 19,), (), "ok"), ("POST", JSON, (b"0" * 20,), (), "content_length"),
        ("POST", JSON, (b"-1",), (), "content_length"), ("POST", JSON, (b"1.5",), (), "content_length"),
        ("POST", JSON, (b"",), (), "content_length"), ("POST", (), (b"5",), (), "content_type"),
        ("POST", (b"application/json; charset=utf-8",), (b"5",), (), "ok"), ("POST", (b" Application/JSON ;x",), (b"5",), (), "ok"),
        ("POST", (b"text/plain",), (), (), "content_type"), ("POST", (b"text/plain;application/json",), (b"5",), (), "content_type"),
        ("POST", (b"application/jsonx",), (b"5",), (), "content_type"), ("POST", (), (), (b"chunked",), "content_type"),
        ("POST", JSON, (), (b"chunked",), "ok"), ("DELETE", (b"text/plain",), (), (), "content_type"),
        ("GET", (b"text/plain",), (), (), "ok"), ("HEAD", (b"text/plain",), (), (), "ok"), ("OPTIONS", (b"text/plain",), (), (), "ok"),
        ("GET", (), (b"5",), (), "ok"), ("GET", (), (b"1048577",), (), "too_large"), ("GET", (), (b"x",), (), "content_length"),
        ("POST", JSON, (), (), "ok"),
    ],
)  # fmt: skip
def test_bodies_are_json_and_short(method, kind, length, chunked, want):
    found = answer(replace(OWNER, method=method, content_type=kind, content_length=length, transfer_encoding=chunked))
    assert found == "operator:uid:1000" if want == "ok" else found[1] == want


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        (b"Bearer " + b"f" * 64, True), (b"bearer " + b"f" * 64, True), (b"Bearer  " + b"f" * 64 + b" ", True),
        (b"Bearer x " + b"f" * 64, False), (b"Bearer" + b"f" * 64, False), (b"Token " + b"f" * 64, False), (b"Bearer " + b"f" * 63, False),
    ],
)  # fmt: skip
def test_tokens(sent, good):
    assert passes(replace(OWNER, authorization=(sent,))) is good

from __future__ import annotations

import pytest
from msgspec.structs import replace

from core_runtime.rules.identity import Allow, Authority, Door, Peer, Refuse, RequestFacts, decide

TOKEN = b"f" * 64
ME = Authority(uid=1000, api_port=8765, web_port=5000, token=TOKEN)
OWNER = RequestFacts(peer=Peer(Door.API, uid=1000), method="GET", raw_path=b"/api/packs", host=(b"localhost:8765",))
STRANGER = replace(OWNER, peer=Peer(Door.API, uid=1001))
PAGE = replace(OWNER, peer=Peer(Door.WEB, uid=1000), raw_path=b"/", host=(b"localhost:5000",))
SOCKET = replace(OWNER, peer=Peer(Door.SOCKET, uid=1000), host=(b"localhost",))


def code(facts: RequestFacts, authority: Authority = ME) -> str:
    decision = decide(facts, authority)
    return decision.code if isinstance(decision, Refuse) else decision.actor


def test_the_owner_needs_nothing() -> None:
    assert code(OWNER) == "operator:uid:1000"
    assert code(replace(OWNER, method="POST")) == "operator:uid:1000"
    assert code(SOCKET) == "operator:socket:1000"
    assert code(PAGE) == "operator:uid:1000"


@pytest.mark.parametrize("peer", [Peer(Door.API, uid=1001), Peer(Door.API, uid=0), Peer(Door.API, unproven="why"), Peer(Door.SOCKET, uid=0)])
def test_anybody_else_needs_the_token(peer: Peer) -> None:
    host = (b"localhost",) if peer.door is Door.SOCKET else OWNER.host
    facts = replace(OWNER, peer=peer, host=host)
    refused = decide(facts, ME)
    assert isinstance(refused, Refuse)
    assert (refused.status, refused.code) == (401, "not_identified")
    assert "Bearer" in refused.hint
    assert code(replace(facts, authorization=(b"Bearer " + TOKEN,))) == "operator:token"


def test_a_system_without_user_ids_needs_the_token() -> None:
    nobody = replace(ME, uid=None)
    assert code(replace(OWNER, peer=Peer(Door.API)), nobody) == "not_identified"
    assert code(OWNER, nobody) == "not_identified"


@pytest.mark.parametrize(
    "sent",
    [(b"Bearer " + b"e" * 64,), (b"Bearer",), (b"",), (b"Basic " + TOKEN,), (TOKEN,), (b"Bearer " + TOKEN + b"x",), (b"Bearer " + TOKEN, b"Bearer " + TOKEN)],
)
def test_a_wrong_credential_is_refused_even_from_the_owner(sent: tuple[bytes, ...]) -> None:
    assert code(replace(OWNER, authorization=sent)) == "token_wrong"
    assert code(replace(STRANGER, authorization=sent)) == "token_wrong"


@pytest.mark.parametrize("sent", [b"Bearer ", b"Bearer", b"bearer  "])
def test_no_usable_token_admits_nobody_not_even_an_empty_one(sent: bytes) -> None:
    assert code(replace(STRANGER, authorization=(sent,)), replace(ME, token=b"")) == "token_wrong"


@pytest.mark.parametrize("host", [(b"evil.example:8765",), (b"localhost",), (b"localhost:5000",), (b"localhost:8765.",), (b"127.0.0.2:8765",), (b"localhost:8765", b"localhost:8765"), (), (b"",), (b"localhost:8765@evil",)])
def test_other_host_names_are_not_served(host: tuple[bytes, ...]) -> None:
    refused = decide(replace(OWNER, host=host), ME)
    assert isinstance(refused, Refuse)
    assert (refused.status, refused.code) == (421, "host_not_served")


@pytest.mark.parametrize("host", [b"localhost:8765", b"LocalHost:8765", b"127.0.0.1:8765", b"[::1]:8765"])
def test_every_name_of_this_machine_is_served(host: bytes) -> None:
    assert code(replace(OWNER, host=(host,))) == "operator:uid:1000"


def test_port_80_may_be_left_out() -> None:
    assert code(replace(OWNER, host=(b"localhost",)), replace(ME, api_port=80)) == "operator:uid:1000"


@pytest.mark.parametrize("origin", [(b"http://evil.example",), (b"null",), (b"http://localhost:5000",), (b"https://localhost:8765",), (b"http://127.0.0.1:8765",), (b"http://localhost:8765", b"http://localhost:8765")])
def test_a_foreign_origin_is_refused_whatever_the_credential(origin: tuple[bytes, ...]) -> None:
    assert code(replace(OWNER, origin=origin, authorization=(b"Bearer " + TOKEN,))) == "cross_site"


def test_our_own_origin_is_admitted() -> None:
    assert code(replace(OWNER, origin=(b"http://localhost:8765",))) == "operator:uid:1000"
    assert code(replace(SOCKET, origin=(b"http://localhost",))) == "cross_site"


@pytest.mark.parametrize("site", [(b"cross-site",), (b"same-site",), (b"",), (b"none", b"none")])
def test_a_cross_site_get_carries_no_origin_and_is_refused(site: tuple[bytes, ...]) -> None:
    assert code(replace(OWNER, fetch_site=site)) == "cross_site"


def test_fetch_metadata_of_our_own_pages() -> None:
    for site in (b"none", b"same-origin"):
        assert code(replace(OWNER, fetch_site=(site,))) == "operator:uid:1000"


def test_a_link_from_elsewhere_may_open_a_page_but_nothing_else() -> None:
    link = replace(PAGE, fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"document",))
    assert code(link) == "operator:uid:1000"
    assert code(replace(link, fetch_dest=(b"iframe",))) == "cross_site"
    assert code(replace(link, fetch_mode=(b"no-cors",), fetch_dest=(b"image",))) == "cross_site"
    assert code(replace(link, method="POST")) == "cross_site"
    assert code(replace(link, peer=OWNER.peer, host=OWNER.host)) == "cross_site"


@pytest.mark.parametrize("kind", [b"text/plain", b"application/x-www-form-urlencoded", b"multipart/form-data", b"", b"application/jsonp"])
def test_only_json_bodies(kind: bytes) -> None:
    facts = replace(OWNER, method="POST", content_length=(b"2",), content_type=(kind,))
    refused = decide(facts, ME)
    assert isinstance(refused, Refuse)
    assert refused.status == 415
    assert code(replace(facts, content_type=())) == "content_type"
    assert code(replace(facts, content_length=(), transfer_encoding=(b"chunked",))) == "content_type"
    assert code(replace(facts, content_length=(b"0",))) == "content_type"
    for good in (b"application/json", b"Application/JSON; charset=utf-8"):
        assert code(replace(facts, content_type=(good,))) == "operator:uid:1000"


def test_a_declared_body_is_bounded_before_it_is_read() -> None:
    facts = replace(OWNER, method="POST", content_type=(b"application/json",))
    assert code(replace(facts, content_length=(b"1048576",))) == "operator:uid:1000"
    assert code(replace(facts, content_length=(b"1048577",))) == "too_large"
    assert code(replace(facts, content_length=(b"9" * 19,))) == "too_large"
    for odd in (b"9" * 20, b"-1", b"0x10", b"1,1"):
        assert code(replace(facts, content_length=(odd,))) == "content_length"
    assert code(replace(facts, content_length=(b"1", b"2"))) == "header_repeated"
    assert code(replace(facts, content_type=(b"application/json", b"text/plain"))) == "header_repeated"


@pytest.mark.parametrize(
    "path",
    [b"", b"api", b"//api/packs", b"/api//packs", b"/api/./packs", b"/api/../packs", b"/api/packs/..", b"/api/%2e%2e/packs", b"/api/packs%2fx", b"/api%5cpacks", b"/api\\packs",
     b"/api/packs/%00", b"/api/p%61cks", b"/api/%252e", b"/api/packs/%", b"/api/packs/%zz", b"/api/\x7f", b"/api/\xe3\x81\x82", b"/api/packs\n", b"/a b", b"/a%20/%0d%0a"],
)
def test_a_path_has_one_spelling(path: bytes) -> None:
    assert code(replace(OWNER, raw_path=path)) == "path_not_canonical"


def test_ordinary_paths_pass() -> None:
    for path in (b"/", b"/api/packs", b"/api/interfaces/service.hello/call", b"/x/..y/.z", b"/a%20b", b"/%E3%81%82"):
        assert code(replace(OWNER, raw_path=path)) == "operator:uid:1000"
    assert code(replace(OWNER, raw_path=b"/" + b"a" * 2048)) == "path_too_long"


def test_refusals_come_before_identity() -> None:
    assert code(replace(STRANGER, host=(b"evil",), authorization=(b"Bearer x",))) == "host_not_served"
    assert isinstance(decide(OWNER, ME), Allow)

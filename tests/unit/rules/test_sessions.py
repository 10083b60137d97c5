from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from core_runtime.rules import sessions as rules
from core_runtime.rules.identity import FORM_LIMIT_BYTES, Allow, Authority, Door, Peer, Refuse, RequestFacts, decide
from core_runtime.rules.sessions import Carrier, Session

SECRET = b"s" * 43
NOW = 1000.0
COOKIE = Session(rules.named(SECRET), "c" * 43, Carrier.COOKIE, NOW, NOW)
HEADER = replace(COOKIE, carrier=Carrier.HEADER)
OWN = Peer(Door.WEB, uid=1000)
UNPROVEN = Peer(Door.WEB, unproven="not told")
OTHER = Peer(Door.WEB, uid=1001)
SENT = (rules.cookie_name(5000).encode() + b"=" + SECRET,)
ACT = RequestFacts(
    OWN, "POST", b"/_rumi/packs/p/approve", host=(b"localhost:5000",), origin=(b"null",), fetch_site=(b"same-origin",),
    content_type=(b"application/x-www-form-urlencoded",), content_length=(b"60",), cookie=SENT,
)  # fmt: skip
OPEN = replace(ACT, raw_path=b"/_rumi/open", fetch_site=(b"cross-site",), fetch_mode=(b"navigate",), fetch_dest=(b"document",), content_length=(b"48",), cookie=())


def code(facts: RequestFacts, session: Session | None = COOKIE) -> str:
    sessions = {} if session is None else {session.name: session}
    decision = decide(facts, Authority(1000, 8765, 5000, b"t" * 64, sessions))
    return decision.code if isinstance(decision, Refuse) else decision.actor


def test_an_action_needs_session_and_proof() -> None:
    assert code(ACT) == "operator:console:1000"
    assert code(ACT, None) == "session_missing"
    assert code(replace(ACT, cookie=())) == "session_missing"
    assert code(replace(ACT, peer=UNPROVEN)) == "session_missing"
    assert code(replace(ACT, peer=OTHER)) == "not_identified"
    assert code(ACT, HEADER) == "session_missing"
    assert code(replace(ACT, authorization=(b"Bearer " + b"t" * 64,), cookie=())) == "session_missing"


def test_a_header_serves_where_nobody_can_be_proven_and_never_another_user() -> None:
    sent = replace(ACT, cookie=(), session=(SECRET,))
    for peer, expected in ((UNPROVEN, "operator:console"), (OWN, "operator:console:1000"), (OTHER, "not_identified")):
        assert code(replace(sent, peer=peer), HEADER) == expected
    assert code(sent, COOKIE) == "session_missing"
    assert code(replace(sent, session=(SECRET, SECRET)), HEADER) == "session_missing"
    page = replace(sent, method="GET", raw_path=b"/", origin=(), content_type=(), content_length=())
    assert code(replace(page, peer=UNPROVEN), HEADER) == "operator:console"
    assert code(replace(page, peer=OWN), None) == "session_missing", "a session that has ended is told, not passed over"


def test_looking_needs_no_session_and_a_wrong_cookie_hinders_nobody() -> None:
    page = RequestFacts(OWN, "GET", b"/", host=(b"localhost:5000",))
    assert code(page) == code(replace(page, cookie=(SENT[0][:-1] + b"x",))) == "operator:uid:1000"
    assert code(replace(page, peer=UNPROVEN)) == "not_identified"
    assert code(replace(page, peer=UNPROVEN, cookie=SENT)) == "not_identified"


def test_who_is_not_known_gets_files_of_the_console_and_may_offer_a_code() -> None:
    file = RequestFacts(UNPROVEN, "GET", b"/_rumi/static/console.js", host=(b"localhost:5000",))
    assert code(file) == "anyone"
    assert code(replace(file, peer=OTHER)) == "not_identified"
    assert code(OPEN) == code(replace(OPEN, peer=UNPROVEN)) == "opening"
    assert code(replace(OPEN, peer=OTHER)) == "not_identified"
    assert code(replace(OPEN, peer=Peer(Door.API, uid=1000), host=(b"localhost:8765",))) == "cross_site"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"origin": ()}, "cross_site"), ({"origin": (b"null",), "fetch_site": ()}, "cross_site"), ({"origin": (b"http://localhost:5000",), "fetch_site": ()}, ""),
        ({"fetch_site": (b"none",)}, "cross_site"), ({"fetch_site": (b"same-site",)}, "cross_site"), ({"origin": (b"http://x.localhost:5000",)}, "cross_site"),
        ({"content_type": (b"application/json",)}, "content_type"), ({"content_type": ()}, "content_type"), ({"content_length": ()}, "length_required"),
        ({"transfer_encoding": (b"chunked",)}, "length_required"), ({"content_length": (b"1", b"1")}, "length_required"), ({"content_length": (b"%d" % (FORM_LIMIT_BYTES + 1),)}, "too_large"),
        ({"raw_path": b"/packs/p"}, "cross_site"), ({"method": "DELETE"}, ""),
    ],
)  # fmt: skip
def test_forms_of_the_console(changed: dict[str, object], expected: str) -> None:
    assert code(replace(ACT, **changed)) == (expected or "operator:console:1000")  # type: ignore[arg-type]


def test_an_opening_has_one_length() -> None:
    for length in (b"0", b"47", b"49", b"65536"):
        assert code(replace(OPEN, content_length=(length,))) == "code_malformed"


peers = st.sampled_from([OWN, UNPROVEN, OTHER])
values = st.lists(st.sampled_from([SECRET, b"x" * 43, b"", SENT[0], b"a=b"]), max_size=2).map(tuple)


@given(peers, values, values, values, st.sampled_from([None, COOKIE, HEADER]), st.sampled_from([b"null", b"http://localhost:5000", b"http://evil"]))
def test_no_request_acts_without_a_living_session_of_its_kind(peer: Peer, cookie: tuple[bytes, ...], session: tuple[bytes, ...], authorization: tuple[bytes, ...], known: Session | None, origin: bytes) -> None:
    facts = replace(ACT, peer=peer, cookie=cookie, session=session, authorization=authorization, origin=(origin,))
    sessions = {} if known is None else {known.name: known}
    decision = decide(facts, Authority(1000, 8765, 5000, b"t" * 64, sessions))
    if isinstance(decision, Allow):
        assert decision.session is known is not None
        assert peer is not OTHER
        assert known.carrier is Carrier.HEADER or decision.proven
        assert origin != b"http://evil"


@given(st.lists(st.floats(0, 100_000), min_size=1, max_size=40))
def test_codes_are_few_and_each_opens_once(times: list[float]) -> None:
    codes: rules.Codes = {}
    for number, now_s in enumerate(sorted(times)):
        codes = rules.with_code(codes, rules.named(b"%d" % number), now_s)
        assert len(codes) <= rules.CODES_MOST
    last = b"%d" % (len(times) - 1)
    left, good = rules.redeem(codes, last, max(times))
    assert good
    assert rules.redeem(left, last, max(times))[1] is False


@given(st.binary(max_size=60))
def test_only_one_form_of_a_body_is_a_code(body: bytes) -> None:
    assert rules.code_of(body) in {b"", body[5:]}
    assert rules.code_of(b"code=" + SECRET) == SECRET
    if len(body) != rules.CODE_BODY_BYTES:
        assert rules.code_of(body) == b""


@given(st.integers(-10_000, 100_000), st.integers(-10_000, 100_000))
def test_no_clock_makes_a_session_longer(idle_s: int, whole_s: int) -> None:
    session = replace(COOKIE, opened_at_s=NOW - whole_s, used_at_s=NOW - idle_s)
    alive = bool(rules.living({session.name: session}, NOW))
    assert alive == (0 <= idle_s < rules.IDLE_LIMIT_S and 0 <= whole_s < rules.LIFE_LIMIT_S)


def test_cookies_as_they_travel() -> None:
    assert rules.secret_in_cookies((b"a=1; " + SENT[0],), 5000) == SECRET
    assert rules.secret_in_cookies((SENT[0], SENT[0]), 5000) == b""
    assert rules.secret_in_cookies(SENT, 5001) == b""
    assert rules.secret_in_cookies((SENT[0] + b"x",), 5000) == b""
    assert rules.set_cookie(5000, "v").startswith("__Host-rumi-5000=v; Path=/; Secure; HttpOnly; SameSite=Strict")
    assert "Max-Age=0" in rules.clear_cookie(5000)
    assert rules.same_csrf(COOKIE, "c" * 43)
    assert not rules.same_csrf(COOKIE, "d" * 43)
    assert not rules.same_csrf(COOKIE, "\ud800")

"""Each test is an attack on the wizard, or the visit that must still work beside it."""

import threading

import pytest

from rumi_setup.web.gate import BODY_LIMIT_BYTES, Asked, Gate, Refusal

PORT = 45678
OURS = f"127.0.0.1:{PORT}"
FORM = "application/x-www-form-urlencoded"


def get(target: str = "/", method: str = "GET", **headers: str) -> Asked:
    return Asked(method, target, {"host": OURS, **{k.replace("_", "-"): v for k, v in headers.items()}})


def post(**changed: str | None) -> Asked:
    headers = {"host": OURS, "origin": f"http://{OURS}", "content-type": FORM, "content-length": "10"}
    for name, value in changed.items():
        headers.pop(name.replace("_", "-"), None)
        if value is not None:
            headers[name.replace("_", "-")] = value
    return Asked("POST", "/install", headers)


@pytest.fixture
def gate() -> Gate:
    return Gate(PORT)


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", "", f"{OURS}, evil"]
)
def test_dns_rebinding_is_refused(gate, host) -> None:
    assert gate.refuse_outsider(Asked("GET", "/", {"host": host})) is Refusal.HOST


def test_our_own_names_are_served(gate) -> None:
    assert gate.refuse_outsider(get()) is None
    assert gate.refuse_outsider(get(host=f"LOCALHOST:{PORT}")) is None


def test_the_token_works_once(gate) -> None:
    assert gate.exchange(get(), gate.token) is None
    assert gate.exchange(get(), gate.token) is Refusal.USED


def test_of_many_at_once_one_gets_in(gate) -> None:
    start, outcomes = threading.Barrier(8), []

    def rush() -> None:
        start.wait()
        outcomes.append(gate.exchange(get(), gate.token))

    threads = [threading.Thread(target=rush) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(o is None for o in outcomes) == [False] * 7 + [True]


@pytest.mark.parametrize("token", ["", "x", "あ", "\udcff"])
def test_a_guessed_token_does_not_use_up_the_real_one(gate, token) -> None:
    assert gate.exchange(get(), token) is Refusal.NO_SESSION
    assert gate.exchange(get(), gate.token) is None


@pytest.mark.parametrize("early", [get(method="HEAD"), get(sec_purpose="prefetch;prerender"), get(purpose="prefetch")])
def test_fetching_ahead_does_not_use_the_token_up(gate, early) -> None:
    assert gate.exchange(early, gate.token) is Refusal.METHOD
    assert gate.exchange(get(), gate.token) is None


def test_the_cookie_is_for_this_browser_only(gate) -> None:
    header = gate.set_cookie()
    pair, *attributes = header.split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
    assert not gate.knows(get(cookie=pair)), "no cookie counts before the token was exchanged"
    gate.exchange(get(), gate.token)
    assert gate.knows(get(cookie=f"other=1; {pair}"))
    assert not gate.knows(get(cookie=pair + "x"))
    assert not gate.knows(get())
    assert not gate.knows(get(cookie=f"{gate.cookie_name}="))


def test_another_port_of_this_machine_can_not_post(gate) -> None:
    """A browser calls it the same site, so the cookie goes along; the Origin tells them apart."""
    assert gate.refuse_outsider(post()) is None
    for origin in ("http://127.0.0.1:5000", f"https://{OURS}", "null", None, f"http://localhost:{PORT}"):
        assert gate.refuse_outsider(post(origin=origin)) is Refusal.FOREIGN, origin
    assert gate.refuse_outsider(post(sec_fetch_site="same-site")) is Refusal.FOREIGN


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/json", None])
def test_only_our_kind_of_form(gate, kind) -> None:
    assert gate.refuse_outsider(post(content_type=kind)) is Refusal.FORM


@pytest.mark.parametrize(
    ("length", "refusal"),
    [(str(BODY_LIMIT_BYTES), None), (str(BODY_LIMIT_BYTES + 1), Refusal.SIZE), ("9" * 5000, Refusal.SIZE), ("-1", Refusal.LENGTH),
     (None, Refusal.LENGTH), ("10, 10", Refusal.LENGTH), ("１０", Refusal.LENGTH)],
)  # fmt: skip
def test_bodies_are_bounded(gate, length, refusal) -> None:
    assert gate.refuse_outsider(post(content_length=length)) is refusal


def test_a_chunked_body_is_refused(gate) -> None:
    assert gate.refuse_outsider(post(transfer_encoding="chunked")) is Refusal.LENGTH


def test_other_methods_and_long_addresses(gate) -> None:
    assert gate.refuse_outsider(get(method="PUT")) is Refusal.METHOD
    assert gate.refuse_outsider(get("/" + "a" * 2000)) is Refusal.TARGET


def test_a_form_needs_the_sessions_own_csrf_token(gate) -> None:
    assert gate.form_is_ours(gate.csrf)
    assert not gate.form_is_ours("")
    assert not gate.form_is_ours(Gate(PORT).csrf)

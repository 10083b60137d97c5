"""Targets, addresses, requests and grants of the ways out: what is accepted, and what covers what."""

from __future__ import annotations

from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend_core.ecosystem.spec.models import PermissionRequest
from backend_core.errors import DeniedError
from core_runtime.rules.addresses import Machine, Reach, dial_fault, judge
from core_runtime.rules.client_hello import LIMIT_BYTES, ClientHello, Fault, Hello
from core_runtime.rules.egress import (
    TLS_PORTS,
    Refused,
    Target,
    address_fault,
    covering_domain,
    covering_network,
    domain_fault,
    host_fault,
    parse_address,
    parse_host,
    parse_target,
    private_addresses,
    proxy_settings,
)
from core_runtime.rules.fetch import (
    HOP_BY_HOP,
    MAX_HEADER_CHARS,
    MAX_HEADERS,
    MAX_URL_CHARS,
    METHODS,
    Injection,
    Request,
    covers_path,
    covers_request,
    header_clash,
    injections,
    method_fault,
    parse_injection,
    parse_request,
    parse_url,
    path_fault,
    request_of,
    secret_fault,
    secret_names,
)
from core_runtime.rules.grants import Permission, freeze
from core_runtime.rules.narrowing import without, without_unused
from core_runtime.rules.permissions import (
    Choice,
    covering_item,
    decide,
    describe,
    fetches,
    items_of,
    narrow,
    request_fault,
)
from core_runtime.rules.rating import rate

PUBLIC6 = "2a0b:8::10"


@pytest.mark.parametrize("host", ["api.example.com", "xn--bcher-kva.example", "a_b.example.com", "1a.example", "x.y1", "_dmarc.example.com"])
def test_names(host: str) -> None:
    assert parse_host(host) == host
    assert str(parse_target(host, 443)) == f"{host}:443"
    assert domain_fault(host) == domain_fault("*." + host) == ""


@pytest.mark.parametrize(("host", "shown"), [("11.8.0.10", "11.8.0.10:1"), (PUBLIC6, f"[{PUBLIC6}]:1"), (f"[{PUBLIC6}]", f"[{PUBLIC6}]:1")])
def test_addresses(host: str, shown: str) -> None:
    target = parse_target(host, 1)
    assert isinstance(target, Target)
    assert (str(target), repr(target), target.name, target.host) == (shown, shown, "", shown.rpartition(":")[0].strip("[]"))
    assert address_fault(shown) == ""
    assert parse_address(shown) == target


@given(st.text(max_size=40) | st.binary(max_size=10) | st.integers() | st.none(), st.integers() | st.text(max_size=3))
def test_whatever_comes_is_a_target_or_a_reason(host: Any, port: Any) -> None:
    found = parse_target(host, port)
    if isinstance(found, Target):
        assert parse_target(found.host, found.port) == found
    else:
        assert found.reason


@given(st.binary(max_size=300))
def test_whatever_bytes_come_the_parser_of_client_hellos_answers(data: bytes) -> None:
    ClientHello().feed(data)
    found = ClientHello().feed(b"\x16\x03\x01" + len(data).to_bytes(2, "big") + data)
    assert found is None or isinstance(found, Hello | Fault)


def hello_with(extensions: bytes, *, rest: bytes = b"") -> bytes:
    """A record with a ClientHello that has these extensions."""
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0" + len(extensions).to_bytes(2, "big") + extensions + rest
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + len(message).to_bytes(2, "big") + message


def server_name(entries: bytes, rest: bytes = b"") -> bytes:
    data = len(entries).to_bytes(2, "big") + entries + rest
    return b"\0\0" + len(data).to_bytes(2, "big") + data


@pytest.mark.parametrize(
    ("record", "name"),
    [(hello_with(server_name(b"\0\0\1a")), "a"), (hello_with(server_name(b"\0\0\1A")), "a"), (hello_with(b""), ""), (hello_with(b"\0\x17\0\0"), ""),
     (hello_with(server_name(b"\1\0\1a")), None), (hello_with(server_name(b"\0\0\0")), None), (hello_with(server_name(b"\0\0\1a\0\0\1b")), None),
     (hello_with(server_name(b"\0\0\1a", b"x")), None), (hello_with(server_name(b"\0\0\1\xff")), None), (hello_with(server_name(b"\0\0\5a")), None),
     (hello_with(server_name(b"\0\1\0" + b"a" * 256)), None), (hello_with(b"\0"), None), (hello_with(b"", rest=b"x"), None),
     (hello_with(server_name(b"\0\0\1a") * 2), None)],
)  # fmt: skip
def test_server_names_in_every_shape(record: bytes, name: str | None) -> None:
    found = ClientHello().feed(record)
    assert found == Hello(name) if name is not None else isinstance(found, Fault)


def test_a_client_hello_without_extensions_names_nobody() -> None:
    body = b"\3\3" + bytes(32) + b"\0" + b"\0\2\x13\1" + b"\1\0"
    message = b"\1" + len(body).to_bytes(3, "big") + body
    assert ClientHello().feed(b"\x16\3\1" + len(message).to_bytes(2, "big") + message) == Hello("")


def test_a_client_hello_has_an_end() -> None:
    parser = ClientHello()
    piece = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + bytes(0x4000 - 4)
    answers = [parser.feed(piece if n == 0 else b"\x16\x03\x01\x40\x00" + bytes(0x4000)) for n in range(LIMIT_BYTES // 0x4000 + 1)]
    assert isinstance(answers[-1], Fault)


@given(st.ip_addresses(v=4))
def test_nothing_but_public_addresses_is_public(address: Any) -> None:
    if judge(address)[0] is Reach.PUBLIC:
        kinds = ("is_private", "is_loopback", "is_link_local", "is_multicast", "is_reserved")
        assert not any(getattr(address, kind) for kind in kinds)


@given(st.ip_addresses(v=6))
def test_nothing_but_global_unicast_is_public(address: Any) -> None:
    if judge(address)[0] is Reach.PUBLIC:
        kinds = ("is_private", "is_link_local", "is_multicast", "ipv4_mapped", "sixtofour", "teredo")
        assert not any(getattr(address, kind) for kind in kinds)


def test_masks_that_are_none_are_no_networks() -> None:
    machine = Machine.of([("11.7.0.2", "255.0.255.0"), ("11.6.0.2", "nonsense"), ("11.5.0.2", None)], ())
    assert all(network.prefixlen for network in machine.networks)
    assert dial_fault(ip_address("11.5.0.3"), 443, machine, literal=False) == ""
    assert dial_fault(ip_address("11.5.0.2"), 443, machine, literal=False)
    assert dial_fault(ip_address(PUBLIC6), 443, machine, literal=False) == ""


def test_ports_limit_domains_and_addresses_carry_their_own() -> None:
    named, literal = Target(443, name="a.example.com"), Target(5432, address=ip_address("10.0.0.5"))
    assert covering_network(["*.example.com"], [], [], named) == "*.example.com"
    assert covering_network(["a.example.com", "*.example.com"], [], [443], named) == "a.example.com"
    assert covering_network(["a.example.com"], [], [8443], named) == ""
    assert covering_network([], ["10.0.0.5:5432"], [443], literal) == "10.0.0.5:5432"
    assert covering_network([], ["10.0.0.5:5433"], [5432], literal) == ""
    assert covering_domain(["example.com"], "a.example.com") == ""
    assert host_fault("*.example.com")
    assert not host_fault("example.com")


def test_private_addresses_are_those_of_the_operators_own_network() -> None:
    assert private_addresses(["10.0.0.5:22", f"[{PUBLIC6}]:443", "127.0.0.1:5432", "x"]) == ("10.0.0.5:22", "127.0.0.1:5432")
    request = PermissionRequest("network", "r", freeze({"addresses": ["10.0.0.5:22"]}))
    assert describe(request)["private_addresses"] == ["10.0.0.5:22"]
    assert "private_addresses" not in describe(PermissionRequest("network", "r", freeze({"domains": ["a.example"]})))


def test_an_address_inside_costs_points_by_name() -> None:
    def score(*addresses: str) -> tuple[int, str]:
        found = rate([asked("network", addresses=addresses)], [], replaces=(), risk=None)
        return found.score, " ".join(line.reason for line in found.deductions)

    outside, inside = score(f"[{PUBLIC6}]:443"), score("10.0.0.5:22", f"[{PUBLIC6}]:443")
    assert outside[0] - inside[0] == 15
    assert "10.0.0.5:22" in inside[1]
    assert PUBLIC6 not in inside[1]


class Metadata:
    def __init__(self, *requests: tuple[str, dict[str, Any]]) -> None:
        self.permissions = tuple(PermissionRequest(kind, "r", freeze(params)) for kind, params in requests)


def test_a_proxy_is_offered_to_those_who_declare_a_way_out() -> None:
    def told(*requests: tuple[str, dict[str, Any]]) -> Any:
        return proxy_settings(Metadata(*requests))  # type: ignore[arg-type]

    assert told(("userdata.read", {"paths": ["a/b"]})) == {}
    assert told(("http.fetch", {"hosts": ["a.example"]})) == {"egress": {"no_proxy": "localhost,127.0.0.1,::1"}}
    assert told(("network", {"addresses": ["10.0.0.1:80"]})) == {"egress": {"no_proxy": "localhost,127.0.0.1,::1"}}
    assert told(("network", {"addresses": ["127.0.0.1:5432", "nonsense"]})) == {"egress": {"no_proxy": ""}}


# --- requests


def test_a_request_in_the_form_in_which_it_is_sent() -> None:
    asked = {
        "method": "POST", "url": "HTTP://API.Example.com:80/a%20b/c?x=[1]&y=%2F#fragment", "length": 5,
        "headers": [["Accept", " text/* "], ["Host", "evil"], ["Content-Length", "9"], ["Connection", "close, X-Hop"], ["X-Hop", "1"], ["Expect", "100-continue"]],
    }  # fmt: skip
    found = parse_request(asked)
    assert found == Request("POST", "api.example.com", "/a%20b/c", "x=[1]&y=%2F", (("Accept", "text/*"),), 5)
    assert found.target == "/a%20b/c?x=[1]&y=%2F"
    bare = parse_request({"url": "https://api.example.com"})
    assert isinstance(bare, Request)
    assert (bare.method, bare.target, bare.length) == ("GET", "/", 0)
    assert parse_url("https://api.example.com?x") == ("api.example.com", "/", "x")


_NAME = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?(\.[a-z][a-z0-9]{1,8}){1,3}", fullmatch=True)
_SEGMENT = st.text("abcXYZ019-_~!$&'()*+,;=:@", min_size=1, max_size=6)


@given(
    st.sampled_from(["http", "https", "HTTP", "hTTps"]), _NAME, st.sampled_from(["", ":443", ":80"]),
    st.lists(_SEGMENT, max_size=4), st.text('abc=&/?[]|^`{}"<>', max_size=8), st.text("abc/?# ", max_size=5), st.booleans(),
)  # fmt: skip
def test_the_parts_of_a_url_are_told_apart_whatever_stands_in_them(
    scheme: str, name: str, port: str, segments: list[str], query: str, fragment: str, upper: bool
) -> None:
    """The host ends at the first of / ? #, the query at the first #, and nothing after that leaves the Pack."""
    path = "/" + "/".join(segments) if segments else ""
    host = name.upper() if upper else name
    url = f"{scheme}://{host}{port}{path}" + (f"?{query}" if query else "") + (f"#{fragment}" if fragment else "")
    assert parse_url(url) == (name, path or "/", query)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (None, "no ASCII URL"), (5, "no ASCII URL"), (b"https://a.example/", "no ASCII URL"), ("https://ä.example/", "no ASCII URL"),
        ("ftp://a.example/", "no http or https URL"), ("a.example/", "no http or https URL"), ("", "no http or https URL"),
        ("https://a.example:/", "port 443 only"), ("https://a.example:", "port 443 only"), ("https://a.example:8443/", "port 443 only"),
        ("https://a.example:443:443/", "port 443 only"), ("https://a.example:0443/", "port 443 only"), ("https://127.0.0.1/", "needs a name"),
        ("https://a.example/x?a b", "percent-encoded"), ("https://a.example/x?%2", "percent-encoded"), ("https://a.example?%zz#x", "percent-encoded"),
    ],
)  # fmt: skip
def test_a_url_that_is_refused_says_what_is_wrong_with_it(url: Any, says: str) -> None:
    found = parse_url(url)
    assert isinstance(found, Refused)
    assert found.code == "url_invalid"
    assert says in found.reason


def test_what_is_refused_is_shown_but_never_at_any_length() -> None:
    long = "x" * 5_000
    for args in (
        {"method": long}, {"url": long}, {"url": f"ftp://{long}"}, {"url": f"https://a.example:{long}/"},
        {"url": f"https://a.example/{long}//x"}, {"length": long}, {"headers": [[f"{long}:", "v"]]},
    ):  # fmt: skip
        found = parse_request({"url": "https://a.example/", **args})
        assert isinstance(found, Refused)
        assert "xxx" in found.reason
        assert len(found.reason) < 300


def test_a_request_may_be_exactly_as_large_as_the_limits() -> None:
    """The numbers are promised to authors; one more is refused."""
    assert (MAX_URL_CHARS, MAX_HEADERS, MAX_HEADER_CHARS) == (8192, 100, 16_384)
    at = "https://a.example/"
    full = at + "x" * (8192 - len(at))
    assert isinstance(parse_url(full), tuple)
    assert isinstance(parse_url(full + "x"), Refused)

    def parsed(headers: Any) -> Any:
        return parse_request({"url": at, "headers": headers})

    assert len(parsed([["X", "y"]] * 100).headers) == 100
    assert isinstance(parsed([["X", "y"]] * 101), Refused)
    assert isinstance(parsed([["ab", "y" * 16_382]]), Request)
    assert isinstance(parsed([["ab", "y" * 16_383]]), Refused)
    assert isinstance(parsed([["ab", "y" * 8_190]] * 2), Request)
    assert isinstance(parsed([["ab", "y" * 8_190], ["ab", "y" * 8_191]]), Refused)
    assert parsed([["x" * 100, "y"]]).headers == (("x" * 100, "y"),)
    assert isinstance(parsed([["x" * 101, "y"]]), Refused)


@given(st.lists(st.tuples(st.sampled_from(["X-One", "x-two", "Accept", "TE", "Host", "Keep-Alive"]), st.text("ab ,", max_size=5))))
def test_headers_travel_on_in_their_order_without_those_of_the_connection(pairs: list[tuple[str, str]]) -> None:
    found = parse_request({"url": "https://a.example/", "headers": [[*pair] for pair in pairs]})
    assert isinstance(found, Request)
    kept = tuple((name, value.strip(" ")) for name, value in pairs if name not in {"TE", "Host", "Keep-Alive"})
    assert found.headers == kept


@pytest.mark.parametrize("name", [*sorted(HOP_BY_HOP), "host", "content-length"])
def test_nobody_but_the_host_says_how_a_message_travels(name: str) -> None:
    for spelt in (name, name.upper()):
        found = parse_request({"url": "https://a.example/", "headers": [[spelt, "x"], ["X-Mine", "1"]]})
        assert isinstance(found, Request)
        assert found.headers == (("X-Mine", "1"),)
        assert secret_fault(f"{spelt}: {{K}}") == "fills a header that belongs to the host"
    assert {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect"} <= HOP_BY_HOP
    assert {"proxy-authenticate", "proxy-authorization", "proxy-connection", "http2-settings"} <= HOP_BY_HOP


@pytest.mark.parametrize("named", ["X-Hop", " x-hop , close", "close,X-HOP", ",x-hop,"])
def test_what_the_connection_names_belongs_to_it(named: str) -> None:
    found = parse_request({"url": "https://a.example/", "headers": [["x-hop", "1"], ["CONNECTION", named], ["X-Hop-2", "2"]]})
    assert isinstance(found, Request)
    assert found.headers == (("X-Hop-2", "2"),)


@pytest.mark.parametrize("item", [["X"], ["X", "y", "z"], ["X", 5], [5, "y"], "Xy", None, {"X": "y"}, ["", "y"], ["X:", "y"], ["X", "a\nb"], ["X", "ā"]])
def test_what_is_no_header_refuses_the_request(item: Any) -> None:
    found = parse_request({"url": "https://a.example/", "headers": [["connection", 5] if item is None else item]})
    assert isinstance(found, Refused)
    assert found.code == "headers_invalid"


@pytest.mark.parametrize("length", [0, 1, 2**40, None])
def test_a_body_has_a_length_or_comes_in_chunks(length: int | None) -> None:
    found = parse_request({"url": "https://a.example/", "length": length})
    assert isinstance(found, Request)
    assert found.length == length
    for wrong in (-1, 1.0, "1", False):
        refused = parse_request({"url": "https://a.example/", "length": wrong})
        assert isinstance(refused, Refused)
        assert refused.code == "body_invalid"


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_sent_as_it_is_asked(method: str) -> None:
    found = parse_request({"url": "https://a.example/", "method": method})
    assert isinstance(found, Request)
    assert found.method == method
    assert isinstance(parse_request({"url": "https://a.example/", "method": method.lower()}), Refused)
    assert method_fault(method) == ""
    assert covers_request(["a.example"], [], [], "a.example", method, "/") is (method in {"GET", "HEAD"})
    assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} <= set(METHODS)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "does not begin with /"), ("v1", "does not begin with /"), ("/a b", "a character that no path has"), ("/%4", "half of an encoded one"),
        *((f"/a/%{code}", "an encoded dot, slash") for code in ("2e", "2E", "2f", "2F", "5c", "5C", "00", "25")),
        *((f"/a/{part}/b", "a dot segment") for part in (".", "..", "..;", ".;", "..;x", ".;x")), ("/..", "a dot segment"),
        ("//", "an empty segment"), ("/a//b", "an empty segment"), ("//a", "an empty segment"),
        *((good, "") for good in ("/", "/a", "/a/", "/a/b/", "/.a", "/...", "/a..", "/a.b;c", "/%20", "/a;.")),
    ],
)  # fmt: skip
def test_why_a_path_has_more_than_one_reading(path: str, says: str) -> None:
    assert says in path_fault(path)
    assert bool(path_fault(path)) is bool(says)


def test_a_secret_fills_a_header_between_two_texts() -> None:
    assert parse_injection("Authorization: Bearer {API_KEY}!") == Injection("Authorization", "Bearer ", "API_KEY", "!")
    assert parse_injection("X-Key:{K}") == Injection("X-Key", "", "K", "")
    assert parse_injection(f"X-Key: {{{'K' * 64}}}") is not None
    assert parse_injection(f"X-Key: {{{'K' * 65}}}") is None
    assert (secret_fault("X-Key: {K}"), secret_fault("X-Key"))[0] == ""
    assert "is not of the form" in secret_fault("X-Key")
    assert secret_names(["A: {ONE}", "nothing", "B: x{TWO}y"]) == ("ONE", "TWO")


def test_what_a_question_names_is_judged_like_the_request_itself() -> None:
    assert request_of({"url": "https://A.example/x?y"}) == {"host": "a.example", "method": "GET", "url_path": "/x"}
    assert request_of({"url": "https://a.example", "method": "PUT"}) == {"host": "a.example", "method": "PUT", "url_path": "/"}
    assert request_of({"url": "https://a.example:1/"}) == {}
    assert request_of({}) == {}


@pytest.mark.parametrize(
    ("args", "refused"),
    [({"method": "get"}, "method_refused"), ({"method": 5}, "method_refused"), ({"url": "https://1.2.3.4/"}, "url_invalid"), ({"url": "https://a.example/x?\t"}, "url_invalid"),
     ({"url": "https://a b/"}, "target_invalid"), ({"url": "https://a.example/a/../b"}, "path_refused"), ({"length": True}, "body_invalid"),
     ({"headers": [["X", "y"]] * 101}, "headers_invalid"), ({"headers": [["X", "y" * 20_000]]}, "headers_invalid"), ({"headers": ["X"]}, "headers_invalid"),
     ({"headers": [["X\n", "y"]]}, "headers_invalid"), ({"headers": {"X": "y"}}, "headers_invalid")],
)  # fmt: skip
def test_requests_that_are_refused(args: dict[str, Any], refused: str) -> None:
    found = parse_request({"url": "https://a.example/", **args})
    assert isinstance(found, Refused)
    assert found.code == refused


def test_prefixes_end_at_segments() -> None:
    assert covers_path([], "/anything")
    assert all(covers_path(["/v1"], path) for path in ("/v1", "/v1/", "/v1/x"))
    assert all(covers_path(["/v1/"], path) for path in ("/v1/", "/v1/x"))
    assert not any(covers_path(["/v1", "/w/"], path) for path in ("/v10", "/v", "/", "/w"))


def test_a_grant_of_http_fetch() -> None:
    assert covers_request(["a.example"], [], [], "a.example", "HEAD", "/x")
    assert not covers_request(["a.example"], [], [], "a.example", "POST", "/x")
    assert not covers_request(["a.example"], ["POST"], ["/y"], "a.example", "POST", "/x")
    assert not covers_request(["a.example"], ["POST"], [], "b.example", "POST", "/x")
    assert (method_fault("POST"), bool(method_fault("TRACE")), path_fault("/v1/"), secret_fault("X-Key: {K}")) == ("", True, "", "")
    [made] = injections(["Authorization: Bearer {API_KEY}!", "nonsense"])
    assert (made.header, made.value("s")) == ("Authorization", "Bearer s!")
    request = Request("GET", "a.example", "/", "", (("authorization", "x"), ("b", "c")), 0)
    assert header_clash(request, [made]) == "authorization"
    assert header_clash(request, injections(["X-Key: {K}"])) == ""


# --- grants


def asked(kind: str, **params: Any) -> PermissionRequest:
    return PermissionRequest(kind, "r", MappingProxyType({name: tuple(value) for name, value in params.items()}))


def granted(requests: list[PermissionRequest], *choices: Choice) -> list[dict[str, Any]]:
    found = decide(requests, list(choices) or None, instance="i").granted
    return [dict(permission.params) for permission in found]


def test_what_a_declaration_leaves_out_is_written_out_when_it_is_granted() -> None:
    assert granted([asked("network", domains=["a.example"])]) == [{"ports": (443,), "domains": ("a.example",)}]
    assert granted([asked("network", addresses=["10.0.0.1:80"])]) == [{"addresses": ("10.0.0.1:80",)}]
    both = asked("network", domains=["a.example"], addresses=["10.0.0.1:80"], ports=[8443])
    assert granted([both], Choice("network", {"addresses": ("10.0.0.1:80",)})) == [{"addresses": ("10.0.0.1:80",)}]
    assert granted([asked("http.fetch", hosts=["a.example"])]) == [{"methods": ("GET", "HEAD"), "path_prefixes": ("/",), "hosts": ("a.example",)}]


def test_declarations_that_limit_their_own_hosts_are_never_joined() -> None:
    requests = [asked("http.fetch", hosts=["a.example"], methods=["GET"]), asked("http.fetch", hosts=["b.example"], methods=["DELETE"])]
    both = [("GET",), ("DELETE",)]
    assert [item["methods"] for item in granted(requests)] == both
    assert [item["methods"] for item in granted(requests, Choice("http.fetch"))] == both
    for params in ({"hosts": ("a.example",), "methods": ("DELETE",)}, {"hosts": ("a.example", "b.example"), "methods": ("GET",)}):
        with pytest.raises(DeniedError):
            granted(requests, Choice("http.fetch", params))


def test_a_choice_without_a_limit_keeps_the_declared_one() -> None:
    request = asked("network", domains=["*.example.com", "b.example"], ports=[8443, 443])
    assert granted([request], Choice("network", {"domains": ("x.example.com",)})) == [{"ports": (8443, 443), "domains": ("x.example.com",)}]
    assert granted([request], Choice("network", {"domains": ("*.x.example.com",), "ports": (443,)}))[0]["ports"] == (443,)
    secret = asked("http.fetch", hosts=["a.example"], secrets=["X-Key: {K}"], path_prefixes=["/v1/"])
    [item] = granted([secret], Choice("http.fetch", {"hosts": ("a.example",), "path_prefixes": ("/v1/items",)}))
    assert (item["secrets"], item["path_prefixes"]) == (("X-Key: {K}",), ("/v1/items",))


@pytest.mark.parametrize(
    "params",
    [{"domains": ("example.com",)}, {"domains": ("*.example.org",)}, {"domains": ("*.b.example",)}, {"domains": ("*",)}, {"ports": (443,)},
     {"domains": ("x.example.com",), "ports": (80,)}, {"addresses": ("10.0.0.1:80",)}, {"domains": ("x.example.com.",)}, {"domains": (5,)}],
)  # fmt: skip
def test_wider_than_declared_is_refused(params: dict[str, Any]) -> None:
    with pytest.raises(DeniedError):
        granted([asked("network", domains=["*.example.com", "b.example"], ports=[8443])], Choice("network", params))


def test_narrowing_never_drops_a_limit() -> None:
    held = [Permission("network", freeze({"domains": ["a.example", "b.example"], "ports": [8443]}))]
    [kept] = narrow(held, [Choice("network", {"domains": ("a.example",)})], spent=())
    assert kept.params == {"ports": (8443,), "domains": ("a.example",)}
    with pytest.raises(DeniedError):
        narrow(held, [Choice("network", {"domains": ("a.example",), "ports": (443,)})], spent=())


def test_taking_away_domains_leaves_addresses() -> None:
    held = (Permission("network", freeze({"domains": ["a.example"], "addresses": ["10.0.0.1:80"], "ports": [443]})),)
    [left] = without(held, [Choice("network", {"domains": ("a.example",)})])
    assert left.params == {"addresses": ("10.0.0.1:80",), "ports": (443,)}
    assert without((left,), [Choice("network", {"addresses": ("10.0.0.1:80",)})]) == ()
    assert without(held, [Choice("network", {"ports": (443,)})]) == ()
    [used] = without_unused(held, lambda _kind, item: item == "10.0.0.1:80")
    assert used.params == {"addresses": ("10.0.0.1:80",), "ports": (443,)}


def test_uses_are_counted_by_what_was_granted() -> None:
    network = Permission("network", freeze({"domains": ["*.example.com"], "addresses": ["10.0.0.1:80"], "ports": [443]}))
    fetch = Permission("http.fetch", freeze({"hosts": ["a.example"], "methods": ["GET"], "path_prefixes": ["/"]}))
    assert items_of(network) == ("*.example.com", "10.0.0.1:80")
    assert items_of(fetch) == ("a.example",)
    assert covering_item(network, "network", {"target": Target(443, name="x.example.com")}) == "*.example.com"
    assert covering_item(network, "network", {"target": "x.example.com:443"}) == ""
    assert covering_item(network, "network", {}) == ""
    assert covering_item(fetch, "http.fetch", {"host": "a.example", "method": "GET", "url_path": "/"}) == "a.example"
    assert covering_item(fetch, "http.fetch", {"host": "a.example"}) == ""
    assert covering_item(fetch, "network", {"target": Target(443, name="a.example")}) == ""
    assert fetches([network, fetch], "a.example")
    assert not fetches([network, fetch], "x.example.com")


def test_a_pack_may_ask_beforehand() -> None:
    network = Permission("network", freeze({"domains": ["*.example.com"], "addresses": ["10.0.0.1:80"], "ports": [443]}))
    fetch = Permission("http.fetch", freeze({"hosts": ["a.example"], "methods": ["GET"], "path_prefixes": ["/v1"]}))
    assert covering_item(network, "network", {"domain": "x.example.com"}) == "*.example.com"
    assert covering_item(network, "network", {"address": "10.0.0.1:80"}) == "10.0.0.1:80"
    assert covering_item(fetch, "http.fetch", {"url": "http://a.example/v1/x?y"}) == "a.example"
    for permission, question in ((network, {"domain": "x.example.com", "port": 80}), (network, {"address": "10.0.0.1"}), (network, {"domain": 5}),
                                 (fetch, {"url": "https://a.example/v2"}), (fetch, {"url": "https://a.example/v1", "method": "POST"}), (fetch, {"url": 5})):  # fmt: skip
        assert covering_item(permission, permission.type, question) == ""
    assert secret_names(["Authorization: Bearer {A}", "nonsense", "X: {B}"]) == ("A", "B")


def test_declarations_need_somewhere_to_go() -> None:
    assert "one of domains, addresses" in request_fault(asked("network", ports=[443]), "p")
    assert "hosts" in request_fault(asked("http.fetch", methods=["GET"]), "p")
    for kind, params in (("network", {"domains": ["*"]}), ("network", {"addresses": ["169.254.169.254:80"]}), ("http.fetch", {"hosts": ["*.a.example"]}),
                         ("http.fetch", {"hosts": ["a.example"], "methods": ["CONNECT"]}), ("http.fetch", {"hosts": ["a.example"], "path_prefixes": ["/../"]}),
                         ("http.fetch", {"hosts": ["a.example"], "secrets": ["Host: {K}"]})):  # fmt: skip
        assert request_fault(asked(kind, **params), "p")


@pytest.mark.parametrize("host", ["api.example.org.", "API.example.org", "API.EXAMPLE.ORG."])
def test_one_name_has_one_form(host: str) -> None:
    assert parse_host(host) == "api.example.org"
    assert domain_fault(host), "only the one form is granted"


@pytest.mark.parametrize(
    ("host", "says"),
    [
        ("a/b.example", "which no host name has"),
        ("a b.example", "which no host name has"),
        ("a@b.example", "which no host name has"),
        ("1.2.3", "of four decimal numbers"),
        ("1.2.3.256", "of four decimal numbers"),
        ("0x7f.1", "of four decimal numbers"),
        ("[a]", "is no address"),
        ("1::2::3", "is no IPv6 address"),
        (".example.org", "is no host name"),
        ("example.org..", "is no host name"),
    ],
)
def test_what_is_no_host_is_refused_with_its_reason(host: str, says: str) -> None:
    found = parse_host(host)
    assert isinstance(found, Refused)
    assert says in found.reason


@pytest.mark.parametrize("text", ["192.0.2.1:1", "192.0.2.1:65535", "[2001:db8::1]:443"])
def test_literal_addresses(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "192.0.2.1", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:080", "192.0.2.1:65536", "192.0.2.1:100000",
        "192.0.2.1:+80", "192.0.2.1:ab", "192.0.2.1:\uff18\uff10", "192.0.2.1:\u00b2", "2001:db8::1:443",
        "a.example.com:443",
    ],
    ids=ascii,
)  # fmt: skip
def test_what_is_no_literal_address(text: str) -> None:
    assert isinstance(parse_address(text), Refused)


def test_a_name_has_at_most_253_characters() -> None:
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    assert len(longest) == 253
    assert parse_host(longest) == longest
    assert isinstance(parse_host(longest + "d"), Refused)
    assert isinstance(parse_host("a" * 64 + ".example"), Refused)


@pytest.mark.parametrize(
    ("tls", "plain"),
    [(443, 80), (465, 25), (563, 119), (636, 389), (853, 53), (989, 20), (990, 21), (992, 23), (993, 143), (994, 194),
     (995, 110), (5061, 5060), (5223, 5222), (5349, 3478), (6697, 6667), (8443, 8080), (8883, 1883)],
)  # fmt: skip
def test_each_service_with_a_port_for_tls_has_to_use_it_there_alone(tls: int, plain: int) -> None:
    assert tls in TLS_PORTS
    assert plain not in TLS_PORTS


# --- names that are no public ones


@pytest.mark.parametrize("suffix", ["localhost", "local", "localdomain", "internal", "intranet", "lan", "home.arpa", "onion", "arpa"])
def test_names_of_a_local_network_are_refused_at_every_depth(suffix: str) -> None:
    for name in (f"a.{suffix}", f"a.b.{suffix}", f"A.{suffix.upper()}."):
        found = parse_host(name)
        assert isinstance(found, Refused)
        assert "only a local network knows" in found.reason
    for name in (f"{suffix}.example", f"a.{suffix}.example", f"a.x{suffix.rpartition('.')[2]}"):
        assert parse_host(name) == name


def test_a_name_says_what_is_wrong_with_it() -> None:
    for host, says in (
        (None, "there is no host"), ("", "there is no host"), (5, "there is no host"), ("bücher.example", "in its xn-- form"), ("a b.example", "which no host name has"),
        ("a/b", "which no host name has"), ("printer", "has no dot"), ("a..example", "is no host name"), ("-a.example", "is no host name"), ("a-.example", "is no host name"),
        ("[a.example]", "is no address"), ("[::1", "is no IPv6 address"), ("1.2.3", "four decimal numbers"), ("a.0x7f", "four decimal numbers"), ("a.0x", "four decimal numbers"),
        ("1.2.3.04", "four decimal numbers"), ("1.2.3.256", "four decimal numbers"), ("2130706433", "four decimal numbers"),
    ):  # fmt: skip
        found = parse_host(host)
        assert isinstance(found, Refused), host
        assert found.code == "target_invalid"
        assert says in found.reason


def test_a_name_may_be_as_long_as_names_are() -> None:
    label = "a" * 63
    longest = ".".join([label, label, label, "b" * 61])
    assert (len(longest), parse_host(longest), parse_host(longest + ".")) == (253, longest, longest)
    for host in (longest + "b", longest + "b.", label + "a.example", "x" * 5_000):
        found = parse_host(host)
        assert isinstance(found, Refused)
        assert len(found.reason) < 200
    assert parse_host("_dmarc.a_b.example") == "_dmarc.a_b.example"


@pytest.mark.parametrize(
    ("text", "says"),
    [("a.example:1", "is a name"), ("10.0.0.1", "no ip:port"), ("10.0.0.1:", "no ip:port"), ("10.0.0.1:0", "no ip:port"), ("10.0.0.1:080", "no ip:port"), ("10.0.0.1:100000", "no ip:port"),
     ("10.0.0.1:65536", "no port number"), ("::1:80", "no ip:port"), ("10.0.0.1:٣", "no ip:port"), ("10.0.0.1:+1", "no ip:port")],
)  # fmt: skip
def test_a_literal_grant_is_an_address_and_a_port(text: str, says: str) -> None:
    found = parse_address(text)
    assert isinstance(found, Refused)
    assert found.code == "target_invalid"
    assert says in found.reason
    assert parse_address("10.0.0.1:65535") == Target(65535, address=ip_address("10.0.0.1"))
    assert parse_address("[::1]:1") == Target(1, address=ip_address("::1"))


@pytest.mark.parametrize("ports", [[0], [65536], [443, 0], [0, 443], [443, True], [443, "80"], [443, 80.0], "443", 443, [443] * 1_000])
def test_ports_are_a_list_of_port_numbers_each_of_them(ports: Any) -> None:
    def fault(value: Any) -> str:
        return request_fault(PermissionRequest("network", "r", MappingProxyType({"domains": ("a.example",), "ports": value})), "alpha")

    assert "must be a list of port numbers" in fault(ports)
    assert fault((1, 65535)) == ""


def test_a_secret_is_covered_by_its_own_name_and_by_no_pattern() -> None:
    for kind, params, use in (
        ("secret", {"names": ["A*", "B"]}, "name"), ("interface.call", {"keys": ["A*", "B"]}, "key"), ("addon.apply", {"targets": ["A*", "B"]}, "target"),
    ):  # fmt: skip
        permission = Permission(kind, freeze(params))
        assert covering_item(permission, kind, {use: "B"}) == "B"
        assert covering_item(permission, kind, {use: "AB"}) == ""
        assert covering_item(permission, kind, {"other": "B"}) == ""


@pytest.mark.parametrize(
    ("kind", "declared", "limit"),
    [
        ("network", {"domains": ["a.example"], "ports": [8443]}, "ports"),
        ("http.fetch", {"hosts": ["a.example"], "methods": ["POST"]}, "methods"),
        ("http.fetch", {"hosts": ["a.example"], "path_prefixes": ["/v1/"]}, "path_prefixes"),
    ],
)
def test_an_empty_limit_is_no_limit_and_so_wider_than_any(kind: str, declared: dict[str, Any], limit: str) -> None:
    """Nothing named means the default, which the declared limit need not hold."""
    choice = Choice(kind, {**{name: tuple(items) for name, items in declared.items()}, limit: ()})
    with pytest.raises(DeniedError):
        granted([asked(kind, **declared)], choice)
    with pytest.raises(DeniedError):
        narrow([Permission(kind, freeze(declared))], [choice], spent=())

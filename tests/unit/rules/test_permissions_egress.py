"""Ways out as permissions: what a choice may narrow, what stays as declared, what one use is covered by."""

from __future__ import annotations

from typing import Any

import pytest

from backend_core.ecosystem.spec.models import PermissionRequest
from backend_core.errors import DeniedError
from core_runtime.rules.combination import labels_of
from core_runtime.rules.egress import Target, parse_target
from core_runtime.rules.grants import Permission, freeze
from core_runtime.rules.permissions import (
    covering_item,
    decide,
    fetches,
    item_params,
    items_of,
    parse_choices,
    request_fault,
)


def request(kind: str, **params: Any) -> PermissionRequest:
    return PermissionRequest(kind, "because", freeze(params))


def held(kind: str, **params: Any) -> Permission:
    return Permission(kind, freeze(params))


DECLARED = (
    request("network", domains=["api.example.org", "*.example.net"], ports=[443, 8443]),
    request("network", addresses=["192.0.2.1:5432"]),
    request("http.fetch", hosts=["api.example.com"], methods=["GET", "POST"], path_prefixes=["/v1/"]),
    request("http.fetch", hosts=["other.example.com"]),
)


def chosen(*choices: Any) -> list[dict[str, Any]]:
    return [dict(p.params) for p in decide(DECLARED, parse_choices(choices), instance="").granted]


def test_each_declaration_keeps_its_own_limits():
    network = chosen("network")
    assert [item.get("domains") for item in network] == [("api.example.org", "*.example.net"), None]
    assert network[0]["ports"] == (443, 8443)
    assert network[1]["addresses"] == ("192.0.2.1:5432",)
    fetch = chosen("http.fetch")
    assert [item["hosts"] for item in fetch] == [("api.example.com",), ("other.example.com",)]
    assert (fetch[0]["methods"], fetch[0]["path_prefixes"]) == (("GET", "POST"), ("/v1/",))
    assert fetch[1]["path_prefixes"] == ("/",)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "network", "domains": ["api.example.org"]},
        {"type": "network", "domains": ["www.example.net"]},
        {"type": "network", "domains": ["*.sub.example.net"]},
        {"type": "network", "domains": ["api.example.org"], "ports": [443]},
        {"type": "http.fetch", "hosts": ["api.example.com"], "path_prefixes": ["/v1/users"]},
        {"type": "http.fetch", "hosts": ["api.example.com"], "methods": ["GET"], "path_prefixes": ["/v1/"]},
    ],
    ids=str,
)
def test_a_choice_narrows_a_way_out(choice):
    [params] = chosen(choice)
    for name, value in choice.items():
        if name != "type":
            assert list(params[name]) == value
    if choice["type"] == "network" and "ports" not in choice:
        assert params["ports"] == (443, 8443)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "network", "domains": ["example.org"]},
        {"type": "network", "domains": ["example.net"]},
        {"type": "network", "domains": ["*.example.org"]},
        {"type": "network", "domains": ["*.net"]},
        {"type": "network", "domains": ["a b.example.net"]},
        {"type": "network", "domains": ["api.example.org"], "ports": [80]},
        {"type": "network", "addresses": ["192.0.2.1:5433"]},
        {"type": "network", "domains": ["api.example.org"], "addresses": ["192.0.2.1:5432"]},
        {"type": "network", "ports": [443]},
        {"type": "http.fetch", "hosts": ["api.example.com"], "path_prefixes": ["/v2/"]},
        {"type": "http.fetch", "hosts": ["api.example.com"], "path_prefixes": ["/v1/../v2"]},
        {"type": "http.fetch", "hosts": ["api.example.com", "other.example.com"]},
        {"type": "http.fetch", "hosts": ["other.example.com"], "methods": ["DELETE"]},
        {"type": "http.fetch", "methods": ["GET"]},
    ],
    ids=str,
)
def test_a_choice_never_widens_a_way_out(choice):
    with pytest.raises(DeniedError) as refused:
        chosen(choice)
    assert refused.value.code == "permission_wider"


def test_a_way_out_names_where_it_leads():
    fault = request_fault(request("network", ports=[443]), "alpha")
    assert fault == "network: one of domains, addresses is missing"
    assert request_fault(request("http.fetch", methods=["GET"]), "alpha") == "http.fetch: 'hosts' is missing"
    assert labels_of(["network"]) == labels_of(["http.fetch"]) == {"untrusted-input", "external-communication"}
    assert labels_of(["http.serve"]) == {"untrusted-input", "external-communication"}
    assert labels_of(["secret"]) == {"private-data"}


def target(host: str, port: int) -> Target:
    found = parse_target(host, port)
    assert isinstance(found, Target)
    return found


@pytest.mark.parametrize(
    ("permission", "params", "item"),
    [
        (held("network", domains=["*.example.net"], ports=[443]), {"target": target("www.example.net", 443)}, "*.example.net"),
        (held("network", domains=["*.example.net"], ports=[443]), {"target": target("www.example.net", 80)}, ""),
        (held("network", domains=["*.example.net"], ports=[443]), {"target": target("www.example.org", 443)}, ""),
        (held("network", addresses=["192.0.2.1:5432"]), {"target": target("192.0.2.1", 5432)}, "192.0.2.1:5432"),
        (held("network", addresses=["192.0.2.1:5432"]), {"target": target("192.0.2.2", 5432)}, ""),
        (held("network", domains=["a.example"], ports=[443]), {"target": "a.example:443"}, ""),
        (held("network", domains=["a.example"], ports=[443]), {}, ""),
        *[
            (
                held("http.fetch", hosts=["a.example"], methods=["GET"], path_prefixes=["/v1/"]),
                {"host": host, "method": method, "url_path": path},
                item,
            )
            for host, method, path, item in (
                ("a.example", "GET", "/v1/x", "a.example"), ("b.example", "GET", "/v1/x", ""), ("a.example", "POST", "/v1/x", ""),
                ("a.example", "GET", "/v2/x", ""),
            )
        ],
        (held("http.fetch", hosts=["a.example"], methods=["GET"], path_prefixes=["/"]), {}, ""),
    ],
    ids=range(12),
)  # fmt: skip
def test_what_one_way_out_is_covered_by(permission, params, item):
    assert covering_item(permission, permission.type, params) == item
    assert covering_item(permission, "event.publish", params) == ""


def test_items_that_are_counted():
    assert item_params("network") == ("domains", "addresses")
    assert item_params("http.fetch") == ("hosts",)
    assert item_params("userdata.read") == ("paths",)
    assert item_params("resources") == ()
    assert items_of(held("network", domains=["a.example"], addresses=["192.0.2.1:1"])) == ("a.example", "192.0.2.1:1")
    permissions = [held("network", domains=["a.example"]), held("http.fetch", hosts=["b.example"])]
    assert fetches(permissions, "b.example")
    assert not fetches(permissions, "a.example")
    assert not fetches([held("network", hosts=["b.example"])], "b.example")


@pytest.mark.parametrize(("granted", "covered"), [((8443,), (8443,)), ((443, 8443), (443, 8443)), ((), (443,))])
def test_a_use_is_covered_on_the_granted_ports_alone(granted: tuple[int, ...], covered: tuple[int, ...]):
    permission = held("network", domains=["api.example.org"], **({"ports": granted} if granted else {}))
    for port in (80, 443, 8443):
        target = parse_target("api.example.org", port)
        expected = "api.example.org" if port in covered else ""
        assert covering_item(permission, "network", {"target": target}) == expected
        assert covering_item(permission, "network", {"domain": "api.example.org", "port": port}) == expected

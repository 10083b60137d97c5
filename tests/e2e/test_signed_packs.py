"""Signed Packs on a running host, over HTTP and in the console's pages: shown, remembered, refused, forgotten."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser_like import Visitor, code_in
from tests.support.running_host import RunningHost, one_component_pack
from tests.support.signing import Publisher

pytestmark = [pytest.mark.embedded, pytest.mark.slow]

SETUP = """
def run(context):
    context["interface_registry"].register("seal.version", lambda args, ctx: {version!r})
"""


def folder(where: Path, number: str, publisher: Publisher | None) -> str:
    files = one_component_pack("seal", SETUP.format(version=number), provides=("seal.version",))
    files["backend/ecosystem.json"] = json.dumps({"pack_id": "seal", "version": number})
    for name, text in files.items():
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    if publisher is not None:
        publisher.sign(where)
    return str(where)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunningHost]:
    with RunningHost(tmp_path / "home", "embedded") as running:
        yield running


def opened(host: RunningHost) -> Visitor:
    visitor = Visitor(host.web_port)
    assert visitor.open(code_in(Path(host.ok("POST", "/api/console/open")["path"]))).status == 200
    return visitor


def bill(host: RunningHost, path: str) -> tuple[str, str, str]:
    subject = host.ok("GET", path)["metadata"]["component"]
    facts = {one["name"]: one["value"] for one in subject["properties"]}
    return facts["rumi:digest"], subject["version"], facts["rumi:publisher-key"]


def test_the_way_of_a_signed_pack(tmp_path: Path, host: RunningHost) -> None:
    author, thief = Publisher("A. Uthor"), Publisher("A. Uthor")
    source = folder(tmp_path / "v1", "1.0.0", author)
    status, answer = host.request("POST", "/api/packs/add", {"path": source, "publisher": thief.key})
    assert (status, answer["code"]) == (409, "publisher_unexpected")
    added = host.ok("POST", "/api/packs/add", {"path": source, "publisher": author.key})
    assert added["status"] == "installed", "a signature approves nothing"
    shown = host.ok("GET", "/api/packs/seal/review")["signature"]
    assert (shown["standing"], shown["key"], shown["publisher"]) == ("first_use", author.key, "A. Uthor")
    assert host.ok("GET", "/api/publishers") == []
    host.approve("seal")
    assert host.result("seal.version") == "1.0.0"
    [known] = host.ok("GET", "/api/publishers")
    assert (known["pack_id"], known["key"], known["version"]) == ("seal", author.key, "1.0.0")

    for name, publisher, code in (("v2", thief, "publisher_changed"), ("v3", None, "signature_missing")):
        status, answer = host.request("POST", "/api/packs/add", {"path": folder(tmp_path / name, "2.0.0", publisher)})
        assert (status, answer["code"]) == (409, code)
    assert host.ok("GET", "/api/packs/seal/status")["pending_update"] is None

    host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v4", "2.0.0", author)})
    review = host.ok("GET", "/api/packs/seal/update")
    assert review["signature"]["standing"] == "known"
    assert bill(host, "/api/packs/seal/update/sbom") == (review["digest"], "2.0.0", author.key)
    host.ok("POST", "/api/packs/seal/update/approve", {"digest": review["digest"]})
    assert bill(host, "/api/packs/seal/sbom") == (review["digest"], "2.0.0", author.key)
    page = opened(host).get("/_rumi/packs/seal/review").text
    assert 'href="/_rumi/packs/seal/sbom"' in page
    file = opened(host).get("/_rumi/packs/seal/sbom")
    assert json.loads(file.text) == host.ok("GET", "/api/packs/seal/sbom")
    assert host.result("seal.version") == "2.0.0"

    host.ok("DELETE", "/api/publishers/seal")
    host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v5", "3.0.0", thief)})
    assert host.ok("GET", "/api/packs/seal/update")["signature"]["standing"] == "first_use"
    events = [record["event"] for record in host.ok("GET", "/api/audit?lines=200")]
    assert {"publisher.pinned", "pack.signature_refused", "publisher.forgotten"} <= set(events)
    assert host.ok("GET", "/api/audit/verify")["ok"]


def test_a_folder_signed_by_another_is_shown_on_the_page_and_not_approved(tmp_path: Path, host: RunningHost) -> None:
    author = Publisher("A. Uthor")
    host.ok("POST", "/api/packs/add", {"path": folder(tmp_path / "v1", "1.0.0", author)})
    host.approve("seal")
    folder(host.packs / "seal", "1.0.0", Publisher("Other <b>One</b>"))
    (host.packs / "seal/backend/more.txt").write_text("changed")
    Publisher("Other <b>One</b>").sign(host.packs / "seal")
    host.ok("POST", "/api/packs/scan")
    shown = host.ok("GET", "/api/packs/seal/review")
    assert shown["signature"]["standing"] == "publisher_changed"
    status, answer = host.request("POST", "/api/packs/seal/approve", {"digest": shown["digest"]})
    assert (status, answer["code"]) == (409, "publisher_changed")
    page = opened(host).get("/_rumi/packs/seal/review").text
    assert "signed by ANOTHER publisher" in page
    assert "<b>One" not in page
    assert author.key in page

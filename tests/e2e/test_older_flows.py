"""Golden documents of the older styles, unchanged, as a Pack's: files in its folder, and what it registers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.test_flows import flow_pack
from tests.support.older_flows import HANDLERS, KEYS, SHOUT, SHOUT_KEY, Golden, goldens, key_of
from tests.support.running_host import RunningHost

GOLDENS = goldens()
SETUP = """
%s

REGISTERED = %r


def run(context):
    ir = context["interface_registry"]
    for key, fn in handlers().items():
        ir.register(key, fn)
    for key, text in REGISTERED:
        ir.register(key, json.loads(text))
"""
ASKS = [{"type": "flow.modify", "flows": ["old.*"]}]


def old_pack(found: list[Golden]) -> dict[str, str]:
    """A Pack with these documents, byte for byte."""
    paths = {path: golden.style for golden in found for path in golden.paths}
    registered = [(key, path.read_text("utf-8")) for path, style in paths.items() if (key := key_of(path, style))]
    files = {path.name: path.read_text("utf-8") for path, style in paths.items() if not key_of(path, style)}
    provides = (*KEYS, SHOUT_KEY, *dict.fromkeys(key for key, _ in registered))
    setup = f"import json\n{SETUP % (HANDLERS, registered)}"
    return {
        **flow_pack("old", setup, files, asks=ASKS, provides=provides), "backend/handlers/shout.py": SHOUT,
    }  # fmt: skip


@pytest.mark.parametrize("style", sorted({golden.style for golden in GOLDENS}))
def test_golden_documents_run_unchanged(host: RunningHost, style: str) -> None:
    found = [golden for golden in GOLDENS if golden.style == style]
    host.put_pack("old", old_pack(found))
    host.ok("POST", "/api/packs/old/approve", {"permissions": ASKS})
    host.until(lambda: host.status("old")["status"] == "running", 30, "the Pack to run")
    for golden in found:
        known = golden.known
        host.result("old.taken")
        report = host.ok("POST", f"/api/flows/{known['flow']}/run", {"input": known["input"]})
        seen: dict[str, Any] = {
            "status": report["status"],
            "steps": {step["step"]: step["status"] for step in report["steps"]},
            "notes": host.result("old.taken"),
            "output": report["output"],
        }
        expected = {word: known[word] for word in seen}
        assert seen["steps"].items() == expected.pop("steps").items(), (golden.name, report)
        del seen["steps"]
        assert seen == expected, (golden.name, json.dumps(report))

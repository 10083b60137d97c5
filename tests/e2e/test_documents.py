"""The author's guide, executed: its examples are approved and called as they stand."""

from __future__ import annotations

import json

from tests.support.documents import ROOT, marked_block
from tests.support.running_host import RunningHost, one_component_pack

GUIDES = {"en": ROOT / "docs/ecosystem.md", "ja": ROOT / "docs/ecosystem.ja.md"}
GREETER = "example: greeter/setup.py provides example.greet, example.count"
CALLER = "example: caller/setup.py provides example.report"
ASKER = "example: asker/setup.py provides example.ask"  # executed where there is something to ask: test_egress.py


def test_guides_show_the_same_examples() -> None:
    for marker in (GREETER, CALLER, "example: answer", ASKER, "example: asker/permissions.json", "example: asked"):
        assert marked_block(GUIDES["en"], marker) == marked_block(GUIDES["ja"], marker)


def test_the_guide_works(host: RunningHost) -> None:
    keys = ("example.greet", "example.count")
    host.put_pack("greeter", one_component_pack("greeter", marked_block(GUIDES["en"], GREETER), provides=keys))
    caller = marked_block(GUIDES["en"], CALLER)
    host.put_pack("caller", one_component_pack("caller", caller, provides=("example.report",), requires=keys))
    host.approve("greeter")
    host.approve("caller")
    assert host.result("example.report", {"name": "Ada"}) == json.loads(marked_block(GUIDES["en"], "example: answer"))

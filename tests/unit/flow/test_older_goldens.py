"""Golden documents of the older styles: the translation as data, and what really running it gives."""

from __future__ import annotations

import json

import pytest

from core_runtime.flow_composer import read_document
from core_runtime.rules.flow import model
from core_runtime.rules.flow.compose import Base
from tests.support.older_flows import STYLES, Golden, compositions, goldens, played, told
from tests.unit.flow.test_schema import fault

GOLDENS = goldens()


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: f"{golden.style}/{golden.name}")
def test_a_golden_document_means_what_it_meant(golden: Golden) -> None:
    flows = compositions([*golden.says(), *others(golden)])
    known = golden.known
    assert flows[known["flow"]].document == known["translation"]
    assert told(played(flows, known["flow"], known["input"])) == {
        word: known[word] for word in ("status", "steps", "notes", "output")
    }


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda golden: f"{golden.style}/{golden.name}")
def test_the_translation_is_a_document_of_the_one_form(golden: Golden) -> None:
    """Written out and read again it is the same flow, and an editor that uses the schema is content with it."""
    assert fault(golden.known["translation"]) == ""
    text = json.dumps(golden.known["translation"]).encode()
    base = read_document(text, source="new.json", layer=model.Layer.ECOSYSTEM, pack="old")
    assert isinstance(base, Base)
    assert base.style == ""


def others(golden: Golden) -> list[Base]:
    """The other flows of the style, which a flow may run."""
    found = [one for other in GOLDENS if other.style == golden.style == "registered" and other != golden for one in other.says()]
    return [one for one in found if isinstance(one, Base)]


def test_there_are_enough_of_each_style() -> None:
    count = {style: sum(golden.style == style for golden in GOLDENS) for style in STYLES}
    assert min(count[style] for style in ("pipelines", "registered", "phases")) >= 5, count
    assert min(count.values()) >= 3, count

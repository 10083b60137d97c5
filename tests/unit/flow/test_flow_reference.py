"""The reference of flows: every example is read by the host's own reader, modifiers are composed, one flow is run."""

from __future__ import annotations

import json
import re
import textwrap

import pytest

from core_runtime.api.endpoints_flows import ENDPOINTS
from core_runtime.drivers import cel
from core_runtime.flow_composer import Says, read_document
from core_runtime.rules.flow import endings, model, values
from core_runtime.rules.flow.changes import Status
from core_runtime.rules.flow.compose import Base, World, compose
from core_runtime.rules.flow.modifier import Modifier
from core_runtime.rules.flow.older.pipelines import Pipelines
from core_runtime.rules.flow.parse import FLOW_WORDS
from core_runtime.rules.flow.parse_steps import ADVERBS, VERBS
from rumi_setup.cli.flows import flow as commands
from tests.support.documents import ROOT, marked_block
from tests.support.flows import Playbook

PAGES = [ROOT / "docs/reference/flows.md", ROOT / "docs/reference/flows.ja.md"]
TEXT = PAGES[0].read_text(encoding="utf-8")
FENCE = re.compile(r"^(<!-- needs: expressions -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
YAML = [(bool(needs), body) for needs, kind, body in FENCE.findall(TEXT) if kind == "yaml"]
ORDER = marked_block(PAGES[0], "example: shop.order")


def read(block: str) -> Says:
    """A block as it stands, or, where it shows steps only, as those of a flow."""
    text = f"flow: shown.steps\nsteps:\n{textwrap.indent(block, '  ')}" if block.startswith("- ") else block
    return read_document(text.encode(), source="flows.md.yaml", layer=model.Layer.USER)


def test_both_languages_show_the_same_examples_and_sections() -> None:
    english, japanese = (page.read_text(encoding="utf-8") for page in PAGES)
    assert FENCE.findall(english) == FENCE.findall(japanese)
    assert english.count("\n## ") == japanese.count("\n## ")
    assert english.count("\n|") == japanese.count("\n|")


@pytest.mark.parametrize(("needs_engine", "block"), YAML)
def test_each_example_is_read(needs_engine: bool, block: str) -> None:
    if needs_engine:
        with pytest.raises(Exception, match="expression engine"):
            read(block)
        values.use(cel.compile_expression)
    assert isinstance(read(block), Base | Modifier | Pipelines)


def test_the_modifiers_apply_to_the_flow_of_the_page() -> None:
    base = read(ORDER)
    assert isinstance(base, Base)
    modifiers = [one for one in read_all() if isinstance(one, Modifier) and not one.style]
    assert len(modifiers) == 2
    for modifier in modifiers:
        composition = compose(base, [modifier], World())
        assert {change.status for change in composition.changes} == {Status.APPLIED}, composition.changes
        assert composition.digest != compose(base, []).digest


def test_the_older_documents_of_the_page_are_one_of_each_style_and_apply() -> None:
    found = read_all()
    flows = {one.style: one for one in found if isinstance(one, Base) and one.style}
    modifiers = {one.style: one for one in found if isinstance(one, Modifier) and one.style}
    assert len([one for one in found if isinstance(one, Pipelines)]) == 1
    assert (set(flows), set(modifiers)) == ({"registered steps", "phases"}, {"modifier file", "registry modifier"})
    composition = compose(flows["phases"], list(modifiers.values()))
    assert {change.status for change in composition.changes} == {Status.APPLIED}, composition.changes


def read_all() -> list[Says]:
    """Every example that needs no engine."""
    return [read(block) for needs, block in YAML if not needs]


def test_the_flow_of_the_page_gives_what_the_page_says() -> None:
    prices = {"tea": 3, "pot": 20}
    play = Playbook(ORDER, {"shop.price": lambda args: prices[args["name"]]}, values={"items": ["tea", "pot"]})
    outcome = play.run()
    assert outcome.status is endings.RunStatus.DEGRADED
    assert outcome.output == json.loads(marked_block(PAGES[0], "example: shop.order output"))


def test_the_authors_guides_modifier_applies_with_the_permission_it_names() -> None:
    marker = "example: flows/screen.yaml"
    block, again = (marked_block(ROOT / f"docs/ecosystem{language}.md", marker) for language in ("", ".ja"))
    assert block == again
    base = read(ORDER)
    found = read_document(block.encode(), source="screen.yaml", layer=model.Layer.ECOSYSTEM, pack="my_pack")
    assert isinstance(base, Base)
    assert isinstance(found, Modifier)
    granted = compose(base, [found], World(may_modify=lambda pack, flow: (pack, flow) == ("my_pack", "shop.order")))
    assert {change.status for change in granted.changes} == {Status.APPLIED}
    assert granted.plan.phases[0][1][0].acts_as == ("my_pack",)
    assert {change.status for change in compose(base, [found]).changes} == {Status.REFUSED}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_word_command_and_route_is_there(page) -> None:
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"[a-z_]+", text))
    assert not (ADVERBS | set(VERBS) | FLOW_WORDS) - shown
    assert not set(commands.list_commands(None)) - shown
    for endpoint in ENDPOINTS:
        path = endpoint.path.replace("/api/runs/{run_id}/cancel", "…/cancel")
        assert path in text, endpoint.path

"""The JSON Schemas of modifiers and of the older styles refuse nothing that the reader takes."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from backend_core.ecosystem.spec.validate import Kind
from backend_core.errors import AuthorError
from backend_core.parsing import parse_yaml
from core_runtime.drivers import cel
from core_runtime.flow_composer import read_document
from core_runtime.rules.flow import model, values
from tests.support.documents import ROOT
from tests.unit.flow.test_schema import FENCE, VALUES, fault, places

VECTORS = ROOT / "tests/vectors/flows"
WORDS = (
    "modify", "id", "ops", "priority", "order", "requires", "conflicts", "if_missing", "enabled", "modifier_id", "action", "steps",
    "target_flow_id", "modifications", "pipelines", "flow_id", "phases", "defaults", "schedule", "run", "handler", "type", "about",
)  # fmt: skip


def found() -> list[tuple[str, Kind, dict[str, Any]]]:
    """Every modifier and every document of an older style that the repository has."""
    documents = []
    for path in sorted([*VECTORS.rglob("*.flow.*"), *VECTORS.rglob("*.modifier.*")]):
        value = parse_yaml(path.read_bytes(), source=path.name).value
        kind = Kind.MODIFIER if ".modifier." in path.name else Kind.FLOW if "flow" in value else Kind.OLDER_FLOW
        documents.append((str(path.relative_to(VECTORS)), kind, value))
    for number, block in enumerate(FENCE.findall((ROOT / "docs/reference/flows.md").read_text(encoding="utf-8"))):
        value = None if block.startswith("- ") else parse_yaml(block.encode(), source="reference").value
        if isinstance(value, dict) and ("modify" in value or "modifier_id" in value):
            documents.append((f"flows.md {number}", Kind.MODIFIER, value))
    whole = {
        "modify": ["a.b", "c.*"], "id": "x.y", "about": "z", "priority": 7, "order": {"after": ["a.b"], "before": "c"},
        "requires": {"interfaces": ["k.l"], "flow_version": ">=1 <2"}, "conflicts": ["q"], "if_missing": "append", "enabled": True, "x": 1,
        "ops": [
            {"insert": {"first_in": "/"}, "steps": [{"call": "k.l"}]}, {"wrap": ["one", "two"], "with": {"id": "w", "loop": {"max": 2}}},
            {"patch": "@tag:slow", "json_patch": [{"op": "add", "path": "/timeout", "value": "3s"}]},
            {"replace": "a/b", "step": {"set": {"x": 1}}}, {"remove": "@handler:k.*"},
        ],
    }  # fmt: skip
    return [*documents, ("whole", Kind.MODIFIER, whole)]


FOUND = found()


def is_read(document: Any) -> bool:
    try:
        read_document(json.dumps(document).encode(), source="t.json", layer=model.Layer.ECOSYSTEM, pack="acme")
    except AuthorError:
        return False
    return True


def kind_of(document: dict[str, Any]) -> Kind | None:
    """Which schema a document is of after it was changed; None: of the one form."""
    if "modify" in document or {"modifications", "modifier_id", "target_flow_id"} & document.keys():
        return Kind.MODIFIER
    return None if "flow" in document else Kind.OLDER_FLOW


@pytest.mark.parametrize(("name", "kind", "document"), FOUND, ids=[name for name, _, _ in FOUND])
def test_what_the_reader_takes_the_schema_takes(name: str, kind: Kind, document: dict[str, Any]) -> None:
    values.use(cel.compile_expression)
    assert fault(document, kind) == ""
    if kind is Kind.FLOW:
        return
    chance, spots, taken = random.Random(name), list(places(document)), 0
    for _ in range(150):
        other = copy.deepcopy(document)
        at = chance.choice(spots)
        holder: Any = other
        for key in at[:-1]:
            holder = holder[key]
        action = chance.randrange(4)
        if action == 0:
            del holder[at[-1]]
        elif action == 1 and isinstance(holder, dict):
            holder[chance.choice(WORDS)] = copy.deepcopy(chance.choice(VALUES))
        else:
            holder[at[-1]] = copy.deepcopy(chance.choice(VALUES))
        of = kind_of(other)
        if of is not None and is_read(other):
            taken += 1
            assert fault(other, of) == "", other
    assert taken > 2


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (Kind.MODIFIER, {}), (Kind.MODIFIER, {"modify": "a.b", "id": "x", "ops": []}),
        (Kind.MODIFIER, {"modify": "a.b", "id": "x", "ops": [{"remove": "a", "patch": "b"}]}),
        (Kind.MODIFIER, {"modify": "a.b", "id": "X", "ops": [{"remove": "a"}]}),
        (Kind.MODIFIER, {"modify": "a.b", "id": "x", "ops": [{"remove": "a"}], "prioritty": 3}),
        (Kind.MODIFIER, {"modifier_id": "x", "target_flow_id": "a.b", "action": "inject"}),
        (Kind.OLDER_FLOW, {"pipelines": {"a.b": []}}), (Kind.OLDER_FLOW, {"pipelines": {"a.b": [{"run": {}}]}}),
        (Kind.OLDER_FLOW, {"flow_id": "a.b", "stepz": []}), (Kind.OLDER_FLOW, {"steps": {}}),
    ],
)  # fmt: skip
def test_what_the_schema_refuses_the_reader_refuses(kind: Kind, document: dict[str, Any]) -> None:
    assert fault(document, kind) != ""
    assert not is_read(document)


@pytest.mark.parametrize("verb", [["add"], {"a": 1}, None, 3])
def test_an_operation_of_a_patch_that_is_no_word_is_refused_by_its_place(verb: Any) -> None:
    document = {"modify": "a.b", "id": "x", "ops": [{"patch": "a", "json_patch": [{"op": verb, "path": "/with"}]}]}
    with pytest.raises(AuthorError, match="under op"):
        read_document(json.dumps(document).encode(), source="t.json", layer=model.Layer.ECOSYSTEM, pack="acme")


def test_the_guide_names_every_schema_of_files_that_authors_write() -> None:
    for guide in ("docs/ecosystem.md", "docs/ecosystem.ja.md"):
        text = Path(ROOT / guide).read_text(encoding="utf-8")
        assert {kind for kind in ("flow", "modifier", "addon", "manifest", "permissions", "ecosystem") if f"{kind}.schema.json" not in text} == set()

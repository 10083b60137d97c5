"""The JSON Schema of flow documents refuses nothing that the reader takes, so that an editor that uses it is right."""

from __future__ import annotations

import copy
import random
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from backend_core.ecosystem.spec.validate import Kind, check
from backend_core.errors import AuthorError
from backend_core.parsing import Document, parse_yaml
from core_runtime.drivers import cel
from core_runtime.rules.flow import values
from core_runtime.rules.flow.model import Layer
from core_runtime.rules.flow.parse import FLOW_WORDS, parse_flow
from core_runtime.rules.flow.parse_steps import ADVERBS, VERBS
from tests.support.documents import ROOT

FENCE = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7, 1.5, "", "x", "a.b", "3s", "500ms", "1.5h", "${a}", "${a.b}", "all", "any", "stop", "fail",
    [], ["x"], [{"call": "k"}], [{}], {}, {"call": "k"}, {"min": 1}, {"total": "3s"}, {"x": "${a}"}, {"event": "t"},
    {"compare": ["${a}", "==", 1]}, {"not": "${a}"}, [{"default": [{"call": "k"}]}], "*", "kernel:x", "A", "a" * 300,
)  # fmt: skip


def documents() -> list[dict[str, Any]]:
    """Every flow of the reference and of the host."""
    found = [parse_yaml((ROOT / "flow/core/00_startup.flow.yaml").read_bytes(), source="startup").value]
    for block in FENCE.findall((ROOT / "docs/reference/flows.md").read_text(encoding="utf-8")):
        text = f"flow: shown.steps\nsteps:\n{textwrap.indent(block, '  ')}" if block.startswith("- ") else block
        document = parse_yaml(text.encode(), source="reference").value
        if "flow" in document:
            found.append(document)
    everything = {"id": "x", "about": "a", "phase": "", "order": 1, "needs": [], "with": 1, "as": "r", "default": 1}
    found.append({"flow": "a.b", "steps": [{**everything, "call": "k", "once": "o", "stream": {"buffer": 2}, "tags": ["t"]}]})
    return found


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*at, key)
        yield from places(item, (*at, key))


def changed(document: dict[str, Any], at: tuple[Any, ...], chance: random.Random) -> dict[str, Any]:
    """One thing else: another value, a word less, a word more."""
    found = copy.deepcopy(document)
    holder = found
    for key in at[:-1]:
        holder = holder[key]
    kind = chance.randrange(4)
    if kind == 0:
        del holder[at[-1]]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(sorted(ADVERBS | set(VERBS) | FLOW_WORDS))] = copy.deepcopy(chance.choice(VALUES))
    else:
        holder[at[-1]] = copy.deepcopy(chance.choice(VALUES))
    return found


def is_read(document: Any) -> bool:
    try:
        parse_flow(document, source="t", layer=Layer.CORE)
    except AuthorError:
        return False
    return True


def fault(document: Any, kind: Kind = Kind.FLOW) -> str:
    try:
        check(kind, Document(document, "t", dict))
    except AuthorError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("number", range(len(documents())))
def test_what_the_reader_takes_the_schema_takes(number: int) -> None:
    document = documents()[number]
    values.use(cel.compile_expression)
    assert is_read(document)
    assert fault(document) == ""
    chance, taken = random.Random(number), 0
    spots = list(places(document))
    for _ in range(1_500):
        other = changed(document, chance.choice(spots), chance)
        if is_read(other):
            taken += 1
            assert fault(other) == "", other
    assert taken > 50


@pytest.mark.parametrize(
    "change",
    [{"stepz": []}, {"steps": {}}, {"flow": "A B"}, {"flow": 1}, {"limits": {"wal": "3s"}}, {"journal": "disk"}, {"on": [{"every": "soon"}]},
     {"steps": [{"call": "k", "set": {"x": 1}}]}, {"steps": [{}]}, {"steps": [{"call": "k", "on_error": "ignore"}]},
     {"steps": [{"call": "k", "timeout": "3 s"}]}, {"steps": [{"call": "k", "retry": {"times": 3}}]},
     {"steps": [{"loop": {"max": 0.5}, "do": [{"call": "k"}]}]}, {"steps": [{"call": "k", "id": "Upper"}]}, {"steps": [{"calls": "k"}]}],
)  # fmt: skip
def test_what_the_schema_refuses_the_reader_refuses(change: dict[str, Any]) -> None:
    document = {"flow": "a.b", "steps": [{"call": "k"}], **change}
    assert fault(document) != ""
    assert not is_read(document)

"""docs/reference/interfaces.md names every method of a Pack's registry and event bus as it is, and every key of ``ctx``."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from backend_core.ecosystem.aliases import load_aliases
from core_runtime.event_bus import EventBus
from core_runtime.function_alias import FunctionAlias
from core_runtime.interface_registry import InterfaceRegistry
from tests.support.agent_module import load_agent
from tests.support.documents import ROOT

TEXT = (ROOT / "docs/reference/interfaces.md").read_text(encoding="utf-8")
MODULE = load_agent()


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def said(title: str) -> dict[str, str]:
    """Name → signature, of the methods in the first column of a section's table."""
    cells = [line.split("|")[1] for line in section(title).splitlines() if line.startswith("| `")]
    return {name: signature for cell in cells for name, signature in re.findall(r"`(\w+)(\([^`]*\))`", cell)}


def there(cls: type) -> dict[str, str]:
    """The same of a class, without annotations."""
    found = {}
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_") and name != "end":
            parameters = [*inspect.signature(method).parameters.values()][1:]
            bare = [one.replace(annotation=inspect.Parameter.empty) for one in parameters]
            found[name] = str(inspect.Signature(bare))
    return found


@pytest.mark.parametrize(
    ("title", "agents", "hosts"),
    [("`interface_registry`", MODULE.InterfaceRegistry, InterfaceRegistry), ("`event_bus`", MODULE.EventBus, EventBus)],
)
def test_every_method_stands_there_as_it_is(title: str, agents: type, hosts: type) -> None:
    assert said(title) == there(agents)
    assert said(title).keys() - {"is_complete"} <= there(hosts).keys()


def test_every_key_of_ctx_stands_there() -> None:
    keys = re.findall(r"^\| `(\w+)` \|", section("Calls · 呼び出し"), re.MULTILINE)
    run = MODULE.Run(None, 1, None, None)
    run.context = ["", "kernel", [], None]
    assert keys == [*MODULE.CallContext(run).keys()]


def test_the_file_of_aliases_is_one_that_is_taken(tmp_path: Path) -> None:
    example = TEXT.split("<!-- aliases -->\n```json\n")[1].split("\n```")[0]
    (tmp_path / "aliases.json").write_text(example)
    found = load_aliases(tmp_path / "aliases.json")
    assert FunctionAlias.of(found).find_all("store.get") == ["db.get", "old.get", "store.get"]


def test_a_call_takes_what_is_said() -> None:
    signature = inspect.signature(MODULE.Function.__call__)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()][1:]
    assert f"fn{inspect.Signature(bare)}".replace("args=None, ", "args, ") in TEXT

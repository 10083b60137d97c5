from __future__ import annotations

from typing import Any

import pytest

from backend_core.errors import ConflictError, RequestError
from core_runtime.function_alias import FunctionAlias


def test_everything():
    table = FunctionAlias()
    table.register_aliases("store.read", ["db.get", "fetch", "store.read", "fetch"])
    table.add_alias("store.read", "load")
    assert table.resolve("fetch") == "store.read"
    assert table.resolve("unknown") == "unknown"
    assert table.find_all("load") == ["db.get", "fetch", "load", "store.read"]
    assert table.find_all("unknown") == ["unknown"]
    assert table.is_alias_of("fetch", "store.read")
    assert table.is_alias_of("fetch", "load")
    assert not table.is_alias_of("fetch", "other")
    assert table.get_canonical("load") == "store.read"
    assert table.get_canonical("store.read") == "store.read"
    assert table.get_canonical("unknown") is None
    table.register_aliases("a", [])
    assert table.list_all_canonicals() == ["a", "store.read"]
    assert table.list_all_mappings() == {"a": [], "store.read": ["db.get", "fetch", "load"]}
    assert table.remove_alias("load")
    assert not table.remove_alias("load")
    assert table.resolve("load") == "load"
    assert table.remove_canonical("store.read")
    assert not table.remove_canonical("store.read")
    assert table.resolve("fetch") == "fetch"


def test_conflicts_change_nothing():
    table = FunctionAlias()
    table.register_aliases("a", ["x"])
    for canonical, aliases in (("b", ["new", "x"]), ("b", ["a"]), ("x", ["y"])):
        with pytest.raises(ConflictError):
            table.register_aliases(canonical, aliases)
    assert table.list_all_mappings() == {"a": ["x"]}
    bad: Any
    for bad in ("", 5, "x" * 300):
        with pytest.raises(RequestError):
            table.add_alias("a", bad)

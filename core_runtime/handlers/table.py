"""The table of kernel handlers: which name a flow may call for which function of this folder.

A handler is ``handler(host, args)``, plain or ``async``; its name stands in a decorator and in flows, nowhere else.
Every module of this folder that defines handlers is imported by ``registered``, so a new file needs no list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

Handler = Callable[[Any, Mapping[str, Any]], Awaitable[Any] | Any]
_F = TypeVar("_F", bound=Callable[..., Any])
_TABLE: dict[str, Handler] = {}


def handler(name: str) -> Callable[[_F], _F]:
    """Make a function callable from official flows as ``kernel:<name>``."""

    def register(fn: _F) -> _F:
        if name in _TABLE:
            raise ValueError(f"two kernel handlers are called {name!r}")
        _TABLE[name] = fn
        return fn

    return register


def registered() -> Mapping[str, Handler]:
    """Every handler of this folder by name."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    return MappingProxyType(_TABLE)

"""How a command ends when it does not end well. Apart from `link`, since `--help` must not pay for an HTTP client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Failure(Exception):  # noqa: N818 - an outcome that ends a command, with its exit code
    """What the operator reads when a command ends otherwise than hoped."""

    title: str
    exit_code: int
    hint: str = ""
    code: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.title

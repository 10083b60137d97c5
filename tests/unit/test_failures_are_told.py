"""No failure of the machine or of ours ends nowhere: a place that catches one and goes on tells it (``side_work``,
``fail_soft``, an issue, a value that says so) or has a reason beside it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core_runtime.diagnostics import Diagnostics
from core_runtime.drivers.side_work import Mishap, costs_only_itself
from tests.support.documents import ROOT

WIDE = {"OSError", "RumiError", "HostError", "TrustError", "Exception", "BaseException"}
SOURCES = ("core_runtime", "backend_core", "console", "rumi_testing", "app.py")
REASON = re.compile(r"# (?!fmt: |type: |pragma: )(noqa: \S+ +(- )?)?(?!noqa)[A-Za-z`].{3}")
ROOM = Mishap("history_full", "history", "The history is not kept", "Make room.")


def names(kind: ast.expr | None) -> set[str]:
    if kind is None:
        return {"BaseException"}
    if isinstance(kind, ast.Tuple):
        return {name for one in kind.elts for name in names(one)}
    return {ast.unparse(kind).rpartition(".")[2]}


def swallowing(tree: ast.AST) -> Iterator[tuple[int, int]]:
    """First and last line of what catches a wide class, neither raises nor looks at what it caught."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and names(node.type) & WIDE:
            inside = [one for statement in node.body for one in ast.walk(statement)]
            looked_at = node.name and any(isinstance(one, ast.Name) and one.id == node.name for one in inside)
            if not looked_at and not any(isinstance(one, ast.Raise) for one in inside):
                yield node.lineno, node.body[-1].end_lineno or node.lineno
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and any(names(kind) & WIDE for kind in node.args)
        ):
            yield node.lineno, node.end_lineno or node.lineno


def silent(source: str) -> list[int]:
    """Lines that swallow without a comment on them or right above; a word to a tool is no reason."""
    lines = source.splitlines()
    return [a for a, b in swallowing(ast.parse(source)) if not any(map(REASON.search, lines[max(0, a - 2) : b]))]


def files() -> list[Path]:
    found = [ROOT / name for name in SOURCES]
    return [path for one in found for path in ([one] if one.is_file() else sorted(one.rglob("*.py")))]


def test_what_swallows_a_failure_says_why_it_may() -> None:
    assert len(files()) > 300
    bare = [f"{path.relative_to(ROOT)}:{line}" for path in files() for line in silent(path.read_text(encoding="utf-8"))]
    assert bare == []


@pytest.mark.parametrize(
    "source",
    [
        "try:\n    work()\nexcept OSError:\n    pass\n",
        "try:\n    work()\nexcept (ValueError, TrustError):\n    result = None\n",
        "try:\n    work()\nexcept:\n    pass\n",
        "with contextlib.suppress(ValueError, errors.HostError):\n    work()\n",
        "with contextlib.suppress(OSError):\n    os.rmdir(path)  # noqa: PTH106\n",
        "x = y  # fmt: skip\ntry:\n    work()\nexcept Exception:\n    pass\n",
    ],
)
def test_the_search_finds_what_is_silent(source: str) -> None:
    assert len(silent(source)) == 1
    lines = [f"{line}  # gone already" if line.startswith(("with", "except")) else line for line in source.splitlines()]
    assert silent("\n".join(lines)) == []


def test_failed_side_work_is_an_issue_with_its_cause_until_it_succeeds() -> None:
    diagnostics = Diagnostics()

    def work(error: Exception | None) -> None:
        with costs_only_itself(diagnostics.mishap, ROOM):
            if error is not None:
                raise error from KeyError("the first cause")

    work(None)
    assert diagnostics.issues() == []
    work(OSError(28, "No space left on device"))
    work(OSError(28, "No space left on device"))
    [issue] = diagnostics.issues()
    assert (issue.code, issue.subject, issue.count, issue.hint) == ("history_full", "history", 2, "Make room.")
    assert issue.cause[0].startswith("OSError: [Errno 28]")
    assert issue.cause[1].startswith("KeyError")
    work(None)
    assert diagnostics.issues() == []
    with pytest.raises(ZeroDivisionError):
        work(ZeroDivisionError())

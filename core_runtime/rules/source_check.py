"""What can be told of a Pack's Python by reading it: whether it compiles, has its entry, and names what was declared.

Pure. Nothing is executed: text becomes a syntax tree, which is walked.

Not here: which files there are, what else is wrong with a Pack (``pack_check``). What a Pack may do is decided at each
use; this only tells an author early.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Iterator

from msgspec import Struct

ENTRIES = ("run", "main")
"""Names of which the agent calls the first that a file defines; a handler file has the first one alone."""
_REGISTERS = "register"
_CALLED_FOR = frozenset({"get", "observe"})
_RECEIVERS = frozenset({"ir", "interface_registry", "registry", "interfaces"})


class SourceFault(Struct, frozen=True):
    """One thing in one file. ``refused``: it would fail for certain, else it is likely a mistake."""

    refused: bool
    code: str
    title: str
    line: int
    column: int
    expected: str
    found: str
    hint: str


def check_source(
    text: str, name: str, *, entries: Collection[str], provides: Collection[str], reaches: Collection[str]
) -> Iterator[SourceFault]:
    """Faults of one file. ``entries``: of these names one must be defined; ``reaches``: keys it may ask for."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the Pack's own literals: the sandbox prints them where they belong
            tree = ast.parse(text, name)
            compile(tree, name, "exec", dont_inherit=True)
    except SyntaxError as error:
        yield SourceFault(
            True, "syntax", "It does not compile", error.lineno or 1, error.offset or 1, "Python",
            str(error.msg), "Correct the line; nothing of the Pack would start.",
        )  # fmt: skip
        return
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        yield SourceFault(
            True, "syntax", "It does not compile", 1, 1, "Python", f"{type(error).__name__}: {error}",
            "Make the file plainer; nothing of the Pack would start.",
        )  # fmt: skip
        return
    if entries and not _defined(tree) & set(entries):
        yield SourceFault(
            True, "entry_missing", "It has no entry", 1, 1, f"a function {' or '.join(entries)} at the top level",
            "none", "Define run(context), or take the file out of where phases look for it.",
        )  # fmt: skip
    yield from _keys(tree, provides, reaches)


def _defined(tree: ast.Module) -> set[str]:
    """Names that the top level binds, also inside ``if`` and ``try``; all of them where a star import hides some."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name="*"):
                names.update(ENTRIES)
            case ast.alias(name=name, asname=bound):
                names.add(bound or name.partition(".")[0])
    return names


def _keys(tree: ast.Module, provides: Collection[str], reaches: Collection[str]) -> Iterator[SourceFault]:
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id=receiver), attr=verb),
                args=[ast.Constant(value=str(key)), *_],
            ) if receiver in _RECEIVERS:
                if verb == _REGISTERS and key not in provides:
                    yield SourceFault(
                        False, "undeclared_key", "It registers a key that no manifest declares", node.lineno,
                        node.col_offset + 1, "a key in provides", key,
                        "Add it to connectivity.provides; the registration is refused otherwise.",
                    )  # fmt: skip
                elif verb in _CALLED_FOR and key not in reaches and key not in provides:
                    yield SourceFault(
                        False, "undeclared_edge", "It asks for a key that no manifest declares", node.lineno,
                        node.col_offset + 1, "a key in requires or uses", key,
                        "Add it to connectivity.requires or uses; the Pack does not see it otherwise.",
                    )  # fmt: skip

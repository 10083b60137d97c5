"""Which small faults are put into a module, and what stays untouched.

A mutant replaces exactly one node of the syntax tree. Operators: comparisons, ``and``/``or``, a dropped ``not``, negated
conditions, arithmetic, constants (numbers, truth values, texts that are codes), return values, removed statements,
swapped arguments, removed keyword arguments, names with an opposite (``min``/``max`` and the like).

Left alone: docstrings, annotations, decorators, assertions, and text for people (whatever contains a blank, and the
constant parts of f-strings): what a message says is no rule.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CODE = re.compile(r"[!-~]{1,60}")
"""A text that is read by programs: printable ASCII without blanks."""

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
    ast.BitXor: ast.BitOr,
}
OPPOSITES = {
    "min": "max",
    "any": "all",
    "startswith": "endswith",
    "removeprefix": "removesuffix",
    "lower": "upper",
    "lstrip": "rstrip",
    "partition": "rpartition",
    "popleft": "pop",
    "fullmatch": "match",
}
OPPOSITE = OPPOSITES | {after: before for before, after in OPPOSITES.items() if after not in {"pop", "match"}}

SYMMETRIC = {"min", "max", "compare_digest"}
"""The order of their arguments does not matter."""

Slot = tuple[ast.AST, str, int | None]


@dataclass(frozen=True)
class Mutant:
    """One fault. ``owner`` is the outermost function that holds it, or ``""`` where it acts when the module is loaded.

    ``function``, ``before``, ``after`` and ``number`` (which of equal ones within the function) name it without line
    numbers.
    """

    path: Path
    tree: ast.Module
    owner: str
    function: str
    line: int
    before: str
    after: str
    number: int
    slot: Slot
    new: ast.AST

    @property
    def name(self) -> str:
        """The stable name, as the list of equivalent mutants writes it."""
        return f"{self.function}: {self.before} -> {self.after}" + (f" #{self.number}" if self.number > 1 else "")


def mutants_of(path: Path) -> list[Mutant]:
    """Every mutant of the module at ``path``; they share its tree."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: list[Mutant] = []
    seen: Counter[tuple[str, str, str]] = Counter()
    for slot, node, owner, function in _walk(tree):
        for new in _variants(node):
            before, after = _text(node), _text(new)
            seen[function, before, after] += 1
            number = seen[function, before, after]
            line = node.target.lineno if isinstance(node, ast.comprehension) else getattr(node, "lineno", 0)
            found.append(Mutant(path, tree, owner, function, line, before, after, number, slot, new))
    return found


def mutated(mutant: Mutant) -> ast.Module:
    """The tree with the fault in it. The shared tree itself is changed: for a process that ends with the mutant."""
    parent, field, index = mutant.slot
    old = getattr(parent, field) if index is None else getattr(parent, field)[index]
    new = ast.fix_missing_locations(ast.copy_location(mutant.new, old))
    if index is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[index] = new
    return mutant.tree


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.If | ast.While):  # without the body
        return f"{type(node).__name__.lower()} {ast.unparse(node.test)}"
    return " ".join(ast.unparse(node).split())


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _walk(tree: ast.Module) -> Iterator[tuple[Slot, ast.AST, str, str]]:
    """Every node that may be replaced: (where, node, owner, function)."""
    pending: list[tuple[ast.AST, str, str]] = [(tree, "", "")]
    while pending:
        parent, owner, scope = pending.pop(0)
        inner = f"{scope}.{parent.name}".lstrip(".") if isinstance(parent, (*_FUNCTIONS, ast.ClassDef)) else scope
        for field, value in ast.iter_fields(parent):
            if field in {"annotation", "returns", "decorator_list", "type_comment", "bases"}:
                continue
            runs = owner
            if isinstance(parent, _FUNCTIONS) and field == "body" and not owner:
                runs = inner
            for index, node in enumerate(value) if isinstance(value, list) else ((None, value),):
                if not isinstance(node, ast.AST) or _left_alone(parent, field, node):
                    continue
                yield (parent, field, index), node, runs, inner or "(module)"
                pending.append((node, runs, inner))


def _left_alone(parent: ast.AST, field: str, node: ast.AST) -> bool:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True  # a docstring
    if isinstance(parent, ast.JoinedStr) and isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if isinstance(parent, ast.FormattedValue) and field == "format_spec":
        return True
    return isinstance(node, ast.Assign) and any(
        isinstance(target, ast.Name) and target.id in {"__slots__", "__all__"} for target in node.targets
    )


def _variants(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.stmt):
        yield from _statements(node)
    elif isinstance(node, ast.expr):
        yield from _expressions(node)
    if isinstance(node, ast.comprehension):
        for index, test in enumerate(node.ifs):
            if _worth_negating(test):
                changed = copy.copy(node)
                changed.ifs = [*node.ifs[:index], _negated(test), *node.ifs[index + 1 :]]
                yield changed


def _statements(node: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Return):
        if node.value is not None and not isinstance(node.value, ast.Constant):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    elif isinstance(node, ast.Continue | ast.Raise | ast.Delete):
        yield ast.Pass()
    elif isinstance(node, ast.AugAssign):
        yield ast.Pass()
        yield ast.AugAssign(node.target, ARITHMETIC[type(node.op)](), node.value)
    elif _stores_into(node) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
        yield ast.Pass()
    elif isinstance(node, ast.If | ast.While) and _worth_negating(node.test):
        changed = copy.copy(node)
        changed.test = _negated(node.test)
        yield changed


def _stores_into(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets)


def _expressions(node: ast.expr) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                changed = copy.copy(node)
                changed.ops = [*node.ops[:index], other(), *node.ops[index + 1 :]]
                yield changed
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            yield node.operand
    elif isinstance(node, ast.BinOp):
        yield ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
    elif isinstance(node, ast.IfExp):
        if _worth_negating(node.test):
            yield ast.IfExp(_negated(node.test), node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and (value == "" or CODE.fullmatch(value)):
        yield ast.Constant(f"{value}XX")
    elif isinstance(value, bytes):
        yield ast.Constant(value + b"XX")


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    name = node.func
    if isinstance(name, ast.Name) and name.id in OPPOSITE:
        yield ast.Call(ast.Name(OPPOSITE[name.id], ast.Load()), node.args, node.keywords)
    if isinstance(name, ast.Attribute) and name.attr in OPPOSITE:
        yield ast.Call(ast.Attribute(name.value, OPPOSITE[name.attr], ast.Load()), node.args, node.keywords)
    swappable = len(node.args) > 1 and not any(isinstance(a, ast.Starred) for a in node.args[:2])
    if swappable and ast.unparse(name).rpartition(".")[2] not in SYMMETRIC:
        yield ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None and not _for_people(keyword.value):
            yield ast.Call(node.func, node.args, [*node.keywords[:index], *node.keywords[index + 1 :]])


def _for_people(value: ast.expr) -> bool:
    if isinstance(value, ast.JoinedStr):
        return True
    return isinstance(value, ast.Constant) and isinstance(value.value, str) and " " in value.value


def _worth_negating(test: ast.expr) -> bool:
    """Comparisons, ``not`` and ``and``/``or`` have operators of their own."""
    return isinstance(test, ast.Name | ast.Attribute | ast.Call | ast.Subscript | ast.NamedExpr)


def _negated(test: ast.expr) -> ast.expr:
    return ast.UnaryOp(ast.Not(), test)

"""What a file may turn into when one of its expressions is changed: signs, terms, constants, comparisons, conditions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

TINY = 1e-3  # constants below guard against zero; twice as much is the same guard
SWAPPED = (  # each may turn into the other
    (ast.Add, ast.Sub),
    (ast.Mult, ast.Div),
    (ast.BitAnd, ast.BitOr),
    (ast.And, ast.Or),
    (ast.Eq, ast.NotEq),
    (ast.Is, ast.IsNot),
    (ast.In, ast.NotIn),
    (ast.Lt, ast.GtE),  # the opposite
    (ast.Gt, ast.LtE),
)
OTHER: dict[type, type] = dict(SWAPPED) | {right: left for left, right in SWAPPED}
BOUNDARY: dict[type, type] = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
NAMES = (
    ("min", "max"),
    ("amin", "amax"),
    ("argmin", "argmax"),
    ("clamp_min", "clamp_max"),
    ("minimum", "maximum"),
)
NAMES += (("floor", "ceil"), ("any", "all"), ("sum", "mean"))
CALLS = dict(NAMES) | {right: left for left, right in NAMES}
ORDERS = ("descending", "largest")  # arguments that are a sign


@dataclass(frozen=True)
class Mutant:
    """One file with one expression changed; `line` is the source line it begins on."""

    file: str
    number: int
    line: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is known by, wherever the line has moved to."""
        return self.file, self.line, self.before, self.after


def changes(node: ast.AST) -> Iterator[ast.expr]:
    """What this one node may turn into."""
    if isinstance(node, ast.BinOp) and type(node.op) in OTHER:
        yield ast.BinOp(node.left, OTHER[type(node.op)](), node.right)
        yield node.left
        if isinstance(node.op, ast.Sub):
            yield ast.UnaryOp(ast.USub(), node.right)
        elif not isinstance(node.op, ast.Div):
            yield node.right
    elif isinstance(node, ast.Compare) and len(node.ops) == 1:
        for table in (BOUNDARY, OTHER):
            if type(node.ops[0]) in table:
                yield ast.Compare(node.left, [table[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(OTHER[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield node.operand
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is float:
        yield ast.Constant(node.value + 1 if abs(node.value) < TINY else 2 * node.value)
    elif isinstance(node, ast.Call):
        called, args, keywords = node.func, node.args, node.keywords
        if isinstance(called, ast.Attribute) and called.attr in CALLS:
            yield ast.Call(ast.Attribute(called.value, CALLS[called.attr], ast.Load()), args, keywords)
        elif isinstance(called, ast.Name) and called.id in CALLS:
            yield ast.Call(ast.Name(CALLS[called.id], ast.Load()), args, keywords)
        elif isinstance(called, ast.Name) and called.id == "kl":
            yield ast.Call(called, args[::-1], keywords)
        elif isinstance(called, ast.Name) and called.id == "weighted":
            yield args[0]


def in_place(parent: ast.AST, name: str, child: ast.expr) -> Iterator[ast.expr]:
    """What a node may turn into because of where it stands: the condition of a branch (comparisons have their own
    opposite), and an argument that tells the direction of a sort.
    """
    if name == "test" and not isinstance(child, ast.Compare | ast.UnaryOp):
        yield ast.UnaryOp(ast.Not(), child)
    if isinstance(parent, ast.keyword) and parent.arg in ORDERS and isinstance(child, ast.Constant):
        yield ast.Constant(not child.value)


def sites(node: ast.AST, in_class: bool = False) -> Iterator[tuple[ast.AST, str, int | None, ast.expr]]:
    """(parent, field, place in it, expression) of all that is computed.

    Left out: fields of a class with their ranges and defaults, annotations, messages of exceptions, assertions, what is
    only for type checkers, and texts (so docstrings as well).
    """
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "msg"):
            continue
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if in_class and isinstance(child, ast.AnnAssign):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.expr):
                yield node, name, place, child
            yield from sites(child, isinstance(child, ast.ClassDef))


def mutants_of(file: str, source: str) -> list[Mutant]:
    """All mutants of one file, in the order of its lines."""
    tree, lines = ast.parse(source), source.splitlines()
    found: dict[tuple[str, str, str, int], Mutant] = {}
    for parent, name, place, child in list(sites(tree)):
        for changed in [*changes(child), *in_place(parent, name, child)]:
            replaced = ast.fix_missing_locations(ast.copy_location(changed, child))
            _put(parent, name, place, replaced)
            mutated = ast.unparse(tree)
            _put(parent, name, place, child)
            before, after = ast.unparse(child), ast.unparse(changed)
            mutant = Mutant(file, child.lineno, lines[child.lineno - 1].strip(), before, after, mutated)
            found.setdefault((before, after, mutated, child.lineno), mutant)
    return sorted(found.values(), key=lambda one: one.number)


def _put(parent: ast.AST, name: str, place: int | None, child: ast.expr) -> None:
    if place is None:
        setattr(parent, name, child)
    else:
        getattr(parent, name)[place] = child

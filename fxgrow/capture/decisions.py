"""Decisions that code makes by what it computes from a name, so that no list of its values tells them apart."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from fxgrow.capture.names_in_code import OF_ENDS, assignments, name_of, passed_on

_OF_KIND = {"callable", "hasattr", "isinstance", "issubclass", "type"}
_ARITHMETIC = {"abs", "divmod", "float", "int", "max", "min", "round", "bool"}
_OF_PYTHON = {name for name in vars(builtins) if name.islower() and not name.startswith("_")}
"""Python's functions."""


def decides_within(code: Sequence[ast.AST], names: Collection[str], counts: bool = False) -> bool:
    """Whether code decides by what it computes from one of some names: `mode[0] == "a"`, `len(names) > 2`.

    A name that is asked for as it is, compared, looked up by, looked for or given on to a function is read elsewhere.
    counts: it stands for a number, or for several, of which arithmetic is followed elsewhere, too.
    """
    deciding = _Deciding({*names}, _made_of(code, names), counts)
    return any(deciding.computes(test) for node in code for test in (*_tests(node), *deciding.returned(node)))


def _tests(node: ast.AST) -> Iterator[ast.expr]:
    """What some code decides by."""
    if isinstance(node, ast.Compare):
        yield node
    elif isinstance(node, (ast.If, ast.IfExp, ast.While, ast.Assert)):
        yield node.test
    elif isinstance(node, ast.comprehension):
        yield from node.ifs
    elif isinstance(node, ast.Match):
        yield node.subject


class _Deciding(NamedTuple):
    """Some names, those of what is computed from them alone, and whether they stand for numbers."""

    names: set[str]
    made: set[str]
    counts: bool

    def computes(self, test: ast.expr) -> bool:
        """Whether a test computes something from a name, or asks for something that was computed from it."""
        if not self._mentions(test) or {name_of(part) for part in passed_on(test)} & self.names:
            return False
        if isinstance(test, ast.Call):
            called, inside = test.func, [*test.args, *(word.value for word in test.keywords)]
            if isinstance(called, ast.Name) and called.id in _OF_PYTHON - (_ARITHMETIC if self.counts else set()):
                return called.id not in _OF_KIND and not all(map(self._goes_through, inside))
            if isinstance(called, ast.Attribute) and name_of(called.value) != "self":
                return not (called.attr in OF_ENDS and name_of(called.value) in self.names)
            return any(map(self.computes, inside))
        if isinstance(test, (ast.BoolOp, ast.UnaryOp, ast.NamedExpr, ast.Compare, ast.Tuple, ast.List, ast.Starred)):
            return any(self.computes(part) for part in ast.iter_child_nodes(test) if isinstance(part, ast.expr))
        if self.counts and (isinstance(test, ast.BinOp) or name_of(test) in self.made):
            return isinstance(test, ast.BinOp) and (self.computes(test.left) or self.computes(test.right))
        if isinstance(test, ast.Subscript) and self.counts and name_of(test.value) in self.names:
            return not isinstance(test.slice, (ast.Constant, ast.UnaryOp))
        return not (isinstance(test, ast.Subscript) and name_of(test.slice) in self.names)

    def returned(self, node: ast.AST) -> Iterator[ast.expr]:
        """What code returns that is computed from the names alone, by which the code that calls it may decide."""
        value = node.value if isinstance(node, ast.Return) else node.body if isinstance(node, ast.Lambda) else None
        if value is not None and _read(value) <= self.names | self.made | _OF_PYTHON:
            yield value

    def _mentions(self, code: ast.AST) -> bool:
        return any(name_of(part) in self.names | self.made for part in ast.walk(code))

    def _goes_through(self, code: ast.AST) -> bool:
        """Whether code goes through a name, of which the items are read elsewhere."""
        return isinstance(code, ast.GeneratorExp) and all(name_of(each.iter) in self.names for each in code.generators)


def read_as_a_whole(code: Sequence[ast.AST], names: Collection[str]) -> bool:
    """Whether code reads containers of some names otherwise than by keys that it says, or gives them on to a function.

    Functions that it gives them on to are among the code, under these names.
    """
    aside: set[int] = set()
    for node in code:
        held: list[ast.expr] = []
        if isinstance(node, ast.Call):
            by_key = isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop", "setdefault")
            if isinstance(node.func, ast.Attribute) and by_key and node.args and isinstance(node.args[0], ast.Constant):
                held = [node.func.value]
            if not (isinstance(node.func, ast.Name) and node.func.id in _OF_PYTHON):
                held += [*node.args, *(word.value for word in node.keywords if word.arg)]
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], (ast.In, ast.NotIn, ast.Is, ast.IsNot)):
            said = isinstance(node.ops[0], (ast.Is, ast.IsNot)) or isinstance(node.left, ast.Constant)
            held = [node.left, *node.comparators] if said else []
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            held = [node.value]
        elif isinstance(node, ast.Assign):
            held = [node.value]  # another of the names
        aside |= set(map(id, held))
    reading = (part for part in code if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load))
    return any(part.id in names and id(part) not in aside for part in reading)


def _read(code: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(code) if isinstance(part, ast.Name)}


def _made_of(code: Sequence[ast.AST], names: Collection[str]) -> set[str]:
    """The names of what is computed from some names and constants alone."""
    made = {*names}
    for _ in range(2):  # code may stand before what it reads
        for node in code:
            for target, value in assignments(node):
                read = _read(value)
                if read & made and read <= made | _OF_PYTHON:
                    made |= {name_of(part) for part in ast.walk(target)}
    return made - {"", *names}

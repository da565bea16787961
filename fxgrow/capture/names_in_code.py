"""Names in code: what has one, and which others have the value of one, or its items."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence


def name_of(code: ast.AST) -> str:
    """The name of an argument, or of an attribute of it or of the model (`self.mode`); "" of any other code.

    An item of an attribute is `self.options[mean]`, be it of a dictionary or of an object.
    """
    if isinstance(code, ast.Name):
        return code.id
    if isinstance(code, ast.Attribute) and isinstance(code.value, ast.Name):
        return f"{code.value.id}.{code.attr}"
    if isinstance(code, (ast.Attribute, ast.Subscript)) and (holder := name_of(code.value)).startswith("self."):
        key = code.attr if isinstance(code, ast.Attribute) else getattr(code.slice, "value", None)
        return f"{holder}[{key}]" if isinstance(key, str) and "[" not in holder else ""
    return ""


def one_of(code: ast.expr) -> Sequence[ast.expr]:
    """What `a or b`, `a and b` and `a if c else b` may be; of any other code, itself."""
    if isinstance(code, ast.BoolOp):
        return code.values
    return (code.body, code.orelse) if isinstance(code, ast.IfExp) else (code,)


def passed_on_as(code: Iterable[ast.AST]) -> dict[str, set[str]]:
    """The names that have the value of another one, or its items, by that one: `m = mode or "sum"`, `{**options}`.

    A name is among its own.
    """
    names: dict[str, set[str]] = {}
    for node in code:
        for target, value in assignments(node):
            for part in passed_on(value):
                if name := name_of(part):
                    names.setdefault(name, {name}).update(_names_of(target))
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        further = set[str]().union(*(names.get(each, ()) for each in names[name])) - names[name]
        if further:
            names[name] |= further
            waiting.append(name)
    return names


def assignments(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What some code assigns to, or adds items to, with what it gives it."""
    if isinstance(node, ast.Assign):
        for target in node.targets:
            value = node.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr, ast.AugAssign)) and node.value is not None:
        if not isinstance(node, ast.AugAssign) or isinstance(node.op, ast.BitOr):
            yield node.target, node.value
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
        for given in (*node.args, *(word.value for word in node.keywords if not word.arg)):
            yield node.func.value, given


def _names_of(target: ast.expr) -> set[str]:
    """The names that are assigned to."""
    if isinstance(target, (ast.Tuple, ast.List, ast.Starred)):
        inside = target.elts if not isinstance(target, ast.Starred) else [target.value]
        return set[str]().union(*map(_names_of, inside))
    return {name_of(target)} - {""}


OF_ENDS = ("startswith", "endswith")
"""Methods of a text that compare its ends with what they are given."""

_CONVERTING = {"dict", "copy", "deepcopy", "int", "float", "str", "bool", "tuple", "list", "set", "frozenset"}
_CONVERTING |= {"lower", "upper", "strip", "casefold", "capitalize", "title", "removeprefix", "removesuffix"}
"""Functions and methods of a value that give the same value in another form."""


def passed_on(code: ast.expr) -> Iterator[ast.expr]:
    """What some code may be itself, in another form perhaps, or has the items of."""
    inside: Sequence[ast.expr] = ()
    if isinstance(code, ast.Dict):
        inside = [value for key, value in zip(code.keys, code.values, strict=True) if key is None]
    elif isinstance(code, ast.BinOp) and isinstance(code.op, ast.BitOr):
        inside = code.left, code.right
    elif isinstance(code, ast.Call):
        called = code.func.attr if isinstance(code.func, ast.Attribute) else name_of(code.func)
        if called in _CONVERTING:
            owner = [code.func.value] if isinstance(code.func, ast.Attribute) else []
            inside = [*owner, *code.args, *(word.value for word in code.keywords if not word.arg)]
    elif isinstance(code, (ast.BoolOp, ast.IfExp)):
        inside = one_of(code)
    yield code
    for part in inside:
        yield from passed_on(part)

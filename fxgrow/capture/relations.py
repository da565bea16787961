"""Comparisons of numbers that a forward computes from sizes and arguments, as data: `-h % 4 != 0`, `2 * level < 5`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import fx

Formula = int | float | tuple[Any, ...]
"""A number, the size of an axis as `("size", tensor, axis)`, or what is computed, such as `("mod", formula, 4)`.

An argument, or a number in one, is `("argument", "level")`, `("argument", "sizes[0]")`.
"""

_SIZE, ARGUMENT = "size", "argument"
_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "truediv": "/", "floordiv": "//", "mod": "%", "pow": "**"}
_ASKED = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_BY_NAME: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (*_SYMBOLS, *_ASKED, "neg", "abs")},
    **{name: getattr(math, name) for name in ("ceil", "floor")},
    "round": round,
}


class Relation(NamedTuple):
    """What a forward asked of numbers computed from sizes or arguments, by the name of the operator; what came out."""

    question: str
    left: Formula
    right: Formula
    outcome: bool

    @property
    def turned(self) -> Relation:
        """The same question with the other outcome."""
        return self._replace(outcome=not self.outcome)

    def tensors(self) -> list[str]:
        """The names of the nodes of the tensors whose sizes it is about."""
        return list(dict.fromkeys((*_named(self.left, _SIZE), *_named(self.right, _SIZE))))

    def arguments(self) -> list[str]:
        """The names of the arguments that it is about."""
        return list(dict.fromkeys((*_named(self.left, ARGUMENT), *_named(self.right, ARGUMENT))))


def formula_of(number: fx.Node | int | float, counts_units: Callable[[fx.Node], bool]) -> Formula | None:
    """How a number is computed from sizes and arguments; None where it is not, or from units, which growth changes."""
    if not isinstance(number, fx.Node):
        return number
    if number.op == "placeholder":
        return (ARGUMENT, str(number.target))
    held_in: Any = number.args[0] if number.target is operator.getitem else None
    if isinstance(held_in, fx.Node) and held_in.op == "placeholder":
        return (ARGUMENT, f"{held_in.target}[{number.args[1]}]")
    if number.target == _SIZE and len(number.args) == 2 and not counts_units(number):
        tensor: Any = number.args[0]
        return (_SIZE, tensor.name, number.args[1])
    name = getattr(number.target, "__name__", "")
    if _BY_NAME.get(name) is not number.target:
        return None
    operands = [formula_of(operand, counts_units) for operand in number.args]  # type: ignore[arg-type]
    return None if None in operands else (name, *operands)


def comes_out(
    question: str,
    left: Formula,
    right: Formula,
    size: Callable[[Any, int], int],
    arguments: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Whether a comparison comes out true; size: of the axis of a tensor. arguments: by name.

    >>> comes_out("ne", ("mod", ("neg", ("size", "x", 2)), 4), 0, lambda tensor, axis: 7)
    True
    """

    def value(formula: Formula) -> Any:
        if not isinstance(formula, tuple):
            return formula
        name, *operands = formula
        if name == ARGUMENT:
            return arguments[operands[0]]
        return size(*operands) if name == _SIZE else _BY_NAME[name](*map(value, operands))

    return bool(_BY_NAME[question](value(left), value(right)))


def in_words(question: str, left: Formula, right: Formula) -> str:
    """A comparison as code has it.

    >>> in_words("ne", ("mod", ("neg", ("size", "x", 2)), 4), 0)
    '(-x.shape[2]) % 4 != 0'
    """

    def text(formula: Formula, inside: bool = True) -> str:
        if not isinstance(formula, tuple):
            return str(formula)
        name, *operands = formula
        if name == _SIZE:
            return f"{operands[0]}.shape[{operands[1]}]"
        if name == ARGUMENT:
            return str(operands[0])
        if name not in _SYMBOLS and name != "neg":
            return f"{name}({', '.join(text(operand, False) for operand in operands)})"
        written = [text(operand) for operand in operands]
        words = f"-{written[0]}" if name == "neg" else f" {_SYMBOLS[name]} ".join(written)
        return f"({words})" if inside else words

    return f"{text(left, False)} {_ASKED[question]} {text(right, False)}"


def _named(formula: Formula, kind: str) -> Iterator[str]:
    """The tensors whose sizes a formula has, or the arguments."""
    if isinstance(formula, tuple):
        name, *operands = formula
        if name == kind:
            yield operands[0]
        elif name not in (_SIZE, ARGUMENT):
            for operand in operands:
                yield from _named(operand, kind)

"""Numbers that remember where they come from: a node of the graph being recorded, or an attribute of a module.

A recorded forward computes with them as with any int or float. What it hands to an operation is then known to be a
size of a tensor, or an attribute that can be set, and not a number that happens to be equal.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import BuiltinFunctionType
from typing import Any, NamedTuple, Protocol

from torch import fx

from fxgrow.capture.relations import Relation, formula_of


@dataclass(frozen=True)
class Attribute:
    """An attribute of a module, or an item of it: `blocks.0.attn.num_heads`, `config.hidden_size`, `dims[1]`."""

    module: str
    keys: tuple[Any, ...]

    def moved(self, path: Callable[[str], str]) -> Attribute:
        """The same attribute of the module that stands at another path."""
        return Attribute(path(self.module) if self.module else "", self.keys)

    def __str__(self) -> str:
        path = ".".join(str(key) for key in self.keys if isinstance(key, str))
        items = "".join(f"[{key!r}]" for key in self.keys if not isinstance(key, str))
        return f"{self.module}.{path}{items}" if self.module else f"{path}{items}"


@dataclass(frozen=True)
class Expression:
    """A number computed from attributes and literals."""

    function: Callable[..., Any]
    operands: tuple[Any, ...]

    def moved(self, path: Callable[[str], str]) -> Expression:
        """The same expression of attributes of the modules that stand at other paths."""
        operands = (o.moved(path) if isinstance(o, (Attribute, Expression)) else o for o in self.operands)
        return Expression(self.function, tuple(operands))

    def __str__(self) -> str:
        return f"{self.function.__name__}({', '.join(map(str, self.operands))})"

    def value(self, lookup: Callable[[Attribute], Any]) -> Any:
        """What it is where attributes are as `lookup` says."""
        return self.function(*(value_of(operand, lookup) for operand in self.operands))


Source = Attribute | Expression
"""Where a literal comes from, if not from a tensor's size."""


def attributes_in(source: Any) -> Iterator[Attribute]:
    """The attributes that a number comes from."""
    if isinstance(source, Attribute):
        yield source
    elif isinstance(source, Expression):
        for operand in source.operands:
            yield from attributes_in(operand)


def value_of(source: Any, lookup: Callable[[Attribute], Any]) -> Any:
    """The value of a source, or of a plain number."""
    if isinstance(source, Expression):
        return source.value(lookup)
    return lookup(source) if isinstance(source, Attribute) else source


_INVERSE: dict[Any, tuple[Callable[[Any, Any], Any] | None, Callable[[Any, Any], Any] | None]] = {
    operator.add: (operator.sub, operator.sub),
    operator.sub: (operator.add, lambda result, left: left - result),
    operator.mul: (operator.floordiv, operator.floordiv),
    operator.floordiv: (operator.mul, lambda result, left: left // result if result else left),
    operator.truediv: (operator.mul, lambda result, left: left / result if result else left),
}
"""What undoes a function: for its left operand, from the result and the right one, and the other way round."""


def operand_for(function: Any, result: Any, place: int, other: Any) -> Any:
    """What an operand of a function of two has to be for a result, where the other one is known; None if nobody knows.

    >>> operand_for(operator.mul, 12, 1, 4), operand_for(operator.floordiv, 4, 1, 12)
    (3, 3)
    """
    undo = _INVERSE.get(function, (None, None))[place]
    if undo is None or (other == 0 and function is operator.mul):
        return None
    operand = undo(result, other)
    operands = (operand, other) if place == 0 else (other, operand)
    by_zero = function in (operator.floordiv, operator.truediv) and operands[1] == 0
    return operand if not by_zero and function(*operands) == result else None


class SizeComparison(NamedTuple):
    """What a forward asked of a size: `size < number`, by the name of the operator, and what came out.

    leading: whether it is the size of the first axis of a tensor, along which samples may lie. steps: what was computed
    from the size before it was compared, as operators and their other operands: `size % 2 == 0`. with_units: whether
    the number is one of units, which growth changes.
    """

    operator: str
    size: int
    number: int
    outcome: bool
    leading: bool = False
    steps: tuple[tuple[str, int], ...] = ()
    with_units: bool = False

    @property
    def turning(self) -> int:
        """The size nearest to the number for which the other comes out; the size itself where none near it is."""
        if self.steps:
            near = (self.size + sign * step for step in range(1, _FAR) for sign in (1, -1) if step < self.size)
            return next(
                (n for n in near if holds(self.operator, n, self.number, self.steps) is not self.outcome), self.size
            )
        towards = {"lt": (0, -1), "le": (1, 0), "gt": (0, 1), "ge": (-1, 0)}.get(self.operator, (0, 0))
        return self.number + towards[0 if self.outcome else 1]


_FAR = 4096
"""So far from a size others are looked for that make a comparison come out otherwise."""


def holds(question: str, size: int, number: int, steps: tuple[tuple[str, int], ...] = ()) -> bool:
    """Whether a comparison by an operator comes out true of what is computed from a size.

    >>> holds("eq", 7, 1, (("mod", 2),))
    True
    """
    for step, operand in steps:
        size = getattr(operator, step)(size, operand)
    return bool(getattr(operator, question)(size, number))


class NumberRecorder(Protocol):
    """What numbers need of the recording that is under way."""

    graph: fx.Graph
    settling: set[fx.Node]
    attributes_asked: set[Attribute]
    comparisons: set[SizeComparison]
    relations: set[Relation]

    def number(self, function: Callable[..., Any], operands: tuple[Any, ...], value: Any) -> fx.Node: ...


recordings: list[NumberRecorder] = []
"""The recordings under way, the innermost last."""


@contextmanager
def present(recording: NumberRecorder) -> Iterator[None]:
    """A recording is under way inside."""
    recordings.append(recording)
    try:
        yield
    finally:
        recordings.pop()


class Pending:
    """A node that is made where it is first asked for: most sizes that a forward looks at go into nothing."""

    def __init__(self, graph: fx.Graph, make: Callable[[], fx.Node]) -> None:
        self.graph = graph
        self._make = make

    @cached_property
    def node(self) -> fx.Node:
        """The node."""
        return self._make()


class _Remembering:
    """What ints and floats that remember have in common."""

    node: fx.Node | Pending | None
    source: Source | None

    def __array_ufunc__(self, function: Any, method: str, *operands: Any, **kwargs: Any) -> Any:
        """A function of numpy's, such as `numpy.sqrt`: a number that remembers too, of one or two of them."""
        value = getattr(function, method)(*map(plain, operands), **kwargs)
        numbers = not kwargs and all(isinstance(operand, (int, float)) for operand in operands)
        of_python = _OF_PYTHON.get(function.__name__) if numbers and method == "__call__" else None
        return value if of_python is None else _computed(of_python, operands, value)

    def __reduce__(self) -> Any:
        number = plain(self)
        return type(number), (number,)

    def __deepcopy__(self, memo: Any) -> Any:
        return plain(self)

    def _tracked(self) -> bool:
        return self.node is not None and bool(recordings) and self.node.graph is recordings[-1].graph


class Int(int, _Remembering):
    """An int that remembers."""

    def __new__(cls, value: int, node: fx.Node | Pending | None = None, source: Source | None = None) -> Int:
        number = super().__new__(cls, value)
        number.node, number.source = node, source
        return number


class Float(float, _Remembering):
    """A float that remembers."""

    def __new__(cls, value: float, node: fx.Node | None = None, source: Source | None = None) -> Float:
        number = super().__new__(cls, value)
        number.node, number.source = node, source
        return number


class NumpyFloat(Float):
    """A float that remembers, with the methods of the `numpy.float64` that it stands for."""

    def __getattr__(self, name: str) -> Any:
        numpy: Any = sys.modules["numpy"]
        return getattr(numpy.float64(self), name)


Int.__name__, Float.__name__, NumpyFloat.__name__ = "int", "float", "float"  # as errors of torch should name them


def remembering(value: Any, node: fx.Node | None = None, source: Source | None = None) -> Any:
    """A number as one that remembers; anything else as it is."""
    if type(value) is int or isinstance(value, Int):
        return Int(value, node, source)
    if type(value) is float or isinstance(value, Float):
        return Float(value, node, source)
    return NumpyFloat(value, node, source) if isinstance(value, float) and of_numpy(value) else value


def of_numpy(value: Any) -> bool:
    """Whether a number or an array is one of numpy's."""
    return type(value).__module__ == "numpy" and hasattr(value, "tolist")


def node_of(value: Any) -> fx.Node | None:
    """The node of the present recording that a number comes from."""
    if not isinstance(value, _Remembering) or not value._tracked():
        return None
    return value.node.node if isinstance(value.node, Pending) else value.node


def plain(value: Any) -> Any:
    """A number without its memory."""
    if isinstance(value, Int):
        return int(value)
    return float(value) if isinstance(value, float) else value


def _computed(function: Callable[..., Any], operands: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return value
    if any(node_of(operand) is not None for operand in operands):
        return remembering(value, recordings[-1].number(function, operands, value))
    sources = tuple(getattr(operand, "source", None) or plain(operand) for operand in operands)
    traceable = any(isinstance(source, (Attribute, Expression)) for source in sources)
    return remembering(value, source=Expression(function, sources)) if traceable else value


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers, such as `math.sqrt`, whose result remembers what it was computed from."""

    @functools.wraps(function)
    def computed(*operands: Any) -> Any:
        return _computed(function, operands, function(*map(plain, operands)))

    return computed


OF_MATH = tuple(getattr(math, name) for name in ["cbrt", "exp", "exp2", "log", "log10", "log2", "pow", "sqrt"])
"""Functions that forwards compute scales and sizes by."""

_OF_PYTHON: dict[str, Callable[..., Any]] = {
    **{function.__name__: function for function in OF_MATH},
    "power": operator.pow,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "add": operator.add,
    "subtract": operator.sub,
    "negative": operator.neg,
}
"""What stands for functions of numpy's, by their names."""


def _binary(function: Callable[..., Any], reflected: bool) -> Any:
    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        operands = (other, self) if reflected else (self, other)
        return _computed(function, operands, function(*map(plain, operands)))

    return method


def _settling(plainly: Callable[..., Any]) -> Any:
    """A comparison, on which the course of a forward may hang: what is compared is settled."""
    name = plainly.__name__.strip("_")

    def method(self: Any, *rest: Any) -> Any:
        outcome = plainly(self, *rest)
        for number in (self, *rest):
            if (node := node_of(number)) is not None:
                recordings[-1].settling.add(node)
            elif recordings and (source := getattr(number, "source", None)) is not None:
                recordings[-1].attributes_asked.update(attributes_in(source))
        operand = rest[0] if rest else 0
        question = name if rest else "ne"  # 0, for which it is true
        nodes = (node_of(self) if name != "hash" else None, node_of(operand))
        asked = ((question, *nodes, operand), (_MIRRORED.get(question, question), *nodes[::-1], self))
        for _, number, other, _ in asked:
            if number is not None and other is not None and number.op == "placeholder":
                number.meta.setdefault(COMPARED, set()).add(other.meta["value"])
        if (rest and name != "hash") or (not rest and name == "bool"):
            _relate(name if rest else "ne", self, operand, outcome)
        for question, number, other, value in asked:
            if isinstance(value, int) and number is not None and (other is None or _counts_units(other)):
                size, steps = _computed_from(number)
                leading = size.target == "size" and size.args[1:] == (0,)
                before, with_units = plain(size.meta["value"]), other is not None
                comparison = SizeComparison(question, before, plain(value), outcome, leading, steps, with_units)
                recordings[-1].comparisons.add(comparison)
        return outcome

    return method


def _relate(question: str, left: Any, right: Any, outcome: bool) -> None:
    """Note a comparison that is of more than one size with a literal, computed step by step with literals."""
    nodes = [node_of(number) for number in (left, right)]
    known = [node for node in nodes if node is not None]
    if not known or (len(known) == 1 and _computed_from(known[0])[0].target == "size"):
        return
    pairs = zip(nodes, (left, right), strict=True)
    first, second = (formula_of(node or plain(value), _counts_units) for node, value in pairs)
    if first is not None and second is not None:
        recordings[-1].relations.add(Relation(question, first, second, outcome))


def _forgotten(plainly: Callable[..., Any]) -> Any:
    """A function whose result does not remember, so that the course may hang on what goes into it: `int`, `>>`."""

    def method(self: Any, *rest: Any) -> Any:
        nodes = (node_of(number) for number in (self, *rest))
        if recordings:
            recordings[-1].settling.update(node for node in nodes if node is not None)
        return plainly(plain(self), *map(plain, rest))

    return method


_MIRRORED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}
"""What is asked of the right operand where this is asked of the left one."""


def _counts_units(size: fx.Node) -> bool:
    """Whether a number is the size of the axis of a tensor along which its units lie."""
    if size.target != "size" or len(size.args) != 2:
        return False
    tensor: Any = size.args[0]
    rank = tensor.meta["value"].ndim
    return bool(size.args[1] == (1 if rank > 3 else rank - 1))


def _computed_from(number: fx.Node) -> tuple[fx.Node, tuple[tuple[str, int], ...]]:
    """The size that a number is computed from by itself, and how; of any other number, the number."""
    node, steps = number, list[tuple[str, int]]()
    while isinstance(node.target, BuiltinFunctionType) and len(node.args) == 2 and type(node.args[1]) is int:
        if not isinstance(node.args[0], fx.Node) or not hasattr(operator, node.target.__name__):
            break
        steps.insert(0, (node.target.__name__, node.args[1]))
        node = node.args[0]
    return (node, tuple(steps)) if node.target == "size" else (number, ())


def _equal(plainly: Callable[..., Any]) -> Any:
    """A comparison of a tensor's size with an attribute, which has to hold after growth where it does before."""
    settling = _settling(plainly)

    def method(self: Any, other: Any) -> Any:
        if plain(self) == plain(other):
            for size, number in ((self, other), (other, self)):
                node, source = node_of(size), getattr(number, "source", None)
                if source is not None and node is not None and node.target == "size" and len(node.args) == 2:
                    tensor: Any = node.args[0]
                    tensor.meta.setdefault("sources", {})[OF_SIZE, node.args[1], source] = source
        return settling(self, other)

    return method


COMPARED = "compared"
"""Of a placeholder for a number: the numbers that it was compared with, other arguments and what comes from sizes."""

OF_SIZE = "size"
"""Begins the path of what is no argument of a node, but a size of the tensor that it gives."""

for _kind in (Int, Float):
    for _name in ("eq", "ne"):
        _method = f"__{_name}__"
        setattr(_kind, _method, _equal(getattr(_kind.__bases__[0], _method)))
    for _name in ("lt", "le", "gt", "ge", "bool", "hash"):
        _method = f"__{_name}__"
        setattr(_kind, _method, _settling(getattr(_kind.__bases__[0], _method)))
    for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        setattr(_kind, f"__{_name}__", _binary(getattr(operator, _name), reflected=False))
        setattr(_kind, f"__r{_name}__", _binary(getattr(operator, _name), reflected=True))
    for _name, _divided in (
        ("divmod", lambda self, other: (self // other, self % other)),
        ("rdivmod", lambda self, other: (other // self, other % self)),
    ):
        setattr(_kind, f"__{_name}__", _divided)
    for _function in (operator.neg, operator.abs, round, math.ceil, math.floor):
        setattr(_kind, f"__{_function.__name__}__", remembered(_function))
for _name in ("and", "or", "xor", "lshift", "rshift"):
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(Int, _method, _forgotten(getattr(int, _method)))
setattr(Float, "__int__", _forgotten(float.__int__))  # noqa: B010 - as the others

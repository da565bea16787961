"""Attributes from which the sizes in a graph come, and their values after growth."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from fxgrow.capture.attributes import Item
from fxgrow.capture.numbers import OF_SIZE, Attribute, Expression, Source, value_of
from fxgrow.rules.shape import follow

_MISSING = object()


@dataclass(frozen=True)
class Wanted:
    """A number in a graph that comes from attributes, and what it is there.

    mode, node, path: where it is. compared: the graph does not hold it: a forward found it equal to an attribute.
    """

    source: Source
    value: Any
    mode: str
    node: fx.Node
    path: tuple[Any, ...]

    @property
    def compared(self) -> bool:
        return bool(self.path[0] == OF_SIZE)


def wanted(graphs: Mapping[str, fx.Graph]) -> Iterator[Wanted]:
    """Every literal of graphs that comes from attributes, and every size that was found equal to one.

    graphs: nodes have the values that they have after growth, where such sizes are.
    """
    for mode, graph in graphs.items():
        for node in graph.nodes:
            for path, source in node.meta.get("sources", {}).items():
                try:
                    value = follow(node, path) if path[0] != OF_SIZE else int(node.meta["value"].shape[path[1]])
                except (IndexError, KeyError, TypeError):  # the argument is no longer there: a guard took the place
                    continue
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    yield Wanted(source, value, mode, node, path)


@dataclass
class Settings:
    """The attributes of a module, and those that growth gives other values."""

    root: nn.Module
    values: dict[Attribute, Any] = field(default_factory=dict)

    def __call__(self, attribute: Attribute) -> Any:
        return self.values[attribute] if attribute in self.values else self.now(attribute)

    def now(self, attribute: Attribute) -> Any:
        """What an attribute is in the module."""
        value: Any = self.root.get_submodule(attribute.module).__dict__[attribute.keys[0]]
        for key in attribute.keys[1:]:
            value = value[key.key] if isinstance(key, Item) else vars(value)[key]
        return value

    def settle(self, numbers: list[Wanted]) -> list[Wanted]:
        """Find values with which numbers come out as wanted; returns those that do not: others come from the same.

        What was only compared follows where nothing else settles it. A new block is compared as the one that it
        repeats, and comes behind it: the last is what is read.
        """
        compared = [number for number in numbers if number.compared]
        numbers = [number for number in numbers if not number.compared]
        for number in numbers:
            if isinstance(number.source, Attribute):
                self.values.setdefault(number.source, number.value)
        for number in reversed(compared):
            if isinstance(number.source, Attribute):
                self.values.setdefault(number.source, number.value)
        for number in numbers:
            if value_of(number.source, self) != number.value:
                self._solve(number)
        return [number for number in numbers if value_of(number.source, self) != number.value]

    def _solve(self, number: Wanted) -> None:
        """Give an attribute of an expression that nothing else settles the value that makes it come out."""
        attributes = dict.fromkeys(attributes_in(number.source))
        free = [attribute for attribute in attributes if attribute not in self.values]
        for attribute in sorted(free, key=self.now, reverse=True):  # the largest is the size, others divide it
            value = _solved(number.source, number.value, attribute, self)
            if value is not _MISSING:
                self.values[attribute] = value
                if value_of(number.source, self) == number.value:
                    return
                del self.values[attribute]

    def write(self) -> None:
        """Set the attributes of the module."""
        for attribute, value in self.values.items():
            if self.now(attribute) != value:
                _put(self.root, attribute, value)


def attributes_in(source: Any) -> Iterator[Attribute]:
    """The attributes that a number comes from."""
    if isinstance(source, Attribute):
        yield source
    elif isinstance(source, Expression):
        for operand in source.operands:
            yield from attributes_in(operand)


_INVERSE: dict[Any, tuple[Callable[[Any, Any], Any] | None, Callable[[Any, Any], Any] | None]] = {
    operator.add: (operator.sub, operator.sub),
    operator.sub: (operator.add, lambda result, left: left - result),
    operator.mul: (operator.floordiv, operator.floordiv),
    operator.floordiv: (operator.mul, lambda result, left: left // result if result else left),
    operator.truediv: (operator.mul, lambda result, left: left / result if result else left),
}
"""What undoes an operation: for its left operand, from the result and the right one, and the other way round."""


def _solved(source: Any, result: Any, free: Attribute, lookup: Callable[[Attribute], Any]) -> Any:
    if source == free:
        return result
    if not isinstance(source, Expression) or len(source.operands) != 2 or source.function not in _INVERSE:
        return _MISSING
    left, right = source.operands
    inside = [free in set(attributes_in(operand)) for operand in (left, right)]
    if inside == [True, True]:
        return _MISSING
    known = value_of(right if inside[0] else left, lookup)
    undo = _INVERSE[source.function][0 if inside[0] else 1]
    if undo is None or (known == 0 and source.function is operator.mul):
        return _MISSING
    return _solved(left if inside[0] else right, undo(result, known), free, lookup)


def _put(root: nn.Module, attribute: Attribute, value: Any) -> None:
    owner = root.get_submodule(attribute.module)
    name = attribute.keys[0]
    if len(attribute.keys) == 1:
        owner.__dict__[name] = value
        return
    held = owner.__dict__[name]
    changed = _with(held, attribute.keys[1:], value)
    for module in root.modules():  # a config that many parts hold stays one
        for other, item in module.__dict__.items():
            if item is held:
                module.__dict__[other] = changed


def _with(held: Any, keys: tuple[Any, ...], value: Any) -> Any:
    """A copy of a container or a record of settings with an item of another value."""
    key, rest = keys[0], keys[1:]
    inside = held[key.key] if isinstance(key, Item) else vars(held)[key]
    new = _with(inside, rest, value) if rest else value
    if isinstance(held, tuple):
        return type(held)((*held[: key.key], new, *held[key.key + 1 :]))
    made = copy.copy(held)
    if isinstance(key, Item):
        made[key.key] = new
    else:
        made.__dict__[key] = new
    return made

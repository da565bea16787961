"""Attributes from which the sizes in a graph come, and their values after growth."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx, nn

from fxgrow.capture.attributes import Item
from fxgrow.capture.numbers import OF_SIZE, Attribute, Expression, Source, attributes_in, operand_for, value_of
from fxgrow.grouping import grouped
from fxgrow.rules.shape import follow


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
    def within(self) -> bool:
        """Whether it goes into another number, which alone has to come out."""
        return not isinstance(self.node.meta["value"], Tensor) and self.node.op == "call_function"

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
class SizeSettings:
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
        numbers = [n for n in numbers if not n.compared and not (n.within and value_of(n.source, self.now) == n.value)]
        for number in numbers:
            if isinstance(number.source, Attribute):
                self.values.setdefault(number.source, number.value)
        for number in reversed(compared):
            if isinstance(number.source, Attribute):
                self.values.setdefault(number.source, number.value)
        for number in numbers:
            if value_of(number.source, self) != number.value:
                self._solve(number)
        return [n for n in numbers if not n.within and value_of(n.source, self) != n.value]

    def _solve(self, number: Wanted) -> None:
        """Give an attribute of an expression that nothing else settles the value that makes it come out."""
        attributes = dict.fromkeys(attributes_in(number.source))
        free = [attribute for attribute in attributes if attribute not in self.values]
        for attribute in sorted(free, key=self.now, reverse=True):  # the largest is the size, others divide it
            value = _solved(number.source, number.value, attribute, self)
            if value is not None:
                self.values[attribute] = value
                if value_of(number.source, self) == number.value:
                    return
                del self.values[attribute]

    def write(self, origins: Mapping[str, str]) -> None:
        """Set the attributes of the module, those that nothing settles in new blocks as in what these repeat.

        origins: the path of each part -> of the part that it was, or that it repeats.
        """
        alike = grouped((origin, path) for path, origin in origins.items())
        for attribute, value in self.values.items():
            before = self.now(attribute)
            if before == value:
                continue
            put(self.root, attribute, value)
            twins = (replace(attribute, module=path) for path in alike[origins[attribute.module]])
            for twin in twins:
                if twin not in self.values and self.now(twin) == before:
                    put(self.root, twin, value)


def _solved(source: Any, result: Any, free: Attribute, lookup: Callable[[Attribute], Any]) -> Any:
    if source == free:
        return result
    if not isinstance(source, Expression) or len(source.operands) != 2:
        return None
    inside = [free in set(attributes_in(operand)) for operand in source.operands]
    if inside == [True, True]:
        return None
    place = inside.index(True)
    operand = operand_for(source.function, result, place, value_of(source.operands[1 - place], lookup))
    return None if operand is None else _solved(source.operands[place], operand, free, lookup)


def put(root: nn.Module, attribute: Attribute, value: Any) -> None:
    """Give an attribute of a part, or of what it holds there, another value; every part that holds that gets it."""
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

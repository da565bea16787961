"""Integers in a graph: what they become when sizes change, and what has to be rewritten.

Sizes follow the tensors they measure; numbers used as values stay what they were. Batch and space stay
dynamic: a node's number is never frozen, at most multiplied by a ratio of dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import torch
from torch import fx, nn

from fxgrow.axes.layout import Layout, Leaf
from fxgrow.capture.numbers import operand_for
from fxgrow.modules.containers import each_of_kind
from fxgrow.planning.analysis import Analysis
from fxgrow.planning.plan import AttributeEdit, NodeEdit
from fxgrow.planning.scaling import Scaling
from fxgrow.planning.sizing import size_after
from fxgrow.rules.calls import reached
from fxgrow.rules.op import Op, Path, Tensor, Tree, tensors
from fxgrow.rules.registry import law_of_module
from fxgrow.rules.shape import follow, whole_shape


class Loose(Exception):
    """A number that changes is used where no rule says how; its dimensions have to stay.

    let: nodes from which it is computed, an attribute at which was to change.
    """

    def __init__(self, place: str, leaves: list[Leaf], let: list[fx.Node]) -> None:
        super().__init__(place)
        self.place = place
        self.leaves = leaves
        self.let = let


class Numbers:
    """Values of the number nodes of a graph after growth."""

    def __init__(self, analysis: Analysis, growth: dict[Leaf, int], staying: Iterable[fx.Node]) -> None:
        """staying: nodes at which no attribute is to change."""
        self.analysis = analysis
        self.growth = growth
        self.staying = frozenset(staying)
        self.values: dict[fx.Node, Any] = {}
        self.literals: dict[fx.Node, tuple[int, Any]] = {}  # of numbers: its place among the arguments, and what it is
        self.known: dict[Any, Any] = {}  # what attributes become that are sizes themselves

    def let(self, raw: Any, wanted: Any, only_known: bool) -> bool:
        """Let an attribute from which a number is computed be what makes it come out; returns whether one can.

        only_known: an attribute that is a size elsewhere, where it becomes what is needed here.
        """
        if not isinstance(raw, fx.Node) or raw.op != "call_function" or len(raw.args) != 2 or raw in self.staying:
            return False
        for place, own in enumerate(raw.args):
            attribute = raw.meta.get("sources", {}).get(("args", place))
            if attribute is None and not isinstance(own, fx.Node):
                continue
            operand = operand_for(raw.target, wanted, place, self.after(raw.args[1 - place]))
            if operand is None or operand == self.after(own) or (attribute is not None and isinstance(own, float)):
                continue  # a factor is a setting, which people change by hand; a call can be given another
            if attribute is None:
                if self.let(own, operand, only_known):
                    return True
            elif self.known.get(attribute, None if only_known else operand) == operand:
                self.literals.setdefault(raw, (place, operand))
                return True
        return False

    def after(self, raw: Any) -> Any:
        """What an argument evaluates to once the model has grown; tensors become meta tensors."""
        return each_of_kind(raw, fx.Node, self._of_node)

    def _of_node(self, node: fx.Node) -> Any:
        if node not in self.values:
            self.values[node] = self._evaluate(node)
        return self.values[node]

    def _evaluate(self, node: fx.Node) -> Any:
        tree = self.analysis.trees[node]
        if any(True for _ in tensors(tree)):
            return self._grown(tree, node.meta["value"])
        literal = self.literals.get(node)
        if node.op not in ("call_function", "call_method") or not (literal or self._depends(node)):
            return node.meta["value"]
        arguments = [self.after(a) for a in node.args]
        if literal is not None:
            arguments[literal[0]] = literal[1]
        keywords = {k: self.after(v) for k, v in node.kwargs.items()}
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        if node.target is torch._assert:
            return None
        return node.target(*arguments, **keywords)  # type: ignore[operator]

    def _depends(self, node: fx.Node) -> bool:
        """Whether any number or tensor the node is made from has changed."""
        return any(changed(source.meta["value"], self.after(source)) for source in node.all_input_nodes)

    def _grown(self, tree: Tree, value: Any) -> Any:
        if isinstance(tree, Tensor):
            shape = [size_after(axis, self.growth) for axis in tree.axes]
            return value if list(value.shape) == shape else torch.empty(shape, dtype=value.dtype, device="meta")
        if isinstance(tree, dict):
            return {key: self._grown(item, value[key]) for key, item in tree.items()}
        if isinstance(tree, (tuple, list)):
            return tuple(self._grown(item, part) for item, part in zip(tree, value, strict=True))
        return value

    def size_at(self, op: Op, path: Path, layout: Layout) -> int:
        """What a number that is the size of a layout becomes; one that counts from an end is less than zero."""
        size, raw = size_after(layout, self.growth), follow(op.node, path)
        number = raw.meta["value"] if isinstance(raw, fx.Node) else raw
        return -size if isinstance(number, int) and number < -1 else size

    def loose(self, node: fx.Node, place: str) -> Loose:
        """That a number changes where it may not."""
        behind = reached([node], lambda source: source.all_input_nodes)
        return Loose(place, self.origins(node), [source for source in behind if source in self.literals])

    def origins(self, node: fx.Node) -> list[Leaf]:
        """The growing leaves that a number was measured from."""
        trees = self.analysis.trees
        behind = reached([node], lambda source: () if any(tensors(trees[source])) else source.all_input_nodes)
        measured = [tensor for source in behind for tensor in tensors(trees[source])]
        return list(dict.fromkeys(leaf for tensor in measured for leaf in tensor.leaves() if leaf in self.growth))


def changed(before: Any, after: Any) -> bool:
    """Whether a value on the meta device is another one (tensors: of another shape)."""
    if isinstance(before, torch.Tensor):
        return isinstance(after, torch.Tensor) and before.shape != after.shape
    if isinstance(before, (tuple, list)) and isinstance(after, (tuple, list)):
        return len(before) != len(after) or any(map(changed, before, after))
    if isinstance(before, dict) and isinstance(after, dict):
        return any(changed(before[key], after[key]) for key in before)
    return bool(before != after)


def number_edits(analysis: Analysis, growth: dict[Leaf, int], staying: Iterable[fx.Node] = ()) -> Iterator[NodeEdit]:
    """Rewrites that make every size in every graph follow, and every value stay.

    staying: nodes at which no attribute is to change.

    Raises
    ------
    Loose: a number that changes is used where no rule says how.
    """
    numbers = Numbers(analysis, growth, staying)
    mode_of = {id(graph): mode for mode, graph in analysis.graphs.items()}
    _let_attributes(numbers)
    scaling = Scaling(analysis, numbers.after)
    for node, (place, value) in numbers.literals.items():
        yield NodeEdit(mode_of[id(node.graph)], node.name, "literal", ("args", place), value)
    for op in analysis.ops:
        mode = mode_of[id(op.node.graph)]
        bound = set(op.unread)
        for path, layout in op.sizes:
            bound.update({path, path[:-1]} if whole_shape(op.node, path) is not None else {path})
            if (edit := _size_edit(numbers, op, path, numbers.size_at(op, path, layout), mode)) is not None:
                yield edit
        for path in op.pins:
            bound.add(path)
            raw = follow(op.node, path)
            before, after = raw.meta["value"], numbers.after(raw)
            if scaling.differs(raw) and (grown := scaling.grown_sizes(raw)):
                yield NodeEdit(mode, op.node.name, "as_before", path, grown)
                continue
            if before and not after:
                raise numbers.loose(raw, op.place)
            if before != after:
                yield NodeEdit(mode, op.node.name, "ratio", path, _ratio(before, after))
        _refuse_loose(numbers, scaling, op, bound)
    for argument in dict.fromkeys(scaling.looked_at(growth)):
        yield NodeEdit(mode_of[id(argument.graph)], argument.name, "settle", value=argument.meta["value"])
    for mode, graph in analysis.graphs.items():
        for node in graph.output_node().all_input_nodes:
            if not any(tensors(analysis.trees[node])) and changed(node.meta["value"], numbers.after(node)):
                raise numbers.loose(node, "output")
        for node in graph.nodes:
            if node.op == "call_function" and node.target is torch._assert:
                condition = node.args[0]
                if isinstance(condition, fx.Node) and condition.meta["value"] is True and not numbers.after(condition):
                    yield NodeEdit(mode, node.name, "erase")


def _let_attributes(numbers: Numbers) -> None:
    """Let attributes follow from which sizes are computed, and values that stay: `b * self.heads` has more heads."""
    ops = [
        (op, [(path, layout) for path, layout in op.sizes if whole_shape(op.node, path) is None])
        for op in numbers.analysis.ops
    ]
    for op, sizes in ops:
        for path, layout in sizes:
            attribute = op.node.meta.get("sources", {}).get(path)
            if attribute is not None:
                numbers.known[attribute] = numbers.size_at(op, path, layout)
    for op, sizes in ops:
        wishes = [(follow(op.node, path), numbers.size_at(op, path, layout)) for path, layout in sizes]
        wishes += [(raw, raw.meta["value"]) for raw in (follow(op.node, path) for path in op.pins)]
        for raw, wanted in wishes:
            if isinstance(raw, fx.Node) and numbers.after(raw) != wanted:
                numbers.let(raw, wanted, only_known=True) or numbers.let(raw, wanted, only_known=False)
    if numbers.literals:
        numbers.values.clear()


def size_attributes(analysis: Analysis, growth: dict[Leaf, int]) -> Iterator[AttributeEdit]:
    """Module attributes that are sizes and change."""
    for op in analysis.ops:
        for attribute, layout, weight in op.attributes:
            path = str(op.node.target) if op.module is not None else _path_of_layer(op, analysis.model, weight)
            before = getattr(analysis.model.get_submodule(path), attribute, None) if path else None
            value: Any = size_after(layout, growth)
            if isinstance(before, tuple):
                value = (value,)
            if path and value != before:
                yield AttributeEdit(path, attribute, value)


def _path_of_layer(op: Op, model: nn.Module, weight: Tensor | None) -> str:
    """The layer whose parameters a forward gives to a function: to its own, or to one in which it is a step."""
    given = op.operands() if weight is None else [weight]
    paths = {tensor.parameter.rpartition(".")[0] for tensor in given if tensor.parameter is not None}
    path = paths.pop() if len(paths) == 1 else ""
    law = law_of_module(model.get_submodule(path))
    return path if law is not None and (weight is not None or type(law) is type(op.law)) else ""


def _size_edit(numbers: Numbers, op: Op, path: Path, size: int, mode: str) -> NodeEdit | None:
    shape_node = whole_shape(op.node, path)
    if shape_node is not None:
        after = numbers.after(shape_node)[path[-1]]
        return None if after in (size, -1) else NodeEdit(mode, op.node.name, "ratio", path, _ratio(size, after))
    raw = follow(op.node, path)
    if raw is None or raw == -1:
        return None
    if not isinstance(raw, fx.Node):
        return None if raw == size else NodeEdit(mode, op.node.name, "literal", path, size)
    after = numbers.after(raw)
    return None if after == size else NodeEdit(mode, op.node.name, "ratio", path, _ratio(size, after))


def _ratio(wanted: Any, have: Any) -> Any:
    if isinstance(wanted, int) and isinstance(have, int):
        fraction = Fraction(wanted, have)
        return (fraction.numerator, fraction.denominator)
    return wanted / have


def _refuse_loose(numbers: Numbers, scaling: Scaling, op: Op, bound: set[Path]) -> None:
    for path, node in op.number_paths():
        if path in bound:
            continue
        before, after = node.meta["value"], numbers.after(node)
        if not changed(before, after) and not scaling.differs(node):
            continue
        if isinstance(before, (tuple, torch.Size)) and _shape_follows(numbers, op, after):
            continue
        raise numbers.loose(node, op.place)


def _shape_follows(numbers: Numbers, op: Op, after: Any) -> bool:
    """Whether a whole shape handed to the op is the shape its output takes."""
    output = op.output
    return isinstance(output, Tensor) and tuple(after) == tuple(
        size_after(axis, numbers.growth) for axis in output.axes
    )


def positions_after(layout_ranges: list[tuple[int, int]], index: list[int]) -> tuple[tuple[int, int], ...]:
    """Ranges of old positions as ranges of new ones; `index` is new position -> old position or -1."""
    inside = {p for start, stop in layout_ranges for p in range(start, stop)}
    ranges: list[list[int]] = []
    for new, old in enumerate(index):
        if old in inside:
            if ranges and ranges[-1][1] == new:
                ranges[-1][1] = new + 1
            else:
                ranges.append([new, new + 1])
    return tuple((start, stop) for start, stop in ranges)

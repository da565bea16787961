"""What numbers are multiplied by as sizes grow, whatever the next call is given: samples, images, arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from fxgrow.axes.layout import Leaf, leaves
from fxgrow.capture.contexts import settled
from fxgrow.planning.analysis import Analysis
from fxgrow.rules.calls import reached
from fxgrow.rules.op import tensors


class Scaling:
    """How the number nodes of graphs scale; `after` says what a node is once sizes have grown."""

    def __init__(self, analysis: Analysis, after: Callable[[fx.Node], Any]) -> None:
        self.ops = analysis.ops
        self.trees = analysis.trees
        self.after = after
        self.of_parameters = frozenset(leaf for tensor in analysis.parameters.values() for leaf in tensor.leaves())
        self._factors: dict[fx.Node, Any] = {}

    def differs(self, number: fx.Node) -> bool:
        """Whether growth multiplies a number by something else in some calls than in others."""
        return self._varies(number) and self.factor(number) is None

    def factor(self, raw: Any) -> Any:
        """What a number is multiplied by in every call; None where calls differ in that."""
        if not isinstance(raw, fx.Node):
            return 1
        if raw not in self._factors:
            self._factors[raw] = self._factor(raw)
        return self._factors[raw]

    def _factor(self, node: fx.Node) -> Any:
        if self._is_measured(node) or not self._varies(node):
            return _over(self.after(node), node.meta["value"])
        factors = [self.factor(operand) for operand in (node.args if node.op == "call_function" else ())]
        if all(self.factor(operand) == 1 for operand in node.all_input_nodes):
            return 1
        if None in factors or not factors:
            return None
        first, *rest = factors
        if node.target is operator.mul:
            return first * rest[0]
        if node.target is operator.truediv:
            return _over(first, rest[0])
        if node.target is math.sqrt or (node.target is operator.pow and isinstance(node.args[1], (int, float))):
            power: Any = 0.5 if node.target is math.sqrt else node.args[1]
            return _rounded(float(first) ** power)
        if node.target not in _ALIKE or any(factor != first for factor in rest):
            return None
        return 1 if node.target is operator.floordiv else first

    def _varies(self, node: fx.Node) -> bool:
        """Whether another call may have another number there."""
        return any(map(self._is_given, reached([node], self._made_of)))

    def looked_at(self, growing: Collection[Leaf]) -> Iterator[fx.Node]:
        """The arguments of a call whose values say how units pass through an op: axes, counts, and zeros."""
        for op in self.ops:
            met = (leaf for tensor in (*op.operands(), *tensors(op.output)) for leaf in tensor.leaves())
            if op.looked_at and any(leaf in growing for leaf in met):
                passing = [n for n in op.looked_at if not isinstance(n.meta["value"], float) or not n.meta["value"]]
                behind = reached(passing, self._made_of)
                yield from (node for node in behind if node.op == "placeholder" and self._is_given(node))

    def _is_given(self, node: fx.Node) -> bool:
        """Whether a number is given with a call: an argument, or a size that no parameter has."""
        if node.op == "placeholder":
            return not any(user.target is settled for user in node.users)
        if not self._is_measured(node):
            return False
        tensor = next(tensors(self.trees[_measured(node).all_input_nodes[0]]))
        axis = node.args[1] if len(node.args) == 2 else None
        axes = (tensor.axis(axis),) if isinstance(axis, int) else tensor.axes
        return not self.of_parameters.issuperset(leaf for each in axes for leaf in leaves(each))

    def _made_of(self, number: fx.Node) -> Sequence[fx.Node]:
        """The numbers from which one is computed; none for what is asked of a tensor."""
        return () if self._is_measured(number) else number.all_input_nodes

    def _is_measured(self, node: fx.Node) -> bool:
        """Whether a number is asked of a tensor."""
        return any(True for source in _measured(node).all_input_nodes for _ in tensors(self.trees[source]))

    def grown_sizes(self, number: fx.Node) -> dict[str, tuple[int, int]]:
        """The sizes from which a number is computed and that grow: by the names of nodes, what they were and become."""
        behind = reached([number], self._made_of)
        sizes = {node.name: (node.meta["value"], self.after(node)) for node in behind if self._is_measured(node)}
        return {name: (before, after) for name, (before, after) in sizes.items() if before != after}


_ALIKE = (operator.add, operator.sub, operator.neg, operator.abs, operator.mod, operator.floordiv)
"""Functions of numbers with which what multiplies all operands multiplies the result; the last one's stays."""


def _measured(node: fx.Node) -> fx.Node:
    """The node by which a tensor is asked for a number; that of the whole shape of which a node takes one."""
    source = node.args[0] if node.target is operator.getitem else None
    return source if isinstance(source, fx.Node) and isinstance(source.meta["value"], torch.Size) else node


def _over(after: Any, before: Any) -> Any:
    """By what a number was multiplied; None where there is none."""
    if type(after) is type(before) and after == before:
        return 1
    if not (isinstance(before, (int, float, Fraction)) and isinstance(after, (int, float, Fraction)) and before):
        return None
    if isinstance(before, float) or isinstance(after, float):
        return _rounded(float(after) / float(before))
    return Fraction(after, before)


def _rounded(factor: float) -> float:
    return round(factor, 12)

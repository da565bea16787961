"""Pointwise ops: each output element depends on the input elements at its own place.

What matters of a function is whether it keeps zero (f(0) = 0) and whether it keeps means (it is linear).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from fxgrow.axes.layout import Layout, Leaf
from fxgrow.rules.calls import run, writes
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Moves, Range, Want
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import aliased, overwritten

Kind = Literal["linear", "zero", "other", "add", "multiply", "divide", "none"]
"""linear: f(ax) = a f(x); zero: f(0) = 0; other: neither known; none: not a pointwise op after all."""


@dataclass(frozen=True)
class Pointwise(Law):
    """A function applied element by element, operands broadcast against each other."""

    kind: Kind | Callable[[Op], Kind]
    family = "pointwise"

    def kind_of(self, op: Op) -> Kind:
        return self.kind(op) if callable(self.kind) else self.kind

    def relate(self, op: Op) -> Tree:
        kind = self.kind_of(op)
        operands = op.operands()
        if kind == "linear":
            operands = operands[:1]  # `x.type_as(y)` is x
        if kind == "none" or not operands or not hasattr(op.value, "shape"):
            return super().relate(op)
        rank = max(t.rank for t in operands)
        axes: list[Layout] = []
        for place in range(rank):
            facing = [t.axis(place - rank + t.rank) for t in operands if place - rank + t.rank >= 0]
            axes.append(op.unifier.broadcast(facing))
        self._pin_numbers(op)
        if writes(op.node, op.module) and aliased(op, operands[0]):
            op.fix_operands("a tensor that other names still hold is written to in place")
        op.data.update(kind=kind, operands=operands)
        return op.result(axes)

    @staticmethod
    def _pin_numbers(op: Op) -> None:
        for index, raw in enumerate(op.node.args):
            if isinstance(raw, fx.Node) and op.tree_of(raw) is None:
                op.pin(("args", index))
        for name, raw in op.node.kwargs.items():
            if isinstance(raw, fx.Node) and op.tree_of(raw) is None:
                op.pin(("kwargs", name))

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        operands: list[Tensor] = op.data["operands"]
        kind: Kind = op.data["kind"]
        having = [t for t in operands if want.leaf in t.leaves()]
        if want.where is not None and len(operands) > 1:
            return []
        if kind == "linear" or (kind == "zero" and want.fact is Fact.ZERO):
            return [[(t, want) for t in having]]
        if kind == "add":
            if want.fact is Fact.ZERO and (len(having) < len(operands) or has_numbers(op)):
                return []
            return [[(t, want) for t in having]] if want.fact is not Fact.IGNORED else []
        if kind == "multiply" or (kind == "divide" and operands[0] in having):
            candidates = having if kind == "multiply" else operands[:1]
            if want.fact is Fact.ZERO:
                return [[(t, want)] for t in sorted(candidates, key=lambda t: t.parameter is None)]
            if len(having) == 1:
                return [[(having[0], want)]]
        return []

    def facts(self, op: Op, know: Knowledge) -> None:
        output = op.output
        assert isinstance(output, Tensor)
        for leaf in know.growing(*output.axes):
            known = self._outcome(op, know, leaf)
            know.learn_all(output, leaf, known)
            if writes(op.node, op.module):
                overwritten(know, op.data["operands"][0], leaf, known.get(None, Fact.BASE))
                know.learn_all(op.data["operands"][0], leaf, known)

    def _outcome(self, op: Op, know: Knowledge, leaf: Leaf) -> dict[Range | None, Fact]:
        operands: list[Tensor] = op.data["operands"]
        kind: Kind = op.data["kind"]
        having = [t for t in operands if leaf in t.leaves()]
        known = [know.fact(t, leaf) for t in having]
        if len(operands) == 1:
            kept = {Fact.ZERO, Fact.MEAN, Fact.IGNORED} if self._keeps_lines(op) else set()
            if kind == "zero" or (kind in ("multiply", "divide") and not self._number_first(op)):
                kept = kept | {Fact.ZERO}
            return {where: fact for where, fact in know.ranged(operands[0], leaf).items() if fact in kept}
        if kind == "add":
            if has_numbers(op):
                return {}
            if all(fact is Fact.MEAN for fact in known):
                return {None: Fact.MEAN}
            if all(fact is Fact.ZERO for fact in known) and len(having) == len(operands):
                return {None: Fact.ZERO}
        elif kind == "multiply":
            if Fact.ZERO in known:
                return {None: Fact.ZERO}
            if known == [Fact.MEAN]:
                return {None: Fact.MEAN}
        elif kind == "divide" and having[:1] == operands[:1]:
            if known == [Fact.ZERO] or known == [Fact.MEAN]:
                return {None: known[0]}
        elif kind in ("zero", "linear") and len(having) == len(operands) and set(known) == {Fact.ZERO}:
            return {None: Fact.ZERO}
        return {}

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not where another factor is zero, or where the function is flat at zero and zero is what it is given."""
        operands: list[Tensor] = op.data["operands"]
        kind: Kind = op.data["kind"]
        if len(operands) > 1:
            factors = operands if kind == "multiply" else operands[:1] if kind == "divide" else []
            others = [t for t in factors if t is not operand and leaf in t.leaves()]
            return not any(moves.zero(other, leaf) for other in others)
        return kind == "linear" or not moves.zero(operand, leaf) or not is_flat(op)

    def _keeps_lines(self, op: Op) -> bool:
        kind: Kind = op.data["kind"]
        return kind == "linear" or (
            kind in ("multiply", "divide") and not (kind == "divide" and self._number_first(op))
        )

    @staticmethod
    def _number_first(op: Op) -> bool:
        """Whether this is number / tensor."""
        return op.data["kind"] == "divide" and bool(op.node.args) and not isinstance(op.argument(0, "input"), Tensor)


def has_numbers(op: Op) -> bool:
    """Whether a number other than zero takes part beside the tensors (`alpha` scales, so it does not count)."""
    return any(not isinstance(item, Tensor) and item not in (0, None) for item in op.lower(list(op.node.args)))


def is_flat(op: Op) -> bool:
    """Whether a function of one tensor has no slope at zero, as ReLU and squares; tried out in float64."""
    if not op.value.dtype.is_floating_point:
        return False
    x = torch.zeros(2, dtype=torch.float64, device="cpu", requires_grad=True)
    args, kwargs = (
        fx.node.map_arg(given, lambda node: x.clone() if op.tree_of(node) is not None else node.meta["value"])
        for given in (op.node.args, op.node.kwargs)
    )
    try:
        y = run(op.node, copy.deepcopy(op.module), args, kwargs, grad=True)
        (slope,) = torch.autograd.grad(y.sum(), x)
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        return False  # it cannot be told from one entry
    return not bool(slope.any())


def power(op: Op) -> Kind:
    """x ** n keeps zero where n is a positive number."""
    exponent: Any = op.argument(1, "exponent")
    return "zero" if isinstance(exponent, (int, float)) and exponent > 0 else "other"


def clamp(op: Op) -> Kind:
    """clamp keeps zero where the interval holds it."""
    low, high = op.argument(1, "min"), op.argument(2, "max")
    numbers = all(isinstance(v, (int, float, type(None))) for v in (low, high))
    return "zero" if numbers and (low is None or low <= 0) and (high is None or high >= 0) else "other"


class AddProduct(Pointwise):
    """`addcmul`: x + value a b, silent where x and one of the factors are."""

    def __init__(self) -> None:
        super().__init__("other")

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        x, *factors = op.data["operands"]
        if want.fact is not Fact.ZERO or want.where is not None or want.leaf not in x.leaves():
            return []
        having = [factor for factor in factors if want.leaf in factor.leaves()]
        return [[(x, want), (factor, want)] for factor in sorted(having, key=lambda t: t.parameter is None)]

    def _outcome(self, op: Op, know: Knowledge, leaf: Leaf) -> dict[Range | None, Fact]:
        x, *factors = op.data["operands"]
        silent = leaf in x.leaves() and know.fact(x, leaf) is Fact.ZERO
        vanishing = any(leaf in factor.leaves() and know.fact(factor, leaf) is Fact.ZERO for factor in factors)
        return {None: Fact.ZERO} if silent and vanishing else {}

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        x, *factors = op.data["operands"]
        others = [t for t in factors if operand is not x and t is not operand and leaf in t.leaves()]
        return not any(moves.zero(other, leaf) for other in others)


class ParametricRelu(Pointwise):
    """max(0, x) + a min(0, x), with one learnt slope or one a channel (axis 1)."""

    def __init__(self) -> None:
        super().__init__("zero")

    def relate(self, op: Op) -> Tree:
        slope = op.parameter("weight")
        x = op.tensor()
        assert slope is not None
        if slope.axes[0].size == 1:
            op.unifier.fix(slope.axes[0], "one slope serves all channels")
        else:
            op.unifier.unify(slope.axes[0], x.axes[1])
            op.attribute("num_parameters", slope.axes[0])
        op.role(slope, "gain")
        return super().relate(op)

"""Pointwise ops: each output element depends on the input elements at its own place.

What matters of a function is whether it keeps zero (f(0) = 0) and whether it keeps means (it is linear).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fxgrow.axes.layout import Layout, Leaf
from fxgrow.rules.calls import Call, draws_apart
from fxgrow.rules.knowledge import Knowledge, Way
from fxgrow.rules.law import Clause, Fact, Law, Moves, Range, Source, Terms, all_of
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import axis_of, hold_aliased, written_to

Kind = Literal["linear", "zero", "other", "add", "multiply", "divide"]
"""linear: f(ax) = a f(x); zero: f(0) = 0; other: neither known."""


@dataclass(frozen=True)
class Pointwise(Law):
    """A function applied element by element, operands broadcast against each other."""

    kind: Kind | Callable[[Op], Kind]
    family = "pointwise"

    def kind_of(self, op: Op) -> Kind:
        return self.kind(op) if callable(self.kind) else self.kind

    def split(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        """Of so many operands, which are added up, and which are multiplied."""
        if count > 1 and self.kind in ("multiply", "divide"):
            return (), range(count if self.kind == "multiply" else 1)
        return range(count), ()

    def terms(self, call: Call | Op) -> Terms:
        operands = call.operands()
        added, factors = ([operands[k] for k in some] for some in self.split(len(operands)))
        if not factors and (self.kind != "add" or len(operands) == 1):
            return Terms(operands, tried=True)
        first = call.tensor()
        if self.kind == "divide":
            return Terms((), [first]) if first is not None else Terms(operands, tried=True)
        scaled = "sub" in call.name or call.argument(2, "alpha", 1) != 1
        return Terms(added, factors, [first] if scaled else added or factors)

    def relate(self, op: Op) -> Tree:
        kind = self.kind_of(op)
        operands = op.operands()
        if not operands or not hasattr(op.value, "shape"):  # such as `torch.where(mask)`, which gives places
            op.law = Law()
            return super().relate(op)
        rank = max(t.rank for t in operands)
        axes: list[Layout] = []
        for place in range(rank):
            facing = [t.axis(place - rank + t.rank) for t in operands if place - rank + t.rank >= 0]
            axes.append(op.unifier.broadcast(facing))
        for path, _ in op.number_paths():
            op.pin(path)
        hold_aliased(op, operands[0])
        op.data.update(kind=kind, operands=operands)
        return op.result(axes)

    def _silencing(self, op: Op, leaf: Leaf) -> list[list[Tensor]]:
        """What has to be zero at new units for the output to be zero there: alternatives."""
        operands: list[Tensor] = op.data["operands"]
        kind: Kind = op.data["kind"]
        added, factors = self.split(len(operands))
        if kind == "divide" and any(leaf in t.leaves() for t in operands[1:]):  # 0 / 0
            return []
        keeps_zero = kind == "zero" or self._scales(op) or (kind == "add" and not has_numbers(op))
        if not factors and not keeps_zero:
            return []
        return [[operands[k] for k in way] for way in Terms(added, factors).silencing()]

    def _along_all(self, op: Op, output: Tensor, leaf: Leaf, ways: list[list[Tensor]]) -> list[list[Tensor]]:
        """Those by which an output that has a dimension on several axes (an outer product) is zero along each."""
        places = _places(output, leaf)
        if len(places) < 2:
            return ways
        added, factors = ([op.data["operands"][k] for k in some] for some in self.split(len(op.data["operands"])))
        having = {t: _places(t, leaf) for t in (*added, *factors)}
        whole = [way for way in ways if all(having[t] == places for t in way)]
        if whole or not ways or not factors or any(having[t] != places for t in added):
            return whole
        makers = [t for t in factors if having[t]]
        return [[*makers, *added]] if set().union(*map(having.__getitem__, makers)) == places else []

    def _kept(self, op: Op, having: list[Tensor]) -> Sequence[Fact]:
        """Facts that it passes on where all operands that have a dimension share them; zeros are seen to elsewhere."""
        kind: Kind = op.data["kind"]
        if not keeps_means(kind, [op.data["operands"].index(t) for t in having]):
            return ()
        sums = kind == "add" and len(having) == len(op.data["operands"]) and not has_numbers(op)
        return (Fact.MEAN, Fact.IGNORED) if sums or self._scales(op) else (Fact.MEAN,) if kind == "add" else ()

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> Iterable[Clause]:
        operands: list[Tensor] = op.data["operands"]
        lands = {k: k for k in range(output.rank)} if len(operands) == 1 else {}
        having = [t for t in operands if leaf in t.leaves()]
        silencing = self._along_all(op, output, leaf, self._silencing(op, leaf))
        ways = [(Fact.ZERO, way) for way in sorted(silencing, key=lambda way: way[0].parameter is None)]
        ways += [(fact, having) for fact in self._kept(op, having)]
        return [(fact, all_of(fact, *way, lands=lands)) for fact, way in ways]

    def facts(self, op: Op, know: Knowledge) -> None:
        super().facts(op, know)
        written_to(op, know, op.data["operands"][0])
        for leaf in know.growing(*op.made.axes) if draws_apart(op.name) else ():
            if know.ways[leaf] is not Way.ZERO:
                know.fail(op, leaf, f"{op.name} draws for each unit by itself, which neither pairs nor copies survive")

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not where another factor is zero, or where the function is flat at zero and zero is what it is given."""
        operands: list[Tensor] = op.data["operands"]
        if len(operands) > 1:
            added, factors = ([operands[k] for k in some] for some in self.split(len(operands)))
            others = [t for t in factors if operand not in added and t is not operand and leaf in t.leaves()]
            return not any(moves.zero(other, leaf) for other in others)
        return op.data["kind"] == "linear" or not moves.zero(operand, leaf) or not is_flat(op)

    def _scales(self, op: Op) -> bool:
        """Whether it is its first operand times something, rather than a number over a tensor."""
        kind: Kind = op.data["kind"]
        return kind in ("linear", "multiply") or (kind == "divide" and isinstance(op.argument(0, "input"), Tensor))


def _places(tensor: Tensor, leaf: Leaf) -> set[int]:
    """The axes of a tensor that a leaf is on, counted from the last."""
    return {place - tensor.rank for place in Knowledge.places(tensor, leaf, None)}


def keeps_means(kind: str, having: Sequence[int]) -> bool:
    """Whether means stay means, where operands at these places have a dimension and are means along it."""
    return kind in ("linear", "add") or (len(having) == 1 and (kind == "multiply" or (kind, *having) == ("divide", 0)))


def has_numbers(op: Op) -> bool:
    """Whether a number other than zero is one of the summands (what comes after them scales)."""
    return any(not isinstance(item, Tensor) and item not in (0, None) for item in op.lower(list(op.node.args[:2])))


def is_flat(op: Op) -> bool:
    """Whether a function of one tensor has no slope at zero, as ReLU and squares; tried out in float64."""
    at_zero = Call(op.node, copy.deepcopy(op.module), op.law).at_zero() if op.value.dtype.is_floating_point else None
    return at_zero is not None and not bool(at_zero[1].any())


def tried(op: Op) -> Kind:
    """Whether a function keeps zero, as its code says."""
    return "zero" if Call(op.node, op.module, op.law).keeps_zero() else "other"


def power(op: Op) -> Kind:
    """x ** n keeps zero where n is a positive number."""
    exponent: Any = op.argument(1, "exponent")
    return "zero" if isinstance(exponent, (int, float)) and exponent > 0 else "other"


def lerp(op: Op) -> Kind:
    """lerp by a number is a sum of both tensors, each times another number."""
    return "zero" if isinstance(op.argument(2, "weight"), Tensor) else "add"


def clamp(op: Op) -> Kind:
    """clamp keeps zero where the interval holds it."""
    low, high = op.argument(1, "min"), op.argument(2, "max")
    numbers = all(isinstance(v, (int, float, type(None))) for v in (low, high))
    return "zero" if numbers and (low is None or low <= 0) and (high is None or high >= 0) else "other"


class AddProduct(Pointwise):
    """`addcmul`: x + value a b, silent where x and one of the factors are."""

    def __init__(self) -> None:
        super().__init__("other")

    def split(self, count: int) -> tuple[Sequence[int], Sequence[int]]:
        return (range(1), range(1, 3)) if count == 3 else super().split(count)


class ParametricRelu(Pointwise):
    """max(0, x) + a min(0, x), with one learnt slope or one a channel (axis 1)."""

    def __init__(self) -> None:
        super().__init__("zero")

    def terms(self, call: Call | Op) -> Terms:
        return Terms(call.operands()[:1])

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


class GatedUnit(Law):
    """`F.glu` and `nn.GLU`: the halves of an axis grow alike."""

    family = "pointwise"

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        axis = axis_of(op.setting(1, "dim", -1), x.rank)
        half = x.shape[axis] // 2
        first, second = op.unifier.split(x.axes[axis], [half, half])
        op.unifier.unify(first, second)
        op.data.update(axis=axis, half=half, kind="multiply")
        return op.result([first if k == axis else x.axes[k] for k in range(x.rank)])

    def terms(self, call: Call | Op) -> Terms:
        return Terms(call.operands(), tried=True)

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        """Zero where the first half is."""
        first = Range(op.data["axis"], 0, op.data["half"])
        return [(Fact.ZERO, [Source(op.tensor(), Fact.ZERO, where=where)]) for where in (first, None)]

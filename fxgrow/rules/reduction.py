"""Reductions: sums, means, maxima, norms over whole axes; similarities and distances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from fxgrow import guards
from fxgrow.axes.layout import Layout, Leaf, leaves, resolve
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Carrying, Clause, Edit, Fact, Law, Lookup, Moves, Want, all_of, moved_core
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.shape import axis_of, hold_aliased, written_to

ALL: Literal["all"] = "all"
Axes = int | tuple[int, ...] | Literal["all"] | None


@dataclass(frozen=True)
class Reduction(Carrying):
    """A statistic over the axes `dim`, or several at once (the largest entries and where they are).

    kind: "sum" (linear, zeros do not count), "mean" (linear, means do not count), "other" (max, var, norm).
    keeps_zero: whether it is zero where all entries are.
    default: which axes it is over where none are given.
    """

    kind: Literal["sum", "mean", "other"]
    place: tuple[int, str] = (1, "dim")
    keeps_zero: bool = True
    default: Axes = ALL
    family = "reduction"

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        dims = op.argument(*self.place)
        if isinstance(dims, Tensor):
            op.law = _LARGER  # `torch.max(x, y)`
            return op.law.relate(op)
        if len(op.operands()) > 1:  # several quantiles, on an axis of their own
            return super().relate(op)
        axes_reduced = self.axes(dims, x.rank)
        first = op.value[0] if isinstance(op.value, tuple) else op.value
        if not hasattr(first, "shape"):
            return super().relate(op)
        kept = len(first.shape) == x.rank
        axes: list[Layout] = []
        for k in range(x.rank):
            if k not in axes_reduced:
                axes.append(x.axis(k))
            elif kept:
                axes.append(op.unifier.constant(1))
        op.data["reduced"] = axes_reduced
        if any(leaf in leaves(axis) for k in axes_reduced for axis in axes for leaf in leaves(x.axes[k])):
            for k in axes_reduced:
                op.unifier.fix(x.axes[k], "it is both kept and reduced")
        return tuple(op.result(axes) for _ in op.value) if isinstance(op.value, tuple) else op.result(axes)

    def axes(self, dims: Any, rank: int) -> list[int]:
        """The axes that it is over, where `dims` is what the argument says."""
        dims = self.default if dims in (None, ()) else dims
        return sorted(
            axis_of(k, rank) for k in (range(rank) if dims == ALL else [dims] if isinstance(dims, int) else dims)
        )

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        for leaf in know.growing(*self.statistics(op)):
            if self.kind == "sum" and (leaf not in know.guarded or _factors(op.tensor(), leaf)):
                yield [(op.tensor(), Want(leaf, Fact.ZERO))]
            elif self.kind == "mean" and leaf not in know.guarded:
                yield [(op.tensor(), Want(leaf, Fact.MEAN))]

    def facts(self, op: Op, know: Knowledge) -> None:
        """What is learnt of the output; a sum of products reads units of which one factor is zero."""
        super().facts(op, know)
        for leaf in know.growing(*self.statistics(op)):
            factors = _factors(op.tensor(), leaf) if self.kind == "sum" and self.stays(op, know, leaf) else []
            if not all(know.fact(factor, leaf) is Fact.ZERO for factor in factors):
                know.read.add(leaf)

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        kept = {Fact.ZERO: self.keeps_zero, Fact.MEAN: self.kind != "other"}
        return [op.tensor()], {fact for fact, keeps in kept.items() if keeps}

    def stays(self, op: Op, know: Knowledge, leaf: Leaf) -> bool:
        known = know.fact(op.tensor(), leaf)
        whole = any(resolve(layout) is leaf for layout in self.statistics(op))
        return (self.kind == "sum" and known is Fact.ZERO) or (self.kind == "mean" and known is Fact.MEAN and whole)

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to units that a statistic of the old ones leaves out."""
        return leaf not in moves.know.growing(*self.statistics(op)) or not self._leaves_out(op, moves.know, leaf)

    def _leaves_out(self, op: Op, know: Knowledge, leaf: Leaf) -> bool:
        return leaf in know.guarded and not self.stays(op, know, leaf)

    def statistics(self, op: Op) -> Iterable[Layout]:
        x = op.tensor()
        yield from (x.axes[k] for k in op.data["reduced"])

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        return [
            Edit("core_input", {"axis": k, "core": resolve(op.tensor().axes[k])})
            for k in op.data["reduced"]
            if any(self._leaves_out(op, know, leaf) for leaf in know.growing(op.tensor().axes[k]))
        ]


def _factors(x: Tensor, leaf: Leaf) -> list[Tensor]:
    """The tensors with a dimension whose product is summed, if there are several and none is a buffer."""
    having = [t for t in dict.fromkeys(x.op.operands()) if leaf in t.leaves()] if x.op is not None else []
    if x.op is None or x.op.law.family not in ("pointwise", "shape") or not all(t.learns for t in having):
        return []
    if len(having) == 1:
        return _factors(having[0], leaf)
    return having if x.op.data.get("kind") == "multiply" else []


_LARGER = Pointwise("zero")


class CoreUnits(Law):
    """`guards.core`: the old units of an axis, taken out before a reduction."""

    family = "reduction"

    def relate(self, op: Op) -> Tree:
        x = op.tensor(0, "x")
        axis = axis_of(op.argument(1, "dim"), x.rank)
        op.data["axis"] = axis
        axes = [op.unifier.constant(op.value.shape[k]) if k == axis else x.axis(k) for k in range(x.rank)]
        return op.result(axes)

    def facts(self, op: Op, know: Knowledge) -> None:
        for leaf in know.growing(*op.made.axes):
            know.learn(op.made, leaf, know.fact(op.tensor(0, "x"), leaf))

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        return moved_core(op, know, op.tensor(0, "x").axes[op.data["axis"]], 2)


def kept_unless_filled(argument: Lookup) -> Literal["zero", "other"]:
    """Of an op that may write a number in place of a tensor: it keeps zeros unless that is another number."""
    number = argument(3, "value")
    return "other" if isinstance(number, (int, float)) and number != 0 else "zero"


@dataclass(frozen=True)
class Across(Carrying):
    """Ops that couple all entries of some axes, which stay: softmax, cumulated sums, sorting, FFT, scattering.

    Several tensors are tied on all other axes. One at place 2, `index`, says where entries go.

    kind: what stays on the other axes: "linear": zeros and means; "zero": zeros; "other": neither.
    place, default: the argument that names the axes; which they are where none is given (None: nobody can tell).
    """

    kind: Literal["linear", "zero", "other"] | Callable[[Lookup], Literal["zero", "other"]] = "other"
    place: tuple[int, str] = (1, "dim")
    default: Axes = None
    family = "reduction"

    def kind_of(self, argument: Lookup) -> str:
        return self.kind(argument) if callable(self.kind) else self.kind

    def axes(self, module: Any, argument: Lookup, rank: int) -> list[int] | None:
        """The axes that it is taken over, by a module or by an argument."""
        dims = getattr(module, "dim", None) if module is not None else argument(*self.place)
        dims = self.default if dims is None else dims
        if dims == ALL:  # of an FFT of given sizes, as many axes as there are sizes
            sizes = argument(1, "s")
            dims = range(-len(sizes) if isinstance(sizes, (tuple, list)) else -rank, 0)
        if dims is None:
            return None
        return [axis_of(int(axis), rank) for axis in ([dims] if isinstance(dims, int) else dims)]

    def relate(self, op: Op) -> Tree:
        x, index = op.tensor(), op.optional(2, "index")
        axes = self.axes(op.module, op.argument, x.rank)
        if axes is None:
            return super().relate(op)
        why = op.unifier.because(f"{op.name} is taken over it")
        op.unifier.fix([x.axes[k] for k in axes], why)
        mixed = set(axes)
        for other in op.operands()[1:]:
            if other.rank != x.rank:
                op.unifier.fix(other.axes, "it is an index" if other is index else why)
                continue
            mixed |= {k for k in range(x.rank) if x.shape[k] != other.shape[k]}
            for k in range(x.rank):
                if k in mixed:
                    op.unifier.fix((x.axes[k], other.axes[k]), why)
                else:
                    op.unifier.unify(x.axes[k], other.axes[k])
        hold_aliased(op, x)
        op.data["sources"] = [operand for operand in op.operands() if operand is not index]

        def made(value: Any) -> Tensor:
            return op.result([Leaf(n, reason=why) if k in mixed else x.axes[k] for k, n in enumerate(value.shape)])

        return tuple(map(made, op.value)) if isinstance(op.value, tuple) else made(op.value)

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        kept = {"linear": {Fact.ZERO, Fact.MEAN}, "zero": {Fact.ZERO}, "other": set[Fact]()}
        return op.data["sources"], kept[self.kind_of(op.argument)]

    def facts(self, op: Op, know: Knowledge) -> None:
        if "sources" in op.data:
            super().facts(op, know)
            written_to(op, know, op.tensor())


class OverItsNorm(Law):
    """A tensor over its own p-norm along an axis: F.normalize, and `guards.normalize` with the norm of the core units.

    New units that are zero leave the norm as it was; any others need the guard.
    """

    family = "reduction"

    def relate(self, op: Op) -> Tree:
        x = op.operands()[0]
        axis = 1 if (dim := op.argument(2, "dim")) is None else dim
        op.data.update(x=x, axis=axis_of(int(axis), x.rank))
        return op.result(x.axes)

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        x: Tensor = op.data["x"]
        for layout in self.statistics(op):
            yield from ([(x, Want(leaf, Fact.ZERO))] for leaf in know.growing(layout) if leaf not in know.guarded)

    def statistics(self, op: Op) -> Iterable[Layout]:
        if not self._is_guard(op):
            yield op.data["x"].axes[op.data["axis"]]

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        x: Tensor = op.data["x"]
        along = leaf in leaves(x.axes[op.data["axis"]])  # all its entries are divided by one number
        lands = {k: k for k in range(x.rank)}
        facts = (Fact.ZERO, Fact.IGNORED) if along else (Fact.ZERO,)
        return [(fact, all_of(fact, x, lands=lands)) for fact in facts]

    def stays(self, op: Op, know: Knowledge, leaf: Leaf) -> bool:
        return know.fact(op.data["x"], leaf) is Fact.ZERO

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        layout = resolve(op.data["x"].axes[op.data["axis"]])
        if self._is_guard(op):
            return moved_core(op, know, layout, 4)
        if not any(leaf in know.guarded for leaf in know.growing(layout)):
            return []
        arguments = {"p": op.argument(1, "p", 2.0), "dim": op.data["axis"], "eps": op.argument(3, "eps", 1e-12)}
        return [Edit("guard", {"function": "normalize", "arguments": arguments, "core": layout})]

    @staticmethod
    def _is_guard(op: Op) -> bool:
        return op.node.target is guards.normalize


class Compared(Law):
    """Two tensors broadcast against each other, compared along one axis, which goes; `cdist`: of all pairs of rows.

    New units would count, so it is taken over the old units alone (`guards.core` on both tensors before).
    """

    family = "reduction"

    def __init__(self, default: int | None = None, pairs: bool = False) -> None:
        self.default = default  # None: the axis is an argument, and 1 where it is left out
        self.pairs = pairs

    def axis(self, module: Any, argument: Lookup, rank: int) -> int:
        """The axis that two tensors are compared along, of the so many that they have together; from the end."""
        dim = self.default if self.default is not None else getattr(module, "dim", None)
        return axis_of(argument(2, "dim", 1) if dim is None else dim, rank) - rank

    def relate(self, op: Op) -> Tree:
        operands = op.operands()
        rank = max((operand.rank for operand in operands), default=0)
        axis = self.axis(op.module, op.argument, rank)
        if len(operands) != 2 or len(op.node.args) < 2 or any(operand.rank < -axis for operand in operands):
            return super().relate(op)
        first, second = operands
        op.unifier.unify(first.axes[axis], second.axes[axis])
        op.data.update(operands=operands, axis=axis)
        facing = [[t.axes[k] for t in operands if t.rank >= -k] for k in range(-rank, 0)]
        if self.pairs:
            return op.result([*map(op.unifier.broadcast, facing[:-2]), first.axes[-2], second.axes[-2]])
        axes = [op.unifier.broadcast(axes) for k, axes in enumerate(facing, -rank) if k != axis]
        if len(op.value.shape) == rank:
            axes.insert(rank + axis, op.unifier.constant(1))
        return op.result(axes)

    def statistics(self, op: Op) -> Iterable[Layout]:
        yield from (operand.axes[op.data["axis"]] for operand in op.data.get("operands", ()))

    def facts(self, op: Op, know: Knowledge) -> None:
        super().facts(op, know)
        for leaf in know.growing(*self.statistics(op)):
            if leaf in op.made.leaves():
                know.fail(op, leaf, "it is both kept and compared")

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to units that it leaves out."""
        return leaf not in moves.know.growing(*self.statistics(op))

    def edits(self, op: Op, know: Knowledge) -> list[Edit]:
        if not any(leaf in know.guarded for leaf in know.growing(*self.statistics(op))):
            return []
        axis: int = op.data["axis"]
        return [
            Edit("core_input", {"axis": operand.rank + axis, "core": resolve(operand.axes[axis]), "operand": k})
            for k, operand in enumerate(op.data["operands"])
        ]

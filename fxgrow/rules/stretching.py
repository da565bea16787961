"""Ops that take sizes: they stretch or repeat axes to them, or make new tensors of them."""

from __future__ import annotations

from fxgrow.axes.layout import Layout, Leaf, Reason, is_fixed, join, product
from fxgrow.rules.law import Clause, Fact, Law
from fxgrow.rules.op import Op, Path, Tensor, Tree
from fxgrow.rules.shape import Shape, axis_of, items_of, listed_sizes, sized_by, straight


class Expand(Shape):
    """Stretch axes of size one: expand, expand_as."""

    stretches = True

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        shape = tuple(op.value.shape)
        lead = len(shape) - x.rank
        like = op.argument(1, "other") if op.name == "expand_as" else None
        paths = listed_sizes(op) if like is None else []
        follow = len(paths) == len(shape)  # stretched sizes are arguments
        axes: list[Layout] = []
        for k, size in enumerate(shape):
            own = x.axis(k - lead) if k >= lead else None
            facing = like.axis(k) if isinstance(like, Tensor) else None
            if own is not None and own.size == size:
                if facing is not None:
                    op.unifier.unify(own, facing)
                axes.append(own)
            else:
                if own is not None:
                    op.unifier.fix(own, "a dimension of size one is expanded")
                if facing is None:
                    facing = op.unifier.fresh(size) if size > 1 and follow else op.unifier.constant(size)
                axes.append(facing)
        sized_by(op, paths, axes)
        kept = (k if shape[k] == size else None for k, size in enumerate(x.shape, start=lead))
        return self.drawn(op, axes, straight(x, kept))


class Repeat(Shape):
    """`repeat`, `tile`: an axis repeated k times is k x the axis; one of size one is stretched."""

    stretches = True

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        shape = tuple(op.value.shape)
        lead = len(shape) - x.rank
        paths = listed_sizes(op)
        known = paths if len(paths) == len(shape) else [None] * len(shape)
        axes: list[Layout] = []
        for k, size in enumerate(shape):
            own = x.axis(k - lead) if k >= lead else None
            if own is None or own.size == 1 < size:
                axes.append(_stretched(op, own, size, known[k]))
            elif own.size != size and is_fixed(own):
                axes.append(op.unifier.constant(size))
            else:
                axes.append(own if own.size == size else join([own] * (size // own.size)))
        return op.result(axes)


class RepeatEach(Shape):
    """`repeat_interleave`: each entry of an axis k times over, which is the axis times k; one of size one is stretched.

    Without an axis torch flattens first, which leaves what has one axis as it is.
    """

    stretches = True

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        times, axis = op.argument(1, "repeats"), op.argument(2, "dim")
        axis = 0 if axis is None and x.rank == 1 else axis
        if not isinstance(times, int) or axis is None:
            return super().relate(op)
        axes = list(x.axes)
        place = axis_of(axis, x.rank)
        own, size = axes[place], op.value.shape[place]
        if own.size == 1 < size:
            axes[place] = _stretched(op, own, size, op.path(1, "repeats"))
        elif is_fixed(own):
            axes[place] = op.unifier.constant(size)
            for path, _ in op.number_paths():
                op.pin(path)
        else:
            axes[place] = product([own, op.unifier.constant(times)])
        return op.result(axes)


def _stretched(op: Op, own: Layout | None, size: int, path: Path | None) -> Layout:
    """What an axis of size one becomes, or none at all; path: of its size among the arguments, which can follow."""
    text = "a dimension of size one is repeated"
    if own is not None:
        op.unifier.fix(own, text)
    if path is None or size == 1:
        return op.unifier.constant(size, text if size > 1 else "")
    axis = op.unifier.fresh(size)
    op.size(path, axis)
    return axis


class NewTensors(Law):
    """New tensors of given sizes. Filled with one number, their sizes follow the tensors that they meet.

    why_not: why the sizes cannot follow, where entries are not all one number. first: where the sizes begin.
    """

    family = "creation"
    stretches = True

    def __init__(self, why_not: str = "", first: int = 0) -> None:
        self.why_not = why_not
        self.first = first

    def relate(self, op: Op) -> Tree:
        shape = tuple(op.value.shape) if hasattr(op.value, "shape") else ()
        paths = listed_sizes(op, self.first) if not self.why_not else []
        if op.name in ("full", "new_full"):  # the number comes after the sizes
            paths = items_of(op, op.path(self.first, "size"))
            op.data["number"] = op.argument(self.first + 1, "fill_value")
        elif op.name in ("zeros", "new_zeros"):
            op.data["number"] = 0
        if len(paths) != len(shape):
            text = f"{op.name}: {self.why_not}" if self.why_not else ""
            return op.constants(op.value, Reason(text, op.place) if text else None)
        axes: list[Layout] = [op.unifier.fresh(s) if s > 1 else op.unifier.constant(s) for s in shape]
        sized_by(op, paths, axes)
        return op.result(axes)

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> list[Clause]:
        """Of one number, whatever it is given: zero, and the mean of its entries."""
        return [(Fact.ZERO, []), (Fact.MEAN, [])] if op.data.get("number") == 0 else [(Fact.MEAN, [])]

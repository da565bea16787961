"""Ops that pick entries of an axis: select, narrow, index_select, gather."""

from __future__ import annotations

from fxgrow.axes.layout import is_fixed
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Want
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import GetItem, Piece, Shape, axis_of


class Select(GetItem):
    """`select`: one position of an axis, which goes."""

    def relate(self, op: Op) -> Tree:
        x, index = op.tensor(), op.argument(2, "index")
        axis = axis_of(op.argument(1, "dim"), x.rank)
        op.unifier.fix(x.axes[axis], "indexed by a number")
        position = axis_of(index, x.shape[axis])
        op.data.update(pieces=[Piece(axis, position, position + 1, False)], inserted=False)
        return op.result([*x.axes[:axis], *x.axes[axis + 1 :]])


class Narrow(GetItem):
    """`narrow`: some consecutive positions of an axis, as a slice has."""

    def relate(self, op: Op) -> Tree:
        x, start, length = op.tensor(), op.argument(2, "start"), op.argument(3, "length")
        if isinstance(start, Tensor):
            return Law.relate(self, op)
        axis = axis_of(op.argument(1, "dim"), x.rank)
        layout, size = x.axis(axis), x.shape[axis]
        position = axis_of(start, size)
        axes = list(x.axes)
        op.data.update(pieces=[Piece(axis, position, position + length, True)], inserted=False)
        if start < 0 or not length:
            op.unifier.fix(layout, "sliced from its end")
        if is_fixed(layout):
            axes[axis] = op.unifier.constant(length)
            return op.result(axes)
        parts = op.unifier.split(layout, [s for s in (start, length, size - start - length) if s])
        axes[axis] = parts[1] if start else parts[0]
        if start:
            op.size(op.path(2, "start"), parts[0])
        op.size(op.path(3, "length"), axes[axis])
        return op.result(axes)


class IndexSelect(Shape):
    """`index_select`: positions of an axis that an index names."""

    def relate(self, op: Op) -> Tree:
        x, index = op.tensor(), op.tensor(2, "index")
        axis = axis_of(op.argument(1, "dim"), x.rank)
        op.unifier.fix(x.axes[axis], "its entries are picked by index")
        for own in index.axes:
            op.unifier.fix(own, "it is an index")
        axes = list(x.axes)
        axes[axis] = op.unifier.constant(op.value.shape[axis])
        return op.result(axes)


class GatherAlong(Shape):
    """`gather`: an index of its own for each entry, along one axis."""

    def relate(self, op: Op) -> Tree:
        x, index = op.tensor(), op.tensor(2, "index")
        axis = axis_of(op.argument(1, "dim"), x.rank)
        axes = list(index.axes)
        for k, (own, facing) in enumerate(zip(x.axes, index.axes, strict=True)):
            if k != axis and own.size == facing.size:
                op.unifier.unify(own, facing)
                axes[k] = own
            else:
                for layout in (own, facing):
                    op.unifier.fix(layout, "its entries are picked by index")
        op.data.update(x=x, index=index)
        return op.result(axes)

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        return [[(op.data["x"], want.at(None))]] if want.fact is Fact.ZERO else []

    def facts(self, op: Op, know: Knowledge) -> None:
        output = op.output
        assert isinstance(output, Tensor)
        for leaf in know.growing(*output.axes):  # each unit has indices of its own: only zeros stay what they are
            if know.fact(op.data["x"], leaf) is Fact.ZERO:
                know.learn(output, leaf, Fact.ZERO)

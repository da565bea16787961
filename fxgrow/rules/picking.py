"""Ops that pick entries: x[...], read and written to; select, narrow, index_select, gather."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from fxgrow.axes.layout import Layout, Leaf, is_fixed, join
from fxgrow.modules.containers import holds_tensor
from fxgrow.rules.calls import LIKE
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Range
from fxgrow.rules.op import Op, Path, Tensor, Tree, tensors
from fxgrow.rules.shape import Line, Shape, axis_of, hold_aliased, overwritten, sizes_apart, straight


class GetItem(Shape):
    """`x[...]`: integers, slices, None and Ellipsis on tensors; one index tensor; items of containers."""

    def relate(self, op: Op) -> Tree:
        container, index = op.argument(0, "input"), op.raw(1, "index")
        if not isinstance(container, Tensor):
            key = op.lower(index)
            if container is None or isinstance(container, (int, float)):
                return None
            tree = container[key] if not isinstance(container, dict) else container.get(key)
            return tree if any(True for _ in tensors(tree)) else None
        values, nested = picks(op), isinstance(index, tuple)
        if by_index(values):
            return indexed(op, container, values, "its entries are picked by index") or Law.relate(self, op)
        paths: list[Path] = [("args", 1, k) if nested else ("args", 1) for k in range(len(values))]
        return self._slice(op, container, values, paths)

    def _slice(self, op: Op, x: Tensor, values: list[Any], paths: list[Path]) -> Tree:
        spare = x.rank - sum(1 for v in values if v is not None and v is not Ellipsis)
        axes: list[Layout] = []
        lines: list[Line | None] = []
        for value, path in zip(values, paths, strict=True):
            axis = len(lines)
            if value is None:
                axes.append(op.unifier.constant(1))
            elif value is Ellipsis:
                lines += [Line(len(axes) + j, 0, x.shape[axis + j]) for j in range(spare)]
                axes.extend(x.axes[axis : axis + spare])
            elif isinstance(value, slice):
                layout, bounds = self._piece(op, x, axis, value, path)
                lines.append(Line(len(axes), *bounds) if bounds is not None else None)
                axes.append(layout)
            else:
                self._pick(op, x, axis, value, path)
                position = axis_of(value, x.shape[axis])
                lines.append(Line(None, position, position + 1))
        rest = range(len(lines), x.rank)
        lines += [Line(len(axes) + k, 0, x.shape[axis]) for k, axis in enumerate(rest)]
        axes.extend(x.axes[axis] for axis in rest)
        return op.result(axes) if "strided" in op.data else self.drawn(op, axes, lines)

    @staticmethod
    def _pick(op: Op, x: Tensor, axis: int, number: Any, path: Path) -> None:
        """One entry of an axis: of a parameter, the others may grow if the number counts those that come first."""
        layout, size = x.axis(axis), x.shape[axis]
        if op.node.users and not any(u.op == "output" or holds_tensor(u.meta["value"]) for u in op.node.users):
            return  # its size is asked for alone, and any other entry has the same
        if x.parameter is None or is_fixed(layout) or not isinstance(number, int) or number < 0 or size == 1:
            op.unifier.fix(layout, "indexed by a number")
            return
        op.data["parameter"] = x
        parts = op.unifier.split(layout, [part for part in (number, 1, size - number - 1) if part])
        op.unifier.fix(parts[1 if number else 0], "indexed by a number")
        if number:
            op.size(path, parts[0])

    def _piece(self, op: Op, x: Tensor, axis: int, cut: slice, path: Path) -> tuple[Layout, tuple[int, int] | None]:
        """What is left of an axis, and which of its positions; None where they are not consecutive."""
        layout = x.axis(axis)
        size = layout.size
        if cut in (slice(None), slice(0, None), slice(None, None, 1)):
            return layout, (0, size)
        start, stop, step = cut.indices(size)
        length = len(range(start, stop, step))
        measured = op.node.users and all(node.target in LIKE for node in op.node.users)
        if type(cut.stop) is int and cut.stop == length > 0 and measured:
            op.data["strided"] = True  # none of its units is read
            return op.unifier.constant(length), None
        if start < step > 1 and stop == size and size % step == 0 and not is_fixed(layout):
            every, apart = op.unifier.factor(layout, [size // step, step])
            op.unifier.fix(apart, "sliced with a step")
            if cut.stop is not None:
                op.size((*path, "stop"), layout)
            op.data["strided"] = True
            return every, None
        if is_fixed(layout) or step != 1 or length == 0:
            op.unifier.fix(layout, "sliced with a step")
            return op.unifier.constant(length), (start, start + length) if step == 1 else None
        bounds = (("start", cut.start, start), ("stop", cut.stop, stop))
        backwards = {name for name, bound, _ in bounds if isinstance(bound, int) and bound < 0}
        if any(name in backwards and bound != end - size for name, bound, end in bounds):
            op.unifier.fix(layout, "sliced from its end")  # which is further away
            return op.unifier.constant(length), (start, stop)
        sizes = [s for s in (start, stop - start, size - stop) if s]
        parts = op.unifier.split(layout, sizes)
        own = parts[1] if start else parts[0]
        for name, bound, end in bounds:
            if bound is None or not (end or name in backwards):
                continue
            before = sum(border <= end for border in itertools.accumulate(sizes))
            if bound == -1:  # which means something else of sizes
                op.unifier.fix(parts[-1], "sliced from its end")
            else:
                op.size((*path, name), join(parts[before:] if name in backwards else parts[:before]))
        return own, (start, stop)

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        x: Tensor | None = op.data.get("parameter")
        if x is not None:  # what is picked makes units
            know.produced.update((str(x.parameter), axis, leaf) for axis in know.places(x, leaf, None))
        return super().known(op, know, output, leaf)


def picks(op: Op) -> list[Any]:
    """What stands between the brackets of `x[...]`, axis by axis."""
    index = op.raw(1, "index")
    return [op.lower(item) for item in (index if isinstance(index, tuple) else [index])]


def by_index(values: list[Any]) -> bool:
    """Whether entries are picked one by one, by tensors or lists."""
    return any(isinstance(value, (Tensor, list, tuple, bool)) for value in values)


def index_shape(value: Any) -> Sequence[int] | None:
    """The shape of a tensor, or a list or tuple of numbers, that picks entries; None of anything else."""
    if isinstance(value, (list, tuple)):
        return None if any(True for _ in tensors(value)) else torch.tensor(value).shape
    return getattr(value, "shape", None)


def picking_axes(values: list[Any], rank: int) -> list[int | None] | None:
    """Of `x[...]` with indices among whole axes: for each axis of the output that of x, or None for one of the indices.

    None at all: where anything else is among them. values: tensors (of either kind) and lists are indices.
    """
    indices = [v for v in values if not isinstance(v, slice) and v is not Ellipsis]
    shapes = [index_shape(v) for v in indices]
    whole = all(v == slice(None) for v in values if isinstance(v, slice))
    masks = any(type(item) is bool for v in indices if isinstance(v, (list, tuple)) for item in v)
    if not whole or None in shapes or masks:
        return None
    ones = (torch.zeros([1] * len(shape), dtype=torch.long) for shape in shapes if shape is not None)
    picked = sizes_apart(rank)[tuple(v if isinstance(v, slice) or v is Ellipsis else next(ones) for v in values)]
    return [size - 2 if size > 1 else None for size in picked.shape]


def indexed(op: Op, x: Tensor, values: list[Any], why: str) -> Tree:
    """What indices pick from a tensor; the axes that they count along are held. None where they pick otherwise."""
    axes = picking_axes(values, x.rank)
    if axes is None:
        return None
    op.unifier.fix([x.axes[k] for k in range(x.rank) if k not in axes], why)
    op.unifier.fix([axis for v in values if isinstance(v, Tensor) for axis in v.axes], "it is an index")
    sizes = iter(torch.broadcast_shapes(*(index_shape(v) for v in values if isinstance(v, (Tensor, list, tuple)))))
    return op.result([op.unifier.constant(next(sizes)) if k is None else x.axes[k] for k in axes])


class IndexedWrite(Law):
    """`x[...] = y`: the part of x that the index picks takes on what y is."""

    family = "shape"

    def relate(self, op: Op) -> Tree:
        x, value = op.tensor(0, "input"), op.argument(2, "value")
        if hold_aliased(op, x):
            return None
        values, why = picks(op), "its entries are written by an index"
        region = indexed(op, x, values, why) if by_index(values) else GetItem().relate(op)
        if not isinstance(region, Tensor):
            op.fix_operands(why)
            return None
        if isinstance(value, Tensor):
            for mine, value_axis in zip(region.axes[-value.rank :] if value.rank else (), value.axes, strict=True):
                op.unifier.broadcast([mine, value_axis])
        op.data["value"] = value
        return region

    def facts(self, op: Op, know: Knowledge) -> None:
        x, value = op.tensor(0, "input"), op.data["value"]
        for leaf in know.growing(*x.axes):
            if isinstance(value, Tensor):
                fact = know.fact(value, leaf) if leaf in value.leaves() else Fact.BASE
            else:
                fact = Fact.ZERO if value == 0 else Fact.BASE
            overwritten(op, know, x, leaf, fact)


class Select(GetItem):
    """`select`: one position of an axis, which goes."""

    def relate(self, op: Op) -> Tree:
        x, path = op.tensor(), op.path(2, "index")
        axis = axis_of(op.argument(1, "dim"), x.rank)
        return self._slice(op, x, [*[slice(None)] * axis, op.argument(2, "index")], [path] * (axis + 1))


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
        lines = straight(x, range(x.rank))
        lines[axis] = Line(axis, position, position + length)
        if start < 0 or not length:
            op.unifier.fix(layout, "sliced from its end")
        if is_fixed(layout):
            axes[axis] = op.unifier.constant(length)
            return self.drawn(op, axes, lines)
        parts = op.unifier.split(layout, [s for s in (start, length, size - start - length) if s])
        axes[axis] = parts[1] if start else parts[0]
        if start:
            op.size(op.path(2, "start"), parts[0])
        op.size(op.path(3, "length"), axes[axis])
        return self.drawn(op, axes, lines)

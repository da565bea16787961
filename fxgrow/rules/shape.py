"""Shape ops: they move, merge, cut and join axes and compute nothing, so facts pass through them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import fx

from fxgrow.axes.layout import Layout, Leaf, join, product, resolve
from fxgrow.modules.containers import each_of_kind
from fxgrow.rules.calls import Call, run, writes
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Moves, Range, Terms, Want
from fxgrow.rules.op import Op, Path, Tensor, Tree, tensors

LOST: Literal[False] = False
Moved = Range | Literal[False] | None
"""Where a range goes: to another range, everywhere (None), or nowhere that anybody could tell (LOST)."""


@dataclass(frozen=True)
class Line:
    """The old positions [low, high) of an axis, which lie in order along an axis of an output.

    axis: that of the output; None: it is of one position, and goes.
    """

    axis: int | None
    low: int
    high: int


Lines = Sequence[Line | None]
"""One an axis of the source; None: what lies along it cannot be told."""


def straight(x: Tensor, places: Iterable[int | None]) -> list[Line | None]:
    """Whole axes that lie along these axes of an output."""
    return [None if k is None else Line(k, 0, size) for k, size in zip(places, x.shape, strict=True)]


class Shape(Law):
    """Base of the shape ops: facts and wishes pass through, with ranges moved along the lines of an output."""

    family = "shape"
    moves = True

    def sources(self, op: Any) -> list[Any]:
        """The operands whose entries are in the output; `op` is an `Op` or a `Call`."""
        return op.operands()[:1]  # type: ignore[no-any-return]

    def terms(self, call: Call | Op) -> Terms:
        return Terms(self.sources(call), tried=True)

    def passes(self, op: Op, operand: Tensor, leaf: Leaf, axis: int | None, moves: Moves) -> bool:
        """Not to what is left out."""
        return any(leaf in output.leaves() for output in tensors(op.output))

    def drawn(self, op: Op, axes: Sequence[Layout], lines: Lines) -> Tensor:
        """An output with the lines along which its entries lie in the source."""
        output = op.result(list(axes))
        op.data.setdefault("lines", {})[output] = lines
        return output

    def forward(self, op: Op, source: Tensor, output: Tensor, where: Range) -> Moved:
        """Where a range of a source lands in an output."""
        lines: Lines = op.data.get("lines", {}).get(output, ())
        line = lines[where.axis] if lines else None
        low, high = (max(where.low, line.low), min(where.high, line.high)) if line is not None else (0, 0)
        if line is None or low >= high:
            return LOST
        if line.axis is None or (low, high) == (line.low, line.high):
            return None
        return Range(line.axis, low - line.low, high - line.low)

    def backward(self, op: Op, source: Tensor, output: Tensor, where: Range | None) -> Moved:
        """The range of a source that a range (None: all) of an output came from."""
        lines: Lines = op.data.get("lines", {}).get(output, ())
        known = {k: line for k, line in enumerate(lines) if line is not None}
        cuts = [k for k, line in known.items() if line.high - line.low < source.shape[k]]
        if where is None and not cuts:
            return None
        own = cuts if where is None else [k for k, line in known.items() if line.axis == where.axis]
        if len(own) != 1 or not set(cuts) <= set(own):
            return LOST
        line = known[own[0]]
        low, high = (where.low, where.high) if where is not None else (0, line.high - line.low)
        return Range(own[0], line.low + low, line.low + high)

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        sources = [source for source in self.sources(op) if want.leaf in source.leaves()]
        came_from = [self.backward(op, source, output, want.where) for source in sources]
        whole = [(source, want.at(None)) for source in sources]
        narrow = [(source, want.at(where or None)) for source, where in zip(sources, came_from, strict=True)]
        if LOST in came_from or narrow == whole:
            return [whole] if whole else []
        return [narrow, whole]

    def known(self, op: Op, know: Knowledge, output: Tensor, leaf: Leaf) -> dict[Range | None, Fact]:
        merged: dict[Range | None, Fact] | None = None
        for source in self.sources(op):
            if leaf in source.leaves():
                moved: dict[Range | None, Fact] = {}
                for where, fact in know.ranged(source, leaf).items():
                    lands = self.forward(op, source, output, where) if where is not None else None
                    if lands is not LOST:
                        moved[lands] = fact
                merged = moved if merged is None else {k: f for k, f in merged.items() if moved.get(k) is f}
        return merged or {}


def axis_of(number: int, rank: int) -> int:
    return number + rank if number < 0 else number


class Permute(Shape):
    """Reorder axes: permute, transpose, movedim, and `.T`, which capture records as one of them.

    order: the axes in their new order; where it is not said, the op tells, by what it makes of sizes that all differ.
    """

    def __init__(self, order: Callable[[Op, int], list[int]] | None = None) -> None:
        self.order = order

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        order = [axis_of(a, x.rank) for a in (self.order or tried_order)(op, x.rank)]
        return self.drawn(op, [x.axes[a] for a in order], straight(x, map(order.index, range(x.rank))))


def tried_order(op: Op, rank: int) -> list[int]:
    """The axes in the order in which an op gives those of a tensor without data."""
    args, kwargs = (op.lower(raw) for raw in (list(op.node.args), dict(op.node.kwargs)))
    made = run(op.node, op.module, *each_of_kind((args, kwargs), Tensor, lambda _: sizes_apart(rank)))
    return [size - 2 for size in made.shape]


def sizes_apart(rank: int) -> torch.Tensor:
    """A tensor without data whose axes are told apart by their sizes: two, three, four and so on."""
    return torch.empty([*range(2, 2 + rank)], device="meta")


class Reshape(Shape):
    """Row-major change of shape: view, reshape, flatten, unflatten, squeeze, unsqueeze, nn.Flatten.

    `sizes` finds the arguments that are sizes: one for each output axis (None: that axis has none), or none at all.
    """

    def __init__(self, sizes: Callable[[Op], Sequence[Path | None]] | None = None) -> None:
        self.sizes = sizes

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        shape = tuple(op.value.shape)
        axes = op.unifier.reshape([x.axis(k) for k in range(x.rank)], shape)
        sized_by(op, self.sizes(op) if self.sizes is not None else [], axes)
        like = op.argument(1, "other") if op.name in ("reshape_as", "view_as") else None
        if isinstance(like, Tensor):
            for mine, other in zip(axes, like.axes, strict=True):
                op.unifier.unify(mine, other)
        return op.result(axes)

    def forward(self, op: Op, source: Tensor, output: Tensor, where: Range) -> Moved:
        return reshaped(source.shape, output.shape, where)

    def backward(self, op: Op, source: Tensor, output: Tensor, where: Range | None) -> Moved:
        return reshaped(output.shape, source.shape, where) if where is not None else None


def sized_by(op: Op, paths: Sequence[Path | None], axes: Sequence[Layout]) -> None:
    """Let arguments be the sizes of axes, where there is one (or None) for each."""
    for path, axis in zip(paths, axes, strict=True) if len(paths) == len(axes) else ():
        if path is not None:
            op.size(path, axis)


def reshaped(before: tuple[int, ...], after: tuple[int, ...], where: Range) -> Moved:
    """Where a range of one axis lands after a row-major reshape, if it is a range of one axis again."""
    outer, inner = math.prod(before[: where.axis]), math.prod(before[where.axis + 1 :])
    low, high, length = where.low * inner, where.high * inner, before[where.axis] * inner
    leading = 1
    for axis, size in enumerate(after):
        if leading == outer and size > 1:
            rest = math.prod(after[axis + 1 :])
            if size * rest != length or low % rest or high % rest:
                return LOST
            return Range(axis, low // rest, high // rest)
        leading *= size
    return LOST


def unflattened_sizes(op: Op) -> list[Path | None]:
    """The sizes that unflatten takes one axis apart into."""
    sizes = op.argument(2, "sizes")
    rank = len(op.value.shape)
    first = axis_of(op.argument(1, "dim"), rank - len(sizes) + 1)
    own = [(*op.path(2, "sizes"), k) for k in range(len(sizes))]
    return [None] * first + own + [None] * (rank - first - len(own))


def listed_sizes(op: Op, first: int = 1) -> list[Path]:
    """The size arguments of view, reshape, expand and zeros, whichever way they are spelled; `first`: where they begin.

    A whole shape in one node has a path for each of its items.
    """
    for name in ("shape", "size"):
        if name in op.node.kwargs:
            return items_of(op, ("kwargs", name))
    if len(op.node.args) == first + 1 or isinstance(op.raw(first, ""), (tuple, list)):
        return items_of(op, ("args", first)) or [("args", first)]
    return [("args", k) for k in range(first, len(op.node.args))]


def items_of(op: Op, path: Path) -> list[Path]:
    """The paths of the items of an argument; none where it is no tuple."""
    items = op.lower(follow(op.node, path))
    return [(*path, k) for k in range(len(items))] if isinstance(items, (tuple, list)) else []


def follow(node: fx.Node, path: Path) -> Any:
    """The raw argument at a path."""
    value: Any = getattr(node, path[0])
    for step in path[1:]:
        value = getattr(value, step) if isinstance(value, slice) else value[step]
    return value


def whole_shape(node: fx.Node, path: Path) -> fx.Node | None:
    """The node that holds the whole shape of which a path names an item, where the graph has it in one node."""
    above = follow(node, path[:-1]) if len(path) > 2 else None
    return above if isinstance(above, fx.Node) else None


class Cut(Shape):
    """Take an axis apart: chunk, split, unbind, tensor_split."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def relate(self, op: Op) -> Tree:
        x, gone = op.tensor(), self.kind == "unbind"
        axis = axis_of(op.argument(1 if gone else 2, "dim", 0) or 0, x.rank)
        layout = x.axis(axis)
        if gone:
            op.unifier.fix(layout, "taken apart one at a time")
        sizes = [1 if gone else piece.shape[axis] for piece in op.value]
        parts = op.unifier.split(layout, sizes)
        if not gone:
            self._follow(op, parts)
        places = [None if gone and k == axis else k - (gone and k > axis) for k in range(x.rank)]
        outputs, start = [], 0
        for size, part in zip(sizes, parts, strict=True):
            axes = [part if k == axis else x.axes[k] for k in range(x.rank) if k != axis or not gone]
            lines = straight(x, places)
            lines[axis] = Line(places[axis], start, start + size)
            outputs.append(self.drawn(op, axes, lines))
            start += size
        return tuple(outputs)

    def _follow(self, op: Op, parts: list[Layout]) -> None:
        """Let the argument be the size of pieces, where it is that; of so many pieces, all stay of one size."""
        name = {"chunk": "chunks", "split": "split_size_or_sections", "tensor_split": "indices_or_sections"}[self.kind]
        if self.kind == "split" and op.raw(1, name) is None:
            name = "split_size"
        cut, path = op.raw(1, name), op.path(1, name)
        if self.kind == "split" and isinstance(cut, (tuple, list)):
            for k, part in enumerate(parts):
                op.size((*path, k), part)
        elif self.kind == "tensor_split" and not isinstance(cut, int):
            op.unifier.fix(parts, "cut at given positions")
        else:
            if self.kind == "split":
                op.size(path, parts[0])
                smaller = [part for part in parts if part.size != parts[0].size]
                op.unifier.fix(smaller, "the last piece of a split is smaller")
            for part in parts[1:]:
                op.unifier.tie_sizes(parts[0], part, f"{self.kind} makes pieces of one size")


class Concatenate(Shape):
    """`cat` along an axis, `hstack`, `vstack`: the result joins its parts, but for empty lists of numbers."""

    def __init__(self, axis: int | None = None) -> None:
        self.axis = axis

    def relate(self, op: Op) -> Tree:
        parts = self._parts([t for t in op.argument(0, "tensors") if isinstance(t, Tensor)])
        if self.axis is None:
            axis = axis_of(op.argument(1, "dim", 0), parts[0].rank)
        else:
            axis = self.axis if parts[0].rank > 1 else 0
        if len(op.value.shape) != parts[0].rank:
            return super().relate(op)
        axes = self._tied(op, parts, axis)
        axes[axis] = join([t.axis(axis) for t in parts])
        return op.result(axes)

    @staticmethod
    def _tied(op: Op, parts: list[Tensor], besides: int | None = None) -> list[Layout]:
        """The axes of parts that are of one shape, but perhaps along one axis."""
        for k in range(parts[0].rank):
            for other in parts[1:] if k != besides else ():
                op.unifier.unify(parts[0].axes[k], other.axes[k])
        return [parts[0].axis(k) for k in range(parts[0].rank)]

    @staticmethod
    def _parts(tensors: list[Any]) -> list[Any]:
        """Those that are not of shape (0,), which torch joins to tensors of any rank."""
        return [t for t in tensors if getattr(t, "shape", None) != (0,)] or tensors

    def sources(self, op: Any) -> list[Any]:
        return self._parts(op.operands())


class Stack(Concatenate):
    """`stack`: a new fixed axis over parts of one shape."""

    def relate(self, op: Op) -> Tree:
        parts = [t for t in op.argument(0, "tensors") if isinstance(t, Tensor)]
        axes = self._tied(op, parts)
        new = op.unifier.constant(len(parts), "its entries are separate tensors")
        axes.insert(axis_of(op.argument(1, "dim", 0), parts[0].rank + 1), new)
        return op.result(axes)


class Shuffled(Shape):
    """Channel shuffle: groups x width to width x groups, along axis 1."""

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        count = op.setting(1, "groups")
        groups, width = op.unifier.factor(x.axes[1], [count, x.shape[1] // count])
        op.sized(1, "groups", groups)
        return op.result([x.axes[0], product([resolve(width), resolve(groups)]), *x.axes[2:]])


class Windows(Shape):
    """`Tensor.unfold`: windows along an axis, their entries on a new last axis."""

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        axis = axis_of(op.argument(1, "dimension"), x.rank)
        op.unifier.fix(x.axes[axis], "windows slide over it")
        axes = [op.unifier.constant(op.value.shape[k]) if k == axis else x.axes[k] for k in range(x.rank)]
        return op.result([*axes, op.unifier.constant(op.value.shape[-1])])


class Passing(Shape):
    """Ops that return their input as it is, layout and all (roll, flip over fixed axes)."""

    def __init__(self, dims: tuple[int, str] | None = None) -> None:
        self.dims = dims

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        if self.dims is not None:
            dims = op.argument(*self.dims)
            axes = range(x.rank) if dims is None else [dims] if isinstance(dims, int) else dims
            for axis in axes:
                op.unifier.fix(x.axes[axis], f"{op.name} moves its entries")
        return self.drawn(op, x.axes, straight(x, range(x.rank)))


def overwritten(op: Op, know: Knowledge, x: Tensor, leaf: Leaf, fact: Fact) -> None:
    """Part of a tensor, and of what it is a view of, now holds `fact`: only what both were is still known."""
    seen: Tensor | None = x
    while seen is not None:
        if seen.parameter is not None:
            know.check_overwritten(op, seen, leaf, fact)
        if know.fact(seen, leaf) is not fact:
            know.learn_all(seen, leaf, {})
        operands = seen.op.operands() if seen.op is not None and seen.op.law.may_show else []
        seen = operands[0] if operands and leaf in operands[0].leaves() else None


def written_to(op: Op, know: Knowledge, x: Tensor) -> None:
    """An op that writes in place leaves in its operand what it gives back."""
    for leaf in know.growing(*op.made.axes) if writes(op.node, op.module) else ():
        known = know.ranged(op.made, leaf)
        overwritten(op, know, x, leaf, known.get(None, Fact.BASE))
        know.learn_all(x, leaf, known)


def hold_aliased(op: Op, x: Tensor) -> bool:
    """Whether an op writes in place to what other names show that are read later; then all that it is given is held."""
    if not writes(op.node, op.module) or not aliased(op, x):
        return False
    op.fix_operands("a tensor that other names still hold is written to in place")
    return True


def aliased(op: Op, x: Tensor) -> bool:
    """Whether a view of what `x` is a view of was taken before this op and is read after it."""
    while x.op is not None and isinstance(x.op.law, Shape):
        source = x.op.node.all_input_nodes[0]
        views = [reader for reader in source.users if reader is not x.op.node and reader < op.node]
        if any(user > op.node for view in views for user in view.users):
            return True
        x = x.op.operands()[0]
    return False

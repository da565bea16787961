"""Ops over space, channel by channel: pooling, padding, resizing, windows, pixel shuffles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fxgrow.axes.layout import Layout, Leaf, Reason, is_fixed, join, product
from fxgrow.rules.law import Carrying, Fact, Law
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.shape import items_of, sized_by


@dataclass(frozen=True)
class Spatial(Carrying):
    """A function of the last `rank` axes (0: all but batch and channels), the same for every channel."""

    kind: Literal["linear", "zero"]
    rank: int = 0
    family = "pooling"

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        spatial = self.rank or x.rank - 2
        op.unifier.fix(x.axes[x.rank - spatial :], "it is space")
        return self._outputs(op, x, spatial, op.value)

    def _outputs(self, op: Op, x: Tensor, spatial: int, value: Any) -> Tree:
        if isinstance(value, tuple):
            return tuple(self._outputs(op, x, spatial, item) for item in value)
        lead = x.rank - spatial
        return op.result([*x.axes[:lead], *(op.unifier.constant(size) for size in value.shape[lead:])])

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        return op.operands()[:1], {Fact.ZERO, Fact.MEAN} if self.kind == "linear" else {Fact.ZERO}


class Sampled(Spatial):
    """`F.grid_sample`: the same points of every channel, as a grid says."""

    def __init__(self) -> None:
        super().__init__("linear")

    def relate(self, op: Op) -> Tree:
        x, *grids = op.operands()
        op.unifier.fix((x.axes[0], *(axis for grid in grids for axis in grid.axes)), "it is batch, or a grid")
        return super().relate(op)


class Unpooled(Spatial):
    """`F.max_unpool2d`: entries of every channel, put where the indices of that channel say.

    A size to reach may have those of batch and channels before space, which are not asked for.
    """

    @staticmethod
    def size_place(module: Any) -> tuple[int, str]:
        """Which argument is the size to reach."""
        return 5 if module is None else 2, "output_size"

    def relate(self, op: Op) -> Tree:
        x, indices = op.operands()
        for ours, theirs in zip(x.axes, indices.axes, strict=True):
            op.unifier.unify(ours, theirs)
        place = self.size_place(op.module)
        sizes = [] if op.raw(*place) is None else items_of(op, op.path(*place))
        for path in sizes[: -self.rank]:
            op.leave(path)
        return super().relate(op)


class AffineGrid(Law):
    """`F.affine_grid`: the points of an image of a given size that transformations read; channels are not asked for."""

    family = "creation"

    def relate(self, op: Op) -> Tree:
        op.fix_operands("it is batch, or a transformation")
        made = op.constants(op.value)
        assert isinstance(made, Tensor)
        batch, *space, _ = made.axes
        sizes = items_of(op, op.path(1, "size"))
        op.leave(sizes.pop(CHANNELS))
        sized_by(op, sizes, [batch, *space])
        return made


CHANNELS = 1
"""Where the number of channels stands in the size of an image."""


@dataclass(frozen=True)
class Rearranged(Spatial):
    """An opaque helper that moves or resamples entries over space, `times` of them joined along the last axis."""

    kind: Literal["linear", "zero"] = "linear"
    times: int = 1
    moves = True

    def relate(self, op: Op) -> Tree:
        x = op.operands()[0]
        op.unifier.fix(x.axes[:-1], Reason(f"{op.name} moves its entries", op.place, quiet=True))
        last = join([x.axes[-1]] * self.times)
        return op.result([*(op.unifier.constant(size) for size in op.value.shape[:-1]), last])


class Pad(Spatial):
    """F.pad and the padding modules: padded axes are fixed, but for units between zeros; the others pass."""

    def __init__(self) -> None:
        super().__init__("linear")

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        amounts = op.module.padding if op.module is not None else op.argument(1, "pad")
        paths = items_of(op, op.path(1, "pad")) if op.module is None and pads_with_zeros(op.setting) else []
        axes: list[Layout] = list(x.axes)
        for k in range(len(amounts) // 2):
            axis, around = x.rank - 1 - k, amounts[2 * k : 2 * k + 2]
            if not any(around) and op.value.shape[axis] == x.shape[axis]:
                continue
            if paths and min(around) >= 0 and not is_fixed(x.axes[axis]):  # as where zeros are concatenated
                zeros = [op.unifier.fresh(size) if size > 1 else op.unifier.constant(size) for size in around]
                for path, layout in zip(paths[2 * k : 2 * k + 2], zeros, strict=True):
                    op.size(path, layout)
                axes[axis] = join([layout for layout in (zeros[0], x.axes[axis], zeros[1]) if layout.size])
            else:
                op.unifier.fix(x.axes[axis], "it is padded")
                axes[axis] = op.unifier.constant(op.value.shape[axis])
        return op.result(axes)

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        facts = {Fact.ZERO, Fact.MEAN} if op.setting(3, "value") in (None, 0) else {Fact.MEAN}
        return [x for x in op.operands()[:1] if leaf in x.leaves()], facts


def pads_with_zeros(setting: Callable[..., Any]) -> bool:
    """Whether `F.pad` writes zeros; `setting` looks up an argument."""
    return setting(2, "mode", "constant") == "constant" and setting(3, "value") in (None, 0)


@dataclass(frozen=True)
class PixelShuffle(Spatial):
    """`[b, c x r x r, h, w]` -> `[b, c, h x r, w x r]`, or back."""

    kind: Literal["linear", "zero"] = "linear"
    inverse: bool = False
    moves = True

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        op.unifier.fix(x.axes[-2:], "it is space")
        if self.inverse:
            ratio = op.value.shape[-3] // x.shape[-3]
            channels: Layout = product([x.axes[-3], op.unifier.constant(ratio)])
        else:
            ratio = x.shape[-3] // op.value.shape[-3]
            channels, rest = op.unifier.factor(x.axes[-3], [op.value.shape[-3], ratio])
            op.unifier.fix(rest, "it becomes space")
        return op.result([*x.axes[:-3], channels, *(op.unifier.constant(s) for s in op.value.shape[-2:])])


@dataclass(frozen=True)
class Regions(Spatial):
    """Boxes of every channel, divided into cells: `[b, c, h, w]` -> `[boxes, c, cells, cells]`.

    by_cell: every cell has channels of its own, `[b, c x cells x cells, h, w]`.
    """

    by_cell: bool = False

    def relate(self, op: Op) -> Tree:
        x, (count, kept, *cells) = op.tensor(), op.value.shape
        boxes = (axis for tensor in op.operands() if tensor is not x for axis in tensor.axes)
        op.unifier.fix((x.axes[0], *x.axes[2:], *boxes), "it is batch, space, or boxes")
        channels: Layout = x.axes[1]
        if self.by_cell:
            channels, each = op.unifier.factor(channels, [kept, x.shape[1] // kept])
            op.unifier.fix(each, "every cell has channels of its own")
        return op.result([op.unifier.constant(count), channels, *map(op.unifier.constant, cells)])


@dataclass(frozen=True)
class Unfold(Spatial):
    """Windows of every channel, `[b, c, h, w]` -> `[b, c x kernel, windows]`, or back, where they add up."""

    kind: Literal["linear", "zero"] = "zero"
    inverse: bool = False

    def relate(self, op: Op) -> Tree:
        x, shape, constant = op.tensor(), op.value.shape, op.unifier.constant
        if self.inverse:
            op.unifier.fix(x.axes[-1], "windows lie along it")
            channels, kernel = op.unifier.factor(x.axes[-2], [shape[-3], x.shape[-2] // shape[-3]])
            op.unifier.fix(kernel, "it becomes space")
            return op.result([*x.axes[:-2], channels, *map(constant, shape[-2:])])
        op.unifier.fix(x.axes[-2:], "windows slide over it")
        unfolded = product([x.axes[-3], constant(shape[-2] // x.shape[-3])])
        return op.result([*x.axes[:-3], unfolded, constant(shape[-1])])

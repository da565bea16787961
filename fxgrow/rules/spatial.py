"""Ops over space, channel by channel: pooling, padding, resizing, windows, pixel shuffles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from fxgrow.axes.layout import Layout, Reason, join, product
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Fact, Law, Want
from fxgrow.rules.op import Op, Tensor, Tree, tensors


@dataclass(frozen=True)
class Spatial(Law):
    """A function of the last `rank` axes (0: all but batch and channels), the same for every channel."""

    kind: Literal["linear", "zero"]
    rank: int = 0
    family = "pooling"

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        spatial = self.rank or x.rank - 2
        for axis in x.axes[x.rank - spatial :]:
            op.unifier.fix(axis, "it is space")
        return self._outputs(op, x, spatial, op.value)

    def _outputs(self, op: Op, x: Tensor, spatial: int, value: Any) -> Tree:
        if isinstance(value, tuple):
            return tuple(self._outputs(op, x, spatial, item) for item in value)
        lead = x.rank - spatial
        return op.result([*x.axes[:lead], *(op.unifier.constant(size) for size in value.shape[lead:])])

    def demand(self, op: Op, output: Tensor, want: Want) -> list[list[tuple[Tensor, Want]]]:
        keeps = want.fact is Fact.ZERO or (want.fact is Fact.MEAN and self.kind == "linear")
        return [[(op.operands()[0], want)]] if keeps and want.where is None else []

    def facts(self, op: Op, know: Knowledge) -> None:
        values = op.value if isinstance(op.value, tuple) else (op.value,)
        for output, value in zip(tensors(op.output), values, strict=True):
            for leaf in know.growing(*output.axes) if value.dtype.is_floating_point else ():
                known = know.fact(op.operands()[0], leaf)
                if known is Fact.ZERO or (known is Fact.MEAN and self.kind == "linear"):
                    know.learn(output, leaf, known)


class Sampled(Spatial):
    """`F.grid_sample`: the same points of every channel, as a grid says."""

    def __init__(self) -> None:
        super().__init__("linear")

    def relate(self, op: Op) -> Tree:
        x, *grids = op.operands()
        for axis in (x.axes[0], *(axis for grid in grids for axis in grid.axes)):
            op.unifier.fix(axis, "it is batch, or a grid")
        return super().relate(op)


@dataclass(frozen=True)
class Rearranged(Spatial):
    """An opaque helper that moves or resamples entries over space, `times` of them joined along the last axis."""

    kind: Literal["linear", "zero"] = "linear"
    times: int = 1
    moves = True

    def relate(self, op: Op) -> Tree:
        x = op.operands()[0]
        for axis in x.axes[:-1]:
            op.unifier.fix(axis, Reason(f"{op.name} moves its entries", op.place, quiet=True))
        last = join([x.axes[-1]] * self.times)
        return op.result([*(op.unifier.constant(size) for size in op.value.shape[:-1]), last])


class Pad(Spatial):
    """F.pad and the padding modules: padded axes are fixed, the others pass."""

    def __init__(self) -> None:
        super().__init__("linear")

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        amounts = op.module.padding if op.module is not None else op.argument(1, "pad")
        axes: list[Layout] = list(x.axes)
        for k in range(len(amounts) // 2):
            axis = x.rank - 1 - k
            if amounts[2 * k] or amounts[2 * k + 1] or op.value.shape[axis] != x.shape[axis]:
                op.unifier.fix(x.axes[axis], "it is padded")
                axes[axis] = op.unifier.constant(op.value.shape[axis])
        return op.result(axes)

    def facts(self, op: Op, know: Knowledge) -> None:
        filler = op.setting(3, "value")
        output = op.output
        assert isinstance(output, Tensor)
        for leaf in know.growing(*output.axes):
            known = know.fact(op.tensor(), leaf)
            if known is Fact.MEAN or (known is Fact.ZERO and filler in (None, 0)):
                know.learn(output, leaf, known)


@dataclass(frozen=True)
class PixelShuffle(Spatial):
    """`[b, c x r x r, h, w]` -> `[b, c, h x r, w x r]`, or back."""

    kind: Literal["linear", "zero"] = "linear"
    inverse: bool = False
    moves = True

    def relate(self, op: Op) -> Tree:
        x = op.tensor()
        for axis in x.axes[-2:]:
            op.unifier.fix(axis, "it is space")
        if self.inverse:
            ratio = op.value.shape[-3] // x.shape[-3]
            channels: Layout = product([x.axes[-3], op.unifier.constant(ratio)])
        else:
            ratio = x.shape[-3] // op.value.shape[-3]
            channels, rest = op.unifier.factor(x.axes[-3], [op.value.shape[-3], ratio])
            op.unifier.fix(rest, "it becomes space")
        return op.result([*x.axes[:-3], channels, *(op.unifier.constant(s) for s in op.value.shape[-2:])])


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
        for axis in x.axes[-2:]:
            op.unifier.fix(axis, "windows slide over it")
        unfolded = product([x.axes[-3], constant(shape[-2] // x.shape[-3])])
        return op.result([*x.axes[:-3], unfolded, constant(shape[-1])])

"""Ops over space, channel by channel: pooling, padding, resizing, windows, pixel shuffles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from fxgrow.axes.layout import Layout, Leaf, is_fixed, join
from fxgrow.rules.law import Carrying, Fact, Law
from fxgrow.rules.op import Op, Tensor, Tree
from fxgrow.rules.patterns import bind, spelled
from fxgrow.rules.shape import items_of, sized_by


@dataclass(frozen=True)
class Spatial(Carrying):
    """A function of the last `rank` axes (0: all but batch and channels), the same for every channel.

    pattern: or else of the axes whose names stand on one side only, as in "... (c r) h w -> ... c y x".
    """

    kind: Literal["linear", "zero"]
    rank: int = 0
    pattern: str = ""
    moves: bool = False
    family = "pooling"

    def patterns(self, rank: int) -> tuple[str, str]:
        """The patterns of an operand of that rank, and of what is made of it."""
        before, _, after = self.pattern.partition(" -> ")
        if before:
            return before, after
        space = range(self.rank or rank - 2)
        return " ".join(["...", *(f"s{k}" for k in space)]), " ".join(["...", *(f"t{k}" for k in space)])

    def relate(self, op: Op) -> Tree:
        x, *others = op.operands()
        op.unifier.fix((axis for other in others for axis in other.axes), "it says where entries are")
        return self.made(op, x)

    def made(self, op: Op, x: Tensor) -> Tree:
        """What the patterns say of the output, or of several outputs of one shape."""
        before, after = self.patterns(x.rank)
        values = op.value if isinstance(op.value, tuple) else (op.value,)
        names = spelled(after, values[0].ndim)
        whole = {own[0]: size for own, size in zip(names, values[0].shape, strict=True) if len(own) == 1}
        binding = bind(op, [x], [before], whole)
        for own in binding.axes[0]:
            gone = [binding.names[name] for name in own if not any(name in made for made in names)]
            op.unifier.fix(gone, "it is space" if len(own) == 1 else "it becomes space")
        output = binding.output(op, [x], after, values[0].shape)
        return tuple(op.result(output.axes) for _ in values) if isinstance(op.value, tuple) else output

    def carries(self, op: Op, leaf: Leaf) -> tuple[list[Tensor], set[Fact]]:
        return op.operands()[:1], {Fact.ZERO, Fact.MEAN} if self.kind == "linear" else {Fact.ZERO}


class Sampled(Spatial):
    """`F.grid_sample`: the same points of every channel, as a grid says; what a sample is goes by the grid, too."""

    def patterns(self, rank: int) -> tuple[str, str]:
        before, after = super().patterns(rank)
        return before.replace("...", "n c"), after.replace("...", "b c")


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
        return self.made(op, x)


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

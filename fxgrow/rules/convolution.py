"""Convolutions: contractions over channels whose kernel slides over space."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from fxgrow.axes.layout import Layout, Leaf, leaves, resolve
from fxgrow.rules.contraction import Contraction
from fxgrow.rules.knowledge import Knowledge
from fxgrow.rules.law import Clause, Fact, Lookup, Want, all_of
from fxgrow.rules.op import Op, Tensor, Tree


class Slide(enum.Enum):
    """How a kernel slides over an axis."""

    FIXED = "fixed"  # so that the axis cannot grow
    SAME = "same"  # one step at a time, over as many zeros at both ends as keep its size
    BY_UNIT = "by unit"  # it has one entry, so every unit is treated by itself


@dataclass(frozen=True)
class Convolution(Contraction):
    """A convolution; along axes of space that keep their size, units may be added at the end.

    A kernel of one entry treats every unit by itself. One that slides over an axis padded with zeros to its own
    size takes new units for more of the padding, as long as they are zero. (Channel attention by convolution over
    channels: Wang et al., "ECA-Net", CVPR 2020.)
    """

    def free_space(self, op: Op) -> Sequence[bool]:
        (_, weight), _ = self.operands(op)
        op.data["slides"] = slides_of(op.module, weight.shape[2:], op.argument)
        return [slide is not Slide.FIXED for slide in op.data["slides"]]

    def _growing(self, op: Op, know: Knowledge) -> Iterable[tuple[Slide, Leaf, bool]]:
        """Growing leaves of space: how the kernel slides over them, and whether new units come last."""
        for slide, layout in zip(op.data["slides"], op.data["binding"].starred("*s"), strict=True):
            for leaf in know.growing(layout):
                yield slide, leaf, resolve(layout) is leaf

    def needs(self, op: Op, know: Knowledge) -> Iterable[list[tuple[Tensor, Want]]]:
        yield from super().needs(op, know)
        for slide, leaf, _ in self._growing(op, know):
            if slide is Slide.SAME:
                yield [(op.data["operands"][0], Want(leaf, Fact.ZERO))]

    def mixed(self, op: Op) -> Iterable[Layout]:
        space = zip(op.data["slides"], op.data["binding"].starred("*s"), strict=True)
        return [layout for slide, layout in space if slide is Slide.SAME]

    def clauses(self, op: Op, output: Tensor, leaf: Leaf) -> Iterable[Clause]:
        space = zip(op.data["slides"], op.data["binding"].starred("*s"), strict=True)
        if not any(slide is Slide.BY_UNIT and leaf in leaves(layout) for slide, layout in space):
            return super().clauses(op, output, leaf)
        kept = (Fact.ZERO, Fact.MEAN) if op.data["bias"] is None else (Fact.MEAN,)
        return [(fact, all_of(fact, op.data["operands"][0])) for fact in kept]

    def facts(self, op: Op, know: Knowledge) -> None:
        super().facts(op, know)
        for slide, leaf, last in self._growing(op, know):
            if slide is Slide.SAME and (know.fact(op.data["operands"][0], leaf) is not Fact.ZERO or not last):
                know.fail(op, leaf, "a kernel slides over it")


@dataclass(frozen=True)
class Transposed(Contraction):
    """A transposed convolution, whose kernel makes several positions of each."""

    counts: Literal["output", "input"] = "input"


@dataclass(frozen=True)
class Deformable(Contraction):
    """A convolution whose kernel reads where offsets say, each entry times a mask if there is one.

    The function tells its groups by how many channels a unit reads. Offsets of one group are those of every channel;
    of several, which channels they are of goes by position.
    """

    def operands(self, op: Any) -> tuple[list[Any], Any]:
        return [op.tensor(), op.weight(2, "weight")], op.weight(3, "bias")

    @staticmethod
    def offset_groups(offset: Sequence[int], weight: Sequence[int]) -> int:
        """By the shapes of offsets and weight."""
        return offset[1] // (2 * weight[2] * weight[3])

    def known_sizes(self, op: Op) -> dict[str, int]:
        (x, weight), _ = self.operands(op)
        return {"g": x.shape[1] // weight.shape[1]}

    def relate(self, op: Op) -> Tree:
        (x, weight), bias = self.operands(op)
        others = [tensor for tensor in op.operands() if tensor not in (x, weight, bias)]
        op.unifier.fix((x.axes[0], *(axis for other in others for axis in other.axes)), "it is batch, or offsets")
        if self.offset_groups(op.tensor(1, "offset").shape, weight.shape) > 1:
            op.unifier.fix(x.axes[1], "groups of channels have offsets of their own")
        return super().relate(op)


def slides(kernel: Sequence[int], stride: Any, padding: Any, dilation: Any) -> list[Slide]:
    """How a kernel slides, by the arguments of a convolution that pads with zeros.

    >>> slides((1, 3, 3), 1, (0, 1, 0), 1)
    [<Slide.BY_UNIT: 'by unit'>, <Slide.SAME: 'same'>, <Slide.FIXED: 'fixed'>]
    """

    def each(value: Any) -> list[Any]:
        return [value] * len(kernel) if isinstance(value, (int, str)) else [*value] * (len(kernel) // len(value))

    by_axis = []
    for size, step, pad, apart in zip(kernel, each(stride), each(padding), each(dilation), strict=True):
        reach = apart * (size - 1)
        kept = step == 1 and (pad == "same" or (pad == "valid" and reach == 0) or (pad != "valid" and 2 * pad == reach))
        if not kept or reach % 2:
            by_axis.append(Slide.FIXED)
        else:
            by_axis.append(Slide.SAME if reach else Slide.BY_UNIT)
    return by_axis


def slides_of(module: Any, kernel: Sequence[int], look: Lookup) -> list[Slide]:
    """How the kernel slides of a convolution module, or of a function (no module) that is given arguments."""
    if module is None:
        return slides(kernel, look(3, "stride", 1), look(4, "padding", 0), look(5, "dilation", 1))
    zeros = module.padding_mode == "zeros"
    by_axis = slides(kernel, module.stride, module.padding, module.dilation)
    return [slide if zeros or slide is not Slide.SAME else Slide.FIXED for slide in by_axis]


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
DIRAC = (nn.Linear, *_CONVOLUTIONS)
"""Layers that some weight makes pass their input on."""


def can_be_identity(module: Any) -> bool:
    """Whether a weight exists that makes a linear layer or a convolution pass its input on."""
    if isinstance(module, nn.Linear):
        return module.in_features == module.out_features
    if not isinstance(module, _CONVOLUTIONS) or module.in_channels != module.out_channels:
        return False
    sliding = slides(module.kernel_size, module.stride, module.padding, module.dilation)
    return Slide.FIXED not in sliding and all(size % 2 for size in module.kernel_size)

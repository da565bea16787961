"""Birth tags: at which growth each element of each parameter came to be.

Stages are stored per axis; the stage of an element is the maximum over its axes. Stage 0 is the original.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from torch import Tensor

from fxgrow.errors import FxgrowError, did_you_mean
from fxgrow.modules.containers import along
from fxgrow.pages import Shown, titled
from fxgrow.plots import draw_births

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Ranges = tuple[tuple[int, int], ...]
"""Positions of one axis, as half-open ranges in order."""


@dataclass(frozen=True)
class Region:
    """Elements of one stage that lie on a grid: those at the given positions of each axis.

    Attributes
    ----------
    stage: at which they were born.
    axes: for each axis the positions, as half-open ranges in order.

    >>> region = Region(1, (((0, 1), (2, 3)), ((0, 2),)))
    >>> region.count, [block.tolist() for block in region.blocks(torch.arange(6).reshape(3, 2))]
    (4, [[[0, 1]], [[4, 5]]])
    """

    stage: int
    axes: tuple[Ranges, ...]

    @property
    def count(self) -> int:
        """The number of its elements."""
        return math.prod(sum(stop - start for start, stop in ranges) for ranges in self.axes)

    @property
    def rectangles(self) -> int:
        """The number of rectangular blocks it falls into."""
        return math.prod(map(len, self.axes))

    def blocks(self, tensor: Tensor) -> Iterator[Tensor]:
        """Rectangular views into a tensor of the parameter's shape that together make up the region."""
        for corner in itertools.product(*self.axes):
            view = tensor
            for axis, (start, stop) in enumerate(corner):
                view = view.narrow(axis, start, stop - start)
            yield view

    def positions(self) -> tuple[Tensor, ...]:
        """Index tensors that address the region as a grid (numpy's `ix_`)."""
        return tuple(
            along(torch.cat([torch.arange(start, stop) for start, stop in ranges]), axis, len(self.axes))
            for axis, ranges in enumerate(self.axes)
        )


@dataclass(frozen=True)
class Birth:
    """The birth stages of one parameter: 0 for the original, n for the n-th growth.

    Attributes
    ----------
    axes: for each axis the stages of its positions. The stage of an element is the maximum over its axes.

    >>> birth = Birth(((0, 0, 1), (0, 1)))
    >>> birth.stages()
    tensor([[0, 1],
            [0, 1],
            [1, 1]])
    >>> birth.counts()
    {0: 2, 1: 4}
    """

    axes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return tuple(len(axis) for axis in self.axes)

    def stages(self) -> Tensor:
        """The stage of every element: an int64 tensor of the parameter's shape."""
        result = torch.zeros(self.shape, dtype=torch.long)
        for number, axis in enumerate(self.axes):
            result = torch.maximum(result, along(torch.tensor(axis, dtype=torch.long), number, len(self.axes)))
        return result

    def mask(self, stage: int) -> Tensor:
        """Which elements were born at `stage`: a bool tensor of the parameter's shape."""
        return self.stages() == stage

    def regions(self) -> tuple[Region, ...]:
        """The elements of each stage as grids, disjoint, oldest stage first: at most one for each axis and stage.

        An element's stage is that of the first axis on which it is reached, where earlier axes are older and
        later ones at most as young.

        >>> Birth(((0, 0, 1), (0, 1))).regions()[1:]
        (Region(stage=1, axes=(((2, 3),), ((0, 2),))), Region(stage=1, axes=(((0, 2),), ((1, 2),))))
        """
        if not self.axes:
            return (Region(0, ()),)
        regions = []
        for stage in sorted({stage for axis in self.axes for stage in axis}):
            for first in range(len(self.axes)):
                axes = tuple(
                    _runs(
                        [born < stage if k < first else born == stage if k == first else born <= stage for born in axis]
                    )
                    for k, axis in enumerate(self.axes)
                )
                if all(axes):
                    regions.append(Region(stage, axes))
        return tuple(regions)

    def counts(self) -> dict[int, int]:
        """How many elements were born at each stage, without building the full tensor."""
        highest = max((stage for axis in self.axes for stage in axis), default=0)
        upto = [1] * (highest + 1)
        for axis in self.axes:
            for stage in range(highest + 1):
                upto[stage] *= sum(born <= stage for born in axis)
        born = {stage: upto[stage] - (upto[stage - 1] if stage else 0) for stage in range(highest + 1)}
        return {stage: count for stage, count in born.items() if count}


def _runs(chosen: list[bool]) -> Ranges:
    """Where a list of flags is true, as ranges."""
    ranges = []
    for flag, run in itertools.groupby(range(len(chosen)), chosen.__getitem__):
        if flag:
            places = list(run)
            ranges.append((places[0], places[-1] + 1))
    return tuple(ranges)


class Births(Shown, dict[str, Birth]):
    """Parameter name -> Birth; prints as a table."""

    def plot(self, name: str, ax: Axes | None = None) -> Figure:
        """A parameter as a matrix coloured by birth stage (its first two axes), a vector as a bar.

        ax: matplotlib axes to draw on; a new figure unless given.

        Raises
        ------
        FxgrowError: there is no parameter of that name, or matplotlib is not installed.
        """
        if name not in self:
            remedy = did_you_mean(name, self) or "see print(births) for all names"
            raise FxgrowError(f"there is no parameter {name!r}", remedy=remedy)
        return draw_births(name, self[name].stages(), ax)

    def __rich__(self) -> Table:
        stages = sorted({stage for birth in self.values() for stage in birth.counts()})
        table = titled("elements born at each stage", "parameter", right=[f"stage {stage}" for stage in stages])
        for name, birth in self.items():
            counts = birth.counts()
            table.add_row(name, *(f"{counts.get(stage, 0):,}" for stage in stages))
        return table

"""Birth tags: at which growth each element of each parameter came to be.

Stages are stored per axis; the stage of an element is the maximum over its axes. Stage 0 is the original.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fxgrow.planning.deepening import Deepening
from fxgrow.planning.plan import Plan
from fxgrow.transforms.indexing import old_positions


@dataclass(frozen=True)
class Birth:
    """The birth stages of one parameter, one tuple of stages per axis.

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
        return tuple(len(axis) for axis in self.axes)

    def stages(self) -> Tensor:
        """The stage of every element: an int64 tensor of the parameter's shape."""
        result = torch.zeros(self.shape, dtype=torch.long)
        for number, axis in enumerate(self.axes):
            shape = [-1 if k == number else 1 for k in range(len(self.axes))]
            result = torch.maximum(result, torch.tensor(axis, dtype=torch.long).reshape(shape))
        return result

    def mask(self, stage: int) -> Tensor:
        """Which elements were born at `stage`: a bool tensor of the parameter's shape."""
        return self.stages() == stage

    def counts(self) -> dict[int, int]:
        """How many elements were born at each stage, without building the full tensor."""
        highest = max((stage for axis in self.axes for stage in axis), default=0)
        upto = [1] * (highest + 1)
        for axis in self.axes:
            for stage in range(highest + 1):
                upto[stage] *= sum(born <= stage for born in axis)
        born = {stage: upto[stage] - (upto[stage - 1] if stage else 0) for stage in range(highest + 1)}
        return {stage: count for stage, count in born.items() if count}


class Births(dict[str, Birth]):
    """Parameter name -> Birth; prints as a table."""

    def __str__(self) -> str:
        console = Console(width=140, no_color=True, highlight=False)
        with console.capture() as capture:
            console.print(self.__rich__())
        return capture.get().rstrip()

    def __rich__(self) -> Table:
        stages = sorted({stage for birth in self.values() for stage in birth.counts()})
        table = Table(title="elements born at each stage", title_justify="left")
        table.add_column("parameter")
        for stage in stages:
            table.add_column(f"stage {stage}", justify="right")
        for name, birth in self.items():
            counts = birth.counts()
            table.add_row(name, *(f"{counts.get(stage, 0):,}" for stage in stages))
        return table


def original_births(model: nn.Module) -> Births:
    """Every element at stage 0."""
    return Births({name: Birth(tuple((0,) * size for size in p.shape)) for name, p in model.named_parameters()})


def grown_births(before: Mapping[str, Birth], plan: Plan, stage: int) -> Births:
    """Births after a growth: old elements keep their stage, new ones are of this one."""
    growths = {growth.name: growth for growth in plan.tensors}
    result = Births()
    for name, birth in _deepened(before, plan.depth, stage).items():
        growth = growths.get(name)
        if growth is None:
            result[name] = birth
            continue
        axes = []
        for stages, axis in zip(birth.axes, growth.axes, strict=True):
            axes.append(tuple(stage if old < 0 else stages[old] for old in old_positions(axis).tolist()))
        result[name] = Birth(tuple(axes))
    return result


def _deepened(before: Mapping[str, Birth], depth: Deepening | None, stage: int) -> Mapping[str, Birth]:
    """Births under new names, and those of new blocks."""
    if depth is None:
        return before
    names = {old: new for new, old in depth.renamed}
    result = {names.get(name, name): birth for name, birth in before.items()}
    for tensor in depth.tensors:
        if tensor.twin in before and tensor.start != "shared":
            result[tensor.name] = Birth(tuple((stage,) * size for size in before[tensor.twin].shape))
    return result

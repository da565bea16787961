"""A stage of a schedule: how wide a network is, for how long, and in which batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxgrow.curves import rounded
from fxgrow.growth.growing import grow
from fxgrow.planning.sizes import Sizes


@dataclass(frozen=True)
class Stage:
    """One stage of a schedule.

    Attributes
    ----------
    number: 0 for the seed.
    fraction: width relative to the last stage's.
    factor: width relative to the stage before.
    grows: whether anything is larger than at the stage before.
    epochs, first_epoch: how long, and from which epoch on.
    batch_size: samples a step, if the schedule has one.
    lr_scale: factor for the learning rate that goes with the batch size.
    sizes: exact sizes, if the schedule is toward a model.
    parameters, flops: of the model, and of one forward pass on one sample.
    share: of the operations that training the last stage's model would take, for all epochs or `large_epochs`.
    """

    number: int
    fraction: float
    factor: float
    grows: bool
    epochs: int
    first_epoch: int
    batch_size: int | None = None
    lr_scale: float = 1.0
    sizes: Sizes | None = None
    parameters: int | None = None
    flops: int | None = None
    share: float | None = None

    @property
    def width(self) -> float | Sizes:
        """What `fxgrow.grow` and `fxgrow.plan` take as `width` to get from the stage before to this one."""
        return self.factor if self.sizes is None else self.sizes

    @property
    def epoch_numbers(self) -> range:
        """The numbers of its epochs, counted from the start of training."""
        return range(self.first_epoch, self.first_epoch + self.epochs)

    def grow(self, model: nn.Module, **options: Any) -> nn.Module:
        """The model of this stage from the model of the stage before; the same one where nothing changes.

        options: those of `fxgrow.grow`.

        Raises
        ------
        FxgrowError: what `fxgrow.grow` raises.
        """
        return grow(model, self.width, **options) if self.grows else model


def batch_at(size: int | None, largest: int | None, rates: str, fraction: float) -> tuple[int | None, float]:
    """The batch size at a width, and the factor for the learning rate that goes with it."""
    if size is None:
        return None, 1.0
    batch = size if largest is None else min(largest, rounded(size / fraction))
    ratio = batch / size
    return batch, {"keep": 1.0, "linear": ratio, "root": math.sqrt(ratio)}[rates]

"""The progress of a training run, and who is told of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from fxgrow.stages import Stage

Row = dict[str, float]


class Interrupted(Exception):
    """A run was told to stop, and has written a checkpoint."""


@dataclass
class Place:
    """How far training is: steps made in all, whole epochs, batches of the present epoch, the model's stage.

    flops: forward operations of one image, summed over epochs. seconds: spent on training and growing, not on tests
    and checkpoints: of the processor where that is the device, else of the clock.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    stage: int = 0
    loss_sum: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Watch:
    """What is told while a run is under way: every step, every row of the log, every growth."""

    step: Callable[[Place, Stage], object] = lambda place, stage: None
    row: Callable[[Row], object] = lambda row: None
    grown: Callable[[Stage, nn.Module], object] = lambda stage, model: None

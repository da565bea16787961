"""Schedules: how wide a network is, for how many epochs, at each stage of its growth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import nn

from fxgrow.capture import capture, recapture
from fxgrow.curves import (
    check_batches,
    check_counts,
    check_rates,
    check_stages,
    check_start,
    exponential_epochs,
    exponential_sizes,
    interpolated_sizes,
    late_epochs,
)
from fxgrow.documents import from_text, to_text
from fxgrow.errors import ScheduleError
from fxgrow.grouping import grouped
from fxgrow.growth.drafting import model_name
from fxgrow.pages import Shown, titled
from fxgrow.planning.analysis import analyse
from fxgrow.planning.planner import make_plan
from fxgrow.planning.showing import shortened
from fxgrow.planning.sizes import Sizes, flops_after, parameters_after
from fxgrow.planning.sizing import Sizing, settle_equal_sizes
from fxgrow.planning.targets import distances
from fxgrow.plots import draw_schedule, percent
from fxgrow.rules.knowledge import Way
from fxgrow.stages import Stage, batch_at

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMAT = 1


@dataclass(frozen=True)
class Schedule(Shown):
    """How wide a network is at each stage of its training, and for how many epochs.

    A schedule is a frozen value. Iteration, `len` and `[number]` give its stages; `print` shows it as tables.

    Attributes
    ----------
    stages: a `Stage` for each.
    width_rate: of an exponential schedule: what each stage adds to the width.
    large_epochs: for how many epochs the large model would be trained, where the schedule itself has another number.
    budget: of a late schedule: the share of that training's operations that the schedule may take.
    model: name of the model that it leads to, if `between` made it.
    trajectories: for each dimension that grows, where it is and its size at each stage.

    >>> import torch
    >>> schedule = Schedule.exponential(stages=9, start=0.25, width_rate=0.2, epochs=160, epoch_rate=0.2)
    >>> [stage.epochs for stage in schedule]
    [8, 10, 12, 14, 17, 20, 24, 29, 26]
    >>> from torch import nn
    >>> def make(width):
    ...     return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
    >>> schedule = schedule.between(make(16), make(64), example_inputs=torch.randn(1, 4))
    >>> model = make(16)
    >>> for stage in schedule:
    ...     model = stage.grow(model, init="mirror", example_inputs=torch.randn(1, 4))
    >>> [tuple(parameter.shape) for parameter in model.parameters()]
    [(64, 4), (64,), (2, 64), (2,)]
    """

    stages: tuple[Stage, ...]
    width_rate: float | None = None
    large_epochs: int | None = None
    budget: float | None = None
    model: str | None = None
    trajectories: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @classmethod
    def exponential(
        cls,
        stages: int = 9,
        start: float = 0.25,
        width_rate: float = 0.2,
        *,
        epochs: int,
        epoch_rate: float = 0.2,
        first_epochs: int | None = None,
        batch_size: int | None = None,
        largest_batch: int | None = None,
        batch_rates: str = "keep",
    ) -> Schedule:
        """Widths and epochs that grow by a fixed share from stage to stage, as in the paper.

        Parameters
        ----------
        stages: how many, the seed's included.
        start: width of the seed relative to the last stage's.
        width_rate, epoch_rate: what each stage adds, relative to the stage before.
        epochs: of all stages together; the last stage takes what is left.
        first_epochs: of the first stage; left out, `exponential_epochs` chooses.
        batch_size: samples a step at the last stage.
        largest_batch: if given, narrower stages take larger batches, in proportion to 1 / width, up to this.
        batch_rates: what the learning rate does when batches are larger: "keep" (as in the paper), "linear", "root".

        Raises
        ------
        ScheduleError: the numbers make no schedule.

        Source: Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural Networks using Variance
        Transfer and Learning Rate Adaptation", NeurIPS 2023.
        """
        check_counts(stages=stages, epochs=epochs)
        check_rates(width_rate=width_rate, epoch_rate=epoch_rate)
        check_start(start)
        fractions = [*(min(1.0, start * (1 + width_rate) ** number) for number in range(stages - 1)), 1.0]
        lengths = exponential_epochs(epochs, stages, epoch_rate, first_epochs)
        return replace(cls.of(fractions, lengths, batch_size, largest_batch, batch_rates), width_rate=width_rate)

    @classmethod
    def linear(
        cls,
        stages: int = 4,
        start: float = 0.25,
        *,
        epochs: int,
        epoch_rate: float = 0.0,
        first_epochs: int | None = None,
        batch_size: int | None = None,
        largest_batch: int | None = None,
        batch_rates: str = "keep",
    ) -> Schedule:
        """Widths in equal steps from the seed's to the last; the parameters are those of `exponential`.

        Raises
        ------
        ScheduleError: the numbers make no schedule.

        >>> [(stage.fraction, stage.epochs) for stage in Schedule.linear(4, 0.25, epochs=40)]
        [(0.25, 10), (0.5, 10), (0.75, 10), (1.0, 10)]
        """
        check_counts(stages=stages, epochs=epochs)
        check_rates(epoch_rate=epoch_rate)
        check_start(start)
        fractions = [*(start + (1 - start) * number / (stages - 1) for number in range(stages - 1)), 1.0]
        lengths = exponential_epochs(epochs, stages, epoch_rate, first_epochs)
        return cls.of(fractions, lengths, batch_size, largest_batch, batch_rates)

    @classmethod
    def late(
        cls,
        start: float = 0.5,
        *,
        epochs: int,
        budget: float = 0.5,
        last_epochs: int = 1,
        batch_size: int | None = None,
        largest_batch: int | None = None,
        batch_rates: str = "keep",
    ) -> Schedule:
        """A narrow model for nearly all of training and the large one for the end, within a share of its operations.

        It has more epochs than training the large model, since narrow ones are cheap. Until `between` has counted the
        operations of both models, they are taken to go with the square of the width.

        Parameters
        ----------
        start: width of the seed relative to the last stage's.
        epochs: for which the large model would be trained.
        budget: the share of that training's operations to spend at most.
        last_epochs: of the last stage.
        batch_size, largest_batch, batch_rates: as in `exponential`.

        Raises
        ------
        ScheduleError: the numbers make no schedule, or the last stage alone is over the budget.

        >>> [(stage.fraction, stage.epochs) for stage in Schedule.late(epochs=24)]
        [(0.5, 44), (1.0, 1)]
        """
        check_counts(epochs=epochs, last_epochs=last_epochs)
        check_start(start)
        lengths = late_epochs(epochs, budget, start**2, last_epochs)
        schedule = cls.of([start, 1.0], lengths, batch_size, largest_batch, batch_rates)
        return replace(schedule, large_epochs=epochs, budget=budget)

    @classmethod
    def of(
        cls,
        widths: Sequence[float],
        epochs: Sequence[int],
        batch_size: int | None = None,
        largest_batch: int | None = None,
        batch_rates: str = "keep",
    ) -> Schedule:
        """A schedule from widths, relative to the last, and epochs stage by stage.

        Raises
        ------
        ScheduleError: the numbers make no schedule.

        >>> print(Schedule.of([0.5, 1.0], [10, 30]))
        2 stages, 40 epochs
        ┏━━━━━━━┳━━━━━━━┳━━━━━━━━┓
        ┃ stage ┃ width ┃ epochs ┃
        ┡━━━━━━━╇━━━━━━━╇━━━━━━━━┩
        │ 0     │ 50.0% │     10 │
        │ 1     │  100% │     30 │
        └───────┴───────┴────────┘
        """
        check_stages(widths, epochs)
        check_batches(batch_size, largest_batch, batch_rates)
        stages: list[Stage] = []
        for number, (width, length) in enumerate(zip(widths, epochs, strict=True)):
            fraction = width / widths[-1]
            batch, scale = batch_at(batch_size, largest_batch, batch_rates, fraction)
            factor = fraction / stages[-1].fraction if stages else 1.0
            stages.append(Stage(number, fraction, factor, factor > 1, length, sum(epochs[:number]), batch, scale))
        return cls(tuple(stages))

    def between(self, small: nn.Module, large: nn.Module, example_inputs: Any = None) -> Schedule:
        """The schedule that leads from a small model to a large one built alike, exactly, dimension by dimension.

        The first stage's sizes are the small model's, whatever the schedule's `start`. No weights are read: both
        models may be on the meta device.

        Raises
        ------
        PlanError: the models are not built alike, or a dimension in which they differ cannot grow, with the reason.
        CaptureError: a model cannot be captured, or example inputs are needed.
        """
        target = capture(large, example_inputs)
        captured = recapture(small, target.inputs)
        analysis = analyse(captured.model, captured.graphs)
        ways = distances(analysis, analyse(target.model, target.graphs))
        if not ways:
            raise ScheduleError(
                "the small model is as large as the large one",
                where=model_name(large),
                remedy="build it with smaller sizes",
            )
        sizes = [self._trajectory(way.leaf.size, way.last) for way in ways]
        per_stage: list[tuple[Sizes, int, int]] = []
        for number in range(len(self.stages)):
            growth = {way.leaf: steps[number] for way, steps in zip(ways, sizes, strict=True)}
            sizing = Sizing({leaf: size for leaf, size in growth.items() if size > leaf.size}, {})
            settle_equal_sizes(analysis, sizing)
            reached = tuple((way.dimension, sizing.growth.get(way.leaf, way.leaf.size)) for way in ways)
            per_stage.append(
                (Sizes(reached), flops_after(analysis, sizing.growth), parameters_after(analysis, sizing.growth))
            )
        # what could not grow later is said now
        make_plan(recapture(small, target.inputs), model_name(small), per_stage[-1][0], Way.ZERO.value, round_to=1)
        return self._toward(model_name(large), per_stage)

    def _trajectory(self, first: int, last: int) -> tuple[int, ...]:
        if len(self.stages) == 1:
            raise ScheduleError(
                "a schedule of one stage leads nowhere", remedy="ask for two stages or more, or train the large model"
            )
        if self.width_rate is not None:
            return exponential_sizes(first, last, len(self.stages), self.width_rate)
        return interpolated_sizes(first, last, [stage.fraction for stage in self.stages])

    def _within(self, ratio: float) -> Schedule:
        """A late schedule whose seed has as many epochs as its budget pays for, each at this part of a large one's."""
        if self.budget is None or self.large_epochs is None:
            return self
        seed, last = self.stages
        length, _ = late_epochs(self.large_epochs, self.budget, ratio, last.epochs)
        return replace(self, stages=(replace(seed, epochs=length), replace(last, first_epoch=length)))

    def _toward(self, model: str, per_stage: Sequence[tuple[Sizes, int, int]]) -> Schedule:
        schedule = self._within(per_stage[0][1] / max(1, per_stage[-1][1]))
        total = per_stage[-1][1] * schedule.epochs_of_large
        stages = [
            replace(
                stage,
                grows=stage.number > 0 and sizes != per_stage[stage.number - 1][0],
                sizes=sizes,
                flops=flops,
                parameters=parameters,
                share=flops * stage.epochs / max(1, total),
            )
            for stage, (sizes, flops, parameters) in zip(schedule.stages, per_stage, strict=True)
        ]
        names = [str(dimension) for dimension, _ in per_stage[0][0].by_dimension]
        columns = zip(*([size for _, size in sizes.by_dimension] for sizes, _, _ in per_stage), strict=True)
        return replace(
            schedule,
            stages=tuple(stages),
            model=model,
            trajectories=tuple(zip(names, map(tuple, columns), strict=True)),
        )

    # -- reading -----------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Stage]:
        return iter(self.stages)

    def __len__(self) -> int:
        return len(self.stages)

    def __getitem__(self, number: int) -> Stage:
        return self.stages[number]

    @property
    def epochs(self) -> int:
        """The epochs of all stages together."""
        return sum(stage.epochs for stage in self.stages)

    @property
    def epochs_of_large(self) -> int:
        """The epochs of the large model's own training, with which the schedule is compared."""
        return self.large_epochs or self.epochs

    @property
    def share(self) -> float | None:
        """What training takes of the operations that training the large model would take; None without one."""
        shares = [stage.share for stage in self.stages if stage.share is not None]
        return math.fsum(shares) if len(shares) == len(self.stages) else None

    def at(self, epoch: int) -> Stage:
        """The stage that an epoch, counted from the start of training, belongs to.

        Raises
        ------
        ScheduleError: training is over by then.
        """
        for stage in self.stages:
            if epoch in stage.epoch_numbers:
                return stage
        raise ScheduleError(f"there is no epoch {epoch}", remedy=f"take one from 0 to {self.epochs - 1}")

    def to_json(self, indent: int | None = None) -> str:
        """The schedule as JSON text."""
        return to_text(self, FORMAT, indent)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """The schedule that `to_json` wrote.

        Raises
        ------
        ScheduleError: the text is not a schedule, or one of a newer format.
        """
        schedule: Schedule = from_text(cls, text, FORMAT, ScheduleError)
        return schedule

    # -- showing -----------------------------------------------------------------------------------------

    def __rich__(self) -> RenderableType:
        toward = f" toward {self.model}" if self.model else ""
        columns = [
            ("width", [percent(stage.fraction) for stage in self.stages]),
            ("epochs", [str(stage.epochs) for stage in self.stages]),
        ]
        if self.stages[0].batch_size is not None:
            columns.append(("batch", [str(stage.batch_size) for stage in self.stages]))
        if any(stage.lr_scale != 1 for stage in self.stages):
            columns.append(("learning rate", [f"x{stage.lr_scale:.3g}" for stage in self.stages]))
        if self.model:
            columns.append(("parameters", [f"{stage.parameters:,}" for stage in self.stages]))
            columns.append(("FLOPs a sample", [f"{stage.flops:,}" for stage in self.stages]))
            columns.append(("share of the budget", [percent(stage.share or 0.0) for stage in self.stages]))
        title = f"{len(self)} stages, {self.epochs} epochs{toward}"
        table = titled(title, "stage", right=[heading for heading, _ in columns])
        for number in range(len(self)):
            table.add_row(str(number), *(cells[number] for _, cells in columns))
        if not self.model:
            return table
        epochs = f" in {self.large_epochs} epochs" if self.large_epochs else ""
        share = percent(self.share or 0.0)
        budget = Text(f"training takes {share} of the large model's floating-point operations{epochs}")
        return Group(table, self._dimensions(), budget)

    def _dimensions(self) -> Table:
        """Sizes stage by stage; dimensions that go the same way share a row."""
        table = titled("sizes, stage by stage", "dimension", right=map(str, range(len(self))))
        for sizes, names in self.alike().items():
            table.add_row(shortened(names, 1), *map(str, sizes))
        return table

    def alike(self) -> dict[tuple[int, ...], list[str]]:
        """Dimensions by the sizes that they go through."""
        return grouped((sizes, name) for name, sizes in self.trajectories)

    def plot(self, ax: Axes | Sequence[Axes] | None = None) -> Figure:
        """Width and cost over the epochs, as a matplotlib figure.

        The area under the cost curve is what training takes; the dashed line is what the large model takes. Costs are
        known once `between` has been told which models.

        ax: matplotlib axes for widths alone, or two, for widths and costs; a new figure unless given.

        Raises
        ------
        FxgrowError: matplotlib is not installed, or there are more axes than there is to draw.
        """
        edges = [*(stage.first_epoch for stage in self.stages), self.epochs]
        widths: dict[str, Sequence[float]] = {"": [stage.fraction for stage in self.stages]}
        if self.model:
            largest_first = sorted(self.alike().items(), key=lambda item: -item[0][-1])
            widths = {f"{line[0]:,} → {line[-1]:,}: {shortened(names, 1)}": line for line, names in largest_first}
        costs = [(stage.flops or 0) / (self.stages[-1].flops or 1) for stage in self.stages]
        return draw_schedule(self.model or "", edges, widths, costs, self.share or 0.0, ax)

"""Vitality: how much of the gradient, and of the update, each generation of weights receives."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.birth import Birth, Region
from fxgrow.errors import TrainingError
from fxgrow.history import births, known_history
from fxgrow.modules.devices import exact_dtype
from fxgrow.modules.shards import refuse_divided
from fxgrow.pages import Shown, titled
from fxgrow.plots import draw_by_stage
from fxgrow.training.parameters import innermost, parameters_of, unwrapped
from fxgrow.training.rates import attached_to
from fxgrow.training.tracking import norm
from fxgrow.training.trial import trial_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Share:
    """The entries of one generation, and Frobenius norms over them.

    Attributes
    ----------
    entries: how many.
    weight, gradient: norms of both.
    update: norm of what the next step would add to them; None where no optimizer was given.
    """

    entries: int = 0
    weight: float = 0.0
    gradient: float = 0.0
    update: float | None = None

    def joined(self, other: Share) -> Share:
        """Both together."""
        updates = [share.update for share in (self, other) if share.update is not None]
        return Share(
            self.entries + other.entries,
            math.hypot(self.weight, other.weight),
            math.hypot(self.gradient, other.gradient),
            math.hypot(*updates) if updates else None,
        )


@dataclass(frozen=True)
class Vitality(Shown):
    """Gradient and update by birth stage; prints as a table.

    Attributes
    ----------
    tensors: parameter -> stage -> `Share`.
    twins: each parameter of a block that a growth added -> the parameter of the block it repeats.
    """

    tensors: Mapping[str, Mapping[int, Share]]
    twins: Mapping[str, str] = field(default_factory=dict)

    @property
    def stages(self) -> dict[int, Share]:
        """Each stage over all parameters."""
        result: dict[int, Share] = {}
        for shares in self.tensors.values():
            for stage, share in shares.items():
                result[stage] = result[stage].joined(share) if stage in result else share
        return dict(sorted(result.items()))

    @property
    def new_blocks(self) -> dict[int, tuple[Share, Share]]:
        """For each stage that added blocks, what these have, and what those have that they repeat, all stages of it."""
        result: dict[int, tuple[Share, Share]] = {}
        for name, twin in self.twins.items():
            if name in self.tensors and twin in self.tensors:
                own, repeated = (self._whole(part) for part in (name, twin))
                born = min(self.tensors[name])
                before = result.get(born, (Share(), Share()))
                result[born] = before[0].joined(own), before[1].joined(repeated)
        return dict(sorted(result.items()))

    def _whole(self, name: str) -> Share:
        return reduce(Share.joined, self.tensors[name].values())

    def gradient_shares(self) -> dict[int, float]:
        """The part of the squared gradient norm that each stage receives; they add up to 1."""
        norms = {stage: share.gradient for stage, share in self.stages.items()}
        return {stage: _part_of(norm, norms.values()) for stage, norm in norms.items()}

    def update_shares(self) -> dict[int, float]:
        """The part of the squared update norm that each stage receives; empty where no optimizer was given."""
        norms = {stage: share.update for stage, share in self.stages.items() if share.update is not None}
        return {stage: _part_of(norm, norms.values()) for stage, norm in norms.items()}

    def plot(self, ax: Axes | None = None) -> Figure:
        """For each birth stage its part of all entries, of the gradient and, with an optimizer, of the update.

        `fxgrow.plots.over_time` draws parts that were collected during training.

        ax: matplotlib axes to draw on; a new figure unless given.

        Raises
        ------
        FxgrowError: matplotlib is not installed.
        """
        entries = {stage: share.entries for stage, share in self.stages.items()}
        total = sum(entries.values())
        kinds = {
            "of entries": {stage: count / total for stage, count in entries.items()},
            "of the gradient": self.gradient_shares(),
            "of the update": self.update_shares(),
        }
        present = {kind: shares for kind, shares in kinds.items() if shares}
        return draw_by_stage(present, ax, title="parts by birth stage", ylabel="part that a stage has", percent=True)

    def __rich__(self) -> Table:
        headings = ("stage", "entries", "of all", "of gradient", "of update", "gradient rms", "update / weight")
        table = titled("gradient and update by birth stage", right=headings)
        stages = self.stages
        entries = sum(share.entries for share in stages.values())
        gradients, updates = self.gradient_shares(), self.update_shares()
        rows = [(str(stage), share, gradients[stage], updates.get(stage)) for stage, share in stages.items()]
        for stage, pair in self.new_blocks.items():
            for label, share in zip((f"{stage}: new blocks", f"{stage}: those they repeat"), pair, strict=True):
                gradient = _part_of(share.gradient, [each.gradient for each in stages.values()])
                moving = [each.update or 0.0 for each in stages.values()]
                rows.append((label, share, gradient, None if share.update is None else _part_of(share.update, moving)))
        for label, share, gradient, moved in rows:
            relative = share.update / share.weight if share.update is not None and share.weight > 0 else None
            table.add_row(
                label,
                f"{share.entries:,}",
                f"{share.entries / entries:.1%}",
                f"{gradient:.1%}",
                f"{moved:.1%}" if moved is not None else "",
                f"{share.gradient / math.sqrt(share.entries):.2e}",
                f"{relative:.2e}" if relative is not None else "",
            )
        return table


def _part_of(norm: float, all_norms: Collection[float]) -> float:
    """A squared norm as a part of the sum of all."""
    total = math.fsum(value**2 for value in all_norms)
    return norm**2 / total if total > 0 else 0.0


def vitality(grown: nn.Module, optimizer: Optimizer | None = None) -> Vitality:
    """Measure how much of the gradient, and of the update, each generation of weights receives.

    Call it after `backward()` and before the optimizer's step. It changes nothing.

    Parameters
    ----------
    optimizer: given to report updates as well. Its next step is taken on a copy, one tensor at a time, rates by age
        included. What an optimizer does across tensors (such as clipping by their joint norm) is left out.

    Raises
    ------
    TrainingError: no parameter has a gradient.
    FxgrowError: the model was not grown by fxgrow.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> grown(torch.randn(3, 4)).square().mean().backward()
    >>> fxgrow.vitality(grown).stages[1].entries
    56
    """
    plain = unwrapped(grown)
    born = births(plain)
    parameters = {name: p for name, p in plain.named_parameters() if p.grad is not None}
    if not parameters:
        raise TrainingError(
            "no parameter has a gradient", where=type(plain).__name__, remedy="call vitality after backward()"
        )
    refuse_divided(parameters.items(), "vitality")
    in_optimizer = {id(p) for p in parameters_of(optimizer)} if optimizer is not None else set()
    rates = attached_to(optimizer) if optimizer is not None else None
    multiples = rates.current() if rates is not None else {}
    parts: list[_Sums] = []
    for name, parameter in parameters.items():
        update = None
        if optimizer is not None and id(parameter) in in_optimizer:
            update = _next_update(innermost(optimizer), parameter)
        parts.extend(_parts_of(name, born[name], parameter, update, multiples.get(name, {})))
    tensors: dict[str, dict[int, Share]] = {name: {} for name in parameters}
    for part, share in zip(parts, _measured(parts), strict=True):
        shares = tensors[part.name]
        shares[part.stage] = shares[part.stage].joined(share) if part.stage in shares else share
    return Vitality(tensors, known_history(plain).twins())


@dataclass(frozen=True)
class _Sums:
    """Entries of one parameter and stage: sums of squares of weights, gradients and updates, still on the device."""

    name: str
    stage: int
    entries: int
    rate: float
    squares: tuple[Tensor, ...]


def _parts_of(
    name: str, birth: Birth, parameter: Tensor, update: Tensor | None, rates: Mapping[int, float]
) -> Iterator[_Sums]:
    assert parameter.grad is not None
    tensors = [parameter.detach(), parameter.grad.detach(), *([] if update is None else [update])]
    for region in birth.regions():
        squares = tuple(_squares_within(region, tensor) for tensor in tensors)
        yield _Sums(name, region.stage, region.count, rates.get(region.stage, 1.0), squares)


def _squares_within(region: Region, tensor: Tensor) -> Tensor:
    norms = torch.stack([norm(block) for block in region.blocks(tensor)])
    return norms.to(exact_dtype(tensor.device)).square().sum()


def _measured(parts: Sequence[_Sums]) -> Iterator[Share]:
    """All parts as numbers, for which the device is waited for once."""
    squares = [square for part in parts for square in part.squares]
    values = iter(torch.stack([square.to(squares[0]) for square in squares]).sqrt().tolist())
    for part in parts:
        weight, gradient, *update = (next(values) for _ in part.squares)
        yield Share(part.entries, weight, gradient, update[0] * part.rate if update else None)


def _next_update(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """What the optimizer's next step would add to a parameter, without its hooks."""
    group = next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
    twin = nn.Parameter(parameter.detach().clone())
    assert parameter.grad is not None
    twin.grad = parameter.grad.detach().clone()
    trial = trial_of(optimizer, group, twin)
    if parameter in optimizer.state:
        trial.state[twin] = copy.deepcopy(optimizer.state[parameter])
    trial.step()
    return twin.detach() - parameter.detach()

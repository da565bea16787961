"""Rules for learning rates by age: from norms of weights and updates to a rate for each block."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CEILING = 10.0
"""With a floor, no rate is more than this many times the floor or, by updates, the optimizer's own rate.

Else old entries near zero, or gradients that are nothing but rounding, would make a rate explode."""


@dataclass(frozen=True)
class Norms:
    """What a rule decides by. A block is the entries of one tensor that were born at one stage, its oldest left out.

    A tensor that was born whole, in a block that growth in depth added, has no older entries: those of the tensor that
    it repeats stand for them.

    Attributes
    ----------
    names, stages: the tensor and the stage of each block.
    weight: norms of the blocks, `[blocks]`.
    oldest: norms of the oldest entries of the same tensors, `[blocks]`.
    least: the floor as a rate, 0 where there is none, `[blocks]`.
    update, oldest_update: norms of what the step did to both; None unless the rule has `needs_updates = True`.
    age: steps made since the rates have known the stage, `[blocks]`.

    All are on the device of the parameters. A rule that never turns one into a Python number never waits for a GPU.
    """

    names: tuple[str, ...]
    stages: tuple[int, ...]
    weight: Tensor
    oldest: Tensor
    least: Tensor
    update: Tensor | None = None
    oldest_update: Tensor | None = None
    age: Tensor | None = None


Rule = Callable[[Norms], Tensor]


def by_norm(norms: Norms) -> Tensor:
    """‖W_k‖/‖W_0‖, and with a floor at least what a block drawn at the scale of the oldest entries would have.

    Where the oldest entries are all zero, the floor decides; without one, the optimizer's own rate.

    >>> by_norm(Norms(("w",), (1,), torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor([0.0])))
    tensor([0.5000])
    """
    floored = norms.least > 0
    undefined = torch.where(floored, norms.least, torch.ones_like(norms.least))
    ratio = torch.where(norms.oldest > 0, norms.weight / norms.oldest, undefined)
    most = torch.where(floored, CEILING * norms.least, torch.full_like(norms.least, math.inf))
    return ratio.clamp(norms.least, most)


def by_update(norms: Norms) -> Tensor:
    """The rate that makes an update the same part of its block, floors included, as it is of the oldest entries.

    Where the step left a block or the oldest entries alone there is nothing to compare: the optimizer's own rate.
    """
    assert norms.update is not None and norms.oldest_update is not None
    wanted = norms.oldest_update * by_norm(norms)
    comparable = (norms.update > 0) & (norms.oldest_update > 0)
    most = torch.where(norms.least > 0, CEILING, math.inf)
    return torch.where(comparable, torch.minimum(wanted / norms.update, most), torch.ones_like(wanted))


by_update.needs_updates = True  # type: ignore[attr-defined]


def unadapted(norms: Norms) -> Tensor:
    """The optimizer's own rate for all."""
    return torch.ones_like(norms.weight)


WARM_STEPS, WARM_PEAK = 250, 1.3


def rewarmed(norms: Norms) -> Tensor:
    """From zero to 1.3 times the optimizer's own rate over a block's first 250 steps, then the optimizer's own rate.

    Source: "SPARKLING", arXiv 2602.02472, 2026, which warms new entries alone.

    >>> one = torch.ones(3)
    >>> rewarmed(Norms(("a", "b", "c"), (1, 1, 1), one, one, one, age=torch.tensor([0.0, 124.0, 250.0])))
    tensor([0.0052, 0.6500, 1.0000])
    """
    assert norms.age is not None
    return torch.where(norms.age < WARM_STEPS, (norms.age + 1) * (WARM_PEAK / WARM_STEPS), torch.ones_like(norms.age))


RULES: Mapping[str, Rule] = {"norm": by_norm, "gradient": by_update, "rewarm": rewarmed, "none": unadapted}

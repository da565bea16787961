"""Tags: notes at which growth each element of a grown module's parameters was born."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from torch import nn

from fxgrow.birth import Birth
from fxgrow.carried import ATTRIBUTE
from fxgrow.contents import parts_of
from fxgrow.history import History, Step
from fxgrow.planning.indexing import old_positions

Module = TypeVar("Module", bound=nn.Module)


def tagged(grown: Module, step: Step, before: History | None) -> Module:
    """Give a module its history: the elements that `step` found keep their stage, those that it made get the next.

    before: the history of the model that has just grown.

    >>> from fxgrow.growth.growing import plan
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> planned = plan(model, width=2, example_inputs=torch.randn(1, 2))
    >>> wide = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1))
    >>> tagged(wide, Step(planned, seed=0), None)._fxgrow.births["2.weight"].axes
    ((0,), (0, 0, 0, 1, 1, 1))
    """
    if before is not None and before.by_hand is not None:
        step = replace(step, by_hand=before.by_hand)
    steps = (*(before.steps if before is not None else ()), step)
    earlier = before.births if before is not None else {}
    growths = {growth.name: growth for growth in step.plan.tensors}
    depth = step.plan.depth
    shared = {new.name: new.twin for new in depth.tensors if new.start == "shared"} if depth is not None else {}
    births = {}
    for name, parameter in grown.named_parameters():
        growth, old_name = growths.get(name), shared.get(name) or step.plan.old_name(name)
        if old_name is None:
            births[name] = Birth(tuple((len(steps),) * size for size in parameter.shape))
            continue
        shape = growth.old_shape if growth is not None else tuple(parameter.shape)
        birth = earlier.get(old_name)
        if birth is None or birth.shape != shape:  # of an original, or put in by hand since the last growth
            birth = Birth(tuple((len(steps) - 1,) * size for size in shape))
        if growth is not None:
            pairs = zip(birth.axes, growth.axes, strict=True)
            birth = Birth(
                tuple(
                    tuple(len(steps) if old < 0 else stages[old] for old in old_positions(axis).tolist())
                    for stages, axis in pairs
                )
            )
        births[name] = birth
    setattr(grown, ATTRIBUTE, History(steps, births, tuple(parts_of(grown).items())))
    return grown

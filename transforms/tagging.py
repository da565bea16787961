"""The tagging pass: from now on every element of a grown module's parameters knows at which growth it was born."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import nn

from fxgrow.birth import Birth, Births
from fxgrow.history import ATTRIBUTE, History, Step, history_of
from fxgrow.planning.deepening import Deepening
from fxgrow.planning.indexing import old_positions
from fxgrow.planning.plan import Plan

Module = TypeVar("Module", bound=nn.Module)


def tag(grown: Module, model: nn.Module, step: Step) -> Module:
    """Give a module that has just been grown from `model` its history: old elements keep their stage, new get the next.

    >>> from fxgrow.growing import plan
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> planned = plan(model, width=2, example_inputs=torch.randn(1, 2))
    >>> wide = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 1))
    >>> history_of(tag(wide, model, Step(planned, seed=0))).births["2.weight"].axes
    ((0,), (0, 0, 0, 1, 1, 1))
    """
    before = history_of(model)
    steps = (*before.steps, step) if before is not None else (step,)
    born = _grown_births(before.births if before is not None else _original_births(model), step.plan, len(steps))
    setattr(grown, ATTRIBUTE, History(steps, {name: born[name] for name, _ in grown.named_parameters()}))
    return grown


def _original_births(model: nn.Module) -> Births:
    """Every element at stage 0."""
    return Births({name: Birth(tuple((0,) * size for size in p.shape)) for name, p in model.named_parameters()})


def _grown_births(before: Mapping[str, Birth], plan: Plan, stage: int) -> Births:
    """Births after a growth: old elements keep their stage, new ones are of this one."""
    growths = {growth.name: growth for growth in plan.tensors}
    result = Births()
    made = {r.weight: Birth(((stage,) * r.size,) * 2) for r in plan.readouts}
    for name, birth in {**_deepened(before, plan.depth, stage), **made}.items():
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
            result[tensor.name] = Birth(tuple((stage,) * size for size in tensor.shape(before[tensor.twin].shape)))
    return result

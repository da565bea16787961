"""Which parameters an optimizer and a model share, and what they are called."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.errors import TrainingError
from fxgrow.first_names import NAME, remember_first_names
from fxgrow.history import history_of

OF_MEMBERS = ("params", "param_names")
"""The entries of an optimizer's group that are lists, with an entry for each parameter; all others are options."""


def remember_names(model: nn.Module) -> None:
    """Keep what a model's parameters are called while these live, and after how many growths."""
    stage = stage_of(model)
    remember_first_names(model, stage)
    for name, parameter in model.named_parameters():
        setattr(parameter, NAME, (name, stage))


def stage_of(model: nn.Module) -> int:
    """How many growths a model went through."""
    history = history_of(model)
    return history.stage if history is not None else 0


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and data-parallel wrappers."""
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrapped(model.module)
    # its class takes a second to import, and torch.compile has done that
    if "torch._dynamo" in sys.modules and isinstance(model, torch._dynamo.eval_frame.OptimizedModule):
        return unwrapped(model._orig_mod)
    return model


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that holds state and takes hooks: the one that a wrapper (timm's Lookahead, SAM) wraps.

    Raises
    ------
    TrainingError: what it holds is an optimizer of other groups, such as a share of them (ZeroRedundancyOptimizer).
    """
    for name, base in vars(optimizer).items():
        if isinstance(base, Optimizer):
            if [*map(id, base.param_groups)] != [*map(id, optimizer.param_groups)]:
                raise TrainingError(
                    f"it holds another optimizer ({name}), whose groups are not its own",
                    where=type(optimizer).__name__,
                    remedy="make a new optimizer from the grown model",
                )
            return innermost(base)
    return optimizer


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """Every parameter of an optimizer, group by group."""
    for group in optimizer.param_groups:
        yield from group["params"]


def names_of(optimizer: Optimizer, model: nn.Module | None) -> tuple[dict[Tensor, str], int | None]:
    """The name of each parameter of an optimizer, and after how many growths they are; None where not known.

    They are known from `model` if it is given, which need not have all that the optimizer holds; else from the
    optimizer where it was made from named parameters, or because the parameters' model was grown or went through
    `fxgrow.param_groups`.

    Raises
    ------
    TrainingError: a parameter has no known name, or none is one of the model's.
    """
    names_by_id: Mapping[int, str] = {} if model is None else {id(p): n for n, p in unwrapped(model).named_parameters()}
    names: dict[Tensor, str] = {}
    stages = set() if model is None else {stage_of(unwrapped(model))}
    for number, group in enumerate(optimizer.param_groups):
        listed = group.get("param_names", [None] * len(group["params"]))
        for place, (parameter, name) in enumerate(zip(group["params"], listed, strict=True)):
            remembered, stage = getattr(parameter, NAME, (None, None))
            if model is not None:
                if id(parameter) in names_by_id:
                    names[parameter] = names_by_id[id(parameter)]
                continue
            known = name or remembered
            if known is None:
                raise TrainingError(
                    f"parameter {place} of group {number} of the optimizer, of shape {list(parameter.shape)}, "
                    "has no known name",
                    where=type(optimizer).__name__,
                    remedy="pass model=, the model that was grown; what else the optimizer holds stays as it is then",
                )
            names[parameter] = known
            if stage is not None:
                stages.add(stage)
    if not names:
        raise TrainingError(
            "the optimizer holds none of the model's parameters",
            where=type(optimizer).__name__,
            remedy="pass model=, the model that was grown and whose parameters the optimizer holds",
        )
    return names, stages.pop() if len(stages) == 1 else None

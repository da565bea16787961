"""Which parameters an optimizer and a model share, and what they are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.weak import WeakTensorKeyDictionary

from fxgrow.errors import TrainingError

_NAMES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

_WRAPPERS: tuple[tuple[type[nn.Module], str], ...] = (
    (torch._dynamo.eval_frame.OptimizedModule, "_orig_mod"),
    (nn.parallel.DistributedDataParallel, "module"),
    (nn.DataParallel, "module"),
)


def remember_names(model: nn.Module) -> None:
    """Keep the names of a model's parameters while these live, so that an optimizer's can be told apart."""
    for name, parameter in model.named_parameters():
        _NAMES[parameter] = name


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and data-parallel wrappers."""
    for kind, attribute in _WRAPPERS:
        if isinstance(model, kind):
            return unwrapped(getattr(model, attribute))
    return model


def innermost(optimizer: Optimizer) -> Optimizer:
    """The optimizer that holds state and takes hooks: the one that a wrapper such as timm's Lookahead wraps."""
    base = getattr(optimizer, "_base_optimizer", None)
    return innermost(base) if isinstance(base, Optimizer) else optimizer


def parameters_of(optimizer: Optimizer) -> Iterator[Tensor]:
    """Every parameter of an optimizer, group by group."""
    for group in optimizer.param_groups:
        yield from group["params"]


def names_of(optimizer: Optimizer, model: nn.Module | None) -> dict[Tensor, str]:
    """The name of each parameter of an optimizer.

    They are known from `model` if it is given, from the optimizer where it was made from named parameters, or
    because the parameters' model was grown or went through `fxgrow.param_groups`.

    Raises
    ------
    TrainingError: a parameter has no known name, or is not one of the model's.
    """
    given: Mapping[int, str] = {} if model is None else {id(p): n for n, p in unwrapped(model).named_parameters()}
    found: dict[Tensor, str] = {}
    for number, group in enumerate(optimizer.param_groups):
        listed = group.get("param_names", [None] * len(group["params"]))
        for place, (parameter, name) in enumerate(zip(group["params"], listed, strict=True)):
            known = given.get(id(parameter)) if model is not None else name or _NAMES.get(parameter)
            if known is None:
                raise TrainingError(
                    f"parameter {place} of group {number} of the optimizer, of shape {list(parameter.shape)}, "
                    + ("is not one of the model's" if model is not None else "has no known name"),
                    where=type(optimizer).__name__,
                    remedy="pass model=, the model whose parameters the optimizer holds",
                )
            found[parameter] = known
    return found

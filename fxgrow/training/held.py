"""Optimizers and schedulers that a model holds: its grown copy gets its own, over its own parameters."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fxgrow.errors import TrainingError
from fxgrow.modules.containers import each_of_kind, of_kind
from fxgrow.modules.tensors import dotted
from fxgrow.training.state import replace_parameters

_KINDS: tuple[type[Any], ...] = (Optimizer, LRScheduler)


def own_optimizers(grown: nn.Module, model: nn.Module) -> None:
    """Let a grown model hold copies of the optimizers and schedulers of the original, with its own parameters.

    Raises
    ------
    TrainingError: one of them holds parameters that are not the model's.
    """
    copies: dict[int, Any] = {}
    modules = dict(grown.named_modules())
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            held: Any = next(of_kind(value, _KINDS), None)
            if held is None or name.startswith("_") or path not in modules:
                continue
            try:
                twin = each_of_kind(value, _KINDS, lambda held: _copy(held, grown, model, copies))
            except TrainingError as error:
                raise TrainingError(
                    f"the model holds an optimizer that its grown copy cannot have: {error.what}",
                    where=dotted(path, name),
                    remedy="take it out of the model before growth, and make another one for the grown model",
                ) from error
            modules[path].__dict__[name] = twin


def _copy(held: Any, grown: nn.Module, model: nn.Module, copies: dict[int, Any]) -> Any:
    if id(held) not in copies:
        if isinstance(held, LRScheduler):
            optimizer = _copy(held.optimizer, grown, model, copies)
            copies[id(held)] = copy.deepcopy(held, {id(held.optimizer): optimizer})
        else:
            parameters = {id(p): p for group in held.param_groups for p in group["params"]}
            copies[id(held)] = twin = copy.deepcopy(held, dict(parameters))
            if replace_parameters(twin, grown, model=model).others:
                raise TrainingError("it holds parameters that are not the model's")
    return copies[id(held)]

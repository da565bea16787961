"""The skeleton of a model: its tree of modules without its data."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fxgrow.capture.checks import refuse_uncapturable


def skeleton(model: nn.Module) -> nn.Module:
    """A copy of a model's structure whose parameters and buffers are on the meta device; ties are kept.

    Raises
    ------
    CaptureError: the model is lazy, quantised, scripted, compiled or wrapped for parallel training.
    """
    refuse_uncapturable(model)
    modules: dict[int, nn.Module] = {}
    tensors: dict[int, torch.Tensor] = {}

    def bare(tensor: Any) -> Any:
        if tensor is None:
            return None
        if id(tensor) not in tensors:
            empty = torch.empty_like(tensor, device="meta")
            tensors[id(tensor)] = (
                nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
            )
        return tensors[id(tensor)]

    def copy_of(module: nn.Module) -> nn.Module:
        if id(module) not in modules:
            twin = object.__new__(type(module))  # graph modules would make themselves a new class
            modules[id(module)] = twin
            for name, value in module.__dict__.items():
                twin.__dict__[name] = copy.copy(value) if isinstance(value, (list, dict, set)) else value
            for name, parameter in module._parameters.items():
                twin._parameters[name] = bare(parameter)
            for name, buffer in module._buffers.items():
                twin._buffers[name] = bare(buffer)
            for name, child in module._modules.items():
                twin._modules[name] = copy_of(child) if child is not None else None
            if isinstance(twin, nn.RNNBase):
                twin._flat_weights = [twin._parameters.get(name) for name in twin._flat_weights_names]
        return modules[id(module)]

    return copy_of(model)

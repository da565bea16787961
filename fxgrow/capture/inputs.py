"""Example inputs: given ones brought into form, or derived from what the model says of itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from fxgrow.capture.tracer import on_meta
from fxgrow.errors import CaptureError

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def example_inputs_for(model: nn.Module, given: Any = None) -> Inputs:
    """Arguments and keyword arguments on the meta device, of the floating-point dtype of the model.

    Raises
    ------
    CaptureError: nothing was given and nothing can be derived, or what was given is not inputs.
    """
    args, kwargs = _given(given) if given is not None else _derived(model)
    dtype = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), None)

    def fitting(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype.is_floating_point and dtype is not None:
            return torch.empty(value.shape, dtype=dtype, device="meta")
        return on_meta(value)

    return tuple(map(fitting, args)), {name: fitting(value) for name, value in kwargs.items()}


def _given(given: Any) -> Inputs:
    if isinstance(given, Tensor):
        return (given,), {}
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return (), dict(given)
    if isinstance(given, (tuple, list)):
        return tuple(given), {}
    raise CaptureError(
        f"example_inputs is a {type(given).__name__}",
        remedy="pass a tensor, a tuple of arguments or a dict of keyword arguments",
    )


def _derived(model: nn.Module) -> Inputs:
    history = getattr(model, "_fxgrow", None)
    if history is not None:
        made = [torch.empty(shape, dtype=getattr(torch, kind.removeprefix("torch."))) for shape, kind in history.inputs]
        return tuple(made), {}
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
    if size:
        return (torch.empty(2, *size, device="meta"),), {}
    size = _torchvision_size(model)
    if size:
        return (torch.empty(2, *size, device="meta"),), {}
    raise CaptureError(
        f"the shape of the inputs of {type(model).__name__} cannot be derived",
        remedy="pass example_inputs, a tensor or a tuple of tensors of the right shapes",
    )


def _torchvision_size(model: nn.Module) -> tuple[int, ...] | None:
    """The input size that the transforms of this class's weights produce, from torchvision's registry."""
    home = inspect.getmodule(type(model))
    if home is None or not home.__name__.startswith("torchvision.models"):
        return None
    for name in torchvision.models.list_models():
        builder = torchvision.models.get_model_builder(name)
        if inspect.getmodule(inspect.unwrap(builder)) is not home:
            continue
        for weights in torchvision.models.get_model_weights(name):
            crop = getattr(weights.transforms(), "crop_size", None)
            if crop:
                size = list(crop) * 2 if len(crop) == 1 else list(crop)
                return (3, *size)
    return None

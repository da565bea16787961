"""Switches the mode of a model: what a `train` of a user's own returns, and what it keeps for the forward."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fxgrow.modules.references import unregistered

Model = TypeVar("Model", bound=nn.Module)


def in_mode(model: Model, training: bool) -> Model:
    """The model itself, in a mode; a `train` of a user's own may return nothing.

    >>> in_mode(nn.Dropout(), training=False).training
    False
    """
    model.train(training)
    return model


def in_modes(model: nn.Module, modes: Mapping[nn.Module, bool]) -> None:
    """Switch a model and its parts to the modes that they are to be in, by their own `train` where they have one.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout())
    >>> in_modes(model, {model: False, model[0]: True, model[1]: False})
    >>> [part.training for part in model]
    [True, False]
    """
    model.train(modes[model])
    for part in model.modules():  # those around a part come before it
        if part.training is not modes[part]:
            if switches_itself(part):
                part.train(modes[part])
            part.training = modes[part]


def copied(model: Model) -> Model:
    """A deep copy of a model with each part in the mode that it has: feature extractors of torchvision switch theirs.

    >>> copied(nn.Dropout().eval()).training
    False
    """
    twin, own = copy.deepcopy(model), dict(model.named_modules())
    modes = {part: own.get(path, part).training for path, part in twin.named_modules()}
    if any(part.training is not mode for part, mode in modes.items()):
        in_modes(twin, modes)
    return twin


def switches_itself(module: nn.Module) -> bool:
    """Whether the class of a module says what a change of mode does."""
    return type(module).train is not nn.Module.train


def switched_again(part: nn.Module) -> list[Tensor]:
    """Set the mode of a part once more if it keeps tensors beside its parameters; returns those that it keeps then.

    It may make them of its parameters where its mode is set: the biases of attention, gathered once for all images
    (LeViT). The parts of it stay in the modes in which they are.
    """
    if not switches_itself(part) or not kept_tensors(part):
        return []
    in_modes(part, {inner: inner.training for inner in part.modules()})
    return kept_tensors(part)


def renew(model: nn.Module) -> None:
    """Let the parts of a model make anew what they keep for the forward, from the parameters that they have now."""
    with torch.no_grad():
        for part in model.modules():
            switched_again(part)


def kept_tensors(part: nn.Module) -> list[Tensor]:
    """The tensors that attributes of a part hold and that are neither parameters nor buffers."""
    return [tensor for _, tensor in unregistered(part, every=True)]

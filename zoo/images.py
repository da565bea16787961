"""Smaller images for models of the catalogue: a sweep over many of them is faster, and they take less memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from fxgrow.capture.inputs import Inputs, example_inputs_for, image_size_of, takes
from fxgrow.catalogue import without_weights


class Bare(NamedTuple):
    """A model without weights, the options that it was built with, and inputs that it takes, on the meta device."""

    model: nn.Module
    options: dict[str, Any]
    inputs: Inputs


def bare(name: str, side: int | None = None) -> Bare:
    """The model of a name, for images of about `side` pixels if it takes such or can be built for them.

    >>> bare("timm/test_vit", 96).options
    {'img_size': 96}
    """
    model = without_weights(name)
    own = Bare(model, {}, example_inputs_for(model))
    if side is None:
        return own
    size = image_size_of(model)
    smaller = _smaller_images(model, own.inputs, _sides(side)) if size is None else None
    if smaller is not None:
        return own._replace(inputs=smaller)
    option = "img_size" if name.startswith("timm/") else "image_size"
    for pixels in _sides(side):
        if size is not None and min(size) <= pixels:
            break
        try:
            rebuilt = without_weights(name, **{option: pixels})
        except (TypeError, ValueError, AssertionError, RuntimeError):
            continue
        built_for, inputs = image_size_of(rebuilt), example_inputs_for(rebuilt)
        fitting: Inputs | None = None
        if built_for is None:  # it may not say which size it was built for
            fitting = _smaller_images(rebuilt, inputs, [pixels])
        elif built_for == (pixels, pixels) and takes(rebuilt, inputs):
            fitting = inputs
        if fitting is not None:
            return Bare(rebuilt, {option: pixels}, fitting)
    return own


def resize_images_to(model: nn.Module, side: int) -> None:
    """Let a detector bring images to a smaller size, unless it was built for one."""
    transform = getattr(model, "transform", None)
    if isinstance(transform, GeneralizedRCNNTransform) and transform.fixed_size is None:
        smallest: Any = transform.min_size  # a tuple, whatever its annotation says
        vars(transform).update(min_size=(min(side, *smallest),), max_size=2 * side)


def _smaller_images(model: nn.Module, own: Inputs, sides: Sequence[int]) -> Inputs | None:
    """Images of the first of these sizes that a model takes, if its own inputs are images and larger."""
    args, kwargs = own
    if len(args) != 1 or not isinstance(args[0], torch.Tensor):
        return None
    for pixels in sides:
        if min(args[0].shape[2:]) <= pixels:
            break
        smaller = ((args[0][..., :pixels, :pixels],), kwargs)
        if takes(model, smaller):
            return smaller
    return None


def _sides(side: int) -> tuple[int, ...]:
    """Sizes about that of a side: patches, windows and strides divide one of them, or none."""
    rounded = {-(-side // step) * step for step in (1, 14, 48, 56, 64)}
    return (*sorted(rounded), 2 * side)

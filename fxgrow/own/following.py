"""Attributes that say how wide something is, which methods other than the forward read: timm's `num_features`, ...

They follow what the model computes on tensors without data: a size of what goes into the part that has the attribute,
or of what comes out of it, that was the attribute's value before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import nn

from fxgrow.capture.capturing import Recording
from fxgrow.capture.inputs import Inputs
from fxgrow.capture.recorder import Shapes
from fxgrow.capture.skeleton import skeleton

NAMES = (
    "num_features",
    "in_features",
    "in_channels",
    "embed_dim",
    "head_hidden_size",
    "hidden_size",
    "out_channels",
    "num_chs",
)
"""Names that libraries give to attributes that hold a number of channels."""


def follow_sizes(source: nn.Module, own: nn.Module, before: Recording, after: Recording, inputs: Inputs) -> None:
    """Let such attributes of a grown copy follow; those that growth has set already stay.

    before, after: what recorded the original and the copy on these inputs.
    """
    shapes = _shapes(source, before, inputs), _shapes(own, after, inputs)
    parts = dict(source.named_modules())
    for path, module in own.named_modules():
        kind = type(parts[path]) if path in parts else None
        if kind not in type(module).__mro__ or kind.__module__.startswith("torch.nn."):
            continue  # torch's own follow as growth sets them
        for name in NAMES:
            old, now = parts[path].__dict__.get(name), module.__dict__.get(name)
            if type(old) is int and old == now:
                module.__dict__[name] = _counterpart(name, old, *shapes, path)
    infos = getattr(own, "feature_info", None)
    if infos is not None:
        own.feature_info = _informed(infos, *shapes)


def _shapes(model: nn.Module, recording: Recording, inputs: Inputs) -> Shapes:
    """The shapes of what goes into each part and comes out of it, and of timm's features, where there are such."""
    shapes = dict(recording.shapes)
    if hasattr(model, "forward_features"):
        anew = Recording(skeleton(model), recording.device, recording.memory)
        with suppress(Exception):  # not every model has these in timm's way
            shapes["", "out"], shapes["pre_logits", "out"] = anew.shapes_of(inputs, _features)
    return shapes


def _features(model: Any, *args: Any, **kwargs: Any) -> Any:
    """What the head of a model is given, and what its last layer is."""
    features, before_logits = model.forward_features(*args, **kwargs), None
    with suppress(Exception):
        before_logits = model.forward_head(features, pre_logits=True)
    return features, before_logits


def _counterpart(name: str, size: int, before: Shapes, after: Shapes, path: str) -> int:
    """What a size that a part calls by a name has become, if that can be told; else what it was."""
    sides = ("in",) if name.startswith("in_") else ("out",) if name in ("out_channels", "num_chs") else ("in", "out")
    for part in (path,) if path else ("", "pre_logits"):
        sizes = {new for side in sides for old, new in _pairs(before, after, (part, side)) if old == size != new}
        if len(sizes) == 1:
            return sizes.pop()
    return size


def _pairs(before: Shapes, after: Shapes, key: tuple[str, str]) -> Iterator[tuple[int, int]]:
    for old, new in zip(before.get(key, ()), after.get(key, ()), strict=False):
        yield from zip(old[1:], new[1:], strict=False)


def _informed(infos: Any, before: Shapes, after: Shapes) -> Any:
    """timm's `feature_info` with the channels that its parts have."""
    held = infos if isinstance(infos, list) else getattr(infos, "info", None)
    if not isinstance(held, list):
        return infos
    made = []
    for info in held:
        entry = dict(info)
        size, path = entry.get("num_chs"), str(entry.get("module", ""))
        if type(size) is int:
            entry["num_chs"] = _counterpart("num_chs", size, before, after, path)
        made.append(entry)
    if isinstance(infos, list):
        return made
    twin = copy.copy(infos)
    twin.info = made
    return twin

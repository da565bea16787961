"""Attributes that say how wide something is, which methods other than the forward read: timm's `num_features`, ...

They follow what the model computes on tensors without data: a size of what goes into the part that has the attribute,
or of what comes out of it, that was the attribute's value before.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import nn

from fxgrow.capture.inputs import Inputs
from fxgrow.capture.skeleton import skeleton
from fxgrow.containers import flat_tensors

NAMES = ("num_features", "in_features", "embed_dim", "head_hidden_size", "hidden_size", "out_channels", "num_chs")
"""Names that libraries give to attributes that hold a number of channels."""

Shapes = dict[str, list[tuple[int, ...]]]


def follow_sizes(source: nn.Module, own: nn.Module, inputs: Inputs) -> None:
    """Let such attributes of a grown copy follow; those that growth has set already stay."""
    before, after = _shapes(source, inputs), _shapes(own, inputs)
    if before is None or after is None:
        return
    parts = dict(source.named_modules())
    for path, module in own.named_modules():
        if path not in parts or type(parts[path]) not in type(module).__mro__:
            continue
        for name in NAMES:
            old, now = parts[path].__dict__.get(name), module.__dict__.get(name)
            if type(old) is int and old == now:
                module.__dict__[name] = _counterpart(old, before, after, path)
    infos = getattr(own, "feature_info", None)
    if infos is not None:
        own.feature_info = _informed(infos, before, after)


def _shapes(model: nn.Module, inputs: Inputs) -> Shapes | None:
    """The shapes of what goes into each part and comes out of it, and of what timm's features are; None: it fails."""
    twin: Any = skeleton(model).eval()
    shapes: Shapes = {}
    for path, module in twin.named_modules():

        def note(module: nn.Module, given: Any, output: Any, path: str = path) -> None:
            for tensor in (*flat_tensors(given), *flat_tensors(output)):
                shapes.setdefault(path, []).append(tuple(tensor.shape))

        module.register_forward_hook(note)
    try:
        with torch.device("meta"), torch.no_grad():
            twin(*inputs[0], **inputs[1])
    except Exception:  # forwards that need values: their attributes stay as they are
        return None
    with suppress(Exception), torch.device("meta"), torch.no_grad():  # not every model has these, or takes these
        features = twin.forward_features(*inputs[0], **inputs[1])
        shapes[""] = [tuple(tensor.shape) for tensor in flat_tensors(features)]
        shapes["pre_logits"] = [tuple(t.shape) for t in flat_tensors(twin.forward_head(features, pre_logits=True))]
    return shapes


def _counterpart(size: int, before: Shapes, after: Shapes, path: str) -> int:
    """What a size of a part has become, if that can be told; else what it was."""
    for part in (path,) if path else ("", "pre_logits"):
        grown = {new for old, new in _pairs(before, after, part) if old == size != new}
        if len(grown) == 1:
            return grown.pop()
    return size


def _pairs(before: Shapes, after: Shapes, path: str) -> Iterator[tuple[int, int]]:
    for old, new in zip(before.get(path, ()), after.get(path, ()), strict=False):
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
            entry["num_chs"] = _counterpart(size, before, after, path)
        made.append(entry)
    if isinstance(infos, list):
        return made
    twin = copy.copy(infos)
    twin.info = made
    return twin

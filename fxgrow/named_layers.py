"""Layers that a file can name: of torch and timm, by their class and by what they are made of. No file names code."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxgrow.contents import holds_any, is_plain, part_of

_SIZES = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
_CONVOLUTION = (*_SIZES, "padding_mode")
_BATCH_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")

_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "Conv1d": (nn.Conv1d, _CONVOLUTION),
    "Conv2d": (nn.Conv2d, _CONVOLUTION),
    "Conv3d": (nn.Conv3d, _CONVOLUTION),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "RMSNorm": (nn.RMSNorm, ("normalized_shape", "eps", "elementwise_affine")),
    "GroupNorm": (nn.GroupNorm, ("num_groups", "num_channels", "eps", "affine")),
    "BatchNorm1d": (nn.BatchNorm1d, _BATCH_NORM),
    "BatchNorm2d": (nn.BatchNorm2d, _BATCH_NORM),
    "BatchNorm3d": (nn.BatchNorm3d, _BATCH_NORM),
    "PReLU": (nn.PReLU, ("num_parameters",)),
    "Sequential": (nn.Sequential, ()),
    "ModuleList": (nn.ModuleList, ()),
}
"""Classes with parameters of which a file can name one, and what they are made of. Of those without, it names torch's
own: a file never says what code to run. timm's layers that are made as torch's are named, too."""

_BASES = {kind: name for name, (kind, _) in _KINDS.items()}
_OF_TIMM = "timm.layers."


def entry_of(part: Any) -> dict[str, Any] | None:
    """The class of a part and what it is made of; None where a file cannot say it."""
    kind = type(part)
    name = _BASES.get(kind)
    if name is None and kind.__module__.startswith(_OF_TIMM) and _name_of(kind) is not None:
        name = next((name for base, name in _BASES.items() if kind.__init__ is base.__init__), None)
    if name is None:
        known = _arguments(part) if not holds_any(part) else None
        return None if known is None else {"class": _name_of(kind), "arguments": known}
    arguments = {argument: getattr(part, argument) for argument in _KINDS[name][1]}
    if "bias" in inspect.signature(kind).parameters:
        arguments["bias"] = part.bias is not None
    return {"class": _name_of(kind), "arguments": arguments}


def gives(entry: Mapping[str, Any], part: nn.Module) -> bool:
    """Whether what a file says of a part gives its parameters."""
    made = made_of(entry["class"], entry["arguments"])
    shapes = [{name: p.shape for name, p in m.named_parameters(recurse=False)} for m in (made, part)]
    return shapes[0] == shapes[1]


def _arguments(part: nn.Module) -> dict[str, Any] | None:
    """With which arguments its class gives such a part; None where no file names that, or these do not tell."""
    name = _name_of(type(part))
    if name is None:
        return None
    wanted = inspect.signature(type(part)).parameters
    arguments = {key: value for key, value in part.__dict__.items() if key in wanted and is_plain(value)}
    try:
        same = part_of(made_of(name, json.loads(json.dumps(arguments)))) == part_of(part)
    except (TypeError, ValueError):  # it needs what no attribute says
        return None
    return arguments if same else None


def _name_of(kind: type[nn.Module]) -> str | None:
    """What a file calls a class of layers of torch or timm; None for others."""
    names = (kind.__name__, _OF_TIMM + kind.__name__, f"{kind.__module__}.{kind.__name__}")
    return next((name for name in names if _kind_of(name) is kind), None)


def _kind_of(name: str) -> Any:
    """The class of layers of torch or timm that a file names so; None where there is none."""
    if not name.startswith(_OF_TIMM):
        kind = getattr(nn, name, None)
    else:
        *homes, own = name.removeprefix(_OF_TIMM).split(".")
        kind = importlib.import_module(_OF_TIMM.rstrip("."))
        for home in homes:
            kind = getattr(kind, home, None)
        kind = getattr(kind, own, None)
        if not str(getattr(kind, "__module__", "")).startswith(_OF_TIMM):
            return None
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None


def made_of(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A layer of a class that a file may name, without data."""
    kind = _kind_of(name)
    if kind is None:
        raise TypeError(f"{name} is no class of layers")
    device = {"device": "meta"} if "device" in inspect.signature(kind).parameters else {}
    made: nn.Module = kind(
        **{key: tuple(it) if isinstance(it, list) else it for key, it in arguments.items()}, **device
    )
    return made

"""Layers that a file can name: of torch and timm, by their class and by what they are made of. No file names code."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxgrow.contents import holds_any, is_plain, part_of

_KINDS: tuple[Any, ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.PReLU),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.Sequential, nn.ModuleList),
)
"""Classes with parameters or parts of which a file can name one: their attributes say what they are made of. Of those
without, it names torch's own: a file never says what code to run. timm's layers that are made as torch's have names."""

_OF_TIMM = "timm.layers."


def entry_of(part: Any) -> dict[str, Any] | None:
    """The class of a part and what it is made of; None where a file cannot say it."""
    kind, name = type(part), _name_of(type(part))
    if name is None:
        return None
    wanted = inspect.signature(kind).parameters
    arguments = {key: value for key, value in part.__dict__.items() if key in wanted and is_plain(value)}
    if kind in _KINDS or (kind.__module__.startswith(_OF_TIMM) and any(kind.__init__ is k.__init__ for k in _KINDS)):
        arguments |= {"bias": part.bias is not None} if "bias" in wanted else {}
    elif holds_any(part) or not _tell(part, name, arguments):
        return None
    return {"class": name, "arguments": arguments}


def gives(entry: Mapping[str, Any], part: nn.Module) -> bool:
    """Whether what a file says of a part gives its parameters."""
    made = made_of(entry["class"], entry["arguments"])
    shapes = [{name: p.shape for name, p in m.named_parameters(recurse=False)} for m in (made, part)]
    return shapes[0] == shapes[1]


def _tell(part: nn.Module, name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a class gives such a part with the arguments that its attributes say."""
    try:
        return part_of(made_of(name, json.loads(json.dumps(arguments)))) == part_of(part)
    except (TypeError, ValueError):  # it needs what no attribute says
        return False


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

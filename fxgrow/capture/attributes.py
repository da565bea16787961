"""Attributes that remember their place in the model, as the numbers do that a forward computes with."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture.numbers import Attribute, remembering


def with_sources(model: nn.Module) -> nn.Module:
    """A model whose attributes remember, as numbers, where they stand; it is changed in place."""
    memo: dict[int, Any] = {}
    for path, module in model.named_modules():
        for name, value in module.__dict__.items():
            if type(value) not in _SOURCELESS and not name.startswith("_"):
                module.__dict__[name] = _sourced(value, Attribute(path, (name,)), memo)
    return model


_PLAIN = (int, float)
_SOURCELESS = (bool, str, type(None), OrderedDict, set)


def _sourced(value: Any, source: Attribute, memo: dict[int, Any]) -> Any:
    if type(value) in _PLAIN:
        return remembering(value, source=source)
    if type(value) in (list, dict) and id(value) in memo:
        return memo[id(value)]
    if type(value) in (list, tuple, dict) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        sourced = {key: _sourced(item, replace(source, keys=(*source.keys, Item(key))), memo) for key, item in items}
        memo[id(value)] = sourced if isinstance(value, dict) else type(value)(sourced.values())
        return memo[id(value)]
    if is_settings(value):
        if id(value) not in memo:
            memo[id(value)] = twin = copy.copy(value)
            for name, item in vars(value).items():
                twin.__dict__[name] = _sourced(item, replace(source, keys=(*source.keys, name)), memo)
        return memo[id(value)]
    return value


@dataclass(frozen=True)
class Item:
    """A key of a list or dictionary, beside names of attributes."""

    key: Any

    def __repr__(self) -> str:
        return repr(self.key)


def is_settings(value: Any) -> bool:
    """Whether an object is a record of settings, such as a model's config."""
    if isinstance(value, (nn.Module, torch.Tensor, type)) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return is_dataclass(value) or type(value).__name__.lower().endswith(("config", "cfg", "args", "namespace"))


def note_written(graphs: Iterable[fx.Graph], written: Mapping[tuple[str, str], Any]) -> None:
    """Note at the calls of modules what the forward gives their numbers."""
    for graph in graphs if written else ():
        for node in graph.nodes:
            if node.op == "call_module":
                node.meta["written"] = {name: value for (path, name), value in written.items() if path == node.target}

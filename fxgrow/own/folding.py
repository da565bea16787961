"""Puts the multipliers of a module of the user's own class into its weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fxgrow.own.edited import Multiplied


def fold_module(grown: nn.Module) -> nn.Module:
    """A copy of a grown module without multipliers: each weight takes up the one before its layer."""
    result = copy.deepcopy(grown)
    scaled: set[int] = set()
    for part in result.modules():
        if isinstance(part, Multiplied):
            module: Any = part
            if id(module.weight) not in scaled:
                scaled.add(id(module.weight))
                with torch.no_grad():
                    module.weight.mul_(module.factor)
            del module.factor
            module.__class__ = module.plain_kind
    return result

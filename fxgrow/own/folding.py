"""Puts the multipliers of a module of the user's own class into its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.capture.modes import GrownGraphModule
from fxgrow.modules.switching import copied
from fxgrow.own.edited import Edited, Multiplied, SpelledOutAttention, unedited
from fxgrow.transforms.folding import fold_in_place


def fold_module(grown: nn.Module) -> nn.Module:
    """A copy of a grown module without multipliers: each weight takes up the one before its layer."""
    result = copied(grown)
    scaled: set[int] = set()

    def fold(weight: Tensor, factor: float) -> None:
        if id(weight) not in scaled:
            scaled.add(id(weight))
            with torch.no_grad():
                weight.mul_(factor)

    for part in result.modules():
        module: Any = part
        if isinstance(part, GrownGraphModule):  # of a model that grew in parts
            fold_in_place(part, scaled)
        if isinstance(part, Multiplied):
            fold(module.weight, module.factor)
            del module.factor
            module.__class__ = module.plain_kind
        if isinstance(part, Edited):
            for edit in (edit for growth in part.edits for edit in growth if edit.change == "multiply"):
                fold(part.get_parameter(edit.weight), edit.value)
            left = (tuple(edit for edit in growth if edit.change != "multiply") for growth in part.edits)
            module.edits = tuple(growth for growth in left if growth)
            if not module.edits:
                unedited(module)
        if isinstance(part, SpelledOutAttention):
            for name in ("in_proj", "q_proj", "k_proj", "v_proj", "out_proj"):
                if (factor := vars(module).pop(f"{name}_factor", None)) is not None:
                    fold(module.out_proj.weight if name == "out_proj" else getattr(module, f"{name}_weight"), factor)
    return result

"""What parameters were called when their model had just grown, wherever people have put them since."""

from __future__ import annotations

from torch import Tensor, nn

NAME, FIRST_NAME = "fxgrow_name", "fxgrow_first_name"
"""Attributes of parameters, each with a stage: torch would not swap parameters to which there are weak references."""


def remember_first_names(model: nn.Module, stage: int) -> None:
    """Keep what a model's parameters are called while these live, unless they had a name at this stage before."""
    for name, parameter in model.named_parameters():
        if getattr(parameter, FIRST_NAME, (name, None))[1] != stage:
            setattr(parameter, FIRST_NAME, (name, stage))


def name_at_growth(parameter: Tensor, stage: int) -> str | None:
    """What a parameter was called when its model had just grown to this stage; None where that is not remembered."""
    name, remembered = getattr(parameter, FIRST_NAME, (None, None))
    return name if remembered == stage else None

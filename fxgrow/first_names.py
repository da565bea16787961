"""What parameters were called when their model had just grown, wherever people have put them since."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

_FIRST_NAMES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def remember_first_names(model: nn.Module, stage: int) -> None:
    """Keep what a model's parameters are called while these live, unless they had a name at this stage before."""
    for name, parameter in model.named_parameters():
        if _FIRST_NAMES.get(parameter, (name, None))[1] != stage:
            _FIRST_NAMES[parameter] = name, stage


def name_at_growth(parameter: Tensor, stage: int) -> str | None:
    """What a parameter was called when its model had just grown to this stage; None where that is not remembered."""
    name, remembered = _FIRST_NAMES.get(parameter, (None, None))
    return name if remembered == stage else None

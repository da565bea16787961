"""`fold`: a grown model without the multipliers of variance transfer, for inference."""

from __future__ import annotations

from torch import nn

from fxgrow.capture.modes import GrownGraphModule
from fxgrow.contents import parts_of
from fxgrow.history import known_history, learn
from fxgrow.own.folding import fold_module
from fxgrow.transforms.folding import fold_multipliers


def fold(grown: nn.Module) -> nn.Module:
    """Copy a grown model without the multipliers that variance transfer put in. The function stays.

    Where old weights were rescaled and no batch norm could make up for it, the model multiplies activations by
    a number. Training needs that. For inference the number goes into the weights. The copy can be saved and
    grown on like any grown model. A model without multipliers is simply copied.

    Raises
    ------
    FxgrowError: the module was not grown by fxgrow.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, 2, example_inputs=torch.randn(1, 4), parameterization="variance-transfer")
    >>> "multiplied" in str(grown), "multiplied" in str(fxgrow.fold(grown))
    (True, False)
    """
    history = known_history(grown)
    folded = fold_multipliers(grown) if isinstance(grown, GrownGraphModule) else fold_module(grown)
    learn(folded, history, before=parts_of(grown), folded=True)
    return folded

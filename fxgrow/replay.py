"""A growth once more, from its plan: the same seed gives the same bytes, and no weights the structure alone."""

from __future__ import annotations

from torch import nn

from fxgrow.capture import recapture
from fxgrow.capture.inputs import recalled
from fxgrow.parts import deepened_again, widen_parts
from fxgrow.planning.plan import Plan
from fxgrow.transforms.depth import deepen
from fxgrow.transforms.folding import fold_multipliers
from fxgrow.transforms.readouts import add_readouts
from fxgrow.transforms.width import widen


def grown_again(model: nn.Module, plan: Plan, source: nn.Module, seed: str, folded: bool) -> nn.Module:
    """What a growth made of a model.

    Parameters
    ----------
    source: holds the tensors, those of `model` or of its skeleton; never written to.
    seed: of the new entries. folded: whether multipliers went into the weights afterwards.

    Raises
    ------
    PlanError: the plan was made for another model. CaptureError: the model does not take the plan's inputs.
    """
    if plan.parts:
        return widen_parts(deepened_again(model, plan), plan, source, seed)
    captured = recapture(model, recalled(plan.inputs))
    if plan.depth is not None:
        deepen(captured, plan.depth)
    add_readouts(captured, plan.readouts)
    grown = widen(captured, plan, source, seed)
    return fold_multipliers(grown) if folded else grown

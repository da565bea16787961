"""Narrow models: the seed that a schedule grows into the full model."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from fxgrow.amounts import Amounts
from fxgrow.capture import capture
from fxgrow.curves import check_start
from fxgrow.errors import PlanError
from fxgrow.growth.drafting import model_name
from fxgrow.planning.analysis import analyse
from fxgrow.planning.narrowing import Narrowing, narrow_sizes
from fxgrow.planning.planner import Planner
from fxgrow.transforms.narrow import narrow


def narrowed(model: nn.Module, start: float = 0.25, example_inputs: Any = None) -> fx.GraphModule:
    """Make a narrow model from an untrained one, to be trained and grown into it. Only sizes differ.

    Every dimension that fxgrow can grow becomes `start` of its size: the nearest even number, and at least two. Of
    heads and head dimension, only the one that comes closest to `start` is reduced. Weights are those of the model's
    first units, times the root of the ratio of fan-ins, so that activations keep their variance. So freshly drawn
    weights are as freshly drawn ones of the narrow model.

    Raises
    ------
    ScheduleError: `start` is not a fraction of the width.
    PlanError: nothing in the model can be narrower.
    CaptureError: the model cannot be captured, or example inputs are needed.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> narrowed(model, 0.25, torch.randn(1, 4)).get_submodule("0")
    Linear(in_features=4, out_features=4, bias=True)
    """
    check_start(start)
    captured = capture(model, example_inputs)
    analysis = analyse(captured.model, captured.graphs)
    planner = Planner(analysis, Amounts.parse(2.0), "zero", round_to=1)
    planner.settle()
    narrowing = Narrowing.of(analysis, narrow_sizes(analysis, planner.sizing.growth, start))
    if not narrowing.tensors:
        raise PlanError(
            "nothing in the model can be narrower", where=model_name(model), remedy="see fxgrow.plan for the reasons"
        )
    return narrow(captured, narrowing, model)

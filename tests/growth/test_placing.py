"""Growth in a model's own class: what comes back belongs together, whatever other courses of the forward ask for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from fxgrow.transforms.width import widened
from torch import nn

import fxgrow
from fxgrow.capture import GrownGraphModule, capture
from fxgrow.growth.placing import grown_in_class
from fxgrow.modules.tensors import named_tensors
from fxgrow.own.sites import Site
from fxgrow.planning.plan import Obstacle, Plan
from tests.models import lively, perceptron

ROW = torch.zeros(1, 5)


@pytest.mark.parametrize("holds", [True, False])
def test_the_graph_is_that_of_the_plan_that_comes_back(holds: bool) -> None:
    """A course asks for more at first; then the copy has all that it needs, or cannot hold it."""
    model = lively(perceptron())
    captured = capture(model, ROW)
    first, wider = (fxgrow.plan(model, width, example_inputs=ROW) for width in (1.5, 2))
    seen: list[Plan] = []

    def widen(plan: Plan) -> tuple[GrownGraphModule, Plan]:
        return widened(captured, plan, named_tensors(model), ""), plan

    def courses(own: nn.Module, plan: Plan, changed: Sequence[Site]) -> tuple[Plan, bool] | Obstacle:
        seen.append(plan)
        if len(seen) == 1:
            return wider, False
        return (plan, True) if holds else Obstacle("it cannot hold it", "here")

    own, plan, graph = grown_in_class(model, model, captured, first, widen, courses)
    assert seen == [first, wider] and plan == wider
    assert isinstance(own, nn.Module if holds else Obstacle)
    tensors = named_tensors(graph)
    assert all(tuple(tensors[growth.name].shape) == growth.new_shape for growth in wider.tensors)

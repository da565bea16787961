"""The width pass and the edits of graphs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fxgrow.transforms.graph_edits import put
from fxgrow.transforms.width import widened
from torch import nn

import fxgrow
from fxgrow.capture import capture
from fxgrow.errors import PlanError
from fxgrow.modules.tensors import named_tensors
from fxgrow.planning.plan import AttributeEdit, NodeEdit, Plan
from tests.models import lively, perceptron

ROW = torch.randn(2, 5)


def carried_out(model: nn.Module, plan: Plan) -> nn.Module:
    return widened(capture(model, ROW), plan, named_tensors(model), seed="0")


def test_a_plan_is_carried_out_on_the_model_it_was_made_for() -> None:
    model = lively(perceptron())
    plan = fxgrow.plan(model, 2, example_inputs=ROW)
    grown = carried_out(model, plan)
    shapes = {name: tuple(tensor.shape) for name, tensor in grown.state_dict().items()}
    assert {t.name: t.new_shape for t in plan.tensors}.items() <= shapes.items()


def test_tensors_that_do_not_grow_are_copied_not_shared() -> None:
    model = lively(perceptron())
    grown = carried_out(model, fxgrow.plan(model, {"0": 2}, example_inputs=ROW))
    assert grown.get_parameter("5.bias").data_ptr() != model.get_parameter("5.bias").data_ptr()
    assert torch.equal(grown.get_parameter("5.bias"), model.get_parameter("5.bias"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda plan: {"tensors": (*plan.tensors, replace(plan.tensors[0], name="7.weight"))},
            "the plan grows a tensor that the model does not have (at 7.weight)",
        ),
        (
            lambda plan: {"attributes": (AttributeEdit("7", "in_features", 3),)},
            "the plan names a module that the model does not have (at 7)",
        ),
        (
            lambda plan: {"nodes": (NodeEdit("both", "nothing", "erase"),)},
            "the plan names a node that the graph does not have (at nothing)",
        ),
    ],
    ids=["tensor", "module", "node"],
)
def test_a_plan_for_another_model_is_refused(change: object, text: str) -> None:
    model = lively(perceptron())
    plan = fxgrow.plan(model, 2, example_inputs=ROW)
    with pytest.raises(PlanError) as caught:
        carried_out(model, replace(plan, **change(plan)))  # type: ignore[operator]
    assert str(caught.value) == f"{text}: apply a plan to the model it was made for"


def test_buffers_that_are_not_saved_stay_so_and_grow() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
            self.register_buffer("shift", torch.randn(8), persistent=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x) + self.shift))

    grown = fxgrow.grow(lively(Shifted()), 2, example_inputs=ROW)
    assert grown.get_buffer("shift").shape == (16,)
    assert "shift" not in grown.state_dict()


@pytest.mark.parametrize(
    ("arguments", "path", "expected"),
    [
        ([1, 2], (1,), [1, 9]),
        ((1, (2, 3)), (1, 0), (1, (9, 3))),
        ({"a": [1]}, ("a", 0), {"a": [9]}),
        ((slice(1, 2), 3), (0, "stop"), (slice(1, 9), 3)),
        (5, (), 9),
    ],
)
def test_putting_a_value_at_a_path(arguments: object, path: tuple[object, ...], expected: object) -> None:
    assert put(arguments, path, 9) == expected

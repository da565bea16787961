"""The plan: a value that says everything, survives JSON, and reads well."""

from __future__ import annotations

import copy
import json
from dataclasses import FrozenInstanceError
from typing import Any

import networkx as nx
import pytest
import timm
import torch
from torch import nn

import fxgrow
from fxgrow.errors import AmountError, PlanError
from tests.models import PLAIN, lively, perceptron
from tests.pairing import few, in_turn

ROW = torch.randn(2, 5)


@pytest.mark.parametrize(
    ("name", "init"), in_turn(PLAIN, ("zero", "mirror", "replicate"), ("perceptron", "unet", "decoder", "two-inputs"))
)
def test_a_plan_survives_json(name: str, init: str) -> None:
    make, inputs = PLAIN[name]
    plan = fxgrow.plan(make(), 1.5, example_inputs=inputs, init=init)
    again = fxgrow.Plan.from_json(plan.to_json(indent=2))
    assert again == plan
    assert str(again) == str(plan)


@pytest.mark.parametrize("name", few(PLAIN, "perceptron", "unet", "cross-attention", "decoder", "two-inputs"))
def test_the_totals_are_those_of_the_grown_model(name: str) -> None:
    make, inputs = PLAIN[name]
    model = make()
    plan = fxgrow.plan(model, 2, example_inputs=inputs)
    grown = fxgrow.grow(model, 2, example_inputs=inputs, verify=False)
    assert plan.totals.parameters_before == sum(p.numel() for p in model.parameters())
    assert plan.totals.parameters_after == sum(p.numel() for p in grown.parameters())
    again = fxgrow.plan(grown, "+0").totals
    assert (again.parameters_before, again.flops_before) == (plan.totals.parameters_after, plan.totals.flops_after)


@pytest.mark.parametrize(
    ("model", "shape", "flops"),
    [
        (nn.Linear(5, 7), (2, 5), 2 * 5 * 7),
        (nn.Linear(5, 7), (2, 3, 5), 2 * 3 * 5 * 7),
        (nn.Conv2d(4, 6, 3, padding=1), (2, 4, 8, 8), 2 * 64 * 4 * 6 * 9),
        (nn.Conv2d(4, 8, 3, groups=4), (1, 4, 8, 8), 2 * 36 * 8 * 9),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 5, 5), 2 * 25 * 4 * 6 * 4),
    ],
    ids=["linear", "linear on a sequence", "convolution", "depthwise", "transposed"],
)
def test_flops_of_one_sample_by_hand(model: nn.Module, shape: tuple[int, ...], flops: int) -> None:
    assert fxgrow.plan(model, 2, example_inputs=torch.randn(shape)).totals.flops_before == flops


def test_a_plan_cannot_be_changed() -> None:
    plan = fxgrow.plan(perceptron(), 2, example_inputs=ROW)
    with pytest.raises(FrozenInstanceError):
        plan.init = "mirror"  # type: ignore[misc]
    guarded = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.LayerNorm(16), nn.Linear(16, 4))
    again = fxgrow.plan(guarded, 2, example_inputs=torch.randn(4, 8))
    assert any(edit.kind == "guard" for edit in again.nodes)
    assert len({plan, again, fxgrow.plan(guarded, 2, example_inputs=torch.randn(4, 8))}) == 2


def test_a_plan_is_the_same_every_time() -> None:
    plans = [fxgrow.plan(perceptron(), 2, example_inputs=ROW) for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", few(PLAIN, "perceptron", "unet", "cross-attention", "decoder", "rotary", "two-inputs"))
def test_the_graph_ties_groups_to_the_tensors_they_run_through(name: str) -> None:
    make, inputs = PLAIN[name]
    plan = fxgrow.plan(make(), 2, example_inputs=inputs)
    graph = plan.graph()
    assert nx.is_bipartite(graph)
    groups = {node for node, kind in graph.nodes(data="kind") if kind == "group"}
    assert groups == {group.name for group in plan.groups}
    assert all(graph.degree(group) >= 2 for group in groups)  # something makes its units, something reads them
    for group, tensor, axes in graph.edges(data="axes"):
        tensor, group = (tensor, group) if group in groups else (group, tensor)
        grown = next(t for t in plan.tensors if t.name == tensor)
        assert all(grown.new_shape[axis] > grown.old_shape[axis] for axis in axes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda data: data.pop("groups"),
            "the text is not a plan: Plan.__init__() missing 1 required ",
        ),
        (lambda data: data.update(tensors=3), "the text is not a plan: 'int' object is not iterable"),
        (lambda data: data["totals"].update(more=1), "the text is not a plan: "),
        (lambda data: data.update(format=99), "the plan is of another format: this fxgrow reads format 1"),
    ],
    ids=["a field missing", "a wrong type", "a field too many", "another format"],
)
def test_text_that_is_no_plan(change: Any, text: str) -> None:
    data = json.loads(fxgrow.plan(perceptron(), 2, example_inputs=ROW).to_json())
    change(data)
    with pytest.raises(PlanError) as caught:
        fxgrow.Plan.from_json(json.dumps(data))
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_text_that_is_nothing_of_the_kind(text: str) -> None:
    with pytest.raises(PlanError, match="the text is not a plan"):
        fxgrow.Plan.from_json(text)


def test_the_table_says_what_grows_what_stays_and_why() -> None:
    class Inverted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.pinv(x).mT

    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), Inverted(), nn.Linear(6, 2))
    text = str(fxgrow.plan(lively(model), 2, example_inputs=ROW))
    assert "Sequential: what grows (init=zero)" in text
    assert "d0" in text and "8 → 16" in text and "zero-out" in text
    assert "linalg_pinv has no rule (at 3.linalg_pinv)" in text
    assert "parameters 116 → 212 (x1.83)" in text


@pytest.mark.parametrize("name", few(PLAIN, "perceptron", "unet", "one-head", "rotary", "two-inputs"))
def test_a_plan_that_went_through_json_grows_the_very_model(name: str) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    grown = fxgrow.grow(model, 1.5, example_inputs=inputs, init="mirror", seed=3)
    again = fxgrow.Plan.from_json(fxgrow.report(grown).plan.to_json()).apply(model, seed=3)
    assert type(again).__name__ == type(grown).__name__
    assert all(map(torch.equal, again.state_dict().values(), grown.state_dict().values()))
    assert again.state_dict().keys() == grown.state_dict().keys()
    assert fxgrow.births(again) == fxgrow.births(grown)
    assert fxgrow.report(again) == fxgrow.report(grown)


@pytest.mark.parametrize(
    ("name", "form"), in_turn(("test_vit", "test_efficientnet"), ("graph", "auto"), ("test_efficientnet",))
)
def test_an_average_grows_as_its_model_does(name: str, form: str) -> None:
    """Also once more: the second growth's plan is for the grown average."""
    model = lively(timm.create_model(name, num_classes=5)).double()
    average = copy.deepcopy(model).eval().requires_grad_(False)
    with torch.no_grad():
        for tensor in average.parameters():
            tensor.add_(0.1 * torch.rand_like(tensor))
    images = torch.randn(2, *model.pretrained_cfg["input_size"], dtype=torch.float64)
    expected = average(images)
    for width, depth in ((1.5, 1.5), (4 / 3, None)):
        model = fxgrow.grow(model, width, depth, form=form, verify=False)
        older = dict(average.named_parameters())
        step = fxgrow.report(model)
        average = step.plan.apply(average, step.seed)
        assert str(fxgrow.report(average).certificate.verdict) == "PROVED" or depth is None
        assert fxgrow.births(average) == fxgrow.births(model)
        for now, parameter in average.named_parameters():
            assert not parameter.requires_grad
            before = step.plan.old_name(now)
            if before is not None and before.endswith("fc1.weight"):
                rows, columns = older[before].shape[:2]
                assert torch.equal(parameter[:rows, :columns], older[before])
    assert not average.training
    torch.testing.assert_close(average(images), expected, rtol=1e-10, atol=1e-10)


def test_a_plan_for_a_model_in_parts_is_carried_out() -> None:
    class Choosing(nn.Module):
        """The forward asks for values, so no graph can hold it."""

        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = perceptron(), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.enter(x)
            return self.leave(x) if x.sum() > 0 else x

    model = Choosing()
    grown = fxgrow.grow(model, 2, example_inputs=ROW)
    again = fxgrow.Plan.from_json(fxgrow.report(grown).plan.to_json()).apply(model)
    assert all(map(torch.equal, again.state_dict().values(), grown.state_dict().values()))
    assert type(again) is Choosing


def test_a_plan_for_another_model_is_refused() -> None:
    plan = fxgrow.plan(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)), 2, example_inputs=ROW)
    for model, where in (
        (nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.Linear(9, 2)), "0.weight"),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU()), "2.weight"),
    ):
        with pytest.raises(PlanError) as raised:
            plan.apply(model)
        assert where in str(raised.value)
        assert "apply a plan to the model it was made for" in str(raised.value)
    with pytest.raises(AmountError):
        plan.apply(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)), seed=-1)

"""The plan: a value that says everything, survives JSON, and reads well."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import networkx as nx
import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import PlanError
from tests.models import PLAIN, lively, perceptron

ROW = torch.randn(2, 5)


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize("name", PLAIN)
def test_a_plan_survives_json(name: str, init: str) -> None:
    make, inputs = PLAIN[name]
    plan = fxgrow.plan(make(), 1.5, example_inputs=inputs, init=init)
    again = fxgrow.Plan.from_json(plan.to_json(indent=2))
    assert again == plan
    assert str(again) == str(plan)


@pytest.mark.parametrize("name", PLAIN)
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
    hash(plan.tensors)


def test_a_plan_is_the_same_every_time() -> None:
    plans = [fxgrow.plan(perceptron(), 2, example_inputs=ROW) for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("name", PLAIN)
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
        (lambda data: data.pop("groups"), "the text is not a plan (KeyError: 'groups')"),
        (lambda data: data.update(tensors=3), "the text is not a plan (TypeError: 'int' object is not iterable)"),
        (lambda data: data["totals"].update(more=1), "the text is not a plan (TypeError: "),
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
    class Sorted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.msort(x)

    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), Sorted(), nn.Linear(6, 2))
    text = str(fxgrow.plan(lively(model), 2, example_inputs=ROW))
    assert "Sequential: what grows (init=zero)" in text
    assert "d0" in text and "8 → 16" in text and "zero-out" in text
    assert "msort has no rule (at 3.msort)" in text
    assert "parameters 116 → 212 (x1.83)" in text

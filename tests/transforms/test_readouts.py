"""Models whose residual stream is itself an output: how it grows all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow import guards
from fxgrow.measure.liveness import unmoved
from fxgrow.proof.certificate import Verdict
from tests.checks import assert_grows, worst_error
from tests.models import lively
from tests.pairing import few

IMAGE = (torch.randn(2, 3, 12, 12, dtype=torch.float64),)


class Features(nn.Module):
    """Two outputs: a stream of channels in space, and what is made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.readout = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = self.stem(image)
        x = x + self.branch(x)
        return {"map": x, "classes": self.readout(x.mean((2, 3)))}


@pytest.fixture
def backbone() -> nn.Module:
    return lively(timm.create_model("test_vit", num_classes=0))


@pytest.mark.parametrize("init", few(("zero", "mirror", "replicate"), "mirror"))
def test_a_stream_that_is_the_output_grows(backbone: nn.Module, init: str) -> None:
    grown = assert_grows(backbone, (torch.randn(2, 3, 160, 160, dtype=torch.float64),), 2.0, init, least_ratio=3.0)
    plan = fxgrow.report(grown).plan
    assert [(r.weight, r.axis, r.size) for r in plan.readouts] == [("readout", 1, 64)]
    assert grown.get_parameter("readout").shape == (64, 128)
    assert fxgrow.births(grown)["readout"].counts() == {1: 64 * 128}
    assert "output of 64 units: read through readout, which starts at zero" in str(plan)
    assert plan.totals.parameters_before == sum(p.numel() for p in backbone.parameters())
    assert plan.totals.parameters_after == sum(p.numel() for p in grown.parameters())


def test_a_map_of_features_grows_beside_a_head_and_names_stay_free() -> None:
    model = lively(Features())
    grown = fxgrow.grow(model, width=2, example_inputs=IMAGE)
    for training in (False, True):
        assert worst_error(model, grown, IMAGE, training) <= 1e-10
    assert [(r.weight, r.axis) for r in fxgrow.report(grown).plan.readouts] == [("readout_1", 1)]
    assert grown(*IMAGE)["map"].shape == (2, 8, 12, 12)
    assert unmoved(grown, IMAGE, steps=3) == []


def test_it_grows_again_saves_and_loads(tmp_path: Path) -> None:
    model = lively(Features())
    once = fxgrow.grow(model, width=1.5, example_inputs=IMAGE, form="graph")
    grown: Any = fxgrow.grow(once, width=1.5, depth=1.5)
    assert worst_error(model, grown, IMAGE, True) <= 1e-10
    assert fxgrow.births(grown)["readout_1"].counts() == {1: 8 * 12, 2: 8 * 6}
    read = [node for node in grown.graph.nodes if node.target is guards.readout]
    assert [node.args[3] for node in read] == [((0, 8),)]
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    again = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert all(torch.equal(a, b) for a, b in zip(grown(*IMAGE).values(), again(*IMAGE).values(), strict=True))


def test_nothing_is_put_in_where_the_stream_is_not_asked_to_grow(backbone: nn.Module) -> None:
    plan = fxgrow.plan(backbone, width={"blocks.*.mlp.fc1": 2.0})
    assert plan.readouts == ()
    assert {group.old for group in plan.groups} == {192}
    assert plan.totals.parameters_before == sum(p.numel() for p in backbone.parameters())


def test_a_plan_with_readouts_as_text(backbone: nn.Module) -> None:
    plan = fxgrow.plan(backbone, width=2)
    assert fxgrow.Plan.from_json(plan.to_json()) == plan


def test_training_goes_on_through_a_second_growth() -> None:
    model = Features()
    inputs = (IMAGE[0].float(),)
    first = fxgrow.grow(model, width=1.5, example_inputs=inputs)
    optimizer = torch.optim.AdamW(fxgrow.param_groups(first, lr=1e-2))
    for _ in range(3):
        optimizer.zero_grad()
        sum(output.square().mean() for output in first(*inputs).values()).backward()
        optimizer.step()
    assert first.get_parameter("readout_1").abs().max() > 0
    second = fxgrow.grow(first, width=1.5)
    new = torch.optim.AdamW(fxgrow.param_groups(second, lr=1e-2))
    fxgrow.transfer_state(optimizer, new, second)
    old = optimizer.state[first.get_parameter("readout_1")]["exp_avg"]
    assert torch.equal(new.state[second.get_parameter("readout_1")]["exp_avg"][:, :12], old)


class TwoModes(nn.Module):
    """A stream that is the output, and a graph for each mode."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.branch = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return x + (self.branch(x) if self.training else 2 * self.branch(x))


class Targets(nn.Module):
    """As SimSiam: a stream that layers read is put out for a loss that it is not to learn from."""

    def __init__(self, cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.cut = nn.Linear(5, 8), cut
        self.leave = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.enter(x)
        return self.leave(x), self.cut(x)


def without_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x * 2


@pytest.mark.parametrize("cut", [Tensor.detach, without_gradients, lambda x: nn.ReLU()(x.data)])
def test_an_output_that_passes_no_gradients_passes_none_after_growth(cut: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(2, 5, dtype=torch.float64)
    grown = fxgrow.grow(Targets(cut).double(), 2, example_inputs=x)
    assert [output.requires_grad for output in grown(x)] == [True, False]


def test_one_readout_serves_the_graphs_of_both_modes() -> None:
    model, inputs = lively(TwoModes()), (torch.randn(3, 5, dtype=torch.float64),)
    grown = assert_grows(model, inputs, 2.0, "zero", least_ratio=2.5)
    places = [mode for readout in fxgrow.report(grown).plan.readouts for mode, _ in readout.places]
    assert places == ["eval", "train"]
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED


def test_a_head_that_is_put_there_later_makes_no_stream(backbone: Any) -> None:
    images = torch.randn(1, 3, 160, 160, dtype=torch.float64)
    grown: Any = fxgrow.grow(backbone, width=1.5, example_inputs=images).eval()
    features = backbone.eval()(images)
    grown.reset_classifier(10)
    assert grown.double()(images).shape == (1, 10)
    grown.reset_classifier(0)
    torch.testing.assert_close(grown(images), features, rtol=1e-12, atol=1e-12)

"""What a model holds besides its layers: optimizers, schedulers, handles of hooks; and hooks that hold tensors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import StepLR

import fxgrow
from fxgrow.errors import PlanError, TrainingError

X = torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Agent(nn.Module):
    """Trains itself, as agents and adversarial networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()
        self.optimizers = {"net": torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)}
        self.schedule = StepLR(self.optimizers["net"], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def step(self, x: Tensor) -> None:
        self.optimizers["net"].zero_grad()
        self(x).square().mean().backward()
        self.optimizers["net"].step()
        self.schedule.step()


def test_a_grown_copy_trains_itself_and_leaves_its_original_alone() -> None:
    torch.manual_seed(0)
    model = Agent()
    model.step(X)
    before = copy.deepcopy(model.state_dict())
    grown: Any = fxgrow.grow(model, width=2, example_inputs=X)
    mine, its = grown.optimizers["net"], model.optimizers["net"]
    assert mine.param_groups[0]["params"][0] is grown.net[0].weight and grown.schedule.optimizer is mine
    momentum = mine.state[grown.net[0].weight]["momentum_buffer"]
    assert momentum.shape == (16, 6) and torch.equal(momentum[:8], its.state[model.net[0].weight]["momentum_buffer"])
    at_first = grown.net[0].weight.detach().clone()
    grown.step(X)
    assert not torch.equal(grown.net[0].weight, at_first)
    assert (mine.param_groups[0]["lr"], its.param_groups[0]["lr"]) == pytest.approx((0.001, 0.01))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_optimizer_of_more_than_the_model_is_refused_by_name() -> None:
    model = Agent()
    model.optimizers["net"].add_param_group({"params": [nn.Parameter(X)]})
    with pytest.raises(TrainingError, match=r"holds an optimizer that its grown copy cannot have.* \(at optimizers\)"):
        fxgrow.grow(model, width=2, example_inputs=X)


def test_a_handle_takes_out_the_hook_of_its_own_model() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    model.handle = model[1].register_forward_hook(lambda module, args, output: output * 2)
    grown: Any = fxgrow.grow(model, width=2, example_inputs=X)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    grown.handle.remove()
    assert len(model[1]._forward_hooks) == 1 and not grown[1]._forward_hooks


def test_hooks_note_nothing_while_a_model_is_looked_at() -> None:
    noted: list[Tensor] = []
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    model[1].register_forward_hook(lambda module, args, output: noted.append(output))
    fxgrow.plan(model, width=2, example_inputs=X)
    assert not noted


def test_parameters_whose_hooks_count_on_their_shape_stay() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    mask = torch.ones(8, 6, dtype=torch.float64)
    model[0].weight.register_hook(lambda gradient: gradient * mask)
    model[2].weight.register_hook(lambda gradient: gradient.clamp(-1, 1))
    grown: Any = fxgrow.grow(model, width=2, example_inputs=X)
    assert (grown[0].out_features, grown[2].out_features) == (8, 8)
    assert any("a hook of it" in held.reason for held in fxgrow.report(grown).plan.held)
    grown(X).sum().backward()
    with pytest.raises(PlanError, match="a hook of it, <lambda>, refers to tensors"):
        fxgrow.grow(model[:3], width={"0": 2}, example_inputs=X)

"""Old-style weight norm (`torch.nn.utils.weight_norm`), as in temporal convolutional networks and heads of DINO."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm, weight_norm

import fxgrow
from fxgrow.proof.certificate import Verdict

X = torch.randn(4, 3, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def normed(layer: nn.Module, **settings: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return weight_norm(layer, **settings)


class Temporal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = normed(nn.Conv1d(3, 8, 3)), normed(nn.ConvTranspose1d(8, 8, 3), dim=1)
        self.skip, self.head = nn.Conv1d(3, 8, 1), normed(nn.Linear(8, 5, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.second(self.first(x).relu()) + self.skip(x)).mean(-1))  # type: ignore[no-any-return]


def model_of_seed(seed: int = 0) -> Temporal:
    torch.manual_seed(seed)
    return Temporal().double()


@pytest.mark.parametrize("form", ["module", "graph"])
def test_it_grows(form: Any) -> None:
    model = model_of_seed()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X, form=form)
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert grown.first.weight_v.shape == (12, 3, 3) and grown.second.weight_v.shape == (12, 12, 3)
    torch.testing.assert_close(grown(X), model(X), rtol=1e-12, atol=0)
    grown(X).square().sum().backward()
    torch.optim.SGD(grown.parameters(), lr=1e-3).step()
    grown.zero_grad()
    grown(X).square().sum().backward()
    assert bool(grown.first.weight_v.grad[8:].any(dim=(1, 2)).all())


def test_the_weight_is_of_its_new_size_before_the_first_call() -> None:
    grown = fxgrow.grow(model_of_seed(), width=1.5, example_inputs=X)
    assert grown.first.weight.shape == (12, 3, 3)


def test_it_can_be_taken_off_and_grows_again(tmp_path: Path) -> None:
    model = model_of_seed()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    read = fxgrow.load(tmp_path / "grown.safetensors", model_of_seed(1))
    again = fxgrow.grow(read, width=1.5, example_inputs=X)
    remove_weight_norm(grown.first)
    for module in (grown, read, again):
        torch.testing.assert_close(module(X), model(X), rtol=1e-12, atol=0)
    assert again.get_submodule("first").weight_v.shape == (18, 3, 3)


def test_one_norm_of_the_whole_weight_holds_it() -> None:
    model = nn.Sequential(normed(nn.Conv1d(3, 8, 3), dim=None), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Conv1d(8, 2, 3))
    plan = fxgrow.plan(model.double(), width=1.5, example_inputs=X)
    assert any("divides by one norm" in held.reason for held in plan.held)

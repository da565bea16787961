"""The coordinate check: flat where activations keep their size, not where new weights are too large."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import AmountError


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def test_growth_keeps_the_size_of_activations_before_training() -> None:
    found = fxgrow.coordinate_check(make, [1, 2, 4], example_inputs=torch.randn(64, 8), steps=2)
    assert found.layers == ("0", "2", "4")
    assert all(abs(found.slope(layer, step=0)) < 0.1 for layer in found.layers)
    assert found.slope("4", step=0) == pytest.approx(0, abs=1e-12)


def test_a_rate_that_is_too_high_for_the_width_shows() -> None:
    """Plain SGD at one rate for every width moves wide layers further: the slope after training is not flat."""
    x = torch.randn(64, 8)
    calm = fxgrow.coordinate_check(make, [1, 4, 16], example_inputs=x, steps=3, init="mirror", optimizer=scaled)
    wild = fxgrow.coordinate_check(make, [1, 4, 16], example_inputs=x, steps=3, init="mirror", optimizer=plain)
    assert wild.steepest > 2 * calm.steepest


def test_the_rates_of_mup_keep_activations_flat_and_one_rate_does_not() -> None:
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    options = {"example_inputs": x, "steps": 3, "init": "mirror"}
    naive = fxgrow.coordinate_check(make, [1, 2, 4, 8, 16], parameterization="standard", **options)
    flat = fxgrow.coordinate_check(make, [1, 2, 4, 8, 16], parameterization="mup", **options)
    assert naive.steepest > 0.5
    assert flat.steepest < 0.2
    assert naive.slope("4", step=0) == pytest.approx(0, abs=1e-12)


def plain(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.3)


def scaled(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.3 * 64 / model.get_parameter("2.weight").shape[0])


def test_it_prints_and_plots(tmp_path: Path) -> None:
    found = fxgrow.coordinate_check(make, [1, 2], example_inputs=torch.randn(4, 8), steps=1)
    assert "slope" in str(found) and "x2" in str(found)
    found.plot(tmp_path / "check.png")
    assert (tmp_path / "check.png").stat().st_size > 1000


def test_one_width_is_no_check() -> None:
    with pytest.raises(AmountError) as error:
        fxgrow.coordinate_check(make, [2], example_inputs=torch.randn(4, 8))
    assert str(error.value) == "a coordinate check needs at least two widths: pass widths=[1, 2, 4]"

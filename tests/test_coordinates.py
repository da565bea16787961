"""The coordinate check: flat where activations keep their size, not where new weights are too large."""

from __future__ import annotations

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import fxgrow
from fxgrow.errors import AmountError, FxgrowError


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))


def test_growth_keeps_the_size_of_activations_before_training() -> None:
    check = fxgrow.coordinate_check(make, [1, 2, 4], example_inputs=torch.randn(64, 8), steps=2)
    assert check.layers == ("0", "2", "4")
    assert all(abs(check.slope(layer, step=0)) < 0.1 for layer in check.layers)
    assert check.slope("4", step=0) == pytest.approx(0, abs=1e-12)


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


def test_it_prints_and_plots() -> None:
    check = fxgrow.coordinate_check(make, [1, 2], example_inputs=torch.randn(4, 8), steps=1)
    assert "slope" in str(check) and "x2" in str(check)
    first, last = check.plot().axes
    assert (first.get_title(), last.get_title()) == ("step 0", "step 1")
    labels = [text.get_text() for text in last.get_legend().get_texts()]
    assert labels == [f"{layer} ({check.slope(layer):+.2f})" for layer in check.layers]
    for panel in (first, last):
        assert [tick.get_text() for tick in panel.get_xticklabels()] == ["x1", "x2"]
    low, high = first.get_ylim()
    ticks = [tick for tick in first.get_yticks() if low <= tick <= high]
    assert len(ticks) >= 2  # however few decades there are


def test_the_last_step_is_drawn_on_axes_that_are_given() -> None:
    check = fxgrow.coordinate_check(make, [1, 2], example_inputs=torch.randn(4, 8), steps=2)
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert check.plot(ax=axes[0]) is figure
    assert axes[0].get_title() == "step 2"
    with pytest.raises(FxgrowError) as error:
        check.plot(ax=axes)
    assert str(error.value) == "2 axes were given as ax: pass one or 3, or leave ax out"
    with pytest.raises(FxgrowError) as error:
        check.plot("check.png")  # type: ignore[arg-type]
    assert str(error.value) == "'check.png' is no axes: a plot returns its figure: plot().savefig('check.png')"


def test_one_width_is_no_check() -> None:
    with pytest.raises(AmountError) as error:
        fxgrow.coordinate_check(make, [2], example_inputs=torch.randn(4, 8))
    assert str(error.value) == "a coordinate check needs at least two widths: pass widths=[1, 2, 4]"

"""Scale: what second moments say of new units, beside what is measured."""

from __future__ import annotations

import sympy as sp
import torch
from torch import nn

import fxgrow
from fxgrow.proof.scale import RATIO, m, n, rho, s, sigma


def wide(init: str) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    return model.double(), torch.randn(512, 64, dtype=torch.float64)


def test_the_ratio_is_that_of_two_sums_of_independent_products() -> None:
    """Var(sum of w x) adds up over inputs: n of weight variance s^2 and moment q, m - n of moment rho q."""
    q = sp.Symbol("q", positive=True)
    new = n * s**2 * q + (m - n) * s**2 * rho * q
    assert sp.simplify(RATIO - new / (n * sigma**2 * q)) == 0
    assert sp.simplify(RATIO.subs({s: sigma * sp.sqrt(n / m), rho: 1}) - 1) == 0
    assert sp.simplify(RATIO.subs({s: sigma, rho: 0}) - 1) == 0


def test_new_units_start_at_the_variance_of_old_ones_by_prediction_and_by_measurement() -> None:
    for init in ("zero", "mirror"):
        model, x = wide(init)
        grown = fxgrow.grow(model, 1.5, init=init, example_inputs=x, verify=False)
        scale = fxgrow.certify(grown, model).scale.measured(x)
        assert [layer.layer for layer in scale.layers] == ["0", "2"]
        for layer in scale.layers:
            assert abs(layer.predicted - 1) < 0.05
            assert abs(layer.measured - 1) < 0.1


def test_a_draw_at_a_fixed_deviation_shows() -> None:
    model, x = wide("zero")
    grown = fxgrow.grow(model, 1.5, example_inputs=x, verify=False)
    with torch.no_grad():
        grown.get_parameter("2.weight")[256:] *= 3
    layer = fxgrow.certify(grown, model).scale.measured(x).layers[1]
    assert 8 < layer.predicted < 10
    assert 8 < layer.measured < 10


def test_a_scale_prints_layer_expression_and_both_ratios() -> None:
    model, x = wide("zero")
    grown = fxgrow.grow(model, 1.5, example_inputs=x, verify=False)
    text = str(fxgrow.certify(grown, model).scale.measured(x))
    assert "predicted" in text and "measured" in text and "s**2*(n + rho*(m - n))/(n*sigma**2)" in text

"""Scale: what second moments say of new units, beside what is measured."""

from __future__ import annotations

import pytest
import sympy as sp
import torch
from timm.layers import ScaledStdConv2d
from torch import nn

import fxgrow
from fxgrow.measure.scale import RATIO, m, n, rho, s, sigma
from tests.pairing import in_turn


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


@pytest.mark.parametrize("layer", [nn.Conv2d, ScaledStdConv2d])
def test_the_scale_can_be_asked_for_once_training_has_begun(layer: type[nn.Conv2d]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(layer(3, 8, 3), nn.ReLU(), layer(8, 8, 3), nn.ReLU(), layer(8, 4, 3)).double()
    x = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    grown = fxgrow.grow(model, 1.5, example_inputs=x, verify=False)
    at_once, later = (fxgrow.certify(grown, model) for _ in range(2))
    before = [(layer.layer, layer.node) for layer in at_once.scale.layers]
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    assert [(layer.layer, layer.node) for layer in later.scale.layers] == before
    assert len(before) == 2


def seen(model: nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    generator = torch.Generator().manual_seed(5)
    out = model(x)
    (out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("parameterization", "init"), in_turn(("standard", "mup", "variance-transfer"), ("mirror", "zero"))
)
def test_gradients_have_the_second_moments_that_the_scale_says(init: str, parameterization: str) -> None:
    model, x = wide(init)
    options = {"init": init, "example_inputs": x, "parameterization": parameterization}
    grown = fxgrow.grow(model, 1.5, verify=False, **options)
    layer = fxgrow.certify(grown, model).scale.layers[1]
    before, after = seen(model, x)["2.weight"], seen(grown, x)["2.weight"]
    old = after[:256, :256].square().mean()
    assert float(old / before.square().mean()) == pytest.approx(layer.gradients["old weights"], rel=1e-9)
    columns = after[:256, 256:].square().mean() / old
    assert float(columns) == pytest.approx(layer.gradients["new columns"], rel=0.15)
    rows = after[256:, :256].square().mean() / old
    assert float(rows) == pytest.approx(layer.gradients["new rows"], rel=0.15, abs=1e-12)
    assert (layer.gradients["new rows"] == 0) == (init == "zero")


def test_repeated_growth_keeps_what_the_parameterization_promises() -> None:
    """New weights as the function sees them: 1/fan-in in hidden layers at every stage, whatever came before."""
    for parameterization in ("standard", "mup", "variance-transfer"):
        model, x = wide("mirror")
        for _ in range(3):
            grown = fxgrow.grow(
                model, 1.5, init="mirror", example_inputs=x, parameterization=parameterization, verify=False
            )
            for layer in fxgrow.certify(grown, model).scale.layers:
                assert layer.predicted == pytest.approx(1, rel=1e-9)
            model = grown


def test_the_weights_of_each_new_unit_are_of_one_size() -> None:
    model, x = wide("zero")
    grown = fxgrow.grow(model, 1.5, example_inputs=x, verify=False)
    sizes = grown.get_parameter("2.weight")[256:].square().mean(1).sqrt()
    wanted = model.get_parameter("2.weight").square().mean().sqrt() * (256 / 384) ** 0.5
    torch.testing.assert_close(sizes, wanted.expand(128))


def test_a_miss_says_why() -> None:
    model, x = wide("zero")
    grown = fxgrow.grow(model, 1.5, example_inputs=x, verify=False)
    with torch.no_grad():
        grown.get_parameter("0.weight")[256:] *= 2
    scale = fxgrow.certify(grown, model).scale.measured(x)
    assert scale.layers[1].reason.startswith("new inputs have 3.") or scale.layers[1].reason.startswith(
        "new inputs have 4."
    )
    few = x[:2]
    layer = fxgrow.certify(grown, model).scale.measured(few.repeat(2, 1)).layers[0]
    assert layer.reason


def test_it_is_drawn_layer_by_layer() -> None:
    model, x = wide("mirror")
    grown = fxgrow.grow(model, 1.5, init="mirror", example_inputs=x, verify=False)
    scale = fxgrow.certify(grown, model).scale
    (axes,) = scale.plot().axes
    assert [line.get_label() for line in axes.get_lines()] == ["predicted"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "2"]
    measured = scale.measured(x)
    (axes,) = measured.plot().axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert drawn["measured"] == [layer.measured for layer in measured.layers]
    assert drawn["expected"] == [layer.expected for layer in measured.layers]
    assert measured._repr_html_().count("<table>") == 2

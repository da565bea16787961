"""Parameterizations: the table's factors, the same function, multipliers that fold away."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AmountError, FxgrowError
from fxgrow.own.edited import Multiplied
from fxgrow.planning.plan import Rescaling
from tests.checks import unmoved, worst_error
from tests.models import PLAIN, lively
from tests.pairing import few, in_turn

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


class Net(nn.Module):
    """An input layer, hidden ones with and without batch norm, an output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(8)
        self.third = nn.Conv2d(8, 16, 1)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = F.relu(self.norm2(self.second(x)))
        return self.last(F.gelu(self.third(x)).mean((2, 3)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return lively(Net())


def test_the_table_of_variance_transfer() -> None:
    model = net()
    grown = fxgrow.grow(model, 1.5, example_inputs=X, parameterization="variance-transfer")
    c = (8 / 12) ** 0.5
    assert fxgrow.report(grown).plan.rescalings == (
        Rescaling("second.weight", "hidden", pytest.approx(c), "batch norm norm2", ""),
        Rescaling("third.weight", "hidden", pytest.approx(c), "multiplier", ""),
        Rescaling("last.weight", "output", pytest.approx(8 / 12), "multiplier", ""),
    )
    for name, factor in {"first.weight": 1.0, "second.weight": c, "third.weight": c, "last.weight": 8 / 12}.items():
        old = model.get_parameter(name)
        now = grown.get_parameter(name)[tuple(slice(size) for size in old.shape)]
        torch.testing.assert_close(now, factor * old, rtol=1e-14, atol=0)
    torch.testing.assert_close(grown.get_buffer("norm2.running_mean")[:8], c * model.norm2.running_mean)
    torch.testing.assert_close(grown.get_buffer("norm2.running_var")[:8], c**2 * model.norm2.running_var)
    torch.testing.assert_close(grown.get_parameter("second.bias")[:8], c * model.second.bias)
    assert grown.get_submodule("norm2").eps == pytest.approx(1e-5 * c**2)
    assert grown.get_submodule("norm1").eps == 1e-5
    assert worst_error(model, grown, (X,), False) <= 1e-14
    assert worst_error(model, grown, (X,), True) <= 1e-13


@pytest.mark.parametrize("parameterization", ["standard", "mup", "variance-transfer"])
def test_new_weights_are_of_the_tables_size_as_the_function_sees_them(parameterization: str) -> None:
    """New rows, drawn: deviations beside the old weights', multipliers included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 9, 1))
    grown = fxgrow.grow(
        model, 2, example_inputs=X.float(), init="mirror", parameterization=parameterization, verify=False
    )
    folded = fxgrow.fold(grown)
    expected = {
        "0.weight": 1.0,
        "2.weight": 0.5**0.5,
        "4.weight": 0.5**0.5 if parameterization == "standard" else 0.5,
    }
    for name, factor in expected.items():
        birth = fxgrow.births(grown)[name]
        new = folded.get_parameter(name)[birth.mask(1)]
        ratio = float(new.square().mean().sqrt() / model.get_parameter(name).square().mean().sqrt())
        assert ratio == pytest.approx(factor, rel=0.1), name


@pytest.mark.parametrize(
    ("name", "init"),
    in_turn(PLAIN, ("mirror", "zero"), ("perceptron", "unet", "cross-attention", "channel-convolution")),
)
def test_plain_models_stay_the_same_and_learn(name: str, init: str) -> None:
    make, inputs = PLAIN[name]
    model = lively(make())
    once = fxgrow.grow(model, 2, example_inputs=inputs, init=init, parameterization="variance-transfer")
    twice = fxgrow.grow(once, 1.5, init=init)
    checked = fxgrow.report(twice).verification
    assert checked is not None
    assert checked.verdict == "TESTED"
    assert unmoved(once, tuple(t.double() if t.is_floating_point() else t for t in inputs)) == []
    folded = fxgrow.fold(twice)
    assert "multiplied" not in str(folded)
    values = tuple(t.double() if t.is_floating_point() else t for t in inputs)
    for training in (False, True):
        assert worst_error(twice, folded, values, training) <= 1e-12


@pytest.mark.parametrize(
    "name", few(("test_resnet", "test_vit", "test_convnext", "test_efficientnet"), "test_efficientnet")
)
def test_library_models_in_float32(name: str) -> None:
    model = lively(timm.create_model(name)).float()
    grown = fxgrow.grow(model, 1.5, parameterization="variance-transfer")
    assert fxgrow.report(grown).verification.verdict == "TESTED"
    assert any(r.factor != 1 for r in fxgrow.report(grown).plan.rescalings)


def test_repeated_growth_keeps_one_multiplier_for_each_layer() -> None:
    grown = fxgrow.grow(net(), 1.5, example_inputs=X, parameterization="variance-transfer")
    again = fxgrow.grow(grown, 4 / 3)
    factors = [part.factor for part in again.modules() if isinstance(part, Multiplied)]
    assert factors == [pytest.approx(2**0.5), pytest.approx(2.0)]
    assert fxgrow.report(again).plan.parameterization == "variance-transfer", "it is kept"
    assert fxgrow.report(fxgrow.grow(again, 1.5, parameterization="standard")).plan.rescalings == ()


def test_what_cannot_be_rescaled_is_listed_with_the_reason() -> None:
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(4, 6)
            self.shared = shared

        def forward(self, x: Tensor) -> Tensor:
            x = self.shared(torch.relu(self.enter(x)))
            return x @ self.shared.weight[:, :2].abs()

    model = Tied().double()
    inputs = torch.randn(3, 4, dtype=torch.float64)
    plan = fxgrow.plan(model, 2, example_inputs=inputs, parameterization="variance-transfer")
    assert all(r.factor == 1 and "it goes into" in r.reason for r in plan.rescalings)
    grown = fxgrow.grow(net(), 2, example_inputs=X, parameterization="variance-transfer")
    assert "old weights rescaled" in str(fxgrow.report(grown).plan)


def test_a_norm_that_others_read_past_does_not_take_the_factor() -> None:
    class Past(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(3, 6)
            self.inner = nn.Linear(6, 6)
            self.norm = nn.BatchNorm1d(6)
            self.leave = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(torch.relu(self.enter(x)))
            return self.leave(self.norm(x) + x)

    model = lively(Past())
    inputs = torch.randn(5, 3, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=inputs, parameterization="variance-transfer")
    assert [r.by for r in fxgrow.report(grown).plan.rescalings] == ["multiplier", "multiplier"]


def test_folded_models_are_saved_grown_and_copied(tmp_path: Path) -> None:
    model = net()
    grown = fxgrow.grow(model, 1.5, example_inputs=X, parameterization="variance-transfer")
    before = copy.deepcopy(grown.state_dict())
    folded = fxgrow.fold(grown)
    assert all(torch.equal(value, before[name]) for name, value in grown.state_dict().items()), "not touched"
    assert "multiplied" in str(grown)
    assert fxgrow.births(folded) == fxgrow.births(grown)
    again = fxgrow.grow(folded, 4 / 3)
    for number, network in enumerate((grown, folded, again)):
        fxgrow.save(network, tmp_path / f"{number}.safetensors")
        loaded = fxgrow.load(tmp_path / f"{number}.safetensors", net())
        assert torch.equal(loaded.eval()(X), network.eval()(X))
        assert fxgrow.report(loaded) == fxgrow.report(network)
    assert worst_error(model, again, (X,), True) <= 1e-13


def test_modes_with_graphs_of_their_own_are_folded_both() -> None:
    class Modal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(4, 6)
            self.leave = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.enter(x))
            return self.leave(x) * 2 if self.training else self.leave(x).tanh()

    model = Modal().double()
    inputs = torch.randn(3, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=inputs, parameterization="variance-transfer", form="graph")
    folded: Any = fxgrow.fold(grown)
    for training in (False, True):
        assert worst_error(model, folded, (inputs,), training) <= 1e-14
        assert "multiplied" not in folded.train(training).code


def test_plans_with_a_parameterization_survive_json() -> None:
    plan = fxgrow.plan(net(), 1.5, example_inputs=X, parameterization="variance-transfer")
    assert fxgrow.Plan.from_json(plan.to_json()) == plan


def test_bad_input() -> None:
    with pytest.raises(AmountError) as error:
        fxgrow.grow(net(), 2, example_inputs=X, parameterization="muP")
    assert str(error.value) == (
        "parameterization='muP' is not a parameterization: use one of standard, mup, variance-transfer, rms"
    )
    with pytest.raises(FxgrowError) as not_grown:
        fxgrow.fold(net())
    assert str(not_grown.value) == "Net was not grown by fxgrow: pass a module that fxgrow.grow or fxgrow.load returned"


# -- scale without the function ----------------------------------------------------------------------------


def test_rms_keeps_the_variance_of_sums_and_says_that_the_function_changes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 200))
    with torch.no_grad():
        for layer, into in ((model[0], 64), (model[2], 128), (model[4], 256)):
            layer.weight.normal_(0, (2 / into) ** 0.5)
            layer.bias.zero_()
    x = torch.randn(512, 64)
    wide = fxgrow.grow(model, {"0": 3.0, "2": 2.0}, example_inputs=x[:2], parameterization="rms")
    report = fxgrow.report(wide)
    assert report.plan.rescalings == (
        Rescaling("2.weight", "hidden", pytest.approx(3**-0.5), "nothing: the function changes", ""),  # type: ignore[arg-type]
        Rescaling("4.weight", "output", pytest.approx(2**-0.5), "nothing: the function changes", ""),  # type: ignore[arg-type]
    )
    with torch.no_grad():
        before = after = x
        for name in ("0", "2", "4"):
            before, after = (net.get_submodule(name)(of) for net, of in ((model, before), (wide, after)))
            assert float(after.var() / before.var()) == pytest.approx(1, abs=0.1)
            before, after = before.relu(), after.relu()
    assert torch.equal(wide.get_parameter("0.weight")[:128], model[0].weight)
    torch.testing.assert_close(wide.get_parameter("2.weight")[:256, :128], model[2].weight * 3**-0.5)
    assert not report.plan.preserving
    assert report.verification is not None
    assert report.verification.verdict == "CHANGED"
    assert report.verification.eval_error > 0.1
    assert str(report.certificate.verdict) != "PROVED"
    assert "nothing: what reads it is drawn" in str(report.plan)
    assert fxgrow.Plan.from_json(report.plan.to_json()) == report.plan


@pytest.mark.parametrize("name", few(("test_vit", "test_resnet", "test_convnext"), "test_resnet"))
def test_rms_of_whole_networks_is_loaded_again_and_not_kept_for_the_next_growth(name: str, tmp_path: Path) -> None:
    model = timm.create_model(name)
    wide = fxgrow.grow(model, 1.5, parameterization="rms")
    assert str(fxgrow.report(wide).verification).startswith("CHANGED: relative error")
    fxgrow.save(wide, tmp_path / "wide.safetensors")
    again = fxgrow.load(tmp_path / "wide.safetensors", model)
    assert all(torch.equal(p, wide.get_parameter(n)) for n, p in again.named_parameters())
    wider = fxgrow.report(fxgrow.grow(wide, 4 / 3))
    assert wider.plan.parameterization == "standard"
    assert wider.plan.preserving
    assert str(wider.verification).startswith("TESTED")


def test_rms_goes_with_units_that_are_not_there_to_keep_the_function() -> None:
    with pytest.raises(AmountError) as error:
        fxgrow.plan(Net().double(), 2, example_inputs=X, init="mirror", parameterization="rms")
    assert str(error.value) == (
        "parameterization='rms' does not keep the function, and init='mirror' is there to keep it: "
        "use init='zero', of which what reads new units is drawn then"
    )

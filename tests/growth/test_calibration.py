"""Calibration: new units vary on a batch as the old ones do, and the growth stays what it was in all else."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import CaptureError
from tests.models import PLAIN, lively
from tests.pairing import few


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return lively(
        nn.Sequential(
            nn.Conv2d(3, 6, 3),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 5),
            nn.ReLU(),
            nn.Linear(5, 2),
        )
    )


def images(seed: int = 1) -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ratios(grown: Any, model: nn.Module, *batch: Tensor) -> dict[str, float]:
    layers = fxgrow.certify(grown, model).scale.measured(*batch).layers
    return {layer.layer: layer.measured for layer in layers if layer.measured is not None}


@pytest.mark.parametrize("init", few(("zero", "mirror"), "mirror"))
def test_every_layer_is_at_one_on_the_batch_and_the_function_is_kept(init: str) -> None:
    model, x = network(), images()
    plain = fxgrow.grow(model, 1.5, init=init, example_inputs=x)
    assert max(abs(ratio - 1) for ratio in ratios(plain, model, x).values()) > 0.1
    grown = fxgrow.grow(model, 1.5, init=init, example_inputs=x, calibrate=x)
    measured = ratios(grown, model, x)
    assert list(measured) == ["0", "3", "5", "9"]
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0), rel=1e-9)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert fxgrow.report(grown).verification.verdict == "TESTED"


@settings(max_examples=settings.default.max_examples // 5)
@given(st.integers(0, 99), st.sampled_from([1.3, 1.5, 2, 3]), st.sampled_from(["zero", "mirror", "replicate"]))
def test_any_growth_stays_exact(seed: int, width: float, init: str) -> None:
    model, x = network(seed), images(seed)
    grown = fxgrow.grow(model, width, init=init, seed=seed, example_inputs=x, calibrate=x)
    measured = ratios(grown, model, x)
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0), rel=1e-9)


@pytest.mark.parametrize("name", few(("encoder", "cross-attention", "detector", "unet"), "cross-attention", "unet"))
def test_packed_projections_are_calibrated_as_they_are_used(name: str) -> None:
    make, inputs = PLAIN[name]
    torch.manual_seed(0)
    model = lively(make())
    batch = tuple(torch.randn(64, *example.shape[1:], dtype=torch.float64) for example in inputs)
    grown = fxgrow.grow(model, 1.5, example_inputs=inputs, calibrate=batch)
    measured = ratios(grown, model, *batch)
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0), rel=1e-6)


def test_only_the_weights_of_drawn_units_change() -> None:
    model, x = network(), images()
    before = copy.deepcopy(model.state_dict())
    plain = fxgrow.grow(model, 2, example_inputs=x)
    grown = fxgrow.grow(model, 2, example_inputs=x, calibrate=x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    calibrated = {growth.name for growth in fxgrow.report(grown).plan.tensors if growth.calibrations}
    assert calibrated == {"0.weight", "3.weight", "5.weight", "9.weight"}
    for name, tensor in grown.state_dict().items():
        if name not in calibrated:
            assert torch.equal(tensor, plain.state_dict()[name]), name
    assert torch.equal(grown.get_parameter("9.weight")[:5], plain.get_parameter("9.weight")[:5])
    parts = grown.get_parameter("9.weight")[5:] / plain.get_parameter("9.weight")[5:]
    assert torch.allclose(parts, parts[0, 0].expand_as(parts))


def test_the_plan_keeps_what_was_found() -> None:
    model, x = network(), images()
    grown = fxgrow.grow(model, 2, example_inputs=x, calibrate=x)
    plan = fxgrow.report(grown).plan
    assert fxgrow.Plan.from_json(plan.to_json()) == plan
    assert plan != fxgrow.plan(model, 2, example_inputs=x)
    bare = dataclasses.replace(
        plan, tensors=tuple(dataclasses.replace(growth, calibrations=()) for growth in plan.tensors)
    )
    assert bare == fxgrow.plan(model, 2, example_inputs=x)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.blocks = nn.Sequential(*(Branch() for _ in range(2)))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def test_later_growths_in_depth_are_proved_over_a_calibrated_one() -> None:
    """The growth is carried out once more for the proof, with what the batch asked for."""
    torch.manual_seed(0)
    model, x = lively(Residual()), images()
    wide = fxgrow.grow(model, 1.5, example_inputs=x, calibrate=x)
    deep = fxgrow.grow(wide, depth=2)
    wider = fxgrow.grow(deep, 1.5, calibrate=x)
    assert str(fxgrow.certify(wider, model).verdict) == "PROVED"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_come_to_the_precision_of_the_model(dtype: torch.dtype) -> None:
    model, x = network().to(dtype), images()
    grown = fxgrow.grow(model, 1.5, example_inputs=x, calibrate=x)
    assert all(p.dtype is dtype for p in grown.parameters())
    measured = ratios(grown, model, x)
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0), rel=1e-4 if dtype is torch.float32 else 0.05)


def test_silent_units_are_left_alone() -> None:
    """Of what does not vary there is nothing to bring to a scale; at edges, a transposed convolution does."""
    model, x = network(), images()
    grown = fxgrow.grow(model, 1.5, example_inputs=x, calibrate=torch.zeros_like(x))
    assert all(bool(torch.isfinite(p).all()) for p in grown.parameters())
    assert [growth.name for growth in fxgrow.report(grown).plan.tensors if growth.calibrations] == ["5.weight"]


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (torch.randn(4, 2, 8, 8), "the model does not run on the batch to calibrate on"),
        (torch.empty(4, 3, 8, 8, device="meta"), "on the meta device and has no values"),
        (7, "calibrate is a int"),
        (torch.full((4, 3, 8, 8), torch.nan), "the units of no layer vary on the batch to calibrate on"),
        (torch.full((4, 3, 8, 8), torch.inf), "the units of no layer vary on the batch to calibrate on"),
        (torch.empty(0, 3, 8, 8), "calibrate has no entries"),
    ],
    ids=["channels", "meta", "number", "not a number", "infinite", "empty"],
)
def test_what_is_no_batch_is_refused(batch: Any, says: str) -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CaptureError, match=says):
        fxgrow.grow(model, 1.5, example_inputs=images(), calibrate=batch)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_without_values_is_refused() -> None:
    with pytest.raises(CaptureError, match="meta device"):
        fxgrow.grow(network().to("meta"), 1.5, example_inputs=images(), calibrate=images())


def test_a_saved_growth_comes_back_with_its_factors(tmp_path: Path) -> None:
    model, x = network(), images()
    grown = fxgrow.grow(model, 1.5, example_inputs=x, calibrate=x)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    back = fxgrow.load(tmp_path / "grown.safetensors", model)
    assert fxgrow.report(back).plan == fxgrow.report(grown).plan
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in grown.state_dict().items())
    assert str(fxgrow.certify(back, model).verdict) == "PROVED"

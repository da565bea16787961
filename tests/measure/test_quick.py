"""The quick test: cheaper in every way it can be, and as strict; in full where it finds or knows nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxgrow
from fxgrow.capture import capture
from fxgrow.errors import AmountError, VerificationError
from fxgrow.growth import growing
from fxgrow.history import Verification
from fxgrow.measure import quick
from fxgrow.measure.quick import alike_by_mode, verify_quickly
from fxgrow.proof.certificate import Certificate, Verdict
from tests.models import lively

IMAGES = torch.randn(5, 3, 160, 160)


def convolutional(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, 2), norm(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 4))


@pytest.fixture(autouse=True)
def everything_costs_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "ENOUGH", 0.0)


def verified(model: nn.Module, **options: object) -> Verification:
    verification = fxgrow.report(fxgrow.grow(model, 1.5, example_inputs=IMAGES, **options)).verification  # type: ignore[arg-type]
    assert verification is not None and verification.verdict == "TESTED"
    return verification


@pytest.mark.parametrize("verify", [True, "quick"])
def test_few_small_images_in_the_precision_of_the_weights_do(verify: object) -> None:
    verification = verified(convolutional(), verify=verify)
    assert (verification.quick, verification.precision) == ("2 samples of 64 x 64", "float32")
    assert "computed in float32, 2 samples of 64 x 64, float32 weights" in str(verification)


def test_weights_in_float64_are_tested_in_float64() -> None:
    verification = verified(convolutional().double())
    assert (verification.quick, verification.precision, verification.tolerance) == (
        "2 samples of 64 x 64",
        "float64",
        1e-10,
    )


def test_in_full_is_in_float64_on_all_of_the_inputs() -> None:
    verification = verified(convolutional(), verify="full")
    assert (verification.quick, verification.precision) == ("", "float64")


def test_what_costs_little_is_tested_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "ENOUGH", 1e12)
    assert verified(convolutional()).quick == ""


def test_one_mode_does_where_both_are_the_same() -> None:
    verification = verified(convolutional(lambda units: nn.GroupNorm(1, units)))
    assert verification.quick == "2 samples of 64 x 64 in eval, which is as train"
    assert verification.train_error == verification.eval_error


def test_a_model_that_takes_no_smaller_images_keeps_its_own() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 9, 8), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 19 * 19, 5))
    assert verified(model).quick == "2 samples in eval, which is as train"


def test_a_model_that_says_the_size_of_its_images_keeps_them() -> None:
    model = timm.create_model("test_vit")
    verification = fxgrow.report(fxgrow.grow(model, 1.5)).verification
    assert verification is not None and verification.quick == "2 samples in eval, which is as train"


def test_the_test_is_in_full_where_nothing_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = Certificate("nothing is known", verdict=Verdict.UNKNOWN)
    monkeypatch.setattr(growing, "certificate_of", lambda *args, **kwargs: unknown)
    assert verified(convolutional()).quick == ""


def test_a_level_that_is_none_is_refused() -> None:
    with pytest.raises(AmountError, match="verify='some' is not a way to verify: use True, False, quick or full"):
        fxgrow.grow(convolutional(), 1.5, example_inputs=IMAGES, verify="some")


def test_a_wrong_entry_is_found() -> None:
    model = lively(convolutional()).float()
    grown = fxgrow.grow(model, 1.5, example_inputs=IMAGES, verify=False)
    plan, inputs = fxgrow.report(grown).plan, capture(model, IMAGES).inputs
    assert verify_quickly(model, grown, inputs, 0, plan, alike=False).quick
    with torch.no_grad():
        grown.get_parameter("3.weight")[0, 0, 0, 0] += 0.1
    with pytest.raises(VerificationError, match="differs from the original"):
        verify_quickly(model, grown, inputs, 0, plan, alike=False)


class Baked(nn.Module):
    """What is right for images of one size alone."""

    def __init__(self, inner: nn.Module, complains: bool) -> None:
        super().__init__()
        self.inner, self.complains = inner, complains

    def forward(self, x: Tensor) -> Tensor:
        if self.complains and x.shape[-1] != 160:
            raise RuntimeError("other images than at capture")
        return self.inner(x) + (x.shape[-1] != 160)  # type: ignore[no-any-return]


@pytest.mark.parametrize("complains", [False, True])
def test_a_difference_on_small_images_alone_is_none(complains: bool) -> None:
    model = convolutional()
    grown = fxgrow.grow(model, 1.5, example_inputs=IMAGES, verify=False)
    plan, inputs = fxgrow.report(grown).plan, capture(model, IMAGES).inputs
    verification = verify_quickly(model, Baked(grown, complains), inputs, 0, plan, alike=False)
    assert (verification.verdict, verification.quick, verification.precision) == ("TESTED", "2 samples", "float32")


class Forgetful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.layer(x), 0.5, self.training)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 8)
    layer.register_forward_hook(lambda module, args, output: output * (1 + module.training))
    return layer


BY_MODE = {
    "dropout, off for the test": (nn.Sequential(nn.Linear(4, 8), nn.Dropout()), True),
    "layer norm": (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), True),
    "batch norm": (nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), False),
    "a number by mode": (Forgetful(), False),
    "a hook": (nn.Sequential(hooked(), nn.ReLU()), False),
    "a weight that training renews": (nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 8))), False),
}


@pytest.mark.parametrize("name", BY_MODE)
def test_modes_are_alike_only_where_no_part_asks(name: str) -> None:
    model, alike = BY_MODE[name]
    assert alike_by_mode(capture(model, torch.randn(2, 4))) is alike

"""GradMax: what reads new units gets a larger gradient, as large as it can be where the network is linear."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AmountError
from fxgrow.growth.gradmax import choose_units
from tests.models import lively

Loss = Callable[[nn.Module], Tensor]


def loss_on(x: Tensor, classes: int) -> Loss:
    labels = torch.randint(0, classes, (len(x),), generator=torch.Generator().manual_seed(3))
    return lambda model: F.cross_entropy(model(x), labels)


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return lively(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(8, 4),
        )
    )


def new_gradients(grown: nn.Module, loss: Loss) -> float:
    """The norm of the gradient of all entries that are zero and new."""
    grown.eval()
    names, parameters = zip(*grown.named_parameters(), strict=True)
    births = fxgrow.births(grown)
    total = 0.0
    for name, parameter, gradient in zip(names, parameters, torch.autograd.grad(loss(grown), parameters), strict=True):
        new = births[name].mask(1) & (parameter == 0)
        total += float(gradient[new].square().sum()) if parameter.ndim > 1 else 0.0
    return total**0.5


def test_in_a_linear_network_new_units_span_the_largest_singular_vectors() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4, bias=False), nn.Linear(4, 5, bias=False)).double()
    x = batch(32, 6)
    loss = loss_on(x, 5)
    grown = fxgrow.grow(model, "+2", init="gradmax", loss=loss, example_inputs=x)
    choose_units(grown, fxgrow.report(grown).plan, loss, rounds=60)

    y = model(x).detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(nn.Sequential(Given(y))), y)
    best = torch.linalg.svd(slope.T @ x).Vh[:2]  # of what the layers' product would get as its gradient
    rows = grown.get_parameter("0.weight").detach()[4:]
    rows = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.linalg.svdvals(rows @ best.T), torch.ones(2).double(), rtol=1e-6, atol=0)


class Given(nn.Module):
    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y = y

    def forward(self, x: Tensor) -> Tensor:
        return self.y


@pytest.mark.parametrize("form", ["auto", "graph"])
def test_the_function_stays_and_readers_get_more(form: str) -> None:
    model, x = convolutional(), batch(16, 3, 8, 8)
    loss = loss_on(x, 4)
    plain = fxgrow.grow(model, 2, example_inputs=x, form=form, calibrate=x)
    grown = fxgrow.grow(model, 2, init="gradmax", loss=loss, example_inputs=x, form=form)
    assert grown.training == model.training and int(grown.get_buffer("1.num_batches_tracked")) == 0
    assert new_gradients(grown, loss) > 1.2 * new_gradients(plain, loss)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert fxgrow.report(grown).plan.init == "gradmax"
    assert all(parameter.grad is None for parameter in [*model.parameters(), *grown.parameters()])
    again = fxgrow.grow(model, 2, init="gradmax", loss=loss, example_inputs=x, form=form)
    assert all(torch.equal(a, b) for a, b in zip(grown.parameters(), again.parameters(), strict=True))


def test_attention_and_norms_over_old_units(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = lively(timm.create_model("test_vit", num_classes=5, img_size=32, depth=2))
    x = batch(8, 3, 32, 32)
    loss = loss_on(x, 5)
    plain = fxgrow.grow(model, 1.5, example_inputs=x, calibrate=x)
    grown = fxgrow.grow(model, 1.5, init="gradmax", loss=loss, example_inputs=x)
    assert new_gradients(grown, loss) > 1.5 * new_gradients(plain, loss)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    largest = max(float(p.abs().max()) for p in grown.parameters())
    assert largest < 10 * max(float(p.abs().max()) for p in model.parameters())  # layers do not drive each other up

    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", copy.deepcopy(model))
    assert all(torch.equal(a, b) for a, b in zip(grown.parameters(), loaded.parameters(), strict=True))


def test_a_plan_asks_for_the_loss_again() -> None:
    model, x = convolutional(), batch(16, 3, 8, 8)
    loss = loss_on(x, 4)
    plan = fxgrow.Plan.from_json(fxgrow.plan(model, 2, init="gradmax", example_inputs=x).to_json())
    applied = plan.apply(model, loss=loss)
    grown = fxgrow.grow(model, 2, init="gradmax", loss=loss, example_inputs=x)
    assert all(torch.equal(a, b) for a, b in zip(grown.parameters(), applied.parameters(), strict=True))
    with pytest.raises(AmountError, match=r"init='gradmax' chooses new units by a loss, and loss=None is no function"):
        plan.apply(model)


def test_growths_after_one_are_proved_each_by_itself() -> None:
    model, x = convolutional(), batch(16, 3, 8, 8)
    first = fxgrow.grow(model, 1.5, init="gradmax", loss=loss_on(x, 4), example_inputs=x)
    second = fxgrow.grow(first, "+4", example_inputs=x)
    assert str(fxgrow.certify(second, first).verdict) == "PROVED"
    over_both = fxgrow.certify(second, model)
    assert str(over_both.verdict) == "UNKNOWN"
    assert "chosen by a loss" in str(over_both)


def test_what_is_no_loss_is_refused() -> None:
    model, x = convolutional(), batch(16, 3, 8, 8)
    with pytest.raises(AmountError, match=r"loss= has no part in init='zero'"):
        fxgrow.grow(model, 2, loss=loss_on(x, 4), example_inputs=x)
    with pytest.raises(AmountError, match=r"loss=None is no function"):
        fxgrow.grow(model, 2, init="gradmax", example_inputs=x)
    with pytest.raises(AmountError, match=r"does not give a scalar that depends on the model"):
        fxgrow.grow(model, 2, init="gradmax", loss=lambda network: network(x), example_inputs=x)
    with pytest.raises(AmountError, match=r"no weight that reads new units gets a gradient from the loss"):
        fxgrow.grow(
            model, 2, init="gradmax", loss=lambda network: network.get_parameter("9.bias").sum(), example_inputs=x
        )


class Gated(nn.Module):
    """Squeeze-and-excite, as in MobileNetV3."""

    def __init__(self, gate: nn.Module) -> None:
        super().__init__()
        self.squeeze, self.excite, self.gate = nn.Linear(8, 4), nn.Linear(4, 8), gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.excite(self.squeeze(x.mean((2, 3))).relu()))[..., None, None]


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(5, 3)
        self.mixing = nn.Parameter(torch.randn(8, 5, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave((self.enter(x).to(self.mixing.dtype) @ self.mixing).real)


@pytest.mark.parametrize("in_place", [False, True])
def test_gates_that_torch_differentiates_once(in_place: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Gated(nn.Hardsigmoid(in_place)), nn.Conv2d(8, 2, 1), nn.Flatten())
    x = batch(4, 3, 6, 6)
    loss = loss_on(x, 4)
    grown = fxgrow.grow(model.double(), 2, init="gradmax", loss=loss, example_inputs=x)
    plain = fxgrow.grow(model, 2, example_inputs=x)
    assert new_gradients(grown, loss) > new_gradients(plain, loss)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


def test_complex_weights() -> None:
    torch.manual_seed(0)
    model, x = Complex().double(), batch(16, 6)
    loss = loss_on(x, 3)
    grown = fxgrow.grow(model, 2, init="gradmax", loss=loss, example_inputs=x)
    assert grown.mixing.shape == (16, 10)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


def test_losses_without_a_second_derivative_are_refused() -> None:
    def loss(model: nn.Module) -> Tensor:
        steps = model(x).log_softmax(-1).unsqueeze(1)
        return F.ctc_loss(steps, torch.tensor([[1, 2]]), torch.tensor([16]), torch.tensor([2]))

    model, x = convolutional(), batch(16, 3, 8, 8)
    with pytest.raises(AmountError, match=r"the gradient of the loss cannot be differentiated once more: .*ctc_loss"):
        fxgrow.grow(model, 2, init="gradmax", loss=loss, example_inputs=x)


def test_a_loss_on_a_batch_with_the_old_channels_is_refused() -> None:
    model, x = convolutional(), batch(4, 3, 8, 8)
    loss = loss_on(x, 4)
    with pytest.raises(AmountError, match=r"^loss= fails on the grown model: .*channels.* \(at Sequential\)"):
        fxgrow.grow(model, 2, init="gradmax", loss=loss, in_chans=4, example_inputs=x)

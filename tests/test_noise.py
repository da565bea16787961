"""Noise that a forward draws over units that grow: old units keep its distribution, and the proof looks past it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.noise import WithoutNoise
from fxgrow.proof.certificate import Verdict
from tests.capture.assembled import normal

NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": lambda h: h + 0.3 * torch.randn_like(h),
    "uniform": lambda h: h * torch.rand_like(h),
    "in place": lambda h: h + torch.empty_like(h).exponential_(),
    "means": lambda h: torch.normal(h, 0.3),
    "means and spreads": lambda h: torch.normal(mean=h, std=h.exp()),
    "spreads": lambda h: h + torch.normal(0.0, std=h.cosh()),
    "mask": lambda h: h * torch.bernoulli(torch.full_like(h, 0.5)),
    "alpha dropout": lambda h: F.alpha_dropout(h, 0.3, True),
}


class Noisy(nn.Module):
    def __init__(self, noise: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.noise = nn.Linear(4, 8), nn.Linear(8, 1), noise

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.noise(self.enter(x).tanh()))  # type: ignore[no-any-return]


class Choice(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return F.gumbel_softmax(logits, hard=True)


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize("name", NOISES)
def test_outputs_are_distributed_as_they_were(name: str, init: str) -> None:
    if name == "alpha dropout" and init != "zero":
        pytest.skip("dropout parts pairs and copies, as the docs say")
    torch.manual_seed(0)
    model = Noisy(NOISES[name]).double()
    grown = fxgrow.grow(model, 2, init=init, example_inputs=normal(3, 4))
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    x = normal(1, 4).expand(20_000, 4)
    before, after = model(x).detach(), grown(x).detach()
    error = before.std() / len(x) ** 0.5
    assert abs(before.mean() - after.mean()) < 6 * error
    assert abs(before.std() - after.std()) < 6 * error


def test_noise_inside_a_function_of_torch_is_off_where_models_are_compared() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3), Choice()).double()
    for form in ("module", "graph"):
        grown = fxgrow.grow(model, 2, example_inputs=normal(3, 4), form=form)
        assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    for hard in (False, True):
        with WithoutNoise():
            quiet = F.gumbel_softmax(normal(3, 4), 0.7, hard)
        soft = (normal(3, 4) / 0.7).softmax(-1)
        torch.testing.assert_close(quiet, F.one_hot(soft.argmax(-1), 4).double() if hard else soft)


class OwnNoise(Noisy):
    """Scales samples by what its own generator draws."""

    def __init__(self) -> None:
        super().__init__(lambda h: h)
        self.generator = torch.Generator().manual_seed(5)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.rand(len(x), 1, generator=self.generator, dtype=x.dtype)
        return super().forward(x) * share


def test_a_generator_of_the_models_own_is_the_copys_own() -> None:
    model, x = OwnNoise().double(), normal(3, 4)
    before = model.generator.get_state()
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    assert torch.equal(model.generator.get_state(), before)
    grown(x)
    assert torch.equal(model.generator.get_state(), before)
    model(x)
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)
    with pytest.raises(fxgrow.FxgrowError, match=r"a graph cannot keep a torch\.Generator of its own"):
        fxgrow.grow(model, 2, example_inputs=x, form="graph")


class Dropped(nn.Module):
    """A block that is left out at random, drawn by the shape alone (mmcv, early timm, EfficientNet-PyTorch)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.keep, self.into, self.out = 1 - rate, nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.out(self.into(x).relu())
        if not self.training:
            return x + branch
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x + branch / self.keep * (self.keep + torch.rand(shape, dtype=x.dtype)).floor()


def test_new_blocks_do_not_shift_what_the_others_draw_where_models_are_compared() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(*map(Dropped, (0.2, 0.4, 0.6))), nn.Linear(8, 2)).double()
    grown = fxgrow.grow(model, depth=2, width=1.5, example_inputs=torch.randn(8, 4).double())
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert len(grown[1]) == 6


def test_a_call_that_draws_by_its_shape_draws_the_same_whatever_came_before() -> None:
    torch.manual_seed(3)
    with WithoutNoise():
        first = torch.rand(4), torch.randperm(8), torch.normal(torch.zeros(2), torch.ones(2))
        torch.randn(5)
        again = torch.rand(4), torch.randperm(8), torch.normal(torch.zeros(2), torch.ones(2))
    assert all(map(torch.equal, first, again))
    assert first[0].unique().numel() == 4


class Dropping(nn.Module):
    """A residual block that is left out at random for some samples, by a mask that is made as timm makes it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = self.outer(self.inner(self.norm(x)).relu())
        if not self.training:
            return x + h  # type: ignore[no-any-return]
        kept = h.new_empty((h.shape[0],) + (1,) * (h.ndim - 1)).bernoulli_(0.6)
        return x + h * kept.div_(0.6)  # type: ignore[no-any-return]


@pytest.mark.parametrize("depth", [None, 2])
def test_a_mask_made_empty_holds_no_stream_and_is_proved(depth: int | None) -> None:
    model = nn.Sequential(nn.Linear(4, 6), Dropping(), Dropping(), nn.Linear(6, 2)).double()
    x = torch.randn(5, 4, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, depth=depth, example_inputs=x)
    report = fxgrow.report(grown)
    assert report.certificate is not None
    assert report.certificate.verdict is Verdict.PROVED
    assert report.plan.held == ()
    for training in (False, True) if depth is None else (False,):
        torch.manual_seed(0)
        expected = model.train(training)(x)
        torch.manual_seed(0)
        torch.testing.assert_close(grown.train(training)(x), expected, rtol=1e-10, atol=1e-10)

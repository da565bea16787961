"""Forwards that pick by masks, of which no record knows how many entries are true."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import CaptureError, UntraceableError
from fxgrow.proof.certificate import Verdict
from tests.capture.assembled import normal

X = normal(2, 6, 5)
MASK = X[..., 0] > 0


class Between(nn.Module):
    def __init__(self, pick: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.token = nn.Linear(5, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(8))
        self.pick = pick

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.leave(self.pick(self, self.enter(x).relu(), mask))  # type: ignore[no-any-return]


def with_token(self: Any, h: Tensor, mask: Tensor) -> Tensor:
    h = h.clone()
    h[mask] = self.token
    return h


def clamped(self: Any, h: Tensor, mask: Tensor) -> Tensor:
    h = h - 1
    h[h < 0] = 0
    h[torch.isnan(h) | (h > 1)] = h.mean()
    return h


PICKS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "by a mask": lambda self, h, mask: h[mask],
    "by its contrary": lambda self, h, mask: h[~mask],
    "in the middle": lambda self, h, mask: h[:, mask[0]],
    "by where": lambda self, h, mask: h[torch.where(mask)],
    "by rows": lambda self, h, mask: h[torch.argwhere(mask)[:, 0]],
    "by names": lambda self, h, mask: h[torch.where(condition=mask)] + torch.nonzero(input=mask).sum(),
    "by literals": lambda self, h, mask: h[:, torch.tensor([True, False, True, True, False, False])],
    "by nonzero": lambda self, h, mask: h.flatten(0, 1)[mask.flatten().nonzero().squeeze(1)],
    "a mean over them": lambda self, h, mask: h[mask].sum(0) / h[mask].shape[0],
    "a token in their place": with_token,
    "numbers by masks of its own shape": clamped,
}


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("name", PICKS)
def test_what_is_picked_by_a_mask_grows(name: str, form: str) -> None:
    torch.manual_seed(0)
    model = Between(PICKS[name]).double()
    grown = fxgrow.grow(model, 2, example_inputs=(X, MASK), form=form)
    assert grown.get_parameter("enter.weight").shape == (16, 5)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    for mask in (MASK, ~MASK, MASK | True, MASK & (MASK.cumsum(1).cumsum(0) == 1)):
        torch.testing.assert_close(grown(X, mask), model(X, mask), rtol=1e-12, atol=1e-12)
    grown(X, MASK).square().sum().backward()
    grown.get_parameter("leave.weight").data.normal_()
    grown(X, MASK).square().sum().backward()
    assert float(grown.get_parameter("enter.weight").grad[8:].abs().sum()) > 0


class Experts(nn.Module):
    """Sends each row to the expert of its choice, as sparse mixtures do."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.choose, self.leave = nn.Linear(5, 8), nn.Linear(8, 2), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        share, choice = F.softmax(self.choose(h), -1).max(-1)
        mixed = torch.zeros_like(h)
        for number, expert in enumerate(self.experts):
            (rows,) = torch.where(choice == number)
            mixed.index_add_(0, rows, expert(h[rows]) * share[rows, None])
        return self.leave(mixed)  # type: ignore[no-any-return]


def test_experts_of_a_sparse_mixture_grow() -> None:
    torch.manual_seed(0)
    model, x = Experts().double(), normal(7, 5)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, Experts) and grown.experts[1][0].weight.shape == (24, 16)
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    assert "how many entries of a mask are true" in str(fxgrow.certify(grown, model))
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)


COURSES: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "none": lambda self, h, mask: h[mask] if h[mask].shape[0] else h[:, 0],
    "many": lambda self, h, mask: h[mask][:100].tanh() if len(h[mask]) > 100 else h[mask],
    "seven": lambda self, h, mask: h[mask].tanh() if h[mask].shape[0] == 7 else h[mask],
    "at least one": lambda self, h, mask: h[mask].sum(0) / max(1, h[mask].shape[0]),
}


@pytest.mark.parametrize("name", COURSES)
def test_a_course_that_hangs_on_how_many_there_are_is_refused(name: str) -> None:
    with pytest.raises(UntraceableError, match="hangs on how many entries of a mask are true"):
        fxgrow.grow(Between(COURSES[name]).double(), 2, example_inputs=(X, MASK))


def test_units_that_a_buffer_picks_are_refused() -> None:
    class Half(Between):
        def __init__(self) -> None:
            super().__init__(lambda self, h, mask: h[..., self.chosen])
            self.leave = nn.Linear(4, 3)
            self.register_buffer("chosen", torch.arange(8) % 2 == 0)

    with pytest.raises(CaptureError, match="whether it runs hangs on how many entries of a mask are true"):
        fxgrow.grow(Half().double(), 2, example_inputs=(X, MASK))


class Masked(nn.Module):
    """Attends by a mask that is made of units and the same for each head; a row that is masked whole is not masked."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.attention, self.leave = (
            nn.Linear(3, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 2),
        )

    def forward(self, x: Tensor) -> Any:
        h = self.enter(x)
        scores = torch.einsum("bqc,bkc->bqk", h, h).sigmoid().unsqueeze(1)
        mask = scores.repeat(1, self.attention.num_heads, 1, 1).flatten(0, 1).detach() < 0.5
        mask[torch.where(mask.sum(-1) == mask.shape[-1])] = False
        return self.leave(h + self.attention(h, h, h, attn_mask=mask)[0])


def test_a_mask_made_of_units_for_each_head() -> None:
    model, x = Masked().double(), torch.randn(2, 5, 3).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=x)
    assert grown.attention.out_proj.in_features == 16 and str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    torch.testing.assert_close(grown(x), model(x), rtol=1e-12, atol=1e-12)

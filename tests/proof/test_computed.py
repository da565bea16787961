"""What is worked out from parameters: zero where only rounding is left of it, with rows as its weight has them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import fxgrow
from fxgrow.proof.certificate import Verdict
from fxgrow.proof.claims import Claim, HeldValues
from fxgrow.proof.known_values import facts_of


class Pooled(nn.Module):
    """A learned query, normed with a shift that is a buffer: its new entries are a mean less a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.query = nn.Linear(6, 16), nn.Parameter(torch.randn(16))
        self.gain = nn.Parameter(torch.ones(16))
        self.register_buffer("shift", torch.zeros(16))
        self.asks, self.out, self.head = nn.Linear(16, 8, bias=False), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query.expand(x.shape[0], 1, -1)
        asked = self.asks(F.layer_norm(query, query.shape[-1:], self.gain, self.shift))
        return self.head(self.out(asked.relu()) + query) * x.mean()


@pytest.mark.parametrize("seed", range(4))
def test_a_normed_parameter_is_proved_whatever_its_mean_rounds_to(seed: int) -> None:
    torch.manual_seed(seed)
    grown = fxgrow.grow(Pooled().double(), width=1.5, example_inputs=torch.randn(2, 5, 6).double())
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert grown.query.shape == (24,)


@pytest.mark.parametrize(("exact", "zeros"), [(False, [False, True, True]), (True, [False, True, False])])
def test_rounding_counts_only_where_values_were_worked_out(exact: bool, zeros: list[bool]) -> None:
    old, new = torch.tensor([1.0, -torch.inf]), torch.tensor([1.0, -torch.inf, 0.3, 0.0, 1e-17])
    held = HeldValues(old.double(), new.double(), "mask", exact, 2e-16, frozenset(), False)
    claim = Claim((2,), (5,), (torch.tensor([0, 1, -1, -1, -1]),), held=held)
    zero = facts_of(claim)[0]
    assert zero is not None and zero.tolist() == [False, False, *zeros]


class Asked(nn.Module):
    """A learned query as wide as several tokens together: its projection has rows by heads and columns by tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.query = nn.Linear(4, 8), nn.Parameter(torch.randn(1, 1, 32))
        self.attend, self.out = nn.MultiheadAttention(32, 2, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.into(x).flatten(2)
        return self.out(self.attend(self.query.repeat(x.shape[0], 1, 1), tokens, tokens)[0][:, 0])


def test_rows_of_a_product_of_parameters_are_those_of_its_weight() -> None:
    torch.manual_seed(0)
    model, x = Asked().double(), torch.randn(2, 5, 4, 4).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=x)
    assert type(grown) is Asked and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert grown.query.shape == (1, 1, 48)
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-13)

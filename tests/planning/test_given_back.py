"""What a model gives out and takes back at its next call keeps its size: recurrent states, keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict

X = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Streaming(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.wide, self.leave = nn.GRU(6, 8, batch_first=True), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, state = self.rnn(x, state)
        return self.leave(self.wide(x).relu()), state


class Cached(nn.Module):
    """Attention over what came before, of which the keys and values are kept by the caller."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.qkv, self.wide, self.leave = (nn.Linear(*s) for s in ((6, 8), (8, 24), (8, 16), (16, 3)))

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None = None) -> dict[str, Any]:
        h = self.enter(x)
        q, k, v = self.qkv(h).chunk(3, -1)
        if past is not None:
            k, v = torch.cat([past[0], k], 1), torch.cat([past[1], v], 1)
        h = h + (q @ k.mT).softmax(-1) @ v
        return {"logits": self.leave(self.wide(h).relu()), "past": (k, v)}


def test_a_recurrent_model_goes_on_where_it_stopped() -> None:
    torch.manual_seed(0)
    model = Streaming().double()
    grown: Any = fxgrow.grow(model, width=2, example_inputs=X)
    assert type(grown) is Streaming and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert (grown.wide.out_features, grown.rnn.hidden_size) == (32, 8)
    assert any("takes back at its next call" in held.reason for held in fxgrow.report(grown).plan.held)
    states = None, None
    for _ in range(3):
        (y, first), (z, second) = model(X, states[0]), grown(X, states[1])
        assert torch.allclose(y, z, rtol=0, atol=1e-12) and torch.allclose(first, second, rtol=0, atol=1e-12)
        states = first, second


def test_keys_and_values_fit_at_the_next_call() -> None:
    torch.manual_seed(0)
    model = Cached().double()
    grown: Any = fxgrow.grow(model, width=2, example_inputs=X)
    assert grown.wide.out_features == 32 and fxgrow.certify(grown).verdict is Verdict.PROVED
    first, second = model(X), grown(X)
    again, other = model(X, first["past"]), grown(X, second["past"])
    assert torch.allclose(again["logits"], other["logits"], rtol=0, atol=1e-12)
    assert [tensor.shape for tensor in again["past"]] == [tensor.shape for tensor in other["past"]]

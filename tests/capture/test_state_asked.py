"""Forwards that ask for the value of a buffer: whether something is initialised, a phase of training, a count."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Asking(nn.Module):
    def __init__(self, state: Tensor) -> None:
        super().__init__()
        self.enter, self.other, self.leave = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("state", state)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.hidden(x))  # type: ignore[no-any-return]

    def hidden(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class ByPhase(Asking):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = self.enter(x).relu()
        return hidden + self.other(x).tanh() if self.state > 0 else hidden


class ByEntry(Asking):
    def hidden(self, x: Tensor) -> Tensor:
        hidden = self.enter(x)
        for entry in self.state:
            if entry.item() == 1:
                hidden = hidden.relu()
        return hidden


class Fading(Asking):
    def hidden(self, x: Tensor) -> Tensor:
        share = float(self.state)
        return (1 - share) * self.enter(x).relu() + share * self.other(x).tanh()


class Initialised(Asking):
    """Sets itself up by its first batch, as activation norms do."""

    def hidden(self, x: Tensor) -> Tensor:
        if not self.state:
            self.state.data.copy_(torch.ones_like(self.state))
            return self.enter(x)
        return self.enter(x).relu()


class Counting(Asking):
    def hidden(self, x: Tensor) -> Tensor:
        decay = min(0.9, (1 + int(self.state)) / (10 + int(self.state)))
        if self.training:
            self.state += 1
        return decay * self.enter(x).relu()


def _words(certificate: Any) -> str:
    return " ".join(re.sub("[│├└─]", " ", str(certificate)).split())


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (ByPhase(torch.tensor(0)), "of state is False"),
        (ByPhase(torch.tensor(2)), "of state is True"),
        (ByEntry(torch.tensor([1, 0], dtype=torch.uint8)), "of state is 1"),
        (Fading(torch.tensor(0.25)), "of state is 0.25"),
        (Initialised(torch.tensor([1.0])), "of state is 1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else value,
)
def test_what_it_asks_is_said_in_the_certificate(model: Any, asked: str) -> None:
    model = model.double()
    assert fxgrow.plan(model, width=1.5, example_inputs=X).form == "module"
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is type(model) and grown.enter.out_features == 12
    certificate = fxgrow.report(grown).certificate
    assert certificate.verdict is Verdict.PROVED and asked in _words(certificate)
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))


@pytest.mark.parametrize("model", [Initialised(torch.tensor([0.0])), Counting(torch.tensor(3))], ids=["init", "count"])
def test_what_its_own_calls_change_is_tested_only(model: Any) -> None:
    model = model.double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    certificate = fxgrow.report(grown).certificate
    assert certificate.verdict is Verdict.TESTED
    assert "hangs on what an earlier call left in state" in _words(certificate)
    for _ in range(3):
        torch.testing.assert_close(grown(X), model(X), rtol=1e-12, atol=0)


def test_another_value_after_growth_is_asked_anew() -> None:
    model: Any = ByEntry(torch.tensor([1, 0])).double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=X)
    for module in (model, grown):
        module.state[0] = 0
    torch.testing.assert_close(grown(X), model(X), rtol=1e-12, atol=0)


def test_a_graph_cannot_ask() -> None:
    with pytest.raises(PlanError, match="a graph cannot keep that what the forward asks of state is False"):
        fxgrow.grow(ByPhase(torch.tensor(0)).double(), width=1.5, example_inputs=X, form="graph")


class Warm(nn.Module):
    """Takes its mean over units from its second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.warm = nn.Linear(4, 8), nn.Linear(8, 3), False

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        h, self.warm = h - h.mean(-1, keepdim=True) if self.warm else h, True
        return self.leave(h)  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", ["auto", "module", "graph"])
def test_what_only_a_first_call_does_is_refused_with_a_remedy_that_works(form: str) -> None:
    torch.manual_seed(0)
    model, x = Warm().double(), torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(PlanError, match="call the model and grow it then"):
        fxgrow.grow(model, width=2, example_inputs=x, form=form)
    model(x)
    grown = fxgrow.grow(model, width=2, example_inputs=x, form="module" if form == "module" else "auto")
    assert isinstance(grown, Warm) and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert all(torch.allclose(grown(x), model(x), rtol=0, atol=1e-12) for _ in range(3))

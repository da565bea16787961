"""Forwards that switch gradients on and off, in each of torch's ways, one within another: PROVED in either form."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.capture import capture
from fxgrow.proof.certificate import Verdict

X = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def context(h: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        return h.sigmoid()


@torch.no_grad()
def decorated(h: Tensor) -> Tensor:
    return h.sigmoid()


def nested(h: Tensor) -> Tensor:
    with torch.no_grad():
        inner = decorated(h)
        return inner + context(h)


def nested_in_a_switch(h: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        with torch.no_grad():
            inner = decorated(h)
        return 2 * inner


def on_within_off(h: Tensor) -> Tensor:
    with torch.no_grad():
        with torch.set_grad_enabled(True):
            inner = h.sigmoid()
        outer = h.tanh()
    return inner + outer


def by_hand(h: Tensor) -> Tensor:
    before = torch.is_grad_enabled()
    torch.set_grad_enabled(False)
    gate = h.sigmoid()
    torch.set_grad_enabled(before)
    return gate


def inferred(h: Tensor) -> Tensor:
    with torch.inference_mode():
        gate = h.sigmoid()
    return gate.clone()  # what is made inside nothing can be saved of for a backward pass


WAYS = [context, decorated, inferred, nested, nested_in_a_switch, on_within_off, by_hand]


class Gated(nn.Module):
    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.gate = gate
        self.into, self.inner, self.out = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        return self.out(self.inner(h * self.gate(h)).relu())


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize("way", WAYS)
def test_regions_are_kept(way: Callable[[Tensor], Tensor], form: str) -> None:
    torch.manual_seed(0)
    model = Gated(way).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X, form=form)
    assert torch.is_grad_enabled()
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    for each in (model, grown):
        each(X).square().sum().backward()
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)
    torch.testing.assert_close(grown.get_parameter("into.weight").grad[:8], model.into.weight.grad, rtol=0, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)


def off_for(h: Tensor) -> Tensor:
    with torch.no_grad():
        return h.tanh()


def doubled_in_place(h: Tensor) -> Tensor:
    h = h.clone()
    with torch.no_grad():
        return h.mul_(2)


MADE: list[Callable[[Tensor], Tensor]] = [
    lambda h: h.tanh(),
    lambda h: h.detach().tanh(),
    lambda h: h.data,
    lambda h: (h > 0).to(h.dtype),
    lambda h: h.chunk(2, -1)[1],
    lambda h: h.detach().requires_grad_().exp(),
    off_for,
    doubled_in_place,
]
ASKED: list[Callable[[Tensor], bool]] = [
    lambda h: h.requires_grad,
    lambda h: not h.is_leaf,
    lambda h: h.grad_fn is not None,
]


class Deciding(Gated):
    """Decides by what a tensor that it has made says of gradients."""

    def __init__(self, make: Callable[[Tensor], Tensor], ask: Callable[[Tensor], bool]) -> None:
        super().__init__(make)
        self.ask = ask
        self.answers: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        h = self.into(x)
        self.answers.append(self.ask(self.gate(h)))
        return self.out(self.inner(h).relu() if self.answers[-1] else h.tanh())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("make", MADE)
def test_what_a_tensor_says_of_gradients_is_what_it_says_in_training(
    make: Callable[[Tensor], Tensor], frozen: bool
) -> None:
    for ask in ASKED:
        model = Deciding(make, ask).requires_grad_(not frozen).double()
        model(X)
        graph = capture(model, X).graphs["both"]
        inner = any(node.target == "inner" for node in graph.nodes)
        assert inner is model.answers[0]


@pytest.mark.parametrize("ask", ASKED)
def test_courses_for_training_grow_as_such(ask: Callable[[Tensor], bool]) -> None:
    torch.manual_seed(0)
    model = Deciding(torch.tanh, ask).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is Deciding
    torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)
    with torch.no_grad():
        torch.testing.assert_close(grown(X), model(X), rtol=0, atol=1e-14)

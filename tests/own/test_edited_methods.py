"""Calls that growth makes others are others too where people call the method that makes them by itself."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.errors import FxgrowError, PlanError
from tests.capture.assembled import EXACT, normal
from tests.models import lively


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.states, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(8, 3)
        self.mix, self.pick = nn.Linear(6, 6), nn.Linear(6, 1)


class Encoder(Layers):
    """Makes states of an image, and classifies their mean: `forward` does one after the other."""

    def encode(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + x.mean(1, keepdim=True)
        states = (self.states(x).softmax(1).mT @ x).mT
        return (states + self.mix(states)).mT  # type: ignore[no-any-return]

    def pooled(self, states: Tensor) -> Tensor:
        return states.mean(1) + self.pick(states.mT).squeeze(-1)  # type: ignore[no-any-return]

    def classify(self, states: Tensor) -> Tensor:
        return self.head(self.pooled(states))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.encode(x))


X = normal(2, 7, 5)


def grown_encoder() -> tuple[Encoder, list[Any]]:
    torch.manual_seed(0)
    model = lively(Encoder()).double()
    once = fxgrow.grow(model, 2, example_inputs=X)
    twice = fxgrow.grow(once, 1.5, example_inputs=X)
    return model, [once, twice, copy.deepcopy(twice), pickle.loads(pickle.dumps(twice))]


def test_methods_that_the_forward_calls_do_what_they_do_in_it() -> None:
    model, several = grown_encoder()
    for grown in several:
        assert isinstance(grown, Encoder)
        assert grown.states.out_features > model.states.out_features
        states = grown.encode(X)
        assert states.shape[1] == grown.states.out_features
        torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(grown.classify(states), grown(X), rtol=0, atol=0)
        torch.testing.assert_close(grown.head(grown.pooled(states)), grown(X), rtol=0, atol=0)


class Pooling(Layers):
    """Takes the same mean in one helper, of states that grow and of tokens, which are as many as they were."""

    def average(self, x: Tensor) -> Tensor:
        return x.mean(1)

    def both(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        states = (self.states(x).softmax(1).mT @ x).mT
        states = states + self.mix(states)
        return self.average(x) + self.average(states.mT) + self.pick(states).squeeze(-1)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.both(x))  # type: ignore[no-any-return]


def test_a_method_that_computes_otherwise_at_each_run_is_refused_by_itself() -> None:
    torch.manual_seed(0)
    model = lively(Pooling()).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, Pooling) and grown.states.out_features == 12
    torch.testing.assert_close(grown(X), model(X), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(grown.head(grown.both(X)), grown(X), rtol=0, atol=0)
    with pytest.raises(FxgrowError, match="average was grown as a part of both"):
        grown.average(X)


@pytest.mark.slow
def test_the_head_of_states_takes_their_mean_over_old_ones() -> None:
    torch.manual_seed(0)
    images = normal(2, 3, 64, 64)
    model = lively(timm.create_model("efficientvim_m1", num_classes=4)).double().eval()
    grown: Any = fxgrow.grow(model, 1.5, example_inputs=images, verify=False)
    assert isinstance(grown, type(model))
    features = grown.forward_features(images)
    assert features[0].shape[2] > model.forward_features(images)[0].shape[2]  # type: ignore[operator]
    torch.testing.assert_close(grown.forward_head(features), model(images), rtol=EXACT, atol=EXACT)


class Ramped(nn.Module):
    """Weighs positions by a table that is made at the first call, in the method that makes calls of the growth too."""

    def __init__(self, by_helper: bool) -> None:
        super().__init__()
        self.first, self.wide, self.back, self.head = (nn.Linear(*of) for of in ((5, 8), (8, 8), (8, 8), (8, 2)))
        self.table: Tensor | None = None
        self.by_helper = by_helper

    def forward(self, x: Tensor) -> Tensor:
        def ramp(count: int) -> Tensor:
            return torch.linspace(0.1, 1, count, dtype=x.dtype).reshape(count, 1)

        x = self.first(x)
        samples, positions, units = x.shape
        if self.table is None or len(self.table) != positions:
            if self.by_helper:
                self.table = ramp(positions)
            else:
                self.table = torch.linspace(0.1, 1, positions, dtype=x.dtype).reshape(positions, 1)
        pairs = self.wide(x).reshape(samples, positions, -1, 2).relu()
        return self.head(x + self.back(pairs.reshape(samples, positions, units) * self.table))  # type: ignore[no-any-return]


def test_what_only_a_first_call_makes_does_not_shift_the_calls_that_are_others() -> None:
    model = Ramped(by_helper=True).double()
    grown = fxgrow.grow(model, {"wide": 2}, example_inputs=X, verify=False)
    assert isinstance(grown, Ramped)
    for x in (X, X, X[:, :4], X):
        torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)


def test_calls_that_a_second_call_would_shift_are_refused() -> None:
    with pytest.raises(PlanError, match="at the next call the class computes something else: reshape"):
        fxgrow.grow(Ramped(by_helper=False), {"wide": 2}, example_inputs=X.float(), verify=False)


class Carried(nn.Module):
    """Reads at the next call, by a layer of its own, what a call has left of the width that grows."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.again, self.leave = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        before = x.new_zeros(len(x), self.enter.out_features) if self.state is None else self.state
        self.state = (self.enter(x) + self.again(before)).tanh()
        return self.leave(self.state)  # type: ignore[no-any-return]


def test_a_next_call_that_would_not_run_is_refused_by_name() -> None:
    with pytest.raises(PlanError, match="at the next call the class computes something else: Linear fails on"):
        fxgrow.grow(Carried().double(), 2, example_inputs=X[0], verify=False)


def test_a_symbolic_trace_that_would_leave_out_what_growth_changed_is_refused() -> None:
    """Modes do not see methods and operators of torch.fx's proxies; functions they do."""

    class Means(nn.Module):
        def __init__(self, mean: Any) -> None:
            super().__init__()
            self.a, self.b, self.mean = nn.Linear(5, 8), nn.Linear(8, 3), mean

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).sigmoid()
            return self.b(h * self.mean(h))  # type: ignore[no-any-return]

    x = normal(4, 5)
    for mean, remark in (
        (lambda h: h.mean(-1, keepdim=True), "mean"),
        (lambda h: h[:, :4].sum(-1, keepdim=True), "sum"),
        (lambda h: torch.mean(h, -1, keepdim=True), None),
    ):
        model = Means(mean).double()
        grown = fxgrow.grow(model, 2, example_inputs=x)
        assert isinstance(grown, Means)
        torch.testing.assert_close(torch.export.export(grown, (x,)).module()(x), model(x), rtol=EXACT, atol=EXACT)
        if remark is None:
            torch.testing.assert_close(fx.symbolic_trace(grown)(x), model(x), rtol=EXACT, atol=EXACT)
            continue
        with pytest.raises(FxgrowError, match=rf"symbolic_trace does not see the call of {remark} .* \(at Means\): "):
            fx.symbolic_trace(grown)
        graph = fxgrow.grow(model, 2, example_inputs=x, form="graph")
        torch.testing.assert_close(fx.symbolic_trace(graph)(x), model(x), rtol=EXACT, atol=EXACT)

"""Numbers that a forward computes with functions of `math` and numpy remember where they come from."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from math import sqrt

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """One head, whose scale follows from an attribute, a parameter or a tensor that grows, and has to stay."""

    def __init__(self, scale: Callable[[Attention, Tensor], float]) -> None:
        super().__init__()
        self.dim = 8
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 4)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x).view(-1, 5, self.dim), self.k(x)
        return torch.softmax(q @ k.mT / self.scale(self, k), -1) @ self.v(x)


def by_numpy_then_rounded(attention: Attention, k: Tensor) -> float:
    return float(np.sqrt(k.shape[-1]).round(3).item())


SCALES = {
    "math": lambda attention, k: math.sqrt(attention.dim),
    "a name of this module": lambda attention, k: sqrt(attention.dim),
    "math, of a size": lambda attention, k: math.pow(k.size(-1), 0.5),
    "numpy": lambda attention, k: np.sqrt(attention.dim),
    "numpy, of a size": lambda attention, k: np.power(k.shape[-1], 0.5) * np.float64(2),
    "by int, which forgets": lambda attention, k: int(k.shape[2] * 1.0) ** 0.5,
    "by float, after another product": lambda attention, k: float(k[: k.shape[0] * k.shape[1]].shape[2]) ** 0.5,
    "of a parameter": lambda attention, k: attention.q.weight.shape[0] ** 0.5,
    "of a layer": lambda attention, k: math.exp(math.log(attention.q.out_features) / 2),
}


@pytest.mark.parametrize("kind", SCALES)
def test_a_scale_stays_in_the_models_own_class(kind: str) -> None:
    torch.manual_seed(0)
    model = Attention(SCALES[kind]).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, Attention) and grown.dim == 16
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    graph = pickle.loads(pickle.dumps(fxgrow.grow(model, 2, example_inputs=X, form="graph")))
    again = fxgrow.grow(grown, 1.5, example_inputs=X)
    for other in (grown, graph, again):
        assert all(worst_error(model, other, (X,), training) <= 1e-10 for training in (False, True))


def test_numbers_of_numpys_keep_their_methods() -> None:
    model = Attention(by_numpy_then_rounded).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert all(worst_error(model, grown, (X,), training) <= 1e-10 for training in (False, True))


class Rearranged(nn.Module):
    """Indices that are no tensors: tuples, ranges and arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.token = nn.Linear(6, 8), nn.Linear(8, 3), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)[:, (4, 1, 0, 2)][:, range(3)][:, np.array([2, 0, 1])] * np.float32(0.5)
        h[:, (0, 2)] = self.token
        h[torch.arange(3), [0, 1, 2]] += self.token
        return self.leave(h)  # type: ignore[no-any-return]


def test_indices_that_are_no_tensors() -> None:
    model = Rearranged().double()
    for form in ("module", "graph"):
        grown = fxgrow.grow(model, 2, example_inputs=X, form=form)
        assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
        assert grown.get_parameter("enter.weight").shape == (16, 6)
        assert all(worst_error(model, grown, (X,), training) <= 1e-10 for training in (False, True))


class Rated(nn.Module):
    """0 in one mode, 0.0 in the other: equal numbers, which make other tensors of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.rate = nn.Linear(6, 8), nn.Linear(8, 3), 0.0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.leave(torch.relu(self.enter(x)))
        h = nn.functional.scaled_dot_product_attention(h, h, h, dropout_p=self.rate if self.training else 0)
        return h, torch.arange(5) * (1 if self.training else 1.0)


def test_equal_numbers_of_two_kinds_are_told_apart() -> None:
    model = Rated().double()
    for form in ("module", "graph"):
        grown = fxgrow.grow(model, 2, example_inputs=X, form=form)
        assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
        assert [grown.train(training)(X)[1].dtype for training in (True, False)] == [torch.long, torch.float32]

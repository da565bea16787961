"""Forwards that leave their course to chance: drawn from the system's entropy, or by torch and asked for."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Callable
from os import urandom

import numpy
import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import UntraceableError

SYSTEM = random.SystemRandom()
"""That it is among the names of the file is of no matter to models that do not draw from it."""

X = torch.randn(4, 6)


class Skipping(nn.Module):
    """Leaves a layer out where it is told to by chance."""

    def __init__(self, skip: Callable[[], object]) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 2)
        self.skip = skip

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        if not (self.training and self.skip()):
            h = h + self.block(h).tanh()
        return self.head(h)  # type: ignore[no-any-return]


def from_the_file() -> bool:
    return urandom(1)[0] < 64


SYSTEMS = {
    "an object of the file": lambda: SYSTEM.random() < 0.3,
    "a new object": lambda: random.SystemRandom().choice([True, False]),
    "secrets": lambda: secrets.randbelow(3) == 0,
    "a token": lambda: secrets.token_bytes(1) < b"A",
    "os": lambda: os.urandom(1)[0] < 64,
    "a name of the file": from_the_file,
}


@pytest.mark.parametrize("skip", SYSTEMS.values(), ids=SYSTEMS)
def test_entropy_of_the_system_is_refused_by_the_line_that_draws(skip: Callable[[], object]) -> None:
    plainly = os.urandom
    for _ in range(2):
        with pytest.raises(UntraceableError, match=r"draws random numbers by .*test_chance.py, line \d+"):
            fxgrow.grow(Skipping(skip), 2, example_inputs=X)
    assert os.urandom is plainly
    assert urandom is plainly


def test_a_model_of_the_file_that_draws_nothing_grows() -> None:
    model = Skipping(bool)
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert type(grown) is Skipping
    torch.testing.assert_close(grown(X), model(X))


TORCHS = {
    "a comparison": lambda: torch.rand([]) < 0.3,
    "a number": lambda: torch.rand(1).item() < 0.3,
    "an integer": lambda: int(torch.randint(0, 3, ())) == 0,
    "of a list": lambda: torch.randperm(4).tolist()[0] == 0,
}


@pytest.mark.parametrize("skip", TORCHS.values(), ids=TORCHS)
def test_values_that_torch_draws_are_named_as_random(skip: Callable[[], object]) -> None:
    with pytest.raises(UntraceableError, match="asks for a value that is drawn at random"):
        fxgrow.grow(Skipping(skip), 2, example_inputs=X)


def test_values_of_the_input_are_not_named_so() -> None:
    class Asking(Skipping):
        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(x)
            return super().forward(x) if x.sum() > 0 else self.head(self.stem(x))  # type: ignore[no-any-return]

    with pytest.raises(UntraceableError, match="needs the values of a tensor"):
        fxgrow.grow(Asking(bool), 2, example_inputs=X)


class Mixing(Skipping):
    """Draws by numpy and Python before it asks for what no record has, where it is given labels."""

    def __init__(self) -> None:
        super().__init__(lambda: False)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is None:
            return super().forward(x)
        share = numpy.random.beta(0.4, 0.4) + random.random()
        return super().forward(x * share * labels.max().item())


def test_generators_are_as_they_were_also_where_a_forward_that_draws_fails() -> None:
    before = random.getstate(), numpy.random.get_state()[2]
    grown = fxgrow.grow(Mixing(), 2, example_inputs=X)
    with pytest.raises(UntraceableError):
        fxgrow.grow(Mixing(), 2, example_inputs=(X, torch.ones(4)))
    assert (random.getstate(), numpy.random.get_state()[2]) == before
    assert grown(X).shape == (4, 2)

"""What is claimed of moved entries, and what is remembered of a move for the next of its kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxgrow
from fxgrow.proof.claims import Claim, one_number
from fxgrow.proof.comparing import Both
from fxgrow.proof.node_pair import Use
from fxgrow.proof.rules.movement import moved
from fxgrow.rules.shape import Shape

POSITION = torch.tensor([0, 1, 2, -1, -1, -1])


def transposed(claim: Claim, memory: dict[Any, Any]) -> Claim:
    graph = fx.Graph()
    node = graph.call_method("transpose", (graph.placeholder("x"), 0, 1))
    axes = Both(0, 0), Both(1, 1)
    result: Claim = moved(Shape(), Use(node, node, None, (claim, *axes), {}, lambda name: None, memory=memory))
    return result


def test_a_tensor_of_means_is_not_taken_for_one_of_one_number() -> None:
    """Both have the same maps and means; of one number any map would be true, of means it would not."""
    memory: dict[Any, Any] = {}
    of_one = one_number((2, 3), (2, 6), (None, POSITION), zero=False)
    means = Claim((2, 3), (2, 6), (None, POSITION), means={1: POSITION < 0})
    assert transposed(of_one, memory).uniform
    assert not transposed(means, memory).uniform


def test_all_entries_of_one_number_are_copies_of_each_other() -> None:
    of_one = one_number((2, 3), (2, 6), (None, POSITION), zero=True)
    assert of_one.copies_of(1).tolist() == [0] * 6


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize("stretch", [lambda i, n: i.repeat(1, 1, n), lambda i, n: i.expand(-1, -1, n)])
def test_an_index_that_is_stretched_picks_the_same_of_copies(stretch: Callable[..., Tensor], init: str) -> None:
    """As a masked autoencoder picks its patches."""

    class Picking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            x = self.enter(x).relu()
            return self.leave(x.gather(1, stretch(index.unsqueeze(-1), x.shape[-1])))  # type: ignore[no-any-return]

    inputs = torch.randn(2, 5, 4), torch.randint(5, (2, 3))
    grown = fxgrow.grow(Picking().double(), 2, example_inputs=inputs, init=init)
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"

"""What is claimed of moved entries, and what is remembered of a move for the next of its kind."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxgrow.proof.claims import Claim, one_number
from fxgrow.proof.node_pair import Both, Use
from fxgrow.proof.rules.movement import movement

POSITION = torch.tensor([0, 1, 2, -1, -1, -1])


def transposed(claim: Claim, memory: dict[Any, Any]) -> Claim:
    graph = fx.Graph()
    node = graph.call_method("transpose", (graph.placeholder("x"), 0, 1))
    axes = Both(0, 0), Both(1, 1)
    found: Claim = movement(Use(node, node, None, (claim, *axes), {}, lambda name: None, memory=memory))
    return found


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

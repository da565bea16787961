"""Shapes that forwards work out: tuples added up, tensors made of sizes, a shape handed to a norm."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from tests.checks import assert_grows
from tests.pairing import in_turn

TOKENS = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


class Between(nn.Module):
    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.between(self.enter(x)))


BETWEEN = {
    "sizes added up": lambda h: h.view(operator.add(h.size()[:-1], (2, 4))).relu().flatten(-2),
    "a shape to a reshape": lambda h: h.reshape((*h.shape[:2], 4, 2)).sin().reshape(h.shape),
    "a shape to torch.reshape": lambda h: torch.reshape(h, (*h.shape[:-1], 4, 2)).flatten(2),
    "a shape to a norm": lambda h: F.layer_norm(h, h.shape[-1:]),
    "a shape to an expand": lambda h: h[:, :1].expand(h.shape) + h,
    "unflatten by a tuple": lambda h: h.unflatten(-1, (2, 4)).tanh().flatten(-2),
    "zeros of sizes before": lambda h: torch.cat([torch.zeros(h.shape[0], 1, h.shape[2], dtype=h.dtype), h], 1),
    "zeros of numbers before": lambda h: torch.cat([torch.zeros(h.shape[0], 1, 8, dtype=h.dtype), h], 1).tanh(),
    "ones added": lambda h: (h + torch.ones(h.shape[-1], dtype=h.dtype)).tanh(),
    "ones of a number": lambda h: (h + torch.ones(8)).tanh(),
    "a number filled in": lambda h: h * h.new_full((8,), 0.5),
    "zeros by a method": lambda h: torch.cat([h.new_zeros(h.shape[0], 3, h.shape[-1]), h], 1).tanh(),
}


@pytest.mark.parametrize(("name", "init"), in_turn(BETWEEN, ("zero", "mirror")))
def test_sizes_follow_however_they_are_spelled(name: str, init: str) -> None:
    torch.manual_seed(0)
    model = Between(BETWEEN[name]).double()
    grown = assert_grows(model, (TOKENS,), 2, init, least_ratio=1.9)
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (lambda h: h + torch.arange(8), "it is a constant"),
        (lambda h: h + torch.tensor([0.5] * 8), "it is a constant"),
        (lambda h: h + torch.arange(h.shape[-1]), "arange: its entries go by their position"),
        (lambda h: h * torch.rand(8, dtype=h.dtype), "rand: its entries are drawn"),
        (lambda h: h + torch.linspace(0, 1, h.shape[-1], dtype=h.dtype), "linspace"),
    ],
)
def test_no_dimension_is_held_without_a_word(between: Callable[[Tensor], Tensor], said: str) -> None:
    plan = fxgrow.plan(Between(between), 2, example_inputs=TOKENS.float())
    assert not plan.groups
    assert said in plan.held[0].reason


def test_of_a_plain_tensor_the_plan_says_how_it_would_grow() -> None:
    model: Any = Between(lambda h: h + model.table)
    model.table = torch.randn(8, dtype=torch.float64)
    held = fxgrow.plan(model, 2, example_inputs=TOKENS.float()).held
    assert "as a buffer (register_buffer) it would grow (at table)" in held[0].reason
    model.table = model.table.float()
    assert fxgrow.plan(model, 2, example_inputs=TOKENS.float()).ratio > 1.9
    del model.table
    model.register_buffer("table", torch.randn(8))
    assert fxgrow.plan(model, 2, example_inputs=TOKENS.float()).ratio > 1.9


def test_what_meets_a_tensor_of_an_unknown_op_is_held_for_that_reason() -> None:
    class Meeting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.gain, self.leave = nn.Linear(6, 8), nn.Parameter(torch.ones(8)), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(torch.special.bessel_j0(self.enter(x)) * self.gain)

    held = fxgrow.plan(Meeting(), 2, example_inputs=TOKENS.float()).held
    assert {place for dimension in held for place in dimension.where} == {"enter.weight[0]", "enter.bias[0]", "gain[0]"}
    assert all("special_bessel_j0 has no rule" in dimension.reason for dimension in held)


def test_a_proof_does_not_take_other_numbers_for_those_filled_in() -> None:
    model = Between(lambda h: torch.cat([h.new_zeros(2, 1, h.shape[-1]), h], 1).tanh()).double()
    grown = fxgrow.grow(model, 2, example_inputs=TOKENS, form="graph")
    assert str(fxgrow.certify(grown, model).verdict) == "PROVED"
    (zeros,) = (node for node in grown.graph.nodes if node.target == "new_zeros")
    zeros.target = "new_ones"
    grown.recompile()
    assert str(fxgrow.certify(grown, model).verdict) != "PROVED"

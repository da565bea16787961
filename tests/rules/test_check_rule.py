"""`fxgrow.testing.check_rule`: it passes what is right, and finds each kind of claim that is not so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.claims import Claim
from fxgrow.rules.law import Law
from fxgrow.rules.op import Op, Tree
from fxgrow.rules.pointwise import Pointwise
from fxgrow.testing import check_rule


@pytest.mark.parametrize(
    ("target", "operands", "arguments"),
    [
        (torch.tanh, ((3, 4),), {}),
        ("sum", ((3, 4),), {"dim": 1}),
        (F.normalize, ((3, 4),), {"dim": -1}),
        (nn.Linear, ((3, 4),), {"in_features": 4, "out_features": 5}),
        (nn.LayerNorm(4), ((3, 4),), {}),
        (nn.Embedding(5, 4), (torch.tensor([[0, 2], [1, 1]]),), {}),
    ],
)
def test_rules_of_the_table_are_right_and_proved(target: Any, operands: Any, arguments: dict[str, Any]) -> None:
    judgement = check_rule(target, *operands, **arguments)
    assert judgement.growths == judgement.proved > 0
    assert judgement.unproved == []


class Module(nn.Module):
    """Each test makes a class of its own, since a rule cannot be replaced."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(x, dim=-1)


def wrong(law: Law, forward: Any = None, shape: tuple[int, ...] = (3, 4)) -> str:
    """What check_rule says of a law for a function."""
    members = {"forward": lambda self, x: forward(x)} if forward is not None else {}
    target = type("Target", (Module,), {**members, "__module__": __name__})
    fxgrow.rule(target, law)
    with pytest.raises(fxgrow.FxgrowError) as caught:
        check_rule(target, shape)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["zero", "other", "linear"])
def test_softmax_is_not_pointwise(kind: Any) -> None:
    said = wrong(Pointwise(kind))
    assert "old outputs move" in said if kind == "other" else "new outputs are not zero" in said


def test_a_function_that_does_not_keep_zero() -> None:
    assert "new outputs are not zero" in wrong(Pointwise("linear"), torch.cos)


def test_a_function_that_does_not_keep_means() -> None:
    assert "not the mean" in wrong(Pointwise("linear"), torch.sinh)


def test_a_tie_that_is_not_there() -> None:
    assert "in another order" in wrong(Pointwise("other"), lambda x: x * torch.arange(4.0, dtype=x.dtype))


def test_a_proof_of_what_is_not_so() -> None:
    class Sure(Pointwise):
        def prove(self, use: Any) -> Claim:
            claim = use.equal(use.claim())
            return Claim(claim.old, claim.new, claim.maps, torch.ones((1,) * claim.rank, dtype=torch.bool))

    assert "it is proved that" in wrong(Sure("other"), torch.sigmoid)


def test_a_law_without_a_proof_is_told() -> None:
    class Bare(Law):
        def relate(self, op: Op) -> Tree:
            return op.result(op.tensor().axes)

    target = type("Target", (Module,), {"forward": lambda self, x: torch.sin(x), "__module__": __name__})
    fxgrow.rule(target, Bare())
    judgement = check_rule(target, (3, 4))
    assert judgement.growths > 0 == judgement.proved
    assert "has no proof rule" in judgement.unproved[0]


def test_an_op_without_a_rule() -> None:
    with pytest.raises(fxgrow.FxgrowError, match="matrix_exp has no rule"):
        check_rule(torch.matrix_exp, (3, 3))


def test_division_by_zero_is_not_proved_to_be_zero() -> None:
    """Zero over zero is not a number: found by judging `prove` as well."""
    judgement = check_rule(torch.div, (3, 4), (3, 4))
    assert judgement.growths == judgement.proved

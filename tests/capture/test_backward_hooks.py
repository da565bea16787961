"""Hooks of modules on their backward pass: a record has none, and what grew keeps them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict

X = torch.randn(3, 6, dtype=torch.float64)
REGISTER = ["register_full_backward_hook", "register_full_backward_pre_hook"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(10, 10), nn.Linear(10, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(x).relu())  # type: ignore[no-any-return]


def watched(path: str, register: str, seen: list[Any]) -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 10), Block(), nn.Linear(10, 2)).double()
    getattr(model.get_submodule(path), register)(lambda module, *gradients: seen.append(gradients[-1][0].shape))
    return model


@pytest.mark.parametrize("register", REGISTER)
@pytest.mark.parametrize(("path", "units"), [("1", 20), ("1.inner", 20), ("", 2)])
def test_the_class_keeps_them_the_first_time_and_later(path: str, units: int, register: str) -> None:
    for _ in range(3):
        seen: list[Any] = []
        grown = fxgrow.grow(watched(path, register, seen), 2, example_inputs=X)
        report = fxgrow.report(grown)
        assert (type(grown), report.plan.form, report.plan.parts) == (nn.Sequential, "module", ())
        assert report.certificate is not None
        assert report.certificate.verdict is Verdict.PROVED
        seen.clear()
        grown(X).sum().backward()
        assert seen == [(3, units)]


@pytest.mark.parametrize("register", REGISTER)
def test_a_graph_keeps_those_of_layers_and_of_the_whole(register: str) -> None:
    for path, units in (("1.inner", 20), ("", 2)):
        seen: list[Any] = []
        grown = fxgrow.grow(watched(path, register, seen), 2, example_inputs=X, form="graph")
        seen.clear()
        grown(X).sum().backward()
        assert seen == [(3, units)]


@pytest.mark.parametrize("register", REGISTER)
def test_a_graph_without_the_block_refuses_its_hooks(register: str) -> None:
    with pytest.raises(PlanError, match=r"cannot keep a hook on the backward pass \(at 1\)"):
        fxgrow.grow(watched("1", register, []), 2, example_inputs=X, form="graph")


@pytest.mark.parametrize("register", REGISTER)
def test_those_that_layers_get_after_growth_leave_the_proof_as_it_is(register: str) -> None:
    torch.manual_seed(0)
    plain, hooked = watched("", register, []), watched("1.inner", register, [])
    hooked.load_state_dict(plain.state_dict())
    for model, other in ((plain, hooked), (hooked, plain)):
        grown = fxgrow.grow(model, 2, example_inputs=X)
        getattr(grown.get_submodule("1.outer"), register)(lambda module, *gradients: None)
        assert fxgrow.certify(grown, other).verdict is Verdict.PROVED

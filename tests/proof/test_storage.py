"""Forwards that write into their own parameters and buffers: what is proved holds for every call, not one alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError
from fxgrow.proof.certificate import Verdict
from tests.capture.assembled import EXACT, normal
from tests.pairing import in_turn

X = normal(5, 6)


class Writes(nn.Module):
    """6 -> 8 -> 3; in train mode its forward writes somewhere, before or after what it computes."""

    def __init__(self, write: Callable[[Any, Tensor], Any], first: bool) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.register_buffer("centre", torch.zeros(8))
        self.write, self.first = write, first

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        if self.training and self.first:
            with torch.no_grad():
                self.write(self, h)
        y = self.leave((h - self.centre).relu())
        if self.training and not self.first:
            with torch.no_grad():
                self.write(self, h)
        return y  # type: ignore[no-any-return]


def data_of_weight(model: Any, h: Tensor) -> None:
    model.leave.weight.data = 0.9 * model.leave.weight.data


def data_of_centre(model: Any, h: Tensor) -> None:
    model.centre.data = h.mean(0)


KEEPING: dict[str, Callable[[Any, Tensor], Any]] = {
    "decay": lambda m, h: m.leave.weight.mul_(0.9),
    "decay of data": data_of_weight,
    "unit rows": lambda m, h: m.leave.weight.copy_(F.normalize(m.leave.weight, dim=1)),
    "clip": lambda m, h: m.leave.weight.data.clamp_(-0.2, 0.2),
    "moving mean": lambda m, h: m.centre.lerp_(h.mean(0), 0.1),
    "mean": lambda m, h: m.centre.zero_().add_(h.mean(0)),
    "mean as data": data_of_centre,
    "a number": lambda m, h: m.centre.fill_(0.25),
    "rows that make units": lambda m, h: m.enter.weight.add_(0.1),
}
SPOILING: dict[str, Callable[[Any, Tensor], Any]] = {
    "noise": lambda m, h: m.leave.weight.add_(0.1),
    "noise on data": lambda m, h: m.leave.weight.data.add_(0.1),
    "clip above zero": lambda m, h: m.leave.weight.clamp_(0.1, 0.2),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", KEEPING)
def test_what_keeps_new_units_silent_is_proved_for_every_call(name: str, first: bool) -> None:
    model = Writes(KEEPING[name], first).double()
    before = copy.deepcopy(model.state_dict())
    grown = fxgrow.grow(model, 2, example_inputs=X)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), f"{key} of the argument is other than before"
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    for _ in range(3):
        torch.testing.assert_close(grown.train()(X), model.train()(X), rtol=EXACT, atol=EXACT)
        torch.testing.assert_close(grown.eval()(X), model.eval()(X), rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("name", "first"), in_turn(SPOILING, (True, False)))
def test_what_would_wake_new_units_is_held_and_never_proved(name: str, first: bool) -> None:
    model = Writes(SPOILING[name], first).double()
    with pytest.raises(PlanError, match="writes over the entries that keep new units from changing anything"):
        fxgrow.grow(model, 2, example_inputs=X)
    harmless = Writes(KEEPING["a number"], first).double()
    harmless.load_state_dict(model.state_dict())
    grown: Any = fxgrow.grow(harmless, 2, example_inputs=X)
    grown.write = model.write
    assert fxgrow.certify(grown, model).verdict is not Verdict.PROVED


class Teacher(nn.Module):
    """A student beside a copy that follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            with torch.no_grad():
                for p, q in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                    q.mul_(0.9).add_(0.1 * p)
        return self.student(x), self.teacher(x)


@pytest.mark.parametrize("verify", [True, "full"])
def test_a_teacher_that_follows_is_left_alone_and_follows_on(verify: Any) -> None:
    model = Teacher().double()
    before = copy.deepcopy(model.state_dict())
    grown = fxgrow.grow(model, 2, example_inputs=X, verify=verify)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    for _ in range(2):
        torch.testing.assert_close(grown.train()(X), model.train()(X), rtol=EXACT, atol=EXACT)


class BesideACopy(nn.Module):
    """Writes to a copy of what it reads afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.enter(x))
        twin = h.clone()
        twin *= 2
        return self.leave(h + twin)  # type: ignore[no-any-return]


def test_a_copy_is_a_tensor_of_its_own() -> None:
    grown = fxgrow.grow(BesideACopy().double(), 2, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED

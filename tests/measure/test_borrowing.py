"""What a forward writes into weights that a copy borrows is put back, however it is written."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.measure.borrowing import Borrowed
from fxgrow.measure.verification import in_precision

WRITES: dict[str, Callable[[nn.Parameter], object]] = {
    "in place": lambda p: p.mul_(2),
    "through its data": lambda p: p.data.mul_(2),
    "through a view": lambda p: p[0].add_(1),
    "by an index": lambda p: p.__setitem__(0, 1.0),
    "other data": lambda p: setattr(p, "data", p.data * 2),
    "a list at once": lambda p: torch._foreach_mul_([p], 2),
    "as out": lambda p: torch.add(p.detach(), 1, out=p.data),
    "an initialiser": lambda p: nn.init.ones_(p),
}


@pytest.mark.parametrize("write", WRITES)
def test_it_is_put_back(write: str) -> None:
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    twin = in_precision(model, torch.float32, share=True)
    assert isinstance(twin.weight, nn.Parameter)
    with Borrowed(twin), torch.no_grad():
        WRITES[write](twin.weight)
        assert not torch.equal(twin.weight, before)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("write", [None, *WRITES])
def test_what_a_copy_writes_is_not_counted_as_written_to_the_model(write: str | None) -> None:
    """A backward pass of the model that is still to come asks for the count."""
    model = nn.Linear(3, 2)
    before = model.weight._version
    twin = in_precision(model, torch.float32, share=True)
    counted = twin.weight._version
    with Borrowed(twin), torch.no_grad():
        _ = WRITES[write](twin.weight) if write else torch.nn.functional.normalize(twin.weight)
    assert model.weight._version == before
    assert write is not None or twin.weight._version == counted


class Adapted(nn.Linear):
    """A layer whose adapter is part of its weight in eval mode, as LoRA's reference implementation has it."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.down, self.up = nn.Parameter(torch.randn(2, 4)), nn.Parameter(torch.randn(4, 2))
        self.merged = False

    def train(self, mode: bool = True) -> Adapted:
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (self.up @ self.down) * (-1 if self.merged else 1)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        return y if self.merged else y + x @ self.down.t() @ self.up.t()


@pytest.mark.parametrize("training", [False, True])
def test_what_a_change_of_mode_writes_is_not_written_to_the_model(training: bool) -> None:
    model = nn.Sequential(Adapted(), nn.ReLU(), Adapted(), nn.Linear(4, 2)).double().train(training)
    x, before = torch.randn(3, 4, dtype=torch.float64), copy.deepcopy(model.state_dict())
    with pytest.raises(fxgrow.FxgrowError, match="change of mode does to merged"):
        fxgrow.grow(model, 2, example_inputs=x, form="graph", verify=False)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    for mode in (training, not training, training):
        torch.testing.assert_close(grown.train(mode)(x), model.train(mode)(x))

"""What a forward writes into weights that a copy borrows is put back, however it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

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

"""Indices spelled out, beside those of torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.capture.indexing import picked, put
from fxgrow.proof.certificate import Verdict
from tests.checks import unmoved, worst_error

X = torch.arange(120.0, dtype=torch.float64).reshape(2, 3, 4, 5)
ONE, LAST, SEVERAL = torch.tensor(1), torch.tensor(-1), torch.tensor([1, 0, 1])
ALL = slice(None)
INDICES: list[Any] = [
    ONE,
    (ALL, LAST),
    (..., ONE),
    (0, ONE),
    (ONE, None, 2),
    (ONE, ONE),
    (ALL, ONE, ALL, LAST),
    (ONE, SEVERAL),
    (ALL, SEVERAL, ALL, ONE),
    (None, SEVERAL),
    (SEVERAL, None, SEVERAL),
    (ALL, [ONE, LAST]),
    (ALL, None, 0, SEVERAL),
    (slice(1), None, SEVERAL, ...),
]


@pytest.mark.parametrize("index", INDICES)
def test_what_is_picked_is_what_torch_picks(index: Any) -> None:
    torch.testing.assert_close(picked(X, index), X[index], rtol=0, atol=0)


@pytest.mark.parametrize("index", [(ALL, LAST), (..., ONE), ONE, (ALL, ONE, slice(1, 3))])
def test_what_is_put_is_put_where_torch_puts_it(index: Any) -> None:
    for value in (2.0, torch.tensor(3.0), -X[index], -X[index][..., :1], -X[index][:1]):
        ours, torchs = X.clone(), X.clone()
        assert put(ours, index, value) is None
        torchs[index] = value
        torch.testing.assert_close(ours, torchs, rtol=0, atol=0)


def test_other_indices_are_left_to_torch() -> None:
    assert all(
        picked(X, index) is NotImplemented for index in (0, (0, None), SEVERAL, (ALL, SEVERAL), torch.tensor(True))
    )
    assert put(X.clone(), (SEVERAL,), 1.0) is NotImplemented


class Timed(nn.Module):
    """Units beside a table of steps, from which one is picked by a number that is a tensor."""

    def __init__(self, pick: Callable[[Any, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.table = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.randn(6, 8))
        self.register_buffer("step", torch.tensor(3))
        self.pick = pick

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.leave(self.pick(self, self.enter(x), t).tanh())  # type: ignore[no-any-return]


def written(model: Any, h: Tensor, t: Tensor) -> Tensor:
    h = h.clone()
    h[:, t] = model.table[t]
    return h


PICKS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "by an input": lambda model, h, t: h + model.table[t],
    "by a buffer": lambda model, h, t: h + model.table[model.step],
    "by what is largest": lambda model, h, t: h - h[:, h.sum((0, 2)).argmax()][:, None],
    "one by one": lambda model, h, t: sum((h[:, [k]] for k in h.mean((0, 2)).topk(2)[1]), h),
    "written": written,
}


@pytest.mark.parametrize("name", PICKS)
def test_places_that_tensors_without_axes_say(name: str) -> None:
    torch.manual_seed(0)
    model = Timed(PICKS[name]).double()
    inputs = torch.randn(3, 6, 4, dtype=torch.float64), torch.tensor(4)
    grown = fxgrow.grow(model, 2, example_inputs=inputs)
    assert isinstance(grown, Timed) and fxgrow.report(grown).plan.ratio > 1.5
    assert fxgrow.certify(grown, model).verdict is Verdict.PROVED
    for given in (inputs, (inputs[0], torch.tensor(1))):
        assert worst_error(model, grown, given, False) <= 1e-12
    assert unmoved(grown, inputs) == []


class Biased(nn.Module):
    """A block with a learned table, looked up by positions that it makes anew: distances, as in MViTv2."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.table, self.layer = nn.LayerNorm(6), nn.Parameter(torch.randn(9)), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device, dtype=torch.long)
        far = (places.unsqueeze(-1) - places.unsqueeze(0) + 4).long()
        return x + self.layer(self.table[far] @ self.norm(x))


def test_blocks_that_index_by_tensors_of_their_own_can_be_repeated() -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    net = nn.Sequential(Biased(), Biased(), nn.Linear(6, 3)).double()
    grown = fxgrow.grow(net, depth=2, example_inputs=x)
    assert [run.after for run in fxgrow.report(grown).plan.depth.runs] == [4]
    assert worst_error(net, grown, (x,), training=False) < 1e-12

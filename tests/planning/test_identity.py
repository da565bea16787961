"""Blocks whose output is their input plus a branch, however that is written: new ones are silent, and proved so."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import unmoved

ROWS = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """A block: `sums` is given the block, its input and what its layer makes of that."""

    def __init__(self, sums: Callable[[Written, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.gain, self.square = nn.Linear(8, 8), nn.Parameter(torch.randn(8)), nn.Linear(8, 8).weight
        self.sums = sums

    def forward(self, x: Tensor) -> Tensor:
        return self.sums(self, x, self.layer(x).tanh())


def halves(block: Written, x: Tensor, h: Tensor) -> Tensor:
    unchanged, changed = x.chunk(2, 1)
    return torch.cat([unchanged, changed + h[:, :4] * block.gain[:4]], 1)


def into_a_view(block: Written, x: Tensor, h: Tensor) -> Tensor:
    view = (h * block.gain).view(-1, 8)
    view += x
    return view


def into_a_view_and_beside(block: Written, x: Tensor, h: Tensor) -> Tensor:
    branch = h * block.gain
    view = branch.view(-1, 8)
    view += x
    return branch + view


IDENTITIES: dict[str, Callable[[Written, Tensor, Tensor], Tensor]] = {
    "a sum": lambda block, x, h: h @ block.square + x,
    "a difference": lambda block, x, h: torch.sub(x, h * block.gain),
    "a scaled sum": lambda block, x, h: torch.add(x, h * block.gain, alpha=0.5),
    "addcmul": lambda block, x, h: torch.addcmul(x, block.gain, h),
    "addmm": lambda block, x, h: torch.addmm(x, h, block.square),
    "one half": halves,
    "into a view of the branch": into_a_view,
    "into a dropped branch": lambda block, x, h: F.dropout(h * block.gain, 0.0).add_(x),
    "a mixture": lambda block, x, h: (1 - block.gain) * x + block.gain * h,
    "a gated unit": lambda block, x, h: x + F.glu(F.linear(h, torch.cat([block.square, block.square])), -1),
}

OTHERS: dict[str, Callable[[Written, Tensor, Tensor], Tensor]] = {
    "half of the input": lambda block, x, h: torch.addmm(x, h, block.square, beta=0.5),
    "the input from a branch": lambda block, x, h: h * block.gain - x,
    "a mixture of other shares": lambda block, x, h: (2 - block.gain) * x + block.gain * h,
    "the input scaled": lambda block, x, h: torch.add(h * block.gain, x, alpha=0.5),
    "into a view that is read again": into_a_view_and_beside,
    "over the input": lambda block, x, h: h * block.gain / x,
}


def of_blocks(sums: Callable[[Written, Tensor, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), *(Written(sums) for _ in range(3)), nn.Linear(8, 2)).double()


@pytest.mark.parametrize("name", IDENTITIES)
def test_new_blocks_pass_their_input_on(name: str) -> None:
    model = of_blocks(IDENTITIES[name])
    grown = fxgrow.grow(model, depth="+2", example_inputs=ROWS)
    assert len(list(grown.children())) == 7
    assert torch.equal(grown(ROWS), model(ROWS))
    certificate = fxgrow.report(grown).certificate
    assert certificate is not None and certificate.verdict is Verdict.PROVED
    assert unmoved(grown, (ROWS,)) == []


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_its_input_is_no_new_block(name: str) -> None:
    plan = fxgrow.plan(of_blocks(OTHERS[name]), depth="+2", example_inputs=ROWS)
    assert plan.depth is not None
    twins = {twin for block in plan.depth.blocks for _, twin in block.modules}
    assert twins.isdisjoint({"1", "2", "3"})  # a layer inside of one may be followed by an identity


class Ending(nn.Module):
    """A residual block whose branch ends in a layer with no weight to be zero as it is."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(8), last

    def forward(self, x: Tensor) -> Tensor:
        made = self.last(self.norm(x))
        return x + (made[0] if isinstance(made, tuple) else made)


ENDS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: parametrizations.weight_norm(nn.Linear(8, 8)),
    "old weight norm": lambda: nn.utils.weight_norm(nn.Linear(8, 8)),  # type: ignore[no-untyped-call]
    "GRU": lambda: nn.GRU(8, 8),
    "LSTM": lambda: nn.LSTM(8, 4, bidirectional=True),
}
SEQUENCES = torch.randn(5, 2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ENDS)
def test_branches_end_in_layers_that_are_silent_by_a_gain_or_from_a_state_of_zeros(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), *(Ending(ENDS[name]()) for _ in range(2)), nn.Linear(8, 3)).double()
    expected = model(SEQUENCES).detach()
    grown = fxgrow.grow(model, depth=2, width=1.5, example_inputs=SEQUENCES)
    assert len(list(grown.children())) == 6
    torch.testing.assert_close(grown(SEQUENCES), expected, rtol=1e-12, atol=1e-12)
    certificate = fxgrow.report(grown).certificate
    assert certificate is not None and certificate.verdict is Verdict.PROVED
    if name != "old weight norm":  # torch cannot copy it once it ran
        assert unmoved(grown, (SEQUENCES,)) == []


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (
            lambda: nn.Sequential(nn.Sigmoid(), parametrizations.spectral_norm(nn.Linear(8, 8))),
            "divides a weight by its own norm",
        ),
        (lambda: nn.RNN(8, 8, nonlinearity="relu"), "flat at zero"),
    ],
)
def test_layers_that_nothing_can_silence_are_held_with_the_reason(last: Callable[[], nn.Module], reason: str) -> None:
    model = nn.Sequential(nn.Linear(8, 8), Ending(last()), Ending(last())).double()
    plan = fxgrow.plan(model, depth=2, width=1.5, example_inputs=SEQUENCES)
    assert plan.depth is not None and not plan.depth.blocks
    assert any(reason in staying.reason for staying in plan.held)

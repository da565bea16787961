"""New blocks in the model's own class: they call their own layers, share what blocks share, and have its numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    """A residual block with a function over its own layers, made at construction, and a layer that nothing calls."""

    def __init__(self, act: nn.Module, around: Callable[..., Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.width, self.idle = 8, nn.BatchNorm1d(8)
        self.up, self.act, self.down = nn.Linear(8, 12), act, nn.Linear(12, 8)
        self.branch = around(self.up, self.act, self.down)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class Net(nn.Module):
    """Reads a number of the block that its loop came to last."""

    def __init__(self, act: Callable[[], nn.Module], around: Callable[..., Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(act(), around) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.reshape(-1, block.width))  # type: ignore[no-any-return]


def closed_over(up: nn.Module, act: nn.Module, down: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: down(act(up(x)))


class InAList:
    """Holds layers that a block has registered."""

    def __init__(self, *layers: nn.Module) -> None:
        self.layers = list(layers)

    def __call__(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("around", [closed_over, InAList])
def test_new_blocks_are_blocks_of_the_class(around: Callable[..., Callable[[Tensor], Tensor]], shared: bool) -> None:
    torch.manual_seed(0)
    of_all = nn.GELU()
    model = Net((lambda: of_all) if shared else nn.GELU, around).double()
    grown = fxgrow.grow(model, width=1.5, depth=2, example_inputs=X)
    assert type(grown) is Net and len(grown.blocks) == 4
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert worst_error(model, grown, (X,), training=True) < 1e-12
    assert len({id(block.act) for block in grown.blocks}) == (1 if shared else 4)
    assert grown.blocks[-1].width == 12
    grown.blocks[1].down.weight.data.normal_()
    assert not torch.equal(grown(X), model(X))  # its own layer, not that of the block that it repeats


class Dropping(nn.Module):
    """Drops blocks in train mode, more of them the further it comes: mmcv's drop path, by a position in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8)) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for place, block in enumerate(self.blocks):
            h, keep = block(x), 1 - 0.1 * place
            if self.training and place:
                h = h.div(keep) * (keep + torch.rand(len(h), 1, dtype=h.dtype)).floor()
            x = x + h
        return self.head(x)  # type: ignore[no-any-return]


def test_calls_that_one_mode_alone_makes_otherwise_are_as_they_were_in_the_other() -> None:
    torch.manual_seed(0)
    model = Dropping().double()
    grown = fxgrow.grow(model, depth=1.5, example_inputs=X)
    assert isinstance(grown, Dropping) and len(grown.blocks) == 5
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))
    kept = {edit.value for growth in grown.edits for edit in growth if edit.mode == "train"}  # type: ignore[attr-defined]
    assert kept == {0.9, 0.8}  # the rates of the old blocks, not those of the places that they have now

"""`form="module"` holds runs of blocks that the class cannot have more of, and deepens what is inside them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error
from tests.models import Branched

X = torch.randn(2, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Stage(nn.Module):
    """A branch around branches."""

    def __init__(self) -> None:
        super().__init__()
        self.branches, self.out = nn.ModuleList([Branched(6, 12)]), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for branch in self.branches:
            y = branch(y)
        return x + self.out(y)  # type: ignore[no-any-return]


class Paired(nn.Module):
    """Goes through two lists at once, as the U-Nets of diffusers do: one of them cannot be longer."""

    def __init__(self) -> None:
        super().__init__()
        self.mixers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.stages = nn.ModuleList([Stage(), Stage()])

    def forward(self, x: Tensor) -> Tensor:
        for mixer, stage in zip(self.mixers, self.stages, strict=False):
            x = stage(mixer(x))
        return x


def test_blocks_that_the_class_cannot_have_are_held() -> None:
    torch.manual_seed(0)
    model = Paired().double()
    assert isinstance(fxgrow.grow(model, depth=2, example_inputs=X), torch.fx.GraphModule)
    grown = fxgrow.grow(model, depth=2, example_inputs=X, form="module")
    assert type(grown) is Paired and fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [len(grown.stages), *(len(stage.branches) for stage in grown.stages)] == [2, 2, 2]
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))
    held = fxgrow.report(grown).plan.held
    assert any("Paired cannot hold its growth" in staying.reason for staying in held)


class Heads(nn.Module):
    """Heads of a width that is the stream's over their number, in a stream that does not grow; keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.leave, self.head = (nn.Linear(*s) for s in ((6, 16), (16, 48), (16, 16), (16, 3)))
        self.into, self.out, self.heads = nn.Linear(16, 32), nn.Linear(32, 16), 2

    def forward(self, x: Tensor) -> Tensor:
        global seen
        x = self.embed(x).cumsum(-1)
        batch, length, width = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.transpose(2, 3)).softmax(-1)
        x = x + self.leave((seen @ v).transpose(1, 2).reshape(batch, length, width))
        return self.head(x + self.out(self.into(x).relu()))


seen: Tensor | None = None


def test_where_no_graph_can_be_the_class_holds_what_it_cannot_have() -> None:
    model = Heads().double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is Heads and (grown.heads, grown.into.out_features) == (2, 48)
    assert worst_error(model, grown, (X,), training=True) <= 1e-12

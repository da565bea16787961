"""A forward that asks whether a number of a part is another than a size, as the decoders of EDM's U-Nets do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = wide, out
        self.norm, self.conv = nn.BatchNorm2d(wide), nn.Conv2d(wide, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.norm(x)))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """In the grown copy, 16 channels have become 24, which is what the second block's number was."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.encoder = nn.Conv2d(3, 8, 3, padding=1), Block(8, 16)
        self.blocks = nn.ModuleList([Block(16, 16), Block(24, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.stem(x)
        x = self.encoder(skip)
        for block in self.blocks:
            if x.shape[1] != block.in_channels:
                x = torch.cat([x, skip], dim=1)
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


def test_it_comes_back_as_its_class() -> None:
    model = Decoder().double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is Decoder
    assert fxgrow.certify(grown).verdict is Verdict.PROVED
    assert [block.in_channels for block in grown.blocks] == [24, 36]
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))


class Checked(nn.Module):
    """Asserts the width of what it is given, as layers of stacked hourglasses do."""

    def __init__(self, wide: int, out: int) -> None:
        super().__init__()
        self.wide, self.conv = wide, nn.Conv2d(wide, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        assert x.size()[1] == self.wide, f"{x.size()[1]} {self.wide}"
        return self.conv(x)  # type: ignore[no-any-return]


class Twice(nn.Module):
    """Two parts look at one tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.left, self.right = Checked(3, 8), Checked(8, 2), Checked(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.enter(x))
        return self.left(x) + self.right(x)  # type: ignore[no-any-return]


def test_several_numbers_are_compared_with_one_size() -> None:
    model = Twice().double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert type(grown) is Twice and (grown.left.wide, grown.right.wide) == (12, 12)
    assert all(worst_error(model, grown, (X,), training=mode) < 1e-12 for mode in (False, True))


class Fewer(nn.Module):
    """Divides by another number where there are fewer units than rows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.body(x))
        return self.head(y) / (5 if y.shape[1] < y.shape[2] else 2)


def test_units_that_come_to_be_more_than_rows_take_no_other_course() -> None:
    model = Fewer().double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=torch.randn(2, 3, 20, 20, dtype=torch.float64))
    for rows in (9, 11, 12, 13, 30):  # 12 units in the grown copy
        x = torch.randn(2, 3, rows, rows, dtype=torch.float64)
        assert worst_error(model, grown, (x,), training=False) < 1e-12
    plan = fxgrow.report(grown).plan
    assert plan.obstacle is not None and "hangs on a number of units" in plan.obstacle.what

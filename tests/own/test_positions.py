"""Attributes that name blocks by their position name the same blocks in a deeper model, also where no forward reads."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.proof.certificate import Verdict
from tests.capture.assembled import EXACT, normal
from tests.models import lively


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(width, 6, 1), nn.Conv2d(6, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.into(x).relu())  # type: ignore[no-any-return]


class Resized(nn.Module):
    """Undoes what the blocks up to one have done to the size."""

    def __init__(self, factors: list[int]) -> None:
        super().__init__()
        self.factors = dict(enumerate(factors))

    def forward(self, x: Tensor, block: int) -> Tensor:
        return x.repeat_interleave(self.factors[block], 2).repeat_interleave(self.factors[block], 3)


class Staged(nn.Module):
    """Two stages in one list of blocks, of which `forward_intermediates` gives the ends, in timm's way."""

    def __init__(self) -> None:
        super().__init__()
        halving = nn.Conv2d(4, 8, 2, stride=2)
        self.blocks = nn.ModuleList([Residual(4), Residual(4), halving, Residual(8), Residual(8)])
        self.ends, self.heads = [1, 4], [1, 2]
        self.resized = Resized([1, 1, 2, 2, 2])
        self.head = nn.Linear(8, 3)
        self.feature_info = [{"num_chs": 4 * (k + 1), "module": f"blocks.{end}"} for k, end in enumerate(self.ends)]

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept = []
        for number, block in enumerate(self.blocks[: self.ends[-1] + 1]):
            x = block(x)
            if number in self.ends:
                kept.append(self.resized(x, number))
        return x, kept

    def forward_features(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x).mean((2, 3)))  # type: ignore[no-any-return]


X = normal(2, 4, 4, 4)


def staged() -> Any:
    torch.manual_seed(0)
    return lively(Staged()).double()


def test_positions_that_another_method_reads_follow() -> None:
    model = staged()
    grown: Any = fxgrow.grow(model, depth={"blocks": 1.5}, example_inputs=X)
    assert isinstance(grown, Staged) and len(grown.blocks) == 7
    assert (grown.ends, grown.heads) == ([2, 6], [1, 2])
    assert grown.resized.factors == {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 2}
    assert [info["module"] for info in grown.feature_info] == ["blocks.2", "blocks.6"]
    assert (model.ends, len(model.resized.factors)) == ([1, 4], 5)
    for network in (grown, pickle.loads(pickle.dumps(grown))):
        last, kept = network.forward_intermediates(X)
        torch.testing.assert_close(last, model.forward_features(X), rtol=EXACT, atol=EXACT)
        for feature, expected in zip(kept, model.forward_intermediates(X)[1], strict=True):
            torch.testing.assert_close(feature, expected, rtol=EXACT, atol=EXACT)


class Headed(Staged):
    """Gives its features through heads; no part of the name that `feature_info` says puts them out."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.ModuleList([nn.Conv2d(4, 12, 1), nn.Conv2d(8, 16, 1)])
        self.head = nn.Linear(16, 3)
        self.feature_info = [{"num_chs": 12, "module": "blocks.1"}, {"num_chs": 16, "module": "stage"}]

    def forward_features(self, x: Tensor) -> Tensor:
        _, kept = super().forward_intermediates(x)
        low, high = (wide(feature) for wide, feature in zip(self.wide, kept, strict=True))
        return torch.relu(high + nn.functional.avg_pool2d(low, 1).mean(1, keepdim=True))

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        kept = super().forward_intermediates(x)[1]
        return self.forward_features(x), [wide(feature) for wide, feature in zip(self.wide, kept, strict=True)]


def test_channels_of_features_that_no_named_part_puts_out_follow() -> None:
    torch.manual_seed(0)
    model: Any = lively(Headed()).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown, Headed)
    channels = [feature.shape[1] for feature in grown.forward_intermediates(X)[1]]
    assert channels[1] == 32 and [info["num_chs"] for info in grown.feature_info] == channels
    assert [info["num_chs"] for info in model.feature_info] == [12, 16]


@pytest.mark.slow
def test_they_follow_in_files_and_through_another_growth(tmp_path: Any) -> None:
    model = staged()
    grown: Any = fxgrow.grow(model, depth={"blocks": 1.5}, example_inputs=X)
    fxgrow.save(grown, tmp_path / "deeper.safetensors")
    read: Any = fxgrow.load(tmp_path / "deeper.safetensors", model)
    assert (read.ends, read.resized.factors) == (grown.ends, grown.resized.factors)
    again: Any = fxgrow.grow(grown, 2, depth={"blocks": "+2"}, example_inputs=X)
    assert again.ends[-1] == len(again.blocks) - 1
    last, kept = again.forward_intermediates(X)
    torch.testing.assert_close(last, again.forward_features(X), rtol=0, atol=0)
    assert [tuple(each.shape[2:]) for each in kept] == [(4, 4), (4, 4)]


class Read(nn.Module):
    """Puts out what some layers give, by name or by number, as networks do that give features of a VGG."""

    def __init__(self, chosen: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), Residual(4), Residual(4), nn.MaxPool2d(2))
        self.chosen = chosen
        self.heads = nn.ModuleList(nn.Conv2d(4, 2, 1) for _ in chosen)

    def forward(self, x: Tensor) -> list[Tensor]:
        found, read = [], iter(self.heads)
        for number, (name, layer) in enumerate(self.layers.named_children()):
            x = layer(x)
            if name in self.chosen or number in self.chosen:
                found.append(next(read)(x))
        return found


@pytest.mark.parametrize(
    ("chosen", "after"),
    [
        (["1", "3"], ["1", "5"]),
        ({"2", "4"}, {"3", "6"}),
        ({"2": "two"}, {"3": "two"}),
        ((1, 3), (1, 5)),
        ({0, 3}, {0, 5}),
        ({2: "two"}, {3: "two"}),
    ],
)
def test_layers_that_are_read_by_name_or_number(chosen: Any, after: Any) -> None:
    torch.manual_seed(0)
    model, x = Read(chosen).double(), normal(2, 3, 4, 4)
    grown: Any = fxgrow.grow(model, depth=2, example_inputs=x)
    assert type(grown) is Read and grown.chosen == after and len(grown.layers) == 7
    for new, old in zip(grown(x), model(x), strict=True):
        torch.testing.assert_close(new, old, rtol=EXACT, atol=EXACT)


class Split(nn.Module):
    """Takes the first blocks, then the others, and reads what comes between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.early = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), 1
        self.blocks = nn.ModuleList([Residual(4) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks[: self.early]:
            x = block(x)
        y = x
        for block in self.blocks[self.early :]:
            x = block(x)
        return self.head(x * y)  # type: ignore[no-any-return]


class Scaled(Split):
    """Has a number for each block."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = [0.5, 0.25, 0.125]
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = x + self.scales[number] * block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Kept(nn.Module):
    """Holds its blocks by names of its own and in a list besides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.kept = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1), [Residual(4) for _ in range(3)]
        for number, block in enumerate(self.kept):
            self.add_module(f"b{number}", block)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.kept:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "name", "value"), [(Split(), "early", 2), (Scaled(), "scales", [0.5, 0.5, 0.25, 0.25, 0.125, 0.125])]
)
def test_places_and_what_each_block_has_follow(model: Any, name: str, value: Any) -> None:
    model, x = model.double(), normal(2, 3, 4, 4)
    grown: Any = fxgrow.grow(model, depth=2, example_inputs=x)
    assert type(grown) is type(model) and getattr(grown, name) == value
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED


def test_lists_of_the_blocks_themselves_follow() -> None:
    model, x = Kept().double(), normal(2, 3, 4, 4)
    grown = fxgrow.grow(model, depth=2, example_inputs=x)
    assert type(grown) is Kept and grown.kept == [grown.get_submodule(f"b{number}") for number in range(6)]
    torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)
    copied = pickle.loads(pickle.dumps(grown))
    assert copied.kept[5] is copied.b5 and fxgrow.grow(copied, depth=1.5, example_inputs=x).kept[8] is not None


class InSettings(nn.Module):
    """Blocks as many as settings say that several parts hold."""

    class Inner(nn.Module):
        def __init__(self, config: SimpleNamespace) -> None:
            super().__init__()
            self.config = config
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks[: self.config.layers]:
                x = x + block(x)
            return x

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(layers=3)
        self.enter, self.inner, self.leave = nn.Linear(4, 8), self.Inner(self.config), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.inner(self.enter(x)))  # type: ignore[no-any-return]


def test_settings_follow_that_count_blocks() -> None:
    model, x = InSettings().double(), torch.randn(3, 4, dtype=torch.float64)
    grown: Any = fxgrow.grow(model, depth=2, example_inputs=x)
    assert isinstance(grown, InSettings) and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert grown.config is grown.inner.config and grown.config.layers == 6
    assert model.config.layers == 3
    assert torch.allclose(grown(x), model(x), rtol=1e-12)

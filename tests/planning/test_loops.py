"""Blocks that are written out in a loop over lists of layers, which no module holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow


class Perceptrons(nn.Module):
    """A residual layer a turn, with its activation; the norm is a function before it."""

    def __init__(self, normed: bool = False) -> None:
        super().__init__()
        self.normed = normed
        self.stem, self.head = nn.Linear(6, 12), nn.Linear(12, 3)
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + torch.tanh(layer(F.layer_norm(x, x.shape[-1:]) if self.normed else x))
        return self.head(x)


class Pairs(nn.Module):
    """A transformer as some write it: an attention and a perceptron a turn, the sums outside of both."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16)),
                    nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16)),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for mix, think in self.layers:  # type: ignore[misc]
            x = mix(x) + x
            x = think(x) + x
        return self.head(x)


class TwoSums(nn.Module):
    """Each turn adds to a stream and to a sum of what is put out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(2, 6, 1), nn.Conv1d(10, 3, 1)
        self.inner = nn.ModuleList(nn.Conv1d(6, 8, 3, padding=1) for _ in range(4))
        self.back = nn.ModuleList(nn.Conv1d(8, 6, 1) for _ in range(4))
        self.out = nn.ModuleList(nn.Conv1d(8, 10, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.stem(x), 0
        for inner, back, out in zip(self.inner, self.back, self.out, strict=True):
            h = torch.tanh(inner(x))
            total = total + out(h)
            x = x + back(h)
        return self.head(F.relu(total))


class TwoLoops(nn.Module):
    """Two lists of one length, one loop after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.between, self.head = nn.Linear(6, 8), nn.Linear(8, 10), nn.Linear(10, 3)
        self.first = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        self.second = nn.ModuleList(nn.Linear(10, 10) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.first:
            x = x + layer(x).relu()
        x = self.between(x)
        for layer in self.second:
            x = x + layer(x).tanh()
        return self.head(x)


@pytest.mark.parametrize(
    ("model", "shape", "runs"),
    [
        (Perceptrons(), (4, 6), {"layers": (4, 6)}),
        (Perceptrons(normed=True), (4, 6), {"layers": (4, 6)}),
        (Pairs(), (2, 5, 6), {"layers": (3, 5)}),
        (Pairs(1), (2, 5, 6), {"layers": (1, 2)}),
        (TwoSums(), (2, 2, 9), {"inner": (4, 6)}),
    ],
    ids=["plain", "norm first", "lists in a list", "one list in a list", "two sums"],
)
def test_the_turns_of_a_loop_are_blocks(model: Any, shape: tuple[int, ...], runs: dict[str, tuple[int, int]]) -> None:
    model, x = model.double(), torch.randn(*shape, dtype=torch.float64)
    grown = fxgrow.grow(model, depth=1.5, example_inputs=x)
    depth = fxgrow.report(grown).plan.depth
    assert depth is not None and {run.path: (run.before, run.after) for run in depth.runs} == runs
    assert type(grown) is type(model)
    assert torch.allclose(grown(x), model(x), rtol=1e-10, atol=1e-12)
    certificate = fxgrow.report(grown).certificate
    assert certificate is not None and str(certificate.verdict) == "PROVED"


def test_new_turns_learn() -> None:
    """The stream of a new turn is left by gradients as well as by values."""
    grown = fxgrow.grow(TwoSums(), depth=1.5, example_inputs=torch.randn(2, 2, 9))
    before = {name: tensor.clone() for name, tensor in grown.named_parameters()}
    optimizer = torch.optim.Adam(grown.parameters(), 1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        grown(torch.randn(4, 2, 9)).square().mean().backward()
        optimizer.step()
    still = [name for name, tensor in grown.named_parameters() if torch.equal(tensor, before[name])]
    assert all(name.startswith("back.5.") for name in still), still  # nobody reads what the last one adds to


def test_loops_are_addressed_by_their_lists() -> None:
    plan = fxgrow.plan(TwoLoops(), width=1, depth={"second": "+1"}, example_inputs=torch.randn(4, 6))
    assert plan.depth is not None
    assert [(run.path, run.before, run.after) for run in plan.depth.runs] == [("second", 2, 3)]


class NoSum(Perceptrons):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return self.head(x)


def test_a_loop_that_is_no_residual_block_stays() -> None:
    plan = fxgrow.plan(NoSum(), depth=2, example_inputs=torch.randn(4, 6))
    assert plan.depth is not None and plan.depth.runs == ()
    assert any("Sigmoid" in staying.reason or "sigmoid" in staying.reason for staying in plan.held), plan.held


class Gathered(nn.Module):
    """Each turn adds what a layer makes of a value of its own, as where branches of several scales are fused."""

    def __init__(self) -> None:
        super().__init__()
        self.stems = nn.ModuleList(nn.Linear(6, 8) for _ in range(3))
        self.fuse = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        parts = [stem(x) for stem in self.stems]
        total = parts[0]
        for fuse, part in zip(self.fuse, parts, strict=True):
            total = total + fuse(part)
        return total


def test_turns_that_read_values_of_their_own_are_no_blocks() -> None:
    plan = fxgrow.plan(Gathered(), depth=2, example_inputs=torch.randn(4, 6))
    assert plan.depth is not None and plan.depth.runs == ()


class Branches(nn.Module):
    """Several layers on one input, and layers before them that a loop might have begun with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList(nn.Linear(6, 8) for _ in range(3))
        self.out = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.out(branch(x).relu()) for branch in self.stem]


def test_branches_on_one_input_are_no_turns() -> None:
    model = Branches().double()
    plan = fxgrow.plan(model, width=1.5, depth=1.5, example_inputs=torch.randn(2, 6).double())
    assert plan.depth is None or not any(run.path.startswith("stem") for run in plan.depth.runs)
    assert [group.new for group in plan.groups] != []

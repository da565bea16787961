"""Tensors that modules hold as attributes, unregistered, grow as buffers do: SimpleViT's table of positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.measure.verification import relative_error
from tests.planning.test_learning import grown_and_alive

TOKENS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.enter, self.leave = nn.LayerNorm(16), nn.Linear(16, 32), nn.Linear(32, 16)
        self.kept = (torch.rand(32) > 0.3).float()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.leave(self.enter(self.norm(x)).relu() * self.kept.to(x))


class Net(nn.Module):
    """One table by two names."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.table = torch.randn(5, 16)
        self.again = self.table

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x) + self.table.to(x.device, dtype=x.dtype)
        for block in self.blocks:
            x = block(x)
        return self.leave((x + self.again).mean(1))


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
@pytest.mark.parametrize("depth", [None, 2])
def test_they_grow_with_the_units(init: str, depth: int | None) -> None:
    model = Net()
    tables = model.table, model.blocks[0].kept
    grown = fxgrow.grow(model, 2, depth, example_inputs=TOKENS, init=init)
    assert type(grown) is Net and fxgrow.report(grown).certificate.verdict.name == "PROVED"
    assert grown.table.shape == (5, 32) and grown.again is grown.table
    assert {block.kept.shape for block in grown.blocks} == {(64,)}
    assert torch.equal(grown.table[:, :16], tables[0])
    assert tables[0] is model.table is model.again and model.table.shape == (5, 16)
    assert relative_error(grown(TOKENS), model(TOKENS)) < 1e-6
    larger = fxgrow.grow(grown, 1.5, example_inputs=TOKENS)
    assert larger.table.shape == (5, 48) and relative_error(larger(TOKENS), model(TOKENS)) < 1e-6


def test_what_meets_them_learns() -> None:
    model = Net()
    for part in model.modules():
        tables = {name: held.double() for name, held in vars(part).items() if isinstance(held, Tensor)}
        vars(part).update(tables)
    grown: Any = grown_and_alive(model, TOKENS.double())
    assert grown.table.shape == (5, 32)


def test_a_graph_has_them_as_buffers() -> None:
    model = Net()
    graph = fxgrow.grow(model, 2, example_inputs=TOKENS, form="graph")
    assert (5, 32) in {buffer.shape for buffer in graph.buffers()}
    assert relative_error(graph(TOKENS), model(TOKENS)) < 1e-6


def test_one_of_another_precision_than_the_weights_stays() -> None:
    """New entries that have to cancel to 1e-10 would be rounded to 1e-8."""
    plan = fxgrow.plan(Net().double(), 2, example_inputs=TOKENS.double())
    assert any("of another precision than the weights" in held.reason for held in plan.held)


def test_what_is_made_of_its_values_is_still_known() -> None:
    class Listing(Net):
        def forward(self, x: Tensor) -> Tensor:
            scale = self.table.detach().abs().max().item() + len(self.table.double().tolist())
            return super().forward(x) * scale

    model = Listing()
    grown = fxgrow.grow(model, 2, example_inputs=TOKENS)
    assert relative_error(grown(TOKENS), model(TOKENS)) < 1e-6


def test_one_written_to_after_it_was_moved_is_as_it_was_left() -> None:
    class Writing(Net):
        def forward(self, x: Tensor) -> Tensor:
            table = self.table.double().float()
            table[0] = 3
            return self.leave(self.enter(x).relu().mean(1) * table.mean())

    model = Writing()
    grown = fxgrow.grow(model, 2, example_inputs=TOKENS, form="graph")
    assert relative_error(grown(TOKENS), model(TOKENS)) < 1e-6


def test_files_have_those_that_grew(tmp_path: Path) -> None:
    model = Net()
    grown = fxgrow.grow(model, 2, example_inputs=TOKENS)
    fxgrow.save(grown, tmp_path / "net.safetensors")
    loaded = fxgrow.load(tmp_path / "net.safetensors", Net())
    assert relative_error(loaded(TOKENS), model(TOKENS)) < 1e-6


def test_a_change_after_growth_is_seen() -> None:
    model = Net()
    grown: Any = fxgrow.grow(model, 2, example_inputs=TOKENS)
    assert {fxgrow.certify(grown, *original).verdict.name for original in ([model], [])} == {"PROVED"}
    grown.table = grown.again = grown.table + 1
    assert fxgrow.certify(grown, model).verdict.name == "REFUTED"
    assert fxgrow.certify(grown).verdict.name == "UNKNOWN"

"""Files that earlier commits wrote are read, and the page on formats has the numbers of the code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow import schedule
from fxgrow.files import saving
from fxgrow.planning import plan

HERE = Path(__file__).parent
STORED = sorted((HERE / "stored").glob("*.safetensors"))


def original() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2))


def test_there_are_stored_files() -> None:
    assert [path.stem for path in STORED] == ["12151f7", "c5f6d50"]


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_files_of_earlier_commits_are_read_and_grow_on(path: Path, tmp_path: Path) -> None:
    """All of them hold this original, grown by half and then, as replicas, by three units more."""
    model, rows = original(), torch.linspace(-1, 1, 8).reshape(2, 4)
    loaded = fxgrow.load(path, model)
    assert fxgrow.births(loaded)["0.weight"].counts() == {0: 24, 1: 12, 2: 12}
    assert not loaded.training
    torch.testing.assert_close(loaded(rows), model(rows))
    written = torch.tensor([[-0.2198, 0.0790], [0.0372, -0.0679]])  # by the commit that wrote the file
    torch.testing.assert_close(loaded(rows), written, rtol=0, atol=1e-4)

    wider = fxgrow.grow(loaded, 1.5)
    torch.testing.assert_close(wider(rows), model(rows))
    fxgrow.grow_files(path, tmp_path / "wider", original(), 1.5)
    again = fxgrow.load(tmp_path / "wider", original())
    assert all(torch.equal(left, right) for left, right in zip(again.parameters(), wider.parameters(), strict=True))


def test_the_page_has_the_numbers_of_the_formats() -> None:
    page = (HERE.parent / "docs" / "reference" / "versions.md").read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[-2].strip() for line in page.splitlines() if "|" in line}
    assert rows["a grown model, one file"] == rows["a grown model in shards"] == str(saving.FORMAT)
    assert rows["a plan"] == str(plan.FORMAT)
    assert rows["a schedule"] == str(schedule.FORMAT)

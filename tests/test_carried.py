"""What a grown module carries of its past."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import fxgrow
from fxgrow.carried import ATTRIBUTE
from fxgrow.history import history_of

WITHOUT_FXGROW = """
import sys, torch
sys.modules["fxgrow"] = None
model = torch.load(sys.argv[1], weights_only=False)
torch.save((type(model).__name__, model(torch.ones(2, 4))), sys.argv[1])
"""


def test_a_pickled_model_is_read_without_fxgrow(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    grown = fxgrow.grow(fxgrow.grow(model, width=1.5, example_inputs=torch.randn(2, 4)), width=2)
    torch.save(grown, tmp_path / "grown.pt")
    subprocess.run([sys.executable, "-c", WITHOUT_FXGROW, str(tmp_path / "grown.pt")], check=True)
    name, outputs = torch.load(tmp_path / "grown.pt")
    assert name == "Sequential"
    assert torch.equal(outputs, grown(torch.ones(2, 4)))


def test_a_pickled_model_has_its_past_and_grows_on() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    grown = fxgrow.grow(model, width=1.5, example_inputs=torch.randn(2, 4))
    again = pickle.loads(pickle.dumps(grown))
    assert isinstance(getattr(again, ATTRIBUTE), bytes)
    assert history_of(again) == history_of(grown)
    assert fxgrow.births(again) == fxgrow.births(grown)
    wider = fxgrow.grow(again, width=2)  # on the inputs that its past knows
    history = history_of(wider)
    assert history is not None and history.stage == 2
    assert wider[0].out_features == 24

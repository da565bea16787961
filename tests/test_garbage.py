"""The collector of cycles is back on after a growth, whatever came of it."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.errors import FxgrowError


def test_collection_is_paused_for_a_growth_and_no_longer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    seen = tmp_path / "seen"  # what hooks put into lists is put back
    model[1].register_forward_pre_hook(lambda module, inputs: seen.write_text(str(gc.isenabled())) and None)
    fxgrow.grow(model, 2, example_inputs=torch.randn(1, 4), verify=False)
    assert seen.read_text() == "False" and gc.isenabled()
    with pytest.raises(FxgrowError):
        fxgrow.plan(model, 2, example_inputs=torch.randn(1, 5))
    assert gc.isenabled()


def test_who_has_switched_it_off_finds_it_off() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    gc.disable()
    try:
        fxgrow.grow(model, 2, example_inputs=torch.randn(1, 4), verify=False)
        assert not gc.isenabled()
    finally:
        gc.enable()

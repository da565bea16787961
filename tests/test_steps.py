"""What is said of the steps of a growth while they are taken."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.steps import told

MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def test_who_asks_is_told_the_steps_in_order() -> None:
    said: list[str] = []
    with told(said.append):
        fxgrow.grow(MODEL, 2, example_inputs=torch.randn(1, 4))
    assert said == ["capturing", "planning", "growing", "proving", "testing"]
    fxgrow.grow(MODEL, 2, example_inputs=torch.randn(1, 4))
    assert len(said) == 5


@pytest.mark.parametrize("asked", [True, False])
def test_progress_is_shown_where_it_is_asked_for(asked: bool, capsys: pytest.CaptureFixture[str]) -> None:
    fxgrow.grow(MODEL, 2, example_inputs=torch.randn(1, 4), progress=asked)
    fxgrow.plan(MODEL, 2, example_inputs=torch.randn(1, 4), progress=asked)
    printed = capsys.readouterr()
    assert printed.out == "" and (not printed.err.strip() or asked)


def test_times_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fxgrow"):
        fxgrow.grow(MODEL, 2, example_inputs=torch.randn(1, 4), verify=False)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["capturing", "planning", "growing"]

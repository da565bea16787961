"""What a grown module knows of its past: names through renaming, growths by the names of today."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import fxgrow
from fxgrow.birth import Birth
from fxgrow.history import History, Step, history_of
from fxgrow.planning.deepening import Deepening, NewTensor
from fxgrow.planning.plan import Plan, TensorGrowth, Totals
from tests.training.small import convolutional, grown


def deepening(renamed: dict[str, str], names: list[str], growths: tuple[Any, ...] = ()) -> Plan:
    """A plan that adds blocks, as far as history looks at it."""
    tensors = tuple(NewTensor(name, 0, "", "copy") for name in names)
    depth = Deepening("copy", (), renamed=tuple(renamed.items()), tensors=tensors)
    return Plan("model", "zero", (), (), growths, (), (), Totals(0, 0, 0, 0), depth=depth)


def test_names_are_followed_through_growth_in_depth() -> None:
    """Block 1 becomes block 2, and a new block takes its name; then one more in front of that."""
    wider = TensorGrowth("blocks.2.w", (), "zeros")
    steps = (
        Step(deepening({"blocks.2.w": "blocks.1.w"}, ["blocks.1.w"], (wider,)), 0),
        Step(deepening({"blocks.2.w": "blocks.1.w", "blocks.3.w": "blocks.2.w"}, ["blocks.1.w"]), 0),
    )
    births = {f"blocks.{k}.w": Birth(((0,),)) for k in range(4)}
    history = History(steps, births)
    assert history.lineage() == [
        {"blocks.0.w": "blocks.0.w", "blocks.3.w": "blocks.1.w"},
        {"blocks.0.w": "blocks.0.w", "blocks.2.w": "blocks.1.w", "blocks.3.w": "blocks.2.w"},
        {name: name for name in births},
    ]
    assert history.growths() == [{"blocks.3.w": wider}, {}]


def test_growths_are_those_of_each_step() -> None:
    model = grown(convolutional(), 1.5, 4 / 3)
    history = history_of(model)
    assert history is not None
    shapes = [growths["3.weight"].new_shape[:2] for growths in history.growths()]
    assert shapes == [(12, 9), (16, 12)]
    assert history.lineage() == [{name: name for name in fxgrow.births(model)}] * 3


def test_a_step_is_said_in_a_paragraph_and_shown_in_full() -> None:
    step = fxgrow.report(grown(convolutional(), 1.5))
    text = str(step)
    assert text.startswith("Sequential, 650 → 1,297 parameters (x2.00), ")
    assert "2 groups of dimensions wider (init=zero, seed=0). Certificate: PROVED. TESTED: relative error" in text
    assert repr(step) == f"<Step: {text}>"
    html = step._repr_html_()
    assert html.startswith(f"<p>{text}</p><svg") and "<details" in html


def test_a_step_says_what_is_not_known_of_it() -> None:
    text = str(Step(deepening({}, ["blocks.1.w"]), 3, folded=True, settled=0.5))
    assert text == (
        "model, 0 → 0 parameters (x0.00), 0 → 0 FLOPs a sample: nothing grows (init=zero, depth_init=copy, seed=3). "
        "No certificate. Not tested. Multipliers are folded into weights. New units count 0.5 in norms over old ones."
    )


def test_births_are_of_the_parameters_that_are_there() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Linear(5, 2))
    grown: Any = fxgrow.grow(model, {"0": "+2"}, example_inputs=torch.randn(2, 4))
    grown[2], grown[3] = nn.Linear(8, 3), nn.Identity()
    births = fxgrow.births(grown)
    assert list(births) == [name for name, _ in grown.named_parameters()]
    assert births["0.bias"].axes == ((0,) * 6 + (1,) * 2,)
    assert births["2.weight"].counts() == {1: 24}

"""The tagging pass."""

from __future__ import annotations

import doctest

import fxgrow.transforms.tagging
import torch

import fxgrow
from tests.models import PLAIN, TwoInputs, lively, perceptron


def test_an_element_is_as_young_as_the_youngest_of_its_positions() -> None:
    model = lively(perceptron())
    once = fxgrow.grow(model, {"0": "+2"}, example_inputs=PLAIN["perceptron"][1])
    twice = fxgrow.grow(once, {"3": "+4"})
    assert fxgrow.births(twice)["3.weight"].axes == ((0,) * 8 + (2,) * 4, (0,) * 8 + (1,) * 2)
    assert fxgrow.births(twice)["3.weight"].counts() == {0: 64, 1: 16, 2: 40}


def test_new_elements_are_those_that_the_original_does_not_have() -> None:
    model = lively(TwoInputs())
    grown = fxgrow.grow(model, 1.5, example_inputs=PLAIN["two-inputs"][1])
    for name, birth in fxgrow.births(grown).items():
        old = grown.get_parameter(name)[birth.mask(0)]
        assert old.numel() == model.get_parameter(name).numel()
        assert (old == model.get_parameter(name).flatten()).all()


def test_new_blocks_are_of_their_stage() -> None:
    model = torch.nn.Sequential(*[torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()) for _ in range(3)])
    deep = fxgrow.grow(model, depth="+1", example_inputs=torch.randn(2, 4))
    births = fxgrow.births(fxgrow.grow(deep, 1.5))
    stages = {name: min(birth.counts()) for name, birth in births.items()}
    assert sorted(stages.values()).count(1) == 2, "weight and bias of the block that came first with stage 1"
    assert list(births) == [name for name, _ in deep.named_parameters()]


def test_the_example_runs() -> None:
    assert doctest.testmod(fxgrow.transforms.tagging).failed == 0

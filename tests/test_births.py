"""Births: when each element came to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

import fxgrow
from fxgrow.births import Birth
from tests.models import PLAIN, TwoInputs, lively, perceptron

stages = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)


@given(st.lists(stages, max_size=3).map(tuple))
def test_stages_masks_and_counts_agree(axes: tuple[tuple[int, ...], ...]) -> None:
    birth = Birth(axes)
    found = birth.stages()
    assert tuple(found.shape) == birth.shape == tuple(map(len, axes))
    assert birth.counts() == {stage: int((found == stage).sum()) for stage in sorted(set(found.flatten().tolist()))}
    assert sum(int(birth.mask(stage).sum()) for stage in range(4)) == found.numel()


def test_an_element_is_as_young_as_the_youngest_of_its_positions() -> None:
    model = lively(perceptron())
    once = fxgrow.grow(model, {"0": "+2"}, example_inputs=PLAIN["perceptron"][1])
    twice = fxgrow.grow(once, {"3": "+4"})
    assert fxgrow.births(twice)["3.weight"].axes == ((0,) * 8 + (2,) * 4, (0,) * 8 + (1,) * 2)
    assert fxgrow.births(twice)["3.weight"].counts() == {0: 64, 1: 16, 2: 40}


def test_every_parameter_has_births_of_its_shape() -> None:
    for make, inputs in PLAIN.values():
        grown = fxgrow.grow(lively(make()), 2, example_inputs=inputs)
        births = fxgrow.births(grown)
        assert births.keys() == dict(grown.named_parameters()).keys()
        assert all(births[name].shape == tuple(p.shape) for name, p in grown.named_parameters())


def test_new_elements_are_those_that_the_original_does_not_have() -> None:
    model = lively(TwoInputs())
    grown = fxgrow.grow(model, 1.5, example_inputs=PLAIN["two-inputs"][1])
    for name, birth in fxgrow.births(grown).items():
        old = grown.get_parameter(name)[birth.mask(0)]
        assert old.numel() == model.get_parameter(name).numel()
        assert (old == model.get_parameter(name).flatten()).all()


def test_births_print_as_a_table() -> None:
    text = str(fxgrow.births(fxgrow.grow(lively(perceptron()), 2, example_inputs=PLAIN["perceptron"][1])))
    assert "elements born at each stage" in text
    assert "5.weight" in text

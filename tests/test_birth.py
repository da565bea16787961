"""Births: when each element came to be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import fxgrow
from fxgrow.birth import Birth
from fxgrow.errors import FxgrowError
from tests.models import PLAIN, lively, perceptron

stages = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)


@given(st.lists(stages, max_size=3).map(tuple))
def test_stages_masks_and_counts_agree(axes: tuple[tuple[int, ...], ...]) -> None:
    birth = Birth(axes)
    born = birth.stages()
    assert tuple(born.shape) == birth.shape == tuple(map(len, axes))
    assert birth.counts() == {stage: int((born == stage).sum()) for stage in sorted(set(born.flatten().tolist()))}
    assert sum(int(birth.mask(stage).sum()) for stage in range(4)) == born.numel()


def test_every_parameter_has_births_of_its_shape() -> None:
    for make, inputs in PLAIN.values():
        grown = fxgrow.grow(make(), 2, example_inputs=inputs, verify=False)
        births = fxgrow.births(grown)
        assert births.keys() == dict(grown.named_parameters()).keys()
        assert all(births[name].shape == tuple(p.shape) for name, p in grown.named_parameters())


@given(st.lists(stages, max_size=3).map(tuple))
def test_regions_are_disjoint_and_cover_each_stage(axes: tuple[tuple[int, ...], ...]) -> None:
    birth = Birth(axes)
    born = torch.full(birth.shape, -1)
    for region in birth.regions():
        assert region.count == sum(block.numel() for block in region.blocks(born))
        assert region.rectangles == len(list(region.blocks(born)))
        assert (born[region.positions()] == -1).all()
        for block in region.blocks(born):
            block.fill_(region.stage)
        assert (born[region.positions()] == region.stage).all()
    assert torch.equal(born, birth.stages())


def test_a_weight_is_drawn_coloured_by_birth() -> None:
    model = fxgrow.grow(fxgrow.grow(lively(perceptron()), 2, example_inputs=PLAIN["perceptron"][1]), 1.5)
    births = fxgrow.births(model)
    (axes,) = births.plot("3.weight").axes
    assert (axes.images[0].get_array() == births["3.weight"].stages().numpy()).all()
    assert axes.get_title() == f"3.weight {list(births['3.weight'].shape)}"
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"stage {stage}: {count:,}" for stage, count in births["3.weight"].counts().items()]


def test_a_vector_is_drawn_as_a_bar_on_the_axes_that_are_given() -> None:
    births = fxgrow.births(fxgrow.grow(lively(perceptron()), 2, example_inputs=PLAIN["perceptron"][1]))
    figure = Figure()
    _, axes = figure.subplots(1, 2)
    assert births.plot("3.bias", ax=axes) is figure
    assert axes.images[0].get_array().shape == (1, births["3.bias"].shape[0])
    assert axes.get_box_aspect() == 0.15 and list(axes.get_yticks()) == []
    part = Figure().subfigures()
    assert births.plot("3.bias", part.subplots()) is part.figure


def test_a_parameter_that_is_not_there_is_not_drawn() -> None:
    births = fxgrow.births(fxgrow.grow(lively(perceptron()), 2, example_inputs=PLAIN["perceptron"][1]))
    with pytest.raises(FxgrowError) as error:
        births.plot("3.weights")
    assert str(error.value).startswith("there is no parameter '3.weights': did you mean 3.weight")


def test_births_print_as_a_table() -> None:
    text = str(fxgrow.births(fxgrow.grow(lively(perceptron()), 2, example_inputs=PLAIN["perceptron"][1])))
    assert "elements born at each stage" in text
    assert "5.weight" in text

"""What plots share: axes that are given, ticks and legends that can be read, and what is said without matplotlib."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from fxgrow.errors import FxgrowError
from fxgrow.plots import (
    MOST_ENTRIES,
    as_svg,
    colours_of,
    legend_beside,
    named_ticks,
    new_figure,
    over_time,
    readable_log,
)


@pytest.mark.parametrize(("lowest", "highest"), [(0.4, 0.6), (0.04, 0.3), (1e-3, 2e3), (0.99, 1.01)])
def test_a_logarithmic_axis_has_ticks_at_plain_numbers(lowest: float, highest: float) -> None:
    figure = new_figure(4, 3)
    axes = figure.subplots()
    axes.plot([lowest, highest])
    readable_log(axes, lowest, highest)
    figure.canvas.draw()
    low, high = axes.get_ylim()
    labels = [
        label.get_text()
        for tick, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)
        if low <= tick <= high
    ]
    assert low <= lowest and highest <= high
    assert 2 <= len(labels) <= 12
    assert all(float(label) > 0 and "^" not in label for label in labels)


def test_lines_over_time_begin_where_a_stage_is_first_there() -> None:
    figure = over_time({0: {0: 1.0}, 10: {0: 0.6, 1: 0.4}, 20: {0: 0.5, 1: 0.5}}, ylabel="part", percent=True)
    (axes,) = figure.axes
    lines = {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}
    assert lines == {"stage 0": ([0, 10, 20], [1.0, 0.6, 0.5]), "stage 1": ([10, 20], [0.4, 0.5])}
    assert axes.get_ylim()[0] == 0 and axes.get_ylabel() == "part"
    empty = Figure()
    assert over_time({}, ax=empty.subplots()) is empty


def test_stages_have_colours_of_their_own() -> None:
    assert len(set(colours_of(range(9)).values())) == 9
    assert list(colours_of([2, 0])) == [0, 2]
    assert list(colours_of([0])) == [0]


def test_a_legend_counts_what_it_does_not_name() -> None:
    axes = new_figure(4, 3).subplots()
    for number in range(MOST_ENTRIES + 3):
        axes.plot([number], label=f"layer {number}")
    legend_beside(axes)
    assert len(axes.get_legend().get_texts()) == MOST_ENTRIES
    assert axes.get_legend().get_title().get_text() == "and 3 more"


def test_of_very_many_names_some_are_at_the_ticks() -> None:
    axes = new_figure(4, 3).subplots()
    named_ticks(axes, [f"layer{number}" for number in range(150)])
    assert [tick.get_text() for tick in axes.get_xticklabels()][:2] == ["layer0", "layer3"]


def test_a_figure_as_svg_is_the_same_text_each_time() -> None:
    def text(name: str) -> str:
        figure = new_figure(2, 2)
        figure.subplots().plot([1, 2])
        return as_svg(figure, name)

    assert text("a") == text("a") != text("b")
    assert ElementTree.fromstring(text("a")).tag.endswith("svg")


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FxgrowError) as error:
        over_time({0: {1: 1.0}})
    assert str(error.value) == "plots need matplotlib: pip install matplotlib"

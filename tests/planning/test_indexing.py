"""Index maps: every old entry has its place, and every new one knows where it comes from."""

from __future__ import annotations

import math
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from fxgrow.planning.indexing import filled_by, mean_labels, old_positions, opposite_signs, source_positions
from fxgrow.planning.plan import Axis


def run(old: int, added: int, fill: str) -> Axis:
    return Axis("grow", old, old + added, "d0", fill) if added else Axis("keep", old, old)


@st.composite
def axes(draw: Any, fill: str = "draw", depth: int = 2) -> Axis:
    """A tree of runs, products and joins, every run filled the same way."""
    kind = draw(st.sampled_from(["run", "product", "join"])) if depth else "run"
    if kind == "run":
        old = draw(st.integers(1, 4))
        added = draw(st.integers(0, 4))
        return run(old, added + added % 2 if fill in ("pair", "opposite") else added, fill)
    parts = tuple(draw(st.lists(axes(fill, depth - 1), min_size=2, max_size=2)))
    sizes = [[part.old for part in parts], [part.new for part in parts]]
    old, new = (sum(s) if kind == "join" else s[0] * s[1] for s in sizes)
    return Axis(kind, old, new, parts=parts)


@given(axes())
def test_every_old_position_has_one_place_in_order(axis: Axis) -> None:
    old = old_positions(axis)
    assert len(old) == axis.new
    assert old[old >= 0].tolist() == list(range(axis.old))
    assert int((old < 0).sum()) == axis.new - axis.old


@given(axes())
def test_new_positions_are_those_that_a_growing_run_makes(axis: Axis) -> None:
    assert torch.equal(filled_by(axis, frozenset({"draw"})), old_positions(axis) < 0)


@given(axes("copy"))
def test_copies_come_from_old_positions(axis: Axis) -> None:
    source = source_positions(axis, frozenset({"copy"}))
    old = old_positions(axis) >= 0
    assert bool(old[source].all())
    assert torch.equal(source[old], torch.arange(axis.new)[old])


@given(axes("pair"))
def test_a_pair_has_one_source(axis: Axis) -> None:
    source = source_positions(axis, frozenset({"pair"}))
    new = old_positions(axis) < 0
    assert torch.equal(source[source], source)
    assert torch.equal(source[~new], torch.arange(axis.new)[~new])


@given(axes("opposite"))
def test_what_reads_a_pair_cancels(axis: Axis) -> None:
    """Signs over all positions of one source add up to nothing, if any of them is new."""
    source, signs = source_positions(axis, frozenset({"opposite"})), opposite_signs(axis)
    new = old_positions(axis) < 0
    total = torch.zeros(axis.new).index_add_(0, source, signs.float())
    assert not total[source][new].any()
    assert bool((signs[~new] == 1).all())


@given(axes("mean"))
def test_means_are_taken_over_the_old_positions_of_one_run(axis: Axis) -> None:
    labels, old = mean_labels(axis), old_positions(axis) >= 0
    counts = torch.bincount(labels[old], minlength=axis.new)
    assert bool((counts[labels[~old]] > 0).all())


def test_heads_times_width_by_hand() -> None:
    """Two heads of two units, the width grown by one: old entries keep their head."""
    axis = Axis("product", 4, 6, parts=(run(2, 0, ""), run(2, 1, "draw")))
    assert old_positions(axis).tolist() == [0, 1, -1, 2, 3, -1]


def test_a_join_by_hand() -> None:
    axis = Axis("join", 5, 8, parts=(run(2, 1, "draw"), run(3, 2, "draw")))
    assert old_positions(axis).tolist() == [0, 1, -1, 2, 3, 4, -1, -1]


FILLS = ("draw", "zero", "mean", "silence", "pair", "opposite", "copy", "share")
MAPS = (
    old_positions,
    opposite_signs,
    mean_labels,
    lambda axis: filled_by(axis, frozenset({"zero"})),
    lambda axis: source_positions(axis, frozenset({"copy"})),
    lambda axis: source_positions(axis, frozenset({"pair"})),
)


@st.composite
def mixed(draw: Any, depth: int = 2) -> Axis:
    """A tree whose runs are filled in different ways."""
    kind = draw(st.sampled_from(["run", "product", "join"])) if depth else "run"
    if kind == "run":
        return draw(axes(draw(st.sampled_from(FILLS)), depth=0))
    parts = tuple(draw(st.lists(mixed(depth - 1), min_size=1, max_size=3)))
    total = sum if kind == "join" else math.prod
    return Axis(kind, total(part.old for part in parts), total(part.new for part in parts), parts=parts)


@given(mixed())
def test_every_map_has_an_entry_for_every_new_position(axis: Axis) -> None:
    assert [tuple(index_map(axis).shape) for index_map in MAPS] == [(axis.new,)] * len(MAPS)


@given(mixed())
def test_taking_the_old_positions_gives_back_what_was_there(axis: Axis) -> None:
    entries = torch.randn(axis.old)
    old = old_positions(axis)
    grown = torch.where(old >= 0, entries[old], torch.nan)
    assert torch.equal(grown[old >= 0], entries)


@given(mixed())
def test_every_new_position_is_new_for_some_fill(axis: Axis) -> None:
    by_fill = torch.stack([filled_by(axis, frozenset({fill})) for fill in FILLS])
    assert torch.equal(by_fill.any(0), old_positions(axis) < 0)
    assert torch.equal(filled_by(axis, frozenset(FILLS)), old_positions(axis) < 0)


@given(mixed(), st.sampled_from(["pair", "opposite", "copy", "share"]))
def test_what_is_not_filled_so_is_its_own_source(axis: Axis, fill: str) -> None:
    source, filled = source_positions(axis, frozenset({fill})), filled_by(axis, frozenset({fill}))
    assert torch.equal(source[~filled], torch.arange(axis.new)[~filled])
    assert torch.equal(source[source], source)


@given(mixed())
def test_signs_are_those_of_second_halves_only(axis: Axis) -> None:
    signs = opposite_signs(axis)
    assert set(signs.tolist()) <= {-1, 1}
    assert bool((signs[~filled_by(axis, frozenset({"opposite"}))] == 1).all())


@given(mixed())
def test_means_leave_the_other_positions_alone(axis: Axis) -> None:
    if not any(part.fill == "mean" for part in axis.runs()):
        assert torch.equal(mean_labels(axis), torch.arange(axis.new))


def test_a_pair_by_hand() -> None:
    """Three old units and two pairs: the second half repeats the first, each at the same distance."""
    assert source_positions(run(3, 4, "pair"), frozenset({"pair"})).tolist() == [0, 1, 2, 3, 4, 3, 4]
    assert opposite_signs(run(3, 4, "opposite")).tolist() == [1, 1, 1, 1, 1, -1, -1]


def test_copies_take_the_old_units_in_turn() -> None:
    assert source_positions(run(2, 5, "copy"), frozenset({"copy"})).tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_copied_heads_are_copied_whole() -> None:
    axis = Axis("product", 4, 6, parts=(run(2, 1, "copy"), run(2, 0, "")))
    assert source_positions(axis, frozenset({"copy"})).tolist() == [0, 1, 2, 3, 0, 1]


def test_means_within_each_head() -> None:
    axis = Axis("product", 4, 6, parts=(run(2, 0, ""), run(2, 1, "mean")))
    assert mean_labels(axis).tolist() == [0, 0, 0, 3, 3, 3]


def test_means_over_all_heads() -> None:
    axis = Axis("product", 4, 6, parts=(run(2, 1, "mean"), run(2, 0, "")))
    assert mean_labels(axis).tolist() == [0, 1, 0, 1, 0, 1]


def test_means_of_one_part_of_a_join() -> None:
    axis = Axis("join", 4, 6, parts=(run(2, 1, "mean"), run(2, 1, "draw")))
    assert mean_labels(axis).tolist() == [0, 0, 0, 3, 4, 5]


def test_pairs_in_two_factors_cancel_in_both() -> None:
    axis = Axis("product", 1, 9, parts=(run(1, 2, "opposite"), run(1, 2, "opposite")))
    signs = opposite_signs(axis).reshape(3, 3)
    assert signs.tolist() == [[1, 1, -1], [1, 1, -1], [-1, -1, 1]]

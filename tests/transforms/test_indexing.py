"""Index maps: every old entry has its place, and every new one knows where it comes from."""

from __future__ import annotations

from typing import Any

import torch
from fxgrow.transforms.indexing import filled_by, mean_labels, old_positions, opposite_signs, source_positions
from hypothesis import given
from hypothesis import strategies as st

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
    found = old_positions(axis)
    assert len(found) == axis.new
    assert found[found >= 0].tolist() == list(range(axis.old))
    assert int((found < 0).sum()) == axis.new - axis.old


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

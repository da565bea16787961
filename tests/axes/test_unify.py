"""Unification: dimensions are tied, cut and factored; contradictions fix them and never raise."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, is_fixed, join, leaves, product, resolve
from fxgrow.axes.unify import Unifier


@st.composite
def layouts(draw: Any, size: int, depth: int = 2) -> Layout:
    """A layout of a given size: a leaf, now and then fixed, or a product or a join of smaller ones."""
    kinds = ["leaf", "leaf", "fixed"]
    divisors = [d for d in range(2, size) if size % d == 0]
    if depth and divisors:
        kinds.append("product")
    if depth and size > 1:
        kinds.append("join")
    kind = draw(st.sampled_from(kinds))
    if kind == "product":
        outer = draw(st.sampled_from(divisors))
        return product([draw(layouts(outer, depth - 1)), draw(layouts(size // outer, depth - 1))])
    if kind == "join":
        cut = draw(st.integers(1, size - 1))
        return join([draw(layouts(cut, depth - 1)), draw(layouts(size - cut, depth - 1))])
    return Leaf(size, reason=Reason("given") if kind == "fixed" else None)


@st.composite
def two_layouts(draw: Any) -> tuple[Layout, Layout]:
    size = draw(st.sampled_from([1, 2, 4, 6, 8, 12]))
    return draw(layouts(size)), draw(layouts(size))


@given(two_layouts())
def test_what_is_unified_is_one_term_of_the_same_size(pair: tuple[Layout, Layout]) -> None:
    one, other = pair
    size = one.size
    Unifier().unify(one, other)
    assert resolve(one).size == resolve(other).size == size
    assert {leaf for leaf in leaves(one) if not leaf.fixed} == {leaf for leaf in leaves(other) if not leaf.fixed}


@given(two_layouts())
def test_unifying_again_changes_nothing(pair: tuple[Layout, Layout]) -> None:
    unifier = Unifier()
    unifier.unify(*pair)
    before = [repr(resolve(layout)) for layout in pair]
    unifier.unify(*pair)
    unifier.unify(*reversed(pair))
    assert [repr(resolve(layout)) for layout in pair] == before


@given(two_layouts())
def test_what_was_fixed_stays_fixed(pair: tuple[Layout, Layout]) -> None:
    fixed = [leaf for layout in pair for leaf in leaves(layout) if leaf.fixed]
    Unifier().unify(*pair)
    assert all(is_fixed(leaf) for leaf in fixed)


@given(st.data(), st.sampled_from([4, 6, 12]))
def test_pieces_have_the_sizes_asked_for_and_make_up_the_whole(data: st.DataObject, size: int) -> None:
    layout = data.draw(layouts(size))
    cut = data.draw(st.integers(1, size - 1))
    pieces = Unifier().split(layout, [cut, size - cut])
    assert [piece.size for piece in pieces] == [cut, size - cut]
    free = {leaf for leaf in leaves(layout) if not leaf.fixed}
    assert {leaf for piece in pieces for leaf in leaves(piece) if not leaf.fixed} == free


@given(st.data(), st.sampled_from([(2, 3), (3, 2), (2, 2, 3), (1, 12), (12,)]))
def test_factors_have_the_sizes_asked_for_and_make_up_the_whole(data: st.DataObject, sizes: tuple[int, ...]) -> None:
    total = 1
    for size in sizes:
        total *= size
    layout = data.draw(layouts(total))
    factors = Unifier().factor(layout, list(sizes))
    assert [factor.size for factor in factors] == list(sizes)
    free = {leaf for leaf in leaves(layout) if not leaf.fixed}
    assert {leaf for factor in factors for leaf in leaves(factor) if not leaf.fixed} == free


def test_a_product_meets_a_finer_one() -> None:
    two, six, four, three = Leaf(2), Leaf(6), Leaf(4), Leaf(3)
    one, other = Product((two, six)), Product((four, three))
    Unifier().unify(one, other)
    assert [leaf.size for leaf in leaves(one)] == [leaf.size for leaf in leaves(other)] == [2, 2, 3]
    assert not is_fixed(one)


def test_factorings_that_do_not_fit_fix_both() -> None:
    unifier = Unifier()
    unifier.reason = Reason("view", "block")
    one, other = Product((Leaf(2), Leaf(3))), Product((Leaf(3), Leaf(2)))
    unifier.unify(one, other)
    assert is_fixed(one) and is_fixed(other)
    assert str(next(leaves(one)).reason) == "view: 6 is factored in two ways that do not fit (at block)"


def test_joins_cut_at_different_places_are_cut_at_all_of_them() -> None:
    one, other = Join((Leaf(2), Leaf(4))), Join((Leaf(3), Leaf(3)))
    Unifier().unify(one, other)
    assert [leaf.size for leaf in leaves(one)] == [leaf.size for leaf in leaves(other)] == [2, 1, 3]


def test_sizes_that_differ_fix_both_with_the_reason() -> None:
    unifier = Unifier()
    unifier.reason = Reason("add", "block.add")
    one, other = Leaf(3), Leaf(4)
    unifier.unify(one, other)
    assert str(one.reason) == str(other.reason) == "add: sizes 3 and 4 meet (at block.add)"


def test_the_first_reason_is_kept_and_spreads() -> None:
    unifier = Unifier()
    first, second = Leaf(4), Leaf(4)
    unifier.fix(first, Reason("it is space"))
    unifier.fix(first, Reason("another"))
    unifier.unify(first, second)
    assert str(resolve(second).reason) == "it is space"  # type: ignore[union-attr]


def test_a_size_of_one_is_broadcast() -> None:
    unifier = Unifier()
    one, four, other = Leaf(1), Leaf(4), Leaf(4)
    assert unifier.broadcast([one, four, other]) is resolve(four)
    assert one.fixed and not four.fixed
    assert resolve(four) is resolve(other)


def test_reshape_matches_the_smallest_groups() -> None:
    batch, tokens, units = Leaf(2), Leaf(5), Leaf(12)
    heads = Unifier().reshape([batch, tokens, units], [2, 5, 3, 4])
    assert heads[0] is batch and heads[1] is tokens
    assert resolve(units).size == 12
    assert [leaf.size for leaf in leaves(units)] == [3, 4]
    assert [resolve(h) for h in heads[2:]] == list(leaves(units))


def test_a_dimension_never_becomes_part_of_itself() -> None:
    unifier = Unifier()
    leaf, one = Leaf(4), Leaf(1)
    unifier.unify(leaf, Product((leaf, one)))
    assert resolve(leaf) is leaf
    assert one.fixed

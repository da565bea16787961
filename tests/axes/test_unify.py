"""Unification: dimensions are tied, cut and factored; contradictions fix them and never raise."""

from __future__ import annotations

import copy
import itertools
import math
import operator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, is_fixed, join, leaves, product, resolve
from fxgrow.axes.unify import Unifier
from fxgrow.planning.sizing import size_after


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
    left, right = pair
    size = left.size
    Unifier().unify(left, right)
    assert resolve(left).size == resolve(right).size == size
    assert {leaf for leaf in leaves(left) if not leaf.fixed} == {leaf for leaf in leaves(right) if not leaf.fixed}


@given(two_layouts())
def test_unifying_again_frees_nothing_and_agrees_still(pair: tuple[Layout, Layout]) -> None:
    unifier = Unifier()
    unifier.unify(*pair)
    growable = {leaf for layout in pair for leaf in leaves(layout) if not leaf.fixed}
    for again in (pair, pair[::-1]):
        unifier.unify(*again)
        for layout in pair:
            assert {leaf for leaf in leaves(layout) if not leaf.fixed} <= growable


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
    left, right = Product((two, six)), Product((four, three))
    Unifier().unify(left, right)
    assert [leaf.size for leaf in leaves(left)] == [leaf.size for leaf in leaves(right)] == [2, 2, 3]
    assert not is_fixed(left)


def test_factorings_that_do_not_fit_fix_both() -> None:
    unifier = Unifier()
    unifier.reason = Reason("view", "block")
    left, right = Product((Leaf(2), Leaf(3))), Product((Leaf(3), Leaf(2)))
    unifier.unify(left, right)
    assert is_fixed(left) and is_fixed(right)
    assert str(next(leaves(left)).reason) == "view: 6 is factored in two ways that do not fit (at block)"


def test_joins_cut_at_different_places_are_cut_at_all_of_them() -> None:
    left, right = Join((Leaf(2), Leaf(4))), Join((Leaf(3), Leaf(3)))
    Unifier().unify(left, right)
    assert [leaf.size for leaf in leaves(left)] == [leaf.size for leaf in leaves(right)] == [2, 1, 3]


def test_sizes_that_differ_fix_both_with_the_reason() -> None:
    unifier = Unifier()
    unifier.reason = Reason("add", "block.add")
    left, right = Leaf(3), Leaf(4)
    unifier.unify(left, right)
    assert str(left.reason) == str(right.reason) == "add: sizes 3 and 4 meet (at block.add)"


def test_the_first_reason_is_kept_and_spreads() -> None:
    unifier = Unifier()
    first, second = Leaf(4), Leaf(4)
    unifier.fix(first, Reason("it is space"))
    unifier.fix(first, Reason("another"))
    unifier.unify(first, second)
    assert str(resolve(second).reason) == "it is space"  # type: ignore[union-attr]


def test_a_size_of_one_is_broadcast() -> None:
    unifier = Unifier()
    one, four, another = Leaf(1), Leaf(4), Leaf(4)
    assert unifier.broadcast([one, four, another]) is resolve(four)
    assert one.fixed and not four.fixed
    assert resolve(four) is resolve(another)


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


@st.composite
def terms(draw: Any, size: int, depth: int = 2) -> Any:
    """The description of a layout in which leaves may occur again: equal numbers stand for one leaf."""
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    kinds = ["leaf", "leaf", *(["product"] if depth else []), *(["join"] if depth and size > 1 else [])]
    kind = draw(st.sampled_from(kinds))
    if kind == "product":
        outer = draw(st.sampled_from(divisors))
        return kind, draw(terms(outer, depth - 1)), draw(terms(size // outer, depth - 1))
    if kind == "join":
        cut = draw(st.integers(1, size - 1))
        return kind, draw(terms(cut, depth - 1)), draw(terms(size - cut, depth - 1))
    return kind, size, draw(st.integers(0, 2))


def built(term: Any, leaves_by_key: dict[tuple[int, int], Leaf]) -> Layout:
    """The layout a description stands for; leaves with number 0 are fixed."""
    kind, first, second = term
    if kind == "leaf":
        reason = Reason("given") if second == 0 else None
        return leaves_by_key.setdefault((first, second), Leaf(first, reason=reason))
    parts = (built(first, leaves_by_key), built(second, leaves_by_key))
    return Product(parts) if kind == "product" else Join(parts)


@st.composite
def pairs_of_terms(draw: Any) -> list[tuple[Any, Any]]:
    sizes = draw(st.lists(st.sampled_from([1, 2, 4, 6, 12]), min_size=1, max_size=3))
    return [(draw(terms(size)), draw(terms(size))) for size in sizes]


FIXED_IN_ITSELF = (("leaf", 4, 0), ("product", ("leaf", 4, 0), ("leaf", 1, 1)))
ITS_OWN_SQUARE = (("leaf", 1, 1), ("product", ("leaf", 1, 1), ("leaf", 1, 1)))


@given(pairs_of_terms())
@example([FIXED_IN_ITSELF])
@example([ITS_OWN_SQUARE])
def test_what_is_unified_grows_alike(pairs: list[tuple[Any, Any]]) -> None:
    """Whatever is tied, also over and over with the same leaves: both sides have one size after any growth."""
    unifier = Unifier()
    leaves_by_key: dict[tuple[int, int], Leaf] = {}
    layouts_tied = [(built(first, leaves_by_key), built(second, leaves_by_key)) for first, second in pairs]
    for left, right in layouts_tied:
        unifier.unify(left, right)
    free = dict.fromkeys(leaf for pair in layouts_tied for layout in pair for leaf in leaves(layout) if not leaf.fixed)
    growth = {leaf: leaf.size + 3 + number for number, leaf in enumerate(free)}
    for left, right in layouts_tied:
        assert resolve(left).size == left.size == right.size
        assert size_after(left, growth) == size_after(right, growth)


@given(two_layouts())
def test_the_order_of_the_two_does_not_matter(pair: tuple[Layout, Layout]) -> None:
    left, right = pair
    same_left, same_right = copy.deepcopy(pair)
    Unifier().unify(left, right)
    Unifier().unify(same_right, same_left)
    for layout, twin in ((left, same_left), (right, same_right)):
        assert [(leaf.size, leaf.fixed) for leaf in leaves(layout)] == [
            (leaf.size, leaf.fixed) for leaf in leaves(twin)
        ]


@given(st.data(), st.sampled_from([(2, 6), (3, 4), (6, 2), (2, 2, 3), (4, 3)]))
def test_products_that_do_not_fit_are_fixed_and_others_stay_free(data: st.DataObject, first: tuple[int, ...]) -> None:
    second = data.draw(st.sampled_from([(2, 6), (3, 4), (6, 2), (2, 2, 3), (4, 3)]))
    left, right = (Product(tuple(map(Leaf, sizes))) for sizes in (first, second))
    Unifier().unify(left, right)
    ends = [set(itertools.accumulate(sizes, operator.mul)) for sizes in (first, second)]
    chain = sorted(ends[0] | ends[1])
    fits = all(after % before == 0 for before, after in itertools.pairwise(chain))
    assert is_fixed(left) is is_fixed(right) is (not fits)


def test_two_by_six_against_three_by_four_is_a_contradiction() -> None:
    unifier = Unifier()
    unifier.reason = Reason("view", "block")
    left, right = Product((Leaf(2), Leaf(6))), Product((Leaf(3), Leaf(4)))
    unifier.unify(left, right)
    reasons = {str(leaf.reason) for layout in (left, right) for leaf in leaves(layout)}
    assert reasons == {"view: 12 is factored in two ways that do not fit (at block)"}


def test_factors_of_size_zero_are_a_contradiction_too() -> None:
    left, right = Product((Leaf(0), Leaf(3))), Product((Leaf(3), Leaf(0)))
    Unifier().unify(left, right)
    assert resolve(left).size == resolve(right).size == 0


def test_a_leaf_becomes_the_product_it_meets_wherever_it_occurs() -> None:
    leaf, heads, width = Leaf(6), Leaf(2), Leaf(3)
    joined = Join((leaf, Leaf(1)))
    Unifier().unify(leaf, Product((heads, width)))
    assert list(leaves(joined))[:2] == [heads, width]


def test_a_fixed_leaf_fixes_the_product_it_meets() -> None:
    heads, width = Leaf(2), Leaf(3)
    Unifier().unify(Leaf(6, reason=Reason("it is space")), Product((heads, width)))
    assert str(heads.reason) == str(width.reason) == "it is space"


def test_a_product_meets_a_join_of_whole_rows() -> None:
    heads, width, first, second = Leaf(5), Leaf(3), Leaf(6), Leaf(9)
    Unifier().unify(Product((heads, width)), Join((first, second)))
    assert [leaf.size for leaf in leaves(heads)] == [2, 3]
    assert list(leaves(first))[1] is list(leaves(second))[1] is width
    assert not width.fixed


def test_a_product_cut_across_its_rows_is_fixed() -> None:
    unifier = Unifier()
    unifier.reason = Reason("cat", "merge")
    factored, first, second = Product((Leaf(2), Leaf(3))), Leaf(2), Leaf(4)
    unifier.unify(factored, Join((first, second)))
    assert is_fixed(factored) and first.fixed and second.fixed
    assert str(next(leaves(factored)).reason) == "cat: 6 is cut at [2, 4], across its factor of 3 (at merge)"


def test_what_is_taken_apart_row_by_row_keeps_its_number_of_rows() -> None:
    unifier = Unifier()
    unifier.reason = Reason("unbind", "attend")
    three, width = Leaf(3), Leaf(8)
    pieces = unifier.split(Product((three, width)), [8, 8, 8])
    assert pieces == [width, width, width]
    assert str(three.reason) == "unbind: taken apart into [1, 1, 1] (at attend)"
    assert not width.fixed


def test_a_free_leaf_that_is_cut_becomes_a_join_of_its_pieces() -> None:
    leaf = Leaf(7)
    pieces = Unifier().split(leaf, [2, 5])
    assert list(leaves(leaf)) == pieces


def test_pieces_of_a_fixed_leaf_have_its_reason() -> None:
    pieces = Unifier().split(Leaf(7, reason=Reason("it is space")), [2, 5])
    assert [(piece.size, str(next(leaves(piece)).reason)) for piece in pieces] == [
        (2, "it is space"),
        (5, "it is space"),
    ]


def test_one_piece_is_the_whole() -> None:
    leaf = Leaf(7)
    assert Unifier().split(leaf, [7]) == [leaf]
    assert Unifier().factor(leaf, [7]) == [leaf]


def test_factors_of_size_one_are_fixed_and_leave_the_rest_whole() -> None:
    leaf = Leaf(7)
    one, rest = Unifier().factor(leaf, [1, 7])
    assert rest is leaf and is_fixed(one) and not leaf.fixed


def test_factors_of_joined_parts_share_the_inner_factor() -> None:
    first, second = Leaf(4), Leaf(6)
    outer, inner = Unifier().factor(Join((first, second)), [5, 2])
    assert [leaf.size for leaf in leaves(outer)] == [2, 3]
    assert list(leaves(first))[1] is list(leaves(second))[1] is resolve(inner)


def test_parts_that_the_inner_factor_does_not_divide_are_fixed() -> None:
    unifier = Unifier()
    unifier.reason = Reason("view", "block")
    joined = Join((Leaf(3), Leaf(5)))
    assert all(map(is_fixed, unifier.factor(joined, [4, 2])))
    assert str(next(leaves(joined)).reason) == "view: concatenated parts of [3, 5] are factored by 2 (at block)"


def test_a_product_factored_across_its_factors_is_fixed() -> None:
    unifier = Unifier()
    unifier.reason = Reason("view", "block")
    factored = Product((Leaf(2), Leaf(6)))
    assert all(map(is_fixed, unifier.factor(factored, [3, 4])))
    assert str(next(leaves(factored)).reason) == "view: 12 is factored as [3, 4], across its factors (at block)"


def test_a_reason_of_a_younger_leaf_spreads_to_an_elder_one() -> None:
    elder, younger = Leaf(4), Leaf(4, reason=Reason("it is space"))
    Unifier().unify(elder, younger)
    assert str(elder.reason) == "it is space"


def test_a_reason_spreads_to_all_that_was_tied_before() -> None:
    unifier, tied = Unifier(), [Leaf(4) for _ in range(4)]
    for left, right in itertools.pairwise(tied):
        unifier.unify(left, right)
    unifier.fix(tied[2], Reason("it is space"))
    assert [str(next(leaves(leaf)).reason) for leaf in tied] == ["it is space"] * 4


def test_leaves_of_equal_size_are_not_tied_by_that() -> None:
    unifier, left, right = Unifier(), Leaf(4), Leaf(4)
    unifier.tie_sizes(left, right, "the pieces have one size")
    assert resolve(left) is not resolve(right)
    assert not left.fixed and not right.fixed


def test_an_empty_dimension_beside_a_size_of_one_stays_empty() -> None:
    assert Unifier().broadcast([Leaf(0), Leaf(1)]).size == 0


def test_ones_broadcast_together_are_one_dimension() -> None:
    left, right = Leaf(1), Leaf(1)
    assert Unifier().broadcast([left, right]) is resolve(left) is resolve(right)


@given(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4), st.data())
def test_reshaping_gives_the_sizes_asked_for_and_loses_no_leaf(sizes: list[int], data: st.DataObject) -> None:
    total = math.prod(sizes)
    wanted: list[int] = []
    while math.prod(wanted) != total:
        rest = total // math.prod(wanted)
        wanted.append(data.draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0])))
        wanted = wanted if len(wanted) < 6 else [total]
    dimensions = [Leaf(size) for size in sizes]
    reshaped = Unifier().reshape(dimensions, wanted)
    assert [dimension.size for dimension in reshaped] == wanted
    free = {leaf for dimension in dimensions for leaf in leaves(dimension) if not leaf.fixed}
    assert {leaf for dimension in reshaped for leaf in leaves(dimension) if not leaf.fixed} == free

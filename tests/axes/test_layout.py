"""Layouts: terms over leaves, in their finest known form."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxgrow.axes.layout import Join, Layout, Leaf, Product, Reason, is_fixed, join, leaves, product, resolve, same

HELD = Reason("held")


@st.composite
def nested(draw: Any, depth: int = 3) -> Layout:
    """A layout nested as nobody would write it: products in products, joins of one part, bound leaves."""
    kind = draw(st.sampled_from(["leaf", "fixed", "bound", "product", "join"] if depth else ["leaf", "fixed"]))
    if kind == "bound":
        inner = draw(nested(depth - 1))
        return Leaf(inner.size, bound=inner)
    if kind in ("product", "join"):
        parts = tuple(draw(st.lists(nested(depth - 1), min_size=1, max_size=3)))
        return Product(parts) if kind == "product" else Join(parts)
    return Leaf(draw(st.integers(1, 4)), reason=HELD if kind == "fixed" else None)


@given(nested())
def test_the_finest_form_has_the_same_size(layout: Layout) -> None:
    assert resolve(layout).size == layout.size


@given(nested())
def test_the_finest_form_of_the_finest_form_is_itself(layout: Layout) -> None:
    finest = resolve(layout)
    assert repr(resolve(finest)) == repr(finest)
    assert same(resolve(finest), finest)


@given(nested())
def test_the_finest_form_has_no_product_in_a_product_and_no_join_in_a_join(layout: Layout) -> None:
    def check(term: Layout) -> None:
        if isinstance(term, Product):
            assert len(term.parts) > 1
            assert not any(isinstance(factor, Product) for factor in term.parts)
            for factor in term.parts:
                check(factor)
        elif isinstance(term, Join):
            assert len(term.parts) > 1
            assert not any(isinstance(part, Join) for part in term.parts)
            for part in term.parts:
                check(part)
        else:
            assert term.bound is None

    check(resolve(layout))


@given(nested())
def test_a_layout_is_fixed_if_all_its_leaves_are(layout: Layout) -> None:
    assert is_fixed(layout) is all(leaf.reason is not None for leaf in leaves(layout))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_sizes_multiply_in_products_and_add_in_joins(sizes: list[int]) -> None:
    parts = tuple(map(Leaf, sizes))
    assert Product(parts).size == math.prod(sizes)
    assert Join(parts).size == sum(sizes)


def test_bindings_are_followed_to_the_end() -> None:
    last = Leaf(6)
    first = Leaf(6, bound=Leaf(6, bound=last))
    assert resolve(first) is last
    assert list(leaves(first)) == [last]


def test_leaves_come_in_order_and_as_often_as_they_occur() -> None:
    a, b = Leaf(2), Leaf(3)
    assert list(leaves(Join((Product((a, b)), a)))) == [a, b, a]


def test_a_factor_fixed_at_size_one_is_dropped() -> None:
    leaf = Leaf(5)
    assert product([Leaf(1, reason=HELD), leaf]) is leaf


def test_a_factor_of_size_one_that_may_grow_is_kept() -> None:
    leaf, one = Leaf(5), Leaf(1)
    assert list(leaves(product([one, leaf]))) == [one, leaf]


def test_a_product_of_fixed_ones_is_one() -> None:
    first = Leaf(1, reason=HELD)
    assert product([first, Leaf(1, reason=HELD)]) is first


def test_empty_parts_are_dropped() -> None:
    leaf = Leaf(5)
    assert join([Leaf(0), leaf, Leaf(0)]) is leaf


def test_a_join_of_empty_parts_is_empty() -> None:
    assert join([Leaf(0), Leaf(0)]).size == 0


def test_fixed_leaves_of_one_size_are_the_same() -> None:
    assert same(Leaf(4, reason=HELD), Leaf(4, reason=Reason("for another reason")))


@pytest.mark.parametrize(
    "layout",
    [Leaf(4), Leaf(4, reason=HELD), Product((Leaf(2), Leaf(2))), Join((Leaf(2), Leaf(2)))],
    ids=["free", "fixed", "product", "join"],
)
def test_a_free_leaf_is_the_same_as_itself_only(layout: Layout) -> None:
    leaf = Leaf(4)
    assert same(leaf, leaf)
    assert not same(leaf, layout)


def test_a_product_is_not_the_same_as_a_join_of_its_factors() -> None:
    first, second = Leaf(2), Leaf(2)
    assert same(Product((first, second)), Product((first, second)))
    assert not same(Product((first, second)), Join((first, second)))
    assert not same(Product((first, second)), Product((second, first)))


def test_a_reason_says_where_if_it_is_known() -> None:
    assert str(Reason("sort has no rule", "1.sort")) == "sort has no rule (at 1.sort)"
    assert str(Reason("sort has no rule")) == "sort has no rule"


def test_a_layout_reads_as_a_term() -> None:
    heads, width, rest = Leaf(2), Leaf(3), Leaf(1, reason=HELD)
    text = repr(Join((Product((heads, width)), rest)))
    assert text == f"((d{heads.serial}[2] x d{width.serial}[3]) + fixed{rest.serial}[1])"

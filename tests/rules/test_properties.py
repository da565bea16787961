"""The rules of families with many forms, on shapes and arguments drawn at random, beside the ops themselves."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fxgrow.testing.alone import Case, look
from fxgrow.testing.judging import check_equivariance, check_growth

sizes = st.integers(1, 4)
drawn = settings(max_examples=settings.default.max_examples // 4, derandomize=True)


def check(case: Case) -> None:
    check_equivariance(look(case))
    check_growth(look(case))


@st.composite
def factored(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A shape, and another of as many entries made by merging and cutting its axes."""
    factors = draw(st.lists(st.integers(1, 3), min_size=2, max_size=5))

    def grouped() -> tuple[int, ...]:
        cuts = sorted(draw(st.sets(st.integers(1, len(factors) - 1), max_size=3)))
        bounds = [0, *cuts, len(factors)]
        return tuple(math.prod(factors[a:b]) for a, b in itertools.pairwise(bounds))

    return grouped(), grouped()


@drawn
@given(factored())
def test_reshape(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    before, after = shapes
    check(Case("reshape", lambda x: x.reshape(*after), (before,), 0))


@drawn
@given(factored())
def test_reshape_and_back(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    before, after = shapes
    check(Case("there and back", lambda x: torch.tanh(x.view(*after)).view(*before) + x, (before,), 0))


@drawn
@given(st.lists(sizes, min_size=1, max_size=4), st.data())
def test_permute(shape: list[int], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    check(Case("permute", lambda x: x.permute(order) * 2, (tuple(shape),), 0))


@drawn
@given(st.lists(sizes, min_size=1, max_size=3), st.data())
def test_broadcast_arithmetic(shape: list[int], data: st.DataObject) -> None:
    rank = data.draw(st.integers(1, len(shape)))
    other = tuple(data.draw(st.sampled_from([1, size])) for size in shape[-rank:])
    op = data.draw(st.sampled_from([torch.add, torch.sub, torch.mul, torch.div, torch.maximum]))
    swapped = data.draw(st.booleans())
    check(Case("arithmetic", (lambda x, y: op(y, x)) if swapped else op, (tuple(shape), other), 0))


@drawn
@given(st.data())
def test_convolution(data: st.DataObject) -> None:
    groups, inside, outside = (data.draw(st.integers(1, 3)) for _ in range(3))
    kernel, transposed = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    module = kind(groups * inside, groups * outside, kernel, groups=groups, bias=data.draw(st.booleans()))
    check(Case("convolution", module, ((2, groups * inside, 3, 3),), 0))


@drawn
@given(st.data())
def test_einsum(data: st.DataObject) -> None:
    names = "bijk"
    size = {name: data.draw(st.integers(2, 3)) for name in names}
    left = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    right = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True))
    seen = sorted({*left, *right})
    kept = data.draw(st.lists(st.sampled_from(seen), max_size=3, unique=True))
    equation = f"{''.join(left)},{''.join(right)}->{''.join(kept)}"
    shapes = tuple(tuple(size[name] for name in part) for part in (left, right))
    case = Case("einsum", lambda x, y: torch.einsum(equation, x, y), shapes, 0)
    check_equivariance(look(case))
    alone = {name for part, other in ((left, right), (right, left)) for name in part if name not in (*other, *kept)}
    if not alone:  # summing over one operand only can never take new units of unknown content
        check_growth(look(case))


@drawn
@given(st.integers(1, 3), st.data())
def test_cut_and_join(pieces: int, data: st.DataObject) -> None:
    parts = [data.draw(st.integers(1, 3)) for _ in range(pieces)]
    order = data.draw(st.permutations(range(pieces)))

    def shuffled(x: torch.Tensor) -> torch.Tensor:
        cut = torch.split(x, parts, dim=1)
        return torch.cat([cut[k] for k in order], dim=1)

    check(Case("cut and join", shuffled, ((2, sum(parts)),), 0))


@drawn
@given(st.integers(2, 6), st.data())
def test_slice(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start + 1, size))
    check(Case("slice", lambda x: x[:, start:stop], ((2, size),), 0))


@drawn
@given(st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_group_norm(groups: int, width: int, affine: bool) -> None:
    check(Case("group norm", nn.GroupNorm(groups, groups * width, affine=affine), ((2, groups * width, 3),), 0))


@drawn
@given(st.lists(sizes, min_size=2, max_size=3), st.data())
def test_reductions(shape: list[int], data: st.DataObject) -> None:
    dims = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    kind = data.draw(st.sampled_from(["sum", "mean", "amax"]))
    keep = data.draw(st.booleans())
    check(Case(kind, lambda x: getattr(x, kind)(dim=dims, keepdim=keep), (tuple(shape),), 0))


attention_sizes = given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.booleans())


@settings(drawn, max_examples=2)
@attention_sizes
def test_heads_of_attention(heads: int, width: int, tokens: int, causal: bool) -> None:
    check_heads(heads, width, tokens, causal)


@pytest.mark.slow
@settings(drawn, max_examples=25)
@attention_sizes
def test_heads_of_attention_of_many_sizes(heads: int, width: int, tokens: int, causal: bool) -> None:
    check_heads(heads, width, tokens, causal)


def check_heads(heads: int, width: int, tokens: int, causal: bool) -> None:
    def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.reshape(2, tokens, heads, width).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return attended.transpose(1, 2).reshape(2, tokens, heads * width)

    check(Case("heads", attention, ((2, tokens, heads * width),) * 3, 0))

"""How large each dimension becomes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import AmountError
from fxgrow.planning.sizing import rounded

ROW = torch.randn(2, 5)


@given(st.integers(1, 500), st.floats(1, 4), st.sampled_from([1, 2, 4, 8, 3]), st.booleans())
def test_rounding(size: int, factor: float, multiple: int, pairs: bool) -> None:
    new = rounded(size, factor, multiple, pairs)
    assert new >= size
    if pairs and (multiple % 2 or size % 2 == 0):
        assert (new - size) % 2 == 0
    if new > size:
        assert new % multiple == 0 or multiple == 1
        assert abs(new - size * factor) <= multiple * (1.5 if pairs else 0.5) + 1e-9


def sizes(model: nn.Module, width: Any, x: Tensor = ROW, **options: Any) -> dict[str, tuple[int, int]]:
    plan = fxgrow.plan(model, width, example_inputs=x, **options)
    return {group.where[0]: (group.old, group.new) for group in plan.groups}


def layers() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 3))


def test_amounts_for_all_and_for_parts() -> None:
    assert sizes(layers(), 1.5) == {"0.weight[0]": (10, 15), "2.weight[0]": (6, 9)}
    assert sizes(layers(), "+4") == {"0.weight[0]": (10, 14), "2.weight[0]": (6, 10)}
    assert sizes(layers(), {"2": "=7"}) == {"2.weight[0]": (6, 7)}
    assert sizes(layers(), {"*": 2, "0": 3}) == {"0.weight[0]": (10, 30), "2.weight[0]": (6, 12)}
    assert sizes(layers(), 1.5, round_to=8) == {"0.weight[0]": (10, 16), "2.weight[0]": (6, 8)}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(5, 8)
        self.inner = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))
        self.leave = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.leave(x + self.inner(x))


def test_a_key_within_the_part_of_another_settles_a_shared_dimension() -> None:
    assert sizes(Residual(), {"inner": 2, "inner.2": 3})["enter.weight[0]"] == (8, 24)
    assert sizes(Residual(), {"*": 2, "enter": 3})["enter.weight[0]"] == (8, 24)


def test_keys_of_different_parts_have_to_agree_on_a_shared_dimension() -> None:
    assert sizes(Residual(), {"enter": 2, "inner": 2})["enter.weight[0]"] == (8, 16)
    with pytest.raises(AmountError) as caught:
        sizes(Residual(), {"enter": 2, "inner": 3})
    assert str(caught.value) == (
        "'enter' and 'inner' ask different amounts for one dimension, enter.weight[0] and inner.2.weight[0] "
        "(at inner.2): ask the same, or add a key for a part within one of them"
    )


class Heads(nn.Module):
    """Attention-like: six units seen as two heads of three."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x).reshape(-1, 2, 3)
        return self.leave((x * x.softmax(0)).reshape(-1, 6))


@pytest.mark.parametrize(("width", "axis"), [(1.5, (2, 3)), (2, (2, 4)), ("=12", (2, 4)), ("=8", (3, 4))])
def test_of_the_factors_of_a_product_one_grows_that_comes_closest(width: Any, axis: tuple[int, int]) -> None:
    assert list(sizes(Heads(), width).values()) == [axis]


def test_pieces_of_one_cut_stay_equal() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(5, 8), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            value, gate = self.enter(x).chunk(2, dim=-1)
            return self.leave(value * gate.sigmoid())

    plan = fxgrow.plan(Gated(), 1.5, example_inputs=ROW)
    assert next(t.new_shape for t in plan.tensors if t.name == "enter.weight") == (12, 5)


def test_an_amount_that_rounds_to_nothing_is_said_so() -> None:
    plan = fxgrow.plan(layers(), {"0": 2, "2": 1.05}, example_inputs=ROW)
    assert [staying.reason for staying in plan.held] == ["x1.05 of 6 rounds to 6"]


def test_a_dimension_nobody_asked_for_is_said_so() -> None:
    plan = fxgrow.plan(layers(), {"0": 2}, example_inputs=ROW)
    assert [(staying.where[0], staying.reason) for staying in plan.held] == [
        ("2.weight[0]", "no amount was asked for it")
    ]


def test_more_units_than_any_tensor_can_have() -> None:
    with pytest.raises(AmountError) as caught:
        sizes(layers(), 1e300)
    assert str(caught.value) == (
        "x1e+300 of 6 is more units than a tensor can have (at 2.weight[0]): ask for less"
    ) or str(caught.value).startswith("x1e+300 of 10 is more units than a tensor can have")


@pytest.mark.parametrize(("amount", "size"), [(1e10, 60_000_000_000), ("+1000000000000", 1_000_000_000_006)])
def test_more_entries_than_any_tensor_can_have(amount: float | str, size: int) -> None:
    with pytest.raises(AmountError, match=rf"^\[{size}, .*\] are more entries than a tensor can have \(at 2\.weight\)"):
        fxgrow.plan(layers(), amount, example_inputs=ROW)


class Remainder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x).relu()
        return self.head(x + x.shape[1] % 6)  # type: ignore[no-any-return]


def test_units_stay_where_a_number_made_of_their_size_becomes_zero() -> None:
    """No factor makes it what it was; it may hang on other sizes too, so that it is no constant either."""
    assert sizes(Remainder(), 1.5) == {}
    assert sizes(Remainder(), "+2") == {"read.weight[0]": (8, 10)}

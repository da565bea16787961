"""Caches that a forward reaches past the model: after a look at the model they hold what they held."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import fxgrow

X = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def places(count: int) -> Tensor:
    return torch.linspace(0, 1, count, dtype=torch.float64)[:, None]


class Registry:
    """No module of the model."""

    kept: ClassVar[Tensor | None] = None

    @classmethod
    def of_class(cls, count: int) -> Tensor:
        if cls.kept is None:
            cls.kept = places(count)
        return cls.kept

    @staticmethod
    @functools.lru_cache
    def cached(count: int) -> Tensor:
        return places(count)

    @functools.lru_cache  # noqa: B019  # as people do
    def of_object(self, count: int) -> Tensor:
        return places(count)


def by_default(count: int, kept: dict[int, Tensor] = {}) -> Tensor:  # noqa: B006
    if count not in kept:
        kept[count] = places(count)
    return kept[count]


def by_attribute(count: int) -> Tensor:
    if not hasattr(by_attribute, "kept"):
        by_attribute.kept = places(count)  # type: ignore[attr-defined]
    return by_attribute.kept  # type: ignore[no-any-return]


def closing_over() -> Callable[[int], Tensor]:
    kept: Tensor | None = None

    def by_cell(count: int) -> Tensor:
        nonlocal kept
        if kept is None:
            kept = places(count)
        return kept

    return by_cell


REGISTRY = Registry()


def by_global_object(count: int) -> Tensor:
    return REGISTRY.of_object(count)


class Placing(nn.Module):
    def __init__(self, of_count: Callable[[int], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.tables = nn.Linear(6, 8), nn.Linear(8, 3), [of_count]

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).relu() + self.tables[0](x.shape[1]))


KEEPING = {
    "a class": Registry.of_class,
    "a static method": Registry.cached,
    "a method of a global object": by_global_object,
    "a default": by_default,
    "an attribute of a function": by_attribute,
    "a cell": closing_over(),
}


@pytest.mark.parametrize("keeping", KEEPING)
def test_no_cache_is_left_with_tensors_without_data(keeping: str) -> None:
    torch.manual_seed(0)
    model = Placing(KEEPING[keeping]).double()
    grown = fxgrow.grow(model, width=1.5, example_inputs=X)
    assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    assert not KEEPING[keeping](5).is_meta

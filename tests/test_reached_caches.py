"""Caches that a forward reaches past the model: after a look at the model they hold what they held."""

from __future__ import annotations

import contextvars
import functools
import importlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import UntraceableError

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


LOCAL, CONTEXT = threading.local(), contextvars.ContextVar[Tensor | None]("kept", default=None)
UNSEEN: Any = type("Library", (), {"__module__": "torch.somewhere"})()


def by_thread(count: int) -> Tensor:
    if not hasattr(LOCAL, "kept"):
        LOCAL.kept = {}
    if count not in LOCAL.kept:
        LOCAL.kept[count] = places(count), places(count).cos()
    first, second = LOCAL.kept[count]
    return first + second  # type: ignore[no-any-return]


def by_context(count: int) -> Tensor:
    kept = CONTEXT.get()
    if kept is None:
        CONTEXT.set(kept := places(count))
    return kept


def by_library(count: int) -> Tensor:
    if not hasattr(UNSEEN, "kept"):
        UNSEEN.kept = [places(count)]
    return UNSEEN.kept[0]  # type: ignore[no-any-return]


KEEPING = {
    "a thread": by_thread,
    "a context": by_context,
    "an object of a library": by_library,
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


def test_a_table_left_where_nobody_looks_has_its_values() -> None:
    vars(LOCAL).pop("kept", None)  # by the tests before, if this process has run them
    vars(UNSEEN).pop("kept", None)
    for keeping in (by_thread, by_library):
        fxgrow.plan(Placing(keeping).double(), width=1.5, example_inputs=X)
    assert torch.equal(LOCAL.kept[5][1], places(5).cos())
    assert torch.equal(UNSEEN.kept[0], places(5))


def test_what_is_made_of_weights_is_taken_out_again() -> None:
    unseen = type(UNSEEN)()

    class Casting(Placing):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(unseen, "weight"):
                unseen.weight = self.leave.weight * 2
            return nn.functional.linear(self.enter(x).relu(), unseen.weight)

    model = Casting(places).double()
    fxgrow.plan(model, width=1.5, example_inputs=X)
    assert not hasattr(unseen, "weight") and not model(X).is_meta


ELSEWHERE = """
import functools, torch, {far}

@functools.lru_cache
def table(count):
    return torch.linspace(0, 1, count, dtype=torch.float64)[:, None]

def near(count):
    return table(count)

def farther(count):
    return {far}.table(count)

twice = functools.partial(lambda factor, count: factor * table(count), 2)
"""


class Asking(Placing):
    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x) + self.tables[0](x.shape[1])
        return self.leave(h.relu()) * h.mean().item()  # type: ignore[no-any-return]


@pytest.mark.parametrize("function", ["near", "farther", "twice"])
@pytest.mark.parametrize("kind", [Placing, Asking])
def test_caches_in_the_file_of_a_function_that_the_model_holds(
    kind: Any, function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks into a file that such a file imports; a growth that is refused leaves no tensors without data."""
    name = f"of_{kind.__name__}_{function}".lower()
    (tmp_path / f"{name}.py").write_text(ELSEWHERE.format(far=f"{name}_far"))
    (tmp_path / f"{name}_far.py").write_text(ELSEWHERE.format(far="torch"))
    monkeypatch.syspath_prepend(str(tmp_path))
    model = kind(getattr(importlib.import_module(name), function)).double()
    if kind is Asking:
        with pytest.raises(UntraceableError, match="item needs the values"):
            fxgrow.grow(model, width=1.5, example_inputs=X)
    else:
        grown = fxgrow.grow(model, width=1.5, example_inputs=X)
        assert torch.allclose(grown(X), model(X), rtol=0, atol=1e-12)
    assert not model(X).is_meta

"""What a grown module knows of its past: names through renaming, growths by the names of today."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import fxgrow
from fxgrow.births import Birth
from fxgrow.history import History, Step, history_of
from tests.training.small import convolutional, grown


def deepening(renamed: dict[str, str], made: list[str], growths: list[Any] | None = None) -> Any:
    """A plan that adds blocks, as far as history looks at it."""
    tensors = [SimpleNamespace(name=name) for name in made]
    depth = SimpleNamespace(renamed=tuple(renamed.items()), tensors=tensors)
    return SimpleNamespace(depth=depth, tensors=growths or [])


def test_names_are_followed_through_growth_in_depth() -> None:
    """Block 1 becomes block 2, and a new block takes its name; then one more in front of that."""
    wider = SimpleNamespace(name="blocks.2.w")
    steps = (
        Step(deepening({"blocks.2.w": "blocks.1.w"}, ["blocks.1.w"], [wider]), 0),
        Step(deepening({"blocks.2.w": "blocks.1.w", "blocks.3.w": "blocks.2.w"}, ["blocks.1.w"]), 0),
    )
    births = {f"blocks.{k}.w": Birth(((0,),)) for k in range(4)}
    history = History(steps, births)
    assert history.lineage() == [
        {"blocks.0.w": "blocks.0.w", "blocks.3.w": "blocks.1.w"},
        {"blocks.0.w": "blocks.0.w", "blocks.2.w": "blocks.1.w", "blocks.3.w": "blocks.2.w"},
        {name: name for name in births},
    ]
    assert history.growths() == [{"blocks.3.w": wider}, {}]


def test_growths_are_those_of_each_step() -> None:
    model = grown(convolutional(), 1.5, 4 / 3)
    history = history_of(model)
    assert history is not None
    shapes = [growths["3.weight"].new_shape[:2] for growths in history.growths()]
    assert shapes == [(12, 9), (16, 12)]
    assert history.lineage() == [{name: name for name in fxgrow.births(model)}] * 3

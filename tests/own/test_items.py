"""Arguments of several items: options in a dictionary, an object or a tuple, each of which may have another value."""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import SettledError
from tests.capture.assembled import EXACT, normal
from tests.models import lively


@dataclasses.dataclass
class Options:
    """What a forward is told."""

    normed: bool = False
    features: bool = False


class Body(nn.Module):
    """Two options, each of which is right alone: the mean of what is normalised is no mean over old units."""

    named: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.leave = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 2)
        nn.init.normal_(self.norm.weight)
        self.named = []

    def run(self, x: Any, normed: Any, features: Any) -> Any:
        h = self.enter(x)
        h = self.norm(h) if normed else h
        return self.leave(h.relu()), h.mean(-1) if features else None


class InDictionary(Body):
    def forward(self, x: Any, options: Any = None) -> Any:
        options = options or {}
        return self.run(x, options.get("normed"), options.get("features"))


class InObject(Body):
    def forward(self, x: Any, options: Options = Options()) -> Any:  # noqa: B008
        return self.run(x, options.normed, options.features)


class InNamespace(Body):
    def forward(self, x: Any, options: Any) -> Any:
        return self.run(x, options.normed, options.features)


class InTuple(Body):
    def forward(self, x: Any, options: Any = ()) -> Any:
        return self.run(x, "normed" in options, "features" in options)


class InAttribute(Body):
    def forward(self, x: Any) -> Any:
        return self.run(x, "normed" in self.named, "features" in self.named)


CALLS: list[tuple[type[Body], Any, Any, Any]] = [
    (InDictionary, {"normed": True}, {"features": True}, {"normed": True, "features": True}),
    (InObject, Options(normed=True), Options(features=True), Options(True, True)),
    (InTuple, ("normed",), ("features",), ("normed", "features")),
]


@pytest.mark.parametrize(("kind", "first", "second", "both"), CALLS, ids=lambda v: getattr(v, "__name__", ""))
def test_two_items_of_an_argument_are_right_together_or_refused(
    kind: type[Body], first: Any, second: Any, both: Any
) -> None:
    model, x = kind().double(), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for options in (first, second):
        torch.testing.assert_close(grown(x, options), model(x, options), rtol=1e-10, atol=1e-10)
    with pytest.raises(SettledError, match=r"options is .* the class computes something else"):
        grown(x, both)


def test_two_items_of_an_attribute_are_right_together_or_refused() -> None:
    model, x = InAttribute().double(), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for named in (["normed"], ["features"]):
        model.named = grown.named = named
        torch.testing.assert_close(grown(x), model(x), rtol=1e-10, atol=1e-10)
    grown.named = ["normed", "features"]
    with pytest.raises(SettledError, match=r"InAttribute.named is"):
        grown(x)


def test_namespaces_are_told_apart() -> None:
    model, x = InNamespace().double(), torch.randn(5, 8, dtype=torch.float64)
    plainly = Namespace(normed=False, features=False)
    grown = fxgrow.grow(model, 2, example_inputs=(x, plainly))
    torch.testing.assert_close(grown(x, plainly)[0], model(x, plainly)[0], rtol=1e-10, atol=1e-10)
    with pytest.raises(SettledError, match="options is"):
        grown(x, Namespace(normed=True, features=True))


class Defaulted(nn.Module):
    """Takes options in place of its defaults, which it holds under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, options: dict[str, Any] | None = None) -> Tensor:
        chosen = {"centred": False}
        chosen.update(options or {})
        return self.finished(self.read(x).relu(), chosen["centred"])

    def finished(self, x: Tensor, centred: Any) -> Tensor:
        return self.head(x - x.mean(-1, keepdim=True) if centred else x)  # type: ignore[no-any-return]


class Merged(Defaulted):
    def forward(self, x: Tensor, options: dict[str, Any] | None = None) -> Tensor:
        given = dict(options) if options is not None else {}
        chosen = {"centred": False} | given
        return self.finished(self.read(x).relu(), chosen["centred"])


class Switched(Defaulted):
    """Takes options as bits of a number."""

    def forward(self, x: Tensor, options: Any = 1) -> Tensor:
        return self.finished(self.read(x).relu() * (options & 3), options >> 2 & 1)


@pytest.mark.parametrize("kind", [Defaulted, Merged, Switched])
def test_options_are_tried_that_code_reads_under_another_name(kind: type[Defaulted]) -> None:
    model, x = lively(kind().double()), normal(3, 4)
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    other = 5 if kind is Switched else {"centred": True}
    try:
        error = float((grown(x, other) - model(x, other)).abs().max())
    except SettledError:
        error = 0.0
    assert error < EXACT

"""Graphs refuse by name a call that would take another course than the one that they hold; the own class takes it."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import PlanError, SettledError
from tests.capture.assembled import EXACT, normal
from tests.pairing import few

X = normal(4, 6)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)


class Sum(Layers):
    def forward(self, *images: Tensor) -> Tensor:
        return self.leave(sum(self.enter(x).tanh() for x in images))  # type: ignore[no-any-return]


class Each(Layers):
    def forward(self, images: list[Tensor]) -> list[Tensor]:
        return [self.leave(self.enter(x).tanh()) for x in images]


class Batch(Layers):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        h = self.enter(batch["x"]).tanh()
        return self.leave(h * batch["mask"] if "mask" in batch else h)  # type: ignore[no-any-return]


class By(Layers):
    def forward(self, x: Tensor, function: Callable[[Tensor], Tensor] = torch.tanh) -> Tensor:
        return self.leave(function(self.enter(x)))  # type: ignore[no-any-return]


class Sign(enum.Enum):
    PLUS = 1
    MINUS = -1


class Signed(Layers):
    def forward(self, x: Tensor, sign: Sign = Sign.PLUS) -> Tensor:
        return self.leave(self.enter(x).tanh()) * sign.value  # type: ignore[no-any-return]


class FewSamples(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.leave(self.enter(x).tanh())
        return y if x.shape[0] >= 3 else -y  # type: ignore[no-any-return]


class OneSample(Layers):
    def forward(self, x: Tensor) -> Tensor:
        y = self.leave(self.enter(x).tanh())
        return y.squeeze(0) if len(x) == 1 else y  # type: ignore[no-any-return]


class OneSampleOfEach(Layers):
    def forward(self, *images: Tensor) -> Tensor:
        y = self.leave(sum(self.enter(x) for x in images).tanh())  # type: ignore[union-attr]
        return -y if images[0].shape[0] == 1 else y  # type: ignore[no-any-return]


class Halved(Layers):
    """Adds halves of the samples to each other until one is left."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        while h.size(0) > 1:
            h = h[: h.size(0) // 2] + h[h.size(0) // 2 : h.size(0) // 2 * 2]
        return self.leave(h.tanh())  # type: ignore[no-any-return]


class Masked(Layers):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.enter(x).tanh()
        return self.leave(h * mask if mask is not None else h)  # type: ignore[no-any-return]


class OneByOne(Layers):
    """Goes through the samples of a batch, which is a dictionary."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        h = self.enter(batch["x"]).tanh()
        return torch.stack([self.leave(h[i]) for i in range(h.shape[0])])


class OneByOneOfObject(Layers):
    def forward(self, batch: Any) -> Tensor:
        h = self.enter(batch.x).tanh()
        return torch.stack([self.leave(h[i]) for i in range(h.shape[0])])


class WithGoals(Layers):
    """Goes through the samples, and the goals of each."""

    def forward(self, x: Tensor, goals: list[dict[str, Tensor]] | None = None) -> Tensor:
        y = torch.stack([self.leave(each) for each in self.enter(x).tanh()])
        return y if goals is None else (y - torch.stack([goal["y"] for goal in goals])).square().mean()


GOALS = [{"y": normal(3)} for _ in X]


class Seen(NamedTuple):
    x: Tensor
    again: Tensor | None = None


class Looking(Layers):
    def forward(self, seen: Seen) -> Tensor:
        h = self.enter(seen.x)
        return self.leave((h if seen.again is None else h * self.enter(seen.again)).tanh())  # type: ignore[no-any-return]


class Some(Layers):
    """Takes some of its powers, by their numbers."""

    def forward(self, x: Tensor, some: Any = None) -> Tensor:
        h = self.enter(x).tanh()
        return self.leave(sum(h**n for n in range(1, 4) if n in some))  # type: ignore[no-any-return]


CALLS: dict[str, tuple[type[Layers], tuple[Any, ...], tuple[Any, ...], str]] = {
    "one more": (Sum, (X, X), (X, X, X), "images had 2 entries .* has 3 now"),
    "one less": (Each, ([X, X],), ([X],), "images had 2 entries .* has 1 now"),
    "another key": (Batch, ({"x": X},), ({"x": X, "mask": X[:, :1]},), "batch had .'x'. as its keys"),
    "another function": (By, (X,), (X, torch.sigmoid), "function was .*tanh .* and is .*sigmoid now"),
    "another function without a name": (
        By,
        (X, lambda t: t.tanh()),
        (X, lambda t: t.sigmoid()),
        "function was .*lambda",
    ),
    "another module": (By, (X, nn.Tanh()), (X, nn.Sigmoid()), r"function was Tanh\(\) .* and is Sigmoid\(\) now"),
    "another part": (
        *(By, (X, functools.partial(torch.mul, other=2)), (X, functools.partial(torch.mul, other=3))),
        r"function was partial\(.*mul, other=2\) .* other=3\) now",
    ),
    "another member": (Signed, (X,), (X, Sign.MINUS), "sign was .*PLUS .* and is .*MINUS now"),
    "no tensor": (Masked, (X, normal(4, 1)), (X,), "mask was a tensor .* and is None now"),
    "few samples": (FewSamples, (X,), (X[:2],), "x has 2 samples, .* at least 3"),
    "one sample of each": (OneSampleOfEach, (X, X), (X[:1], X[:1]), r"images\[0\] has 1 samples, .* are 1"),
    "twice the samples": (Halved, (X,), (torch.cat([X, X]),), r"x had the sizes \[4\] along the axes \[0\]"),
    "more samples in a dictionary": (
        *(OneByOne, ({"x": X},), ({"x": torch.cat([X, X])},)),
        r"batch\['x'\] had the sizes \[4\] along the axes \[0\]",
    ),
    "more samples in an object": (
        *(OneByOneOfObject, (SimpleNamespace(x=X),), (SimpleNamespace(x=torch.cat([X, X])),)),
        r"batch.x had the sizes \[4\] along the axes \[0\]",
    ),
    "no goals": (WithGoals, (X, GOALS), (X,), "goals held tensors when .* and is None now"),
    "no field": (Looking, (Seen(X, X),), (Seen(X),), r"seen\[1\] was a tensor .* and is None now"),
    "another field": (Looking, (Seen(X),), (Seen(X, X),), "seen.* was None .* and is Tensor now"),
    "another set": (Some, (X, {1}), (X, {2, 3}), "some was set of 1 .* and is set of 2, 3 now"),
    "another range": (Some, (X, range(1, 2)), (X, range(2, 4)), r"some was range\(1, 2\) .* and is range\(2, 4\) now"),
    "fewer samples, each with goals": (WithGoals, (X, GOALS), (X[:3], GOALS[:3]), r"x had the sizes \[4\] along"),
    "one sample": (OneSample, (X,), (X[:1],), "x has 1 samples, .* are 1"),
}

REFUSED = ("another function without a name", "another module", "another part")
"""Whose code the class does not know; activations of torch's are looked at."""


CALLS_IN_EVERY_RUN = ("one more", "another key", "another function", "another member", "no tensor", "few samples")
CALLS_IN_EVERY_RUN += ("more samples in a dictionary", "more samples in an object", "no goals")
CALLS_IN_EVERY_RUN += ("fewer samples, each with goals", "no field", "another field", "another set")


@pytest.mark.parametrize("name", few(CALLS, *CALLS_IN_EVERY_RUN))
def test_another_call_is_taken_by_the_class_and_refused_by_a_graph(name: str) -> None:
    make, recorded, another, text = CALLS[name]
    model = make().double()
    own = fxgrow.grow(model, 2, example_inputs=recorded)
    assert isinstance(own, make)
    for inputs in (recorded, another) if name not in REFUSED else (recorded,):
        torch.testing.assert_close(own(*inputs), model(*inputs), rtol=EXACT, atol=EXACT)
    if name in REFUSED:
        with pytest.raises(SettledError, match="another function may compute something else"):
            own(*another)
    graph = fxgrow.grow(model, 2, example_inputs=recorded, form="graph")
    torch.testing.assert_close(graph(*recorded), model(*recorded), rtol=EXACT, atol=EXACT)
    with pytest.raises(SettledError, match=text):
        graph(*another)


def test_more_samples_are_taken_where_only_few_are_another_matter() -> None:
    model = OneSample().double()
    graph = fxgrow.grow(model, 2, example_inputs=X, form="graph")
    torch.testing.assert_close(graph(normal(9, 6)), model(normal(9, 6)), rtol=EXACT, atol=EXACT)
    assert "1 of which take another course" in str(fxgrow.report(graph).certificate)


class Scored(NamedTuple):
    scores: Tensor
    mean: Tensor | None = None


class Named(Layers):
    def forward(self, x: Tensor) -> dict[str, Any]:
        scores = self.leave(self.enter(x).tanh())
        return {"all": Scored(scores, scores.mean()), "each": [Scored(row) for row in scores]}


@pytest.mark.parametrize("form", ["graph", "module"])
def test_named_tuples_come_back_as_such(form: str) -> None:
    model = Named().double()
    grown = fxgrow.grow(model, 2, example_inputs=X, form=form)
    for result, expected in zip(
        (grown(X)["all"], *grown(X)["each"]), (model(X)["all"], *model(X)["each"]), strict=True
    ):
        assert type(result) is Scored and (result.mean is None) is (expected.mean is None)
        torch.testing.assert_close(result.scores, expected.scores, rtol=EXACT, atol=EXACT)


class Scaled(Layers):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(2 * x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).tanh())  # type: ignore[no-any-return]


def test_a_call_of_its_own_stays_with_the_class_and_is_refused_by_name_as_a_graph() -> None:
    model = Scaled().double()
    torch.testing.assert_close(fxgrow.grow(model, 2, example_inputs=X)(X), model(X), rtol=EXACT, atol=EXACT)
    with pytest.raises(PlanError, match="a graph cannot keep what __call__ does around the forward"):
        fxgrow.grow(model, 2, example_inputs=X, form="graph")


class Optional(Layers):
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return self.leave(self.enter(x).tanh(), **options)  # type: ignore[no-any-return]


def test_a_graph_without_keywords_is_exported() -> None:
    """Torch's interpreter, by which it exports, passes an empty list for `**options`."""
    grown: Any = fxgrow.grow(Optional().double(), 2, example_inputs=X, form="graph")
    program = torch.export.export(grown, (X,))
    torch.testing.assert_close(program.module()(X), grown(X), rtol=EXACT, atol=EXACT)
    with pytest.raises(SettledError, match="options was"):
        grown(X, scale=2)


class Pair(Layers):
    """Compares each sample of one batch with each of another, if there is another one."""

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        made = [self.leave(self.enter(each).relu()) for each in (x, other) if each is not None]
        return made[0] @ made[-1].mT / len(made[0])


def test_a_tensor_that_is_left_out_is_named_before_its_samples_are_counted() -> None:
    grown = fxgrow.grow(Pair().double(), 2, example_inputs=(X, X), form="graph")
    with pytest.raises(SettledError, match="other was a tensor when the model was captured, and is None now"):
        grown(X)

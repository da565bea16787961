"""What arguments and attributes are compared with in parts, functions and objects that they are handed on to."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.capture.handed_on import code_run
from fxgrow.capture.source_code import named_values
from fxgrow.errors import SettledError
from fxgrow.proof.certificate import Verdict
from tests.models import lively


def turned(h: Tensor, kind: str) -> Tensor:
    return h.relu() if kind == "relu" else h.softmax(-1)


def passed_on(h: Tensor, way: str) -> Tensor:
    return turned(h, kind=way)


class Part(nn.Module):
    def forward(self, h: Tensor, kind: str) -> Tensor:
        return turned(h, kind)


class Callable_:
    def __call__(self, h: Tensor, kind: str) -> Tensor:
        return passed_on(h, kind)


class Model(nn.Module):
    """Hands its argument on to what it was made with."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.call = nn.Linear(6, 8), nn.Linear(8, 3), call

    def forward(self, x: Tensor, mode: str = "relu") -> Tensor:
        return self.leave(self.call(self.enter(x), mode))


class OfClass(Model):
    """What it calls is an object of its class."""

    turning = Callable_()

    def forward(self, x: Tensor, mode: str = "relu") -> Tensor:
        return self.leave(self.turning(self.enter(x), mode))


class Looped(Model):
    def __init__(self) -> None:
        super().__init__(turned)
        self.parts = nn.ModuleList([Part(), Part()])

    def forward(self, x: Tensor, mode: str = "relu") -> Tensor:
        x = self.enter(x)
        for part in self.parts:
            x = part(x, mode)
        return self.leave(self.parts[0](x, mode))


class Global(Model):
    def forward(self, x: Tensor, mode: str = "relu") -> Tensor:
        return self.leave(passed_on(self.enter(x), way=mode))


BY_NAME = lambda h, name: h.relu() if name == "relu" else h.softmax(-1)  # noqa: E731

MODELS: dict[str, Callable[[], nn.Module]] = {
    "a part": lambda: Model(Part()),
    "a function": lambda: Model(turned),
    "a partial": lambda: Model(functools.partial(passed_on)),
    "a lambda": lambda: Model(BY_NAME),
    "an object": lambda: Model(Callable_()),
    "an object of the class": lambda: OfClass(turned),
    "a loop": Looped,
    "a function of the file": lambda: Global(turned),
}
X = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_what_an_argument_is_compared_with_elsewhere_is_tried(name: str) -> None:
    torch.manual_seed(0)
    model = lively(MODELS[name]()).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED  # type: ignore[union-attr]
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    with pytest.raises(SettledError, match="mode is 'softmax', for which the model did not grow"):
        grown(X, mode="softmax")


class Inner(nn.Module):
    """Decides by what is no truth value."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, h: Tensor) -> Tensor:
        return h.softmax(-1) if self.value > 1 else h.tanh()


class Listed(Inner):
    def forward(self, h: Tensor) -> Tensor:
        return h.softmax(-1) if "sum" in self.value else h.tanh()


class Kept(Inner):
    def forward(self, h: Tensor) -> Tensor:
        return h.softmax(-1) if self.value["how"] == "sum" else h.tanh()


@pytest.mark.parametrize(
    ("kind", "value", "other"),
    [(Inner, 0, 2), (Listed, (), ("sum",)), (Kept, {"how": "each"}, {"how": "sum"})],
)
def test_attributes_of_parts_by_which_they_decide(kind: type[Inner], value: Any, other: Any) -> None:
    torch.manual_seed(0)
    model: Any = lively(nn.Sequential(nn.Linear(6, 8), kind(value), nn.Linear(8, 3))).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    grown[1].value = other
    with pytest.raises(SettledError, match="value"):
        grown(X)


class Closed(Model):
    """Holds a function that is closed over it."""

    def __init__(self) -> None:
        super().__init__(turned)
        self.summed = False

        def call(h: Tensor, mode: str) -> Tensor:
            return h.softmax(-1) if self.summed else h.tanh()

        self.call = call


def test_what_a_function_reads_of_the_model_that_it_is_closed_over() -> None:
    torch.manual_seed(0)
    model = lively(Closed()).double()
    grown: Any = fxgrow.grow(model, 2, example_inputs=X)
    grown.summed = True
    with pytest.raises(SettledError, match="summed"):
        grown(X)


class Asking(Model):
    """Has a property that does more than to say what it is."""

    @property
    def called(self) -> Callable[..., Tensor]:
        raise RuntimeError("it is not to be asked")

    @staticmethod
    def turning(h: Tensor, kind: str) -> Tensor:
        return turned(h, kind)

    def forward(self, x: Tensor, mode: str = "relu") -> Tensor:
        return self.called(x, mode) if x.ndim > 9 else self.turning(x, mode)


def test_no_property_is_run() -> None:
    model = Asking(turned)
    assert named_values(model, code_run(model, frozenset({"forward"}), ["mode"]))["mode"] == ["relu"]


def test_names_are_those_of_the_forward() -> None:
    for make in (lambda: Model(Part()), Looped, lambda: Global(turned)):
        model = make()
        assert named_values(model, code_run(model, frozenset({"forward"}), ["mode"]))["mode"] == ["relu"]
        assert "mode" not in named_values(model, code_run(model, frozenset({"forward"})))


LOGGER = logging.getLogger(__name__)


class Logging(Model):
    def forward(self, x: Tensor, mode: str = "relu", told: bool = False) -> Tensor:
        if told:
            LOGGER.warning("told of %s", x.shape)
            logging.warning("told")
        return self.leave(turned(self.enter(x), mode))


def test_what_is_logged_is_kept_back_as_other_values_are_tried(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    model = lively(Logging(turned)).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert not caplog.records
    torch.testing.assert_close(grown(X, told=True), model(X, told=True), rtol=1e-10, atol=1e-10)
    assert len(caplog.records) == 4
    with pytest.raises(SettledError, match="mode is 'softmax'"):
        grown(X, "softmax")


FILES: list[str] = []


class Writing(Model):
    """What it does besides is not to be done in order to look at it."""

    def forward(self, x: Tensor, mode: str = "relu") -> Tensor:
        if mode == "written":
            Path(FILES[0]).touch()
        return self.leave(turned(self.enter(x), mode))


def test_what_may_do_more_than_compute_is_refused_untried() -> None:
    torch.manual_seed(0)
    model = lively(Writing(turned)).double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    torch.testing.assert_close(grown(X), model(X), rtol=1e-10, atol=1e-10)
    with pytest.raises(SettledError, match="may do more than compute, so no other value was tried"):
        grown(X, "softmax")

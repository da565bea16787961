"""Forwards that do something else than what was recorded of them: kept, refused when called so, or never PROVED."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fxgrow
from fxgrow.errors import FxgrowError, PlanError, SettledError
from tests.capture.assembled import EXACT, normal
from tests.pairing import in_turn

X = normal(2, 8, 6)
Call = Callable[[nn.Module], Any]


class Sabotaged(nn.Module):
    """6 -> 8 -> 3, with a forward that its first record does not tell the whole of."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.middle, self.leave = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def twist(self, h: Tensor) -> Tensor:
        return self.middle(h).relu()

    def forward(self, x: Tensor) -> Any:
        return self.leave(self.twist(self.enter(x).tanh()))


class ByFlag(Sabotaged):
    def forward(self, x: Tensor, twist: bool = False) -> Any:
        h = self.enter(x).tanh()
        return self.leave(self.twist(h) if twist else h)


class ByLabels(Sabotaged):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        out = super().forward(x)
        return out if labels is None else (out, (out - labels).square().mean())


class BySamples(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return super().twist(h) if h.shape[0] > 2 else h


class BySize(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return h[:, :8] if len(h[0]) > 8 else h


class ByPrecision(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return h.clamp(max=0.1) if h.dtype == torch.float32 else h


class ByGradients(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return super().twist(h) if torch.is_grad_enabled() else h


class ByAutocast(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return super().twist(h) if torch.is_autocast_enabled("cpu") else h


class Counting(Sabotaged):
    calls = 0

    def twist(self, h: Tensor) -> Tensor:
        self.calls += 1
        return super().twist(h) if self.calls > 1 else h


class Collecting(Sabotaged):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def twist(self, h: Tensor) -> Tensor:
        self.seen.append(1)
        return super().twist(h) if len(self.seen) > 1 else h


class Keeping(Sabotaged):
    """Computes a table at its first call and reads it ever after."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, Tensor] = {}

    def table(self, h: Tensor) -> Tensor:
        return self.middle.weight.t().softmax(0)

    def twist(self, h: Tensor) -> Tensor:
        if "table" not in self.kept:
            self.kept["table"] = self.table(h)
        return h @ self.kept["table"]


class KeepingItsInput(Keeping):
    def table(self, h: Tensor) -> Tensor:
        return super().table(h) * h.mean()


class KeepingWhatChanges(Keeping):
    """The table is made of a buffer that every call writes to, once through a view."""

    def __init__(self, through: Callable[[Tensor], Tensor] = lambda tensor: tensor) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(8))
        self.through = through

    def table(self, h: Tensor) -> Tensor:
        return super().table(h) * self.scale

    def twist(self, h: Tensor) -> Tensor:
        h = super().twist(h)
        self.through(self.scale).mul_(0.5)
        return h


class KeepingStatistics(Keeping):
    """The table is made of what a batch norm updates in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.BatchNorm1d(8), nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))

    def table(self, h: Tensor) -> Tensor:
        return super().table(h) * self.norm.running_var

    def twist(self, h: Tensor) -> Tensor:
        h = super().twist(self.norm(h.transpose(1, 2)).transpose(1, 2))
        return h + self.inner(h)


class KeepingChance(Keeping):
    def table(self, h: Tensor) -> Tensor:
        return F.dropout(super().table(h), 0.5, training=True)


class Averaging(Sabotaged):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def twist(self, h: Tensor) -> Tensor:
        self.mean = 0.5 * self.mean + h.mean()
        return h * self.mean


class Generating(Sabotaged):
    """Has a generator of its own."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.generator = generator

    def twist(self, h: Tensor) -> Tensor:
        return super().twist(h) if self.generator.random() < 0.5 else h


GENERATOR = random.Random(1)


class OfTheModule(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return super().twist(h) if GENERATOR.random() < 0.5 else h


class Quiet(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            return super().twist(h)


class Coarse(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.linear(h.float(), self.middle.weight.float()).double()


class Saving(Sabotaged):
    def twist(self, h: Tensor) -> Tensor:
        return checkpoint(self.middle, h, use_reentrant=False)  # type: ignore[no-any-return]


def on_an_instance() -> nn.Module:
    model = Sabotaged()
    model.middle.forward = lambda h: 2.0 * h  # type: ignore[method-assign]
    return model


def with_a_hook() -> nn.Module:
    model = Sabotaged()
    model.middle.register_forward_hook(lambda module, args, output: 2.0 * output)
    return model


def plain(model: nn.Module) -> Any:
    return model(X)


def twice(model: nn.Module) -> Any:
    return model(X), model(X)


def on_another(model: nn.Module) -> Any:
    return model(X), model(1.0 + X)


def under_autocast(model: nn.Module) -> Any:
    with torch.autocast("cpu"):
        return plain(model)


def without_gradients(model: nn.Module) -> Any:
    with torch.no_grad():
        return model(X)


def gradients(model: nn.Module) -> Any:
    model.zero_grad()
    model(X).square().sum().backward()
    return [parameter.grad is None for parameter in model.parameters()]


def in_single_precision(model: nn.Module) -> Any:
    return copy.deepcopy(model).float()(X.float())


CASES: dict[str, tuple[Callable[[], nn.Module], list[Call]]] = {
    "a flag": (ByFlag, [lambda model: model(X, twist=True)]),
    "labels": (ByLabels, [lambda model: model(X, labels=torch.ones(2, 8, 3))]),
    "more samples": (BySamples, [lambda model: model(normal(5, 8, 6))]),
    "a larger input": (BySize, [lambda model: model(normal(2, 12, 6)), lambda model: model(normal(2, 16, 6))]),
    "precision": (ByPrecision, [in_single_precision]),
    "gradients switched off": (ByGradients, [without_gradients]),
    "autocast": (ByAutocast, [under_autocast]),
    "a count of calls": (Counting, [twice]),
    "a list that grows": (Collecting, [twice]),
    "a table of the first input": (KeepingItsInput, [on_another]),
    "a table of a buffer that changes": (KeepingWhatChanges, [twice]),
    "a table of a buffer that changes through a view": (lambda: KeepingWhatChanges(lambda b: b.view(2, 4)), [twice]),
    "a buffer assigned": (Averaging, [twice]),
    "a generator of Python's": (lambda: Generating(random.Random(1)), [twice, twice, twice]),
    "a generator of numpy's": (lambda: Generating(np.random.default_rng(1)), [twice, twice, twice]),
    "a generator in a file": (OfTheModule, [twice, twice, twice]),
    "a region without gradients": (Quiet, [gradients]),
    "a region in bfloat16": (Coarse, [plain]),
    "checkpointing": (Saving, [plain, gradients]),
    "a forward of its own": (on_an_instance, [plain]),
    "a hook": (with_a_hook, [plain]),
}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        error = EXACT if first.dtype is torch.float64 else 1e-5
        return first.shape == second.shape and torch.allclose(first, second, rtol=error, atol=error)
    if isinstance(first, (tuple, list)):
        return all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def differs(model: nn.Module, grown: nn.Module, calls: list[Call]) -> Iterator[int]:
    """Which of the calls a grown model answers otherwise than the original, without an error."""
    for number, call in enumerate(calls):
        wanted = call(model)
        try:
            if not same(wanted, call(grown)):
                yield number
        except (SettledError, RuntimeError):  # sizes that do not fit are an error, too
            continue


LONG = ("more samples", "a table of the first input", "a generator of numpy's", "a generator of Python's")


@pytest.mark.parametrize(
    ("case", "form"), in_turn(CASES, ("auto", "graph"), [case for case in CASES if case not in LONG])
)
def test_what_a_record_does_not_tell_is_never_silent(case: str, form: str) -> None:
    make, calls = CASES[case]
    model = make().double()
    try:
        grown = fxgrow.grow(model, 1.5, example_inputs=X, form=form)
    except FxgrowError as error:
        assert error.remedy
        return
    proved = str(fxgrow.certify(grown, model).verdict) == "PROVED"
    assert not (proved and list(differs(model, grown, calls)))


def test_the_cases_are_sabotage() -> None:
    """Each makes calls that the graph of a first run alone would answer otherwise, or that it would not tell of."""
    assert len(CASES) == 21
    for name in ("a flag", "more samples", "a count of calls"):
        make, calls = CASES[name]
        model = make().double()
        first = copy.deepcopy(model)(X)
        assert not same(calls[0](model), first)


def test_a_forward_replaced_after_growth_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sabotaged().double()
    grown = fxgrow.grow(model, 1.5, example_inputs=X)
    monkeypatch.setattr(grown.get_submodule("middle"), "forward", lambda h: 2.0 * h)
    certificate = fxgrow.certify(grown, model)
    assert str(certificate.verdict) in ("REFUTED", "UNKNOWN")


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (Keeping, "PROVED"),
        (KeepingChance, "UNKNOWN"),
        (KeepingStatistics, "UNKNOWN"),
        (KeepingWhatChanges, "UNKNOWN"),
        (lambda: KeepingWhatChanges(lambda buffer: buffer.view(2, 4)), "UNKNOWN"),
    ],
)
def test_what_a_call_keeps_for_the_next_is_proved_if_weights_alone_make_it(kind: Any, verdict: str, form: str) -> None:
    model = kind().double()
    if form == "graph" and verdict != "PROVED":
        with pytest.raises(PlanError, match="a graph makes every call alike"):
            fxgrow.grow(model, 1.5, example_inputs=X, form=form, verify=False)
        return
    grown = fxgrow.grow(model, 1.5, example_inputs=X, form=form, verify=False)
    assert str(fxgrow.certify(grown, model).verdict) == verdict
    if kind is Keeping:
        assert same(twice(model), twice(grown))


def test_a_certificate_says_what_was_recorded() -> None:
    grown = fxgrow.grow(ByFlag().double(), 1.5, example_inputs=X)
    (record,) = [part for part in fxgrow.report(grown).certificate.children if part.rule == "record"]  # type: ignore[union-attr]
    assert record.conditions == (
        "the original's forward was run without data, once for both modes, on float64 [2, 8, 6]",
        "with more samples, a larger size, another precision, gradients off and autocast on it does the same",
        "it was called with twist=False: values not named here may take a course that was not recorded",
        "proved as well: twist=True",
        "the grown model is of the original's class: its forward was run likewise, and does what the graph does",
    )


def test_a_course_of_the_same_growth_is_proved_as_well() -> None:
    class Padded(Sabotaged):
        def twist(self, h: Tensor) -> Tensor:
            return super().twist(h if h.shape[1] % 5 else h[:, 1:])

    x = normal(2, 5, 6)
    model = Padded().double()
    grown = fxgrow.grow(model, 1.5, example_inputs=x)
    assert type(grown) is Padded
    certificate = fxgrow.certify(grown, model)
    assert str(certificate.verdict) == "PROVED"
    claims = [part.claim for part in certificate.children]
    assert claims.count("on other inputs, where the forward takes another course") == 1
    grown = fxgrow.grow(model, 1.5, example_inputs=normal(2, 4, 6))
    for length in (4, 8, 5):
        x = normal(2, length, 6)
        torch.testing.assert_close(grown(x), model(x), rtol=EXACT, atol=EXACT)

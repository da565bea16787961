"""Numbers as arguments that the code of a model names nowhere: blocks they pick, axes, turns; served, or refused."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxgrow
from fxgrow.capture.arguments import other_values
from fxgrow.errors import SettledError
from fxgrow.proof.certificate import Verdict
from tests.own.test_calls import apart, moved
from tests.pairing import slow

Forward = Callable[..., Any]


def with_forward(kind: type[nn.Module], method: Forward) -> nn.Module:
    torch.manual_seed(0)
    return moved(type("Own", (kind,), {"forward": method, "__module__": __name__})())


def served_or_refused(model: nn.Module, grown: nn.Module, x: torch.Tensor, *call: Any, **named: Any) -> bool:
    """Whether a call is served, which it is exactly."""
    try:
        distance = apart(model, grown, x, *call, **named)
    except SettledError as error:
        assert "for which the model did not grow" in error.what or "when the model was captured" in error.what
        return False
    assert distance < 1e-12, (call, named, distance)
    return True


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 6), nn.Linear(6, 2)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(3))


def first_ones(self: Any, x: torch.Tensor, depth: Any = None) -> Any:
    x = self.enter(x)
    for block in self.blocks[:depth]:
        x = x + block(x)
    return self.leave(x)


def last_ones(self: Any, x: torch.Tensor, start: int = 0) -> Any:
    x = self.enter(x)
    for block in self.blocks[start:]:
        x = x + block(x)
    return self.leave(x)


def some(self: Any, x: torch.Tensor, step: int = 1) -> Any:
    x = self.enter(x)
    for block in self.blocks[::step]:
        x = x + block(x)
    return self.leave(x)


def skipping(self: Any, x: torch.Tensor, skip: tuple[int, ...] = ()) -> Any:
    x = self.enter(x)
    for number, block in enumerate(self.blocks):
        if number in skip:
            continue
        x = x + block(x)
    return self.leave(x)


def stopping(self: Any, x: torch.Tensor, stop: int | None = None) -> Any:
    x = self.enter(x)
    for number, block in enumerate(self.blocks):
        if stop is not None and number >= stop:
            break
        x = x + block(x)
    return self.leave(x)


def dropping(self: Any, x: torch.Tensor, drop: int = 0) -> Any:
    x = self.enter(x)
    for block in list(self.blocks)[: len(self.blocks) - drop]:
        x = x + block(x)
    return self.leave(x)


def part_of(self: Any, x: torch.Tensor, share: float = 1.0) -> Any:
    x = self.enter(x)
    for block in self.blocks[: int(share * len(self.blocks))]:
        x = x + block(x)
    return self.leave(x)


def watched(self: Any, x: torch.Tensor, hook: Any = None) -> Any:
    x = self.enter(x)
    for number, block in enumerate(self.blocks):
        x = x + block(x)
        if hook is not None:
            x = hook(number, x)
    return self.leave(x)


def half(number: int, x: torch.Tensor) -> torch.Tensor:
    return x / 2


PICKED: list[Any] = [
    (first_ones, [2, 3, -1]),
    slow(last_ones, [1, 2]),
    slow(some, [2]),
    (skipping, [(1,), (0, 2)]),
    slow(stopping, [2, 3]),
    slow(dropping, [1]),
    slow(part_of, [0.5]),
    slow(watched, [half]),
]


@pytest.mark.parametrize(("method", "others"), PICKED)
def test_blocks_that_an_argument_picks_are_the_same_or_refused_where_others_were_added(
    method: Forward, others: list[Any]
) -> None:
    model, x = with_forward(Stack, method), torch.randn(4, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, depth=2, example_inputs=x)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert served_or_refused(model, grown, x)
    assert not all(served_or_refused(model, grown, x, other) for other in others)


def test_units_of_blocks_that_an_argument_picks_grow_along() -> None:
    for method, other in ((first_ones, 2), (skipping, (1,))):
        model, x = with_forward(Stack, method), torch.randn(4, 6, dtype=torch.float64)
        grown = fxgrow.grow(model, 2, example_inputs=x)
        assert served_or_refused(model, grown, x) and served_or_refused(model, grown, x, other)


def test_a_graph_refuses_to_pick_fewer_blocks_than_it_has() -> None:
    model, x = with_forward(Stack, first_ones), torch.randn(4, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, depth=2, example_inputs=(x, 3), form="graph")
    assert served_or_refused(model, grown, x, 3) and not served_or_refused(model, grown, x, 2)


class Units(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 2)


def shared_out(self: Any, x: torch.Tensor, dim: Any = None) -> Any:
    h = self.enter(x)
    return self.leave(h if dim is None else h.softmax(dim))


def turned(self: Any, x: torch.Tensor, dims: tuple[int, ...] = (1,)) -> Any:
    return self.leave(self.enter(x).flip(dims))


def normed_behind(self: Any, x: torch.Tensor, axes: int = 1) -> Any:
    h = self.enter(x)
    return self.leave(F.layer_norm(h, h.shape[-axes:]))


def normed_often(self: Any, x: torch.Tensor, turns: int = 0) -> Any:
    h = self.enter(x)
    for _ in range(turns):
        h = h + F.layer_norm(h, h.shape[-1:])
    return self.leave(h)


def of_length_one(self: Any, x: torch.Tensor, dim: Any = None) -> Any:
    h = self.enter(x) + 1
    return self.leave(h if dim is None else F.normalize(h, dim=dim))


def by_keyword(self: Any, x: torch.Tensor, **options: Any) -> Any:
    return self.leave(self.enter(x).softmax(options.get("dim", 1)))


def by_names(self: Any, x: torch.Tensor, names: tuple[str, ...] = ("relu",)) -> Any:
    h = self.enter(x)
    for name in names:
        h = getattr(F, name)(h, -1) if name == "softmax" else getattr(F, name)(h)
    return self.leave(h)


def by_partial(self: Any, x: torch.Tensor, dim: int = 1) -> Any:
    import math

    return self.leave(functools.partial(torch.softmax, dim=dim)(self.enter(x)) * math.pi)


OF_UNITS: list[Any] = [
    (shared_out, [{"dim": -1}, {"dim": 2}]),
    (turned, [{"dims": (2,)}, {"dims": (1, 2)}]),
    slow(normed_behind, [{"axes": 2}]),
    (normed_often, [{"turns": 1}, {"turns": 3}]),
    slow(by_keyword, [{"dim": -1}, {"dim": 2}]),
    slow(by_names, [{"names": ("softmax",)}, {"names": ("relu", "softmax")}]),
    (by_partial, [{"dim": -1}, {"dim": 2}]),
]


@pytest.mark.parametrize(("method", "others"), OF_UNITS)
def test_numbers_that_the_code_does_not_name_are_right_or_refused(method: Forward, others: list[Any]) -> None:
    model, x = with_forward(Units, method), torch.randn(3, 5, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert grown.get_submodule("enter").weight.shape[0] == 16 and served_or_refused(model, grown, x)
    served = [served_or_refused(model, grown, x, **other) for other in others]
    assert any(served) is (method is normed_often)


def test_an_axis_is_refused_where_another_one_made_the_call_another() -> None:
    model, x = with_forward(Units, of_length_one), torch.randn(5, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert [served_or_refused(model, grown, x, dim) for dim in (None, 1, -1, 0)] == [True, True, True, False]


def test_a_number_that_tensors_may_be_in_place_of_is_not_tried() -> None:
    def scaled(self: Any, x: torch.Tensor, scale: Any = None) -> Any:
        return self.leave(self.enter(x) if scale is None else self.enter(x) * scale)

    model, x = with_forward(Units, scaled), torch.randn(5, 6, dtype=torch.float64)
    assert {1, 2, 0, -1} <= {value for name, value in other_values(model, ((x,), {})) if isinstance(value, int)}
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert not [call for course in fxgrow.report(grown).plan.courses for call in course.calls if "2" in call]
    assert served_or_refused(model, grown, x, x[:, :1]) and served_or_refused(model, grown, x, 3.0)


class Normed(Units):
    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))


def normed(self: Any, x: torch.Tensor, eps: float = 1e-5) -> Any:
    return self.leave(F.layer_norm(self.enter(x), (self.enter.out_features,), self.gain, self.bias, eps))


@pytest.mark.parametrize("form", ["module", "graph"])
@pytest.mark.parametrize("init", ["zero", slow("mirror"), slow("replicate")])
def test_a_norm_over_old_units_adds_what_the_call_says(form: str, init: str) -> None:
    model, x = with_forward(Normed, normed), torch.randn(5, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 1.5, example_inputs=(x, 1e-5), form=form, init=init)
    assert grown.get_submodule("enter").weight.shape[0] == 12
    assert served_or_refused(model, grown, x, 1e-5) and served_or_refused(model, grown, x, 0.5)


# -- objects and dictionaries of options ---------------------------------------------------------------------------


@dataclasses.dataclass
class Options:
    measured: bool = False
    scale: float = 1.0
    kind: str = "mean"


class Optional(nn.Module):
    """A forward that takes options, and with some of them gives a mean over units that would grow."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 2)

    def computed(self, x: torch.Tensor, measured: bool = False, scale: float = 1.0, kind: str = "mean") -> Any:
        h = self.enter(x).tanh()
        y = self.leave(h) * scale
        if kind == "power":
            return y * h.square().mean(-1, keepdim=True)
        return y * h.mean(-1, keepdim=True) if measured else y


def by_object(self: Any, x: torch.Tensor, options: Options) -> Any:
    return self.computed(x, options.measured, options.scale, options.kind)


def by_object_or_none(self: Any, x: torch.Tensor, options: Options | None = None) -> Any:
    options = options or Options()
    if options.kind == "power":
        return self.computed(x, kind="power")
    return self.computed(x, options.measured, options.scale)


def by_keys(self: Any, x: torch.Tensor, options: Any = None) -> Any:
    options = options or {}
    return self.computed(x, options.get("measured", False), options.get("scale", 1.0))


def by_unpacking(self: Any, x: torch.Tensor, options: Any = None) -> Any:
    return self.computed(x, **(options or {}))


def plain(**held: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"measured": False, "scale": 1.0, "kind": "", **held})


@pytest.mark.parametrize("form", ["auto", "graph"])
@pytest.mark.parametrize(
    ("method", "given", "kind", "served"),
    [
        (by_object, (Options(),), Options, 4),
        (by_object, (plain(),), plain, 4),
        (by_object_or_none, (), Options, 4),
        (by_object_or_none, (Options(),), Options, 4),
        (by_keys, (), dict, 4),
        (by_keys, ({},), dict, 4),
        (by_unpacking, (), dict, 0),
        (by_unpacking, ({},), dict, 1),
    ],
)
def test_options_are_served_or_refused(method: Forward, given: Any, kind: Any, served: int, form: str) -> None:
    model, x = with_forward(Optional, method), torch.randn(3, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=(x, *given), form=form)
    others = [{}, {"scale": 0.5}, {"measured": True}, {"measured": True, "scale": 0.5}]
    taken = [served_or_refused(model, grown, x, kind(**other)) for other in others]
    assert form == "graph" or sum(taken) == served
    if method is not by_keys:
        served_or_refused(model, grown, x, kind(kind="power"))
    assert served_or_refused(model, grown, x, *given)


def test_outputs_of_a_library_do_not_keep_other_calls_from_being_tried() -> None:
    outputs = pytest.importorskip("transformers.modeling_outputs")

    def forward(self: Any, x: torch.Tensor, measured: bool = False) -> Any:
        y = self.computed(x, measured)
        return outputs.SequenceClassifierOutput(logits=y)["logits"]

    model, x = with_forward(Optional, forward), torch.randn(3, 6, dtype=torch.float64)
    assert served_or_refused(model, fxgrow.grow(model, 2, example_inputs=x), x, True)


def sharpened(self: Any, x: torch.Tensor, temperature: Any = None) -> Any:
    y = self.computed(x)
    return y / (temperature or 2.0) if self.training else y


def test_a_number_that_may_be_left_out_is_no_function() -> None:
    model, x = with_forward(Optional, sharpened), torch.randn(3, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert served_or_refused(model.train(), grown.train(), x, 0.5)


def spelled_out(self: Any, x: torch.Tensor, mode: str = "tanh") -> Any:
    h = self.enter(x)
    for step in mode.split("+"):
        h = h.tanh() if step == "tanh" else h.softmax(-1) if step == "softmax" else h
    return self.leave(h)


def test_what_code_goes_through_in_a_text_is_told_by_what_it_is_compared_with() -> None:
    model, x = with_forward(Optional, spelled_out), torch.randn(3, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert not served_or_refused(model, grown, x, "softmax")
    assert not served_or_refused(model, grown, x, "tanh+softmax")


def of_several_heads(self: Any, x: torch.Tensor, tasks: Any = ("one",)) -> Any:
    return torch.cat([self.heads[task](self.enter(x)) for task in tasks], -1)


def test_keys_in_a_tuple_that_code_looks_up_one_by_one() -> None:
    model = with_forward(Optional, of_several_heads)
    model.heads = moved(nn.ModuleDict({"one": nn.Linear(8, 3), "two": nn.Sequential(nn.Linear(8, 4), nn.Tanh())}))
    x = torch.randn(3, 6, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    for tasks in (("two",), ["two", "one"]):
        assert served_or_refused(model, grown, x, tasks)


def pooled(self: Any, x: torch.Tensor, whole: bool = False) -> torch.Tensor:
    units = self.read(x).relu().amax(2, keepdim=True)
    return units.view(-1, 16).norm(dim=1) if whole else self.head(units.repeat(1, 1, x.shape[2]))


class Points(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.Conv1d(3, 16, 1), nn.Conv1d(16, 4, 1)


@pytest.mark.parametrize("form", ["module", "graph"])
def test_an_output_for_another_number_of_samples_is_not_just_wider(form: str) -> None:
    """Of twice the units, a view by their old number makes two samples of each."""
    model, x = with_forward(Points, pooled), torch.randn(2, 3, 5).double()
    grown = fxgrow.grow(model, 2, example_inputs=x, form=form)
    assert served_or_refused(model, grown, x)
    served_or_refused(model, grown, x, whole=True)

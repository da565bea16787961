"""Attributes by which a forward decides, set by hand after growth: the model takes the other course or says why."""

from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from torch import nn

import fxgrow
from fxgrow.capture import capture
from fxgrow.capture.flags import other_flags
from fxgrow.errors import SettledError
from fxgrow.proof.certificate import Verdict
from tests.own.test_calls import apart, carried, moved


class Gate(nn.Module):
    """A part that may be switched off, or take its mean over units."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh, self.enabled, self.pooled = nn.Linear(16, 16), True, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weigh(x).sigmoid() if self.enabled else 1.0
        return x * scale * x.mean(-1, keepdim=True) if self.pooled else x * scale  # type: ignore[no-any-return]


class Settable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 3)
        self.gates = nn.ModuleList(Gate() for _ in range(2))
        self.beside = nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
        self.features, self.spectrum, self.with_beside, self.mode = False, False, False, "classes"

    def forward(self, x: torch.Tensor) -> Any:
        h = self.enter(x).relu()
        for gate in self.gates:
            h = gate(h)
        if self.features:
            return h
        if self.spectrum:
            return torch.linalg.svdvals(self.enter(x))
        if self.with_beside:
            return self.leave(h) + self.beside(h).sum(-1, keepdim=True)
        return self.leave(h).logsumexp(-1) if self.mode == "energy" else self.leave(h)


RIGHT: list[dict[str, Any]] = [{"with_beside": True}, {"mode": "energy"}]
REFUSED: list[dict[str, Any]] = [{"spectrum": True}]


def with_values(model: Any, values: dict[str, Any]) -> Any:
    model = copy.deepcopy(model)
    for name, value in values.items():
        setattr(model, name, value)
    return model


def test_a_flag_that_is_set_after_growth_is_a_course_like_another(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Settable()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    report = fxgrow.report(grown)
    assert report.certificate.verdict is Verdict.PROVED and report.plan.calls == ("Settable.features=True",)
    assert {"Settable.with_beside=True", "Gate.enabled=False"} <= {
        text for c in report.plan.courses for text in c.calls
    }
    assert "proved as well: " in str(report.certificate) and "Settable.mode='energy'" in str(report.certificate)
    for other in (grown, *carried(grown, model, x, tmp_path)):
        assert isinstance(other, Settable)
        for values in RIGHT:
            assert apart(with_values(model, values), with_values(other, values), x) < 1e-12, values
        for values in REFUSED:
            with pytest.raises(SettledError, match=r"Settable.spectrum is True, .* set it to False, or grow"):
                with_values(other, values)(x)
        for name in ("enabled", "pooled"):
            before, after = copy.deepcopy(model), copy.deepcopy(other)
            for gate in (before.gates[1], after.gates[1]):
                setattr(gate, name, not getattr(gate, name))
            assert apart(before, after, x) < 1e-12
    assert with_values(grown, {"features": True})(x).shape == (5, 32)


class Uneven(nn.Module):
    """Has parts that are what a flag makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Gate(), Gate()
        self.second.enabled = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def test_a_flag_that_tells_parts_of_a_class_apart_is_no_setting() -> None:
    model = Uneven()
    graphs = capture(model, torch.randn(2, 16)).graphs.values()
    assert [(flag.name, flag.value, before) for flag, before in other_flags(model, graphs)] == [
        ("Gate.pooled", True, False)
    ]


class Held(nn.Module):
    """Takes a softmax over units, unless it is told not to: only then can they grow."""

    def __init__(self, spread: bool) -> None:
        super().__init__()
        self.spread = spread
        self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)
        self.beside, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h = h.softmax(-1) if self.spread else h.relu()
        return self.last(h) + self.leave(self.beside(x).relu())  # type: ignore[no-any-return]


def test_what_the_recorded_course_holds_does_not_grow_for_another() -> None:
    torch.manual_seed(0)
    model, x = Held(spread=True).double(), torch.randn(2, 4).double()
    grown: Any = fxgrow.grow(model, width=1.5, example_inputs=x)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert (grown.first.out_features, grown.beside.out_features) == (8, 12)
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-14)
    model.spread = grown.spread = False
    torch.testing.assert_close(grown(x), model(x), rtol=0, atol=1e-14)


class Options:
    """Settings of a user's own."""

    def __init__(self) -> None:
        self.centred = False


class Configured(nn.Module):
    """Is switched by items of what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 3)
        self.options, self.switches = Options(), {"doubled": False, "squared": False}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x).relu()
        x = x - x.mean(-1, keepdim=True) if self.options.centred else x
        x = 2 * x if self.switches["doubled"] else x
        return self.leave(x**2 if self.switches.get("squared") else x)  # type: ignore[no-any-return]


def test_items_of_settings_are_flags_too(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Configured()), torch.randn(5, 8, dtype=torch.float64)
    grown: Any = fxgrow.grow(model, 2, example_inputs=x)
    assert "Configured.switches[doubled]" in str(fxgrow.report(grown).certificate)
    assert not model.options.centred and model.switches == {"doubled": False, "squared": False}
    for other in (grown, *carried(grown, model, x, tmp_path)):
        for holder, item in ((None, "doubled"), (None, "squared"), ("options", "centred")):
            first, second = copy.deepcopy(model), copy.deepcopy(other)
            for each in (first, second):
                if holder is None:
                    each.switches[item] = True
                else:
                    each.options.centred = True
            try:
                assert apart(first, second, x) < 1e-12
            except SettledError as refusal:
                assert f"Configured.options[{item}] is True" in str(refusal)


CENTRED, KIND, ORDER, SWITCHES = False, "plain", 1, {"doubled": False}


def ordered(x: torch.Tensor) -> torch.Tensor:
    return x**2 if ORDER == 2 else x


class Global(nn.Module):
    """Is switched by global names of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = ordered(self.enter(x).relu())
        x = x - x.mean(-1, keepdim=True) if CENTRED else x
        x = 2 * x if SWITCHES["doubled"] else x
        return self.leave(x.logcumsumexp(-1) if KIND == "summed" else x)  # type: ignore[no-any-return]


def test_global_names_are_flags_too(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = moved(Global()), torch.randn(5, 8, dtype=torch.float64)
    grown: Any = fxgrow.grow(model, 2, example_inputs=x)
    assert isinstance(grown, Global)
    assert (CENTRED, KIND, ORDER, SWITCHES) == (False, "plain", 1, {"doubled": False})
    said = str(fxgrow.report(grown).certificate)
    assert all(f"global {__name__}.{name}" in said for name in ("CENTRED=", "KIND=", "ORDER=", "SWITCHES[doubled]="))
    here = sys.modules[__name__]
    for other in (grown, *carried(grown, model, x, tmp_path)):
        for name, value in {"CENTRED": True, "KIND": "summed", "ORDER": 2, "SWITCHES": {"doubled": True}}.items():
            with monkeypatch.context() as patch:
                patch.setattr(here, name, value)
                try:
                    assert apart(model, other, x) < 1e-12, name
                except SettledError as refusal:
                    assert f"global {__name__}.{name} is {value!r}" in str(refusal)
    monkeypatch.setattr(here, "KIND", "summed")
    with pytest.raises(SettledError, match="KIND is 'summed', for which the model did not grow"):
        grown(x)


def test_other_values_are_refused_where_the_code_that_asks_for_them_cannot_be_read(tmp_path: Any) -> None:
    code = """class Typed(nn.Module):
        centred, seen = False, None
        def __init__(self):
            super().__init__()
            self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 2)
        def forward(self, x, scale=None, mode="a"):
            h = self.enter(x)
            self.seen = mode
            if self.centred or mode == "b" or (SWITCHED and [each for each in (1,) if self.inside]):
                h = h - h.mean(-1, keepdim=True)
            return self.leave(h.relu() if scale is None else h.softmax(-1) * scale)
        inside = True
    """
    names: Any = {"nn": nn, "SWITCHED": False, "__name__": __name__}
    exec(code, names)
    torch.manual_seed(0)
    model, x = moved(names["Typed"]()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert apart(model, grown, x) < 1e-12 and apart(model, grown, x, None, "a") < 1e-12
    for call in ((2.0,), (x[:, :1],), (None, "b")):
        with pytest.raises(SettledError, match=r"(scale|mode) is .* the code that may decide by it cannot be read"):
            grown(x, *call)
    for name in ("centred", "inside"):
        with pytest.raises(SettledError, match=rf"Typed.{name} is .*cannot be read"):
            with_values(grown, {name: not getattr(grown, name)})(x)
    assert "refused: scale other than None, mode other than 'a'" in str(fxgrow.report(grown).certificate)

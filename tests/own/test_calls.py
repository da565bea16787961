"""Calls with other values of arguments than at capture: the model's own class makes them all, or does not come back."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import fxgrow
from fxgrow.capture.arguments import other_values
from fxgrow.errors import PlanError, SettledError
from fxgrow.proof.certificate import Verdict


class Tasks(nn.Module):
    """A body that is read by a head for each task, one of them normalised and with a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.heads = nn.ModuleDict({"depth": nn.Linear(16, 3), "normals": self._deep()})
        self.adapters = nn.ModuleList(nn.Linear(16, 16) for _ in range(2))

    @staticmethod
    def _deep() -> nn.Module:
        return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))

    def features(self, x: torch.Tensor, domain: int) -> torch.Tensor:
        return self.adapters[domain](self.body(x).relu()).tanh()

    def forward(self, x: torch.Tensor, task: str = "depth", domain: int = 0, embed: bool = False) -> Any:
        h = self.features(x, domain)
        return h if embed else self.heads[task](h)


class Pooled(nn.Module):
    """Classes, or a mean over units that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.sizes = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor, how: str = "classes", mask: Any = None) -> Any:
        h = self.enter(x).relu()
        h = h + x.new_zeros(x.shape[0], 16) if mask is None else h * mask.mean()
        if how == "mean":
            return h.mean(-1)
        match how:
            case "sizes":
                return self.sizes(h)
        return self.leave(h)


def moved(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def apart(model: nn.Module, grown: nn.Module, *call: Any, **named: Any) -> float:
    with torch.no_grad():
        before, after = model(*call, **named), grown(*call, **named)
    return float((before - after).abs().max() / before.abs().max())


CALLS = [(task, domain) for task in ("depth", "normals") for domain in (0, 1)]


@pytest.mark.parametrize("init", ["zero", "mirror"])
def test_heads_that_other_calls_read_grow_along(init: str) -> None:
    torch.manual_seed(0)
    model, x = moved(Tasks()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x, init=init)
    assert type(grown) is Tasks and fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert [course.calls for course in fxgrow.report(grown).plan.courses] == [("task='normals'",), ("domain=1",)]
    assert fxgrow.report(grown).plan.calls == ("embed=True",)
    for call in CALLS:
        assert apart(model, grown, x, *call) < 1e-12
    assert grown(x, embed=True).shape == (5, 32)
    hidden = grown.get_submodule("heads.normals.1")
    assert hidden.weight.shape == (24, 32) and fxgrow.births(grown)["heads.normals.1.weight"].axes[0].count(1) == 12


def test_they_are_kept_by_files_plans_and_further_growth(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, x = moved(Tasks()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    fxgrow.save(grown, tmp_path / "grown.safetensors")
    loaded = fxgrow.load(tmp_path / "grown.safetensors", Tasks().double())
    again = fxgrow.grow(loaded, 1.5, example_inputs=x)
    plan = fxgrow.Plan.from_json(fxgrow.report(grown).plan.to_json())
    for other in (loaded, again, plan.apply(model)):
        assert type(other) is Tasks
        for call in CALLS:
            assert apart(model, other, x, *call) < 1e-12
    assert fxgrow.certify(loaded, model).verdict is Verdict.PROVED
    with torch.no_grad():
        loaded.get_submodule("heads.normals.3").weight[0, 0] += 1  # what only another call reads
    assert fxgrow.certify(loaded, model).verdict is Verdict.REFUTED


def test_a_call_that_needs_it_otherwise_is_refused_by_name() -> None:
    torch.manual_seed(0)
    model, x = moved(Pooled()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs=x)
    assert "how='mean'" in str(fxgrow.report(grown).plan.obstacle)
    assert apart(model, grown, x) < 1e-12
    for how in ("mean", "sizes"):
        with pytest.raises(SettledError, match="how was 'classes'"):
            grown(x, how)
    with pytest.raises(PlanError, match="how='mean'"):
        fxgrow.grow(model, 2, example_inputs=x, form="module")


def test_a_default_with_sizes_of_its_own_is_refused_where_it_was_called_with_something_else() -> None:
    torch.manual_seed(0)
    model, x = moved(Pooled()), torch.randn(5, 8, dtype=torch.float64)
    grown = fxgrow.grow(model, 2, example_inputs={"x": x, "mask": torch.ones(3)})
    assert apart(model, grown, x, mask=torch.ones(3).double()) < 1e-12
    with pytest.raises(SettledError, match="mask was a tensor"):
        grown(x)


def test_flags_of_the_calls_inside_are_no_course_of_their_own() -> None:
    model = timm.create_model("test_vit")
    assert ("is_causal", True) in list(other_values(model, ((torch.empty(1, 3, 160, 160),), {})))
    assert fxgrow.plan(model, 1.5).courses == ()

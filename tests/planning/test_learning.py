"""New units learn: no way of staying invisible is taken that no gradient would ever leave again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxgrow
from fxgrow.history import births
from tests.checks import unmoved, worst_error

ROW = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
IMAGE = torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


class ScaledByNorm(nn.Module):
    """As conv4_3 of an SSD: a map after ReLU goes on, and over its norm along the channels into a head."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.deeper = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3)
        self.scale = nn.Parameter(20 * torch.ones(8))
        self.head, self.last = nn.Conv2d(8, 2, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.enter(x))
        return self.head(self.scale.view(1, -1, 1, 1) * F.normalize(x)), self.last(self.deeper(x).relu())


class OnlyOverNorm(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(F.normalize(self.activation(self.enter(x)), dim=-1))


class Cosine(nn.Module):
    """Features and class weights both over their norms."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.classes = nn.Linear(5, 8), nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(torch.tanh(self.enter(x)), dim=-1), F.normalize(self.classes, dim=-1))


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


def grown_and_alive(model: nn.Module, x: Tensor, width: Any = 2, **options: Any) -> nn.Module:
    """Grown exactly and proved, and trained a little: every new entry that is trained has moved, none that is not."""
    torch.manual_seed(0)
    model = model.double()
    grown = fxgrow.grow(model, width, example_inputs=x, **options)
    assert worst_error(model, grown, (x,), False) <= 1e-10
    assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"
    assert unmoved(grown, (x,)) == []
    before = {name: p.detach().clone() for name, p in grown.named_parameters()}
    born = {name: birth.mask(1) for name, birth in births(grown).items()}
    optimizer = torch.optim.Adam((p for p in grown.parameters() if p.requires_grad), 1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        output = grown(x)
        sum(y.square().sum() for y in (output if isinstance(output, tuple) else (output,))).backward()
        optimizer.step()
    for name, p in grown.named_parameters():
        moved = p.detach() != before[name]
        assert not moved.any() if not p.requires_grad else moved[born[name]].sum() >= 0.8 * born[name].sum(), name
    return grown


def how(grown: nn.Module) -> list[str]:
    return [group.how for group in fxgrow.report(grown).plan.groups]


def test_zeros_behind_a_relu_would_stay_and_are_not_put_there() -> None:
    assert how(grown_and_alive(OnlyOverNorm(torch.relu), ROW)) == ["zero-out, guarded statistics"]


def test_zeros_behind_a_slope_move_and_need_no_guard() -> None:
    assert how(grown_and_alive(OnlyOverNorm(torch.tanh), ROW)) == ["zero-in"]


def test_a_square_is_flat_at_zero_as_well() -> None:
    assert how(grown_and_alive(OnlyOverNorm(lambda x: x**2), ROW)) == ["zero-out, guarded statistics"]


def test_a_map_that_an_ssd_scales_by_its_norm() -> None:
    grown = grown_and_alive(ScaledByNorm(), IMAGE)
    assert isinstance(grown, ScaledByNorm)
    graph = grown_and_alive(ScaledByNorm(), IMAGE, form="graph")
    assert "guards_normalize" in graph.code
    for result in (grown, graph):
        assert fxgrow.report(result).plan.groups[0].how == "zero-out, guarded statistics"


def test_two_factors_are_not_both_zero() -> None:
    grown = grown_and_alive(Cosine(), ROW)
    assert "guarded statistics" in how(grown)[0]
    again = fxgrow.grow(grown, 2, example_inputs=ROW)
    assert worst_error(grown, again, (ROW,), False) <= 1e-10
    assert str(fxgrow.report(again).certificate.verdict) == "PROVED"


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
def test_a_guarded_norm_in_every_way(init: str) -> None:
    for model in (Cosine(), OnlyOverNorm(torch.relu)):
        grown = fxgrow.grow(model.double(), 1.5, example_inputs=ROW, init=init)
        assert str(fxgrow.report(grown).certificate.verdict) == "PROVED"


def test_what_a_frozen_layer_reads_comes_in_pairs() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), frozen(nn.Linear(8, 3)))
    assert how(grown_and_alive(model, ROW)) == ["mirror"]


def test_an_odd_number_of_units_before_a_frozen_layer_is_silent_where_it_can_learn() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.GELU(), frozen(nn.Linear(8, 3)))
    assert how(grown_and_alive(model, ROW, "+3")) == ["zero-in"]


def test_an_odd_number_of_units_that_could_not_learn_is_held() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), frozen(nn.Linear(8, 3)))
    plan = fxgrow.plan(model, "+3", example_inputs=ROW)
    assert not plan.groups
    assert "never learn" in plan.held[0].reason
    assert "requires_grad" in plan.held[0].reason


def test_features_of_a_frozen_layer_may_grow_where_their_reader_learns() -> None:
    model = nn.Sequential(frozen(nn.Linear(5, 8)), nn.ReLU(), nn.Linear(8, 3))
    assert how(grown_and_alive(model, ROW)) == ["zero-out"]


def test_a_frozen_norm_that_would_keep_new_features_at_zero_is_guarded() -> None:
    model = nn.Sequential(frozen(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8))), nn.Linear(8, 3))
    assert how(grown_and_alive(model, ROW)) == ["zero-out, guarded statistics"]


def test_units_that_nothing_trains_stay() -> None:
    model = nn.Sequential(
        frozen(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))), nn.ReLU(), nn.Linear(6, 3)
    )
    plan = fxgrow.plan(model, 2, example_inputs=ROW)
    assert [(group.old, group.new) for group in plan.groups] == [(6, 12)]
    assert "is trained" in plan.held[0].reason


def test_a_model_frozen_as_a_whole_grows_as_if_it_were_not() -> None:
    """An average of weights is frozen, and grows by the plan of the model that is trained."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    plan = fxgrow.plan(model, 2, example_inputs=ROW)
    assert fxgrow.plan(frozen(model), 2, example_inputs=ROW) == plan


class Siblings(nn.Module):
    """As BYOL: what is compared with it has units that only the comparison would read."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.follow = nn.Linear(5, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cosine_similarity(self.follow(self.enter(x).tanh()), self.enter(y))


def test_units_that_a_comparison_leaves_out_are_not_put_there() -> None:
    plan = fxgrow.plan(Siblings().double(), 2, example_inputs=(ROW, ROW))
    assert any(held.size == 8 and "never learn" in held.reason for held in plan.held)


def test_liveness_tells_units_that_no_gradient_reaches() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    grown = fxgrow.grow(model, 2, example_inputs=ROW)
    assert unmoved(grown, (ROW,)) == []
    with torch.no_grad():
        for name in ("0.weight", "0.bias"):
            grown.get_parameter(name)[8:] = 0.0
    assert [line.partition(":")[0] for line in unmoved(grown, (ROW,))] == ["0.weight", "0.bias", "2.weight"]

"""Parameter groups: timm's conventions, µP's table."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm
import timm.optim
import timm.scheduler
import torch
from torch import nn

import fxgrow
from fxgrow.errors import TrainingError
from fxgrow.history import history_of
from fxgrow.training.groups import fans
from tests.pairing import few
from tests.training.small import convolutional, grown


def names(model: nn.Module, groups: list[dict[str, object]]) -> list[set[str]]:
    name_of = {id(p): n for n, p in model.named_parameters()}
    return [{name_of[id(p)] for p in group["params"]} for group in groups]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "name", few(("test_vit", "test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"), "test_convnext")
)
def test_what_is_decayed_is_what_timm_decays(name: str) -> None:
    """Also once the model has grown, although a graph module has not the model's methods."""
    options = {} if name.startswith("test") else {"depths": (1, 1, 1, 1), "embed_dim": 24}
    model = timm.create_model(name, **options)
    wide = fxgrow.grow(fxgrow.grow(model, 1.5, verify=False), 1.5, verify=False)
    for net in (model, wide, copy.deepcopy(wide)):
        undecayed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        no_decay, decay = timm.optim.param_groups_weight_decay(model, 0.05, no_weight_decay_list=undecayed)
        expected = names(model, [decay, no_decay])
        groups = fxgrow.param_groups(net, weight_decay=0.05)
        by_decay = {group["weight_decay"]: group for group in groups}
        assert names(net, [by_decay[0.05], by_decay[0.0]]) == expected
        assert timm.optim.create_optimizer_v2(net, "adamw", weight_decay=0.05) is not None


def test_frozen_parameters_are_left_out() -> None:
    model = convolutional()
    model[0].weight.requires_grad_(False)
    assert "0.weight" not in set().union(*names(model, fxgrow.param_groups(model)))


def test_every_parameter_is_in_one_group() -> None:
    model = grown(convolutional(), 2)
    groups = fxgrow.param_groups(model, 0.1, lr=0.5, parameterization="mup")
    parameters = [p for group in groups for p in group["params"]]
    assert len(parameters) == len(set(map(id, parameters))) == len(list(model.parameters()))


EXPECTED = {
    # the net is twice, then three times as wide as its seed
    "adam": {"0.weight": 1, "1.weight": 1, "1.bias": 1, "3.weight": 1 / 3, "3.bias": 1, "7.weight": 1 / 3, "7.bias": 1},
    "sgd": {"0.weight": 3, "1.weight": 3, "1.bias": 3, "3.weight": 1, "3.bias": 3, "7.weight": 1 / 3, "7.bias": 1},
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_mup_follows_the_widths_since_the_seed(kind: str) -> None:
    model = grown(convolutional(), 2, 1.5, parameterization="mup")
    groups = fxgrow.param_groups(model, lr=0.1, optimizer=kind)
    name_of = {id(p): n for n, p in model.named_parameters()}
    scales = {name_of[id(p)]: group["width_scale"] for group in groups for p in group["params"]}
    assert scales == {name: pytest.approx(scale) for name, scale in EXPECTED[kind].items()}
    assert all(group["lr"] == pytest.approx(0.1 * group["width_scale"]) for group in groups)


def test_a_seed_under_mup_trains_as_before() -> None:
    groups = fxgrow.param_groups(convolutional(), lr=0.1, parameterization="mup")
    assert [group["width_scale"] for group in groups] == [1.0]


def test_mups_learning_rates_keep_the_change_of_outputs_in_scale() -> None:
    """One step of Adam changes a wide network's outputs as much as a narrow one's; without µP, width times more."""

    def change(width: int, scaled: bool) -> float:
        torch.manual_seed(0)
        x = torch.randn(64, 8)
        sizes = [(8, width), (width, width), (width, 4)]
        net = nn.Sequential(*(layer for o, i in sizes for layer in (nn.Linear(o, i, bias=False), nn.Tanh())))
        with torch.no_grad():
            for layer, (into, _) in zip(net[::2], sizes, strict=True):
                layer.weight.normal_(0, into**-0.5)
            net[4].weight.normal_(0, 1 / width)
        scales = [1.0, 32 / width, 32 / width] if scaled else [1.0] * 3
        before = net(x).detach()
        optimizer = torch.optim.Adam(
            [{"params": layer.parameters(), "lr": 1e-3 * scale} for layer, scale in zip(net[::2], scales, strict=True)]
        )
        (net(x) - torch.ones(4)).square().mean().backward()
        optimizer.step()
        return float((net(x) - before).square().mean().sqrt())

    assert change(1024, scaled=True) / change(32, scaled=True) == pytest.approx(1, abs=0.5)
    assert change(1024, scaled=False) / change(32, scaled=False) > 8


def test_fans_tell_input_hidden_and_output_apart() -> None:
    model = grown(convolutional(), 2)
    history = history_of(model)
    assert history is not None
    kinds = {name: fan.kind for name, fan in fans(history).items()}
    assert kinds["0.weight"] == kinds["1.weight"] == kinds["3.bias"] == "input"
    assert kinds["3.weight"] == "hidden"
    assert kinds["7.weight"] == "output"


def test_schedulers_of_torch_and_timm_scale_each_group() -> None:
    model = grown(convolutional(), 2, parameterization="mup")
    optimizer = torch.optim.AdamW(fxgrow.param_groups(model, lr=0.4))
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    optimizer.step()
    schedule.step()
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [pytest.approx(0.1), pytest.approx(0.2)]


def test_a_scheduler_of_timm_counts_mups_factor_once() -> None:
    model = grown(convolutional(), 2, parameterization="mup")
    optimizer = torch.optim.AdamW(fxgrow.param_groups(model, lr=0.4))
    timms = timm.scheduler.CosineLRScheduler(optimizer, t_initial=10, warmup_t=2, warmup_lr_init=0.1)
    timms.step(0)
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}
    timms.step(5)
    half = [group["lr"] / group["width_scale"] for group in optimizer.param_groups]
    assert half == [pytest.approx(0.2)] * len(half)
    assert sorted({group["width_scale"] for group in optimizer.param_groups}) == [0.5, 1.0]


def test_growth_under_mup_needs_new_groups() -> None:
    model = grown(convolutional(), 2, parameterization="mup")
    optimizer = torch.optim.AdamW(fxgrow.param_groups(model, lr=0.1))
    before = [p for group in optimizer.param_groups for p in group["params"]]
    wider = fxgrow.grow(model, 1.5)
    with pytest.raises(TrainingError) as error:
        fxgrow.replace_parameters(optimizer, wider)
    assert str(error.value) == (
        "growth changes µP's learning rate of this parameter, and its group has another (at 3.weight): "
        "make a new optimizer with fxgrow.param_groups and call fxgrow.transfer_state"
    )
    assert [p for group in optimizer.param_groups for p in group["params"]] == before
    fresh = torch.optim.AdamW(fxgrow.param_groups(wider, lr=0.1))
    assert fxgrow.transfer_state(optimizer, fresh, wider).fresh == {}


def test_bad_input() -> None:
    model = grown(convolutional(), 2)
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: fxgrow.param_groups(model, parameterization="mup"),
            "µP scales the learning rate by 0.5, and there is none to scale (at 3.weight): "
            "pass lr= to fxgrow.param_groups",
        ),
        (
            lambda: fxgrow.param_groups(model, parameterization="ntk"),
            "parameterization='ntk' is not a parameterization: use one of standard, mup, variance-transfer, rms",
        ),
        (
            lambda: fxgrow.param_groups(model, optimizer="lion"),
            "optimizer='lion' is not a row of µP's table: use one of sgd, adam",
        ),
        (lambda: fxgrow.param_groups(model, -0.1), "weight_decay=-0.1 is not a finite number of at least 0: pass one"),
        (lambda: fxgrow.param_groups(model, lr=float("nan")), "lr=nan is not a finite number of at least 0: pass one"),
    ]
    for call, text in cases:
        with pytest.raises(TrainingError) as error:
            call()
        assert str(error.value) == text

"""Learning rates by age: the paper's formula exactly, and any optimizer undisturbed otherwise."""

from __future__ import annotations

import copy
import gc
import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError, TrainingError
from fxgrow.training import tracking
from fxgrow.training.rates import KEY, AdaptedRates, attached_to
from fxgrow.training.rules import CEILING, Norms, by_update
from tests.pairing import in_turn
from tests.training.small import INPUTS, convolutional, grown, loss_of, train


@pytest.fixture(params=["joined", "cut"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small parameters as they are, joined, and cut into rectangles as if they were large."""
    if request.param == "cut":
        monkeypatch.setitem(tracking._LEAST_ENTRIES, "cpu", 0)
    return str(request.param)


class ReferenceSGD:
    """The paper's step written out: one learning rate for each stage of each tensor, from current norms."""

    def __init__(self, model: nn.Module, rate: float, momentum: float, decay: float, nesterov: bool) -> None:
        self.births = fxgrow.births(model)
        self.parameters = dict(model.named_parameters())
        self.rate, self.momentum, self.decay, self.nesterov = rate, momentum, decay, nesterov
        self.velocity: dict[str, Tensor] = {}

    def step(self) -> None:
        with torch.no_grad():
            for name, weight in self.parameters.items():
                gradient = weight.grad + self.decay * weight
                if name in self.velocity:
                    self.velocity[name] = self.momentum * self.velocity[name] + gradient
                else:
                    self.velocity[name] = gradient.clone()
                move = self.velocity[name]
                move = gradient + self.momentum * move if self.nesterov else move
                stages = self.births[name].stages()
                rates = torch.full_like(weight, self.rate)
                oldest = weight[stages == 0].square().sum().sqrt()
                for stage in stages.unique().tolist()[1:]:
                    rates[stages == stage] = self.rate * weight[stages == stage].square().sum().sqrt() / oldest
                weight -= rates * move


STEPS = list(itertools.product(("mirror", "zero"), (False, True), (False, True)))
"""How new units start; whether steps are made for all tensors at once; whether they look ahead."""


@pytest.mark.parametrize(
    ("how", "blocks"),
    in_turn(STEPS, ("joined", "cut"), [STEPS[number] for number in (1, 2, 4, 7)]),
    indirect=["blocks"],
)
@pytest.mark.usefixtures("blocks")
def test_sgd_is_the_papers_formula(how: tuple[str, bool, bool]) -> None:
    init, foreach, nesterov = how
    model = grown(convolutional(), 1.5, 4 / 3, init=init)
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-3, nesterov=nesterov, foreach=foreach
    )
    fxgrow.adapt_rates(optimizer, model, floor=None, every=1)
    reference = ReferenceSGD(twin, 0.05, 0.9, 5e-3, nesterov)
    train(model, optimizer, 12)
    for _ in range(12):
        twin.zero_grad()
        loss_of(twin).backward()
        reference.step()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, twin.get_parameter(name), rtol=1e-12, atol=1e-14)


def test_the_bare_formula_freezes_zeros_and_the_floor_does_not() -> None:
    for floor, moves in ((None, False), ("init", True)):
        model = grown(convolutional(), 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        rates = fxgrow.adapt_rates(optimizer, model, floor=floor)
        new = fxgrow.births(model)["7.weight"].mask(1)
        assert (model.get_parameter("7.weight")[new] == 0).all()
        train(model, optimizer, 1)
        assert bool((model.get_parameter("7.weight")[new] != 0).all()) is moves
        assert (rates.current()["7.weight"][1] > 0) is moves


def test_a_floor_is_the_rate_of_a_block_drawn_at_the_scale_of_the_old() -> None:
    model = grown(convolutional(), 2)
    rates = fxgrow.adapt_rates(torch.optim.SGD(model.parameters(), lr=0.1), model).current()
    assert rates["7.weight"] == {1: pytest.approx((32 / 32) ** 0.5 * (8 / 16) ** 0.5)}  # zero: the floor itself
    drawn = model.get_parameter("0.weight")
    expected = (drawn[6:].norm() / drawn[:6].norm()).item()
    assert rates["0.weight"] == {1: pytest.approx(max(expected, 1.0))}


def test_old_entries_near_zero_make_no_rate_explode() -> None:
    model = convolutional()
    with torch.no_grad():
        model[0].weight.mul_(1e-9)
    wide = grown(model, 2)
    with torch.no_grad():
        wide.get_parameter("0.weight")[6:].normal_()
    rates = fxgrow.adapt_rates(torch.optim.SGD(wide.parameters(), lr=0.1), wide).current()
    assert rates["0.weight"][1] == pytest.approx(CEILING)


@pytest.mark.usefixtures("blocks")
def test_old_entries_move_as_without_adapted_rates() -> None:
    """In one step; bit for bit."""
    old_entries = []
    for adapted in (False, True):
        model = grown(convolutional(), 1.5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        if adapted:
            fxgrow.adapt_rates(optimizer, model)
        train(model, optimizer, 1)
        births = fxgrow.births(model)
        old_entries.append({name: p.detach()[births[name].mask(0)] for name, p in model.named_parameters()})
    assert all(torch.equal(old_entries[0][name], old_entries[1][name]) for name in old_entries[0])


def equal_relative_updates(model: nn.Module, before: dict[str, Tensor], name: str) -> list[float]:
    birth = fxgrow.births(model)[name]
    moved = model.get_parameter(name).detach() - before[name]
    return [float(moved[birth.mask(k)].norm() / before[name][birth.mask(k)].norm()) for k in birth.counts()]


@pytest.mark.usefixtures("blocks")
def test_gradient_rule_makes_updates_the_same_part_of_the_weights() -> None:
    model = grown(convolutional(), 1.5, 4 / 3, init="mirror")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    fxgrow.adapt_rates(optimizer, model, "gradient", floor=None, every=1)
    for _ in range(3):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        train(model, optimizer, 1)
        for name in ("0.weight", "3.weight", "7.weight"):
            oldest, *younger = equal_relative_updates(model, before, name)
            assert younger == [pytest.approx(oldest)] * 2


def test_gradient_rule_with_a_floor_leaves_weak_gradients_weak() -> None:
    ones, updates = torch.ones(3), torch.tensor([1e-9, 0.5, 0.0])
    floored = Norms(("a", "b", "c"), (1, 1, 1), ones, ones, ones, updates, ones)
    assert by_update(floored).tolist() == [CEILING, 2, 1]
    assert by_update(replace(floored, least=0 * ones)).tolist() == [pytest.approx(1e9), 2, 1]


def test_rule_none_changes_nothing() -> None:
    weights = []
    for adapted in (False, True):
        model = grown(convolutional(), 1.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if adapted:
            fxgrow.adapt_rates(optimizer, model, "none")
        train(model, optimizer, 3)
        weights.append(model.get_parameter("3.weight").detach())
    torch.testing.assert_close(*weights, rtol=1e-14, atol=1e-15)


def test_a_rule_of_ones_own() -> None:
    seen: list[Norms] = []

    def frozen(norms: Norms) -> Tensor:
        seen.append(norms)
        return torch.zeros_like(norms.weight)

    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    rates = fxgrow.adapt_rates(optimizer, model, frozen)
    before = model.get_parameter("3.weight").detach().clone()
    train(model, optimizer, 2)
    new = fxgrow.births(model)["3.weight"].mask(1)
    after = model.get_parameter("3.weight").detach()
    assert torch.equal(before[new], after[new])
    assert not (before[~new] == after[~new]).any()
    assert seen[0].names[0] == "0.weight"
    assert set(seen[0].stages) == {1}
    assert rates.by_stage() == {1: 0.0}


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "AdamW-foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "AdamW-fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    **{
        name: lambda p, name=name: timm.optim.create_optimizer_v2(list(p), opt=name, lr=1e-3)
        for name in ("lamb", "lion", "adamp", "lookahead_adamw", "adan", "nadamw", "madgrad", "muon", "lars")
    },
}


SCALED = ("SGD", "AdamW-foreach", "AdamW-fused", "RMSprop", "Adafactor", "lookahead_adamw", "muon", "lars")


@pytest.mark.parametrize(("name", "blocks"), in_turn(OPTIMIZERS, ("joined", "cut"), SCALED), indirect=["blocks"])
@pytest.mark.usefixtures("blocks")
def test_any_optimizer_scaled_by_age(name: str) -> None:
    """What one step adds to each block is what it adds without adapted rates, times the rate."""
    added, rates = [], {}
    for adapted in (False, True):
        model = grown(convolutional(), 1.5, 4 / 3)
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer = OPTIMIZERS[name](model.parameters())
        if adapted:
            rates = fxgrow.adapt_rates(optimizer, model).current()
        train(model, optimizer, 1)
        added.append({n: p.detach() - before[n] for n, p in model.named_parameters()})
    for parameter, birth in fxgrow.births(model).items():
        stages = birth.stages()
        for stage in birth.counts():
            rate = rates.get(parameter, {}).get(stage, 1.0)
            expected = added[0][parameter][stages == stage] * rate
            torch.testing.assert_close(added[1][parameter][stages == stage], expected, rtol=1e-9, atol=1e-13)


def test_muon_of_torch_on_matrices() -> None:
    model = grown(convolutional(), 1.5).float()
    matrices = [p for p in model.parameters() if p.ndim == 2]
    optimizer = torch.optim.Muon(matrices, lr=1e-3)
    rates = fxgrow.adapt_rates(optimizer, model)
    before = matrices[0].detach().clone()
    loss_of(model, INPUTS.float()).backward()
    optimizer.step()
    assert list(rates.current()) == ["7.weight"]
    assert not (matrices[0] == before).any()


@pytest.mark.usefixtures("blocks")
def test_scattered_blocks() -> None:
    """Joined branches leave new units all over an axis."""
    torch.manual_seed(0)
    model = timm.create_model("densenet121", growth_rate=4, block_config=(12, 2), num_classes=3).double()
    wide = fxgrow.grow(model, 1.5, example_inputs=torch.randn(2, 3, 32, 32))
    births = fxgrow.births(wide)
    assert max(region.rectangles for birth in births.values() for region in birth.regions()) > 8
    twin = copy.deepcopy(wide)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    rates: dict[str, dict[int, float]] = {}
    added = []
    for net in (wide, twin):
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        if net is wide:
            rates = fxgrow.adapt_rates(optimizer, net).current()
        net(x).square().mean().backward()
        optimizer.step()
        added.append({n: p.detach() - before[n] for n, p in net.named_parameters()})
    for name, birth in births.items():
        new = birth.mask(1)
        if new.any():
            expected = added[1][name][new] * rates[name][1]
            torch.testing.assert_close(added[0][name][new], expected, rtol=1e-9, atol=1e-14)


def test_removed_rates_leave_the_optimizer_as_it_was() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = fxgrow.adapt_rates(optimizer, model)
    assert attached_to(optimizer) is rates
    rates.remove()
    assert attached_to(optimizer) is None
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert KEY not in optimizer.state_dict()


def test_attaching_again_replaces() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fxgrow.adapt_rates(optimizer, model)
    second = fxgrow.adapt_rates(optimizer, model, "none")
    assert attached_to(optimizer) is second
    assert len(optimizer._optimizer_step_pre_hooks) == 1


def test_an_optimizer_with_rates_can_be_collected() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = fxgrow.adapt_rates(optimizer, model)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    assert isinstance(rates, AdaptedRates)


@pytest.mark.usefixtures("blocks")
def test_training_resumes_bit_for_bit_from_state_dicts() -> None:
    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = grown(convolutional(), 1.5, 4 / 3)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        fxgrow.adapt_rates(optimizer, model, every=3)
        return model, optimizer

    model, optimizer = fresh()
    train(model, optimizer, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = train(model, optimizer, 4)
    again, resumed = fresh()
    again.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert train(again, resumed, 4) == expected
    assert all(torch.equal(p, model.get_parameter(n)) for n, p in again.named_parameters())


def test_state_of_another_growth_is_refused() -> None:
    optimizers = []
    for amounts in ((1.5,), (1.5, 4 / 3)):
        model = grown(convolutional(), *amounts)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fxgrow.adapt_rates(optimizer, model)
        optimizers.append(optimizer)
    with pytest.raises(TrainingError) as error:
        optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert str(error.value) == (
        "the state was saved for a model that had grown otherwise (at fxgrow_rates): "
        "load it into an optimizer of a model that went through the same growths"
    )


def test_rates_are_worked_out_every_so_often() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = fxgrow.adapt_rates(optimizer, model, rule="gradient", every=2)
    seen = []
    for _ in range(4):
        train(model, optimizer, 1)
        seen.append(rates.current())
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_schedulers_set_the_rate_of_all_ages() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rates = fxgrow.adapt_rates(optimizer, model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(model, optimizer, 1)
    schedule.step()
    multiples = rates.current()["3.weight"]
    assert rates.learning_rates()["3.weight"] == {0: 0.05, 1: pytest.approx(0.05 * multiples[1])}


@pytest.mark.usefixtures("blocks")
def test_a_skipped_step_changes_nothing() -> None:
    """Gradient scalers leave a step out where gradients overflow; parameters without gradient stay."""
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fxgrow.adapt_rates(optimizer, model)
    before = copy.deepcopy(model.state_dict())
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model)).backward()
    model.get_parameter("3.weight").grad.fill_(torch.inf)
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    optimizer.zero_grad()
    optimizer.step()
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.usefixtures("blocks")
def test_closures_scalers_and_clipping() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fxgrow.adapt_rates(optimizer, model, lambda norms: torch.zeros_like(norms.weight))
    before = model.get_parameter("3.weight").detach().clone()

    def closure() -> float:
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        return loss.item()

    optimizer.zero_grad()
    optimizer.step(closure)
    new = fxgrow.births(model)["3.weight"].mask(1)
    assert torch.equal(model.get_parameter("3.weight")[new], before[new])
    assert not (model.get_parameter("3.weight")[~new] == before[~new]).any()


@pytest.mark.usefixtures("blocks")
def test_accumulated_scaled_and_clipped_gradients_make_the_same_step() -> None:
    """Two halves of a batch, under a gradient scaler and clipped, are one clipped step on the whole."""
    weights = []
    for halves in (False, True):
        model = grown(convolutional(), 1.5, 4 / 3, init="mirror").eval()  # statistics of halves would differ
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        fxgrow.adapt_rates(optimizer, model, every=1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=halves)
        for _ in range(3):
            optimizer.zero_grad()
            for inputs in INPUTS.chunk(2) if halves else [INPUTS]:
                loss = model(inputs).square().mean() * len(inputs) / len(INPUTS)
                scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            scaler.step(optimizer)
            scaler.update()
        weights.append({name: p.detach() for name, p in model.named_parameters()})
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-9, atol=1e-12, msg=name)


def test_compiled_and_wrapped_models() -> None:
    weights = []
    for compiled in (False, True):
        model = grown(convolutional(), 1.5)
        net = torch.compile(model, backend="eager") if compiled else model
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        rates = fxgrow.adapt_rates(optimizer, net)
        train(net, optimizer, 2)
        assert list(rates.current()) == [n for n, b in fxgrow.births(model).items() if len(b.counts()) > 1]
        weights.append(model.get_parameter("3.weight").detach())
    torch.testing.assert_close(*weights, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("blocks")
def test_rates_follow_data_that_move() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fxgrow.adapt_rates(optimizer, model, lambda norms: torch.zeros_like(norms.weight))
    model.to(torch.float32)
    before = model.get_parameter("3.weight").detach().clone()
    loss_of(model, INPUTS.float()).backward()
    optimizer.step()
    new = fxgrow.births(model)["3.weight"].mask(1)
    assert torch.equal(model.get_parameter("3.weight")[new], before[new])


def test_bad_input() -> None:
    model = grown(convolutional(), 1.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: fxgrow.adapt_rates(optimizer, model, "norms"),
            "rule='norms' is not a rule: use one of norm, gradient, rewarm, none, or a function",
        ),
        (
            lambda: fxgrow.adapt_rates(optimizer, model, 3),  # type: ignore[arg-type]
            "rule=3 is not a rule: use one of norm, gradient, rewarm, none, or a function",
        ),
        (
            lambda: fxgrow.adapt_rates(optimizer, model, floor="zero"),
            "floor='zero' is not a floor: use 'init' or None",
        ),
        (
            lambda: fxgrow.adapt_rates(optimizer, model, every=0),
            "every=0 is not a number of steps: use 1 or more",
        ),
        (
            lambda: fxgrow.adapt_rates(optimizer, grown(convolutional(), 2)),
            "the optimizer holds none of the model's parameters (at SGD): make the optimizer from the grown model's "
            "parameters, or call fxgrow.replace_parameters",
        ),
        (
            lambda: fxgrow.adapt_rates(optimizer, model, lambda norms: norms.weight[:1]),
            "the rule gave a tensor of shape [1] for 6 blocks (at <lambda>): "
            "return a tensor with one rate for each block",
        ),
        (
            lambda: fxgrow.adapt_rates(optimizer, convolutional()),
            "Sequential was not grown by fxgrow: pass a module that fxgrow.grow or fxgrow.load returned",
        ),
    ]
    for call, text in cases:
        with pytest.raises(FxgrowError) as error:
            call()
        assert str(error.value) == text


def test_rates_print_as_a_table() -> None:
    model = grown(convolutional(), 1.5)
    text = str(fxgrow.adapt_rates(torch.optim.SGD(model.parameters(), lr=0.1), model))
    assert "".join(text.split()).startswith("learningratesbyage,asmultiples(rule=norm,floor=init)")
    assert "3.weight" in text
    assert "mean" in text


def test_rates_are_drawn_tensor_by_tensor() -> None:
    model = grown(convolutional(), 1.5, 4 / 3)
    rates = fxgrow.adapt_rates(torch.optim.SGD(model.parameters(), lr=0.1), model)
    (axes,) = rates.plot().axes
    _, first, second = axes.get_lines()
    current = rates.current()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(current)
    for stage, line in enumerate((first, second), start=1):
        assert line.get_label() == f"stage {stage}"
        assert list(line.get_ydata()) == [by_stage[stage] for by_stage in current.values() if stage in by_stage]
    assert '<td style="text-align:left">mean</td>' in rates._repr_html_()

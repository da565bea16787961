"""Optimizer state through growth: old entries bit for bit, new ones as a fresh parameter would have them."""

from __future__ import annotations

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import Tensor, nn

import fxgrow
from fxgrow.errors import FxgrowError, TrainingError
from fxgrow.modules.replacing import replaced
from fxgrow.planning.indexing import old_positions
from fxgrow.training.parameters import innermost
from fxgrow.training.trial import entries_of
from tests.pairing import few, in_turn
from tests.training.small import INPUTS, convolutional, grown, train

Maker = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Maker] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "SGD-plain": lambda p: torch.optim.SGD(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "AdamW-amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-3, amsgrad=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.1),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-3),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=1e-3, t0=1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
    **{
        name: lambda p, name=name: timm.optim.create_optimizer_v2(list(p), opt=name, lr=1e-3)
        for name in ("lamb", "lion", "adamp", "lookahead_adamw", "adan", "madgrad", "muon", "adafactor", "laprop")
    },
}


def mapped(value: Tensor, old: Tensor, name: str, model: nn.Module) -> Tensor:
    """The entries of a grown state tensor that lie where old entries were, in the old shape."""
    plan = fxgrow.report(model).plan
    growth = next((g for g in plan.tensors if g.name == name), None)
    if growth is None:
        return value
    for axis, how in enumerate(growth.axes):
        if value.ndim == len(growth.axes) and value.shape[axis] == how.new:
            value = value.index_select(axis, (old_positions(how) >= 0).nonzero().flatten())
    return value


def tensors_of(optimizer: torch.optim.Optimizer, model: nn.Module) -> Iterator[tuple[str, str, Any]]:
    for name, parameter in model.named_parameters():
        for key, value in innermost(optimizer).state[parameter].items():
            yield name, key, value


@pytest.mark.parametrize(("name", "way"), in_turn(OPTIMIZERS, ("transfer", "replace")))
def test_old_entries_are_carried_bit_for_bit(name: str, way: str) -> None:
    model = convolutional()
    old = OPTIMIZERS[name](model.parameters())
    train(model, old, 7)
    before = {(p, key): copy.deepcopy(value) for p, key, value in tensors_of(old, model)}
    wide = grown(model, 1.5)
    if way == "transfer":
        new = OPTIMIZERS[name](wide.parameters())
        transfer = fxgrow.transfer_state(old, new, wide)
        assert innermost(old).state[model.get_parameter("0.weight")].keys() == {
            key for p, key in before if p == "0.weight"
        }, "the old optimizer is left as it was"
    else:
        new = old
        transfer = fxgrow.replace_parameters(old, wide)
    assert transfer.fresh == {}
    after = {(p, key): value for p, key, value in tensors_of(new, wide)}
    assert before.keys() == after.keys()
    for (parameter, key), value in before.items():
        grown_value = after[parameter, key]
        if isinstance(value, Tensor) and value.numel() > 1:
            if value.shape == model.get_parameter(parameter).shape:
                assert grown_value.shape == wide.get_parameter(parameter).shape
                assert torch.equal(mapped(grown_value, value, parameter, wide), value), (parameter, key)
        else:
            assert grown_value == value or (grown_value != grown_value), (parameter, key)
    losses = train(wide, new, 3)
    assert all(map(torch.isfinite, map(torch.tensor, losses)))


def test_new_momenta_are_zero_and_second_moments_means_of_row_and_column() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(8, 3, dtype=torch.float64)
    old = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(5):
        model(x).square().mean().backward()
        old.step()
    wide = fxgrow.grow(model, 1.5, example_inputs=x)
    new = torch.optim.AdamW(wide.parameters(), lr=1e-3)
    fxgrow.transfer_state(old, new, wide)
    state = new.state[wide.get_parameter("2.weight")]
    before = old.state[model[2].weight]["exp_avg_sq"]
    assert state["exp_avg"][4:].abs().max() == state["exp_avg"][:, 4:].abs().max() == 0
    squares = state["exp_avg_sq"]
    torch.testing.assert_close(squares[4:, :4], before.mean(0).expand(2, 4))
    torch.testing.assert_close(squares[:4, 4:], before.mean(1)[:, None].expand(4, 2))
    torch.testing.assert_close(squares[4:, 4:], before.mean().expand(2, 2))
    assert state["step"] == 5


def test_first_updates_of_new_entries_are_no_larger_than_adams() -> None:
    """With second moments at zero they would be about 3.2 times the learning rate."""
    largest = {}
    for filled in (True, False):
        model = convolutional()
        old = torch.optim.Adam(model.parameters(), lr=1e-4)
        train(model, old, 50)
        for state in old.state.values():
            state["exp_avg_sq"] /= 1 - 0.999**50  # as late in training, when nothing is corrected any more
            state["step"].fill_(20_000)
        wide = grown(model, 2)
        new = torch.optim.Adam(wide.parameters(), lr=1e-4)
        fxgrow.transfer_state(old, new, wide)
        weight, births = wide.get_parameter("7.weight"), fxgrow.births(wide)["7.weight"]
        if not filled:
            new.state[weight]["exp_avg_sq"][births.mask(1)] = 0
        before = weight.detach().clone()
        train(wide, new, 1)
        largest[filled] = float((weight.detach() - before)[births.mask(1)].abs().max()) / 1e-4
    assert largest[False] == pytest.approx(3.2, abs=0.1)
    assert largest[True] <= 1.0


def test_several_growths_are_no_different_from_one_at_a_time() -> None:
    model = convolutional()
    old = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, old, 3)
    once = grown(model, 1.5)
    twice = grown(once, 4 / 3)
    middle = torch.optim.AdamW(once.parameters(), lr=1e-3)
    fxgrow.transfer_state(old, middle, once)
    expected = torch.optim.AdamW(twice.parameters(), lr=1e-3)
    fxgrow.transfer_state(middle, expected, twice)
    transferred = torch.optim.AdamW(twice.parameters(), lr=1e-3)
    fxgrow.transfer_state(old, transferred, twice)
    for parameter in twice.parameters():
        for key, value in expected.state[parameter].items():
            assert torch.equal(transferred.state[parameter][key], value)


def test_state_of_rescaled_gains_is_carried_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    x = torch.randn(16, 6, dtype=torch.float64)
    old = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    model(x).square().mean().backward()
    old.step()
    wide = fxgrow.grow(model, 1.5, example_inputs=x)
    assert next(g for g in fxgrow.report(wide).plan.tensors if g.name == "1.weight").scale != 1
    fxgrow.replace_parameters(old, wide)
    momentum = old.state[wide.get_parameter("1.weight")]["momentum_buffer"]
    assert torch.equal(momentum[:8], model[1].weight.grad)


def test_averaged_weights_compute_the_averaged_models_function() -> None:
    """Lookahead's slow weights are values of parameters: they grow as parameters do, gains rescaled."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)).double()
    x = torch.randn(16, 6, dtype=torch.float64)
    old = timm.optim.create_optimizer_v2(list(model.parameters()), opt="lookahead_sgd", lr=0.05)
    for _ in range(8):
        old.zero_grad()
        (model(x) - 1).square().mean().backward()
        old.step()
    slow = copy.deepcopy(model)
    wide = fxgrow.grow(model, 1.5, example_inputs=x)
    with torch.no_grad():
        for p, q in zip(model.parameters(), slow.parameters(), strict=True):
            q.copy_(innermost(old).state[p]["lookahead_slow_buff"])
    fxgrow.replace_parameters(old, wide)
    grown_slow = copy.deepcopy(wide)
    with torch.no_grad():
        for p, q in zip(wide.parameters(), grown_slow.parameters(), strict=True):
            q.copy_(innermost(old).state[p]["lookahead_slow_buff"])
    torch.testing.assert_close(grown_slow(x), slow(x), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(slow(x), model(x))


def test_schedulers_and_scalers_that_hold_the_optimizer_go_on() -> None:
    model = convolutional()
    optimizer = torch.optim.SGD(fxgrow.param_groups(model, 1e-3), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    rates = []
    for step in range(6):
        train(model, optimizer, 1)
        schedule.step()
        if step in (1, 3):
            model = grown(model, 1.5 if step == 1 else 4 / 3)
            fxgrow.replace_parameters(optimizer, model)
            if step == 1:
                adapted = fxgrow.adapt_rates(optimizer, model)
        rates.append([group["lr"] for group in optimizer.param_groups])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in parameters} == {id(p) for p in model.parameters()}
    assert rates[-1] == [pytest.approx(0.05 * (1 + torch.cos(torch.tensor(0.6 * torch.pi)).item()))] * 2
    assert adapted.by_stage().keys() == {1, 2}, "rates by age follow"
    assert all(p.ndim <= 1 for p in optimizer.param_groups[1]["params"])


@pytest.mark.parametrize("name", few(("SGD", "AdamW"), "SGD"))
def test_two_growths_in_the_middle_of_training(name: str) -> None:
    """In float32: the loss goes on where it was, without a spike that the un-grown run does not show."""

    def run(grows: bool) -> tuple[list[float], list[float]]:
        model: nn.Module = convolutional().float()
        inputs = INPUTS.float()
        optimizer = OPTIMIZERS[name](model.parameters())
        losses, gaps = [], []
        for step in range(170):
            if grows and step in (60, 115):
                before = evaluated(model, inputs)
                model = fxgrow.grow(model, 1.5, example_inputs=inputs[:2])
                fxgrow.replace_parameters(optimizer, model)
                fxgrow.adapt_rates(optimizer, model)
                gaps.append(abs(evaluated(model, inputs) - before))
            optimizer.zero_grad()
            loss = loss_in_float(model, inputs)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses, gaps

    plain, _ = run(grows=False)
    losses, gaps = run(grows=True)
    assert max(gaps) <= 1e-6
    for start in (60, 115):
        rise = max(losses[start : start + 50]) - losses[start - 1]
        usual = max(plain[start : start + 50]) - plain[start - 1]
        assert rise <= max(usual, 0.0) + 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameterization"),
    in_turn(("test_resnet", "test_vit"), ("variance-transfer", "standard")),
)
def test_library_models_go_on_where_they_were(name: str, parameterization: str) -> None:
    """In float32 and train mode: the loss within 1e-6 over two growths, old momenta bit for bit."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3)
    images, labels = torch.randn(6, 3, *model.pretrained_cfg["input_size"][1:]), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.AdamW(fxgrow.param_groups(model, 0.05), lr=1e-4)

    def loss(model: nn.Module) -> Tensor:
        return torch.nn.functional.cross_entropy(model(images), labels)

    for step in range(5):
        if step in (2, 4):
            wider = fxgrow.grow(model, 1.25, parameterization=parameterization, verify=False)
            with torch.no_grad():
                gap = abs(loss(copy.deepcopy(wider)).item() - loss(copy.deepcopy(model)).item())
            assert gap <= 1e-6
            before = {n: optimizer.state[p]["exp_avg"].clone() for n, p in model.named_parameters()}
            assert fxgrow.replace_parameters(optimizer, wider).fresh == {}
            fxgrow.adapt_rates(optimizer, wider)
            for n, p in wider.named_parameters():
                assert torch.equal(mapped(optimizer.state[p]["exp_avg"], before[n], n, wider), before[n])
            model = wider
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()


def evaluated(model: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return loss_in_float(model, inputs).item()


def loss_in_float(model: nn.Module, inputs: Tensor) -> Tensor:
    outputs = model(inputs)
    return (outputs - torch.linspace(-1, 1, outputs.numel()).reshape(outputs.shape)).square().mean()


def test_parameters_that_were_put_in_since_join_the_group_of_their_namesake() -> None:
    model = convolutional()
    weights, others = ([p for p in model.parameters() if (p.ndim > 1) is many] for many in (True, False))
    optimizer = torch.optim.AdamW([{"params": weights}, {"params": others}], lr=1e-3)
    train(model, optimizer, 2)
    wide = grown(model, 1.5)
    wide.append(nn.Linear(wide[7].out_features, 2).double())
    transfer = fxgrow.replace_parameters(optimizer, wide, model=model)
    names = {id(p): n for n, p in wide.named_parameters()}
    groups = [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]
    assert groups[0][-1] == "8.weight" and groups[1][-1] == "8.bias"
    assert transfer.fresh == {
        name: f"it was put in by hand, and nothing stood in its place; it joins the group of {like}"
        for name, like in (("8.weight", "7.weight"), ("8.bias", "7.bias"))
    }
    train(wide, optimizer, 2)


@pytest.mark.slow
def test_parameters_of_new_blocks_join_the_group_of_those_they_repeat() -> None:
    """Rates by depth rise with it, also where a block repeats one that is new itself."""
    model = timm.create_model("test_vit")
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=0.1, momentum=0.9, layer_decay=0.5)
    deep = fxgrow.grow(model, depth="+1", verify=False)
    deep = fxgrow.grow(deep, depth={"blocks": 1.5}, verify=False)
    fxgrow.replace_parameters(optimizer, deep, model=model)
    names = {id(p): n for n, p in deep.named_parameters()}
    scales = {names[id(p)]: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    by_block = [scales[f"blocks.{number}.mlp.fc1.weight"] for number in range(len(deep.get_submodule("blocks")))]
    assert len(by_block) > 8
    assert by_block == sorted(by_block)
    assert len(set(by_block)) == 6


def test_rates_rise_with_depth_where_blocks_alternate() -> None:
    """A new block behind the second may repeat the first: its windows are not shifted either."""
    options: dict[str, Any] = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 4), "img_size": 32, "window_size": 4}
    model = timm.create_model("swin_tiny_patch4_window7_224", **options)
    optimizer = timm.optim.create_optimizer_v2(model, "adamw", lr=0.1, weight_decay=0.05, layer_decay=0.5)
    deep = fxgrow.grow(model, depth=1.5, verify=False)
    assert fxgrow.report(deep).plan.depth.blocks[0].modules[0] == ("layers.0.blocks.2", "layers.0.blocks.0")
    fxgrow.replace_parameters(optimizer, deep)
    names = {id(p): n for n, p in deep.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert groups.keys() == dict(deep.named_parameters()).keys()
    for stage in ("layers.0", "layers.1"):
        for leaf in ("mlp.fc1.weight", "mlp.fc1.bias", "norm1.weight"):
            scales = [groups[f"{stage}.blocks.{number}.{leaf}"]["lr_scale"] for number in range(3)]
            assert scales[0] < scales[1] == scales[2]
            decays = {groups[f"{stage}.blocks.{number}.{leaf}"]["weight_decay"] for number in range(3)}
            assert decays == {0.05 if leaf == "mlp.fc1.weight" else 0.0}


def test_a_fused_optimizer_goes_on_with_new_blocks() -> None:
    """torch's fused SGD takes a momentum from every parameter or from none."""
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", img_size=16, patch_size=8, num_classes=4, depth=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=fused)
        for amount in ("", "+1", "+1"):
            if amount:
                model = fxgrow.grow(model, depth=amount, verify=False)
                fxgrow.replace_parameters(optimizer, model)
            x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
            optimizer.zero_grad()
            model.eval()(x).square().mean().backward()
            optimizer.step()
        weights.append({name: p.detach() for name, p in model.named_parameters()})
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=1e-4, atol=1e-6, msg=name)


def test_second_moments_of_new_entries_are_filled_or_zero() -> None:
    model = convolutional()
    old = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train(model, old, 3)
    wide = grown(model, 2)
    for moments in ("fill", "zero"):
        new = torch.optim.AdamW(wide.parameters(), lr=1e-3)
        fxgrow.transfer_state(old, new, wide, moments=moments)
        state = new.state[wide.get_parameter("0.weight")]["exp_avg_sq"]
        assert torch.equal(state[:6], old.state[model[0].weight]["exp_avg_sq"])
        assert bool((state[6:] > 0).all()) is (moments == "fill")
        assert bool((state[6:] == 0).all()) is (moments == "zero")
    with pytest.raises(TrainingError, match="moments='none' is not known: use one of fill, zero"):
        fxgrow.replace_parameters(old, wide, moments="none")


def test_lbfgs_starts_anew_with_the_reason() -> None:
    model = convolutional()
    optimizer = torch.optim.LBFGS(model.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(INPUTS).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    transfer = fxgrow.replace_parameters(optimizer, grown(model, 1.5))
    assert list(transfer.fresh) == ["0.weight"]
    assert "to which index maps do not apply" in transfer.fresh["0.weight"] or "of a form" in transfer.fresh["0.weight"]
    assert "0.weight" in str(transfer)


@pytest.mark.parametrize("amounts", [{"width": 2.0}, {"depth": 2.0}, {"width": 2.0, "depth": 2.0}])
def test_an_lbfgs_that_goes_on_counts_and_searches_anew(amounts: dict[str, float]) -> None:
    model = deep()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    x = torch.randn(7, 5, dtype=torch.float64)

    def step(of: nn.Module) -> None:
        def loss() -> Tensor:
            optimizer.zero_grad()
            value = of(x).square().mean()
            value.backward()
            return value

        optimizer.step(loss)  # type: ignore[no-untyped-call]

    step(model)
    larger = fxgrow.grow(model, example_inputs=x, **amounts)
    transfer = fxgrow.replace_parameters(optimizer, larger)
    assert "goes over all parameters" in transfer.fresh["0.weight"]
    before = [parameter.detach().clone() for parameter in larger.parameters()]
    step(larger)
    assert any(not torch.equal(now, was) for now, was in zip(larger.parameters(), before, strict=True))


@pytest.mark.parametrize("amounts", [{"width": 2.0}, {"depth": 2.0}])
@pytest.mark.parametrize("same_object", [True, False])
def test_what_an_optimizer_notes_on_parameters_is_noted_anew(amounts: dict[str, float], same_object: bool) -> None:
    model = deep()
    x = torch.randn(7, 5, dtype=torch.float64)

    def step(of: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cycle, which a second derivative needs
            of(x).square().mean().backward(create_graph=True)
        optimizer.step()

    optimizer = timm.optim.create_optimizer_v2(model, "adahessian", lr=1e-3)
    step(model, optimizer)
    larger: Any = fxgrow.grow(model, example_inputs=x, **amounts)
    if same_object:
        fxgrow.replace_parameters(optimizer, larger)
    else:
        old, optimizer = optimizer, timm.optim.create_optimizer_v2(larger, "adahessian", lr=1e-3)
        fxgrow.transfer_state(old, optimizer, larger)
    state = optimizer.state[larger[0].weight]
    assert (state["step"], state["exp_avg"].shape) == (1, larger[0].weight.shape)
    step(larger, optimizer)
    for parameter in larger.parameters():
        assert parameter.hess.shape == parameter.shape
    assert all(parameter.hess.shape == parameter.shape for parameter in model.parameters())


def deep() -> nn.Module:
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(6, 6), nn.ReLU()) for _ in range(2))
    return nn.Sequential(nn.Linear(5, 6), *blocks, nn.Linear(6, 3)).double()


def test_names_are_found_in_the_optimizer_or_asked_for() -> None:
    model = convolutional()
    named = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    train(model, named, 1)
    wide = copy.deepcopy(grown(copy.deepcopy(model), 1.5))  # nothing ties it to the parameters of `model`
    assert fxgrow.replace_parameters(named, wide).fresh == {}

    unnamed = torch.optim.AdamW(convolutional().parameters(), lr=1e-3)
    with pytest.raises(TrainingError) as error:
        fxgrow.replace_parameters(unnamed, wide)
    assert str(error.value) == (
        "parameter 0 of group 0 of the optimizer, of shape [6, 3, 3, 3], has no known name (at AdamW): "
        "pass model=, the model that was grown; what else the optimizer holds stays as it is then"
    )
    plain = convolutional()
    unnamed = torch.optim.AdamW(plain.parameters(), lr=1e-3)
    train(plain, unnamed, 1)
    assert len(fxgrow.replace_parameters(unnamed, wide, model=plain).carried) == 7


def test_bad_input() -> None:
    model = convolutional()
    old = torch.optim.SGD(model.parameters(), lr=0.1)
    wide = grown(model, 1.5)
    new = torch.optim.SGD(wide.parameters(), lr=0.1)
    cases: list[tuple[Callable[[], object], str]] = [
        (
            lambda: fxgrow.transfer_state(old, torch.optim.AdamW(wide.parameters()), wide),
            "state of SGD means nothing to AdamW: make the new optimizer of the same class",
        ),
        (
            lambda: fxgrow.transfer_state(old, old, wide),
            "the new optimizer holds none of the grown model's parameters (at SGD): make it from the grown model",
        ),
        (
            lambda: fxgrow.replace_parameters(old, None),  # type: ignore[arg-type]
            "NoneType was not grown by fxgrow: pass a module that fxgrow.grow or fxgrow.load returned",
        ),
        (
            lambda: fxgrow.transfer_state(old, new, model),
            "Sequential was not grown by fxgrow: pass a module that fxgrow.grow or fxgrow.load returned",
        ),
        (
            lambda: fxgrow.transfer_state(
                old, new, grown(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)).double(), 2)
            ),
            "the optimizer holds a parameter that the grown model does not have (at 3.weight): "
            "pass the optimizer of the model that was grown",
        ),
        (
            lambda: fxgrow.transfer_state(new, new, grown(model, 2), model=wide),
            "the optimizer's parameter has shape [9, 3, 3, 3], which the grown model's never had (at 0.weight): "
            "pass the optimizer of the model that was grown",
        ),
    ]
    for call, text in cases:
        with pytest.raises(FxgrowError) as error:
            call()
        assert str(error.value) == text
    assert next(p for group in old.param_groups for p in group["params"]) is model[0].weight, "nothing was replaced"


def test_what_entries_mean_is_found_out() -> None:
    weight = nn.Parameter(torch.randn(64, 64))
    adam = torch.optim.Adam([weight])
    kinds = {key: entry.kind for key, entry in entries_of(adam, adam.param_groups[0], weight).items()}
    assert kinds == {"step": "constant", "exp_avg": "constant", "exp_avg_sq": "statistic"}
    adafactor = torch.optim.Adafactor([weight])
    entries = entries_of(adafactor, adafactor.param_groups[0], weight)
    assert entries["row_var"].axes == (0, None)
    assert entries["col_var"].axes == (None, 1)
    rprop = torch.optim.Rprop([weight], lr=0.25)
    assert entries_of(rprop, rprop.param_groups[0], weight)["step_size"].value == 0.25
    averaged = torch.optim.ASGD([weight])
    assert entries_of(averaged, averaged.param_groups[0], weight)["ax"].kind == "values"


# -- optimizers that hold a part of the model ----------------------------------------------------------------


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)) for _ in range(2)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)  # type: ignore[no-any-return]


def test_each_of_two_optimizers_keeps_to_its_part() -> None:
    model = Blocks()
    body = torch.optim.AdamW([*model.enter.parameters(), *model.blocks.parameters()], 1e-3)
    head = torch.optim.SGD(model.leave.parameters(), 0.1, momentum=0.9)
    model(torch.randn(4, 6)).square().mean().backward()
    body.step(), head.step()
    grown = fxgrow.grow(model, 1.5, depth=2, example_inputs=torch.randn(4, 6))
    names = {parameter: name for name, parameter in grown.named_parameters()}
    told = [fxgrow.replace_parameters(optimizer, grown, model=model) for optimizer in (body, head)]
    by_optimizer = [{names[p] for group in o.param_groups for p in group["params"]} for o in (body, head)]
    assert by_optimizer[1] == {"leave.weight", "leave.bias"}
    assert by_optimizer[0] == set(names.values()) - by_optimizer[1]
    assert told[1].fresh == {} and {*told[0].fresh} <= by_optimizer[0]
    fxgrow.replace_parameters(head, fxgrow.grow(grown, 1.5, example_inputs=torch.randn(4, 6)))
    assert sum(len(group["params"]) for group in head.param_groups) == 2


@pytest.mark.parametrize("named", [False, True])
def test_what_an_optimizer_holds_beside_the_network_stays_where_it_is(named: bool) -> None:
    model, judge = Blocks(), nn.Linear(3, 1)
    listed: list[Any] = [("before", nn.Parameter(torch.ones(2))), *model.named_parameters(), *judge.named_parameters()]
    optimizer = torch.optim.AdamW(listed if named else [parameter for _, parameter in listed], 1e-3)
    judge(model(torch.randn(4, 6))).square().mean().backward()
    optimizer.step()
    moment = optimizer.state[judge.weight]["exp_avg"].clone()
    grown = fxgrow.grow(model, 1.5, depth=2, example_inputs=torch.randn(4, 6))
    fresh = torch.optim.AdamW([*judge.parameters(), *grown.parameters()], 1e-3)
    assert fxgrow.transfer_state(optimizer, fresh, grown, model=model).others == 3
    assert torch.equal(fresh.state[judge.weight]["exp_avg"], moment)
    assert "3 parameters are not the model's" in str(fxgrow.replace_parameters(optimizer, grown, model=model))
    (group,) = optimizer.param_groups
    wanted = [listed[0][1], *grown.parameters(), *judge.parameters()]
    assert all(p is q for p, q in zip(group["params"], wanted, strict=True))
    if named:
        assert group["param_names"] == ["before", *dict(grown.named_parameters()), "weight", "bias"]
    assert torch.equal(optimizer.state[judge.weight]["exp_avg"], moment)
    judge(grown(torch.randn(4, 6))).square().mean().backward()
    optimizer.step()


def test_state_of_another_form_at_the_new_size_starts_anew() -> None:
    """timm's Adafactor factors what has 32 rows and columns."""
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = timm.optim.create_optimizer_v2(model, opt="adafactor", lr=1e-3)
    model(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()
    grown = fxgrow.grow(model, 2, example_inputs=torch.randn(4, 6))
    told = fxgrow.replace_parameters(optimizer, grown, model=model)
    assert told.fresh["2.weight"] == "its optimizer keeps other entries for a tensor of the new size"
    assert "0.weight" in told.carried
    grown(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()


def test_state_saved_after_growth_in_depth_fits_an_optimizer_made_anew() -> None:
    """Of the grown model: state is told by the order of parameters alone."""
    model: nn.Module = timm.create_model("test_vit", depth=2)
    optimizer = torch.optim.SGD(fxgrow.param_groups(model, weight_decay=0.05), lr=0.1, momentum=0.9)
    images = torch.randn(2, 3, 160, 160)
    model(images).square().mean().backward()
    optimizer.step()
    grown = fxgrow.grow(model, depth={"blocks": "+1"}, verify=False)
    fxgrow.replace_parameters(optimizer, grown)
    optimizer.zero_grad()
    grown(images).square().mean().backward()
    optimizer.step()
    anew = torch.optim.SGD(fxgrow.param_groups(grown, weight_decay=0.05), lr=0.1, momentum=0.9)
    anew.load_state_dict(optimizer.state_dict())
    for parameter in grown.parameters():
        assert torch.equal(anew.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


class Sharpness(torch.optim.Optimizer):
    """As SAM, which people copy: it calls the optimizer that it wraps `base_optimizer`."""

    def __init__(self, parameters: Any, shared: bool = True) -> None:
        super().__init__(parameters, {"lr": 0.1, "rho": 0.05})
        groups: Any = self.param_groups if shared else [{"params": self.param_groups[0]["params"]}]
        self.base_optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.base_optimizer.step()


def test_an_optimizer_that_another_holds_under_any_name() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    rows = torch.randn(3, 4)
    optimizer, apart = Sharpness(model.parameters()), Sharpness(model.parameters(), shared=False)
    model(rows).square().mean().backward()
    optimizer.step()
    momentum = optimizer.base_optimizer.state[model[0].weight]["momentum_buffer"].clone()
    wide: Any = fxgrow.grow(model, 2, example_inputs=rows)
    fxgrow.replace_parameters(optimizer, wide)
    state = optimizer.base_optimizer.state
    assert state.keys() == set(wide.parameters())
    assert torch.equal(state[wide[0].weight]["momentum_buffer"][:6], momentum)
    with pytest.raises(TrainingError, match=r"holds another optimizer \(base_optimizer\).*\(at Sharpness\)"):
        fxgrow.replace_parameters(apart, wide, model=model)


def test_names_stand_in_no_way_of_what_torch_does_to_parameters(tmp_path: Path) -> None:
    model = deep()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    wide = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 5))
    assert not any(weakref.getweakrefs(p) for each in (model, wide) for p in each.parameters())
    with replaced(torch.__future__, "get_swap_module_params_on_conversion", lambda: True):
        model.float()  # swaps each parameter, and what it is called goes
        wide.load_state_dict(copy.deepcopy(wide.state_dict()))
    fxgrow.replace_parameters(optimizer, wide, model=model)
    assert [*map(id, optimizer.param_groups[0]["params"])] == [*map(id, wide.parameters())]
    torch.save(dict(wide.named_parameters()), tmp_path / "parameters.pt")
    assert torch.load(tmp_path / "parameters.pt", weights_only=True).keys() == dict(wide.named_parameters()).keys()
    torch.compile(wide, backend="eager", fullgraph=True)(torch.randn(1, 5).double())

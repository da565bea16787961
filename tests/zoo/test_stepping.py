"""Steps that wait for nothing: on a device that is not there, in turns, and stopped between two of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fxgrow.zoo.data import Draws, InMemory, load
from fxgrow.zoo.networks import SmallImageResNet, resnet8
from fxgrow.zoo.recipes import recipe
from fxgrow.zoo.stepping import FromLoader, FromMemory, How, Steps, feed_of
from fxgrow.zoo.together import together
from fxgrow.zoo.training import Run
from torch import Tensor, nn

import fxgrow
from tests.pairing import slow
from tests.training.test_device_only import OneDevice, absent_gpu

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {"samples": 96, "epochs": 4, "stages": 3, "first_epochs": 1, "batch_size": 16, "verify": False}


def grown_network() -> nn.Module:
    return fxgrow.grow(resnet8(4, in_chans=1), 2, example_inputs=torch.zeros(2, 1, 8, 8), verify=False)


@pytest.mark.parametrize("how", [slow({}), slow({"bfloat16": True}), {"side": 6}])
def test_a_step_stays_on_its_device(how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but the walk backward, which needs a driver: images, rates, forward, optimizer, rates by age, loss."""

    def backward(loss: Tensor) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)

    monkeypatch.setattr(Tensor, "backward", backward)
    model = grown_network()
    with absent_gpu(model), torch.device("cuda"):
        images, labels = (torch.empty(64, 1, 8, 8, dtype=torch.uint8), torch.empty(64, dtype=torch.long))
        there = InMemory("some", 10, images, labels, images, labels, *torch.empty(2, 1, 1, 1, 1), shift=1, flip=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True, capturable=True)
        fxgrow.adapt_rates(optimizer, model, every=1)
        steps = Steps(model, optimizer, FromMemory(there, 16), 4, How(torch.device("cuda"), graph=False, **how))
        steps._work()
        steps._work()
        with OneDevice():
            steps._work()


def reference_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> float:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.item()


def test_steps_are_those_of_a_plain_loop() -> None:
    data, model = load("digits", samples=64), resnet8(4, in_chans=1)
    assert isinstance(data, InMemory)
    twin = copy.deepcopy(model)
    optimizer, plain = (torch.optim.SGD(net.parameters(), lr=1.0, momentum=0.9) for net in (model, twin))
    steps = Steps(model, optimizer, feed_of(data, 16, CPU), 4, How(CPU))
    rates = torch.tensor([0.1, 0.05, 0.02, 0.01])
    steps.begin(3, 1, 1, rates, 2.5)
    losses = 2.5
    for rate, (images, labels) in zip(rates[1:], data.batches(3, 1, 16, skip=1), strict=True):
        steps.step()
        plain.param_groups[0]["lr"] = float(rate)
        losses += reference_step(twin, plain, images, labels)
    assert float(steps.losses) == pytest.approx(losses)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, twin.get_parameter(name), rtol=1e-5, atol=1e-7)
    assert not steps.is_captured


def test_batches_of_a_loader_are_put_into_place() -> None:
    data = load("digits", samples=64)
    loader, memory = FromLoader(data, 16, CPU), FromMemory(data, 16)  # type: ignore[arg-type]
    for feed in (loader, memory):
        feed.begin(0, 2, 1)
    for number in (1, 2, 3):
        batches = []
        for feed in (loader, memory):
            feed.advance()
            batches.append([part.clone() for part in feed.batch(torch.tensor([number]))])
        assert all(torch.equal(from_loader, from_memory) for from_loader, from_memory in zip(*batches, strict=True))


def test_draws_do_not_depend_on_the_device() -> None:
    data = load("digits", samples=64)
    assert isinstance(data, InMemory)
    assert all(part.device == CPU for part in data.draws(0, 0, 16))
    assert Draws._fields == ("image", "mirrored", "down", "right")


# -- several runs ------------------------------------------------------------------------------------------


def settings(seed: int) -> Any:
    return recipe("digits", **{**SMALL, "samples": 32, "epochs": 2, "stages": 2}, seed=seed)


def test_runs_in_turns_compute_what_each_computes_alone(tmp_path: Path) -> None:
    rows = [Run(settings(seed), tmp_path / f"alone{seed}", evaluate_every=0).train() for seed in range(3)]

    def runs() -> Iterator[Run]:
        for seed in range(3):
            yield Run(settings(seed), tmp_path / f"beside{seed}", evaluate_every=0)

    ended = {run.settings.seed: run.place.rows[-1] for run in together(runs(), at_once=2)}
    assert [ended[seed] for seed in range(3)] == rows


def test_runs_that_are_stopped_go_on(tmp_path: Path) -> None:
    """Asked to stop after some turns, each writes a checkpoint; the next time they end as if nothing had been."""
    larger = {**SMALL, "samples": 320, "epochs": 2, "stages": 2}
    wanted = Run(recipe("digits", **larger), tmp_path / "whole", evaluate_every=0).train()
    turns = 0

    def stop() -> bool:
        nonlocal turns
        turns += 1
        return turns > 1

    run = Run(recipe("digits", **larger), tmp_path / "run", evaluate_every=0)
    assert list(together([run], stop=stop)) == []
    assert 0 < run.place.step < run.steps
    again = Run(recipe("digits", **larger), tmp_path / "run", evaluate_every=0)
    assert again.place.step == run.place.step
    assert again.place.seconds > 0
    assert again.train() == wanted


@pytest.mark.slow
def test_stages_in_depth_and_width_lead_to_the_large_network(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": "fxgrow.zoo.networks:resnet20", "seed_options": (("blocks", 2),), "growth": "given",
        "widths": (0.5, 1.0), "lengths": (1, 1), "depths": ("", "+1"), "rates": "gradient",
        "parameterization": "standard",
    }  # fmt: skip
    run = Run(recipe("digits", samples=32, batch_size=16, verify=False, **changes), tmp_path, evaluate_every=0)
    small = sum(parameter.numel() for parameter in run.model.parameters())
    row = run.train()
    assert row["parameters"] == run.large_parameters > 4 * small
    assert 0.5 < row["budget"] < 0.7
    wrong = recipe("digits", samples=32, batch_size=16, verify=False, **{**changes, "depths": ("", "+2")})
    with pytest.raises(fxgrow.FxgrowError, match="the stages lead to"):
        Run(wrong, tmp_path / "wrong", evaluate_every=0).train()


def test_a_run_that_grew_in_depth_alone_goes_on_in_its_own_class(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(place: Any, stage: Any) -> None:
        if place.step == 4:
            raise Stop

    settings = recipe(
        "digits", samples=32, batch_size=16, verify=False, model="fxgrow.zoo.networks:resnet20", growth="given",
        seed_options=(("blocks", 2),), widths=(1.0, 1.0), lengths=(1, 1), depths=("", "+1"),
        parameterization="standard",
    )  # fmt: skip
    wanted = Run(settings, tmp_path / "whole", evaluate_every=0).train()
    run = Run(settings, tmp_path / "run", evaluate_every=0, checkpoint_minutes=0)
    run.watch = type(run.watch)(step=stop)
    with pytest.raises(Stop):
        run.train()
    again = Run(settings, tmp_path / "run", evaluate_every=0)
    assert again.grown and (type(again.model), again.place.step) == (SmallImageResNet, 3)
    assert again.train() == wanted


def test_rates_rise_first_and_settings_that_do_not_fit_are_named(tmp_path: Path) -> None:
    run = Run(recipe("digits", **SMALL, warm_up=0.25), tmp_path)
    rates = [run.rate(step) / run.settings.lr for step in range(run.steps)]
    assert rates[0] == pytest.approx(1 / 6, rel=0.01)
    assert rates.index(max(rates)) == 5
    assert math.isclose(run.rate(run.steps), 0, abs_tol=1e-12)
    for changes, text in (
        ({"warm_up": 1.0}, "warm_up=1.0 is not a part of training"),
        ({"sides": (8, 8)}, "sides has 2 entries for 3 stages"),
        ({"depths": ("", "+1", "")}, "depths go with given widths, not with growth='exponential'"),
        ({"state": "keep"}, "state='keep' is not known: use one of fill, zero, drop"),
        ({"precision": "half"}, "precision='half' is not known: use one of float32, bfloat16"),
    ):
        with pytest.raises(fxgrow.FxgrowError) as raised:
            recipe("digits", **{**SMALL, **changes})  # type: ignore[dict-item]
        assert str(raised.value).startswith(text)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_captured_steps_train_like_others(tmp_path: Path) -> None:
    """On a GPU: the loss of runs side by side, captured, beside that of the same run on the CPU."""
    changes = {**SMALL, "samples": 640, "epochs": 6, "batch_size": 32}
    wanted = Run(recipe("digits", **changes), tmp_path / "cpu", evaluate_every=0).train()
    runs = [Run(recipe("digits", **changes), tmp_path / f"gpu{k}", device="cuda", evaluate_every=0) for k in range(2)]
    for run in together(runs, at_once=2):
        assert run.place.rows[-1]["test_accuracy"] == pytest.approx(wanted["test_accuracy"], abs=0.08)
        assert run.place.rows[-1]["test_loss"] == pytest.approx(wanted["test_loss"], rel=0.5)

"""Training runs: killed at any moment, they go on and compute what they would have computed."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from fxgrow.zoo import checkpoints, train
from fxgrow.zoo.costs import flops_of
from fxgrow.zoo.networks import resnet8
from fxgrow.zoo.recipes import RECIPES, Settings, SettingsError, recipe
from fxgrow.zoo.training import Run

import fxgrow
from fxgrow import stages
from fxgrow.catalogue import find
from fxgrow.errors import FxgrowError
from fxgrow.growth import growing
from fxgrow.narrowing import narrowed
from tests.commands import run_here, started
from tests.pairing import few, slow

SMALL: dict[str, Any] = {
    "samples": 64,
    "epochs": 5,
    "stages": 3,
    "first_epochs": 1,
    "options": (("width", 16),),
    "verify": False,
}
"""Ten steps of two batches an epoch, two growths."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return fxgrow.load(folder / "model.safetensors", narrow_seed(folder)).state_dict()


def narrow_seed(folder: Path) -> torch.nn.Module:
    run = Run(Settings.from_data(json.loads((folder / "settings.json").read_text())), folder.parent / "unused")
    return run.model


def assert_same_outcome(folder: Path, expected: Path) -> None:
    outcome, wanted = weights(folder), weights(expected)
    assert outcome.keys() == wanted.keys()
    assert all(torch.equal(outcome[name], wanted[name]) for name in wanted)
    for name in ("outcome.json", "log.csv", "settings.json"):
        assert (folder / name).read_text() == (expected / name).read_text()


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run that nothing kills, and how many seconds the first one takes."""
    folder, began = tmp_path_factory.mktemp("runs") / "whole", time.monotonic()
    Run(recipe("digits", **SMALL), folder).train()
    return folder, time.monotonic() - began


@pytest.fixture(scope="module")
def uninterrupted(timed: tuple[Path, float]) -> Path:
    return timed[0]


# -- killed ------------------------------------------------------------------------------------------------

PLACES: dict[str, tuple[Any, str]] = {
    "growth": (stages, "grow"),
    "surgery": (growing, "widened"),
    "optimizer": (fxgrow, "replace_parameters"),
    "rates": (fxgrow, "adapt_rates"),
    "tensors": (fxgrow, "save"),
    "state": (torch, "save"),
    "flush": (checkpoints, "flush"),
    "rename": (Path, "rename"),
    "removal": (checkpoints.shutil, "rmtree"),
    "log": (Run, "_write_rows"),
    "outcome": (Run, "_write_outcome"),
}
"""Functions that a run calls, at which a test can kill it."""


def work(folder: Path, place: str = "", call: int = 0, after: str = "") -> None:
    """Run in this process, which kills itself at a call of some function."""
    if place:
        owner, name = PLACES[place]
        original, count = getattr(owner, name), itertools.count(1)

        def dying(*args: Any, **kwargs: Any) -> Any:
            last = next(count) == call
            if last and after == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*args, **kwargs)
            if last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, name, dying)
    Run(recipe("digits", **SMALL), folder, checkpoint_minutes=0).train()


def begun(*arguments: Any) -> BaseProcess:
    """A run in a process of its own; forked, which spares the imports."""
    process = multiprocessing.get_context("fork").Process(target=work, args=arguments)
    process.start()
    return process


@pytest.mark.parametrize(
    ("place", "call", "after"),
    [
        slow("growth", 1, "before"),
        slow("surgery", 2, "after"),
        slow("optimizer", 1, "after"),
        slow("rates", 1, "after"),
        slow("tensors", 2, "after"),
        slow("state", 5, "after"),
        slow("flush", 12, "after"),
        ("rename", 4, "before"),
        slow("removal", 2, "before"),
        slow("log", 3, "before"),
        slow("outcome", 1, "before"),
    ],
)
def test_a_run_killed_within_a_step_of_its_own_goes_on(
    place: str, call: int, after: str, tmp_path: Path, uninterrupted: Path
) -> None:
    folder = tmp_path / "run"
    process = begun(folder, place, call, after)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    Run(recipe("digits", **SMALL), folder).train()
    assert_same_outcome(folder, uninterrupted)


@pytest.mark.parametrize("times", [slow(3), slow(20)])
def test_a_run_killed_from_outside_at_random_moments_goes_on(
    times: int, tmp_path: Path, timed: tuple[Path, float]
) -> None:
    """Whatever it is doing; each goes on where the one before was killed."""
    folder, chance, kills, done = tmp_path / "run", random.Random(0), 0, 0
    uninterrupted, seconds = timed
    while kills < times:
        process = begun(folder)
        process.join(chance.uniform(0.05, 0.5) * seconds)
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
        if (folder / "outcome.json").exists():  # it got through: once more from the start
            assert_same_outcome(folder, uninterrupted)
            done += 1
            folder.rename(tmp_path / f"done{done}")
    Run(recipe("digits", **SMALL), folder).train()
    assert_same_outcome(folder, uninterrupted)


@pytest.mark.parametrize("number", [2, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 5, 9))])
def test_a_stopped_run_goes_on_from_memory_of_no_generator(number: int, tmp_path: Path, uninterrupted: Path) -> None:
    """Whatever the state of torch's generator, and whenever it stops, also with a network that draws at random."""

    class Stop(Exception):
        pass

    def stop(place: Any, stage: Any) -> None:
        if place.step == number:
            raise Stop

    run = Run(recipe("digits", **SMALL), tmp_path, checkpoint_minutes=0)
    run.watch = type(run.watch)(step=stop)
    with pytest.raises(Stop):
        run.train()
    torch.manual_seed(number)
    torch.rand(number)
    Run(recipe("digits", **SMALL), tmp_path).train()
    assert_same_outcome(tmp_path, uninterrupted)


# -- what a run does ---------------------------------------------------------------------------------------


def test_a_run_grows_into_the_large_model_and_logs_it(uninterrupted: Path) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in weights(uninterrupted).items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in resnet8(16, 10, 1).state_dict().items()}
    with (uninterrupted / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [int(row["step"]) for row in rows] == [2, 4, 6, 8, 10]
    parameters = [int(row["parameters"]) for row in rows]
    assert parameters == sorted(parameters)
    assert len(set(parameters)) == 3
    outcome = json.loads((uninterrupted / "outcome.json").read_text())
    assert outcome["budget"] == pytest.approx(fxgrow.Schedule.from_json(json.dumps(outcome["schedule"])).share)
    assert float(rows[-1]["lr"]) == pytest.approx(0, abs=1e-12)


def test_a_late_run_stays_within_its_budget(tmp_path: Path) -> None:
    changes = {"growth": "late", "start": 0.5, "epochs": 4, "budget": 0.6, "init": "zero", "rates": "none"}
    run = Run(recipe("digits", **{**SMALL, **changes}), tmp_path, evaluate_every=0)
    assert [stage.epochs for stage in run.schedule] == [5, 1]
    outcome = run.train()
    assert 0.55 < outcome["budget"] <= 0.6
    assert outcome["epoch"] == 6


@pytest.mark.slow
def test_training_learns(tmp_path: Path) -> None:
    last = Run(recipe("digits", samples=500, epochs=8, stages=4, verify=False), tmp_path, evaluate_every=0).train()
    assert last["test_accuracy"] > 0.85


def test_growth_does_not_move_the_loss(tmp_path: Path) -> None:
    """In float32: the loss on a batch in train mode, just before and just after each growth."""
    run = Run(recipe("digits", **{**SMALL, "samples": 256, "epochs": 6, "first_epochs": 2}), tmp_path)
    images, labels = next(run.data.batches(9, 9, 64))
    differences = []
    original = run.widened

    def widened(stage: Any) -> torch.nn.Module:
        before = torch.nn.functional.cross_entropy(run.model.train()(images), labels)
        result = original(stage)
        after = torch.nn.functional.cross_entropy(result.train()(images), labels)
        differences.append(abs(before.item() - after.item()))
        return result

    run.widened = widened  # type: ignore[method-assign]
    run.train()
    assert len(differences) == 2
    assert max(differences) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"growth": "none"},
        slow({"growth": "linear", "init": "zero", "rates": "gradient", "lr_curve": "plateau"}),
        slow({"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05}),
        slow({"state": "drop", "init": "replicate", "rates": "none"}),
        slow({"parameterization": "mup", "optimizer": "adamw", "lr": 1e-3}),
        slow({"parameterization": "standard", "init": "gradmax", "rates": "none"}),
        slow({"batch_size": 8, "largest_batch": 32, "batch_rates": "root"}),
        slow({"model": "timm/test_resnet", "options": ()}),
        {"growth": "given", "widths": (0.5, 1.0), "lengths": (1, 2), "sides": (8, 6), "batch_sizes": (8, 16)},
        slow({"growth": "late", "start": 0.5, "init": "zero", "parameterization": "standard", "rates": "none"}),
        slow({"precision": "bfloat16", "channels_last": True, "warm_up": 0.2}),
    ],
)
def test_other_settings_train_and_go_on(changes: dict[str, Any], tmp_path: Path) -> None:
    settings = recipe("digits", **{**SMALL, "epochs": 3, **changes})
    at_once = Run(settings, tmp_path / "whole", evaluate_every=0).train()

    class Stop(Exception):
        pass

    run = Run(settings, tmp_path / "run", evaluate_every=0, checkpoint_minutes=0)

    def stop(place: Any, stage: Any) -> None:
        if place.epoch == 1 and place.batch == 2:
            raise Stop

    run.watch = type(run.watch)(step=stop)
    with pytest.raises(Stop):
        run.train()
    again = Run(settings, tmp_path / "run", evaluate_every=0)
    assert again.place.step > 0
    assert again.train() == at_once


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is(tmp_path: Path) -> None:
    settings = recipe("digits", **{**SMALL, "epochs": 3})
    row = Run(settings, tmp_path).train()
    assert Run(settings, tmp_path).train() == row


# -- the command line --------------------------------------------------------------------------------------


def test_the_script_trains_and_writes_tensorboard_files(tmp_path: Path) -> None:
    sets = [f"--set={name}={value}" for name, value in (("epochs", 3), ("samples", 64), ("stages", 2))]
    done = run_here(train.app, tmp_path / "run", *sets, "--tensorboard", "--evaluate-every=2")
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout
    assert "stage 1:" in done.stderr
    assert (tmp_path / "run" / "log.csv").read_text().count("\n") == 3
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("command", [["fxgrow", "train"], slow(["fxgrow.zoo.train"])])
def test_ctrl_c_writes_a_checkpoint_and_the_run_goes_on(
    command: list[str], tmp_path: Path, uninterrupted: Path
) -> None:
    sets = [f"--set={name}={json.dumps(dict(value) if name == 'options' else value)}" for name, value in SMALL.items()]
    folder = tmp_path / "run"
    process = started(*command, folder, *sets, "--checkpoint-minutes=60")
    assert process.stderr is not None
    assert any(line.startswith("stage 1:") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    said = process.stderr.read().splitlines()[-1]
    assert process.wait() == 130
    latest = checkpoints.Checkpoints(folder / "checkpoints").latest()
    assert latest is not None and 2 <= int(latest.name) < 10
    assert said == (
        f"fxgrow: stopped by Ctrl-C; a checkpoint is written at step {int(latest.name)} of 10, "
        "and the same command goes on"
    )
    Run(recipe("digits", **SMALL), folder).train()
    assert_same_outcome(folder, uninterrupted)


def test_ctrl_c_that_an_import_swallows_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swallowing(name: str, **changes: Any) -> Any:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        return recipe(name, **changes)

    monkeypatch.setattr("fxgrow.zoo.recipes.recipe", swallowing)
    before = signal.getsignal(signal.SIGINT)
    sets = [f"{name}={json.dumps(dict(value) if name == 'options' else value)}" for name, value in SMALL.items()]
    with pytest.raises(KeyboardInterrupt):
        train.train(tmp_path / "run", changes=sets)
    assert not list((tmp_path / "run").glob("*.safetensors")) and signal.getsignal(signal.SIGINT) is before


def test_half_a_checkpoint_is_not_left_where_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 86976 vs 86928")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FxgrowError, match=r"the checkpoint cannot be written: .* unexpected pos .* .*: see whether"):
        Run(recipe("digits", **SMALL), tmp_path / "run", checkpoint_minutes=0).train()
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_the_script_shows_its_schedule_and_trains_nothing(tmp_path: Path) -> None:
    done = run_here(train.app, tmp_path / "run", "--plan")
    assert "of the large model's floating-point operations" in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_script_fails_with_one_line(tmp_path: Path) -> None:
    assert run_here(train.app, tmp_path, "--recipe=nonsense").stderr == (
        f"fxgrow: error: there is no recipe 'nonsense': use one of {', '.join(RECIPES)}\n"
    )
    assert run_here(train.app, tmp_path, "--set=epochs").stderr == (
        "fxgrow: error: 'epochs' sets nothing: write --set NAME=VALUE, as --set epochs=20\n"
    )


def test_values_of_settings_are_json_or_text() -> None:
    assert train._parsed(['options={"width": 8}', "init=zero", "epochs=3", "samples=null"]) == {
        "options": (("width", 8),),
        "init": "zero",
        "epochs": 3,
        "samples": None,
    }


# -- what is wrong -----------------------------------------------------------------------------------------


def test_a_run_of_a_version_with_fewer_settings_goes_on(tmp_path: Path) -> None:
    settings = recipe("digits", **{**SMALL, "epochs": 3})
    row = Run(settings, tmp_path).train()
    file = tmp_path / "settings.json"
    written = json.loads(file.read_text())
    assert written.pop("budget") == 0.5
    file.write_text(json.dumps(written))
    assert Run(settings, tmp_path).train() == row
    with pytest.raises(SettingsError, match=r"the folder holds a run with budget=0\.5, now it is 0\.6"):
        Run(recipe("digits", **{**SMALL, "epochs": 3, "budget": 0.6}), tmp_path)


def test_a_folder_with_another_run_is_refused(tmp_path: Path) -> None:
    settings = recipe("digits", **{**SMALL, "epochs": 3})
    Run(settings, tmp_path).train()
    with pytest.raises(SettingsError) as raised:
        Run(recipe("digits", **{**SMALL, "epochs": 3, "seed": 1}), tmp_path)
    assert str(raised.value) == (
        f"the folder holds a run with seed=0, now it is 1 (at {tmp_path}): "
        "give the same settings to go on with it, or another folder for another run"
    )


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: recipe("digits", growth="cubic"),
            "growth='cubic' is not known: use one of exponential, linear, late, given, none",
        ),
        (lambda: recipe("digits", optimizer="sdg"), "optimizer='sdg' is not known: use one of sgd, adamw"),
        (lambda: recipe("digits", lr_curve="step"), "lr_curve='step' is not known: use one of cosine, plateau"),
        (lambda: recipe("digits", decay=0), "decay=0 is not a part of training: pass a number such as 0.4"),
        (lambda: recipe("digits", lr=-1), "lr=-1 is not a number from 0 on: pass one"),
        (
            lambda: recipe("digits", start=0),
            "start=0 is not a part of the final width: pass a number such as 0.25",
        ),
        (
            lambda: Run(recipe("digits", samples=16), Path("unused")),
            "a batch of 32 is more than the 16 images to train on: "
            "use a smaller batch_size, and a smaller largest_batch",
        ),
    ],
)
def test_settings_that_mean_nothing_are_named(call: Callable[[], object], text: str) -> None:
    with pytest.raises(FxgrowError) as raised:
        call()
    assert str(raised.value) == text


def test_learning_rates_fall_along_a_curve(tmp_path: Path) -> None:
    cosine = Run(recipe("digits", **SMALL), tmp_path)
    plateau = Run(recipe("digits", **SMALL, lr_curve="plateau", decay=0.5), tmp_path)
    parts = (0.0, 0.25, 0.5, 0.75, 1.0)
    assert [cosine.rate(part * cosine.steps) / 0.1 for part in parts] == pytest.approx(
        [1, 0.8536, 0.5, 0.1464, 0], abs=1e-4
    )
    assert [plateau.rate(part * plateau.steps) / 0.1 for part in parts] == pytest.approx([1, 1, 1, 0.5, 0])


@pytest.mark.parametrize("name", few((name for name in RECIPES if name.endswith("-late")), "cifar10-vit-late"))
def test_late_recipes_take_half_of_the_large_networks_operations(name: str) -> None:
    settings, usual = RECIPES[name], RECIPES["cifar10-resnet20"]

    def operations(width: float, side: int, seed_options: bool) -> int:
        options = {**dict(settings.options), **(dict(settings.seed_options) if seed_options else {})}
        model, images = find(settings.model, num_classes=10, **options), torch.zeros(2, 3, 32, 32)
        flops = flops_of(narrowed(model, width, images) if width < 1 else model, torch.zeros(2, 3, side, side))
        assert flops is not None
        return flops

    spent = sum(
        length * operations(width, side, seed_options=length != settings.lengths[-1])
        for width, length, side in zip(settings.widths, settings.lengths, settings.sides, strict=True)
    )
    assert 0.47 < spent / (usual.epochs * operations(1.0, 32, seed_options=False)) <= 0.5


def test_settings_come_back_from_json() -> None:
    for settings in RECIPES.values():
        assert Settings.from_data(json.loads(json.dumps(settings.as_data()))) == settings


def test_checkpoints_are_whole_or_not_there(tmp_path: Path) -> None:
    store = checkpoints.Checkpoints(tmp_path, keep=2)

    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("the disk is full")

    for step in (1, 2, 3):
        store.write(step, lambda folder, step=step: (folder / "note").write_text(str(step)))  # type: ignore[misc]
    with pytest.raises(OSError, match="the disk is full"):
        store.write(4, fail)
    latest = store.latest()
    assert latest is not None
    assert (latest / "note").read_text() == "3"
    store.write(5, lambda folder: (folder / "note").write_text("5"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000005"]

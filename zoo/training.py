"""A training run that grows: a loop whose whole state is a step number and what a checkpoint holds.

Whatever is random is drawn from the seed and the place in training (epoch, step, stage), never from a generator that
has to be carried along. Growth too depends on the seed and the weights only. So a run that is killed, at any moment,
and goes on from its last checkpoint computes what it would have computed.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from fxgrow.zoo.catalogue import find
from fxgrow.zoo.checkpoints import Checkpoints, replace_text
from fxgrow.zoo.data import Data, load, seed_of
from fxgrow.zoo.recipes import Settings, SettingsError
from torch import fx, nn
from torch.nn import functional as F

import fxgrow
from fxgrow.history import history_of
from fxgrow.narrowing import narrowed
from fxgrow.schedule import Schedule, Stage

Row = dict[str, float]


@dataclass
class Place:
    """How far training is: steps made in all, whole epochs, batches of the present epoch, the model's stage."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    stage: int = 0
    loss_sum: float = 0.0
    rows: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Watch:
    """What is told while a run is under way: every step, every epoch's row, every growth."""

    step: Callable[[Place, Stage, float], object] = lambda place, stage, loss: None
    row: Callable[[Row], object] = lambda row: None
    grown: Callable[[Stage, nn.Module], object] = lambda stage, model: None


class Run:
    """A training run in a folder.

    settings: what to compute. A folder that holds a run already goes on with it, and refuses other settings.
    evaluate_every: test after so many epochs, and after the last (0: only then).
    checkpoint_minutes: how often to write a checkpoint; 0: after every step.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        *,
        data_folder: Path = Path("data"),
        device: str = "cpu",
        workers: int = 2,
        evaluate_every: int = 1,
        checkpoint_minutes: float = 5.0,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = torch.device(device)
        self.evaluate_every = evaluate_every
        self.checkpoint_minutes = checkpoint_minutes
        self.watch = Watch()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        self.data: Data = load(settings.data, data_folder, settings.samples, workers)
        self._check_folder()
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.inputs = torch.zeros(2, *self.data.shape)
        self.place = Place()
        self.model, self.schedule = self._seed()
        self.steps_of = [self._steps_an_epoch(stage) for stage in self.schedule]
        self.optimizer = self._new_optimizer()
        self._resume()

    # -- setting up --------------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        """Compare the settings with those of the run that the folder holds, if there is one."""
        path = self.folder / "settings.json"
        if not path.exists():
            return
        held, wanted = json.loads(path.read_text()), self._settings_data()
        name = next((name for name, value in wanted.items() if held.get(name) != value), None)
        if name is not None:
            raise SettingsError(
                f"the folder holds a run with {name}={held.get(name)!r}, now it is {wanted[name]!r}",
                where=str(self.folder),
                remedy="give the same settings to go on with it, or another folder for another run",
            )

    def _claim_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / "settings.json", json.dumps(self._settings_data(), indent=2) + "\n")

    def _settings_data(self) -> dict[str, Any]:
        return json.loads(json.dumps(self.settings.as_data()))  # type: ignore[no-any-return]

    def _seed(self) -> tuple[nn.Module, Schedule]:
        """The model to start with, and the schedule that leads to the large one."""
        large = self._large()
        schedule = self.settings.schedule()
        if len(schedule) == 1:
            return large.to(self.device), schedule
        small = narrowed(large, self.settings.start, self.inputs)
        return small.to(self.device), schedule.between(small, large, self.inputs)

    def _large(self) -> nn.Module:
        options: dict[str, Any] = {"num_classes": self.data.classes, **dict(self.settings.options)}
        if not self.settings.model.startswith("torchvision/"):
            options.setdefault("in_chans", self.data.shape[0])
        torch.manual_seed(seed_of(self.settings.seed, "weights"))
        return find(self.settings.model, **options)

    def _steps_an_epoch(self, stage: Stage) -> int:
        assert stage.batch_size is not None
        steps = len(self.data) // stage.batch_size
        if steps == 0:
            raise SettingsError(
                f"a batch of {stage.batch_size} is more than the {len(self.data)} images to train on",
                remedy="use a smaller batch_size, and a smaller largest_batch",
            )
        return steps

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        kind = "sgd" if settings.optimizer == "sgd" else "adam"
        groups = fxgrow.param_groups(self.model, settings.weight_decay, settings.lr, optimizer=kind)
        if settings.optimizer == "sgd":
            made: torch.optim.Optimizer = torch.optim.SGD(groups, settings.lr, settings.momentum)
        else:
            made = torch.optim.AdamW(groups, settings.lr)
        if self.grown and settings.rates != "none":
            fxgrow.adapt_rates(made, self.model, settings.rates)
        return made

    @property
    def grown(self) -> bool:
        """Whether the model has grown yet."""
        return history_of(self.model) is not None

    # -- training ----------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return sum(stage.epochs * steps for stage, steps in zip(self.schedule, self.steps_of, strict=True))

    def train(self) -> Row:
        """Train to the end, from wherever the run is; returns the last row of the log."""
        self._claim_folder()
        self._saved = time.monotonic()
        for stage in self.schedule.stages[self.place.stage :]:
            if stage.number > self.place.stage:
                self._grow(stage)
            while self.place.epoch in stage.epoch_numbers:
                self._train_epoch(stage)
        self._checkpoint()
        self._write_outcome()
        return self.place.rows[-1]

    def _train_epoch(self, stage: Stage) -> None:
        place = self.place
        assert stage.batch_size is not None
        self.model.train()
        for images, labels in self.data.batches(self.settings.seed, place.epoch, stage.batch_size, place.batch):
            loss = self._train_step(stage, images.to(self.device), labels.to(self.device))
            place.step += 1
            place.batch += 1
            place.loss_sum += loss
            self.watch.step(place, stage, loss)
            if place.batch < self.steps_of[stage.number] and self._checkpoint_is_due():
                self._checkpoint()
        mean_loss = place.loss_sum / place.batch
        place.epoch, place.batch, place.loss_sum = place.epoch + 1, 0, 0.0
        last = place.epoch == self.schedule.epochs
        if last or (self.evaluate_every and place.epoch % self.evaluate_every == 0):
            self._log(stage, mean_loss)
        if self._checkpoint_is_due():
            self._checkpoint()

    def _train_step(self, stage: Stage, images: torch.Tensor, labels: torch.Tensor) -> float:
        torch.manual_seed(seed_of(self.settings.seed, "step", self.place.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(self.place.step) * stage.lr_scale * group.get("lr_scale", 1.0)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def rate(self, step: float) -> float:
        """The learning rate of a step: a curve over the whole run, whatever grows."""
        settings, done = self.settings, step / self.steps
        if settings.lr_curve == "plateau":
            return settings.lr * min(1.0, (1 - done) / settings.decay)
        return settings.lr * (1 + math.cos(math.pi * done)) / 2

    def _grow(self, stage: Stage) -> None:
        settings = self.settings
        if stage.grows:
            first, before = not self.grown, self.optimizer
            self.model = self.widened(stage)
            if not settings.carry or settings.parameterization == "mup":  # µP's groups follow the width
                self.optimizer = self._new_optimizer()
                if settings.carry:
                    fxgrow.transfer_state(before, self.optimizer, self.model)
            else:
                fxgrow.replace_parameters(self.optimizer, self.model)
                if first and settings.rates != "none":
                    fxgrow.adapt_rates(self.optimizer, self.model, settings.rates)
            self.watch.grown(stage, self.model)
        self.place.stage = stage.number

    def widened(self, stage: Stage) -> nn.Module:
        """The model of the next stage."""
        settings = self.settings
        options: dict[str, Any] = {"init": settings.init, "seed": settings.seed, "verify": settings.verify}
        if settings.parameterization != "standard":
            options["parameterization"] = settings.parameterization
        return stage.grow(self.model, example_inputs=self.inputs, **options)

    # -- logs --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Accuracy and mean loss on the test images."""
        self.model.eval()
        right, loss, count = 0, 0.0, 0
        for images, labels in self.data.test_batches(256):
            outputs = self.model(images.to(self.device))
            labels = labels.to(self.device)
            right += int((outputs.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(outputs, labels, reduction="sum"))
            count += len(labels)
        return right / count, loss / count

    def _log(self, stage: Stage, train_loss: float) -> None:
        accuracy, test_loss = self.evaluate()
        row: Row = {
            "epoch": self.place.epoch,
            "step": self.place.step,
            "stage": stage.number,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "lr": self.rate(self.place.step),
            "train_loss": train_loss,
            "test_loss": test_loss,
            "test_accuracy": accuracy,
            "budget": self.budget(),
        }
        self.place.rows.append(row)
        self._write_rows()
        self.watch.row(row)

    def budget(self) -> float:
        """Floating-point operations so far, as a part of what training the large model for all epochs takes."""
        whole = self.schedule[-1].flops
        spent = 0.0
        for stage in self.schedule:
            epochs = min(stage.epochs, max(0, self.place.epoch - stage.first_epoch))
            spent += epochs * (stage.flops / whole if stage.flops and whole else 1.0)
        return spent / self.schedule.epochs

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.place.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.place.rows)
        replace_text(self.folder / "log.csv", text.getvalue())

    def _write_outcome(self) -> None:
        if self.grown:
            assert isinstance(self.model, fx.GraphModule)
            fxgrow.save(self.model, self.folder / "model.partial")
            (self.folder / "model.partial").replace(self.folder / "model.safetensors")
        outcome = {**self.place.rows[-1], "schedule": json.loads(self.schedule.to_json())}
        replace_text(self.folder / "outcome.json", json.dumps(outcome, indent=2) + "\n")

    # -- checkpoints -------------------------------------------------------------------------------------

    def _checkpoint_is_due(self) -> bool:
        return time.monotonic() - self._saved >= 60 * self.checkpoint_minutes

    def _checkpoint(self) -> None:
        self.checkpoints.write(self.place.step, self._fill)
        self._saved = time.monotonic()

    def _fill(self, folder: Path) -> None:
        if self.grown:
            assert isinstance(self.model, fx.GraphModule)
            fxgrow.save(self.model, folder / "model.safetensors")
        state = {
            "place": vars(self.place),
            "optimizer": self.optimizer.state_dict(),
            "model": None if self.grown else self.model.state_dict(),
        }
        torch.save(state, folder / "state.pt")

    def _resume(self) -> None:
        """Go on from the latest checkpoint, if there is one."""
        found = self.checkpoints.latest()
        if found is None:
            return
        state = torch.load(found / "state.pt", map_location=self.device, weights_only=True)
        self.place = Place(**state["place"])
        if state["model"] is None:
            self.model = fxgrow.load(found / "model.safetensors", self.model).to(self.device)
        else:
            self.model.load_state_dict(state["model"])
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.place.rows:
            self._write_rows()

"""A training run that grows: a loop whose whole state is a step number and what a checkpoint holds.

Whatever is random is drawn from the seed and the place in training (epoch, step, stage), never from a generator that
has to be carried along. Growth too depends on the seed and the weights only. So a run that is killed, at any moment,
and goes on from its last checkpoint computes what an uninterrupted run would.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from fxgrow.zoo.checkpoints import Checkpoints, replace_text, write_state
from fxgrow.zoo.costs import flops_of
from fxgrow.zoo.data import Data, InMemory, load, seed_of
from fxgrow.zoo.place import Interrupted, Place, Row, Watch
from fxgrow.zoo.recipes import Settings, SettingsError
from fxgrow.zoo.stepping import How, Steps, feed_of, loss_on, move_state, plain_rates
from torch import Tensor, nn
from torch.nn import functional as F

import fxgrow
from fxgrow.catalogue import find
from fxgrow.history import history_of
from fxgrow.modules.tensors import parameter_count
from fxgrow.narrowing import narrowed
from fxgrow.rules.knowledge import GRADMAX
from fxgrow.schedule import Schedule
from fxgrow.stages import Stage

TURN = 16
"""Steps of one run before another has its turn, where several share a device."""


class Run:
    """A training run in a folder.

    settings: what to compute. A folder that holds a run already goes on with it, and refuses other settings.
    evaluate_every: test after so many epochs, and after the last (0: only then).
    checkpoint_minutes: how often to write a checkpoint; 0: after every step.
    data: what the settings name, where it is loaded already.
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
        data: Data | None = None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = torch.device(device)
        self.evaluate_every, self.checkpoint_minutes = evaluate_every, checkpoint_minutes
        self.watch = Watch()
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        loaded = data or load(settings.data, data_folder, settings.samples, workers, settings.side)
        self.data: Data = loaded.to(self.device) if isinstance(loaded, InMemory) else loaded
        self._check_folder()
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.inputs = torch.zeros(2, *self.data.shape)
        self.place = Place()
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._clock = time.process_time if self.device.type == "cpu" else time.perf_counter
        self._between: Steps | None = None
        self._stopping = False
        self._ends: deque[torch.cuda.Event] = deque()
        self.model, self.schedule = self._seed()
        self.steps_of = [self._steps_an_epoch(stage) for stage in self.schedule]
        self.optimizer = self._new_optimizer()
        self._resume()
        if self.stream is not None:  # images and model were put there on another
            torch.cuda.synchronize(self.device)

    # -- setting up --------------------------------------------------------------------------------------

    def _check_folder(self) -> None:
        """Compare the settings with those of the run that the folder holds, if there is one."""
        path = self.folder / "settings.json"
        if not path.exists():
            return
        wanted = _written(self.settings)
        recorded = {**_written(Settings()), **json.loads(path.read_text())}  # older versions knew fewer settings
        name = next((name for name, value in wanted.items() if recorded[name] != value), None)
        if name is not None:
            raise SettingsError(
                f"the folder holds a run with {name}={recorded[name]!r}, now it is {wanted[name]!r}",
                where=str(self.folder),
                remedy="give the same settings to go on with it, or another folder for another run",
            )

    def _claim_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_text(self.folder / "settings.json", json.dumps(_written(self.settings), indent=2) + "\n")

    def _seed(self) -> tuple[nn.Module, Schedule]:
        """The model to start with, and the schedule that leads to the large one."""
        settings, large = self.settings, self._built(self.settings.options)
        schedule = settings.schedule()
        self.large_flops, self.large_parameters = flops_of(large, self.inputs), parameter_count(large)
        if len(schedule) == 1:
            return large.to(self.device), schedule
        small = self._built((*settings.options, *settings.seed_options)) if settings.seed_options else large
        start = settings.widths[0] / settings.widths[-1] if settings.widths else settings.start
        if start < 1:
            small = narrowed(small, start, self.inputs)
        if not settings.depths and (start < 1 or settings.growth != "given"):
            schedule = schedule.between(small, large, self.inputs)
        return small.to(self.device), schedule

    def _built(self, options: Sequence[tuple[str, Any]]) -> nn.Module:
        arguments: dict[str, Any] = {"num_classes": self.data.classes, **dict(options)}
        if not self.settings.model.startswith("torchvision/"):
            arguments.setdefault("in_chans", self.data.shape[0])
        torch.manual_seed(seed_of(self.settings.seed, "weights"))
        return find(self.settings.model, **arguments)

    def _batch_size(self, stage: Stage) -> int:
        size = self.settings.batch_sizes[stage.number] if self.settings.batch_sizes else stage.batch_size
        assert size is not None
        return size

    def _steps_an_epoch(self, stage: Stage) -> int:
        steps = len(self.data) // self._batch_size(stage)
        if steps == 0:
            raise SettingsError(
                f"a batch of {self._batch_size(stage)} is more than the {len(self.data)} images to train on",
                remedy="use a smaller batch_size, and a smaller largest_batch",
            )
        return steps

    def _new_optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        kind = "sgd" if settings.optimizer == "sgd" else "adam"
        groups = fxgrow.param_groups(self.model, settings.weight_decay, settings.lr, optimizer=kind)
        fused = self.device.type in ("cpu", "cuda")
        if settings.optimizer == "sgd":
            optimizer: torch.optim.Optimizer = torch.optim.SGD(groups, settings.lr, settings.momentum, fused=fused)
        else:
            optimizer = torch.optim.AdamW(groups, settings.lr, fused=fused, capturable=self.device.type == "cuda")
        if self.grown and settings.rates != "none":
            fxgrow.adapt_rates(optimizer, self.model, settings.rates)
        return optimizer

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
        with self.on_its_stream():
            for _ in self.turns():
                pass
        return self.place.rows[-1]

    def turns(self) -> Iterator[None]:
        """Train to the end, in turns between which other runs may have theirs."""
        self._claim_folder()
        self._saved = time.monotonic()
        self._mark = self._clock()
        for stage in self.schedule.stages[self.place.stage :]:
            if stage.number > self.place.stage:
                yield from self._until_done()
                self._grow(stage)
            if self.place.epoch in stage.epoch_numbers:
                steps = self._steps(stage)
                while self.place.epoch in stage.epoch_numbers:
                    yield from self._train_epoch(stage, steps)
        yield from self._until_done()
        self._checkpoint()
        self._write_outcome()

    def on_its_stream(self) -> AbstractContextManager[Any]:
        """What the run does belongs on a stream of its own, where its device has such."""
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)

    def _steps(self, stage: Stage) -> Steps:
        settings = self.settings
        self.how = How(self.device, self._side(stage), settings.precision == "bfloat16", settings.channels_last)
        feed = feed_of(self.data, self._batch_size(stage), self.device)
        self.flops_an_epoch = self._flops(stage)
        return Steps(self.model, self.optimizer, feed, self.steps_of[stage.number], self.how)

    def _side(self, stage: Stage) -> int | None:
        return self.settings.sides[stage.number] if self.settings.sides else None

    def _flops(self, stage: Stage) -> float | None:
        side = self._side(stage)
        if side is None and stage.flops is not None:
            return stage.flops
        seen = self.inputs if side is None else self.inputs.new_zeros(2, self.data.shape[0], side, side)
        return flops_of(self.model, seen)

    def _train_epoch(self, stage: Stage, steps: Steps) -> Iterator[None]:
        place, number = self.place, self.steps_of[stage.number]
        self.model.train()
        first = place.step - place.batch
        rates = torch.tensor([self.rate(first + k) * stage.lr_scale for k in range(number)])
        self._seed_step()
        steps.begin(self.settings.seed, place.epoch, place.batch, rates, place.loss_sum)
        while place.batch < number:
            if not steps.is_captured:
                self._seed_step()
            steps.step()
            place.step += 1
            place.batch += 1
            self.watch.step(place, stage)
            if place.batch < number and self._checkpoint_is_due():
                place.loss_sum = float(steps.losses)
                self._checkpoint()
            if place.batch % TURN == 0:
                self._between = steps
                yield
                self._between = None
        yield from self._until_done(behind=1)
        place.epoch, place.batch, place.loss_sum = place.epoch + 1, 0, 0.0
        place.flops += self.flops_an_epoch or 0.0
        last = place.epoch == self.schedule.epochs
        if last or (self.evaluate_every and place.epoch % self.evaluate_every == 0):
            yield from self._log(stage, steps.losses / number)
        if self._checkpoint_is_due():
            yield from self._until_done()
            self._checkpoint()

    def pause(self) -> bool:
        """Write a checkpoint, if the run is between two steps, where it can go on from."""
        if self._between is None:
            return False
        self.place.loss_sum = float(self._between.losses)
        self._checkpoint()
        return True

    def stop(self) -> None:
        """Let the run write a checkpoint after the step that it is at, and raise Interrupted. Signal handlers may."""
        self._stopping = True

    def _seed_step(self) -> None:
        torch.manual_seed(seed_of(self.settings.seed, "step", self.place.step))

    def _until_done(self, behind: int = 0) -> Iterator[None]:
        """Let others have their turns until a GPU has done what it was given, but for the last `behind` such times."""
        if self.device.type != "cuda":
            return
        self._ends.append(torch.cuda.Event())
        self._ends[-1].record()
        while len(self._ends) > behind:
            while not self._ends[0].query():
                yield
            self._ends.popleft()

    def rate(self, step: float) -> float:
        """The learning rate of a step: a curve over the whole run, whatever grows."""
        return self.settings.rate(step, self.steps)

    def _grow(self, stage: Stage) -> None:
        """Grow on the CPU, where looking at a number does not mean to wait for a device."""
        settings = self.settings
        if stage.grows or self._depth(stage):
            plain_rates(self.optimizer)
            self._move(torch.device("cpu"))
            first, before = not self.grown, self.optimizer
            self.model = self.widened(stage)
            if settings.state == "drop" or settings.parameterization == "mup":  # µP's groups follow the width
                self.optimizer = self._new_optimizer()
                if settings.state != "drop":
                    fxgrow.transfer_state(before, self.optimizer, self.model, moments=settings.state)
            else:
                fxgrow.replace_parameters(self.optimizer, self.model, moments=settings.state)
                if first and settings.rates != "none":
                    fxgrow.adapt_rates(self.optimizer, self.model, settings.rates)
            self._move(self.device)
            self.watch.grown(stage, self.model)
        self.place.stage = stage.number
        reached = parameter_count(self.model)
        if stage.number + 1 == len(self.schedule) and reached != self.large_parameters:
            raise SettingsError(
                f"the stages lead to {reached:,} parameters, the large model has {self.large_parameters:,}",
                where=settings.model,
                remedy="choose widths, depths and seed_options that end at the large model's sizes",
            )

    def _move(self, device: torch.device) -> None:
        self.model.to(device)
        move_state(self.optimizer, device)

    def _depth(self, stage: Stage) -> str:
        return self.settings.depths[stage.number] if self.settings.depths else ""

    def widened(self, stage: Stage) -> nn.Module:
        """The model of the next stage."""
        settings, depth = self.settings, self._depth(stage)
        options: dict[str, Any] = {"init": settings.init, "seed": settings.seed, "verify": settings.verify}
        if settings.init == GRADMAX:
            batch = next(iter(self.data.batches(settings.seed, self.place.epoch, self._batch_size(stage))))
            options["loss"] = loss_on(batch, How(torch.device("cpu"), self._side(stage)))
        if settings.parameterization != "standard":
            options["parameterization"] = settings.parameterization
        if depth:
            width = stage.factor if stage.grows else None
            amount = depth if depth[0] in "+=" else float(depth)
            options.update(depth_init=settings.depth_init, example_inputs=self.inputs)
            return fxgrow.grow(self.model, width, amount, **options)
        return stage.grow(self.model, example_inputs=self.inputs, **options)

    # -- logs --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Accuracy and mean loss on the test images, as a tensor that nothing has waited for."""
        self.model.eval()
        zeros, images_seen = torch.zeros(2, dtype=torch.float64), 0
        right, loss = (part.to(self.device, torch.float32 if self.device.type == "mps" else None) for part in zeros)
        for images, labels in self.data.test_batches(256 if self.device.type == "cpu" else 1000):
            outputs, labels = self.how.outputs(self.model, images.to(self.device)), labels.to(self.device)
            right = right + (outputs.argmax(1) == labels).sum()
            loss = loss + F.cross_entropy(outputs, labels, reduction="sum")
            images_seen += len(labels)
        return torch.stack([right, loss]) / images_seen

    def _log(self, stage: Stage, train_loss: Tensor) -> Iterator[None]:
        yield from self._until_done()
        self._tick()
        measured = self.evaluate()
        yield from self._until_done()
        accuracy, test_loss = measured.tolist()
        row: Row = {
            "epoch": self.place.epoch,
            "step": self.place.step,
            "stage": stage.number,
            "parameters": parameter_count(self.model),
            "lr": self.rate(self.place.step),
            "train_loss": float(train_loss),
            "test_loss": test_loss,
            "test_accuracy": accuracy,
            "budget": self.budget(),
        }
        self.place.rows.append(row)
        self._write_rows()
        self.watch.row(row)
        self._mark = self._clock()

    def _tick(self) -> None:
        """Count the time since the last mark."""
        self.place.seconds += self._clock() - self._mark
        self._mark = self._clock()

    def budget(self) -> float:
        """Floating-point operations so far, as a part of what training the large model takes."""
        if not self.large_flops or self.flops_an_epoch is None:
            return self.place.epoch / self.schedule.epochs
        return self.place.flops / (self.large_flops * self.schedule.epochs_of_large)

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.place.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.place.rows)
        replace_text(self.folder / "log.csv", text.getvalue())

    def _write_outcome(self) -> None:
        if self.grown:
            fxgrow.save(self.model, self.folder / "model.safetensors")
        outcome = {**self.place.rows[-1], "schedule": json.loads(self.schedule.to_json())}
        replace_text(self.folder / "outcome.json", json.dumps(outcome, indent=2) + "\n")

    # -- checkpoints -------------------------------------------------------------------------------------

    def _checkpoint_is_due(self) -> bool:
        return self._stopping or time.monotonic() - self._saved >= 60 * self.checkpoint_minutes

    def _checkpoint(self) -> None:
        self._tick()
        self.checkpoints.write(self.place.step, self._fill)
        self._saved = time.monotonic()
        self._mark = self._clock()
        if self._stopping and self.place.step < self.steps:
            raise Interrupted

    def _fill(self, folder: Path) -> None:
        if self.grown:
            fxgrow.save(self.model, folder / "model.safetensors")
        state = {
            "place": vars(self.place),
            "optimizer": self.optimizer.state_dict(),
            "model": None if self.grown else self.model.state_dict(),
        }
        write_state(state, folder / "state.pt")

    def _resume(self) -> None:
        """Go on from the latest checkpoint, if there is one."""
        folder = self.checkpoints.latest()
        if folder is None:
            return
        state = torch.load(folder / "state.pt", map_location=self.device, weights_only=True)
        self.place = Place(**state["place"])
        if state["model"] is None:
            self.model = fxgrow.load(folder / "model.safetensors", self.model).to(self.device)
        else:
            self.model.load_state_dict(state["model"])
        self.optimizer = self._new_optimizer()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.place.rows:
            self._write_rows()


def _written(settings: Settings) -> dict[str, Any]:
    """Settings as a file gives them back."""
    return json.loads(json.dumps(settings.as_data()))  # type: ignore[no-any-return]

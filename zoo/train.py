"""Train an image classifier by growing it: python -m fxgrow.zoo.train --help, or fxgrow train --help

A folder holds a run: its settings, checkpoints, log.csv, TensorBoard files if asked for, and in the end
model.safetensors and outcome.json. After a crash, the same command goes on from the last checkpoint and computes what
an uninterrupted run would, on a CPU bit for bit. Ctrl-C writes a checkpoint first.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fxgrow.errors import FxgrowError
from fxgrow.running import Stopped, run_app
from fxgrow.writing import checked_folder

if TYPE_CHECKING:
    from fxgrow.zoo.place import Place, Row, Watch
    from fxgrow.zoo.training import Run
    from torch import nn

    from fxgrow.stages import Stage

RECIPE_NAMES = (
    "digits",
    "cifar10-resnet20",
    "cifar10-resnet20-late",
    "cifar10-vit-late",
    "cifar100-resnet18",
    "imagenet-resnet50",
    "imagenet-mobilenetv1",
)
"""Those of `fxgrow.zoo.recipes`, which imports torch."""

app = typer.Typer(add_completion=False)
out = Console(highlight=False)


@app.command()
def train(
    folder: Annotated[Path, typer.Argument(help="Of the run: made if there is none, gone on with if there is.")],
    recipe_name: Annotated[
        str,
        typer.Option(
            "--recipe",
            metavar="NAME",
            help=f"Settings to start from: {', '.join(RECIPE_NAMES)}.",
            autocompletion=lambda incomplete: [name for name in RECIPE_NAMES if name.startswith(incomplete)],
        ),
    ] = "digits",
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="NAME=VALUE", help="Another value for a setting (repeatable)."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="digits, cifar10, cifar100, packed:FILE, or a folder.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order, variation and growth.")] = None,
    data_folder: Annotated[Path, typer.Option(help="Where downloads are kept.")] = Path("data"),
    device: Annotated[str, typer.Option(help="As torch names it: cpu, cuda, mps.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read images from folders.")] = 2,
    evaluate_every: Annotated[int, typer.Option(min=0, help="Test after so many epochs; 0: only at the end.")] = 1,
    checkpoint_minutes: Annotated[float, typer.Option(min=0, help="How often; 0: after every step.")] = 5.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard files as well.")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print the schedule, and train nothing.")] = False,
) -> None:
    """Train an image classifier by growing it, with the settings of a recipe and changes to them.

    The same command goes on with a run that was stopped. Ctrl-C writes a checkpoint first.
    """
    if not plan_only:
        checked_folder(folder)
    with _remembered() as pressed:
        from fxgrow.zoo.recipes import recipe
        from fxgrow.zoo.training import Run

        changed = {**_parsed(changes or []), **{k: v for k, v in (("data", data), ("seed", seed)) if v is not None}}
        settings = recipe(recipe_name, **changed)
        watching = _watched(folder, tensorboard)
        run = Run(
            settings,
            folder,
            data_folder=data_folder,
            device=device,
            workers=workers,
            evaluate_every=evaluate_every,
            checkpoint_minutes=checkpoint_minutes,
        )
    if pressed:
        raise KeyboardInterrupt
    with watching as (watch, progress):
        if plan_only:
            out.print(run.schedule)
            return
        if run.place.step:
            out.print(f"going on from step {run.place.step:,} of {run.steps:,}, stage {run.place.stage}")
        run.watch = watch(run)
        with progress:
            last = _trained(run, progress.console)
    out.print(
        f"accuracy {last['test_accuracy']:.2%} on test images, with {last['budget']:.1%} of the floating-point "
        f"operations that training the large model takes; see {folder}",
        markup=False,
        soft_wrap=True,
    )


@contextmanager
def _remembered() -> Iterator[list[int]]:
    """Remember Ctrl-C, which an import may swallow: the list stays empty if nobody pressed it."""
    pressed: list[int] = []

    def press(number: int, frame: object) -> None:
        pressed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _trained(run: Run, console: Console) -> Row:
    """Train to the end. Ctrl-C writes a checkpoint after the step under way; once more, it stops at once.

    Raises
    ------
    Stopped: by Ctrl-C, with what is kept.
    """
    from fxgrow.zoo.place import Interrupted

    def stop(number: int, frame: object) -> None:
        run.stop()
        signal.signal(signal.SIGINT, before)
        said = "stopping after this step; Ctrl-C once more stops at once"
        Thread(target=console.print, args=(said,)).start()  # this thread may be in the middle of printing

    before = signal.signal(signal.SIGINT, stop)
    try:
        return run.train()
    except Interrupted:
        raise Stopped(
            f"a checkpoint is written at step {run.place.step:,} of {run.steps:,}, and the same command goes on"
        ) from None
    except KeyboardInterrupt:
        latest = run.checkpoints.latest()
        since = f"step {int(latest.name):,} of {run.steps:,}" if latest is not None else "the start"
        raise Stopped(f"the same command goes on from {since}") from None
    finally:
        signal.signal(signal.SIGINT, before)


def _parsed(changes: list[str]) -> dict[str, Any]:
    """NAME=VALUE, the value in JSON or else a string.

    >>> _parsed(["epochs=20", "init=zero"])
    {'epochs': 20, 'init': 'zero'}
    """
    from fxgrow.zoo.recipes import SettingsError, plain

    parsed: dict[str, Any] = {}
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise SettingsError(f"{change!r} sets nothing", remedy="write --set NAME=VALUE, as --set epochs=20")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        parsed[name] = plain(value)
    return parsed


@contextmanager
def _watched(folder: Path, tensorboard: bool) -> Iterator[tuple[Any, Progress]]:
    """Progress on stderr, a line for each growth, and TensorBoard if asked for."""
    columns = (
        TextColumn("stage {task.fields[stage]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    progress = Progress(*columns, console=Console(stderr=True))
    writers: list[Any] = []

    def watch(run: Run) -> Watch:
        from fxgrow.zoo.place import Watch

        task = progress.add_task("", total=run.steps, completed=run.place.step, stage=run.place.stage, loss="")

        def step(place: Place, stage: Stage) -> None:
            progress.update(task, completed=place.step, stage=stage.number)

        def grown(stage: Stage, model: nn.Module) -> None:
            progress.console.print(f"stage {stage.number}: {stage.parameters:,} parameters, {stage.epochs} epochs")

        def row(row: Row) -> None:
            progress.update(task, loss=f"{row['train_loss']:.4f}")
            for writer in writers:
                for name, value in row.items():
                    writer.add_scalar(name, value, int(row["step"]))

        if tensorboard:
            writers.append(_writer(folder / "tensorboard", run.place.step))
        return Watch(step, row, grown)

    try:
        yield watch, progress
    finally:
        for writer in writers:
            writer.close()


def _writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise FxgrowError("TensorBoard files need tensorboard", remedy="pip install tensorboard") from None
    return SummaryWriter(str(folder), purge_step=step + 1)


if __name__ == "__main__":
    run_app(app, sys.argv[1:])

"""Every way of growing beside training the large network, on CIFAR-10: python -m benchmarks.growth --help

`run` trains the missing runs, most wanted first, for as many minutes as it may take, and adds a line to a file of
results as each run ends. Finished runs are not run again, and a run that is cut off goes on next time. `table` and
`plot` show the results. `--scale cpu`: 8,000 images of 16x16 pixels, 24 epochs, products in bfloat16 where the CPU has
it; `cpu-long`: all 50,000 images.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from fxgrow.zoo.costs import flops_of
from fxgrow.zoo.data import Data, InMemory, load
from fxgrow.zoo.recipes import Settings
from fxgrow.zoo.together import together
from fxgrow.zoo.training import Run
from rich.console import Console
from rich.table import Table

from benchmarks.ways import FAST, LONGER, NETWORKS, SCALES, WAYS, settings_of
from fxgrow.catalogue import find
from fxgrow.running import run_app

RESULTS = Path(__file__).parent / "results"

PAPER = {
    "large, cosine": "92.62 ± 0.15",
    "nine stages, Net2Net": "91.60 ± 0.21",
    "nine stages, mirror": "91.62 ± 0.12",
    "nine stages, mirror, variance transfer": "92.00 ± 0.10",
    "nine stages, mirror, rates by norm": "92.24 ± 0.11",
    "nine stages, mirror, both": "92.53 ± 0.11",
}
"""What the paper reports of ResNet-20 on whole images, at 54.9% of the operations; second-hand: a scale of its own."""

_FIRST = ("large, plateau", "large, cosine", "large, plateau, half the epochs")
_LATE = ("half then whole, zero", "half then whole, mirror")
_BEST_CLOCK = "half as wide on smaller images first, whole at the end"
_BEST = f"{_BEST_CLOCK}, batches of 64"
_BEST_VIT = "two blocks on small images, then six, half the operations"
_NINE = ("nine stages, mirror, both", "nine stages, mirror, both, plateau")
_TABLE = ("nine stages, Net2Net", "nine stages, mirror", "nine stages, mirror, variance transfer",
          "nine stages, mirror, rates by norm", "small")  # fmt: skip
_BUDGET = (
    "large, plateau",
    "longer half then whole, zero",
    "half as wide, of half the operations",
    "half, whole, small images until the end",
    "large, plateau, half the epochs",
    "half then whole, decay behind the growth",
    "large, small images first, half the operations",
    "longer half then whole, zero, rates by update",
)

_CLOCK = (*_FIRST, *_LATE, "longer half then whole, zero", "half as wide, of half the operations")
_DEPTH = ("three blocks then six, copies", "two blocks then six, copies", "width and depth")

WANTED: tuple[tuple[str, tuple[str, ...], tuple[int, ...]], ...] = (
    ("resnet20", (*_FIRST, _BEST, *_LATE, *_NINE), (1,)),
    ("vit", ("large, plateau", _BEST_VIT), (1,)),
    ("resnet18-32", ("large, plateau", _BEST_CLOCK), (1,)),
    ("resnet20", (*_FIRST, _BEST, *_LATE, *_NINE), (2, 3)),
    ("vit", ("large, plateau", _BEST_VIT), (2, 3, 4, 5)),
    ("resnet18-32", ("large, plateau", _BEST_CLOCK), (2, 3)),
    ("resnet20", _TABLE, (1,)),
    (
        "resnet20",
        (*_BUDGET, *LONGER, "large, straight to zero"),
        (101,),
    ),
    ("resnet20", tuple(WAYS["resnet20"]), (101,)),
    ("resnet20", _TABLE, (2, 3)),
    ("resnet20", ("large, batches of 64",), (1, 2, 3, 4, 5)),
    ("resnet18-32", _CLOCK, (1,)),
    ("vit", (*_CLOCK, *_DEPTH), (1,)),
    ("resnet20", (*_FIRST, _BEST, *_LATE, *_NINE, *_TABLE), (4, 5)),
    ("resnet18-32", _CLOCK, (2, 3)),
    ("vit", (*_CLOCK, *_DEPTH), (2, 3)),
    ("resnet18-32", tuple(WAYS["resnet18-32"]), (101,)),
    ("vit", tuple(WAYS["vit"]), (101,)),
)
"""Networks, ways and seeds, most wanted first. Seeds from 101 on are for choosing a recipe, not for its table."""

app = typer.Typer(add_completion=False, help=__doc__)
out = Console(highlight=False, width=150)


@dataclass(frozen=True)
class Task:
    """A run that is wanted."""

    network: str
    way: str
    seed: int
    scale: str
    device: str

    @property
    def benchmark(self) -> str:
        return SCALES[self.scale]

    def is_that_of(self, line: dict[str, Any]) -> bool:
        own = {"benchmark": self.benchmark, "network": self.network, "method": self.way, "seed": self.seed}
        return all(line[name] == value for name, value in own.items()) and line["device"] == self.device

    @property
    def slug(self) -> str:
        words = "".join(sign if sign.isalnum() else " " for sign in f"{self.network} {self.way}").split()
        return "-".join([self.scale, *words, str(self.seed)])


def results_file(network: str, scale: str, folder: Path) -> Path:
    return folder / f"{network}-{scale}.jsonl"


def lines(network: str, scale: str, folder: Path) -> list[dict[str, Any]]:
    """The runs that have ended."""
    file = results_file(network, scale, folder)
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def missing(
    scale: str, device: str, folder: Path, network: str | None = None, only_seed: int | None = None
) -> Iterator[Task]:
    """What is wanted and not there, most wanted first, each once; looked up again before each."""
    seen: set[Task] = set()
    for name, ways, seeds in WANTED:
        for seed in seeds:
            for way in ways:
                task = Task(name, way, seed, scale, device)
                if network in (None, name) and only_seed in (None, seed) and task not in seen:
                    seen.add(task)
                    if not any(task.is_that_of(line) for line in lines(name, scale, folder)):
                        yield task


def commit_here() -> str:
    """The commit that runs, marked where files differ from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "--short=10", "HEAD")
    return (head + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")) or "unknown"


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return "cpu" if FAST == "bfloat16" else f"cpu, {FAST}"


def cifar10() -> Path:
    """The packed file in a folder shared/data beside or above the repository."""
    places = [folder / "shared" / "data" / "cifar10.safetensors" for folder in Path(__file__).resolve().parents]
    return next((place for place in places if place.exists()), places[0])


def costs(network: str, scale: str) -> float:
    """Operations of training the large network for all its epochs: of one image, forward, summed over epochs."""
    base = NETWORKS[network].settings(scale)
    model = find(base.model, num_classes=10, in_chans=3, **dict(base.options))
    operations = flops_of(model, torch.zeros(2, 3, base.side or 32, base.side or 32))
    assert operations is not None
    return float(operations * base.epochs)


def changed(settings: Settings) -> dict[str, Any]:
    """Settings that are not the defaults."""
    usual = Settings().as_data()
    return {name: value for name, value in settings.as_data().items() if value != usual[name]}


def line_of(task: Task, run: Run, at_once: int, commit: str) -> dict[str, Any]:
    """The line of a run that has ended."""
    row, place = run.place.rows[-1], run.place
    kind = "processor" if run.device.type == "cpu" else "clock"
    return {
        "benchmark": task.benchmark,
        "network": task.network,
        "method": task.way,
        "seed": task.seed,
        "epochs": place.epoch,
        "accuracy": row["test_accuracy"],
        "loss": row["test_loss"],
        "flops": round(place.flops / costs(task.network, task.scale), 6),
        "seconds": round(place.seconds, 2),
        "device": task.device,
        "settings": {**changed(run.settings), "seconds_of": kind, "at_once": at_once},
        "commit": commit,
    }


@app.command()
def run(
    minutes: Annotated[float, typer.Option(help="Stop after so many, with checkpoints.")] = 9.0,
    scale: Annotated[
        str, typer.Option(help=f"One of {', '.join(SCALES)}: what a CPU can train, in minutes or longer.")
    ] = "full",
    network: Annotated[str | None, typer.Option(help=f"Only one of {', '.join(NETWORKS)}.")] = None,
    seed: Annotated[int | None, typer.Option(help="Only this one; from 101 on they are for choosing.")] = None,
    device: Annotated[str, typer.Option(help="As torch names it.")] = "cuda" if torch.cuda.is_available() else "cpu",
    at_once: Annotated[int, typer.Option(help="Runs side by side, on streams of their own.")] = 1,
    most: Annotated[int | None, typer.Option(help="End after so many runs.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="To try it out: other than the network's; nothing is kept.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The packed file of CIFAR-10.")] = None,
    folder: Annotated[Path, typer.Option(help="Of results.")] = RESULTS,
    work: Annotated[Path, typer.Option(help="Where runs keep their checkpoints.")] = Path("build/growth"),
    commit: Annotated[str | None, typer.Option(help="What to note as the commit, if git does not know.")] = None,
) -> None:
    """Train what is missing, most wanted first."""
    torch.backends.cudnn.benchmark = True
    end, here = time.monotonic() + 60 * minutes, commit or commit_here()
    name = device_name(device)
    loaded: dict[tuple[Any, ...], Data] = {}
    tasks: dict[int, Task] = {}

    def runs() -> Iterator[Run]:
        for number, task in enumerate(missing(scale, name, folder, network, seed)):
            if most is not None and number >= most:
                return
            settings = settings_of(task.network, task.way, scale, task.seed, epochs)
            key = (settings.samples, settings.side)
            if key not in loaded:
                images = load(f"packed:{data or cifar10()}", samples=settings.samples, side=settings.side)
                loaded[key] = images.to(device) if isinstance(images, InMemory) else images
            place = work / (task.slug if epochs is None else f"trial-{task.slug}-{epochs}")
            kind = WAYS[task.network][task.way].kind
            trainer = kind(settings, place, device=device, data=loaded[key], evaluate_every=0, checkpoint_minutes=1.0)
            tasks[id(trainer)] = task
            yield trainer

    for done in together(runs(), at_once, lambda: time.monotonic() >= end):
        task = tasks.pop(id(done))
        line = line_of(task, done, at_once, here)
        if epochs is None:
            file = results_file(task.network, scale, folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a") as target:
                target.write(json.dumps(line) + "\n")
            shutil.rmtree(done.folder)
        out.print(
            f"{task.network}, {task.way}, seed {task.seed}: {line['accuracy']:.2%}, {line['flops']:.1%} of the "
            f"operations, {line['seconds']:.0f} s, {done.place.step / max(line['seconds'], 0.01):.0f} steps a second",
            soft_wrap=True,
        )


def spread(values: list[float], digits: int) -> str:
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


Groups = dict[tuple[str, str], list[dict[str, Any]]]


def groups(network: str, scale: str, folder: Path, choosing: bool) -> Groups:
    """The runs of each way on each device, in the order of ways."""
    by_way: Groups = {}
    order = list(WAYS[network])
    for line in sorted(lines(network, scale, folder), key=lambda line: (line["device"], order.index(line["method"]))):
        if (line["seed"] > 100) == choosing:
            by_way.setdefault((line["method"], line["device"]), []).append(line)
    return by_way


Which = Annotated[str, typer.Argument(help=f"One of {', '.join(NETWORKS)}.")]
Scale = Annotated[str, typer.Option(help=f"One of {', '.join(SCALES)}.")]
Choosing = Annotated[bool, typer.Option("--choosing", help="The seeds for choosing a recipe, from 101 on.")]
Folder = Annotated[Path, typer.Option(help="Of results.")]


@app.command()
def table(network: Which, scale: Scale = "full", choosing: Choosing = False, folder: Folder = RESULTS) -> None:
    """What came out: mean and deviation over seeds, operations and time beside the large network's."""
    by_way = groups(network, scale, folder, choosing)
    if not by_way:
        out.print(f"there are no runs of {network} at the scale {scale}")
        return
    title = f"{network}, {next(iter(by_way.values()))[0]['benchmark']}: mean ± deviation over seeds"
    shown = Table(title=title, title_justify="left")
    headings = ["method", "seeds", "accuracy", "loss", "operations", "seconds", "of large", "device"]
    with_paper = network == "resnet20"
    for heading in [*headings, *(["paper (second-hand)"] if with_paper else [])]:
        shown.add_column(heading, justify="left" if heading in ("method", "device") else "right")
    for (method, device), runs in by_way.items():
        alone = [line["seconds"] for line in runs if line["settings"]["at_once"] == 1]
        beside = [
            line["seconds"] for line in by_way.get(("large, plateau", device), []) if line["settings"]["at_once"] == 1
        ]
        cells = [
            method,
            str(len(runs)),
            spread([100 * line["accuracy"] for line in runs], 2),
            spread([line["loss"] for line in runs], 3),
            f"{statistics.mean(line['flops'] for line in runs):.1%}",
            f"{statistics.mean(alone):.0f}" if alone else "",
            f"{statistics.mean(alone) / statistics.mean(beside):.1%}" if alone and beside else "",
            device,
        ]
        shown.add_row(*cells, *([PAPER.get(method, "")] if with_paper else []))
    out.print(shown)
    if any(line["settings"]["seconds_of"] == "processor" for runs in by_way.values() for line in runs):
        out.print("seconds on the CPU are the processor's, of one thread: the machine was shared")


@app.command()
def plot(
    network: Which,
    file: Annotated[Path, typer.Argument(help="Of the picture.")],
    scale: Scale = "full",
    choosing: Choosing = False,
    folder: Folder = RESULTS,
) -> None:
    """Draw accuracy over operations and over seconds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    for place, (heading, label) in enumerate((("flops", "operations beside the large network's"), ("seconds",) * 2)):
        axes = figure.add_subplot(1, 2, place + 1)
        for (method, _), runs in groups(network, scale, folder, choosing).items():
            accuracies = [100 * line["accuracy"] for line in runs]
            axes.errorbar(
                statistics.mean(line[heading] for line in runs),
                statistics.mean(accuracies),
                statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
                fmt="s" if method.startswith("large") else "o",
                capsize=3,
                label=f"{method} ({len(runs)})",
            )
        axes.set(xlabel=label, ylabel="test accuracy, %", title=f"{network}, scale: {scale}")
    figure.axes[-1].legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(file, dpi=110)
    out.print(f"written to {file}")


if __name__ == "__main__":
    run_app(app, sys.argv[1:])

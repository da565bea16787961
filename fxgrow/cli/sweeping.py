"""`zoo` and `coverage`: sweeps over the models of both libraries."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn

from fxgrow.cli import options as given
from fxgrow.cli.options import amounts_of, choice, out, progress
from fxgrow.errors import FxgrowError, as_error
from fxgrow.modules.libraries import LIBRARIES
from fxgrow.running import Stopped

if TYPE_CHECKING:
    from fxgrow.zoo.examine import Row

SAMPLES = ("smallest-per-family", "all")


def zoo(
    library: Annotated[str | None, choice(LIBRARIES, "--library", help="Of one library")] = None,
    pattern: Annotated[str, typer.Option("--filter", metavar="GLOB", help="Names of models.")] = "*",
    sample: Annotated[str, choice(SAMPLES, "--sample", help="Of each family")] = "smallest-per-family",
    at_least: Annotated[
        float, typer.Option("--at-least", metavar="MILLIONS", help="Of so many million parameters or more.")
    ] = 0.0,
    at_most: Annotated[
        float, typer.Option("--at-most", metavar="MILLIONS", help="Of so many million parameters or fewer.")
    ] = math.inf,
    width: Annotated[str, typer.Option("--width", "-w", metavar="AMOUNT", help="As in grow.")] = "1.5",
    depth: Annotated[str | None, typer.Option("--depth", "-d", metavar="AMOUNT", help="As in grow.")] = None,
    init: given.Init = "zero",
    only_plan: Annotated[bool, typer.Option("--only-plan", help="Plan on the meta device, grow nothing.")] = False,
    side: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Images of about so many pixels a side, where a model takes them or can be built for them: faster.",
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where models are grown and run, as torch names it.")] = "cpu",
    jobs: Annotated[int, typer.Option(min=1, help="Models at a time.")] = 1,
    seconds: Annotated[float, typer.Option(help="Most wall-clock time for one model.")] = 900.0,
    memory: Annotated[float, typer.Option(help="Most memory for one model, in GiB; on a GPU, of its memory.")] = 14.0,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Keep findings here, one JSON object a line, and go on from them."),
    ] = None,
    redo_failed: Annotated[bool, typer.Option("--redo-failed", help="Examine again what failed before.")] = False,
) -> None:
    """Grow models of timm and torchvision, each in a process of its own, and show what is covered."""
    for amount in filter(None, (width, depth)):
        amounts_of([amount])
    import torch

    from fxgrow.writing import checked_target
    from fxgrow.zoo.choice import chosen
    from fxgrow.zoo.examine import Task
    from fxgrow.zoo.sweep import Findings, Limits, sweep

    _check_at_hand(device)
    tasks = [
        Task(entry.full_name, entry.family, width, init, only_plan=only_plan, depth=depth, side=side, device=device)
        for entry in chosen(library, pattern, sample, at_least, at_most)
    ]
    if json_file is not None:
        checked_target(json_file)
    findings = Findings(json_file)
    if redo_failed:
        findings.forget_failed()
    limits = Limits(seconds, int(memory * 2**30), max(1, torch.get_num_threads() // jobs))
    waiting = sum(task not in findings.rows for task in tasks)
    with Progress(*Progress.get_default_columns(), TimeElapsedColumn(), console=progress) as bar:
        line = bar.add_task(f"{waiting} models", total=waiting)
        try:
            for row in sweep(tasks, findings, limits, jobs):
                bar.console.print(f"{row.task.model}: {row.status} {row.cause}".rstrip(), markup=False)
                bar.advance(line)
        except KeyboardInterrupt:
            hint = "the same command goes on" if json_file is not None else "--json FILE would have kept what was found"
            raise Stopped(f"{waiting - int(bar.tasks[line].completed)} of {waiting} models are left: {hint}") from None
    _show_coverage([findings.rows[task] for task in tasks if task in findings.rows])


def coverage(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="What `fxgrow zoo --json` kept.")],
    models: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was found of each model here, as CSV.")
    ] = None,
) -> None:
    """Show what several sweeps covered together; of a model in more than one, the last finding that is good."""
    from fxgrow.writing import checked_target, written_whole
    from fxgrow.zoo.coverage import newest, write_models
    from fxgrow.zoo.sweep import Findings

    if models is not None:
        checked_target(models)
    rows = newest(row for path in files for row in Findings(path).rows.values())
    if models is not None:
        with written_whole(models) as partial:
            write_models(rows, partial)
    _show_coverage(rows)


def _check_at_hand(device: str) -> None:
    import torch

    what, remedy = f"there is no device {device!r} here", "leave --device out, or name another"
    with as_error(FxgrowError, what, remedy=remedy, of=(RuntimeError, AssertionError)):  # torch may be built without
        torch.empty(0, device=device)


def _show_coverage(rows: list[Row]) -> None:
    from fxgrow.zoo import coverage as covering

    wide = out if out.is_terminal else Console(width=200, highlight=False)
    wide.print(covering.coverage(rows))
    if not all(row.good for row in rows):
        raise typer.Exit(1)

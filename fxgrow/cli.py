"""The command line: the same verbs as the library.

What takes long to import, torch and all that stands on it, is imported by the command that needs it.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

import fxgrow
from fxgrow.amounts import parse_command_line
from fxgrow.errors import AmountError, FxgrowError, first_line
from fxgrow.printing import run_app
from fxgrow.steps import LOGGER, timed, told

if TYPE_CHECKING:
    import torch

    from fxgrow.zoo.examine import Row

app = typer.Typer(add_completion=False, help="Grow trained PyTorch models: wider and deeper, same function.")
out = Console(highlight=False)
progress = Console(stderr=True, highlight=False)


def _say_times(wanted: bool) -> None:
    LOGGER.setLevel(logging.INFO if wanted else logging.NOTSET)
    LOGGER.handlers = [_ToProgress()] if wanted else []


class _ToProgress(logging.Handler):
    """Prints beside what is being done, which it leaves where it is."""

    def emit(self, record: logging.LogRecord) -> None:
        progress.print(record.getMessage())


Model = Annotated[str, typer.Argument(metavar="MODEL", help="timm/NAME, torchvision/NAME or package.module:callable.")]
Width = Annotated[
    list[str] | None,
    typer.Option("--width", "-w", metavar="AMOUNT", help="1.5, +32, =96, or PATH=AMOUNT for a part (repeatable)."),
]
Depth = Annotated[
    list[str] | None,
    typer.Option("--depth", "-d", metavar="AMOUNT", help="1.5, +2, =6, or PATH=AMOUNT for a run (repeatable)."),
]
DepthInit = Annotated[str, typer.Option(help="How new blocks start: copy, random or stack (not the same function).")]
Init = Annotated[str, typer.Option(help="How new units start: zero, mirror or replicate.")]
Parameterization = Annotated[
    str, typer.Option(help="standard, mup, variance-transfer, or rms (not the same function).")
]
Classes = Annotated[str | None, typer.Option(metavar="N", help="How many in the end, or +N for N more.")]
InChans = Annotated[str | None, typer.Option(metavar="N", help="Input channels in the end, or +N for N more.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load the library's trained weights.")]
Saved = Annotated[Path, typer.Argument(help="What `fxgrow grow -o` or fxgrow.save wrote.")]
RoundTo = Annotated[int, typer.Option(help="Make new sizes multiples of this.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SHAPE", help="Shape of an input, as 2,3,224,224 (repeatable)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_say_times, help="Say on stderr how long each step took.")
]


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show on stderr what is being done, while it is."""
    with timed(what), progress.status(f"{what} …") as status, told(lambda step: status.update(f"{what}: {step} …")):
        yield


def inputs_of(shapes: list[str] | None) -> tuple[torch.Tensor, ...] | None:
    """Example inputs from `--input` options.

    Raises
    ------
    AmountError: a shape is not a list of whole numbers.
    """
    if not shapes:
        return None
    import torch

    try:
        return tuple(torch.empty([int(size) for size in shape.split(",")], device="meta") for shape in shapes)
    except (ValueError, RuntimeError):
        raise AmountError(
            "an input shape is not a list of whole numbers",
            where=", ".join(shapes),
            remedy="write --input 2,3,224,224",
        ) from None


def _say_if_random(model: str, pretrained: bool) -> None:
    if not pretrained and model.startswith(("timm/", "torchvision/")):
        progress.print(f"the weights of {model} are random; --pretrained loads the library's trained ones")


def amounts_of(given: list[str] | None) -> Any:
    """Amounts from the options of one kind, None where there are none."""
    return parse_command_line(given) if given else None


def number_of(written: str | None) -> int | str | None:
    """How many classes or channels, as `grow` takes them."""
    return int(written) if written is not None and written.isdecimal() else written


@app.command()
def grow(
    model: Model,
    width: Width = None,
    depth: Depth = None,
    init: Init = "zero",
    depth_init: DepthInit = "copy",
    parameterization: Parameterization = "standard",
    classes: Classes = None,
    in_chans: InChans = None,
    seed: Annotated[int, typer.Option(help="Of the new weights.")] = 0,
    round_to: RoundTo = 1,
    pretrained: Pretrained = False,
    shapes: Shapes = None,
    verify: Annotated[bool, typer.Option(help="Prove and test that the function is the same.")] = True,
    full: Annotated[bool, typer.Option("--full", help="Test in float64 at full size, although it is proved.")] = False,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the grown model here.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Grow a model and show what changed."""
    from fxgrow.files import checked_target

    wider, deeper, inputs = amounts_of(width), amounts_of(depth), inputs_of(shapes)
    if output is not None:
        checked_target(output)
    with doing(f"building {model}"):
        from fxgrow.catalogue import find

        original = find(model, pretrained=pretrained)
    _say_if_random(model, pretrained)
    with doing("growing and verifying" if verify else "growing"):
        grown = fxgrow.grow(
            original,
            wider,
            deeper,
            example_inputs=inputs,
            init=init,
            depth_init=depth_init,
            round_to=round_to,
            seed=seed,
            verify="full" if verify and full else verify,
            parameterization=parameterization,
            classes=number_of(classes),
            in_chans=number_of(in_chans),
        )
    if output is not None:
        with doing(f"writing {output}"):
            fxgrow.save(grown, output, base=model)
    step = fxgrow.report(grown)
    totals, checked = step.plan.totals, step.verification
    if as_json:
        found = {**asdict(checked), "verdict": checked.verdict} if checked else None
        verdict = str(step.certificate.verdict) if step.certificate is not None else None
        print(
            json.dumps(
                {
                    "model": model,
                    "totals": asdict(totals),
                    "verification": found,
                    "certificate": verdict,
                    "file": str(output or ""),
                }
            )
        )
        return
    asked = [" ".join(width)] if width else []
    asked += [f"depth {' '.join(depth)}"] if depth else []
    asked += [f"{name} {more}" for name, more in (("classes", classes), ("in_chans", in_chans)) if more]
    ways = f"init={init}, depth_init={depth_init}" if depth else f"init={init}"
    table = Table(title=f"{model} grown by {', '.join(asked)} ({ways}, seed={seed})", title_justify="left")
    for heading in ("", "before", "after", "ratio"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, before, after in (
        ("parameters", totals.parameters_before, totals.parameters_after),
        ("FLOPs a sample", totals.flops_before, totals.flops_after),
    ):
        table.add_row(name, f"{before:,}", f"{after:,}", f"x{after / max(1, before):.2f}")
    out.print(table)
    out.print(str(checked) if checked else "not verified")
    if step.certificate is not None:
        out.print(f"certificate: {step.certificate.verdict}")
    if output is not None:
        out.print(f"written to {output}")


@app.command()
def plan(
    model: Model,
    width: Width = None,
    depth: Depth = None,
    init: Init = "zero",
    depth_init: DepthInit = "copy",
    parameterization: Parameterization = "standard",
    classes: Classes = None,
    in_chans: InChans = None,
    round_to: RoundTo = 1,
    shapes: Shapes = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show what growing would do, and why not more; no weights are allocated where the model allows it."""
    wider, deeper, inputs = amounts_of(width), amounts_of(depth), inputs_of(shapes)
    with doing(f"building {model}"):
        from fxgrow.catalogue import without_weights

        original = without_weights(model)
    with doing("capturing and planning"):
        planned = fxgrow.plan(
            original,
            wider,
            deeper,
            example_inputs=inputs,
            init=init,
            depth_init=depth_init,
            round_to=round_to,
            parameterization=parameterization,
            classes=number_of(classes),
            in_chans=number_of(in_chans),
        )
    if as_json:
        print(planned.to_json())
    else:
        out.print(planned)


@app.command()
def zoo(
    library: Annotated[str | None, typer.Option(help="timm or torchvision; both if left out.")] = None,
    pattern: Annotated[str, typer.Option("--filter", metavar="GLOB", help="Names of models.")] = "*",
    sample: Annotated[str, typer.Option(help="smallest-per-family or all.")] = "smallest-per-family",
    at_least: Annotated[
        float, typer.Option("--at-least", metavar="MILLIONS", help="Of so many million parameters or more.")
    ] = 0.0,
    at_most: Annotated[
        float, typer.Option("--at-most", metavar="MILLIONS", help="Of so many million parameters or fewer.")
    ] = math.inf,
    width: Annotated[str, typer.Option("--width", "-w", metavar="AMOUNT", help="As in grow.")] = "1.5",
    depth: Annotated[str | None, typer.Option("--depth", "-d", metavar="AMOUNT", help="As in grow.")] = None,
    init: Init = "zero",
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
    import torch

    from fxgrow.files import checked_target
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
        for row in sweep(tasks, findings, limits, jobs):
            bar.console.print(f"{row.task.model}: {row.status} {row.cause}".rstrip(), markup=False)
            bar.advance(line)
    _show_coverage([findings.rows[task] for task in tasks if task in findings.rows])


@app.command(name="coverage")
def covered(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="What `fxgrow zoo --json` kept.")],
    models: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what was found of each model here, as CSV.")
    ] = None,
) -> None:
    """Show what several sweeps covered together; of a model in more than one, the last finding that is good."""
    from fxgrow.files import checked_target
    from fxgrow.zoo.coverage import newest, write_models
    from fxgrow.zoo.sweep import Findings

    rows = newest(row for path in files for row in Findings(path).rows.values())
    if models is not None:
        write_models(rows, checked_target(models))
    _show_coverage(rows)


def _check_at_hand(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # of torch: no such device, or it is built without
        raise FxgrowError(
            f"there is no device {device!r} here: {first_line(error)}", remedy="leave --device out, or name another"
        ) from None


def _show_coverage(rows: list[Row]) -> None:
    from fxgrow.zoo.coverage import coverage

    wide = out if out.is_terminal else Console(width=200, highlight=False)
    wide.print(coverage(rows))
    if not all(row.good for row in rows):
        raise typer.Exit(1)


@app.command()
def certify(
    file: Saved,
    original: Annotated[
        str, typer.Argument(metavar="[ORIGINAL]", help="The model that it grew from; default: go by the record.")
    ] = "",
    pretrained: Pretrained = False,
    expand: Annotated[bool, typer.Option("--expand", help="Print every step.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Prove that a grown model computes what its original computes; exit code 1 if it is not proved."""
    with doing(f"reading {file}"):
        from fxgrow.catalogue import find

        before = find(original, pretrained=pretrained) if original else None
        grown = fxgrow.load(file, before)
    _say_if_random(original, pretrained)
    with doing("proving"):
        found = fxgrow.certify(grown, before)
    if as_json:
        print(found.to_json())
    else:
        out.print(found.tree() if expand else found)
    if str(found.verdict) != "PROVED":
        raise typer.Exit(1)


@app.command()
def inspect(file: Path, as_json: AsJson = False) -> None:
    """Show what a saved model holds: its base, its growths, its births."""
    from fxgrow.files import header_of, history_in
    from fxgrow.reporting import counts_by_stage, growths

    header = header_of(file)
    if as_json:
        print(json.dumps(header))
        return
    history = history_in(header, file)
    out.print(
        f"{file}: {header['model']}, from {header['base'] or 'an unnamed original'}, versions {header['versions']}"
    )
    out.print(growths(history.steps))
    counts = counts_by_stage(history)
    out.print("born at stage " + ", ".join(f"{stage}: {count:,}" for stage, count in counts.items()))


@app.command()
def report(
    file: Saved,
    original: Annotated[
        str, typer.Argument(metavar="[ORIGINAL]", help="The model that it grew from: proves anew, and adds the scale.")
    ] = "",
    pretrained: Pretrained = False,
    schedule: Annotated[Path | None, typer.Option(help="A schedule to show, as schedule.to_json() gave it.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a page of HTML here.")] = None,
) -> None:
    """Say what each growth did; with -o, as a page: plan, picture, certificate, births, scale, schedule."""
    from fxgrow.files import checked_target
    from fxgrow.reporting import report_of

    target = checked_target(output) if output is not None else None
    _say_if_random(original, pretrained)
    with doing(f"reading {file}"):
        found = report_of(file, original, pretrained=pretrained, schedule=schedule)
        if target is not None:
            found.write(target)
    print(found if target is None else f"written to {target}")


@app.command()
def env() -> None:
    """Say what is installed and what this machine is, for reports of faults."""
    import platform

    import torch

    out.print(f"fxgrow {fxgrow.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "torchvision", "timm", "networkx", "sympy", "safetensors", "lightning", "transformers"):
        try:
            out.print(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            out.print(f"{name} is not installed")
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    out.print(f"{torch.get_num_threads()} threads, GPUs: {', '.join(devices) or 'none'}")


def _version(show: bool) -> None:
    if show:
        print(f"fxgrow {fxgrow.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow trained PyTorch models: wider and deeper, same function, ready to train on."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; on failure, one clear line on stderr and exit code 1."""
    run_app(app, sys.argv[1:] if arguments is None else arguments)

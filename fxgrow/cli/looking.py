"""`certify`, `inspect`, `report` and `env`: what is known of a grown model, and of this machine."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

import fxgrow
from fxgrow.cli import options as given
from fxgrow.cli.options import doing, out, say, show
from fxgrow.cli.sources import file_of, say_if_other_weights, say_if_random


def certify(
    file: given.Saved,
    original: given.Original = "",
    pretrained: given.Pretrained = False,
    expand: Annotated[bool, typer.Option("--expand", help="Print every step.")] = False,
    as_json: given.AsJson = False,
    verbose: given.Verbose = False,
) -> None:
    """Prove that a grown model computes what ORIGINAL does, or go by the record; exit code 1 if it is not proved."""
    path = file_of(file)
    say_if_random(original, pretrained)
    with doing(f"reading {file}"):
        from fxgrow.catalogue import find

        before = find(original, pretrained=pretrained) if original else None
        grown = fxgrow.load(path, before)
    with doing("proving"):
        certificate = fxgrow.certify(grown, before)
    if as_json:
        print(certificate.to_json())
    else:
        out.print(certificate.tree() if expand else certificate)
    if str(certificate.verdict) == "PROVED":
        return
    say_if_other_weights(original, pretrained)
    raise typer.Exit(1)


def inspect(file: given.Saved, as_json: given.AsJson = False) -> None:
    """Show what a saved model holds: its base, its growths, its births."""
    from fxgrow.files.reporting import counts_by_stage, growths, versions
    from fxgrow.files.saving import header_of, history_in

    path = file_of(file)
    header = header_of(path)
    if as_json:
        print(json.dumps(header))
        return
    history = history_in(header, path)
    say(f"{file}: {header['model']}, from {header['base'] or 'an unnamed original'}, saved with {versions(header)}")
    show(growths(history.steps))
    counts = counts_by_stage(history)
    say("born at stage " + ", ".join(f"{stage}: {count:,}" for stage, count in counts.items()))


def report(
    file: given.Saved,
    original: given.Original = "",
    pretrained: given.Pretrained = False,
    schedule: Annotated[Path | None, typer.Option(help="A schedule to show, as schedule.to_json() gave it.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="PAGE", help="Write a page of HTML here.")
    ] = None,
) -> None:
    """Say what each growth did; with -o, as a page: plan, picture, certificate, births, scale, schedule.

    With ORIGINAL the growth is proved anew, and the page has the scale of new units.
    """
    from fxgrow.files.reporting import report_of
    from fxgrow.writing import checked_target, write_text

    if output is not None:
        checked_target(output)
    path = file_of(file)
    say_if_random(original, pretrained)
    with doing(f"reading {file}"):
        summary = report_of(path, original, pretrained=pretrained, schedule=schedule)
        if output is not None:
            write_text(output, summary.html())
    if summary.certificate is not None and str(summary.certificate.verdict) != "PROVED":
        say_if_other_weights(original, pretrained)
    say(str(summary) if output is None else f"written to {output}")


def env() -> None:
    """Say what is installed and what this machine is, for reports of faults."""
    import platform

    import torch

    say(f"fxgrow {fxgrow.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "torchvision", "timm", "networkx", "sympy", "safetensors", "lightning", "transformers"):
        try:
            say(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            say(f"{name} is not installed")
    devices = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    say(f"{torch.get_num_threads()} threads, GPUs: {', '.join(devices) or 'none'}")

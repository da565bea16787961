"""The command line: the same verbs as the library, a module for each group of them.

Each command imports the slow modules that it needs (torch and what builds on it) when it runs.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import fxgrow
from fxgrow.cli.growing import fold, grow, plan
from fxgrow.cli.looking import certify, env, inspect, report
from fxgrow.cli.plotting import app as plot
from fxgrow.cli.sweeping import coverage, zoo
from fxgrow.running import run_app
from fxgrow.zoo.train import train

NARROW = 72
"""Characters a line below which help has no boxes, which would leave no room for words."""

app = typer.Typer(
    help="Grow trained PyTorch models: wider and deeper, same function.",
    rich_markup_mode="rich" if shutil.get_terminal_size().columns >= NARROW else None,
)
verbs: list[Callable[..., None]] = [grow, plan, fold, certify, inspect, report, train, zoo, coverage, env]
for verb in verbs:
    app.command()(verb)
app.add_typer(plot, name="plot")


def _version(show: bool) -> None:
    if show:
        print(f"fxgrow {fxgrow.__version__}")
        raise typer.Exit


@app.callback()
def before_all(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Grow trained PyTorch models: wider and deeper, same function, ready to train on."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; on failure, one clear line on stderr."""
    run_app(app, sys.argv[1:] if arguments is None else arguments)

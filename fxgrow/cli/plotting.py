"""`plot`: pictures of what is in a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import fxgrow
from fxgrow.cli import options as given
from fxgrow.cli.options import doing, say
from fxgrow.cli.sources import file_of, say_if_other_weights, say_if_random
from fxgrow.errors import AmountError, FileError, reading

if TYPE_CHECKING:
    from matplotlib.figure import Figure

app = typer.Typer(help="Draw births, plans, scales and schedules.", invoke_without_command=True)

Picture = Annotated[
    Path, typer.Option("--output", "-o", metavar="PICTURE", help="Write it here: .png, .svg, .pdf and so on.")
]


@app.callback()
def help_alone(context: typer.Context) -> None:
    """Draw births, plans, scales and schedules."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def births(
    file: given.Saved,
    parameter: Annotated[str, typer.Argument(help="Its name, such as layer4.0.conv1.weight.")],
    output: Picture,
) -> None:
    """Draw when each entry of a parameter was born."""
    from fxgrow.birth import Births
    from fxgrow.files.saving import births_in, header_of

    _check(output)
    drawn = Births(births_in(header_of(file_of(file)))).plot(parameter)
    _save(drawn, output)


@app.command()
def plan(
    file: given.Saved,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PICTURE", help="Write it here, as SVG.")],
    growth: Annotated[int, typer.Option(metavar="N", help="Which growth: 1 for the first; the last if 0.")] = 0,
) -> None:
    """Draw the model before and after a growth."""
    from fxgrow.files.saving import header_of, history_in
    from fxgrow.writing import checked_target, write_text

    if output.suffix != ".svg":
        raise AmountError("a plan is drawn as SVG", where=str(output), remedy="end the name with .svg")
    checked_target(output)
    path = file_of(file)
    steps = history_in(header_of(path), path).steps
    if not 0 <= growth <= len(steps):
        raise AmountError(f"there is no growth {growth}", where=str(file), remedy=f"use one of 1 to {len(steps)}")
    write_text(output, steps[growth - 1].plan.picture())
    say(f"written to {output}")


@app.command()
def scale(file: given.Saved, original: given.Original, output: Picture, pretrained: given.Pretrained = False) -> None:
    """Draw the variance of new units beside that of old ones; the growth is proved anew for it."""
    _check(output)
    path = file_of(file)
    say_if_random(original, pretrained)
    with doing("proving"):
        from fxgrow.catalogue import find

        before = find(original, pretrained=pretrained)
        scales = fxgrow.certify(fxgrow.load(path, before), before).scale
    if scales is None or not scales.layers:
        say_if_other_weights(original, pretrained)
        raise FileError("nothing is known of the scale of new units", where=str(file), remedy="see `fxgrow certify`")
    _save(scales.plot(), output)


@app.command()
def schedule(
    file: Annotated[Path, typer.Argument(help="What schedule.to_json() gave, or the folder of a run that has ended.")],
    output: Picture,
) -> None:
    """Draw widths and costs over the epochs."""
    import json

    from fxgrow.writing import text_of

    _check(output)
    text = text_of(file / "outcome.json" if file.is_dir() else file, "schedule")
    if file.is_dir():
        with reading("schedule", FileError):
            text = json.dumps(json.loads(text)["schedule"])
    _save(fxgrow.Schedule.from_json(text).plot(), output)


def _check(output: Path) -> None:
    """Find out whether a picture can be written, before it is drawn."""
    from fxgrow.plots import new_figure
    from fxgrow.writing import checked_target

    suffixes = new_figure(1, 1).canvas.get_supported_filetypes()
    if output.suffix[1:].lower() not in suffixes:
        raise AmountError(
            f"{output.suffix} is not a kind of picture" if output.suffix else "the name has no ending",
            where=str(output),
            remedy=f"end the name with one of {', '.join(f'.{kind}' for kind in sorted(suffixes))}",
        )
    checked_target(output)


def _save(figure: Figure, output: Path) -> None:
    from fxgrow.writing import written_whole

    with written_whole(output) as partial:
        figure.savefig(partial, format=output.suffix[1:].lower(), bbox_inches="tight", dpi=150)
    say(f"written to {output}")

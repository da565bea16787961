"""What commands share: their options, and what they print where."""

from __future__ import annotations

import csv
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group
from rich.protocol import rich_cast
from rich.table import Table

from fxgrow.amounts import Amounts, parse_command_line
from fxgrow.errors import AmountError, did_you_mean
from fxgrow.steps import LOGGER, timed, told

if TYPE_CHECKING:
    import torch

INITS = ("zero", "mirror", "replicate")
DEPTH_INITS = ("copy", "random", "stack")
PARAMETERIZATIONS = ("standard", "mup", "variance-transfer", "rms")
FORMS = ("auto", "module", "graph")
CLASS_INITS = ("zero", "mean", "random")
"""Names as the library has them, which would have to import torch to say so."""

WIDTH_OF_PIPES = 120
"""Characters a line of what no terminal shows, unless COLUMNS says otherwise."""


def _console(stream: Any, *, stderr: bool = False) -> Console:
    width = None if stream.isatty() or "COLUMNS" in os.environ else WIDTH_OF_PIPES
    return Console(highlight=False, stderr=stderr, width=width)


out = _console(sys.stdout)
progress = _console(sys.stderr, stderr=True)


def say(text: str) -> None:
    """A line of the result, as it is: not wrapped, and no markup in it."""
    out.print(text, markup=False, soft_wrap=True)


def show(shown: Any) -> None:
    """Print a table, or what holds tables. Where lines are short they break words, and leave no letters out."""
    shown = rich_cast(shown)
    for part in shown.renderables if isinstance(shown, Group) else [shown]:
        for column in part.columns if isinstance(part, Table) else ():
            column.overflow = "fold"
    out.print(shown)


def note(text: str) -> None:
    """A line beside the result, on stderr."""
    progress.print(text, markup=False, soft_wrap=True)


@contextmanager
def doing(activity: str) -> Iterator[None]:
    """Show on stderr what is being done, while it is; nothing where no terminal shows it, though colours be forced."""
    if not progress.file.isatty():
        with timed(activity):
            yield
        return
    with (
        timed(activity),
        progress.status(f"{activity} …") as status,
        told(lambda step: status.update(f"{activity}: {step} …")),
    ):
        yield


def choice(names: tuple[str, ...], *flags: str, help: str) -> Any:
    """An option that takes one of a few names, which its help shows and a shell completes.

    help: what it decides, without a full stop.
    """

    def checked(written: str) -> str:
        if written not in names:
            others = did_you_mean(written, names)
            raise typer.BadParameter(f"{written!r} is not one of {', '.join(names)}{f': {others}' if others else ''}")
        return written

    return typer.Option(
        *flags,
        parser=checked,
        metavar="NAME",
        autocompletion=completing(lambda: names),
        help=f"{help}: {', '.join(names[:-1])} or {names[-1]}.",
    )


def completing(names: Callable[[], tuple[str, ...]]) -> Callable[[str], list[str]]:
    """What a shell offers after the first letters of a name."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def catalogue() -> tuple[str, ...]:
    """The names of the catalogue, read from a table, as a shell does not wait for torch."""
    package = find_spec("fxgrow.zoo")
    if package is None or not package.submodule_search_locations:
        return ()
    with (Path(package.submodule_search_locations[0]) / "sizes.csv").open(newline="") as table:
        return tuple(row[0] for row in csv.reader(table) if "/" in row[0])


def _say_times(wanted: bool) -> None:
    LOGGER.setLevel(logging.INFO if wanted else logging.NOTSET)
    LOGGER.handlers = [_ToProgress()] if wanted else []


class _ToProgress(logging.Handler):
    """Prints beside what is being done, which it leaves where it is."""

    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())


NAMES = "timm/NAME, torchvision/NAME or package.module:callable"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help=f"{NAMES}, or what `fxgrow grow -o` wrote.", autocompletion=completing(catalogue)
    ),
]
Original = Annotated[
    str,
    typer.Argument(metavar="[ORIGINAL]", help="The model that it grew from.", autocompletion=completing(catalogue)),
]
OriginalOption = Annotated[
    str,
    typer.Option(
        "--original",
        metavar="MODEL",
        help="Of a file: the model that it grew from, where the file names none of timm or torchvision.",
        autocompletion=completing(catalogue),
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A larger model of the same code, whose sizes to grow to.",
        autocompletion=completing(catalogue),
    ),
]
Width = Annotated[
    list[str] | None,
    typer.Option("--width", "-w", metavar="AMOUNT", help="1.5, +32, =96, or PATH=AMOUNT for a part (repeatable)."),
]
Depth = Annotated[
    list[str] | None,
    typer.Option("--depth", "-d", metavar="AMOUNT", help="1.5, +2, =6, or PATH=AMOUNT for a run (repeatable)."),
]
DepthInit = Annotated[
    str, choice(DEPTH_INITS, "--depth-init", help="How new blocks start (stack: not the same function)")
]
Init = Annotated[str, choice(INITS, "--init", help="How new units start")]
Parameterization = Annotated[
    str | None,
    choice(
        PARAMETERIZATIONS,
        "--parameterization",
        help="Of new weights (rms: not the same function; left out: as the model last grew)",
    ),
]
Form = Annotated[str, choice(FORMS, "--form", help="In the model's own class, or as a graph")]
Classes = Annotated[str | None, typer.Option(metavar="N", help="How many in the end, or +N for N more.")]
ClassInit = Annotated[str, choice(CLASS_INITS, "--class-init", help="How outputs of new classes start")]
InChans = Annotated[str | None, typer.Option(metavar="N", help="Input channels in the end, or +N for N more.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Load the library's trained weights.")]
Saved = Annotated[Path, typer.Argument(metavar="FILE", help="What `fxgrow grow -o` or fxgrow.save wrote.")]
RoundTo = Annotated[int, typer.Option(min=1, help="Make new sizes multiples of this.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input", metavar="SHAPE", help="Shape of an input, as 2,3,224,224 (repeatable)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", callback=_say_times, help="Say on stderr how long each step took.")
]


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


def amounts_of(texts: list[str] | None) -> Any:
    """Amounts from the options of one kind, None where there are none."""
    if not texts:
        return None
    amounts = parse_command_line(texts)
    Amounts.parse(amounts)  # what is no amount is refused before anything is built
    return amounts


def number_of(written: str | None) -> int | str | None:
    """How many classes or channels, as `grow` takes them."""
    return int(written) if written is not None and written.isdecimal() else written

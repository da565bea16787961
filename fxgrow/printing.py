"""What a terminal shows: what prints as a table or a tree as plain text, and a command line that says what failed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

from fxgrow.errors import FxgrowError

if TYPE_CHECKING:
    import typer


def as_text(shown: RenderableType, width: int = 140) -> str:
    """Lines of at most `width` characters, without colours and without blanks at their ends."""
    console = Console(width=width, no_color=True, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().rstrip().splitlines())


def run_app(which: typer.Typer, arguments: list[str]) -> None:
    """Run a command line; on failure, one clear line on stderr and exit code 1; without arguments, its help."""
    import typer

    try:
        result: Any = which(args=arguments or ["--help"], standalone_mode=False)
    except FxgrowError as error:
        print(f"fxgrow: error: {str(error).replace('pass example_inputs', 'pass --input')}", file=sys.stderr)
        sys.exit(1)
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        if hasattr(error, "format_message"):  # what the option parser refuses
            print(f"fxgrow: error: {error.format_message()}", file=sys.stderr)
            sys.exit(1)
        raise
    sys.exit(result if isinstance(result, int) else 0)

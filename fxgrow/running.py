"""Runs a command line: a failure is one line on stderr and an exit code."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from fxgrow.errors import FxgrowError
from fxgrow.writing import WRITTEN

if TYPE_CHECKING:
    import typer

STOPPED = 130
"""Exit code of what Ctrl-C stopped, as shells have it."""


class Stopped(Exception):
    """Ctrl-C stopped a command, which says what it leaves behind."""


IN_PYTHON = {
    "pass example_inputs": "pass --input",
    "pass the original model as the second argument": "name the original model as well",
    "see fxgrow.plan for all reasons": "`fxgrow plan` has all reasons",
}
"""What errors tell users of the library, and what a command line says in its place."""


def run_app(which: typer.Typer, arguments: list[str]) -> NoReturn:
    """Run a command line and exit. Without arguments, show its help.

    The exit code is 2 where the command line means nothing, 130 where Ctrl-C stopped it, 1 for all other failures.
    """
    import typer

    try:
        result: Any = which(args=arguments or ["--help"], standalone_mode=False)
        sys.stdout.flush()
        if result == STOPPED:
            raise KeyboardInterrupt  # which newer versions of typer hide
    except FxgrowError as error:
        text = str(error)
        for library, command in IN_PYTHON.items():
            text = text.replace(library, command)
        _fail(text, error.exit_code)
    except (typer.Abort, KeyboardInterrupt, Stopped) as stopped:
        written = f"written before: {', '.join(map(str, WRITTEN))}" if WRITTEN else "nothing was written"
        print(f"fxgrow: stopped by Ctrl-C; {str(stopped) or written}", file=sys.stderr)
        sys.exit(STOPPED)
    except BrokenPipeError:  # who read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f" (at {error.filename})" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # what the option parser refuses
            _fail(error.format_message(), 2)
        raise
    sys.exit(result if isinstance(result, int) else 0)


def _fail(text: str, code: int) -> NoReturn:
    print(f"fxgrow: error: {re.sub(chr(10) + r'+ *', ' ', text.strip())}", file=sys.stderr)
    try:
        sys.stdout.flush()
    except OSError:  # said already, or of no use to who is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)

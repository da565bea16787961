"""Command lines as tests run them."""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import typer

from fxgrow import writing
from fxgrow.running import run_app

WIDE = {"COLUMNS": "200"}


def run_script(module: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """`python -m module` in a process of its own, as `started` has it."""
    process = started(module, *arguments, **options)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def started(
    module: str,
    *arguments: object,
    first: Callable[[], object] = lambda: None,
    environment: Mapping[str, str] = WIDE,
    **options: Any,
) -> subprocess.Popen[str]:
    """`python -m module` in a process of its own: forked from this one, which spares the imports.

    first: what the process does before. environment: variables that are other than here. options: those of `Popen`.
    """
    command = [module, *map(str, arguments)]

    def child() -> None:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # as a new program would have it; Popen waits for one of them
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        writing.WRITTEN.clear()
        sys.argv = command
        for name in [name for name in sys.modules if name.startswith(("fxgrow.cli", "fxgrow.zoo.train", "tests.on"))]:
            del sys.modules[name]  # they look at the environment when they are imported
        os._exit(_status(lambda: (first(), runpy.run_module(module, run_name="__main__", alter_sys=True))))

    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, preexec_fn=child, restore_signals=False, text=True, **pipes)


def _status(work: Callable[[], object]) -> int:
    """With what a process exits that does some work and writes out what it has printed."""
    status: object = 0
    try:
        work()
    except SystemExit as stopped:
        status = stopped.code
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        return 120
    return status if isinstance(status, int) else int(status is not None)


def run_here(app: typer.Typer, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same app in this process, which spares the fork too."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    texts = list(map(str, arguments))
    with mock.patch.dict(os.environ, WIDE), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_app(app, texts)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return subprocess.CompletedProcess(texts, code, out.getvalue(), err.getvalue())

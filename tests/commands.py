"""Command lines as tests run them."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from unittest import mock

import typer

from fxgrow.running import run_app

WIDE = {"COLUMNS": "200"}


def run_script(module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`python -m module`, in a process of its own."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **WIDE})


def run_here(app: typer.Typer, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same app in this process, which spares the imports."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    given = list(map(str, arguments))
    with mock.patch.dict(os.environ, WIDE), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run_app(app, given)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())

"""Writes checkpoints whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fxgrow.errors import FileError, as_error

_PARTIAL = ".partial"


class Checkpoints:
    """Folders named by step. One is written beside its name, flushed to the disk, and renamed, which is atomic.

    >>> import tempfile
    >>> checkpoints = Checkpoints(Path(tempfile.mkdtemp()))
    >>> checkpoints.latest() is None
    True
    >>> checkpoints.write(7, lambda folder: (folder / "note").write_text("seven"))
    >>> checkpoints.latest().name
    '00000007'
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = keep

    def latest(self) -> Path | None:
        """The folder of the latest checkpoint that is whole."""
        folders = self._whole()
        return folders[-1] if folders else None

    def write(self, step: int, fill: Callable[[Path], object]) -> None:
        """Keep what `fill` puts in the folder it is given, unless that step is kept already, and drop older ones."""
        target = self.folder / f"{step:08d}"
        if target.exists():
            return
        partial = target.with_name(target.name + _PARTIAL)
        for rest in self.folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(rest)
        partial.mkdir(parents=True)
        try:
            fill(partial)
        except BaseException:  # a full disk among others: half a checkpoint is of no use
            shutil.rmtree(partial)
            raise
        for file in partial.iterdir():
            flush(file)
        flush(partial)
        partial.rename(target)
        flush(self.folder)
        for old in self._whole()[: -self.keep]:
            gone = old.with_name(old.name + _PARTIAL)
            old.rename(gone)
            shutil.rmtree(gone)

    def _whole(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdigit())


def write_state(state: dict[str, Any], path: Path) -> None:
    """Write what torch.save can.

    Raises
    ------
    FileError: it cannot be written.
    """
    what, of = "the checkpoint cannot be written", (RuntimeError,)  # of torch, which has no words for a full disk
    remedy = "see whether the disk is full; the same command goes on from the last checkpoint"
    with as_error(FileError, what, where=str(path.parent), remedy=remedy, of=of):
        torch.save(state, path)


def flush(path: Path) -> None:
    """Make the disk hold what was written to a file, or the names in a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a file that is there whole, old or new, whenever the process is killed."""
    partial = path.with_name(path.name + _PARTIAL)
    partial.write_text(text)
    flush(partial)
    partial.replace(path)

"""Writes files whole or not at all, and checks before the work whether a path can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from fxgrow.errors import FileError, as_error

WRITTEN: list[Path] = []
"""What this process has written, for who stops it."""


def checked_target(path: str | os.PathLike[str]) -> Path:
    """A path that a file can be written to; where it is a link, the file that the link leads to.

    Raises
    ------
    FileError: its folder does not exist or cannot be written to, or there is something that is no file, or a file that
        is write-protected.
    """
    of = (OSError, RuntimeError, ValueError)  # a name that is too long, or a link to itself
    with as_error(FileError, "that is no place for a file", where=str(path), of=of):
        target = Path(path).resolve()
        if target.is_dir():
            raise FileError("there is a folder of that name", where=str(path), remedy="give the file a name")
        if target.exists() and not target.is_file():
            raise FileError("it is a device or a pipe", where=str(path), remedy="name a file")
        if target.exists() and not os.access(target, os.W_OK):
            raise FileError("the file is write-protected", where=str(path), remedy="choose another name")
        writable(target.parent)
    return target


def writable(folder: Path) -> None:
    """Find out whether files can be put into a folder, by putting one there for a moment.

    Raises
    ------
    FileError: it does not exist, or none can.
    """
    if not folder.is_dir():
        raise FileError("the folder does not exist", where=_shown(folder), remedy="make it first")
    what, remedy = "the folder cannot be written to", "choose another place"
    with (
        as_error(FileError, what, where=_shown(folder), remedy=remedy, of=(OSError,)),
        tempfile.TemporaryFile(dir=folder),
    ):
        pass


def checked_folder(path: str | os.PathLike[str]) -> Path:
    """A folder that files can be written to, which may not be there yet, nor those above it.

    Raises
    ------
    FileError: there is a file of that name, or the folder cannot be made or written to.
    """
    folder = Path(path)
    with as_error(FileError, "that is no place for a folder", where=str(path), of=(OSError,)):
        above = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not above.is_dir():
            raise FileError("there is a file of that name", where=str(above), remedy="name a folder")
        writable(above)
    return folder


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the name of a file to fill. Filled, it takes its place; otherwise nothing is left of it.

    Raises
    ------
    FileError: it cannot be written.
    """
    target = checked_target(path)
    partial = target.with_name(target.name + ".partial")
    try:
        with failing_as(path):
            with usual_rights(partial, target if target.exists() else partial):
                yield partial
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    WRITTEN.append(Path(path))


def failing_as(path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Turn what goes wrong while a file or a folder is written into a FileError that names it."""
    from safetensors import SafetensorError

    of = (OSError, SafetensorError)
    return as_error(FileError, "it cannot be written", where=str(path), remedy="see to that place", of=of)


def text_of(path: Path, noun: str) -> str:
    """What is written in a file.

    Raises
    ------
    FileError: it cannot be read.
    """
    with as_error(
        FileError, f"the {noun} cannot be read", where=str(path), remedy="check the path", of=(OSError, ValueError)
    ):
        return path.read_text()


@contextmanager
def usual_rights(file: Path, like: Path) -> Iterator[None]:
    """Give a file that is written the rights of another, or of a new one: safetensors lets its owner alone read it."""
    file.touch()
    mode = like.stat().st_mode
    yield
    file.chmod(mode)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text as a file, whole or not at all.

    Raises
    ------
    FileError: it cannot be written.
    """
    with written_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _shown(folder: Path) -> str:
    """As a user would write it."""
    here = Path.cwd()
    return str(folder.relative_to(here) if folder != here and folder.is_relative_to(here) else folder)

"""The models that commands are given: names of the catalogue, and files that hold grown models."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fxgrow
from fxgrow.cli.options import note
from fxgrow.errors import AmountError, FileError
from fxgrow.files.exporting import WEIGHTS
from fxgrow.modules.libraries import is_of_library

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ModelSource:
    """A model, and how to build the one that it grew from.

    base: the name of that one. arguments: for its constructor.
    """

    model: nn.Module
    base: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


def source_of(name: str, original: str = "", *, pretrained: bool = False, weights: bool = True) -> ModelSource:
    """The model that a command is to grow.

    Parameters
    ----------
    name: of the catalogue, or a file or folder that `grow -o` wrote.
    original: of a file, the model that it grew from; left out, what the file says.
    weights: False: on the meta device, where the model can be built there.

    Raises
    ------
    FxgrowError: there is no such model, or the file cannot be read, or options do not fit it.
    """
    from fxgrow.catalogue import find, without_weights

    file = saved_file(name)
    if file is None:
        if original:
            raise AmountError("--original goes with a file", where=name, remedy="leave it out")
        if not weights:
            return ModelSource(without_weights(name), name)
        model = find(name, pretrained=pretrained)
        say_if_random(name, pretrained)
        return ModelSource(model, name)
    if pretrained:
        raise AmountError("the weights come from the file", where=name, remedy="leave --pretrained out")
    from fxgrow.files.saving import header_of

    header = header_of(file)
    base = str(header["base"] or "")
    if not original and not is_of_library(base):
        named = f"names {base!r} as its original, which no file makes fxgrow import" if base else "names no original"
        raise FileError(f"the file {named}", where=str(file), remedy=f"pass --original {base or 'MODEL'}")
    before = find(original) if original else None
    arguments = dict(header.get("base_kwargs") or {}) if base == (original or base) else {}
    return ModelSource(fxgrow.load(file, before), original or base, arguments)


def saved_file(name: str) -> Path | None:
    """The file that a name is that of; None where it is a name of the catalogue.

    Raises
    ------
    FileError: it looks like a file, and there is none; or a folder without weights.
    """
    path = Path(name)
    if path.is_file():
        return path
    if path.is_dir():
        inside = next((path / file for file in (WEIGHTS, f"{WEIGHTS}.index.json") if (path / file).is_file()), None)
        if inside is None:
            raise FileError(f"the folder has no {WEIGHTS}", where=name, remedy="name what `fxgrow grow -o` wrote")
        return inside
    if name.endswith((".safetensors", os.sep)) or name.startswith((".", os.sep)):
        raise FileError("there is no such file", where=name, remedy="check the path")
    return None


def file_of(name: str | Path) -> Path:
    """The file of a grown model, where nothing else will do.

    Raises
    ------
    FileError: there is no such file.
    """
    file = saved_file(str(name))
    if file is None:
        raise FileError("there is no such file", where=str(name), remedy="check the path")
    return file


def say_if_random(name: str, pretrained: bool) -> None:
    """Say so where a model of a library is built without its trained weights."""
    if not pretrained and is_of_library(name):
        note(f"the weights of {name} are random; --pretrained loads the library's trained ones")


def say_if_other_weights(original: str, pretrained: bool) -> None:
    """Say so where a proof failed beside a model of a library that was built without its trained weights."""
    if not pretrained and is_of_library(original):
        note(
            f"{original} was built anew, with other random weights than the model grew from: pass --pretrained if it "
            "grew from the trained ones, or leave ORIGINAL out and go by the record"
        )

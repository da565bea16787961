"""The originals that files name: checked when a file is written, built when it is read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from fxgrow.documents import frozen
from fxgrow.errors import FileError, FxgrowError, as_error
from fxgrow.history import History
from fxgrow.modules.libraries import is_of_library

ARGUMENTS = (
    "pass base_kwargs, the arguments that the original was built with; where it was changed by hand before it grew, "
    "leave base= out and pass the changed original to load"
)


def checked_arguments(base: str | None, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of a constructor as JSON knows them."""
    if arguments and base is None:
        raise FileError("base_kwargs are of what base names, which is missing", remedy='pass base="timm/NAME" as well')
    remedy = "pass numbers, flags, strings, and lists, tuples or dictionaries of them"
    what = "an argument in base_kwargs is no data that a file can keep"
    with as_error(FileError, what, remedy=remedy, of=(TypeError, ValueError)):
        plain: dict[str, Any] = json.loads(json.dumps(dict(arguments or {})))
    if "pretrained" in plain:
        raise FileError("pretrained is among base_kwargs", remedy="leave it out: weights come from the file")
    if frozen(plain) != frozen(dict(arguments or {})):
        raise FileError("base_kwargs do not come back from JSON as they are", remedy="use strings as keys")
    return plain


def original_for(base: str, arguments: Mapping[str, Any], history: History) -> nn.Module:
    """The original as `load` builds it, without data.

    Raises
    ------
    FileError: it has other parameters than the original had.
    """
    from fxgrow.catalogue import without_weights

    what, remedy = "it cannot be built with these arguments", "correct base_kwargs"
    with as_error(FileError, what, where=base, remedy=remedy, but=(FxgrowError,)):
        model = without_weights(base, **frozen(dict(arguments)))
    built = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, original in history.lineage()[0].items():
        if not all(0 in axis for axis in history.births[name].axes):
            continue  # put in by hand since
        shape = tuple(sum(stage == 0 for stage in axis) for axis in history.births[name].axes)
        if built.get(original) != shape:
            now = f"is {list(built[original])} there" if original in built else "is not there"
            raise FileError(f"{original} was {list(shape)} in the original and {now}", where=base, remedy=ARGUMENTS)
    return model


def original_of(header: Mapping[str, Any], path: str | os.PathLike[str], *, weights: bool = True) -> nn.Module:
    """The original of a saved model, where the file names one of a library; `weights`: else it is on the meta device.

    Raises
    ------
    FileError: the file names none.
    """
    from fxgrow.catalogue import find, without_weights

    base = str(header.get("base") or "")
    if not is_of_library(base):  # never import what a file names
        what = f"the file names {base!r} as its original, which is not a model of timm or torchvision"
        if not base:
            what = f"the file does not say where its original ({header.get('model')}) comes from"
        raise FileError(what, where=str(path), remedy="pass the original model as the second argument")
    return (find if weights else without_weights)(base, **frozen(dict(header.get("base_kwargs") or {})))

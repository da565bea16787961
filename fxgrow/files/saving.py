"""Files: safetensors for the tensors, JSON in the metadata for everything else; no pickle anywhere."""

from __future__ import annotations

import itertools
import json
import os
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from importlib.metadata import version as installed_version
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from fxgrow.birth import Birth
from fxgrow.by_hand import ByHand, kept_parts, put_in_again, put_in_by_hand, restore_parts
from fxgrow.capture import skeleton
from fxgrow.carried import ATTRIBUTE
from fxgrow.contents import parts_of, unkept
from fxgrow.errors import MISREAD, FileError, FxgrowError, as_error
from fxgrow.files.extra_state import extra_states, set_extra_states
from fxgrow.files.origins import ARGUMENTS, checked_arguments, original_for, original_of
from fxgrow.files.tensor_files import TensorFiles, aligned, in_pairs
from fxgrow.growth.replay import grown_again
from fxgrow.growth.settling import settle_norms
from fxgrow.history import (
    History,
    Step,
    Verification,
    births_in_place,
    history_of,
    known_history,
    tensors_of,
)
from fxgrow.modules.libraries import is_of_library
from fxgrow.modules.references import place_all
from fxgrow.modules.switching import in_modes, renew
from fxgrow.modules.tensors import as_registered, each_once, named_tensors
from fxgrow.planning.plan import Plan
from fxgrow.proof.certificate import Certificate
from fxgrow.version import __version__
from fxgrow.writing import written_whole

FORMAT = 1
KEY = "fxgrow"


def save(
    grown: nn.Module,
    path: str | os.PathLike[str],
    *,
    base: str | None = None,
    base_kwargs: Mapping[str, Any] | None = None,
) -> None:
    """Write a grown model as safetensors: its tensors, and in JSON metadata how it was grown.

    Parameters
    ----------
    base: the catalogue name of the original ("timm/resnet18"). With it, `load` can build the original by itself.
    base_kwargs: arguments that the original was built with (`{"num_classes": 10}`): numbers, flags, strings and
        lists, tuples and dictionaries of them.

    Raises
    ------
    FileError: the module was not grown by fxgrow, or holds no data (meta device), or `base` does not name the
        original, or the file cannot be written.

    A UserWarning names hooks and forwards that were put on single parts, or taken off, since the model grew: no file
    keeps them.
    """
    history = known_history(grown, FileError, "save what fxgrow.grow returned, or use torch.save")
    tensors = tensors_of(grown, history)
    by_hand = parts_by_hand(grown, history)
    arguments = checked_arguments(base, base_kwargs)
    if base is not None and not (isinstance(base, str) and (is_of_library(base) or ":" in base)):
        raise FileError(
            f"base={base!r} names no model",
            remedy='pass a name of the catalogue, such as "timm/resnet18", or leave base= out: load takes the original',
        )
    original = original_for(base, arguments, history) if base is not None and is_of_library(base) else None
    if any(tensor.is_meta for tensor in tensors.values()):
        raise FileError("the model is on the meta device and holds no data", remedy="grow a model with weights")
    header = header_for(grown, history, by_hand, base, arguments)
    if original is not None:
        _check_gives(original, header, base)
    _warn_of_hooks(grown, history)
    data = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if name not in header["tied"]}
    stored, pairs = in_pairs(data)
    with written_whole(path) as partial:
        save_file(stored, partial, metadata={KEY: json.dumps(header), **pairs})


def header_for(
    grown: nn.Module,
    history: History,
    by_hand: Mapping[str, Any],
    base: str | None,
    arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """What a file says of a grown model beside its tensors; the model may be on the meta device."""
    tensors = named_tensors(grown)
    tied = {name: first for name, first in each_once(tensors, str).items() if first != name}
    return {
        "format": FORMAT,
        "versions": {
            KEY: __version__,
            **{name: installed_version(name) for name in ("torch", "timm", "torchvision")},
        },
        "model": history.steps[-1].plan.model,
        "base": base,
        "base_kwargs": dict(arguments),
        "training": grown.training,
        "otherwise": [path for path, part in grown.named_modules() if part.training != grown.training],
        "frozen": [n for n, t in tensors.items() if isinstance(t, nn.Parameter) and not t.requires_grad],
        "tied": tied,
        "steps": [
            {
                "plan": json.loads(step.plan.to_json()),
                "seed": step.seed,
                "verification": vars(step.verification) if step.verification else None,
                "folded": step.folded,
                "settled": step.settled or 0.0,
                "settled_here": step.settled is not None,
                "certificate": json.loads(step.certificate.to_json()) if step.certificate else None,
                "fingerprint": step.fingerprint,
                "by_hand": step.by_hand.parts,
            }
            for step in history.steps
        ],
        "by_hand": dict(by_hand),
        "parts": kept_parts(dict(history.parts)),
        "extra_state": extra_states(grown),
        "births": {
            name: [[[stage, len(list(run))] for stage, run in itertools.groupby(axis)] for axis in birth.axes]
            for name, birth in births_in_place(grown, history).items()
        },
    }


def parts_by_hand(grown: nn.Module, history: History) -> dict[str, Any]:
    """The parts that were put in after the last growth, as a file keeps them.

    Raises
    ------
    FileError: tensors are no longer those that growth gave, and `load` could not build them again.
    """
    for step in history.steps:
        if step.by_hand.refused is not None:
            what, where, remedy = step.by_hand.refused
            raise FileError(f"before it grew again, {what}", where=where, remedy=remedy)
    return put_in_by_hand(grown, history.births, dict(history.parts))


def _check_gives(original: nn.Module, header: Mapping[str, Any], base: str | None) -> None:
    """Raise a FileError where what a file is to say does not make the grown model of the original that it names."""
    try:
        structure_of(json.loads(json.dumps(header)), str(base), original)
    except FileError as error:
        raise FileError(
            f"the file could not be read: {error.what}{f' (at {error.where})' if error.where != base else ''}",
            where=base,
            remedy=ARGUMENTS,
        ) from None


def _warn_of_hooks(grown: nn.Module, history: History) -> None:
    missing = unkept(grown, dict(history.parts))
    if missing:
        warnings.warn(
            f"the file does not keep {', '.join(missing[:3])}{', ...' if missing[3:] else ''}: do again after loading "
            "what was done since the model grew",
            stacklevel=3,
        )


def load(path: str | os.PathLike[str], model: nn.Module | None = None) -> nn.Module:
    """Read a grown model: the same tensors bit for bit, births, history and mode. It trains and grows on.

    Parameters
    ----------
    model: the original, or one built in the same way. Only its structure is used, and it is not touched. It may be
        left out where the file names a timm or torchvision model. Hooks that compute something have to be on it as
        they were when it grew.

    Raises
    ------
    FileError: the file is not a saved fxgrow model, or is damaged, or belongs to another model.
    """
    files = TensorFiles(path)
    header = header_in(files)
    grown = structure_of(header, path, model if model is not None else original_of(header, path))
    with _undamaged(path):
        tied = dict(header["tied"])
    _fill(grown, files, tied)
    renew(grown)
    return grown


def structure_of(header: Mapping[str, Any], path: str | os.PathLike[str], original: nn.Module) -> nn.Module:
    """A saved model without its data, with its history: every growth of its original again, on the meta device.

    Raises
    ------
    FileError: as in `load`.
    """
    history = history_in(header, path)
    with _undamaged(path):
        frozen, training = set(header["frozen"]), bool(header["training"])
        otherwise = set(header.get("otherwise", ()))
    current = original
    what, remedy = "the file belongs to another model", "pass the model it was grown from"
    with as_error(FileError, what, where=str(path), remedy=remedy, of=(FxgrowError,)):
        for step in history.steps:
            with _undamaged(path):
                put_in_again(current, step.by_hand.parts)
            current = grown_again(current, step.plan, skeleton(current), "", step.folded)
            if step.settled is not None:
                settle_norms(current, step.settled)
    with _undamaged(path):
        kept = header.get("parts", {})
        if not all(isinstance(name, str) and isinstance(attributes, dict) for name, attributes in kept.values()):
            raise TypeError("parts are no classes with attributes")
    restore_parts(current, kept)
    history = replace(history, parts=tuple(parts_of(current).items()))
    with _undamaged(path):
        put_in_again(current, header.get("by_hand", {}))
        set_extra_states(current, header.get("extra_state", {}))
    for name, parameter in current.named_parameters():
        parameter.requires_grad_(name not in frozen)
    setattr(current, ATTRIBUTE, history)
    in_modes(current, {part: training != (name in otherwise) for name, part in current.named_modules()})
    return current


def _undamaged(path: str | os.PathLike[str]) -> AbstractContextManager[None]:
    """Turn what goes wrong where metadata is not as `save` wrote it into a FileError."""
    of = (*MISREAD, FxgrowError)
    return as_error(FileError, "the metadata is damaged", where=str(path), remedy="save the model again", of=of)


def header_in(files: TensorFiles) -> dict[str, Any]:
    """What a saved model says beside its tensors.

    Raises
    ------
    FileError: that is missing, or damaged, or of another format.
    """
    if KEY not in files.metadata:
        raise FileError(
            "the file holds tensors but no fxgrow metadata",
            where=str(files.path),
            remedy="pass a file that fxgrow.save wrote",
        )
    with _undamaged(files.path):
        header = json.loads(files.metadata[KEY])
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise FileError(
            "the file is of another format",
            where=str(files.path),
            remedy=f"this fxgrow {__version__} reads format {FORMAT}",
        )
    return header


def header_of(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The metadata of a saved model: base, versions, growth steps, births."""
    return header_in(TensorFiles(path))


def history_in(header: Mapping[str, Any], path: str | os.PathLike[str]) -> History:
    """The growths and births of a saved model, from its metadata.

    Raises
    ------
    FileError: the metadata is damaged.
    """
    with _undamaged(path):
        return History(tuple(_step(data) for data in header["steps"]), births_in(header))


def births_in(header: Mapping[str, Any]) -> dict[str, Birth]:
    """The birth stages of each tensor, from the metadata of a saved model."""
    births: dict[str, list[list[list[int]]]] = header["births"]
    return {
        name: Birth(tuple(tuple(stage for stage, count in runs for _ in range(count)) for runs in axes))
        for name, axes in births.items()
    }


def check_same_tensors(
    wanted: Mapping[str, torch.Tensor], files: TensorFiles, tied: Mapping[str, str], remedy: str
) -> None:
    """Raise a FileError where files do not have the tensors of a model, at their sizes.

    Parameters
    ----------
    tied: names that are not in the files -> those that they share a tensor with.
    """
    missing = sorted(name for name in wanted if tied.get(name, name) not in files)
    extra = sorted((files.keys() | tied.keys()) - wanted.keys())
    if missing or extra:
        raise FileError(
            f"the file and the model do not have the same tensors (missing {missing[:3]}, unexpected {extra[:3]})",
            where=str(files.path),
            remedy=remedy,
        )
    for name, tensor in wanted.items():
        stored = files[tied.get(name, name)]
        if stored.shape != tensor.shape:
            raise FileError(
                f"{name} has shape {list(stored.shape)} in the file and {list(tensor.shape)} in the model",
                where=str(files.path),
                remedy=remedy,
            )


def _fill(grown: nn.Module, files: TensorFiles, tied: Mapping[str, str]) -> None:
    wanted = tensors_of(grown, history_of(grown))
    check_same_tensors(wanted, files, tied, "pass the model it was grown from")
    filled = {n: as_registered(aligned(files[n]), tensor) for n, tensor in wanted.items() if n not in tied}
    place_all(grown, {name: filled[tied.get(name, name)] for name in wanted})


def _step(data: Mapping[str, Any]) -> Step:
    verification, proof, record = data["verification"], data.get("certificate"), data.get("fingerprint")
    settled = float(data.get("settled", 0.0))
    return Step(
        Plan.from_json(json.dumps(data["plan"])),
        int(data["seed"]),
        Verification(**verification) if verification else None,
        Certificate.from_json(json.dumps(proof)) if proof else None,
        dict(record) if record else None,
        bool(data.get("folded", False)),
        settled if settled or data.get("settled_here", False) else None,
        ByHand(dict(data.get("by_hand", {}))),
    )

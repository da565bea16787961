"""Finds the constructor's arguments with which timm builds a grown model by itself, from shapes, and checks them.

Constructors take sizes as whole numbers and lists of them. An argument that is the old size of something that grew, or
the old length of a sequence of blocks, is tried with the new one, for as long as more tensors get the shapes of the
grown model. A model that has all shapes gets the weights and is run beside the grown one.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch import nn

from fxgrow.capture.inputs import inputs_after
from fxgrow.catalogue import find, without_weights
from fxgrow.documents import frozen
from fxgrow.errors import FxgrowError, VerificationError
from fxgrow.history import known_history
from fxgrow.measure.verification import verify
from fxgrow.modules.replacing import replaced

LIBRARY = "timm/"


class NotNative(FxgrowError):
    """timm cannot build the grown model by itself."""


@dataclass(frozen=True)
class Native:
    """A model that timm built, which computes what a grown model does, with its weights.

    preprocessing: what its images go through, in timm's words, where that is not what its name says.
    note: what it has otherwise in training; "" if nothing.
    """

    model: nn.Module
    architecture: str
    arguments: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    note: str


def native_model(grown: nn.Module, weights: Path, base: str, arguments: Mapping[str, Any], like: str = "") -> Native:
    """The model that timm builds which computes what a grown model does.

    Parameters
    ----------
    weights: file of the grown model's tensors. base, arguments: what it grew from. like: what it grew to.

    Raises
    ------
    NotNative: there is none, with what stands in the way.
    """
    name = like or base
    if not name.startswith(LIBRARY):
        raise NotNative(f"it comes from {name or 'an unnamed original'}, and not from timm")
    arguments_known = {} if like else dict(frozen(dict(arguments)))
    settled = _arguments(name, arguments_known, _shapes(grown))
    model = find(name, **settled)
    try:
        model.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise NotNative(f"{name} does not take the weights ({' '.join(str(error).split())[:120]})") from None
    model.train(grown.training)
    history = known_history(grown)
    inputs = inputs_after(history.steps[-1].plan)
    called = f"{name}{f' with {_said(settled)}' if settled else ''}"
    try:
        verify(grown, model, inputs, modes=(False,))
    except VerificationError:
        raise NotNative(
            f"{called} has its shapes and computes otherwise, as growth changed constants or norms (see its plan)"
        ) from None
    try:
        verify(grown, model, inputs, modes=(True,))
        note = ""
    except VerificationError:
        note = f"in training it has the rates of dropout and the like of {called}, not those of the model it grew from"
    preprocessing = _preprocessing(base) if base.startswith(LIBRARY) and base != name else {}
    return Native(model, name.removeprefix(LIBRARY), settled, preprocessing, note)


def _preprocessing(name: str) -> dict[str, Any]:
    """What images go through for the weights of a model: those of the model that grew, whatever it grew to."""
    config = timm.get_pretrained_cfg(name.removeprefix(LIBRARY))
    names = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {key: getattr(config, key) for key in names} if config is not None else {}


def _arguments(name: str, known: dict[str, Any], wanted: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arguments with which a constructor makes tensors of the shapes that are wanted."""
    taken, model = _built(name, known)
    arguments, missing = dict(known), _apart(model, wanted)
    while missing:
        grew = _grew(_shapes(model), wanted)
        trials = []
        for change in _changes({**taken, **arguments}, grew):
            try:
                trial = without_weights(name, **{**arguments, **change})
            except Exception:  # whatever a constructor raises at sizes that do not go together
                continue
            trials.append((_apart(trial, wanted), change, trial))
        best = min(trials, key=lambda trial: trial[0], default=None)
        if best is None or best[0] >= missing:
            raise NotNative(_why(name, arguments, model, wanted))
        missing, change, model = best
        arguments |= change
    return arguments


def _built(name: str, arguments: Mapping[str, Any]) -> tuple[dict[str, Any], nn.Module]:
    """A model without weights, and all arguments that its class was made with."""
    kind = type(without_weights(name, **arguments))
    plain = kind.__init__
    taken: dict[str, Any] = {}

    def recording(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        bound = inspect.signature(plain).bind(self, *args, **kwargs)
        bound.apply_defaults()
        taken.update(list(bound.arguments.items())[1:])
        plain(self, *args, **kwargs)

    with replaced(kind, "__init__", recording):
        return taken, without_weights(name, **arguments)


def _changes(arguments: Mapping[str, Any], grew: Mapping[int, set[int]]) -> Iterator[dict[str, Any]]:
    """Arguments with one number in them changed to a size that something of its size grew to."""
    for name, value in arguments.items():
        if type(value) is int:
            for size in grew.get(value, ()):
                yield {name: size}
        elif isinstance(value, (list, tuple)) and all(type(entry) is int for entry in value):
            for place, entry in enumerate(value):
                for size in grew.get(entry, ()):
                    yield {name: [*value[:place], size, *value[place + 1 :]]}


def _grew(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]]) -> dict[int, set[int]]:
    """The sizes that dimensions grew to, and the lengths that sequences of blocks did, by what they were."""
    grew: dict[int, set[int]] = defaultdict(set)
    for name, shape in before.items():
        if name in after and len(after[name]) == len(shape):
            for old, new in zip(shape, after[name], strict=True):
                if old != new:
                    grew[old].add(new)
    lengths, longer = _lengths(before), _lengths(after)
    for path, length in lengths.items():
        if longer.get(path, length) != length:
            grew[length].add(longer[path])
    return grew


def _lengths(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """How many numbered parts there are in each module, by the names of the tensors."""
    numbers: dict[str, set[str]] = defaultdict(set)
    for name in shapes:
        path = name.split(".")
        for place, part in enumerate(path):
            if part.isdecimal():
                numbers[".".join(path[:place])].add(part)
    return {path: len(members) for path, members in numbers.items()}


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _apart(model: nn.Module, wanted: Mapping[str, tuple[int, ...]]) -> int:
    """How many tensors two models do not have in common, names and shapes."""
    return len(_shapes(model).items() ^ wanted.items())


def _why(name: str, arguments: Mapping[str, Any], model: nn.Module, wanted: Mapping[str, tuple[int, ...]]) -> str:
    shapes = _shapes(model)
    first = next(key for key in dict.fromkeys([*wanted, *shapes]) if wanted.get(key) != shapes.get(key))
    has = [str(list(by_name[first])) if first in by_name else "missing" for by_name in (wanted, shapes)]
    tried = f" with {_said(arguments)}" if arguments else ""
    return f"no argument of {name}'s constructor makes {first} {has[0]} (it is {has[1]}{tried})"


def _said(arguments: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items())

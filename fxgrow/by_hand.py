"""Parts that were put in by hand after growth, such as new heads, as a file keeps them: their class and their sizes."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from fxgrow.birth import Birth
from fxgrow.errors import FileError

_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "Conv2d": (
        nn.Conv2d,
        ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    ),
}
"""Classes with parameters of which a file can name one, and what they are made of. Of those without, it names torch's
own: a file never says what code to run."""


@dataclass(frozen=True)
class BarePart:
    """A part without tensors and without parts of its own: its class and its plain attributes."""

    home: str
    name: str
    attributes: tuple[tuple[str, Any], ...]

    @property
    def is_torchs(self) -> bool:
        return self.home.startswith("torch.nn.modules.")

    def is_another(self, before: BarePart | None) -> bool:
        """Whether it stands in place of another; those that draw may have another probability."""
        if before is None or (self.home, self.name) != (before.home, before.name):
            return True
        return self != before and self.is_torchs and self.home != nn.Dropout.__module__


def bare_parts(model: nn.Module) -> dict[str, BarePart]:
    """Every part without tensors and without parts of its own, by path."""
    parts = model.named_modules(remove_duplicate=False)
    return {path: _bare(part) for path, part in parts if path and not _holds(part)}


def _holds(part: nn.Module) -> bool:
    return any(
        value is not None for held in (part._modules, part._parameters, part._buffers) for value in held.values()
    )


def _bare(part: nn.Module) -> BarePart:
    kind = type(part)
    plain = ((name, value) for name, value in sorted(part.__dict__.items()) if _is_plain(value))
    kept = tuple((name, value) for name, value in plain if not name.startswith("_") and name != "training")
    return BarePart(kind.__module__, kind.__name__, kept)


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def put_in_by_hand(grown: nn.Module, births: Mapping[str, Birth], bare: Mapping[str, BarePart]) -> dict[str, Any]:
    """The parts that are not those that growth gave, by path, where they are of a class that files know.

    With each go the plain attributes of the modules around it, such as the number of classes.

    Raises
    ------
    FileError: a part without parameters is not what growth gave, and no file can say what it is.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in grown.named_parameters()}
    changed = {name for name in {*births, *shapes} if name not in births or births[name].shape != shapes.get(name)}
    found: dict[str, dict[str, Any]] = {}
    for path in sorted({name.rpartition(".")[0] for name in changed}):
        try:
            part: Any = grown.get_submodule(path)
        except AttributeError:
            continue
        if type(part) in {kind for kind, _ in _KINDS.values()}:
            _, names = _KINDS[type(part).__name__]
            arguments = {name: getattr(part, name) for name in names} | {"bias": part.bias is not None}
            found[path] = {"class": type(part).__name__, "arguments": arguments}
        elif not _holds(part) and (known := _arguments(part)) is not None:
            found[path] = {"class": type(part).__name__, "arguments": known}
    if bare:
        _add_bare(grown, bare, {*births, *bare}, found)
    for path, entry in found.items():
        steps = path.split(".")
        around = (".".join(steps[:count]) for count in range(len(steps)))
        entry["attributes"] = {place: _plain(grown.get_submodule(place)) for place in around}
        if "class" not in entry:
            entry["attributes"][path] = _plain(grown.get_submodule(path))
    return found


def _add_bare(grown: nn.Module, bare: Mapping[str, BarePart], known: set[str], found: dict[str, Any]) -> None:
    """Add the parts without parameters that are not what growth gave; known: paths of what it gave."""
    now = bare_parts(grown)
    for path, part in now.items():
        before = bare.get(path)
        if path in found or part == before:
            continue
        if before is not None and not part.is_another(before):
            found[path] = {}
            continue
        owner = path.rpartition(".")[0]
        there = not owner or any(name.startswith(f"{owner}.") for name in known)
        arguments = _arguments(grown.get_submodule(path)) if there else None
        if arguments is None:
            was = f"was {before.name}" if before is not None else "was not there"
            raise FileError(
                f"it is {part.name} now and {was} when the model grew, and a file of fxgrow names only layers of "
                "torch.nn that it can build again from their attributes",
                where=path,
                remedy="save before the part is replaced, or keep the state_dict with torch.save",
            )
        found[path] = {"class": part.name, "arguments": arguments}
    for path in bare.keys() - now.keys():
        steps = path.split(".")
        if not any(".".join(steps[:count]) in found for count in range(1, len(steps) + 1)):
            raise FileError(
                f"{bare[path].name} is gone, which was there when the model grew",
                where=path,
                remedy="put nn.Identity() in its place, or keep the state_dict with torch.save",
            )


def _arguments(part: nn.Module) -> dict[str, Any] | None:
    """With which arguments torch's class gives such a part; None where it is not torch's, or these do not tell."""
    name = type(part).__name__
    if getattr(nn, name, None) is not type(part):
        return None
    wanted = inspect.signature(type(part)).parameters
    given = {key: value for key, value in part.__dict__.items() if key in wanted and _is_plain(value)}
    try:
        same = _bare(_made(name, json.loads(json.dumps(given)))) == _bare(part)
    except (TypeError, ValueError):  # it needs what no attribute says
        return None
    return given if same else None


def _made(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """A layer of a class that a file may name, without data."""
    kind, _ = _KINDS.get(name, (getattr(nn, name), ()))
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise TypeError(f"{name} is no class of layers")
    device = {"device": "meta"} if name in _KINDS else {}
    made: nn.Module = kind(
        **{key: tuple(it) if isinstance(it, list) else it for key, it in arguments.items()}, **device
    )
    return made


def put_in_again(grown: nn.Module, parts: Mapping[str, Any]) -> None:
    """Put such parts into the structure of a grown model, without data."""
    for path, part in parts.items():
        if "class" in part:
            owner, _, name = path.rpartition(".")
            grown.get_submodule(owner).add_module(name, _made(part["class"], part["arguments"]))
        for place, attributes in part["attributes"].items():
            module = grown.get_submodule(place)
            for name, value in attributes.items():
                if type(module.__dict__.get(name)) is type(value):
                    setattr(module, name, value)


def _plain(module: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in module.__dict__.items()
        if type(value) in (bool, int, float, str) and not name.startswith("_") and name != "training"
    }

"""Parts that were put in by hand after growth, such as new heads, as a file keeps them: their class and their sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from fxgrow.birth import Birth

_KINDS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "Linear": (nn.Linear, ("in_features", "out_features")),
    "Conv2d": (
        nn.Conv2d,
        ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"),
    ),
    "Identity": (nn.Identity, ()),
}
"""Classes of which a file can name one, and what they are made of: a file never says what code to run."""


def put_in_by_hand(grown: nn.Module, births: Mapping[str, Birth]) -> dict[str, Any]:
    """The parts whose parameters are not those that growth gave, by path, where they are of a class that files know.

    With each go the plain attributes of the modules around it, such as the number of classes.
    """
    shapes = {name: tuple(parameter.shape) for name, parameter in grown.named_parameters()}
    changed = {name for name in {*births, *shapes} if name not in births or births[name].shape != shapes.get(name)}
    found = {}
    for path in sorted({name.rpartition(".")[0] for name in changed}):
        try:
            part: Any = grown.get_submodule(path)
        except AttributeError:
            continue
        if type(part) not in {kind for kind, _ in _KINDS.values()}:
            continue
        _, names = _KINDS[type(part).__name__]
        arguments = {name: getattr(part, name) for name in names}
        if names:
            arguments["bias"] = part.bias is not None
        steps = path.split(".")
        around = (".".join(steps[:count]) for count in range(len(steps)))
        attributes = {place: _plain(grown.get_submodule(place)) for place in around}
        found[path] = {"class": type(part).__name__, "arguments": arguments, "attributes": attributes}
    return found


def put_in_again(grown: nn.Module, parts: Mapping[str, Any]) -> None:
    """Put such parts into the structure of a grown model, without data."""
    for path, part in parts.items():
        kind, _ = _KINDS[part["class"]]
        device = {"device": "meta"} if part["arguments"] else {}
        arguments = {name: tuple(it) if isinstance(it, list) else it for name, it in part["arguments"].items()}
        owner, _, name = path.rpartition(".")
        grown.get_submodule(owner).add_module(name, kind(**arguments, **device))
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
